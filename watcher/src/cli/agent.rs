//! `gatewatch agent`.

use super::args::AgentArgs;
use super::exit::{CliError, Exit};
use crate::agent;
use crate::config::Config;
use crate::platform::Host;
use crate::platform::contract::Platform;

pub(super) async fn run(args: &AgentArgs) -> Result<Exit, CliError> {
    let config = args.config.as_deref();
    if args.check_config {
        let loaded = Config::load(config)?;
        let ports = loaded.watch.len();
        for warning in loaded.warnings() {
            eprintln!("gatewatch: warning: {warning}");
        }
        agent::check(loaded)?;
        let path = config.map_or(Host::CONFIG.into(), |path| path.display().to_string());
        let noun = if ports == 1 { "port" } else { "ports" };
        super::print(&format!("{path} is valid: {ports} watched {noun}\n"))?;
    } else {
        agent::run(config, args.socket.as_deref(), args.poll_interval).await?;
    }
    Ok(Exit::Done)
}
