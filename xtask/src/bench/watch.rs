//! From the kernel's event to the line of `watch`.

use std::io::{ErrorKind, Read};
use std::net::TcpListener;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use serde_json::Value;

use super::{Samples, gatewatch, monotonic};

const PORT: u16 = 18_791;
const ROUNDS: usize = 500;

pub(super) fn run() -> Result<()> {
    println!("watch: from the kernel's timestamp to the line in its pipe");
    let mut watch = gatewatch(&["watch", "-p", &PORT.to_string(), "--format", "json", "--backend", "ebpf"])
        .stdout(Stdio::piped())
        .spawn()?;
    let mut out = watch.stdout.take().context("piped")?;
    // A sleeping reader would also measure its own wake-up.
    let flags = OFlag::from_bits_retain(fcntl(&out, FcntlArg::F_GETFL)?);
    fcntl(&out, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    let mut pending = Vec::new();
    let (mut had, mut read) = (Samples::default(), Samples::default());
    let mut next = move || -> Result<(Duration, Value)> {
        loop {
            if let Some(end) = pending.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = pending.drain(..=end).collect();
                return Ok((monotonic(), serde_json::from_slice(&line)?));
            }
            let mut chunk = [0; 4096];
            match out.read(&mut chunk) {
                Ok(0) => bail!("the watch ended"),
                Ok(length) => pending.extend_from_slice(&chunk[..length]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => std::hint::spin_loop(),
                Err(error) => return Err(error.into()),
            }
        }
    };
    while next()?.1["event"] != "ready" {}
    for _ in 0..ROUNDS {
        let listener = TcpListener::bind(("127.0.0.1", PORT))?;
        // The bind and the listen come as one burst; the release comes alone, as events mostly do.
        while next()?.1["event"] != "listen" {}
        std::thread::sleep(Duration::from_millis(1));
        drop(listener);
        let (at, line) = next()?;
        let stamped = Duration::from_nanos(line["monotonic_ns"].as_u64().context("a timestamp")?);
        read.push(at.saturating_sub(stamped));
        had.push(Duration::from_micros(line["delay_us"].as_u64().context("a delay")?));
        next()?;
    }
    had.print("until gatewatch has the event (delay_us)", None);
    read.print("until the line can be read", None);
    watch.kill()?;
    watch.wait()?;
    Ok(())
}
