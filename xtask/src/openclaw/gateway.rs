//! A real gateway, started and waited for.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::Value;

use super::ways::{Line, Place};

/// A start takes 8 to 15 s on two cores.
const LONGEST_START: Duration = Duration::from_secs(120);

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
        let log = place.scratch.join("log");
        let mut command = Command::new(&line.program);
        command.args(&line.arguments).current_dir(&line.folder).process_group(0);
        command
            .stdin(Stdio::null())
            .stdout(File::create(&log)?)
            .stderr(File::options().append(true).open(&log)?);
        Self::environment(&mut command, place, line)?;
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
                bail!("it does not listen: {}", fs::read_to_string(&log).unwrap_or_default());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(gateway)
    }

    /// The environment in which a gateway starts without an account, a network or this user's own state.
    ///
    /// # Errors
    /// When its configuration can't be written.
    pub(super) fn environment(command: &mut Command, place: &Place, line: &Line) -> Result<()> {
        let state = place.scratch.join("state");
        fs::create_dir_all(&state)?;
        let config = serde_json::json!({
            "gateway": { "mode": "local", "bind": "loopback", "port": place.port, "auth": { "mode": "none" } },
            "discovery": { "mdns": { "mode": "off" } },
            "update": { "checkOnStart": false },
        });
        fs::write(state.join("openclaw.json"), config.to_string())?;
        command.env_clear().env("PATH", place.path()).env("HOME", &place.scratch);
        command.env("OPENCLAW_STATE_DIR", &state).env("OPENCLAW_DISABLE_BONJOUR", "1");
        // 2026.4.22 has npm install a plugin when it starts, and waits for that before it listens.
        command.env("npm_config_offline", "true");
        command.envs(line.environment.iter().cloned());
        Ok(())
    }
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

/// Whether a socket of this namespace listens on the port: state 0A in `/proc/net/tcp`.
fn is_listened_on(port: u16) -> Result<bool> {
    let table =
        fs::read_to_string("/proc/net/tcp")? + &fs::read_to_string("/proc/net/tcp6").unwrap_or_default();
    let ending = format!(":{port:04X}");
    Ok(table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).any(|fields| {
        fields.get(1).is_some_and(|address| address.ends_with(&ending)) && fields.get(3) == Some(&"0A")
    }))
}
