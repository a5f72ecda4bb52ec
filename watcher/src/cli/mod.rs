//! The command line: one file per command. [`args`] defines the arguments, [`context`] what a command needs, [`ask`] how
//! the agent is asked, [`text`] how an answer looks, and [`exit`] the exit status.

mod agent;
mod args;
mod ask;
mod clean;
mod command;
mod complete;
mod confirm;
mod context;
mod demo;
mod doctor;
mod exec;
mod exit;
mod following;
#[cfg(all(any(fuzzing, test), target_os = "linux"))]
pub(crate) mod fuzzing;
mod handing;
mod hints;
mod history;
mod interrupts;
mod list;
mod man;
mod next;
mod owners;
mod picture;
mod ports;
mod progress;
mod restart;
mod several;
mod started;
mod starters;
mod store;
mod text;
mod top;
mod udp_beside;
mod unit;
mod wait;
mod watch;

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use anstream::ColorChoice;
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};

use self::args::{Arguments, Command};
use self::exit::{CliError, Exit};
use crate::platform::Host;
use crate::platform::contract::Platform;
use crate::wire;

/// Runs the program with the arguments of this process, and returns its exit status.
#[must_use]
pub(crate) fn run() -> ExitCode {
    if let Some(status) = Host::before_main() {
        return ExitCode::from(status);
    }
    if let Some(status) = complete::answer() {
        return status;
    }
    let words: Vec<OsString> = std::env::args_os().collect();
    if let Some(colour) = colour(&words) {
        colour.write_global();
    }
    let arguments = match parse(words.clone()) {
        Ok(arguments) => arguments,
        Err(error) => return refuse(error, &words),
    };
    // The agent is a service, so it logs what it does by default.
    let verbose = arguments.verbose + u8::from(matches!(arguments.command, Command::Agent(_)));
    arguments.color.write_global();
    match arguments.command {
        Command::Top(_) => top::notes::logging(),
        _ => context::logging(verbose, arguments.quiet),
    }
    let result = context::runtime().and_then(|runtime| {
        let result = runtime.block_on(dispatch(arguments.command));
        // Nothing that goes on beside it is waited for.
        runtime.shutdown_background();
        result
    });
    match result {
        Ok(exit) => ExitCode::from(exit.status()),
        Err(error) => {
            say(&format!("gatewatch: {error}\n"));
            ExitCode::from(Exit::from(&error).status())
        }
    }
}

async fn dispatch(command: Command) -> Result<Exit, CliError> {
    match command {
        Command::Owners(owners) => owners::run(&owners).await,
        Command::List(list) => list::run(&list).await,
        Command::Clean(clean) => clean::run(&clean).await,
        Command::Restart(restart) => restart::run(restart).await,
        Command::Exec(exec) => exec::run(&exec).await,
        Command::Watch(watch) => watch::run(&watch).await,
        Command::History(history) => history::run(&history).await,
        Command::Wait(wait) => wait::run(&wait).await,
        Command::Top(top) => top::run(&top).await,
        Command::Agent(agent) => agent::run(&agent).await,
        Command::Doctor(doctor) => doctor::run(&doctor).await,
        Command::Demo(demo) => demo::run(&demo).await,
        Command::DemoGateway { port } => demo::gateway(port).await,
        Command::Completions { shell } => complete::script(shell),
        Command::Man { dir } => man::run(dir.as_deref()),
    }
}

/// What `--color` says; help and errors have colours too, and come before the rest of the line is understood.
fn colour(words: &[OsString]) -> Option<ColorChoice> {
    let mut own = words.iter().filter_map(|word| word.to_str()).take_while(|word| *word != "--");
    let mut named = None;
    while let Some(word) = own.next() {
        match word.strip_prefix("--color") {
            Some("") => named = own.next(),
            Some(value) if value.starts_with('=') => named = Some(&value[1..]),
            _ => {}
        }
    }
    match named? {
        "always" => Some(ColorChoice::Always),
        "never" => Some(ColorChoice::Never),
        _ => None,
    }
}

/// The arguments; without a command, ports are those of `owners`: `gatewatch 3000`.
fn parse(mut words: Vec<OsString>) -> Result<Arguments, clap::Error> {
    let error = match Arguments::try_parse_from(&words) {
        Ok(arguments) => return Ok(arguments),
        Err(error) => error,
    };
    let is_command = |word: &OsString| {
        word == "help"
            || Arguments::command()
                .get_subcommands()
                .any(|command| command.get_name_and_visible_aliases().iter().any(|name| word == name))
    };
    let is_other = matches!(error.kind(), ErrorKind::InvalidSubcommand | ErrorKind::UnknownArgument);
    if !is_other || words.iter().skip(1).any(is_command) {
        return Err(error);
    }
    let mut plain =
        words.iter().skip(1).filter_map(|word| word.to_str()).filter(|word| !word.starts_with('-'));
    let looks_like_port = plain.next().is_some_and(ports::looks_like_one);
    words.insert(1, "owners".into());
    Arguments::try_parse_from(&words).map_err(|as_owners| if looks_like_port { as_owners } else { error })
}

/// Help and version are answers; anything else is said on standard error, with a hint where there is a sensible one.
fn refuse(mut error: clap::Error, words: &[OsString]) -> ExitCode {
    hints::improve(&mut error, words);
    let _ = error.print();
    let status = if error.exit_code() == 0 { Exit::Done } else { Exit::Usage };
    ExitCode::from(status.status())
}

/// Writes to standard error. That nobody reads it is no failure.
fn say(text: &str) {
    let _ = anstream::stderr().lock().write_all(text.as_bytes());
}

/// Writes an answer as one line of JSON.
fn print_json(answer: &impl serde::Serialize) -> Result<(), CliError> {
    is_read_raw(&wire::line(answer).map_err(|error| CliError::Output(error.into()))?).map(drop)
}

/// Writes to standard output and flushes it, without colours where they are not wanted. That nobody reads it is no failure:
/// the status is the outcome's all the same.
fn print(text: &str) -> Result<(), CliError> {
    is_read(text).map(drop)
}

/// As [`print`]; false once the reader has closed the pipe, as in `gatewatch watch | head -1`.
fn is_read(text: &str) -> Result<bool, CliError> {
    written(&mut anstream::stdout().lock(), text)
}

/// As [`is_read`], for what has no colours.
fn is_read_raw(text: &str) -> Result<bool, CliError> {
    written(&mut io::stdout().lock(), text)
}

fn written(out: &mut impl Write, text: &str) -> Result<bool, CliError> {
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(CliError::Output(error)),
    }
}
