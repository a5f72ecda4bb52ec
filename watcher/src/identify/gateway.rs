//! Which command line is an OpenClaw gateway's.
//!
//! The name does not tell: Node's processes are all called `node` until they set a title, and other programs have
//! `openclaw` in their names or arguments. The executable, the script, the package that it belongs to, and the first
//! sub-command do.

use std::path::{Path, PathBuf};

use super::package::{self, Package};
use super::{Judgement, OPENCLAW_GATEWAY as TITLE};
use crate::process::Process;

/// Where a name is cut by the kernel (`TASK_COMM_LEN` less the NUL, proc_pid_comm(5)).
const COMM_LENGTH: usize = 15;
/// Programs that run a script.
const RUNTIMES: [&str; 4] = ["node", "nodejs", "bun", "tsx"];
/// What a gateway's script ends in.
const SCRIPTS: [&str; 6] = [
    "dist/index.js",
    "dist/entry.js",
    "openclaw.mjs",
    "scripts/run-node.mjs",
    "src/entry.ts",
    "src/index.ts",
];
/// Runtimes' options whose value is the next argument.
const RUNTIME_VALUES: [&str; 17] = [
    "-r",
    "--require",
    "--import",
    "--loader",
    "--experimental-loader",
    "-c",
    "--conditions",
    "--title",
    "--env-file",
    "--env-file-if-exists",
    "--input-type",
    "--icu-data-dir",
    "--openssl-config",
    "--tsconfig",
    "--cwd",
    "--config",
    "--preload",
];
/// Options by which a runtime runs something other than a script file.
const NO_SCRIPT: [&str; 5] = ["-e", "--eval", "-p", "--print", "-pe"];
/// OpenClaw's options before the sub-command whose value is the next argument.
const ROOT_VALUES: [&str; 3] = ["--profile", "--log-level", "--container"];
/// Its options before the sub-command that take no value.
const ROOT_FLAGS: [&str; 5] = ["--dev", "--no-color", "--update", "--verbose", "--quiet"];

/// Judges a process by its command line.
pub(super) fn judge(process: &Process) -> Judgement {
    let Some(argv) = &process.argv else { return super::unreadable_argv() };
    let arguments: Vec<Argument<'_>> = argv.iter().filter_map(|raw| Argument::new(raw)).collect();
    let Some((first, rest)) = arguments.split_first() else { return super::unreadable_argv() };
    let program = first.program();
    if program == TITLE {
        Judgement::matching(format!("its title is {TITLE}"))
    } else if rest.is_empty() && is_cut_title(&program, &process.comm) {
        Judgement::matching(format!("its title is {TITLE}, cut to {program:?}"))
    } else if program == "openclaw" {
        by_subcommand(rest, "openclaw", || Judgement::matching("it is openclaw's gateway sub-command"))
    } else if RUNTIMES.contains(&program.as_str()) {
        by_script(process, rest)
    } else {
        Judgement::other(format!("{program:?} is no gateway"))
    }
}

/// An argument as it was given, and in the form that is compared: backslashes turned, trimmed, in lower case.
struct Argument<'a> {
    raw: &'a str,
    normal: String,
}

impl<'a> Argument<'a> {
    /// `None` for one that is empty.
    fn new(raw: &'a str) -> Option<Self> {
        let normal = raw.replace('\\', "/").trim().to_lowercase();
        (!normal.is_empty()).then_some(Self { raw, normal })
    }

    /// The program that argument 0 names: its last part, without Windows' endings.
    fn program(&self) -> String {
        let name = self.normal.rsplit('/').next().unwrap_or_default();
        [".exe", ".cmd", ".bat"]
            .into_iter()
            .find_map(|ending| name.strip_suffix(ending))
            .unwrap_or(name)
            .to_owned()
    }

    fn is_option(&self) -> bool {
        self.normal.starts_with('-') && self.normal.len() > 1
    }
}

/// A title finds no more room than the arguments had at the start, and the name is cut to 15 bytes. The name alone
/// would also be that of `openclaw-gatewatch`, so what is left of the title must be its beginning.
fn is_cut_title(program: &str, comm: &str) -> bool {
    TITLE.starts_with(program) && TITLE.starts_with(comm) && comm.len() == COMM_LENGTH
}

