//! `gatewatch wait`.

use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::args::{Format, WaitArgs};
use super::ask::Again;
use super::context::Context;
use super::exit::{CliError, Exit};
use super::ports::{self, Asked};
use super::{next, text};
use crate::agent::client::Client;
use crate::model::{Outcome, Port, Protocol};
use crate::platform::contract::{Interest, Observer};
use crate::steps::prove::Plain;
use crate::steps::waiting::told;
use crate::wait::{self, Deadline, Until, Waited, Wanted};
use crate::wire::answers::WaitAnswer;

pub(super) async fn run(args: &WaitArgs) -> Result<Exit, CliError> {
    let begun = Instant::now();
    if let Some(why) = at_odds(args) {
        return Err(CliError::Usage(why.to_owned()));
    }
    let context = Context::new(&args.observing)?;
    let asked = context.asked_to_bind(&args.ports)?;
    let until = Until::from(args.state);
    let cannot = not_for_agent(args).or_else(|| ports::not_for_agent(&asked));
    let agent = context.agent_within(args.timeout, &args.observing, cannot).await?;
    let mut waiting = Waiting { context: &context, args, asked: &asked, agent, observer: None };
    let all = loop {
        let all = waiting.for_each(begun, args.timeout).await?;
        let is_over = all.iter().any(|waited| Exit::from(waited.outcome) != Exit::Done);
        // One that came first may have gone while another was waited for.
        if is_over || asked.len() == 1 || !args.settle.is_zero() {
            break all;
        }
        let now = waiting.for_each(Instant::now(), Some(Duration::ZERO)).await?;
        if now.iter().all(|waited| Exit::from(waited.outcome) == Exit::Done) {
            break all;
        }
    };
    let told = all.iter().zip(&asked);
    let exits = told
        .map(|(waited, asked)| print(&context, (until, args.plain), waited, asked))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(Exit::worst(exits))
}

/// Why the flags don't go with what is waited for, if so.
fn at_odds(args: &WaitArgs) -> Option<&'static str> {
    let of_listener = args.pid.is_some() || !args.settle.is_zero();
    match args.state.into() {
        Until::Free if of_listener => Some(
            "`wait free` waits for the port, whoever had it: --pid and --settle are for `wait listening`",
        ),
        Until::Listening if args.plain => {
            Some("`wait listening` waits for a process, and binds nothing: --plain is for `wait free`")
        }
        Until::Free | Until::Listening => None,
    }
}

/// The ports that are waited for, and by whom.
struct Waiting<'a> {
    context: &'a Context,
    args: &'a WaitArgs,
    asked: &'a [Asked],
    /// `None` once it has refused.
    agent: Option<Client>,
    observer: Option<Box<dyn Observer>>,
}

impl Waiting<'_> {
    /// Waits for one port after the other.
    async fn for_each(&mut self, begun: Instant, limit: Option<Duration>) -> Result<Vec<Waited>, CliError> {
        let mut all = Vec::new();
        for asked in self.asked {
            let awaited = awaited(self.args.state.into(), asked.port.protocol);
            let what = || format!("waiting until port {} is {awaited}", asked.port);
            let waited = told(what, limit, self.for_one(asked, begun, limit)).await?;
            all.push(Waited { elapsed: begun.elapsed(), ..waited });
        }
        Ok(all)
    }

    async fn for_one(
        &mut self,
        asked: &Asked,
        begun: Instant,
        limit: Option<Duration>,
    ) -> Result<Waited, CliError> {
        let Self { context, args, .. } = *self;
        if let Some(agent) = &mut self.agent {
            if let Some(waited) = request(context, agent, args, asked.port, begun, limit).await? {
                return Ok(waited);
            }
            self.agent = None;
        }
        let observer = match &mut self.observer {
            Some(observer) => observer,
            None => self.observer.insert(context.observer(self.asked, interest(args.state.into()))?),
        };
        wait_for(context, observer.as_mut(), args, asked, begun, limit).await
    }
}

