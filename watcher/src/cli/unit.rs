//! systemd units, through `systemctl show`.

use std::process::Stdio;

use tokio::process::Command;

use super::exit::CliError;
use super::started::add_descendants;
use crate::model::{Port, Process};
use crate::platform::Host;
use crate::platform::contract::System;

/// So many processes of a unit are looked at.
const MOST: usize = 4096;

/// What systemd says of a unit.
#[derive(Debug)]
pub(super) struct Unit {
    /// As it was asked for, with its kind.
    name: String,
    /// Lines of a name, `=` and a value.
    text: String,
}

impl Unit {
    /// Asks systemd.
    ///
    /// # Errors
    /// When the unit does not exist, or systemd can't be asked.
    pub(super) async fn ask(unit: &str) -> Result<Self, CliError> {
        const PROPERTIES: &str = "Id,LoadState,MainPID,ControlGroup,TriggeredBy,NotifyAccess,FileDescriptorStoreMax,\
                                  NFileDescriptorStore,Listen";
        if unit.contains(['*', '?', '[']) {
            return Err(CliError::Usage(format!("--unit {unit}: that is a pattern; name one unit")));
        }
        let mut command = Command::new("systemctl");
        command.args(["show", "--property", PROPERTIES, "--", unit]).stdin(Stdio::null());
        let failed = |error| CliError::Command { program: "systemctl".to_owned(), error };
        let output = command.output().await.map_err(failed)?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(CliError::Usage(format!("--unit {unit}: {}", said.trim().replace('\n', "; "))));
        }
        let name = if unit.contains('.') { unit.to_owned() } else { format!("{unit}.service") };
        let asked = Self { name, text: String::from_utf8_lossy(&output.stdout).into_owned() };
        if asked.property("LoadState") != "loaded" {
            return Err(CliError::Usage(format!(
                "--unit {unit}: there is no such unit; `systemctl list-units` lists them"
            )));
        }
        Ok(asked)
    }

    /// Empty where systemd does not know it.
    fn property(&self, name: &str) -> &str {
        let value = |line| str::strip_prefix(line, name)?.strip_prefix('=');
        self.text.lines().find_map(value).unwrap_or_default()
    }

    fn number(&self, name: &str) -> u32 {
        self.property(name).parse().unwrap_or_default()
    }

    /// Its own name, where it was asked for by another one.
    pub(super) fn id(&self) -> &str {
        Some(self.property("Id")).filter(|id| !id.is_empty()).unwrap_or(&self.name)
    }

    /// Whether a socket unit listens on the port: `127.0.0.1:80 (Stream)`.
    pub(super) fn listens_on(&self, port: Port) -> bool {
        let end = format!(":{} ", port.number);
        self.text.lines().any(|line| line.starts_with("Listen=") && line.contains(&end))
    }

    /// The main process; `None` while it has none.
    pub(super) fn main_pid(&self) -> Option<u32> {
        Some(self.number("MainPID")).filter(|&pid| pid != 0)
    }

    /// Its control group, as a path from the root of all; empty while it has none.
    pub(super) fn control_group(&self) -> &str {
        self.property("ControlGroup")
    }

    /// The socket unit that starts it, if there is one.
    pub(super) fn socket_unit(&self) -> Option<&str> {
        self.property("TriggeredBy").split_whitespace().find(|unit| unit.ends_with(".socket"))
    }

    /// Whether systemd takes what the main process says.
    pub(super) fn is_listened_to(&self) -> bool {
        !matches!(self.property("NotifyAccess"), "" | "none")
    }

    /// How many descriptors systemd keeps for it at most, and how many it keeps now.
    pub(super) fn store(&self) -> (u32, u32) {
        (self.number("FileDescriptorStoreMax"), self.number("NFileDescriptorStore"))
    }
}

/// The unit's main process; `None` while it has none.
///
/// # Errors
/// When the unit does not exist, or systemd can't be asked.
pub(super) async fn main_pid(unit: &str) -> Result<Option<u32>, CliError> {
    Ok(Unit::ask(unit).await?.main_pid())
}

/// The processes that systemd ends when it restarts the unit: its main process, and the descendants of that one in the unit. What
/// an earlier main process has left behind is not among them.
///
/// # Errors
/// When the unit does not exist, or systemd can't be asked.
pub(super) async fn family(host: &Host, unit: &str) -> Result<Vec<u32>, CliError> {
    let unit = Unit::ask(unit).await?;
    let Some(main) = unit.main_pid() else { return Ok(Vec::new()) };
    let mut pids = vec![main];
    add_descendants(host, &mut pids, MOST);
    pids.retain(|&pid| pid == main || host.process(pid).is_ok_and(|process| has(unit.id(), &process)));
    Ok(pids)
}

/// Whether the process belongs to the unit of this own name.
pub(super) fn has(id: &str, process: &Process) -> bool {
    process.unit.as_deref() == Some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_systemd_does_not_know_is_none() {
        let unit = |text: &str| Unit { name: "a.service".to_owned(), text: text.to_owned() };
        // 252, of a service that runs
        let runs = unit(
            "MainPID=71\nNotifyAccess=main\nFileDescriptorStoreMax=4\nNFileDescriptorStore=1\nTriggeredBy=a.timer a.socket\n",
        );
        assert_eq!((runs.main_pid(), runs.store(), runs.is_listened_to()), (Some(71), (4, 1), true));
        assert_eq!(runs.socket_unit(), Some("a.socket"));
        assert_eq!((runs.id(), unit("Id=b.service\n").id()), ("a.service", "b.service"));
        let stopped = unit("MainPID=0\nNotifyAccess=none\nTriggeredBy=\n");
        assert_eq!((stopped.main_pid(), stopped.store(), stopped.is_listened_to()), (None, (0, 0), false));
        assert_eq!((stopped.socket_unit(), stopped.control_group()), (None, ""));
        let socket = unit("Listen=/run/a.sock (Stream)\nListen=[::]:80 (Stream)\n");
        assert_eq!([80, 8, 180].map(|port| socket.listens_on(Port::tcp(port))), [true, false, false]);
    }
}
