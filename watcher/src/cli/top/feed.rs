//! What the screen is told: events and owners, by the agent or by a watch in this process.

use std::future::poll_fn;
use std::task::Poll;

use super::super::args::{AgentChoice, TopArgs};
use super::super::context::Context;
use super::super::exit::CliError;
use super::super::ports::{self, Asked};
use super::super::watch::Source;
use crate::agent::client::Client;
use crate::model::{Backend, Port, Protocol, WatchEvent};
use crate::platform::contract::Platform;
use crate::steps::exclude::Exclusions;
use crate::steps::owner::{Owners, owners};

/// The ports that the screen shows.
pub(super) enum Shown {
    /// These, held or not.
    Asked(Vec<Asked>),
    /// Every port that is held.
    All(Vec<Asked>),
}

impl Shown {
    /// What the command line means. Without a port that is every port of the host, because an agent knows no more than the
    /// ports of its configuration; those are meant where only the agent may be asked.
    pub(super) async fn of(context: &Context, args: &TopArgs) -> Result<Self, CliError> {
        let asked = args.ports.asked();
        if !asked.is_empty() {
            return Ok(Self::Asked(asked));
        }
        if args.observing.asking.agent == AgentChoice::Only
            && let Some(mut agent) = context.agent_within(None, &args.observing, None).await?
        {
            let ports = agent.ports().await?;
            return Ok(Self::Asked(ports.into_iter().map(Asked::from).collect()));
        }
        Ok(Self::All(Port::all(Protocol::Tcp).map(Asked::from).collect()))
    }

    pub(super) fn all(&self) -> &[Asked] {
        match self {
            Self::Asked(asked) | Self::All(asked) => asked,
        }
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
        let all = matches!(shown, Shown::All(_));
        let cannot = ports::not_for_agent(shown.all())
            .or_else(|| all.then_some("it watches the ports of its configuration"))
            .or_else(|| args.matching.is_given().then_some("its configuration decides what matches"));
        let source = Source::new(context, &args.observing, cannot, shown.all()).await?;
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
        let mut all = Vec::new();
        for &port in ports {
            if self.agent.is_none() {
                self.agent = self.context.agent_within(None, &self.args.observing, None).await.ok().flatten();
            }
            let Some(agent) = &mut self.agent else { break };
            match agent.owners(port, self.context.host.netns()).await {
                Ok(owners) => all.push(owners),
                Err(_) => {
                    self.agent = None;
                    break;
                }
            }
        }
        all
    }
}
