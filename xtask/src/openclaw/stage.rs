//! Where real gateways are started, and gatewatch and other programs meet them.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;

use super::Task;
use super::examples::{self, Example};
use super::gateway::{self, Gateway};
use super::install::Installed;
use super::table::{Ending, Seen, argv, text};
use super::ways::{self, Expected, Line, Place, Way};
use crate::run::{output, root, target};

/// What a real gateway gets. One that has just begun to listen needs 1.8 to 5 s for a clean exit, and on a machine that is
/// busy with other things more than the default 400 ms to give back its 700 MB. These are limits, not sleeps.
const LIMITS: [&str; 4] = ["--term-timeout", "20s", "--kill-timeout", "5s"];
/// What a new one gets until it listens, and for how long it must listen then.
const START_LIMITS: [&str; 4] = ["--listen-timeout", "300s", "--settle", "1s"];

/// Where one task after the other is tried.
pub(super) struct Stage {
    gatewatch: PathBuf,
    installed: Installed,
    /// Copies of the package that a way changes or removes.
    scratch: PathBuf,
    next_port: u16,
}

impl Stage {
    pub(super) fn new(first_port: u16) -> Self {
        let gatewatch = target().join("debug/gatewatch");
        Self { gatewatch, installed: Installed::find(), scratch: PathBuf::new(), next_port: first_port }
    }

    pub(super) fn try_task(&mut self, release: &'static str, task: &Task) -> Result<Seen> {
        let seen = match task {
            Task::Way(way) => self.try_way(release, way),
            Task::Module(_, line) => self.own_module(release, *line),
            Task::Example(example) => self.example(release, example),
        }?;
        fs::remove_dir_all(&self.scratch)?;
        Ok(seen)
    }

    fn place(&mut self, release: &'static str) -> Result<Place> {
        self.next_port += 1;
        // Below the release, so that the packages it needs are found from there.
        self.scratch = self.installed.release(release).join(format!("copies/{}", self.next_port));
        let _ = fs::remove_dir_all(&self.scratch);
        fs::create_dir_all(&self.scratch)?;
        let place = Place::new(&self.installed, release, self.next_port, self.scratch.clone());
        gateway::configure(&place)?;
        Ok(place)
    }

    /// Asks for the owner, has it restarted in the way that it was started, and has the new one cleaned. One that is no match
    /// is left alone by both.
    fn try_way(&mut self, release: &'static str, way: &Way) -> Result<Seen> {
        let place = self.place(release)?;
        let line = (way.line)(&place)?;
        let _old = Gateway::start(&line, &place)?;
        self.idle_owner(place.port)?;
        line.remove()?;
        let old = self.owner(place.port)?;
        let (_new, restart, restart_took) = self.restart(&line.again(&place)?, &place)?;
        let about_restart = || format!("after the restart {restart}, {}", place.logged());
        let new = self.idle_owner(place.port).with_context(about_restart)?;
        let (clean, clean_took) = self.ask(&["clean"], place.port, &LIMITS)?;
        let seen = Seen {
            argv: argv(&old, &place),
            verdict: text(&old["identity"]),
            restart: Ending::of(&restart, restart_took),
            clean: Ending::of(&clean, clean_took),
            right: is_right(way.expected(&old), [&old, &restart, &new, &clean]),
        };
        if !seen.right {
            eprintln!("owners: {old}\nrestart: {restart}\nowners: {new}\nclean: {clean}");
        }
        Ok(seen)
    }

    /// Has the owner restarted by a command line, in the folder and the environment that this says.
    fn restart(&self, line: &Line, place: &Place) -> Result<(Gateway, Value, Duration)> {
        let mut command = self.command(&["restart"], place.port, &LIMITS);
        command.args(START_LIMITS);
        let begun = Instant::now();
        let (gateway, said) = Gateway::start_by(command, line, place)?;
        let answer = last_object(&said).with_context(|| format!("restart answers {said:?}"))?;
        Ok((gateway, answer, begun.elapsed()))
    }

    /// A Node program that calls gatewatch while a gateway runs.
    fn example(&mut self, release: &'static str, example: &Example) -> Result<Seen> {
        let place = self.place(release)?;
        let gateway = Gateway::start(&ways::service(&place)?, &place)?;
        let owner = self.idle_owner(place.port)?;
        let agent = examples::Agent::start(&self.gatewatch, &self.scratch, place.port)?;
        let mut command = Command::new(&place.node);
        command.arg(root().join("docs/examples").join(example.file)).arg(place.port.to_string());
        command.env("GATEWATCH", &self.gatewatch).env("GATEWATCH_SOCKET", agent.socket());
        let begun = Instant::now();
        let said = output(&mut command)?;
        let took = begun.elapsed();
        drop((gateway, agent));
        let answer: Value = serde_json::from_str(&said).context("the example prints JSON")?;
        Ok(Seen {
            argv: argv(&owner, &place),
            verdict: text(&owner["identity"]),
            restart: Ending::none(),
            clean: Ending::of(&answer, took),
            right: answer["outcome"] == "cleaned",
        })
    }

