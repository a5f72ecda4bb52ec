//! Looks a command up before anything is signalled for it: a typo must not cost the old server.

use std::env::{self, consts::EXE_SUFFIX};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

use super::args::Format;
use super::context::Context;
use super::exit::{CliError, Exit};
use crate::model::{Port, Reason};
use crate::platform::Host;
use crate::platform::contract::Platform;
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

/// The file that would be run. What is checked is what the system checks: the path or PATH, the right to execute it, and
/// the interpreter of a script.
fn find(program: &str, path: Option<&std::ffi::OsStr>) -> Result<PathBuf, String> {
    if program.is_empty() {
        return Err("the command is empty".to_owned());
    }
    let file = if Path::new(program).components().count() > 1 || program.starts_with('.') {
        existing(Path::new(program))
            .ok_or_else(|| format!("{program} can't be run: there is no such file"))?
    } else {
        let path = path.unwrap_or_default();
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
    if let Some(words) = Host::interpreter(&file) {
        interpreted(program, &words, path)?;
    }
    Ok(file)
}

/// The file, or the same with the system's suffix for programs.
fn existing(file: &Path) -> Option<PathBuf> {
    let mut with_suffix = file.as_os_str().to_owned();
    with_suffix.push(EXE_SUFFIX);
    [file.to_owned(), with_suffix.into()].into_iter().find(|file| file.exists())
}

fn interpreted(program: &str, words: &[String], path: Option<&std::ffi::OsStr>) -> Result<(), String> {
    let Some((interpreter, arguments)) = words.split_first() else { return Ok(()) };
    let missing = |name: &str| {
        let hint = if name.ends_with('\r') { ": its first line ends with a carriage return" } else { "" };
        format!("{program} can't be run: its interpreter {} is missing{hint}", name.trim_end_matches('\r'))
    };
    if !Host::is_executable(Path::new(interpreter)) {
        return Err(missing(interpreter));
    }
    let is_env = Path::new(interpreter).file_name().is_some_and(|name| name == "env");
    let named = arguments.first().filter(|name| is_env && !name.starts_with('-') && !name.contains('='));
    match named {
        Some(name) if find(name, path).is_err() => Err(missing(name)),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::ffi::OsStr;
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
    fn what_can_not_be_run_is_named_with_its_reason() {
        let folder = tempfile::tempdir().unwrap();
        let path = Some(folder.path().as_os_str());
        let cases = [
            (script(folder.path(), "plain", "#!/bin/sh\n", 0o644), "chmod +x"),
            (script(folder.path(), "lost", "#!/no/such/shell\n", 0o755), "/no/such/shell is missing"),
            (script(folder.path(), "env", "#!/usr/bin/env no-such-node\n", 0o755), "no-such-node is missing"),
            (script(folder.path(), "crlf", "#!/bin/sh\r\n", 0o755), "carriage return"),
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
