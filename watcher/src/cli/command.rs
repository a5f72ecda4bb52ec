//! Looks a command up before anything is signalled for it: a typo must not cost the old server.

use std::collections::VecDeque;
use std::env::{self, consts::EXE_SUFFIX};
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

use super::args::Format;
use super::context::Context;
use super::exit::{CliError, Exit};
use crate::model::{Port, Reason};
use crate::platform::Host;
use crate::platform::contract::{Platform, Runs};
use crate::wire::restart::{NotRun, NotRunCommand};

/// Looks the command up and runs the check. Returns the exit status, having said why, if it must not go on.
pub(super) async fn refuse(
    context: &Context,
    port: Port,
    argv: &[String],
    check: Option<&str>,
) -> Result<Option<Exit>, CliError> {
    let found =
        argv.first().map_or(Ok(()), |program| find(program, env::var_os("PATH").as_deref()).map(drop));
    let (exit, reason, why) = match (found, check) {
        (Err(why), _) => (Exit::Usage, Reason::NoSuchCommand, why),
        (Ok(()), Some(check)) => match run_check(check).await {
            Err(why) => (Exit::Failed, Reason::CheckFailed, why),
            Ok(()) => return Ok(None),
        },
        (Ok(()), None) => return Ok(None),
    };
    not_run(context, port, argv, reason, why)?;
    Ok(Some(exit))
}

/// Says why the command is not run, and nobody signalled.
pub(super) fn not_run(
    context: &Context,
    port: Port,
    argv: &[String],
    reason: Reason,
    why: String,
) -> Result<(), CliError> {
    super::say(&format!("gatewatch: {why}; no process was signalled\n"));
    if context.format == Format::Json {
        let command = NotRunCommand { argv };
        super::print_json(&NotRun { port: port.number, protocol: port.protocol, reason, why, command })?;
    }
    Ok(())
}

/// The shell's verdict.
async fn run_check(check: &str) -> Result<(), String> {
    let [shell, option] = Host::SHELL;
    let mut command = Command::new(shell);
    command.args([option, check]).stdin(Stdio::null()).stdout(Stdio::from(io::stderr()));
    match command.status().await {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(match status.code() {
            Some(code) => format!("the check ended with status {code}: {check}"),
            None => format!("a signal ended the check: {check}"),
        }),
        Err(error) => Err(format!("the check can't be run: {error}")),
    }
}

/// The longest chain of scripts that are run by scripts; Linux follows five.
const MOST_INTERPRETERS: u32 = 4;

/// The file that would be run. What is checked is what the system checks: the path or PATH, the right to execute it, the
/// interpreter of a script, and what a program says of itself.
fn find(program: &str, path: Option<&OsStr>) -> Result<PathBuf, String> {
    let file = located(program, path)?;
    runnable(&file, path, MOST_INTERPRETERS).map_err(|why| format!("{program} can't be run: {why}"))?;
    Ok(file)
}

/// The file, if this user may execute it.
fn located(program: &str, path: Option<&OsStr>) -> Result<PathBuf, String> {
    if program.is_empty() {
        return Err("the command is empty".to_owned());
    }
    let file = if Path::new(program).components().count() > 1 || program.starts_with('.') {
        let file = Path::new(program);
        existing(file).ok_or_else(|| format!("{program} can't be run: {}", why_missing(file)))?
    } else {
        // What execvp(3) takes where there is no PATH.
        let path = path.unwrap_or(OsStr::new("/bin:/usr/bin"));
        let candidates: Vec<PathBuf> =
            env::split_paths(path).filter_map(|folder| existing(&folder.join(program))).collect();
        let usable = candidates.iter().find(|file| Host::is_executable(file));
        usable
            .or(candidates.first())
            .cloned()
            .ok_or_else(|| format!("{program} can't be run: it is not in any folder of PATH"))?
    };
    if file.is_dir() {
        return Err(format!("{program} can't be run: it is a folder"));
    }
    if !Host::is_executable(&file) {
        return Err(format!(
            "{program} can't be run: {} may not be executed (chmod +x makes it executable)",
            file.display()
        ));
    }
    Ok(file)
}

/// Whether the system would run the file.
fn runnable(file: &Path, path: Option<&OsStr>, most: u32) -> Result<(), String> {
    match Host::runs(file) {
        Runs::Itself => Ok(()),
        Runs::By { .. } if most == 0 => Ok(()),
        Runs::By { interpreter, arguments } => interpreted(&interpreter, &arguments, path, most - 1),
        // What runs it here are the system's calls, and not a shell, which would take it for a script.
        Runs::NoFormat => Err(format!(
            "{0} is neither a program nor a script that begins with #! (sh {0} takes it for one)",
            file.display()
        )),
        Runs::Never(why) => Err(why),
    }
}

/// The file, or the same with the system's suffix for programs.
fn existing(file: &Path) -> Option<PathBuf> {
    let mut with_suffix = file.as_os_str().to_owned();
    with_suffix.push(EXE_SUFFIX);
    [file.to_owned(), with_suffix.into()].into_iter().find(|file| file.exists())
}

fn why_missing(file: &Path) -> String {
    match file.metadata().map_err(|error| (error.kind(), error)) {
        Err((io::ErrorKind::PermissionDenied, _)) => {
            "a folder on the way to it may not be entered by this user".to_owned()
        }
        Err((io::ErrorKind::NotFound, _)) | Ok(_) => "there is no such file".to_owned(),
        Err((_, error)) => error.to_string(),
    }
}

