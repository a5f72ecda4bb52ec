//! The manual: a page of the program, one of each command, and one of the configuration.

use std::io;
use std::path::Path;

use clap::CommandFactory;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use super::args::Arguments;
use super::exit::{self, CliError, Exit};
use crate::agent::SOCKET_VARIABLE;
use crate::model::Port;
use crate::platform::Host;
use crate::platform::contract::Platform;

/// The packaged configuration, whose comments say what each key is for.
const CONFIGURATION: &str = include_str!("../../config.toml");

/// Prints the page of the program, or writes all pages into a folder.
pub(super) fn run(folder: Option<&Path>) -> Result<Exit, CliError> {
    let failed = |error| CliError::Io { what: "the manual can't be written", error };
    let mut program = Arguments::command();
    program.build();
    let Some(folder) = folder else {
        super::print(&whole(&program).map_err(failed)?)?;
        return Ok(Exit::Done);
    };
    std::fs::create_dir_all(folder).map_err(failed)?;
    let write = |name: &str, text: String| std::fs::write(folder.join(name), text).map_err(failed);
    write("gatewatch.1", whole(&program).map_err(failed)?)?;
    for command in visible(&program) {
        let name = format!("gatewatch-{}", command.get_name());
        write(&format!("{name}.1"), page(command.clone().name(name)).map_err(failed)?)?;
    }
    write("gatewatch.toml.5", configuration())?;
    Ok(Exit::Done)
}

fn visible(program: &clap::Command) -> impl Iterator<Item = &clap::Command> {
    program.get_subcommands().filter(|command| !command.is_hide_set() && command.get_name() != "help")
}

/// The page of the program, and after it the synopsis and the options of each command.
fn whole(program: &clap::Command) -> io::Result<String> {
    let mut out = Vec::new();
    let man = Man::new(program.clone());
    man.render_title(&mut out)?;
    man.render_name_section(&mut out)?;
    man.render_synopsis_section(&mut out)?;
    man.render_description_section(&mut out)?;
    man.render_options_section(&mut out)?;
    man.render_subcommands_section(&mut out)?;
    for command in visible(program) {
        out.extend(format!(".SH \"GATEWATCH {}\"\n", command.get_name().to_uppercase()).as_bytes());
        let man = Man::new(command.clone());
        let mut part = Vec::new();
        man.render_description_section(&mut part)?;
        man.render_synopsis_section(&mut part)?;
        man.render_options_section(&mut part)?;
        // The command's sections become subsections.
        out.extend(String::from_utf8_lossy(&part).replace(".SH ", ".SS ").as_bytes());
    }
    Ok(String::from_utf8_lossy(&out).into_owned() + &common())
}

/// The page of a command.
fn page(command: clap::Command) -> io::Result<String> {
    let mut out = Vec::new();
    let man = Man::new(command);
    man.render_title(&mut out)?;
    man.render_name_section(&mut out)?;
    man.render_synopsis_section(&mut out)?;
    man.render_description_section(&mut out)?;
    man.render_options_section(&mut out)?;
    Ok(String::from_utf8_lossy(&out).into_owned() + &common())
}

/// What all pages end with.
fn common() -> String {
    let mut roff = Roff::new();
    let mut section = |title: &str, entries: &[(String, String)]| {
        roff.control("SH", [title]);
        for (term, text) in entries {
            roff.control("TP", []);
            roff.text([bold(term)]);
            roff.text([roman(text)]);
        }
    };
    let entry = |term: &str, text: &str| (term.to_owned(), text.to_owned());
    section("EXIT STATUS", &exit::meanings().map(|(status, meaning)| entry(&status.to_string(), meaning)));
    section(
        "ENVIRONMENT",
        &[
            entry(
                Port::VARIABLE,
                "The port of a command that names none: 18789, localhost:18789 or [::1]:18789.",
            ),
            entry("OPENCLAW_PROFILE", "A named profile of OpenClaw, which has a port of its own."),
            entry(
                "OPENCLAW_GATEWAY_SERVICE_PID",
                "A process that is never ended under the rule set openclaw-gateway.",
            ),
            entry("OPENCLAW_STATE_DIR", "Where --owner-record auto looks for OpenClaw's record."),
            entry(SOCKET_VARIABLE, "The agent's socket."),
            entry("NO_COLOR, CLICOLOR_FORCE", "Never, or always, colours; --color comes first."),
        ],
    );
    section(
        "FILES",
        &[
            entry(Host::CONFIG, "The configuration, see gatewatch.toml(5)."),
            entry(Host::AGENT_SOCKET, "The agent's socket."),
        ],
    );
    roff.control("SH", ["EXAMPLES"]);
    roff.control("nf", []);
    for line in super::args::EXAMPLES.lines().skip(1) {
        roff.text([roman(line)]);
    }
    roff.control("fi", []);
    roff.control("SH", ["SEE ALSO"]);
    roff.text([roman(
        "gatewatch(1), gatewatch-clean(1), gatewatch-agent(1), gatewatch.toml(5), ss(8), lsof(8)",
    )]);
    roff.render()
}

/// The page of the configuration.
fn configuration() -> String {
    let mut roff = Roff::new();
    roff.control("TH", ["gatewatch.toml", "5"]);
    roff.control("SH", ["NAME"]);
    roff.text([roman("gatewatch.toml - the configuration of gatewatch")]);
    roff.control("SH", ["DESCRIPTION"]);
    roff.text([
        roman("The agent and all commands read "),
        bold(Host::CONFIG),
        roman(" or the file of --config."),
    ]);
    roff.text([roman("An unknown key is an error. `gatewatch agent --check-config` checks the file.")]);
    roff.control("SH", ["KEYS"]);
    roff.control("nf", []);
    for line in CONFIGURATION.lines() {
        roff.text([roman(line)]);
    }
    roff.control("fi", []);
    roff.render()
}
