//! From the kernel's event to the line of `watch`.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::{Programs, Samples, monotonic};

const PORT: u16 = 18_791;
const ROUNDS: usize = 500;

pub(super) fn run(programs: &Programs) -> Result<()> {
    println!("watch: from the kernel's timestamp to the line in the reader's hands");
    let mut watch = programs
        .gatewatch(&["watch", "-p", &PORT.to_string(), "--format", "json", "--backend", "ebpf"])
        .stdout(Stdio::piped())
        .spawn()?;
    let mut lines = BufReader::new(watch.stdout.take().context("piped")?).lines();
    let (mut had, mut read) = (Samples::default(), Samples::default());
    let mut next = move || -> Result<(Duration, Value)> {
        let line = lines.next().context("the watch ended")??;
        Ok((monotonic(), serde_json::from_str(&line)?))
    };
    while next()?.1["event"] != "ready" {}
    for _ in 0..ROUNDS {
        let listener = TcpListener::bind(("127.0.0.1", PORT))?;
        // The bind and the listen come as one burst; the release comes alone, as events mostly do.
        while next()?.1["event"] != "listen" {}
        drop(listener);
        let (at, line) = next()?;
        let stamped = Duration::from_nanos(line["monotonic_ns"].as_u64().context("a timestamp")?);
        read.push(at.saturating_sub(stamped));
        had.push(Duration::from_micros(line["delay_us"].as_u64().context("a delay")?));
        next()?;
    }
    had.print("until gatewatch has the event (delay_us)", None);
    read.print("until the reader has the line", None);
    watch.kill()?;
    watch.wait()?;
    Ok(())
}
