//! Hints for words that people know from other tools.

use std::ffi::OsString;

use clap::CommandFactory as _;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::args::Arguments;
use super::ports;

/// Commands by the names that they have elsewhere.
const COMMANDS: &[(&[&str], &str)] = &[
    (&["kill", "killport", "fkill", "free", "stop", "end", "release", "clear", "reclaim"], "clean"),
    (&["ps", "show", "ss", "netstat", "all", "ports"], "list"),
    (&["who", "owner", "lsof", "find", "which", "port", "info"], "owners"),
    (&["status", "check", "health", "version"], "doctor"),
    (&["monitor", "follow", "tail", "events"], "watch"),
    (&["log", "past", "journal"], "history"),
    (&["run", "start"], "exec"),
    (&["daemon", "serve", "server"], "agent"),
];

/// Flags by the names that they have elsewhere, and what to use.
const FLAGS: &[(&[&str], &str)] = &[
    (
        &["--force", "-f", "-9", "--kill", "-k", "--sigkill"],
        "an owner that does not end within --term-timeout is forced anyway; --term-timeout 0ms forces it at once, and --any \
         ends an owner of any kind",
    ),
    (&["--json", "-j"], "write --format json"),
    (&["-y"], "write --yes"),
    (&["-n"], "write --dry-run"),
    (&["--all", "-a"], "`gatewatch list` shows every port; --any ends an owner of any kind"),
    (&["-s"], "write --signal NAME"),
];

/// The commands that need nothing but ports.
const OF_PORTS: [&str; 4] = ["clean", "owners", "watch", "history"];

/// Replaces clap's hint by one that is sensible, or by none. `words` is the whole command line.
pub(super) fn improve(error: &mut clap::Error, words: &[OsString]) {
    match error.kind() {
        ErrorKind::InvalidSubcommand => {
            let word = context(error, ContextKind::InvalidSubcommand);
            if let Some((_, command)) = word.and_then(|word| known(COMMANDS, &word)) {
                let ports = if OF_PORTS.contains(&command) { ports_in(words) } else { String::new() };
                suggest(error, &format!("gatewatch {command}{ports}"));
                error.remove(ContextKind::SuggestedSubcommand);
            }
        }
        ErrorKind::UnknownArgument => {
            let Some(word) = context(error, ContextKind::InvalidArg) else { return };
            // "To pass it as a value, use --": no command here takes it for one.
            error.remove(ContextKind::Suggested);
            if let Some((_, hint)) = known(FLAGS, &word) {
                suggest(error, hint);
                error.remove(ContextKind::SuggestedArg);
                correct_usage(error, words);
            } else if context(error, ContextKind::SuggestedArg).is_some_and(|flag| !is_near(&word, &flag)) {
                error.remove(ContextKind::SuggestedArg);
                error.remove(ContextKind::SuggestedValue);
                correct_usage(error, words);
            }
        }
        // `wait 3000`: what to wait for is missing.
        ErrorKind::InvalidValue | ErrorKind::MissingRequiredArgument => {
            let word = context(error, ContextKind::InvalidValue);
            let ports = ports_in(words);
            if words.get(1).is_some_and(|word| word == "wait")
                && word.is_none_or(|word| ports::looks_like_one(&word))
                && !ports.is_empty()
            {
                suggest(
                    error,
                    &format!("write `gatewatch wait free{ports}` or `gatewatch wait listening{ports}`"),
                );
            }
        }
        _ => {}
    }
}

/// The ports of the command line, as they would be typed.
fn ports_in(words: &[OsString]) -> String {
    let words = words.iter().filter_map(|word| word.to_str()).filter(|word| ports::looks_like_one(word));
    // What has to be quoted for a shell is no port that people type.
    let plain =
        words.filter(|word| word.chars().all(|sign| sign.is_ascii_alphanumeric() || ".:,-/".contains(sign)));
    plain.map(|word| format!(" {word}")).collect()
}

/// The usage names the flag that was suggested, and that was not meant: the command's own does not.
fn correct_usage(error: &mut clap::Error, words: &[OsString]) {
    let mut arguments = Arguments::command();
    arguments.build();
    let name =
        words.iter().filter_map(|word| word.to_str()).find(|word| arguments.find_subcommand(word).is_some());
    let command = match name {
        Some(name) => arguments.find_subcommand_mut(name),
        None => Some(&mut arguments),
    };
    if let Some(command) = command {
        error.insert(ContextKind::Usage, ContextValue::StyledStr(command.render_usage()));
    }
}

fn known(table: &'static [(&[&str], &str)], word: &str) -> Option<(&'static str, &'static str)> {
    let word = word.to_ascii_lowercase();
    table.iter().find_map(|(names, to)| names.iter().find(|name| **name == word).map(|name| (*name, *to)))
}

/// Whether one is the other with a slip of the finger: a letter in three at most.
fn is_near(word: &str, other: &str) -> bool {
    let name =
        |flag: &str| flag.split([' ', '=']).next().unwrap_or_default().trim_start_matches('-').to_owned();
    let (word, other) = (name(word), name(other));
    strsim::damerau_levenshtein(&word, &other) <= (word.chars().count() / 3).max(1)
        || (word.len() > 2 && other.starts_with(&word))
}

fn context(error: &clap::Error, kind: ContextKind) -> Option<String> {
    match error.get(kind)? {
        ContextValue::String(text) => Some(text.clone()),
        ContextValue::Strings(texts) => texts.first().cloned(),
        _ => None,
    }
}

fn suggest(error: &mut clap::Error, hint: &str) {
    error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![hint.to_owned().into()]));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_near_and_another_word_is_not() {
        assert!(is_near("--prot", "--port <PORT>"));
        assert!(is_near("--dry", "--dry-run"));
        assert!(is_near("--anny", "--any"));
        assert!(!is_near("--force", "--socket <PATH>"));
        assert!(!is_near("--force", "--format"));
        assert!(!is_near("--now", "--no-kill"));
    }
}
