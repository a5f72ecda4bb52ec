//! What the documents name exists: commands, flags, exit statuses, tasks of `cargo xtask`, files.

mod markdown;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use gatewatch_tests::{Gatewatch, checkout};

use self::markdown::{Document, Piece, calls};

scenario!(every_command_and_flag_that_documents_name_exists, needs(Checkout), || {
    let help = Help::of_gatewatch();
    assert_right(|document, _| wrong_calls(&document, "gatewatch", &help));
});

scenario!(every_task_that_documents_name_exists, needs(Checkout), || {
    let help = Help::of_xtask();
    assert_right(|document, _| wrong_calls(&document, "cargo xtask", &help));
});

scenario!(every_exit_status_that_documents_name_exists, needs(Checkout), || {
    let known = statuses_of_help();
    assert_right(|document, _| wrong_statuses(&document, &known));
});

scenario!(every_relative_link_of_the_documents_leads_to_a_file, needs(Checkout), || {
    assert_right(|document, folder| wrong_links(&document, folder));
});

// The names of some are Linux's alone.
#[cfg(target_os = "linux")]
scenario!(each_threat_has_a_scenario_that_exists, needs(Checkout), || {
    let document = std::fs::read_to_string(checkout().join("docs/security.md")).unwrap();
    let known: BTreeSet<&str> = inventory::iter::<crate::rule::Rule>().map(|rule| rule.name).collect();
    let rows = document.lines().filter_map(|line| line.strip_prefix('|')?.strip_suffix('|'));
    let threats = rows.map(|row| row.split('|').map(str::trim).collect::<Vec<_>>());
    let threats: Vec<_> =
        threats.filter(|cells| cells.len() == 3 && !["scenario", "---"].contains(&cells[2])).collect();
    assert!(threats.len() > 50, "{threats:?}");
    for cells in threats {
        let named: Vec<&str> = cells[2].split('`').skip(1).step_by(2).collect();
        assert!(!named.is_empty(), "no scenario plays this: {}", cells[0]);
        // A task of `cargo xtask` is checked with all others.
        for name in named.iter().filter(|name| !name.contains(' ')) {
            assert!(known.contains(name), "there is no scenario {name}");
        }
    }
});

scenario!(what_a_document_names_and_does_not_exist_is_found, needs(Checkout), || {
    let wrong = Document::parse(
        "Say `gatewatch cleen`, `clean --force` or `--no-such`; the end is status 9. See [this](no/such/file).\n\
         \n\
         | Status | meaning |\n\
         | --- | --- |\n\
         | 0 | free |\n\
         | 42 | another |\n\
         \n\
         ```sh\n\
         gatewatch wait free -p 1 --timeout 5s && gatewatch watch --format=json \\\n\
         \x20   --timeout 5s   # of wait alone\n\
         sudo gatewatch owners -x\n\
         cargo run --release -- demo --colour\n\
         cargo xtask tset\n\
         cargo xtask vm-test --kernel 6.1 --fast\n\
         ```\n\
         ```console\n\
         # gatewatch restart --unit x -- systemctl --no-such\n\
         gatewatch answers --nothing\n\
         $ gatewatch restart --again\n\
         ```\n",
    );
    let lines = |wrong: Vec<Piece>| wrong.iter().map(|wrong| wrong.line).collect::<Vec<_>>();
    assert_eq!(lines(wrong_calls(&wrong, "gatewatch", &Help::of_gatewatch())), [9, 11, 12, 19, 1, 1, 1]);
    assert_eq!(lines(wrong_calls(&wrong, "cargo xtask", &Help::of_xtask())), [13, 14]);
    assert_eq!(lines(wrong_statuses(&wrong, &statuses_of_help())), [1, 6]);
    assert_eq!(lines(wrong_links(&wrong, &checkout())), [1]);
});

/// The documents that there are.
fn documents() -> Vec<PathBuf> {
    let root = checkout();
    let mut paths: Vec<PathBuf> =
        ["README.md", "CONTRIBUTING.md", "SECURITY.md"].iter().map(|name| root.join(name)).collect();
    if let Ok(folder) = root.join("docs").read_dir() {
        paths.extend(folder.map(|entry| entry.unwrap().path()));
    }
    paths.retain(|path| path.is_file() && path.extension().is_some_and(|kind| kind == "md"));
    paths
}

/// Fails if something is wrong in a document, and names all of it. The folder is the document's.
fn assert_right(wrong: impl Fn(Document, &Path) -> Vec<Piece>) {
    let root = checkout();
    let mut all = Vec::new();
    for path in documents() {
        let document = Document::parse(&std::fs::read_to_string(&path).unwrap());
        let name = path.strip_prefix(&root).unwrap().display();
        for Piece { line, text } in wrong(document, path.parent().unwrap()) {
            all.push(format!("{name}:{line}: {text}"));
        }
    }
    assert!(all.is_empty(), "the documents name what does not exist:\n{}", all.join("\n"));
}

/// What a program's `--help` lists.
struct Help {
    /// Its flags, and those of all its commands.
    flags: BTreeSet<String>,
    /// Each command with its flags.
    commands: Vec<(String, BTreeSet<String>)>,
}

impl Help {
    fn of_gatewatch() -> Self {
        Self::of(|command| {
            let answer = Gatewatch::plain(&[command, &["--help"]].concat());
            assert_eq!(answer.status, 0, "{answer:?}");
            answer.out
        })
    }

    fn of_xtask() -> Self {
        Self::of(|command| {
            let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
            cargo.current_dir(checkout()).arg("xtask").args(command).arg("--help");
            let output = cargo.output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap()
        })
    }

