//! What the screen is told: events and owners, by the agent or by a watch in this process.

use std::collections::HashSet;
use std::future::poll_fn;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use tokio::time::timeout;
use tracing::{info, warn};

use super::super::args::{AgentChoice, TopArgs};
use super::super::ask::follows_all;
use super::super::context::Context;
use super::super::exit::CliError;
use super::super::history::MOST_ASKED;
use super::super::ports::{self, Asked};
use super::super::watch::{Meant, Source};
use crate::agent::client::{Client, ClientError};
use crate::history::LAST_HOUR;
use crate::model::{Backend, Port, Record, Span, Told, WatchEvent, WatchKind};
use crate::platform::contract::Platform;
use crate::steps::exclude::Exclusions;
use crate::steps::owner::{Owners, owners};

/// The screen does not wait longer for what happened before.
const LONGEST_READ: Duration = Duration::from_secs(3);

/// The ports that the screen shows.
pub(super) enum Shown {
    /// These, held or not.
    Asked(Vec<Asked>),
    /// Every port that is held.
    All(Vec<Asked>),
}

impl Shown {
    /// What the command line means. Without a port that is every port of the host, also where the agent knows no more than
    /// the ports of its configuration; those are meant where only the agent may be asked.
    pub(super) async fn of(context: &Context, args: &TopArgs) -> Result<Self, CliError> {
        let asked = args.ports.asked();
        if !asked.is_empty() {
            return Ok(Self::Asked(asked));
        }
        if args.observing.asking.agent == AgentChoice::Only
            && let Some(mut agent) = context.agent_within(None, &args.observing, None).await?
            && !follows_all(&mut agent).await
        {
            let ports = agent.ports().await?;
            return Ok(Self::Asked(ports.into_iter().map(Asked::from).collect()));
        }
        Ok(Self::All(Port::every().map(Asked::from).collect()))
    }

    pub(super) fn all(&self) -> &[Asked] {
        match self {
            Self::Asked(asked) | Self::All(asked) => asked,
        }
    }

    fn is_all(&self) -> bool {
        matches!(self, Self::All(_))
    }

    /// The ports that are shown also while nobody holds them.
    pub(super) fn asked(&self) -> Vec<Port> {
        match self {
            Self::Asked(asked) => asked.iter().map(|asked| asked.port).collect(),
            Self::All(_) => Vec::new(),
        }
    }

    /// A port as it was asked for.
    pub(super) fn port(&self, port: Port) -> Asked {
        self.all().iter().find(|asked| asked.port == port).cloned().unwrap_or_else(|| port.into())
    }
}

/// The source of all that the screen shows.
pub(super) struct Feed<'a> {
    context: &'a Context,
    args: &'a TopArgs,
    shown: &'a Shown,
    source: Source<'a>,
    exclusions: Exclusions,
    /// The agent, for questions about owners; `None` once it has broken off.
    agent: Option<Client>,
}

impl<'a> Feed<'a> {
    pub(super) async fn new(
        context: &'a Context,
        args: &'a TopArgs,
        shown: &'a Shown,
    ) -> Result<Self, CliError> {
        let all = shown.is_all();
        let own_rules = args.matching.is_given().then_some("its configuration decides what matches");
        let cannot = match ports::not_for_agent(shown.all()).or(own_rules) {
            None if all => context.not_of_all(&args.observing).await?,
            cannot => cannot,
        };
        let meant = Meant { asked: shown.all(), all };
        let source = Source::new(context, &args.observing, cannot, meant).await?;
        let protect = &args.sparing.protect;
        let exclusions =
            Exclusions::new(&context.host, std::process::id(), protect, args.sparing.include_init);
        Ok(Self { context, args, shown, source, exclusions, agent: None })
    }

    /// How ports are observed, in words.
    pub(super) fn describe(&mut self) -> String {
        match self.source.own() {
            None => "by the agent".to_owned(),
            Some(watch) => match watch.observer().backend() {
                Backend::Ebpf | Backend::Agent => "by kernel events".to_owned(),
                Backend::Poll => "by polling".to_owned(),
            },
        }
    }

    /// The next event.
    pub(super) async fn next(&mut self) -> Result<WatchEvent, CliError> {
        Ok(self.source.next().await?.0)
    }

