//! A loaded machine: thousands of sleeping processes and of open sockets.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};

/// The load to measure under.
const PROCESSES: usize = 2_000;
const SOCKETS: usize = 20_000;
/// Sockets of one process: below the usual limit of 1024 descriptors.
const SOCKETS_EACH: usize = 1_000;

/// Processes that load the machine; they end when this is dropped.
pub(super) struct Load(Vec<Child>);

impl Load {
    pub(super) fn start() -> Result<Self> {
        let mut load = Self(Vec::new());
        let own = std::env::current_exe()?;
        for _ in 0..SOCKETS / SOCKETS_EACH {
            let mut holder = Command::new(&own);
            holder.args(["hold-sockets", &SOCKETS_EACH.to_string()]);
            let mut child = holder.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
            let mut line = String::new();
            BufReader::new(child.stdout.take().context("piped")?).read_line(&mut line)?;
            load.0.push(child);
            ensure!(line == "ready\n", "the sockets of the load could not be opened");
        }
        while load.0.len() < PROCESSES {
            load.0.push(Command::new("sleep").arg("infinity").stdin(Stdio::null()).spawn()?);
        }
        Ok(load)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
        }
        for child in &mut self.0 {
            let _ = child.wait();
        }
    }
}

/// Holds this many connected sockets until standard input ends.
///
/// # Errors
/// When they can't be opened.
pub(crate) fn hold_sockets(count: usize) -> Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let address = listener.local_addr()?;
    let mut sockets = Vec::with_capacity(count);
    while sockets.len() < count {
        sockets.push(TcpStream::connect(address)?);
        sockets.push(listener.accept()?.0);
    }
    println!("ready");
    std::io::stdout().flush()?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
