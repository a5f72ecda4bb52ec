//! The product's own command line: does it run the gateway?

use super::argument::Argument;

/// Options before the sub-command whose value is the next argument.
const ROOT_VALUES: [&str; 3] = ["--profile", "--log-level", "--container"];
/// Options before the sub-command that take no value.
const ROOT_FLAGS: [&str; 5] = ["--dev", "--no-color", "--update", "--verbose", "--quiet"];
/// Options of `gateway` whose value is the next argument.
const GATEWAY_VALUES: [&str; 10] = [
    "--port",
    "--bind",
    "--token",
    "--token-file",
    "--auth",
    "--password",
    "--password-file",
    "--tailscale",
    "--ws-log",
    "--raw-stream-path",
];
/// Options of `gateway` that take no value.
const GATEWAY_FLAGS: [&str; 13] = [
    "--tailscale-reset-on-exit",
    "--allow-unconfigured",
    "--dev",
    "--ambient-channels",
    "--dev-ambient-channels",
    "--reset",
    "--update-canary",
    "--force",
    "--verbose",
    "--cli-backend-logs",
    "--claude-cli-logs",
    "--compact",
    "--raw-stream",
];
/// What `gateway` does besides running one. None of these ever listens on the port.
const OTHER_ERRANDS: [&str; 18] = [
    "status",
    "health",
    "call",
    "probe",
    "discover",
    "stop",
    "start",
    "restart",
    "install",
    "uninstall",
    "auth-token",
    "suspend",
    "resume",
    "usage-cost",
    "stability",
    "diagnostics",
    "restart-handoff",
    "help",
];

/// What the command line turns out to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Subcommand {
    /// The gateway itself.
    Gateway,
    /// Something else.
    Other,
    /// It depends on whether an option that is not known takes a value.
    Unclear,
}

/// Reads the arguments after the product's command or script. The first one that is neither an option nor an option's
/// value is the sub-command; `gateway status` and its like are not gateways.
pub(super) fn read(arguments: &[Argument<'_>]) -> Subcommand {
    let after_gateway =
        first_word(arguments, &GATEWAY_VALUES, &GATEWAY_FLAGS, Subcommand::Gateway, |word, _| {
            if OTHER_ERRANDS.contains(&word) { Subcommand::Other } else { Subcommand::Gateway }
        });
    let whole = first_word(arguments, &ROOT_VALUES, &ROOT_FLAGS, Subcommand::Other, |word, at| {
        if word == "gateway" { after_gateway[at + 1] } else { Subcommand::Other }
    });
    whole[0]
}

/// For each place: what the command line is if it is read from there on, by the first word that is neither an option
/// nor an option's value. Goes from the end to the front, so that an option that is not known can be read both ways.
fn first_word(
    arguments: &[Argument<'_>],
    values: &[&str],
    flags: &[&str],
    without: Subcommand,
    is: impl Fn(&str, usize) -> Subcommand,
) -> Vec<Subcommand> {
    let mut from = vec![without; arguments.len() + 2];
    for (at, argument) in arguments.iter().enumerate().rev() {
        let word = argument.normal.as_str();
        from[at] = if !argument.is_option() {
            is(word, at)
        } else if word == "--" || word.contains('=') || flags.contains(&word) {
            from[at + 1]
        } else if values.contains(&word) {
            from[at + 2]
        } else if from[at + 1] == from[at + 2] {
            from[at + 1]
        } else {
            Subcommand::Unclear
        };
    }
    from
}
