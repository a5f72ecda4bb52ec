//! Completions: the shell asks this program at each Tab, because the ports that are held, their units and the identities of
//! the configuration are not known before.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, ExitCode, Stdio};

use clap::{Arg, CommandFactory};
use clap_complete::CompleteEnv;
use clap_complete::engine::{ArgValueCandidates, CompletionCandidate};
use clap_complete::env::Shells;

use super::args::Arguments;
use super::exit::{CliError, Exit};
use super::text::style;
use crate::config::Config;
use crate::model::{Port, Protocol, Socket};
use crate::platform::Host;
use crate::platform::contract::{Platform, System as _};

/// The variable by which a shell asks. No other program's is called so, and none can turn a command into a completion.
const VARIABLE: &str = "_GATEWATCH_COMPLETE";

/// Answers a shell that asks what a word could become; `None` where none asks.
pub(super) fn answer() -> Option<ExitCode> {
    std::env::var_os(VARIABLE)?;
    if is_in_another_command() {
        return Some(ExitCode::SUCCESS);
    }
    let asked = CompleteEnv::with_factory(command).var(VARIABLE).try_complete(std::env::args_os(), None);
    match asked {
        Ok(false) => None,
        Ok(true) => Some(ExitCode::SUCCESS),
        // A shell that asks in the middle of a line has no place for what went wrong.
        Err(_) => Some(ExitCode::FAILURE),
    }
}

/// Whether what is completed follows a `--`, as in `gatewatch restart 3000 -- npm`: that is the shell's own to complete. The
/// words of the line follow another `--`.
fn is_in_another_command() -> bool {
    let line: Vec<_> = std::env::args_os().skip_while(|word| word != "--").skip(1).collect();
    line.split_last().is_some_and(|(_, before)| before.iter().any(|word| word == "--"))
}

/// Prints what a shell has to read once, so that it asks.
pub(super) fn script(shell: clap_complete::Shell) -> Result<Exit, CliError> {
    const NAME: &str = "gatewatch";
    let name = shell.to_string();
    let builtins = Shells::builtins();
    let asker = builtins
        .completer(&name)
        .ok_or_else(|| CliError::Usage(format!("there are no completions for {name}")))?;
    let mut script = Vec::new();
    asker
        .write_registration(VARIABLE, NAME, NAME, NAME, &mut script)
        .map_err(|error| CliError::Io { what: "the completions can't be made", error })?;
    super::print(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Done)
}

/// The command line as it is completed: without what is hidden, and with ports in the place of a command.
fn command() -> clap::Command {
    let mut whole = Arguments::command();
    // A command has its flags only from then on.
    whole.build();
    let shown = |command: &&clap::Command| !command.is_hide_set() && command.get_name() != "help";
    let commands = whole.get_subcommands().filter(shown);
    unbuilt(&whole)
        .arg(Arg::new("ports").value_name("PORT").value_delimiter(',').num_args(0..))
        .subcommands(commands.map(unbuilt))
        .mut_args(with_candidates)
}

/// A command as it was before it got what each command gets, which it gets again.
fn unbuilt(command: &clap::Command) -> clap::Command {
    let is_own = |arg: &&Arg| !matches!(arg.get_id().as_str(), "help" | "version");
    let own = command.get_arguments().filter(is_own);
    clap::Command::new(command.get_name().to_owned())
        .about(command.get_about().cloned().unwrap_or_default())
        .visible_aliases(command.get_visible_aliases().map(str::to_owned))
        .groups(command.get_groups())
        .args(own.cloned().map(with_candidates))
}

/// An argument with what it could be at this moment.
fn with_candidates(arg: Arg) -> Arg {
    let is_port = arg.get_value_names().is_some_and(|names| names.iter().any(|name| name == "PORT"));
    match arg.get_long() {
        _ if is_port => arg.add(ArgValueCandidates::new(ports)),
        Some("identity") => arg.add(ArgValueCandidates::new(identities)),
        Some("match-unit" | "unit") => arg.add(ArgValueCandidates::new(units)),
        _ => arg,
    }
}

/// What holds a port now, by the socket table: it needs no rights, and is quick.
fn listeners() -> Vec<(Host, Socket)> {
    let Ok(host) = Host::new(None) else { return Vec::new() };
    let of = |protocol| host.all_listeners(protocol).unwrap_or_default();
    let sockets = Protocol::ALL.into_iter().flat_map(of);
    sockets.map(|socket| (host.clone(), socket)).collect()
}

/// The ports that are held, each with its owners.
fn ports() -> Vec<CompletionCandidate> {
    let mut owners: BTreeMap<Port, BTreeSet<String>> = BTreeMap::new();
    for (host, socket) in listeners() {
        let known = owners.entry(socket.port()).or_default();
        for pid in socket.descriptors.iter().map(|descriptor| descriptor.pid) {
            let name = host.name(pid).map(|(name, _)| style::printable(&name));
            known.insert(name.map_or_else(|| format!("pid {pid}"), |name| format!("{name} (pid {pid})")));
        }
    }
    let candidate = |(port, owners): (Port, BTreeSet<String>)| {
        let more = owners.len().saturating_sub(1);
        let first = owners.into_iter().next().unwrap_or_else(|| "an unseen process".to_owned());
        let owner = if more == 0 { first } else { format!("{first} and {more} more") };
        CompletionCandidate::new(port.to_string())
            .help(Some(owner.into()))
            .display_order(Some(port.number.into()))
    };
    owners.into_iter().map(candidate).collect()
}

/// The rule sets that can be named.
fn identities() -> Vec<CompletionCandidate> {
    let config = Config::load(None).unwrap_or_default();
    config.identities().map(CompletionCandidate::new).collect()
}

/// The units of those that hold a port, and systemd's services, where there is a systemd.
fn units() -> Vec<CompletionCandidate> {
    let mut units = BTreeSet::new();
    for (host, socket) in listeners() {
        let processes = socket.descriptors.iter().filter_map(|descriptor| host.process(descriptor.pid).ok());
        units.extend(processes.filter_map(|process| process.unit));
    }
    let mut list = Command::new("systemctl");
    list.args(["list-units", "--all", "--type=service", "--plain", "--no-legend", "--no-pager"]);
    if let Ok(listed) = list.stdin(Stdio::null()).stderr(Stdio::null()).output() {
        let lines = String::from_utf8_lossy(&listed.stdout).into_owned();
        units.extend(lines.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned));
    }
    units.iter().map(|unit| CompletionCandidate::new(style::printable(unit))).collect()
}
