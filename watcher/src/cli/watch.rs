//! `gatewatch watch`.

use std::future::{pending, poll_fn, ready};
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::task::consume_budget;
use tokio::time::sleep;

use super::args::{AgentChoice, Format, Observing, WatchArgs};
use super::ask::{Again, follows_all};
use super::context::Context;
use super::exit::{CliError, Exit};
use super::ports::{Asked, not_for_agent};
use super::text;
use crate::agent::client::{ClientError, Events};
use crate::model::{Backend, Port, WatchEvent, WatchKind};
use crate::platform::Host;
use crate::platform::contract::{Interest, Platform, Signals as _};
use crate::watch::Watch;
use crate::wire;
use crate::wire::event::WatchLine;

/// What has happened by the end of `--for` is still told. Where events come faster than they are written, that has no end.
const LATE: Duration = Duration::from_secs(1);
/// The same for a signal, whose sender wants an end now.
const SOON: Duration = Duration::from_millis(100);

pub(super) async fn run(args: &WatchArgs) -> Result<Exit, CliError> {
    let context = Context::new(&args.observing)?;
    let asked: Vec<Asked> =
        if args.all { Port::every().map(Asked::from).collect() } else { context.asked(&args.ports) };
    let cannot = match not_for_agent(&asked) {
        None if args.all => context.not_of_all(&args.observing).await?,
        cannot => cannot,
    };
    let meant = Meant { asked: &asked, all: args.all };
    let mut is_ready = false;
    let failed = |error| CliError::Io { what: "signals can't be received", error };
    let mut signals = <Host as Platform>::Signals::new().map_err(failed)?;
    let mut source = Source::new(&context, &args.observing, cannot, meant).await?;
    let over = async {
        let lasting = async {
            match args.lasting {
                Some(time) => sleep(time).await,
                None => pending().await,
            }
        };
        tokio::select! {
            () = lasting => LATE,
            _ = signals.next() => SOON,
        }
    };
    tokio::pin!(over);
    let reader_gone = Host::reader_gone();
    tokio::pin!(reader_gone);
    let mut lines = text::watch::Lines::new(args.utc);
    let mut left = args.count;
    // Once it is over: when also what has happened before is told no more.
    let mut end: Option<Instant> = None;
    while left != Some(0) && end.is_none_or(|end| Instant::now() < end) {
        leave_a_turn().await;
        let (mut event, cursor) = tokio::select! {
            biased;
            // The ends are first, because the source may never be without an event.
            time = &mut over, if end.is_none() => {
                end = Some(Instant::now() + time);
                continue;
            }
            () = &mut reader_gone => break,
            told = source.next() => told?,
            () = ready(()), if end.is_some() => break,
        };
        // Nobody has asked for one port after the other there.
        let is_told =
            args.all && matches!(event.kind, WatchKind::Ready { .. }) && mem::replace(&mut is_ready, true);
        if is_told {
            continue;
        }
        if args.all && matches!(event.kind, WatchKind::Ready { .. } | WatchKind::Lost { .. }) {
            event.port = Port::EVERY;
        }
        let text = match context.format {
            Format::Json => {
                let line = WatchLine::new(&event, cursor);
                wire::line(&line).map_err(|error| CliError::Output(error.into()))?
            }
            Format::Text => lines.next(&event),
        };
        let is_read = match context.format {
            Format::Json => super::is_read_raw(&text)?,
            Format::Text => super::is_read(&text)?,
        };
        if !is_read {
            return Ok(Exit::Done);
        }
        if !matches!(event.kind, WatchKind::Held | WatchKind::Ready { .. }) {
            left = left.map(|left| left - 1);
        }
    }
    super::print(&lines.end())?;
    Ok(Exit::Done)
}

/// Lets the runtime have its turn now and then: signals and timers come by it, also where there is always an event.
pub(super) async fn leave_a_turn() {
    consume_budget().await;
}

/// The ports whose events are meant.
#[derive(Clone, Copy)]
pub(super) struct Meant<'a> {
    pub(super) asked: &'a [Asked],
    /// Whether they are all that there are: then no agent that follows fewer will do.
    pub(super) all: bool,
}

impl Meant<'_> {
    /// What an agent is asked for: all, where none is named.
    fn named(self) -> Vec<Port> {
        if self.all { Vec::new() } else { ports(self.asked) }
    }
}

/// What happens to the ports: told by the agent, or by a watch in this process.
pub(super) struct Source<'a> {
    context: &'a Context,
    observing: &'a Observing,
    meant: Meant<'a>,
    feed: Feed<'a>,
    /// After the last event, if the agent told it.
    cursor: Option<String>,
    again: Again,
}

enum Feed<'a> {
    Own(Box<Watch>),
    Agent(Box<Events>),
    /// On the way from one to the next. It is kept, so that it goes on where a caller has dropped [`Source::next`].
    Changing(Pin<Box<dyn Future<Output = Changed<'a>> + 'a>>),
}