fn interpreted(
    interpreter: &str,
    arguments: &[String],
    path: Option<&OsStr>,
    most: u32,
) -> Result<(), String> {
    let missing = |name: &str| {
        let hint = if name.ends_with('\r') { ": its first line ends with a carriage return" } else { "" };
        format!("its interpreter {} is missing{hint}", name.trim_end_matches('\r'))
    };
    let file = Path::new(interpreter);
    if !file.exists() {
        return Err(missing(interpreter));
    }
    if !Host::is_executable(file) {
        return Err(format!("its interpreter {interpreter} may not be executed"));
    }
    let unusable = |why| format!("its interpreter {interpreter} can't be run: {why}");
    runnable(file, path, most).map_err(unusable)?;
    if file.file_name().is_none_or(|name| name != "env") {
        return Ok(());
    }
    let Some(name) = run_by_env(arguments) else { return Ok(()) };
    match located(&name, path) {
        Ok(file) => match Host::runs(&file) {
            Runs::Never(why) => Err(format!("its interpreter {name} can't be run: {why}")),
            // env(1) calls execvp(3), which has a shell run what the system can't.
            Runs::Itself | Runs::By { .. } | Runs::NoFormat => Ok(()),
        },
        Err(_) if name.contains([' ', '\t']) => {
            Err(format!("{}: env takes it for one name, and env -S splits it", missing(&name)))
        }
        Err(_) => Err(missing(&name)),
    }
}

/// The program that env(1) runs with these arguments; `None` where only env can tell.
fn run_by_env(arguments: &[String]) -> Option<String> {
    let mut words: VecDeque<String> = arguments.iter().cloned().collect();
    while let Some(word) = words.pop_front() {
        let split = ["-S", "-vS", "--split-string="].into_iter().find_map(|flag| word.strip_prefix(flag));
        if let Some(rest) = split {
            // `-S` alone takes the next word.
            let text = if rest.is_empty() { words.pop_front()? } else { rest.to_owned() };
            if text.contains(['\'', '"', '\\', '$', '#']) {
                return None;
            }
            for word in text.split_whitespace().rev() {
                words.push_front(word.to_owned());
            }
        } else if word == "-v" || word == "--debug" || (word.contains('=') && !word.starts_with("PATH=")) {
            // Neither changes what is found.
        } else if word.starts_with('-') || word.contains('=') {
            return None;
        } else {
            return Some(word);
        }
    }
    None
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn script(folder: &Path, name: &str, text: &str, mode: u32) -> String {
        let file = folder.join(name);
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        file.to_str().unwrap().to_owned()
    }

    #[test]
    fn what_can_be_run_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = Some(folder.path().as_os_str());
        script(folder.path(), "mine", "#!/bin/sh\n", 0o755);
        assert_eq!(find("mine", path).unwrap(), folder.path().join("mine"));
        let by_env = script(folder.path(), "by-env", "#!/usr/bin/env mine\n", 0o755);
        assert!(find(&by_env, path).is_ok());
        assert!(find("/bin/sh", None).is_ok());
    }

    #[test]
    fn env_is_known_by_what_it_runs() {
        for (arguments, program) in [
            (&["node"][..], Some("node")),
            (&["-S node --flag"], Some("node")),
            (&["-S", "node --flag"], Some("node")),
            (&["--split-string=A=1 node"], Some("node")),
            (&["-vSnode x"], Some("node")),
            (&["A=1", "node"], Some("node")),
            // all in one word, as Linux hands it on
            (&["node --flag"], Some("node --flag")),
            // what changes where it is looked for, or takes a word of its own, is left to env
            (&["-S PATH=/x node"], None),
            (&["-i", "node"], None),
            (&["-u", "A", "node"], None),
            (&["-S ${X} y"], None),
            (&["-S 'a b'"], None),
            (&["-S"], None),
            (&[], None),
        ] {
            let words: Vec<String> = arguments.iter().map(|&word| word.to_owned()).collect();
            assert_eq!(run_by_env(&words).as_deref(), program, "{arguments:?}");
        }
    }

    #[test]
    fn what_can_not_be_run_is_named_with_its_reason() {
        let folder = tempfile::tempdir().unwrap();
        let path = Some(folder.path().as_os_str());
        let cases = [
            (script(folder.path(), "plain", "#!/bin/sh\n", 0o644), "chmod +x"),
            (script(folder.path(), "lost", "#!/no/such/shell\n", 0o755), "/no/such/shell is missing"),
            (script(folder.path(), "env", "#!/usr/bin/env no-such-node\n", 0o755), "no-such-node is missing"),
            (script(folder.path(), "crlf", "#!/bin/sh\r\n", 0o755), "carriage return"),
            (
                script(folder.path(), "split", "#!/usr/bin/env -S no-such-node -x\n", 0o755),
                "no-such-node is missing",
            ),
            (script(folder.path(), "spent", "#!/bin/sh -e\n", 0o644), "chmod +x"),
            (folder.path().display().to_string(), "it is a folder"),
            ("/no/such/program".to_owned(), "no such file"),
            ("no-such-program".to_owned(), "PATH"),
            (String::new(), "empty"),
        ];
        for (program, why) in cases {
            let said = find(&program, path).unwrap_err();
            assert!(said.contains(why), "{program}: {said}");
        }
        // and one in a later folder counts where an earlier one may not be executed
        let later = tempfile::tempdir().unwrap();
        script(later.path(), "plain", "#!/bin/sh\n", 0o755);
        let both = env::join_paths([folder.path(), later.path()]).unwrap();
        assert_eq!(find("plain", Some(OsStr::new(&both))).unwrap(), later.path().join("plain"));
    }
}