    /// Who holds these ports, as far as events tell.
    pub(super) async fn owners(&mut self, ports: &[Port]) -> Result<Vec<Owners>, CliError> {
        let Some(watch) = self.source.own() else { return Ok(self.ask_agent(ports).await) };
        let (system, backend) = (&self.context.host, watch.observer().backend());
        let mut all = Vec::new();
        for &port in ports {
            let sockets: Vec<_> = watch.sockets(port).cloned().collect();
            let rules = self.context.rules(&self.args.matching, port)?;
            let owners = owners(&sockets, system, &rules, &self.exclusions);
            all.push(Owners { owners, ..Owners::nobody(port, backend) });
        }
        Ok(all)
    }

    /// Who holds any of the ports, by a new look: no event tells of a holder that inherits a socket. `None` where the agent
    /// could not be asked about all of them.
    pub(super) async fn look(&mut self) -> Result<Option<Vec<Owners>>, CliError> {
        let Some(watch) = self.source.own() else {
            if self.shown.is_all() {
                return Ok(self.ask_agent_for_all().await);
            }
            let ports = self.shown.asked();
            let all = self.ask_agent(&ports).await;
            return Ok((all.len() == ports.len()).then_some(all));
        };
        poll_fn(|cx| Poll::Ready(watch.refresh(cx))).await?;
        let ports = watch.held_ports();
        self.owners(&ports).await.map(Some)
    }

    /// What the agent answers. Where it breaks off, the source will say so, and whether anything goes on.
    async fn ask_agent(&mut self, ports: &[Port]) -> Vec<Owners> {
        let netns = self.context.host.netns();
        let mut all = Vec::new();
        for &port in ports {
            let Some(agent) = self.agent().await else { break };
            match agent.owners(port, netns).await {
                Ok(owners) => all.push(owners),
                Err(_) => {
                    self.agent = None;
                    break;
                }
            }
        }
        all
    }

    /// What the agent answers about all ports, if it does.
    async fn ask_agent_for_all(&mut self) -> Option<Vec<Owners>> {
        let netns = self.context.host.netns();
        let Ok(all) = self.agent().await?.sockets(netns).await else {
            self.agent = None;
            return None;
        };
        Some(all)
    }

    async fn agent(&mut self) -> Option<&mut Client> {
        if self.agent.is_none() {
            self.agent = self.context.agent_within(None, &self.args.observing, None).await.ok().flatten();
        }
        self.agent.as_mut()
    }

    /// What the agent's history tells of the last hour, if the agent tells what happens, and keeps a history.
    pub(super) async fn past(&mut self, now: SystemTime) -> Option<Vec<Record>> {
        if !self.source.is_agents() {
            return None;
        }
        let agent = self.context.agent_within(None, &self.args.observing, None).await.ok().flatten()?;
        let mut ports = self.shown.asked();
        if ports.len() > MOST_ASKED {
            ports.clear();
        }
        // The namespace is looked at here: an agent of an older kernel knows none.
        let span = Span { ports, netns: None, since: now.checked_sub(LAST_HOUR)?, until: now };
        let read = async {
            let mut records = agent.history(&span).await?;
            let mut all = Vec::new();
            while let Some(record) = records.next().await? {
                all.push(record);
            }
            Ok::<_, ClientError>(all)
        };
        match timeout(LONGEST_READ, read).await {
            Ok(Ok(mut all)) => {
                let asked: HashSet<Port> = self.shown.asked().into_iter().collect();
                all.retain(|record| self.is_shown(record, &asked));
                Some(all)
            }
            Ok(Err(error)) => {
                info!("the last hour is not known: {error}");
                None
            }
            Err(_) => {
                warn!("the agent's history took too long to read: what happened before is not shown");
                None
            }
        }
    }

    /// Whether the record concerns what the screen shows.
    fn is_shown(&self, record: &Record, asked: &HashSet<Port>) -> bool {
        let here = self.context.host.netns();
        match &record.told {
            Told::Event(event) => match event.kind {
                WatchKind::Lost { lost_in, .. } => lost_in.concerns(Some(here), here),
                _ => {
                    let is_asked = self.shown.is_all() || asked.contains(&event.port);
                    is_asked && event.netns.is_none_or(|netns| netns == here)
                }
            },
            Told::Clean(_) => false,
            Told::Gap(_) => true,
        }
    }
}
