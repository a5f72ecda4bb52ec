//! `gatewatch doctor`.

use std::path::Path;

use super::args::{BackendChoice, DoctorArgs, Format};
use super::exit::{CliError, Exit};
use super::text;
use crate::agent::client::{Client, ClientError};
use crate::agent::{self, socket_path};
use crate::config::{Config, ConfigError};
use crate::doctor::{BackendState, Health, State, examine};
use crate::model::Backend;
use crate::platform::Host;
use crate::platform::contract::Platform;
use crate::wire::agent::StatusAnswer;
use crate::wire::doctor::DoctorAnswer;

pub(super) async fn run(args: &DoctorArgs) -> Result<Exit, CliError> {
    let diagnosis = examine(&Host::new(None)?);
    let loaded = Config::load(args.config.as_deref());
    let socket = socket_path(args.socket.as_deref(), loaded.as_ref().unwrap_or(&Config::default()));
    let (health, status) = agent_at(&socket).await;
    let configuration = configuration(args.config.as_deref(), loaded);
    match args.format {
        Format::Json => {
            super::print_json(&DoctorAnswer::new(&diagnosis, &health, status.as_ref(), &configuration))?;
        }
        Format::Text => {
            super::print(&text::doctor::answer(&diagnosis))?;
            super::print(&text::doctor::agent(&health, status.as_ref()))?;
            super::print(&text::doctor::configuration(&configuration))?;
        }
    }
    let wanted = match args.backend {
        BackendChoice::Auto => return Ok(Exit::Done),
        BackendChoice::Ebpf => Backend::Ebpf,
        BackendChoice::Poll => Backend::Poll,
    };
    let mut health = diagnosis.backends.iter().filter(|health| health.backend == wanted);
    let whole = health.any(|health| health.state == BackendState::Ok);
    Ok(if whole { Exit::Done } else { Exit::NotPermitted })
}

/// Whether an agent answers there, and what it says of itself.
async fn agent_at(socket: &Path) -> (Health, Option<StatusAnswer>) {
    let path = socket.to_owned();
    let asked = async { Client::connect(socket).await?.status().await };
    let error = match asked.await {
        Ok(status) => return (Health { path, state: State::Ok, why: None, mend: None }, Some(status)),
        Err(error) => error,
    };
    const START: &str = "`systemctl enable --now gatewatch.socket gatewatch.service` starts the packaged one";
    let (state, mend) = match &error {
        ClientError::Absent { .. } => (State::Absent, START.to_owned()),
        ClientError::Refused(problem) | ClientError::Untold(problem) => {
            (State::Refuses, problem.mend.clone())
        }
        ClientError::Silent { .. } | ClientError::Late { .. } | ClientError::Broke { .. } => {
            (State::Broken, "`journalctl -u gatewatch` has its log".to_owned())
        }
    };
    let why = match error {
        ClientError::Absent { error, .. } => error.to_string(),
        ClientError::Refused(problem) | ClientError::Untold(problem) => problem.detail,
        other => other.to_string(),
    };
    (Health { path, state, why: Some(why), mend: Some(mend) }, None)
}

/// Whether the configuration can be used: by commands, and by an agent, which looks up its users and groups.
fn configuration(named: Option<&Path>, loaded: Result<Config, ConfigError>) -> Health {
    let path = named.unwrap_or(Path::new(Host::CONFIG)).to_owned();
    let checked = loaded.and_then(|config| {
        let warnings = config.warnings();
        agent::check(config).map(|()| warnings)
    });
    let (state, why, mend) = match checked {
        Ok(_) if !path.exists() => {
            (State::Absent, Some("there is none, so the defaults are in force".to_owned()), None)
        }
        Ok(warnings) => (State::Ok, warnings.into_iter().next(), None),
        Err(error) => {
            let mend =
                "`gatewatch agent --check-config` checks it again; a running agent keeps the one it has";
            (State::Broken, Some(error.to_string()), Some(mend.to_owned()))
        }
    };
    Health { path, state, why, mend }
}
