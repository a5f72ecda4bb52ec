//! Hints for words that people know from other tools.

use clap::error::{ContextKind, ContextValue, ErrorKind};

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

/// Replaces clap's hint by one that is sensible, or by none.
pub(super) fn improve(error: &mut clap::Error) {
    match error.kind() {
        ErrorKind::InvalidSubcommand => {
            let word = context(error, ContextKind::InvalidSubcommand);
            if let Some((_, command)) = word.and_then(|word| known(COMMANDS, &word)) {
                suggest(error, &format!("gatewatch {command}"));
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
            } else if context(error, ContextKind::SuggestedArg).is_some_and(|flag| !is_near(&word, &flag)) {
                error.remove(ContextKind::SuggestedArg);
                error.remove(ContextKind::SuggestedValue);
            }
        }
        _ => {}
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