fn by_script(process: &Process, arguments: &[Argument<'_>]) -> Judgement {
    let Some(at) = script_place(arguments) else {
        return Judgement::other("its runtime runs no script file");
    };
    let script = &arguments[at];
    let named_openclaw = script.normal.rsplit('/').next() == Some("openclaw");
    if !named_openclaw && !is_gateway_script(&script.normal) {
        return Judgement::other(format!("its script is {:?}", script.raw));
    }
    by_subcommand(&arguments[at + 1..], script.raw, || {
        let path = match absolute(process, script) {
            Ok(path) => path,
            Err(judgement) => return judgement,
        };
        by_package(process, &path, named_openclaw)
    })
}

/// Where the script stands among a runtime's arguments.
fn script_place(arguments: &[Argument<'_>]) -> Option<usize> {
    let mut at = 0;
    while let Some(argument) = arguments.get(at) {
        let word = argument.normal.as_str();
        if NO_SCRIPT.contains(&word) {
            return None;
        } else if word == "--" {
            return (at + 1 < arguments.len()).then_some(at + 1);
        } else if RUNTIME_VALUES.contains(&word) {
            at += 2;
        } else if argument.is_option() || matches!(word, "run" | "watch") {
            // `bun run SCRIPT`, `tsx watch SCRIPT`.
            at += 1;
        } else {
            return Some(at);
        }
    }
    None
}

fn is_gateway_script(normal: &str) -> bool {
    SCRIPTS.iter().any(|ending| {
        normal.strip_suffix(ending).is_some_and(|before| before.is_empty() || before.ends_with('/'))
    })
}

/// The script's path as the process sees it.
fn absolute(process: &Process, script: &Argument<'_>) -> Result<PathBuf, Judgement> {
    let path = Path::new(script.raw.trim());
    // A path of Windows, with its drive, is absolute there; with other separators it works as it stands.
    if path.is_absolute() {
        return Ok(path.to_owned());
    }
    let cwd = process.cwd.as_deref();
    cwd.map(|cwd| cwd.join(path)).ok_or_else(|| {
        Judgement::unclassified("its script is relative, and its working directory can't be read")
    })
}

fn by_package(process: &Process, script: &Path, through_link: bool) -> Judgement {
    let root = process.root.as_deref();
    let script = match package::resolve(root, script) {
        Ok(script) => script,
        Err(why) => return Judgement::unclassified(format!("its script {}: {why}", script.display())),
    };
    // npm puts a link named `openclaw` into the PATH, which the kernel shows as the script.
    let ending = script.to_string_lossy().replace('\\', "/").to_lowercase();
    if through_link && !is_gateway_script(&ending) {
        return Judgement::other(format!("its script is {}", script.display()));
    }
    match package::nearest(root, &script) {
        Package::Named(name) if name == "openclaw" => {
            Judgement::matching(format!("it runs the gateway of package openclaw, {}", script.display()))
        }
        Package::Named(name) => Judgement::other(format!("its script belongs to the package {name:?}")),
        Package::None => Judgement::other("its script belongs to no package"),
        Package::Unreadable(why) => Judgement::unclassified(format!("its package.json can't be read: {why}")),
    }
}

/// What the first sub-command turns out to be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Subcommand {
    Gateway,
    Other,
    /// It depends on whether an option that is not known takes a value.
    Unclear,
}

fn by_subcommand(arguments: &[Argument<'_>], of: &str, gateway: impl FnOnce() -> Judgement) -> Judgement {
    match subcommand(arguments) {
        Subcommand::Gateway => gateway(),
        Subcommand::Other => Judgement::other(format!("{of:?} runs another sub-command than gateway")),
        Subcommand::Unclear => {
            Judgement::unclassified("its sub-command depends on an option that is not known")
        }
    }
}

/// Looks for the first argument that is neither an option nor an option's value. From the end to the front, so that an
/// unknown option can be read both ways.
fn subcommand(arguments: &[Argument<'_>]) -> Subcommand {
    let mut from: Vec<Subcommand> = vec![Subcommand::Other; arguments.len() + 2];
    for (at, argument) in arguments.iter().enumerate().rev() {
        let word = argument.normal.as_str();
        from[at] = if !argument.is_option() {
            if word == "gateway" { Subcommand::Gateway } else { Subcommand::Other }
        } else if word == "--" || word.contains('=') || ROOT_FLAGS.contains(&word) {
            from[at + 1]
        } else if ROOT_VALUES.contains(&word) {
            from[at + 2]
        } else if from[at + 1] == from[at + 2] {
            from[at + 1]
        } else {
            Subcommand::Unclear
        };
    }
    from[0]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::process;
    use super::*;
    use crate::process::Identity;

    fn verdict(argv: &[&str]) -> Identity {
        judge(&process(argv)).identity
    }

    /// A package folder with scripts in it.
    fn package(name: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("package.json"), format!("{{\"name\":\"{name}\"}}")).unwrap();
        for script in SCRIPTS {
            let path = folder.path().join(script);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        folder
    }

    #[test]
    fn the_title_counts_alone_and_as_a_path() {
        assert_eq!(verdict(&["openclaw-gateway"]), Identity::Match);
        assert_eq!(verdict(&["/usr/local/bin/openclaw-gateway", "--port", "1"]), Identity::Match);
        assert_eq!(verdict(&["C:\\Tools\\OpenClaw-Gateway.EXE"]), Identity::Match);
        assert_eq!(verdict(&["openclaw-gateway", "", "", ""]), Identity::Match);
    }

    #[test]
    fn a_cut_title_counts_only_with_the_cut_name() {
        let mut cut = process(&["openclaw-gat"]);
        cut.comm = "openclaw-gatewa".to_owned();
        assert_eq!(judge(&cut).identity, Identity::Match);
        cut.comm = "node".to_owned();
        assert_eq!(judge(&cut).identity, Identity::Other);
        let mut longer = process(&["openclaw-gatewatch"]);
        longer.comm = "openclaw-gatewa".to_owned();
        assert_eq!(judge(&longer).identity, Identity::Other);
    }

    #[test]
    fn the_name_alone_never_counts() {
        let mut hidden = process(&["openclaw-gateway"]);
        hidden.argv = None;
        assert_eq!(judge(&hidden).identity, Identity::Unclassified);
        hidden.argv = Some(vec![String::new()]);
        assert_eq!(judge(&hidden).identity, Identity::Unclassified);
    }

    #[test]
    fn a_runtime_with_a_script_of_the_package_counts() {
        let folder = package("openclaw");
        for script in SCRIPTS {
            let path = folder.path().join(script).display().to_string();
            for runtime in ["node", "/usr/bin/node", "bun", "tsx", "C:\\node\\NODE.exe"] {
                assert_eq!(
                    verdict(&[runtime, &path, "gateway", "--port", "1"]),
                    Identity::Match,
                    "{runtime} {path}"
                );
            }
            assert_eq!(
                verdict(&["node", "--max-old-space-size=4096", "-r", "x", &path, "gateway"]),
                Identity::Match
            );
            assert_eq!(verdict(&["bun", "run", &path, "--profile", "p", "gateway"]), Identity::Match);
            assert_eq!(verdict(&["node", &path, "status"]), Identity::Other);
            assert_eq!(verdict(&["node", "-e", &path, "gateway"]), Identity::Other);
        }
    }

    #[test]
    fn the_same_script_of_another_package_does_not_count() {
        let folder = package("other-app");
        let path = folder.path().join("dist/index.js").display().to_string();
        assert_eq!(verdict(&["node", &path, "gateway"]), Identity::Other);
    }

    #[test]
    fn the_nearest_package_decides() {
        let folder = package("openclaw");
        let inner = folder.path().join("node_modules/other/dist");
        std::fs::create_dir_all(&inner).unwrap();
        std::fs::write(inner.join("index.js"), "").unwrap();
        std::fs::write(inner.parent().unwrap().join("package.json"), r#"{"name":"other"}"#).unwrap();
        assert_eq!(
            verdict(&["node", &inner.join("index.js").display().to_string(), "gateway"]),
            Identity::Other
        );
    }

    #[test]
    fn a_script_or_package_that_can_not_be_read_is_unclassified() {
        assert_eq!(verdict(&["node", "/no/such/dist/index.js", "gateway"]), Identity::Unclassified);
        let folder = package("openclaw");
        std::fs::write(folder.path().join("package.json"), "{").unwrap();
        let path = folder.path().join("dist/index.js").display().to_string();
        assert_eq!(verdict(&["node", &path, "gateway"]), Identity::Unclassified);
    }

    #[test]
    fn a_relative_script_needs_the_working_directory() {
        let folder = package("openclaw");
        let mut relative = process(&["node", "dist/index.js", "gateway"]);
        assert_eq!(judge(&relative).identity, Identity::Unclassified);
        relative.cwd = Some(folder.path().to_owned());
        assert_eq!(judge(&relative).identity, Identity::Match);
    }

    #[cfg(unix)]
    #[test]
    fn npms_link_in_the_path_is_followed() {
        let folder = package("openclaw");
        let link = folder.path().join("bin-openclaw");
        std::fs::create_dir(&link).unwrap();
        for target in ["../openclaw.mjs", "./../openclaw.mjs"] {
            let path = link.join("openclaw");
            let _ = std::fs::remove_file(&path);
            std::os::unix::fs::symlink(target, &path).unwrap();
            let path = path.display().to_string();
            assert_eq!(verdict(&["node", &path, "gateway"]), Identity::Match);
            assert_eq!(verdict(&["node", &path, "doctor"]), Identity::Other);
        }
    }

    #[cfg(unix)]
    #[test]
    fn paths_are_those_of_the_processs_own_root() {
        // given a container's root with an absolute link in it
        let root = package("elsewhere");
        let app = root.path().join("app");
        std::fs::create_dir_all(app.join("dist")).unwrap();
        std::fs::write(app.join("dist/index.js"), "").unwrap();
        std::fs::write(app.join("package.json"), r#"{"name":"openclaw"}"#).unwrap();
        std::os::unix::fs::symlink("/app", root.path().join("current")).unwrap();
        let mut inside = process(&["node", "/current/dist/index.js", "gateway"]);
        inside.root = Some(root.path().to_owned());
        assert_eq!(judge(&inside).identity, Identity::Match);
    }

    #[test]
    fn openclaw_counts_by_its_first_subcommand() {
        assert_eq!(verdict(&["openclaw", "gateway", "--port", "18789"]), Identity::Match);
        assert_eq!(verdict(&["/usr/bin/openclaw", "--dev", "--profile", "x", "gateway"]), Identity::Match);
        assert_eq!(verdict(&["openclaw", "--profile=x", "gateway"]), Identity::Match);
        assert_eq!(verdict(&["openclaw"]), Identity::Other);
    }

    #[test]
    fn a_word_that_is_an_options_value_is_not_the_subcommand() {
        assert_eq!(verdict(&["openclaw", "agent", "--message", "gateway"]), Identity::Other);
        assert_eq!(verdict(&["openclaw", "--profile", "gateway", "status"]), Identity::Other);
    }

    #[test]
    fn an_unknown_option_that_changes_the_reading_is_unclassified() {
        assert_eq!(verdict(&["openclaw", "--new", "gateway"]), Identity::Unclassified);
        assert_eq!(verdict(&["openclaw", "--new", "gateway", "gateway"]), Identity::Match);
    }

    #[test]
    fn look_alikes_do_not_count() {
        for argv in [
            &["openclaw-doctor"][..],
            &["python", "gateway"],
            &["python3", "/opt/openclaw/dist/index.js", "gateway"],
            &["node", "custom.js", "gateway"],
            &["node", "/x/mydist/index.js", "gateway"],
            &["socat", "TCP-LISTEN:18789", "EXEC:openclaw gateway"],
            &["grep", "openclaw-gateway"],
            &["node"],
        ] {
            assert_eq!(verdict(argv), Identity::Other, "{argv:?}");
        }
    }

    proptest! {
        #[test]
        fn any_command_line_gets_a_verdict(argv in proptest::collection::vec(".{0,20}", 0..8)) {
            let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
            judge(&process(&argv));
        }

        #[test]
        fn without_the_word_nothing_matches(argv in proptest::collection::vec("[a-f/.-]{0,12}", 0..8)) {
            let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
            prop_assert_ne!(verdict(&argv), Identity::Match);
        }

        #[test]
        fn case_and_separators_do_not_matter(upper in any::<bool>(), back in any::<bool>(), exe in any::<bool>()) {
            let mut program = format!("/opt/bin/openclaw{}", if exe { ".exe" } else { "" });
            if upper { program = program.to_uppercase(); }
            if back { program = program.replace('/', "\\"); }
            prop_assert_eq!(verdict(&[&program, "gateway"]), Identity::Match);
        }

        #[test]
        fn root_options_before_the_subcommand_do_not_matter(
            options in proptest::collection::vec(prop_oneof![
                Just(vec!["--dev"]), Just(vec!["--profile", "gateway"]), Just(vec!["--log-level=info"])
            ], 0..5),
            word in prop_oneof![Just("gateway"), Just("status")],
        ) {
            let mut argv = vec!["openclaw"];
            argv.extend(options.into_iter().flatten());
            argv.push(word);
            let expected = if word == "gateway" { Identity::Match } else { Identity::Other };
            prop_assert_eq!(verdict(&argv), expected);
        }
    }
}
