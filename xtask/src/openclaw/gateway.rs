//! A real gateway, started and waited for.

use std::fs::{self, File};
use std::io::read_to_string;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::Value;

use super::ways::{Line, Place};

/// A start takes 8 to 15 s on two cores, and much longer beside other work.
const LONGEST_START: Duration = Duration::from_secs(300);

/// A gateway that listens. It ends when this is dropped, with all that it started.
pub(super) struct Gateway {
    child: Child,
    after: Option<Command>,
}

impl Gateway {
    /// Starts it by a command line, and waits until the port is listened on.
    ///
    /// # Errors
    /// When it ends or takes too long; its log is told.
    pub(super) fn start(line: &Line, place: &Place) -> Result<Self> {
        let log = log(place)?;
        let mut command = Command::new(&line.program);
        command.args(&line.arguments);
        prepare(&mut command, line, place);
        command.stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().with_context(|| format!("{command:?} can't be started"))?;
        let after = line.ended_by.as_ref().map(|arguments| {
            let mut command = Command::new(&line.program);
            command.args(arguments).current_dir(&line.folder).envs(line.environment.iter().cloned());
            command.env("PATH", place.path());
            command
        });
        let mut gateway = Self { child, after };
        let begun = Instant::now();
        while !is_listened_on(place.port)? {
            let has_ended = gateway.child.try_wait()?.is_some() && gateway.after.is_none();
            if has_ended || begun.elapsed() > LONGEST_START {
                bail!("it does not listen: {}", place.logged());
            }
            std::thread::sleep(Duration::from_millis(250));
        }
        Ok(gateway)
    }

    /// Has a starter run the command line, and gives what the starter prints.
    ///
    /// # Errors
    /// When the starter can't be run.
    pub(super) fn start_by(mut starter: Command, line: &Line, place: &Place) -> Result<(Self, String)> {
        starter.arg("--").arg(&line.program).args(&line.arguments);
        prepare(&mut starter, line, place);
        // The gateway goes on with the starter's standard error, so that is a file: a pipe would not end before it does.
        starter.stdout(Stdio::piped()).stderr(log(place)?);
        let child = starter.spawn().with_context(|| format!("{starter:?} can't be started"))?;
        let mut gateway = Self { child, after: None };
        let said = gateway.child.stdout.take().map(read_to_string).transpose()?.unwrap_or_default();
        Ok((gateway, said))
    }
}

/// The log, to be written on: an old gateway and its successor share it.
fn log(place: &Place) -> Result<File> {
    Ok(File::options().create(true).append(true).open(place.log())?)
}

/// Prepares a command to be run as a gateway is: in its folder and its environment, and the first of a process group.
fn prepare(command: &mut Command, line: &Line, place: &Place) {
    command.current_dir(&line.folder).process_group(0).stdin(Stdio::null());
    environment(command, line, place);
}

/// The environment in which a gateway starts without an account, a network or this user's own state.
pub(super) fn environment(command: &mut Command, line: &Line, place: &Place) {
    command.env_clear().env("PATH", place.path()).env("HOME", &place.scratch);
    command.env("OPENCLAW_STATE_DIR", place.state()).env("OPENCLAW_DISABLE_BONJOUR", "1");
    // 2026.4.22 has npm install a plugin when it starts, and waits for that before it listens.
    command.env("npm_config_offline", "true");
    command.envs(line.environment.iter().cloned());
}

/// Writes the configuration that goes with that environment.
///
/// # Errors
/// When it can't be written.
pub(super) fn configure(place: &Place) -> Result<()> {
    fs::create_dir_all(place.state())?;
    let config = serde_json::json!({
        "gateway": { "mode": "local", "bind": "loopback", "port": place.port, "auth": { "mode": "none" } },
        "discovery": { "mdns": { "mode": "off" } },
        "update": { "checkOnStart": false },
    });
    Ok(fs::write(place.state().join("openclaw.json"), config.to_string())?)
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if let Some(mut after) = self.after.take() {
            let _ = after.stdout(Stdio::null()).stderr(Stdio::null()).status();
        }
        let _ = killpg(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

/// Waits until the owner of the port has done what it does after its start: until its main thread wants a processor for
/// less than a tenth of half a second. A gateway that is asked to end before that takes its time.
pub(super) fn wait_until_idle(owner: &Value) -> Result<()> {
    let pid = owner["pid"].as_u64().context("the port has no owner")?;
    let begun = Instant::now();
    let mut before = wanted(pid)?;
    while begun.elapsed() < LONGEST_START {
        std::thread::sleep(Duration::from_millis(500));
        let now = wanted(pid)?;
        if now.saturating_sub(before) < Duration::from_millis(50) {
            return Ok(());
        }
        before = now;
    }
    bail!("it does not come to rest")
}

/// How long the main thread has run or waited for a processor: on a busy machine it may run little though it wants to.
fn wanted(pid: u64) -> Result<Duration> {
    let schedstat = fs::read_to_string(format!("/proc/{pid}/schedstat")).context("it has ended")?;
    let numbers = schedstat.split_whitespace().take(2).filter_map(|number| number.parse::<u64>().ok());
    Ok(Duration::from_nanos(numbers.sum()))
}

/// Whether a process has ended: what is left of it until it is waited for has no command line.
pub(super) fn has_ended(pid: &Value) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default().is_empty()
}

/// Whether a socket of this namespace listens on the port: state 0A in `/proc/net/tcp`.
fn is_listened_on(port: u16) -> Result<bool> {
    let table =
        fs::read_to_string("/proc/net/tcp")? + &fs::read_to_string("/proc/net/tcp6").unwrap_or_default();
    let ending = format!(":{port:04X}");
    Ok(table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).any(|fields| {
        fields.get(1).is_some_and(|address| address.ends_with(&ending)) && fields.get(3) == Some(&"0A")
    }))
}
