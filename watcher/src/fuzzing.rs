//! What the fuzzers run (`cargo xtask fuzz`): the program's own parsers, and what must hold for any input. The library
//! has this module only when it is built for them. The tests run each target on the inputs that are checked in.

use crate::platform::fuzzing as platform;
use crate::{agent, cli, config, owner_record, steps, wire};

/// Takes any bytes, and panics if a rule does not hold for them.
pub type Target = fn(&[u8]);

/// Every target, by its name, which is also that of its folder in `tests/fuzz/corpus`.
const TARGETS: &[(&str, Target)] = &[
    ("answers", wire_answers),
    ("client", agent::fuzzing::client),
    ("config", config::fuzz),
    ("gateway", steps::identify::fuzzing::gateway),
    ("kernel", platform::kernel_records),
    ("netlink", platform::netlink),
    ("owner-record", owner_record::fuzz),
    ("package", steps::identify::fuzzing::package),
    ("proc", platform::proc_files),
    ("request", agent::fuzzing::request),
];

/// The target of this name.
#[must_use]
pub fn target(name: &str) -> Option<Target> {
    TARGETS.iter().find(|(known, _)| *known == name).map(|(_, target)| *target)
}

/// What an agent answers, as JSON and then as text for people.
fn wire_answers(bytes: &[u8]) {
    let Some((kind, json)) = bytes.split_first() else { return };
    match kind {
        b'e' => wire::fuzzing::line(json).iter().for_each(cli::fuzzing::event),
        b'o' => wire::fuzzing::owners(json).iter().for_each(cli::fuzzing::owners),
        b'c' => wire::fuzzing::cleaned(json).iter().for_each(cli::fuzzing::cleaned),
        b'w' => wire::fuzzing::waited(json).iter().for_each(cli::fuzzing::waited),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// What was found once must not come back, and needs no fuzzer to be seen.
    #[test]
    fn every_rule_holds_for_the_inputs_that_are_checked_in() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus");
        let mut folders = 0;
        for folder in std::fs::read_dir(corpus).unwrap().map(Result::unwrap) {
            let name = folder.file_name().into_string().unwrap();
            let target = target(&name).unwrap_or_else(|| panic!("no target has the corpus {name}"));
            let inputs: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(Result::unwrap).collect();
            assert!(!inputs.is_empty(), "{name}");
            for input in inputs {
                println!("{}", input.path().display());
                target(&std::fs::read(input.path()).unwrap());
            }
            folders += 1;
        }
        assert_eq!(folders, TARGETS.len(), "every target has a corpus");
    }
}
