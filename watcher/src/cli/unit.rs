//! systemd units, through `systemctl show`.

use std::process::Stdio;

use tokio::process::Command;

use super::exit::CliError;

/// The unit's main process; `None` while it has none.
///
/// # Errors
/// When the unit does not exist, or systemd can't be asked.
pub(super) async fn main_pid(unit: &str) -> Result<Option<u32>, CliError> {
    let mut command = Command::new("systemctl");
    command.args(["show", "--property=LoadState", "--property=MainPID", "--", unit]).stdin(Stdio::null());
    let failed = |error| CliError::Command { program: "systemctl".to_owned(), error };
    let output = command.output().await.map_err(failed)?;
    let text = String::from_utf8_lossy(&output.stdout);
    let property = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(CliError::Usage(format!("--unit {unit}: {}", said.trim().replace('\n', "; "))));
    }
    if property("LoadState") != Some("loaded") {
        return Err(CliError::Usage(format!(
            "--unit {unit}: there is no such unit; `systemctl list-units` lists them"
        )));
    }
    Ok(property("MainPID").and_then(|pid| pid.parse().ok()).filter(|&pid| pid != 0))
}
