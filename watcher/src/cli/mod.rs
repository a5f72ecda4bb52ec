//! The command line: one file a command.

mod agent;
mod args;
mod clean;
mod demo;
mod doctor;
mod error;
mod owners;
mod restart;
mod setup;
mod style;
mod unit;
mod wait;
mod watch;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use self::args::{Arguments, Command};
pub(crate) use self::error::CliError;
use crate::platform::host;

/// Runs the program with the arguments of this process, and gives its exit status.
#[must_use]
pub fn run() -> ExitCode {
    if let Some(status) = host::helper() {
        return ExitCode::from(status);
    }
    host::keep_handles();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return refuse(&error),
    };
    // A service says what it does without being asked.
    let verbose = arguments.verbose + u8::from(matches!(arguments.command, Command::Agent(_)));
    setup::logging(verbose, arguments.quiet);
    let result = match arguments.command {
        Command::Completions { shell } => completions(shell),
        Command::Man => man(),
        command => setup::runtime().and_then(|runtime| runtime.block_on(dispatch(command))),
    };
    match result {
        Ok(status) => ExitCode::from(status),
        // The reader has gone: whoever reads `gatewatch watch | head -1` has what they wanted.
        Err(CliError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("gatewatch: {error}");
            ExitCode::from(error.status())
        }
    }
}

async fn dispatch(command: Command) -> Result<u8, CliError> {
    match command {
        Command::Owners(owners) => owners::run(&owners).await,
        Command::Clean(clean) => clean::run(&clean).await,
        Command::Restart(restart) => restart::run(&restart).await,
        Command::Watch(watch) => watch::run(&watch).await,
        Command::Wait(wait) => wait::run(&wait).await,
        Command::Agent(agent) => agent::run(&agent).await,
        Command::Doctor(doctor) => doctor::run(&doctor),
        Command::Demo(demo) => demo::run(&demo).await,
        Command::DemoGateway { port } => demo::gateway(port).await,
        Command::Completions { .. } | Command::Man => Ok(0),
    }
}

/// Help and version are answers; anything else is one sentence on standard error, and status 2.
fn refuse(error: &clap::Error) -> ExitCode {
    if error.exit_code() == 0 {
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    let message = error.to_string();
    // clap draws a paragraph: what is wrong, a tip, the usage. The first two are the sentence.
    let said: Vec<&str> = message
        .lines()
        .take_while(|line| !line.starts_with("Usage:"))
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with("For more information"))
        .collect();
    let sentence = said.join("; ").replace("error: ", "").replace(":; ", ": ").replace("tip: ", "");
    if sentence.is_empty() || sentence.starts_with("Gatewatch") {
        let _ = error.print();
    } else {
        eprintln!("gatewatch: {sentence} (`gatewatch --help` says more)");
    }
    ExitCode::from(CliError::USAGE)
}

fn completions(shell: clap_complete::Shell) -> Result<u8, CliError> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "gatewatch", &mut script);
    io::stdout().write_all(&script).map_err(CliError::Output)?;
    Ok(0)
}

/// The page of the program, and after it the synopsis and the options of each command.
fn man() -> Result<u8, CliError> {
    let mut program = Arguments::command();
    program.build();
    let mut page = Vec::new();
    clap_mangen::Man::new(program.clone()).render(&mut page).map_err(CliError::Output)?;
    for command in
        program.get_subcommands().filter(|command| !command.is_hide_set() && command.get_name() != "help")
    {
        let title = format!(".SH \"GATEWATCH {}\"\n", command.get_name().to_uppercase());
        page.extend(title.as_bytes());
        let man = clap_mangen::Man::new(command.clone());
        let mut part = Vec::new();
        man.render_description_section(&mut part)
            .and_then(|()| man.render_synopsis_section(&mut part))
            .and_then(|()| man.render_options_section(&mut part))
            .map_err(CliError::Output)?;
        // Sections of a section.
        page.extend(String::from_utf8_lossy(&part).replace(".SH ", ".SS ").as_bytes());
    }
    io::stdout().write_all(&page).map_err(CliError::Output)?;
    Ok(0)
}

/// Writes an answer as one line of JSON.
fn print_json(answer: &impl serde::Serialize) -> Result<(), CliError> {
    print(&json_line(answer)?)
}

fn json_line(answer: &impl serde::Serialize) -> Result<String, CliError> {
    let mut line = serde_json::to_string(answer).map_err(|error| CliError::Output(error.into()))?;
    line.push('\n');
    Ok(line)
}

/// Writes to standard output, at once.
fn print(text: &str) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(CliError::Output)
}
