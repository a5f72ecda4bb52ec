//! What a scenario needs of the machine. One that can't run is skipped, and says why; in CI that is a failure.

use std::env::consts::EXE_SUFFIX;
use std::path::Path;
use std::sync::OnceLock;

use libtest_mimic::{Failed, Trial};

use crate::{Gatewatch, platform};

/// What a scenario needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Nothing that an ordinary user has not got.
    Nothing,
    /// Root.
    Root,
    /// Root, and a kernel that takes BPF programs.
    Bpf,
    /// Node, to be a real gateway.
    Node,
    /// A system that says whose a listener over IPv6 is.
    Ipv6Owners,
}

/// Whether it is there; if not, why.
///
/// # Errors
/// What is missing.
pub fn have(needs: Needs) -> Result<(), String> {
    static BPF: OnceLock<bool> = OnceLock::new();
    let root = platform::is_root();
    match needs {
        Needs::Nothing | Needs::Ipv6Owners => Ok(()),
        Needs::Root if root => Ok(()),
        Needs::Root => Err("needs root".to_owned()),
        Needs::Bpf if !root => Err("needs root".to_owned()),
        Needs::Bpf => {
            let works = *BPF.get_or_init(|| Gatewatch::plain(&["doctor", "--backend", "ebpf"]).status == 0);
            if works {
                Ok(())
            } else {
                Err("needs a kernel that takes all of the eBPF backend's hooks".to_owned())
            }
        }
        Needs::Node => {
            let found = std::env::var_os("PATH").is_some_and(|path| {
                std::env::split_paths(&path)
                    .any(|folder| Path::new(&folder).join(format!("node{EXE_SUFFIX}")).exists())
            });
            if found { Ok(()) } else { Err("needs node".to_owned()) }
        }
    }
}

/// A named rule and the test that it holds.
pub struct Scenario {
    /// The rule.
    pub name: String,
    /// What it needs.
    pub needs: Vec<Needs>,
    /// The test.
    pub run: Box<dyn FnOnce() + Send>,
}

impl Scenario {
    /// Why this system, whatever is installed on it, can't show the rule; `None` where it can.
    pub fn cannot_be_shown(&self) -> Option<&'static str> {
        self.needs.iter().find_map(|&needs| platform::cannot(needs))
    }

    /// A trial that runs it, is ignored where something is missing, or fails for that in CI.
    pub fn into_trial(self) -> Trial {
        let missing = self.needs.into_iter().find_map(|needs| have(needs).err());
        let (name, run) = (self.name, self.run);
        match missing {
            None => Trial::test(name, move || {
                run();
                Ok(())
            }),
            Some(why) if std::env::var_os("CI").is_some() => {
                Trial::test(name, move || Err(Failed::from(format!("can't be skipped in CI: {why}"))))
            }
            Some(why) => {
                eprintln!("skipped: {name}: {why}");
                Trial::test(name, || Ok(())).with_ignored_flag(true)
            }
        }
    }
}
