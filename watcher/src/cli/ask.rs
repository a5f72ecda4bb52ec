//! How a command asks the host agent, and when it continues without one.

use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};
use tracing::{debug, info};

use super::args::{AgentChoice, Observing};
use super::context::Context;
use super::exit::CliError;
use crate::agent::client::{Client, ClientError, SILENCE};
use crate::agent::socket_path;

/// How soon the agent that comes next is looked for, and how often a command that can go on by itself asks again.
const AGAIN: Duration = Duration::from_millis(50);
const AGAINS: u32 = 3;
/// For how long a command that can't go on by itself looks for the next agent: on a busy host it may take seconds to start.
const NEXT: Duration = Duration::from_secs(4);

/// How often, and until when, another agent is asked in the place of one that ended.
#[derive(Debug, Default)]
pub(super) struct Again {
    count: u32,
    until: Option<Instant>,
}

impl Context {
    /// The agent's answer to a request; `None` if there is no agent, or it refuses, and the command can continue without
    /// it. `cannot` is the reason why the agent can't run this command, if any.
    ///
    /// # Errors
    /// When the agent must answer, but can't be asked, refuses, says nothing, or went away before it had answered.
    pub(super) async fn ask_agent<T>(
        &self,
        observing: &Observing,
        cannot: Option<&'static str>,
        mut request: impl AsyncFnMut(&mut Client) -> Result<T, ClientError>,
    ) -> Result<Option<T>, CliError> {
        let mut agent = self.agent_within(None, observing, cannot).await?;
        let mut again = Again::default();
        while let Some(asked) = &mut agent {
            match request(asked).await {
                Ok(answer) => return Ok(Some(answer)),
                Err(error) => agent = self.next_agent(None, observing, error, &mut again).await?,
            }
        }
        Ok(None)
    }

    /// The agent that takes the place of one that has ended, or can't answer at this moment, as an upgrade of it makes it do.
    /// It is waited for where only an agent may answer; else it has to be there. `None` if the command continues without.
    ///
    /// # Errors
    /// With what the last one said, if the agent must answer.
    pub(super) async fn next_agent(
        &self,
        left: Option<Duration>,
        observing: &Observing,
        error: ClientError,
        again: &mut Again,
    ) -> Result<Option<Client>, CliError> {
        let only = observing.asking.agent == AgentChoice::Only;
        let longest = if only { NEXT } else { SILENCE };
        let until = *again.until.get_or_insert_with(|| Instant::now() + left.unwrap_or(longest).min(longest));
        // Where one has just ended, one that says nothing may be about to start: its socket is the service manager's. An agent
        // that says nothing from the beginning is done without.
        let is_next = only && again.count > 0;
        let may_pass = error.is_passing() || (is_next && matches!(error, ClientError::Silent { .. }));
        while may_pass && Instant::now() < until && (only || again.count < AGAINS) {
            again.count += 1;
            // The one that ends may still be there.
            sleep(AGAIN).await;
            match self.agent_within(left, observing, None).await {
                Ok(Some(agent)) => return Ok(Some(agent)),
                Ok(None) => break,
                Err(_) => {}
            }
        }
        if let ClientError::Untold(_) = &error
            && !only
        {
            // What this command can't see by itself, its own fallback says.
            info!("{error}; going on without it");
            return Ok(None);
        }
        self.answered(observing, Err(error))
    }

    /// The agent, if it should be asked and answers. An agent that takes no connection counts as silent once the command's
    /// own time is over, where that is limited.
    ///
    /// # Errors
    /// When the agent must be asked but can't be.
    pub(super) async fn agent_within(
        &self,
        limit: Option<Duration>,
        observing: &Observing,
        cannot: Option<&'static str>,
    ) -> Result<Option<Client>, CliError> {
        let only = observing.asking.agent == AgentChoice::Only;
        let cannot = cannot
            .or_else(|| observing.netns.is_some().then_some("--netns names another network namespace"))
            .or_else(|| self.names_backend().then_some("--backend chooses how to observe without the agent"));
        match (observing.asking.agent, cannot) {
            (AgentChoice::Never, _) | (AgentChoice::Auto, Some(_)) => return Ok(None),
            (AgentChoice::Only, Some(why)) => {
                return Err(CliError::Usage(format!(
                    "the agent can't be asked: {why}; leave out that flag or --agent"
                )));
            }
            (AgentChoice::Auto | AgentChoice::Only, None) => {}
        }
        let path = socket_path(observing.asking.socket.as_deref(), &self.config);
        let connected = timeout(limit.unwrap_or(SILENCE), Client::connect(&path)).await;
        match connected.unwrap_or_else(|_| Err(ClientError::Silent { path: path.clone() })) {
            Ok(client) => Ok(Some(client)),
            Err(error) if only => Err(CliError::Agent(error)),
            Err(error) => {
                debug!(%error, "continuing without an agent");
                Ok(None)
            }
        }
    }

    /// Why the agent can't tell what happens to all ports, if it can't.
    ///
    /// # Errors
    /// When the agent must be asked but can't be.
    pub(super) async fn not_of_all(&self, observing: &Observing) -> Result<Option<&'static str>, CliError> {
        let agent = self.agent_within(None, observing, None).await?;
        let follows_all = match agent {
            Some(mut agent) => follows_all(&mut agent).await,
            None => false,
        };
        Ok((!follows_all).then_some("it watches the ports of its configuration"))
    }

    /// The agent's answer; `None` if there is none, or it refuses, and the command can continue without it.
    ///
    /// # Errors
    /// When the agent must answer, and refuses, says nothing, or went away before it had answered.
    pub(super) fn answered<T>(
        &self,
        observing: &Observing,
        answer: Result<T, ClientError>,
    ) -> Result<Option<T>, CliError> {
        match answer {
            Ok(answer) => Ok(Some(answer)),
            Err(error) if observing.asking.agent == AgentChoice::Auto => {
                self.tell(&format!("{error}; going on without it"));
                Ok(None)
            }
            Err(error) => Err(CliError::Agent(error)),
        }
    }
}

/// Whether the agent tells what happens to every port.
pub(super) async fn follows_all(agent: &mut Client) -> bool {
    agent.status().await.is_ok_and(|status| status.follows_all)
}
