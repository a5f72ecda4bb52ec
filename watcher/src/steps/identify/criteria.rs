//! Criteria that an owner must meet, from the flags or the configuration. Both use the same struct, so a new criterion is
//! a field here and a line in [`Criteria::judge`].

use std::path::{Path, PathBuf};

use clap::builder::NonEmptyStringValueParser;
use regex::Regex;
use serde::{Deserialize, Deserializer};

use super::{Judgement, proc_files};
use crate::model::Process;

// The criteria that an owner must meet, all of those that are given. The comments are the flags' help texts.
#[derive(Debug, Clone, Default, Deserialize, clap::Args)]
#[serde(deny_unknown_fields)]
#[expect(
    missing_docs,
    reason = "clap would take it for the description of each command that has these flags"
)]
pub struct Criteria {
    /// The process's name contains TEXT (case-insensitive)
    #[arg(id = "match-comm", long = "match-comm", value_name = "TEXT", allow_hyphen_values = true, value_parser = NonEmptyStringValueParser::new())]
    pub comm: Option<String>,
    /// The command line, joined by spaces, matches REGEX
    #[arg(id = "match-argv", long = "match-argv", value_name = "REGEX", allow_hyphen_values = true, value_parser = pattern)]
    #[serde(default, deserialize_with = "deserialize_pattern")]
    pub argv: Option<Regex>,
    /// The executable is PATH
    #[arg(id = "match-exe", long = "match-exe", value_name = "PATH", allow_hyphen_values = true)]
    pub exe: Option<PathBuf>,
    /// The working directory is DIR or below it
    #[arg(id = "match-cwd", long = "match-cwd", value_name = "DIR", allow_hyphen_values = true)]
    pub cwd: Option<PathBuf>,
    /// The systemd unit is NAME
    #[arg(id = "match-unit", long = "match-unit", value_name = "NAME", allow_hyphen_values = true, value_parser = NonEmptyStringValueParser::new())]
    pub unit: Option<String>,
}

impl Criteria {
    /// Whether no criterion is given, which would match everything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let Self { comm, argv, exe, cwd, unit } = self;
        comm.is_none() && argv.is_none() && exe.is_none() && cwd.is_none() && unit.is_none()
    }

    /// A judgement for each given criterion.
    pub(super) fn judge(&self, process: &Process) -> Vec<Judgement> {
        let Self { comm, argv, exe, cwd, unit } = self;
        let comm = comm.as_deref().map(|part| judge_comm(part, process));
        let argv = argv.as_ref().map(|pattern| judge_argv(pattern, process));
        let exe = exe.as_deref().map(|wanted| judge_exe(wanted, process));
        let cwd = cwd.as_deref().map(|folder| judge_cwd(folder, process));
        let unit = unit.as_deref().map(|name| judge_unit(name, process));
        [comm, argv, exe, cwd, unit].into_iter().flatten().collect()
    }
}

fn judge_comm(part: &str, process: &Process) -> Judgement {
    let part = part.to_lowercase();
    if process.comm.to_lowercase().contains(&part) {
        Judgement::matching(format!("its name contains {part:?}"))
    } else {
        Judgement::other(format!("its name does not contain {part:?}"))
    }
}

fn judge_argv(pattern: &Regex, process: &Process) -> Judgement {
    match &process.argv {
        None => Judgement::unreadable_argv(),
        Some(_) if process.argv_cut => Judgement::cut_argv(),
        Some(argv) if pattern.is_match(&argv.join(" ")) => {
            Judgement::matching(format!("its command line matches {:?}", pattern.as_str()))
        }
        Some(_) => Judgement::other(format!("its command line does not match {:?}", pattern.as_str())),
    }
}

fn judge_exe(wanted: &Path, process: &Process) -> Judgement {
    match &process.exe {
        None => Judgement::unclassified("its executable can't be read"),
        Some(exe) if is_executable(exe, wanted) && !proc_files::runs_file_at(process, wanted) => {
            Judgement::other(
                "its executable has the same path as the wanted one, in other mounts, and is another file",
            )
        }
        Some(exe) if is_executable(exe, wanted) => {
            Judgement::matching(format!("its executable is {}", exe.display()))
        }
        Some(exe) => Judgement::other(format!("its executable is {}", exe.display())),
    }
}

/// Whether the path, or what its symlinks lead to, is the executable: the system shows the resolved path.
fn is_executable(exe: &Path, wanted: &Path) -> bool {
    exe == wanted || wanted.canonicalize().is_ok_and(|wanted| exe == wanted)
}

/// A relative folder is meant from the caller's own. A folder that exists is resolved, because the system shows a process's
/// own without links.
fn judge_cwd(wanted: &Path, process: &Process) -> Judgement {
    let resolved = wanted.canonicalize().unwrap_or_else(|_| wanted.to_owned());
    match &process.cwd {
        None => Judgement::unclassified("its working directory can't be read"),
        // Windows resolves to a verbatim path, in which form no process's own is shown.
        Some(cwd) if cwd.starts_with(&resolved) || cwd.starts_with(wanted) => {
            Judgement::matching(format!("its working directory is {}", cwd.display()))
        }
        Some(cwd) => Judgement::other(format!("its working directory is {}", cwd.display())),
    }
}

fn judge_unit(wanted: &str, process: &Process) -> Judgement {
    // systemctl takes a service's name without its ending.
    let matches = |unit: &str| unit == wanted || unit.strip_suffix(".service") == Some(wanted);
    match process.unit.as_deref() {
        Some(unit) if matches(unit) => Judgement::matching(format!("its unit is {unit}")),
        Some(unit) => Judgement::other(format!("its unit is {unit}")),
        None => Judgement::other("it belongs to no systemd service"),
    }
}

fn pattern(text: &str) -> Result<Regex, String> {
    Regex::new(text).map_err(|error| {
        let message = error.to_string();
        format!("not a regular expression: {}", last_line(&message))
    })
}

fn deserialize_pattern<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Regex>, D::Error> {
    let text = String::deserialize(deserializer)?;
    pattern(&text).map(Some).map_err(|why| serde::de::Error::custom(format!("{text:?} is {why}")))
}

/// The last line of a parser's message, which says what is wrong; the lines before it show where.
fn last_line(message: &str) -> &str {
    let line = message.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or(message);
    line.trim().trim_start_matches("error: ")
}
