//! Identify: is an owner one of those that may be ended?
//!
//! Three verdicts. Where what would tell can't be read, or can be read in two ways, it is *unclassified*, and such an
//! owner is never ended.

mod gateway;
mod package;

use std::path::{Path, PathBuf};

use regex::Regex;

use crate::process::{Identity, Process};

/// The name of the built-in rule set, which is the default.
pub const OPENCLAW_GATEWAY: &str = "openclaw-gateway";
/// The name of the rule set that everything matches.
pub const ANY: &str = "any";

/// A verdict and its reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// The verdict.
    pub identity: Identity,
    /// A short clause for people.
    pub why: String,
}

impl Judgement {
    fn new(identity: Identity, why: impl Into<String>) -> Self {
        Self { identity, why: why.into() }
    }

    fn matching(why: impl Into<String>) -> Self {
        Self::new(Identity::Match, why)
    }

    fn other(why: impl Into<String>) -> Self {
        Self::new(Identity::Other, why)
    }

    fn unclassified(why: impl Into<String>) -> Self {
        Self::new(Identity::Unclassified, why)
    }
}

/// Which owners may be ended: all rules in a set must agree.
#[derive(Debug, Clone)]
pub struct Rules(Vec<Rule>);

#[derive(Debug, Clone)]
enum Rule {
    /// The command line is a gateway's.
    Gateway,
    /// Everything that can be identified.
    Any,
    /// The name contains this, in lower case.
    Comm(String),
    /// The arguments, joined by spaces, match.
    Argv(Regex),
    /// The executable.
    Exe(PathBuf),
}

impl Rules {
    /// OpenClaw's gateways.
    #[must_use]
    pub fn openclaw_gateway() -> Self {
        Self(vec![Rule::Gateway])
    }

    /// Every owner whose command line can be read.
    #[must_use]
    pub fn any() -> Self {
        Self(vec![Rule::Any])
    }

    /// What is given must match: `comm` as a part of the process's name, whatever its case; `argv` anywhere in the
    /// arguments joined by spaces; `exe` as the executable's path. `None` when nothing is given, which would match all.
    #[must_use]
    pub fn custom(comm: Option<&str>, argv: Option<Regex>, exe: Option<PathBuf>) -> Option<Self> {
        let rules: Vec<Rule> =
            [comm.map(|comm| Rule::Comm(comm.to_lowercase())), argv.map(Rule::Argv), exe.map(Rule::Exe)]
                .into_iter()
                .flatten()
                .collect();
        (!rules.is_empty()).then_some(Self(rules))
    }

    /// Both sets must match.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    /// Judges a process: other if one rule says so, else unclassified if one rule says so, else a match. A forwarder
    /// or a service manager is always another: it holds the port for somebody else.
    #[must_use]
    pub fn judge(&self, process: &Process) -> Judgement {
        if let Some(what) = stands_in_for_others(process) {
            return Judgement::other(what);
        }
        let judgements: Vec<Judgement> = self.0.iter().map(|rule| rule.judge(process)).collect();
        for identity in [Identity::Other, Identity::Unclassified] {
            if let Some(deciding) = judgements.iter().find(|judgement| judgement.identity == identity) {
                return deciding.clone();
            }
        }
        let reasons: Vec<&str> = judgements.iter().map(|judgement| judgement.why.as_str()).collect();
        Judgement::matching(reasons.join(", "))
    }
}

impl Rule {
    fn judge(&self, process: &Process) -> Judgement {
        match self {
            Self::Gateway => gateway::judge(process),
            Self::Any => match &process.argv {
                Some(_) => Judgement::matching("any owner may be ended"),
                None => unreadable_argv(),
            },
            Self::Comm(part) if process.comm.to_lowercase().contains(part) => {
                Judgement::matching(format!("its name contains {part:?}"))
            }
            Self::Comm(part) => Judgement::other(format!("its name does not contain {part:?}")),
            Self::Argv(pattern) => match &process.argv {
                None => unreadable_argv(),
                Some(argv) if pattern.is_match(&argv.join(" ")) => {
                    Judgement::matching(format!("its command line matches {:?}", pattern.as_str()))
                }
                Some(_) => {
                    Judgement::other(format!("its command line does not match {:?}", pattern.as_str()))
                }
            },
            Self::Exe(wanted) => match &process.exe {
                None => Judgement::unclassified("its executable can't be read"),
                Some(exe) if is_executable(exe, wanted) => {
                    Judgement::matching(format!("its executable is {}", exe.display()))
                }
                Some(exe) => Judgement::other(format!("its executable is {}", exe.display())),
            },
        }
    }
}