fn awaited(until: Until, protocol: Protocol) -> &'static str {
    match (until, protocol) {
        (Until::Free, _) => "free",
        (Until::Listening, Protocol::Tcp) => "listened on",
        (Until::Listening, Protocol::Udp) => "bound",
    }
}

fn interest(until: Until) -> Interest {
    match until {
        Until::Free => Interest::ReleasesLater,
        Until::Listening => Interest::Listening,
    }
}

/// Waits in this process.
async fn wait_for(
    context: &Context,
    observer: &mut dyn Observer,
    args: &WaitArgs,
    asked: &Asked,
    begun: Instant,
    limit: Option<Duration>,
) -> Result<Waited, CliError> {
    let timeout = limit.map(|timeout| timeout.saturating_sub(begun.elapsed()));
    let deadline = Deadline { timeout, longest_pause: context.poll_interval };
    let port = asked.port;
    Ok(match Until::from(args.state) {
        Until::Free => {
            let plain = if args.plain { Plain::Try } else { Plain::Leave };
            let rules = context.rules(&args.matching, port)?;
            wait::free(&context.host, observer, port, &asked.at, plain, deadline, &rules).await?
        }
        Until::Listening => {
            let wanted = wanted(context, args, port)?;
            wait::listening(&context.host, observer, port, &wanted, deadline).await?
        }
    })
}

/// Which listener is waited for: any, where nothing is said.
fn wanted(context: &Context, args: &WaitArgs, port: Port) -> Result<Wanted, CliError> {
    let rules = context.rules(&args.matching, port)?;
    Ok(Wanted { rules, must_match: args.matching.is_given(), pid: args.pid, settle: args.settle })
}

/// Why the agent can't wait for this, if so.
fn not_for_agent(args: &WaitArgs) -> Option<&'static str> {
    let WaitArgs { plain, matching, pid, settle, .. } = args;
    (*plain || matching.is_given() || pid.is_some() || !settle.is_zero())
        .then_some("it waits for any listener, or for a bind with SO_REUSEADDR")
}

/// Asks the agent to wait; `None` if it does not, and the command can continue without it. The agent waits for some minutes
/// at a time. An agent that ends says so, and the next one in its place is asked.
async fn request(
    context: &Context,
    agent: &mut Client,
    args: &WaitArgs,
    port: Port,
    begun: Instant,
    limit: Option<Duration>,
) -> Result<Option<Waited>, CliError> {
    const AT_A_TIME: Duration = Duration::from_secs(300);
    /// How much later than asked an answer may come.
    const LATE: Duration = Duration::from_millis(250);
    let mut again = Again::default();
    loop {
        let left = limit.map(|limit| limit.saturating_sub(begun.elapsed()));
        let time = left.unwrap_or(AT_A_TIME).min(AT_A_TIME);
        let answer = timeout(time + LATE, agent.wait(port, args.state.into(), time)).await;
        let waited = match answer.unwrap_or_else(|_| Err(agent.silent())) {
            Ok(waited) => waited,
            Err(error) => match context.next_agent(left, &args.observing, error, &mut again).await? {
                Some(next) => {
                    *agent = next;
                    continue;
                }
                None => return Ok(None),
            },
        };
        if waited.outcome != Outcome::TimedOut || left.is_some_and(|left| left <= AT_A_TIME) {
            return Ok(Some(Waited { elapsed: begun.elapsed(), ..waited }));
        }
        again = Again::default();
    }
}

fn print(
    context: &Context,
    (until, plain): (Until, bool),
    waited: &Waited,
    asked: &Asked,
) -> Result<Exit, CliError> {
    match context.format {
        Format::Json => super::print_json(&WaitAnswer::from(waited))?,
        Format::Text => {
            let next = next::after_wait(until, plain, waited, asked);
            super::print(&text::wait::answer(until, waited, next))?;
        }
    }
    Ok(waited.outcome.into())
}