    /// The package's own cleaning module, for comparison: its verdict and its time.
    fn own_module(&mut self, release: &'static str, line: ways::Start) -> Result<Seen> {
        let place = self.place(release)?;
        let line = line(&place)?;
        let gateway = Gateway::start(&line, &place)?;
        let owner = self.idle_owner(place.port)?;
        let mut command = Command::new(&place.node);
        command.arg(root().join("xtask/src/openclaw/module.mjs")).arg(place.package.join("dist"));
        command.arg(place.port.to_string());
        gateway::environment(&mut command, &line, &place);
        // In the gateway's own state folder 2026.9.6 finds its record of a live owner, and does nothing.
        command.env("OPENCLAW_STATE_DIR", self.scratch.join("no-state"));
        let answer = json(&mut command)?;
        drop(gateway);
        let was_found = answer["killed"].as_array().is_some_and(|killed| !killed.is_empty());
        let outcome = if was_found { "killed" } else { "missed" }.to_owned();
        let took = answer["ms"].as_u64().map(Duration::from_millis);
        Ok(Seen {
            argv: argv(&owner, &place),
            verdict: text(&Value::Null),
            restart: Ending::none(),
            clean: Ending { outcome, took, ..Ending::none() },
            right: true,
        })
    }

    /// The owner, once it has done what it does after its start.
    fn idle_owner(&self, port: u16) -> Result<Value> {
        gateway::wait_until_idle(&self.owner(port)?)?;
        self.owner(port)
    }

    fn owner(&self, port: u16) -> Result<Value> {
        let (answer, _) = self.ask(&["owners"], port, &[])?;
        Ok(answer["owners"][0].clone())
    }

    fn ask(&self, words: &[&str], port: u16, more: &[&str]) -> Result<(Value, Duration)> {
        let mut command = self.command(words, port, more);
        let begun = Instant::now();
        let answer = json(&mut command)?;
        Ok((answer, begun.elapsed()))
    }

    fn command(&self, words: &[&str], port: u16, more: &[&str]) -> Command {
        let mut command = Command::new(&self.gatewatch);
        command
            .args(words)
            .args(["--port", &port.to_string(), "--format", "json", "--agent", "never"])
            .args(more);
        command
    }
}

/// Whether a way's old owner was judged, restarted or left alone, and its port cleaned as expected, and whether the new owner
/// is judged as the old one was.
fn is_right(expected: Expected, [old, restart, new, clean]: [&Value; 4]) -> bool {
    let is_dealt_with = match expected {
        Expected::Cleaned => is_replaced(old, restart, new),
        Expected::Other | Expected::Unclassified => is_left_alone(old, restart, new),
    };
    let words = [&old["identity"], &restart["outcome"], &clean["outcome"]];
    is_dealt_with && words == expected.words() && new["identity"] == old["identity"]
}

/// Whether a restart has ended the old owner, and names the one that there is now.
fn is_replaced(old: &Value, restart: &Value, new: &Value) -> bool {
    gateway::has_ended(&old["pid"])
        && restart["owners"][0]["pid"] == old["pid"]
        && restart["new_owner"]["pid"] == new["pid"]
        && new["pid"] != old["pid"]
}

/// Whether a restart has not run its command, and the old owner still has the port.
fn is_left_alone(old: &Value, restart: &Value, new: &Value) -> bool {
    restart["command"].is_null() && ["pid", "start_time"].iter().all(|key| old[key] == new[key])
}

/// The answer of a command, whose status says the same again.
fn json(command: &mut Command) -> Result<Value> {
    let said = command.output().with_context(|| format!("{command:?} can't be run"))?;
    let text = String::from_utf8_lossy(&said.stdout);
    last_object(&text)
        .with_context(|| format!("{command:?} answers {text:?}, {}", String::from_utf8_lossy(&said.stderr)))
}

/// The last line that is a JSON object: a module may write others before it.
fn last_object(text: &str) -> Option<Value> {
    text.lines().rev().filter_map(|line| serde_json::from_str(line).ok()).find(Value::is_object)
}