    fn of(help: impl Fn(&[&str]) -> String) -> Self {
        let whole = help(&[]);
        let names = whole.lines().skip_while(|line| *line != "Commands:").skip(1);
        // A description that does not fit is continued below itself, further in than a name.
        let names = names.take_while(|line| !line.is_empty()).filter_map(|line| line.strip_prefix("  "));
        let names =
            names.filter(|line| !line.starts_with(' ')).filter_map(|line| line.split_whitespace().next());
        let names: Vec<&str> = names.filter(|&name| name != "help").collect();
        let commands: Vec<(String, BTreeSet<String>)> =
            names.iter().map(|&name| (name.to_owned(), flags(&help(&[name])))).collect();
        assert!(!commands.is_empty(), "{whole}");
        let mut all = flags(&whole);
        all.extend(commands.iter().flat_map(|(_, flags)| flags.clone()));
        Self { flags: all, commands }
    }

    fn flags_of(&self, command: &str) -> Option<&BTreeSet<String>> {
        self.commands.iter().find(|(name, _)| name == command).map(|(_, flags)| flags)
    }

    /// What is wrong with the arguments of a call: a command and its flags.
    fn wrong(&self, arguments: &[&str]) -> Option<String> {
        let command = arguments.iter().map(|word| bare(word)).find(|word| !word.starts_with('-'));
        // A port without a command is asked about as by `owners`.
        let is_port = |name: &str| name.starts_with(|first: char| first.is_ascii_digit());
        let command = command.map(|name| if is_port(name) { "owners" } else { name });
        // Capitals stand for any command.
        match command.filter(|name| !name.chars().all(|char| char.is_ascii_uppercase())) {
            None => wrong_flag(arguments, &self.flags),
            Some(name) => match self.flags_of(name) {
                None => Some(format!("there is no command {name}")),
                Some(flags) => wrong_flag(arguments, flags),
            },
        }
    }
}

/// The first flag that is not known, up to another program's arguments.
fn wrong_flag(arguments: &[&str], known: &BTreeSet<String>) -> Option<String> {
    let own = arguments.iter().take_while(|word| **word != "--").map(|word| bare(word));
    let flag = own.filter(|word| word.starts_with('-')).find(|&word| !known.contains(word))?;
    Some(format!("there is no flag {flag}"))
}

/// A word without a flag's value, and without the brackets of what may be left out.
fn bare(word: &str) -> &str {
    let word = word.split('=').next().unwrap_or(word);
    word.trim_matches(|char: char| !char.is_alphanumeric() && char != '-')
}

/// The flags that a help lists.
fn flags(help: &str) -> BTreeSet<String> {
    let lines = help.lines().map(str::trim).filter(|line| line.starts_with('-'));
    let words = lines.flat_map(|line| line.split_whitespace().take_while(|word| word.starts_with('-')));
    words.map(|word| bare(word).to_owned()).collect()
}

/// The calls of a program that name what its help does not list.
fn wrong_calls(document: &Document, program: &str, help: &Help) -> Vec<Piece> {
    let mut wrong = Vec::new();
    for (pieces, in_text) in [(&document.commands, false), (&document.inline, true)] {
        for Piece { line, text } in pieces {
            for call in calls(text) {
                let why = match arguments_of(&call, program) {
                    Some(arguments) => help.wrong(arguments),
                    // A flag or a command that the text names alone is gatewatch's.
                    None if !in_text || program != "gatewatch" => None,
                    None if call.first().is_some_and(|word| word.starts_with("--")) => {
                        wrong_flag(&call, &help.flags)
                    }
                    None if call.first().is_some_and(|word| help.flags_of(word).is_some()) => {
                        help.wrong(&call)
                    }
                    None => None,
                };
                wrong.extend(why.map(|why| Piece { line: *line, text: format!("`{text}`: {why}") }));
            }
        }
    }
    wrong
}

/// What the program is called with; `None` if this calls another.
fn arguments_of<'a>(call: &'a [&'a str], program: &str) -> Option<&'a [&'a str]> {
    match call {
        ["cargo", "xtask", arguments @ ..] => (program == "cargo xtask").then_some(arguments),
        ["cargo", "run", arguments @ ..] if program == "gatewatch" => {
            let at = arguments.iter().position(|&word| word == "--")?;
            Some(&arguments[at + 1..])
        }
        [first, arguments @ ..] if Path::new(first).file_name() == Some(program.as_ref()) => Some(arguments),
        _ => None,
    }
}

/// The exit statuses that `gatewatch --help` lists.
fn statuses_of_help() -> BTreeSet<String> {
    let help = Gatewatch::plain(&["--help"]).out;
    let (_, list) = help.split_once("Exit status").unwrap();
    let words = list.split_whitespace().map(|word| word.trim_matches(|char: char| !char.is_alphanumeric()));
    words.filter(|word| word.parse::<u8>().is_ok()).map(str::to_owned).collect()
}

fn wrong_statuses(document: &Document, known: &BTreeSet<String>) -> Vec<Piece> {
    let wrong = document.statuses().into_iter().filter(|status| !known.contains(&status.text));
    wrong
        .map(|Piece { line, text }| Piece { line, text: format!("there is no exit status {text}") })
        .collect()
}

fn wrong_links(document: &Document, folder: &Path) -> Vec<Piece> {
    let wrong = document.relative_links().into_iter().filter(|link| !folder.join(&link.text).exists());
    wrong.map(|Piece { line, text }| Piece { line, text: format!("there is no file {text}") }).collect()
}