type Changed<'a> = Result<(Feed<'a>, Again), CliError>;

impl<'a> Source<'a> {
    /// What happens to the ports; `cannot` is the reason why the agent can't tell it, if any.
    pub(super) async fn new(
        context: &'a Context,
        observing: &'a Observing,
        cannot: Option<&'static str>,
        meant: Meant<'a>,
    ) -> Result<Self, CliError> {
        let mut agent = context.agent_within(None, observing, cannot).await?;
        let mut again = Again::default();
        let feed = loop {
            let Some(asking) = agent else { break Feed::Own(Box::new(own(context, meant.asked)?)) };
            match asking.events(&meant.named(), context.host.netns(), None).await {
                Ok(events) => break Feed::Agent(Box::new(events)),
                Err(error) => agent = context.next_agent(None, observing, error, &mut again).await?,
            }
        };
        Ok(Self { context, observing, meant, feed, cursor: None, again: Again::default() })
    }

    /// Whether the agent tells it.
    pub(super) fn is_agents(&self) -> bool {
        !matches!(self.feed, Feed::Own(_))
    }

    /// Has what has happened be there to be read, without a wait. That can't be had of an agent.
    pub(super) fn look_at_once(&mut self) -> bool {
        self.own().map(|watch| watch.observer().look_at_once()).is_some()
    }

    /// Whether nothing tells of binds that fail.
    pub(super) fn sees_no_conflicts(&mut self) -> bool {
        self.own().is_some_and(|watch| watch.observer().backend() == Backend::Poll)
    }

    /// The watch in this process; `None` where the agent tells what happens.
    pub(super) fn own(&mut self) -> Option<&mut Watch> {
        match &mut self.feed {
            Feed::Own(watch) => Some(watch),
            Feed::Agent(_) | Feed::Changing(_) => None,
        }
    }

    /// Who holds the port now, as `Held` events; empty where that is the agent's to know.
    pub(super) async fn holders(&mut self, port: Port) -> Result<Vec<WatchEvent>, CliError> {
        match &mut self.feed {
            Feed::Own(watch) => {
                poll_fn(|cx| Poll::Ready(watch.refresh(cx))).await?;
                Ok(watch.current(&[port]))
            }
            Feed::Agent(_) | Feed::Changing(_) => Ok(Vec::new()),
        }
    }

    /// The next event, and the cursor after it if it comes from the agent. Dropped before it is ready, it has lost nothing.
    pub(super) async fn next(&mut self) -> Result<(WatchEvent, Option<String>), CliError> {
        loop {
            let error = match &mut self.feed {
                Feed::Own(watch) => return Ok((watch.next().await?, None)),
                Feed::Agent(events) => match events.next().await {
                    Ok((event, cursor)) => {
                        self.cursor.clone_from(&cursor);
                        self.again = Again::default();
                        return Ok((event, cursor));
                    }
                    Err(error) => error,
                },
                Feed::Changing(next) => {
                    (self.feed, self.again) = next.await?;
                    continue;
                }
            };
            let (cursor, again) = (self.cursor.take(), mem::take(&mut self.again));
            let next = feed_after(error, self.context, self.observing, self.meant, cursor, again);
            self.feed = Feed::Changing(Box::pin(next));
        }
    }
}

/// Goes on after an agent that ended or broke off: with the next one, which says what is lost, or with a watch in this
/// process. For that, all in between is lost, and the current holders stand in for it.
async fn feed_after<'a>(
    mut error: ClientError,
    context: &'a Context,
    observing: &'a Observing,
    meant: Meant<'a>,
    cursor: Option<String>,
    mut again: Again,
) -> Changed<'a> {
    while let Some(mut agent) = context.next_agent(None, observing, error, &mut again).await? {
        if meant.all && !follows_all(&mut agent).await {
            // It was configured anew.
            if observing.asking.agent == AgentChoice::Only {
                return Err(CliError::Usage("the agent does not follow every port any more".to_owned()));
            }
            break;
        }
        match agent.events(&meant.named(), context.host.netns(), cursor.as_deref()).await {
            Ok(events) => return Ok((Feed::Agent(Box::new(events)), again)),
            Err(another) => error = another,
        }
    }
    Ok((Feed::Own(Box::new(own(context, meant.asked)?.after_a_loss())), again))
}

fn ports(asked: &[Asked]) -> Vec<Port> {
    asked.iter().map(|asked| asked.port).collect()
}

fn own(context: &Context, asked: &[Asked]) -> Result<Watch, CliError> {
    let observer = context.observer(asked, Interest::Everything)?;
    Ok(Watch::begin(Arc::new(context.host.clone()), observer, &ports(asked))?)
}
