//! The JavaScript runtimes: by which name they go, and where among their arguments the script stands.

use std::path::Path;

use super::argument::{self, Argument};
use super::node_options::{Takes, takes};
use crate::model::Process;

/// A program that runs a script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Runtime {
    Node,
    Bun,
    Tsx,
}

/// More readings of one command line than this aren't followed: each may take a look at files.
const MOST_READINGS: usize = 4;

impl Runtime {
    /// The runtime of a process: by argument 0, by its executable, whatever name it was started by, or by the name that
    /// Node 24 and later give to their main thread.
    pub(super) fn of(process: &Process, program: &str) -> Option<Self> {
        let executable = || {
            let name = process.exe.as_deref().and_then(Path::file_name)?.to_string_lossy();
            Self::named(argument::program(&argument::normal(&name)))
        };
        let main_thread = || (process.comm == "MainThread").then_some(Self::Node);
        Self::named(program).or_else(executable).or_else(main_thread)
    }

    /// The runtime that goes by this name, with or without a version after it: `node`, `nodejs`, `node-22`, `bun1.3`.
    pub(super) fn named(program: &str) -> Option<Self> {
        let is = |name: &str| {
            program
                .strip_prefix(name)
                .is_some_and(|rest| !rest.starts_with(|next: char| next.is_alphabetic()))
        };
        if is("node") || is("nodejs") {
            Some(Self::Node)
        } else if is("bun") {
            Some(Self::Bun)
        } else {
            is("tsx").then_some(Self::Tsx)
        }
    }

    /// Where the script may stand among the arguments after the runtime's name, once for each way of reading them:
    /// an option that is not known may take the next word as its value, or not. `None` as a place is a reading without
    /// a script file; `None` as a whole, too many readings.
    pub(super) fn script_places(self, arguments: &[Argument<'_>]) -> Option<Vec<Option<usize>>> {
        let mut places = Vec::new();
        let mut reached = vec![false; arguments.len() + 3];
        reached[0] = true;
        for at in 0..=arguments.len() + 1 {
            if !reached[at] {
                continue;
            }
            let Some(argument) = arguments.get(at) else {
                places.push(None);
                continue;
            };
            match self.read(argument) {
                Step::Script => places.push(Some(at)),
                Step::NoScript => places.push(None),
                Step::ScriptNext => places.push((at + 1 < arguments.len()).then_some(at + 1)),
                Step::On(Takes::Value) => reached[at + 2] = true,
                Step::On(Takes::Unknown) => (reached[at + 1], reached[at + 2]) = (true, true),
                Step::On(Takes::Nothing | Takes::Code) => reached[at + 1] = true,
            }
        }
        places.dedup();
        (places.len() <= MOST_READINGS).then_some(places)
    }

    fn read(self, argument: &Argument<'_>) -> Step {
        match argument.raw {
            "--" => Step::ScriptNext,
            // The script comes by standard input.
            "-" => Step::NoScript,
            "run" if self == Self::Bun => Step::On(Takes::Nothing),
            "watch" if self == Self::Tsx => Step::On(Takes::Nothing),
            _ if !argument.is_option() => Step::Script,
            option => match takes(self, option) {
                Takes::Code => Step::NoScript,
                takes => Step::On(takes),
            },
        }
    }
}

/// What one argument of a runtime says about where the script is.
enum Step {
    Script,
    ScriptNext,
    NoScript,
    On(Takes),
}
