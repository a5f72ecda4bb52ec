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
    use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
    use std::path::Path;

    use super::*;

    /// How many mutations are made of each input, unless the environment says otherwise.
    const MUTATIONS: u64 = 200;

    /// The inputs of a target that are checked in.
    struct Corpus {
        name: String,
        target: Target,
        /// Each with its path.
        inputs: Vec<(String, Vec<u8>)>,
    }

    fn corpora() -> Vec<Corpus> {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus");
        let mut corpora: Vec<_> = std::fs::read_dir(corpus)
            .unwrap()
            .map(|folder| {
                let folder = folder.unwrap();
                let name = folder.file_name().into_string().unwrap();
                let target = target(&name).unwrap_or_else(|| panic!("no target has the corpus {name}"));
                let mut inputs: Vec<_> = std::fs::read_dir(folder.path())
                    .unwrap()
                    .map(|input| input.unwrap())
                    .map(|input| (input.path().display().to_string(), std::fs::read(input.path()).unwrap()))
                    .collect();
                assert!(!inputs.is_empty(), "{name}");
                inputs.sort();
                Corpus { name, target, inputs }
            })
            .collect();
        corpora.sort_by(|one: &Corpus, other| one.name.cmp(&other.name));
        corpora
    }

    /// Choices that are the same each time: xorshift64*.
    struct Choices(u64);

    impl Choices {
        fn below(&mut self, most: usize) -> usize {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            let number = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
            usize::try_from(number).unwrap() % most.max(1)
        }

        /// A part of `length` bytes.
        fn range(&mut self, length: usize) -> std::ops::Range<usize> {
            let from = self.below(length + 1);
            from..from + self.below((length - from).min(16) + 1)
        }
    }

    /// Changes the bytes in one to four places, as fuzzers do; `other` is another input of the same target.
    fn mutate(bytes: &mut Vec<u8>, other: &[u8], choices: &mut Choices) {
        const TELLING: [u8; 12] = [0, 1, 0x7f, 0x80, 0xff, b'"', b'\\', b'\n', b'-', b'9', b'{', b' '];
        for _ in 0..=choices.below(4) {
            let at = choices.below(bytes.len());
            let part = choices.range(bytes.len());
            match choices.below(7) {
                0 => bytes.truncate(at),
                1 => drop(bytes.drain(part)),
                2 => {
                    let copy = bytes[part].to_vec();
                    bytes.splice(at..at, copy);
                }
                3 => {
                    let theirs = other[choices.range(other.len())].to_vec();
                    bytes.splice(part, theirs);
                }
                4 => bytes.insert(at, TELLING[choices.below(TELLING.len())]),
                _ if bytes.is_empty() => {}
                5 => bytes[at] = TELLING[choices.below(TELLING.len())],
                _ => bytes[at] ^= 1 << choices.below(8),
            }
        }
    }

    /// A short run of what `cargo xtask fuzz` does longer and better, the same each time.
    #[test]
    fn every_rule_holds_for_mutations_of_those_inputs() {
        let most =
            std::env::var("GATEWATCH_FUZZ_MUTATIONS").ok().map_or(MUTATIONS, |text| text.parse().unwrap());
        for Corpus { name, target, inputs } in corpora() {
            let mut choices = Choices(0x9e37_79b9_7f4a_7c15);
            for (path, input) in &inputs {
                for _ in 0..most {
                    let mut bytes = input.clone();
                    mutate(&mut bytes, &inputs[choices.below(inputs.len())].1, &mut choices);
                    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(&bytes))) {
                        println!(
                            "the target {name} fails for a mutation of {path}: {}",
                            bytes.escape_ascii()
                        );
                        resume_unwind(panic);
                    }
                }
            }
        }
    }

    /// What was found once must not come back, and needs no fuzzer to be seen.
    #[test]
    fn every_rule_holds_for_the_inputs_that_are_checked_in() {
        let corpora = corpora();
        assert_eq!(corpora.len(), TARGETS.len(), "every target has a corpus");
        for Corpus { target, inputs, .. } in corpora {
            for (path, input) in inputs {
                println!("{path}");
                target(&input);
            }
        }
    }
}
