//! `gatewatch agent`, and asking one.

use tracing::{debug, warn};

use super::CliError;
use super::args::{AgentArgs, AgentChoice, Observing};
use super::setup::Setup;
use crate::agent::client::{Client, ClientError};
use crate::agent::{self, socket_path};
use crate::config::{Config, DEFAULT_PATH};

pub(super) async fn run(args: &AgentArgs) -> Result<u8, CliError> {
    let config = args.config.as_deref();
    if args.check_config {
        let loaded = Config::load(config)?;
        let ports = loaded.watch.len();
        agent::check(loaded)?;
        let path = config.map_or(DEFAULT_PATH.into(), |path| path.display().to_string());
        super::print(&format!(
            "{path} is right: {ports} watched {}\n",
            if ports == 1 { "port" } else { "ports" }
        ))?;
        return Ok(0);
    }
    agent::run(config, args.socket.as_deref(), args.poll_interval).await?;
    Ok(0)
}

impl Setup {
    /// The agent, where it is to be asked and answers. `cannot` says why this command can't be asked of it.
    ///
    /// # Errors
    /// When the agent has to be asked and can't be.
    pub(super) async fn agent(
        &self,
        observing: &Observing,
        cannot: Option<&'static str>,
    ) -> Result<Option<Client>, CliError> {
        let only = observing.asking.agent == AgentChoice::Only;
        let cannot = cannot
            .or_else(|| observing.netns.is_some().then_some("--netns names another network namespace"))
            .or_else(|| self.names_backend().then_some("--backend says how to observe without it"));
        match (observing.asking.agent, cannot) {
            (AgentChoice::Never, _) | (AgentChoice::Auto, Some(_)) => return Ok(None),
            (AgentChoice::Only, Some(why)) => {
                return Err(CliError::Usage(format!(
                    "the agent can't be asked: {why}; leave that or --agent out"
                )));
            }
            (AgentChoice::Auto | AgentChoice::Only, None) => {}
        }
        match Client::connect(&socket_path(observing.asking.socket.as_deref(), &self.config)).await {
            Ok(client) => Ok(Some(client)),
            Err(error) if only => Err(CliError::Agent(error)),
            Err(error) => {
                debug!(%error, "going on without an agent");
                Ok(None)
            }
        }
    }

    /// An answer of the agent's; `None` where it refuses and the command can go on without it.
    ///
    /// # Errors
    /// When it went away in the middle, or has to answer and refuses.
    pub(super) fn answered<T>(
        observing: &Observing,
        answer: Result<T, ClientError>,
    ) -> Result<Option<T>, CliError> {
        match answer {
            Ok(answer) => Ok(Some(answer)),
            Err(error @ ClientError::Refused(_)) if observing.asking.agent == AgentChoice::Auto => {
                warn!("{error}; going on without it");
                Ok(None)
            }
            Err(error) => Err(CliError::Agent(error)),
        }
    }
}