fn unreadable_argv() -> Judgement {
    Judgement::unclassified("its command line can't be read")
}

/// The path as given, or what its symlinks lead to: the system shows the latter.
fn is_executable(exe: &Path, wanted: &Path) -> bool {
    exe == wanted || wanted.canonicalize().is_ok_and(|wanted| exe == wanted)
}

/// Whether a process holds ports for others, so that to end it would end them all.
fn stands_in_for_others(process: &Process) -> Option<String> {
    let program = process.exe.as_deref().and_then(Path::file_name).and_then(|name| name.to_str());
    let name = program.unwrap_or(&process.comm);
    let what = match name {
        "docker-proxy" | "rootlesskit" | "rootlessport" | "slirp4netns" | "pasta" | "conmon" => {
            "forwards the port of a container: stop the container"
        }
        "systemd" => "holds the port for a socket unit: stop the unit",
        "wslrelay.exe" | "wslhost.exe" => "forwards the port of a Linux system: stop the service there",
        _ => return None,
    };
    Some(format!("{name} {what}"))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::process::StartTime;

    pub(crate) fn process(argv: &[&str]) -> Process {
        Process {
            pid: 100,
            start_time: StartTime { raw: 1, wall: SystemTime::UNIX_EPOCH },
            parent: Some(1),
            uid: Some(0),
            comm: argv.first().copied().unwrap_or_default().chars().take(15).collect(),
            argv: Some(argv.iter().map(ToString::to_string).collect()),
            exe: Some("/usr/bin/thing".into()),
            cwd: None,
            root: None,
            unit: None,
            container: None,
        }
    }

    #[test]
    fn one_rule_that_says_other_decides() {
        let rules = Rules::any().and(Rules::custom(Some("SERV"), None, Some("/bin/false".into())).unwrap());
        assert_eq!(rules.judge(&process(&["my-server"])).identity, Identity::Other);
        let rules =
            Rules::any().and(Rules::custom(Some("SERV"), None, Some("/usr/bin/thing".into())).unwrap());
        assert_eq!(rules.judge(&process(&["my-server"])).identity, Identity::Match);
    }

    #[test]
    fn what_can_not_be_read_is_unclassified_even_for_any() {
        let mut hidden = process(&["x"]);
        hidden.argv = None;
        hidden.exe = None;
        assert_eq!(Rules::any().judge(&hidden).identity, Identity::Unclassified);
        let argv = Rules::custom(None, Regex::new("x").ok(), None).unwrap();
        assert_eq!(argv.judge(&hidden).identity, Identity::Unclassified);
        let exe = Rules::custom(None, None, Some("/usr/bin/thing".into())).unwrap();
        assert_eq!(exe.judge(&hidden).identity, Identity::Unclassified);
    }

    #[test]
    fn the_command_line_matches_across_arguments() {
        let rules = Rules::custom(None, Regex::new("--mode (prod|stage)").ok(), None).unwrap();
        assert_eq!(rules.judge(&process(&["server", "--mode", "prod"])).identity, Identity::Match);
        assert_eq!(rules.judge(&process(&["server", "--mode", "dev"])).identity, Identity::Other);
    }

    #[test]
    fn an_empty_set_of_matches_is_none_rather_than_any() {
        assert!(Rules::custom(None, None, None).is_none());
    }

    #[test]
    fn a_forwarder_is_never_a_match() {
        for exe in ["/usr/bin/docker-proxy", "/lib/systemd/systemd"] {
            let mut forwarder = process(&["x"]);
            forwarder.exe = Some(exe.into());
            assert_eq!(Rules::any().judge(&forwarder).identity, Identity::Other, "{exe}");
        }
    }
}
