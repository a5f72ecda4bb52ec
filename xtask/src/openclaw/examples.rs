//! The examples for Node programs, each run against a real gateway.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

/// A program in `docs/examples`.
pub(super) struct Example {
    pub(super) name: &'static str,
    pub(super) file: &'static str,
    pub(super) in_short: bool,
}

/// All of them.
pub(super) const ALL: &[Example] = &[
    Example { name: "example: the command by spawnSync", file: "command.mjs", in_short: false },
    Example { name: "example: the agent's socket", file: "socket.mjs", in_short: false },
    Example {
        name: "example: the socket from a worker, the caller waits",
        file: "worker.mjs",
        in_short: true,
    },
];

/// An agent for the examples; it ends when this is dropped.
pub(super) struct Agent {
    child: Child,
    socket: PathBuf,
}

impl Agent {
    pub(super) fn start(gatewatch: &Path, folder: &Path, port: u16) -> Result<Self> {
        let (config, socket) = (folder.join("config.toml"), folder.join("agent.sock"));
        fs::write(&config, format!("[[watch]]\nport = {port}\n"))?;
        let mut command = Command::new(gatewatch);
        command.arg("agent").arg("--config").arg(config).arg("--socket").arg(&socket);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let agent = Self { child, socket };
        let begun = Instant::now();
        while UnixStream::connect(&agent.socket).is_err() {
            ensure!(begun.elapsed() < Duration::from_secs(20), "the agent does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(agent)
    }

    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
