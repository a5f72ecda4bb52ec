//! The ways in which a gateway is started, and what gatewatch must say of each.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use serde_json::{Value, json};

use super::install::Installed;
use crate::run::run;

/// Where one gateway is started.
pub(super) struct Place {
    pub(super) release: PathBuf,
    /// The package, as npm installed it.
    pub(super) package: PathBuf,
    pub(super) node: PathBuf,
    bun: PathBuf,
    pub(super) tools: PathBuf,
    pub(super) port: u16,
    /// A folder of its own, from which the packages that the release needs are found.
    pub(super) scratch: PathBuf,
}

/// A command line.
pub(super) struct Line {
    pub(super) program: PathBuf,
    pub(super) arguments: Vec<OsString>,
    pub(super) folder: PathBuf,
    pub(super) environment: Vec<(OsString, OsString)>,
    /// What is removed once the gateway listens.
    pub(super) removed: Option<PathBuf>,
    /// The arguments by which a process manager, which the program is, ends all.
    pub(super) ended_by: Option<Vec<OsString>>,
}

/// What gatewatch must say.
#[derive(Clone, Copy)]
pub(super) enum Expected {
    Cleaned,
    Other,
    Unclassified,
}

impl Expected {
    /// The verdict, and the outcomes of `restart` and of `clean`.
    pub(super) fn words(self) -> [&'static str; 3] {
        match self {
            Self::Cleaned => ["match", "restarted", "cleaned"],
            Self::Other => ["other", "held_by_other", "held_by_other"],
            Self::Unclassified => ["unclassified", "unknown", "unknown"],
        }
    }
}

/// What starts a gateway.
pub(super) type Start = fn(&Place) -> Result<Line>;

/// A way of starting a gateway.
pub(super) struct Way {
    pub(super) name: &'static str,
    expected: Expected,
    pub(super) in_short: bool,
    pub(super) line: Start,
}

impl Way {
    /// What must be said of this owner that was started so. A title says all: 2026.4.22 sets one however it is started.
    pub(super) fn expected(&self, owner: &Value) -> Expected {
        let is_titled = owner["argv"] == json!(["openclaw-gateway"]);
        if is_titled { Expected::Cleaned } else { self.expected }
    }
}

impl Line {
    /// Removes what is to be removed once the gateway listens.
    pub(super) fn remove(&self) -> Result<()> {
        self.removed.as_ref().map_or(Ok(()), |folder| Ok(fs::remove_dir_all(folder)?))
    }

    /// What a restart of the gateway runs: the same, or after its installation was removed the service's form from one that
    /// is there.
    pub(super) fn again(self, place: &Place) -> Result<Self> {
        if self.removed.is_some() { service(place) } else { Ok(self) }
    }
}

/// All of them.
pub(super) fn all() -> Vec<Way> {
    use Expected::{Cleaned, Other, Unclassified};
    let way = |name, expected, line| Way { name, expected, in_short: false, line };
    let common = |name, expected, line| Way { name, expected, in_short: true, line };
    vec![
        common("the service's form", Cleaned, service),
        common("the launcher, which sets a title", Cleaned, launcher),
        way("dist/entry.js, which sets a title", Cleaned, |place| Ok(place.node(&["dist/entry.js"]))),
        way("the command in the PATH", Cleaned, |place| {
            Ok(place.line(place.release.join("node_modules/.bin/openclaw"), &[]))
        }),
        common("a link of another name", Cleaned, link),
        way("from inside dist", Cleaned, |place| {
            Ok(Line { folder: place.package.join("dist"), ..place.node(&["index.js"]) })
        }),
        way("an untidy relative path", Cleaned, |place| Ok(place.node(&["./dist//index.js"]))),
        way("a heap limit", Cleaned, |place| Ok(place.node(&["--max-old-space-size=2048", "dist/index.js"]))),
        common("options that take the next word", Cleaned, |place| {
            let options = ["--disable-warning", "DEP0001", "--dns-result-order", "ipv4first"];
            let more = ["--unhandled-rejections", "warn", "--v8-pool-size", "2", "dist/index.js"];
            Ok(place.node(&[&options[..], &more].concat()))
        }),
        common("one of V8's options that is not known", Unclassified, |place| {
            Ok(place.node(&["--no-flush-bytecode", "dist/index.js"]))
        }),
        way("node-22", Cleaned, |place| renamed(place, "node-22")),
        way("a runtime of quite another name", Cleaned, |place| renamed(place, "claw-runtime")),
        way("an entry that ends in .mjs", Cleaned, |place| {
            let package = place.copy("openclaw")?;
            fs::rename(package.join("dist/index.js"), package.join("dist/index.mjs"))?;
            Ok(place.node_in(&package, &["dist/index.mjs"]))
        }),
        way("the sources by tsx (a stand-in for a checkout)", Cleaned, |place| {
            let tsx = place.tools.join("tsx/dist/loader.mjs").display().to_string();
            let package = checkout(place)?;
            Ok(place.node_in(&package, &["--import", &tsx, "src/entry.ts"]))
        }),
        way("the sources by Bun (a stand-in for a checkout)", Cleaned, |place| {
            let package = checkout(place)?;
            Ok(Line { program: place.bun.clone(), ..place.node_in(&package, &["src/entry.ts"]) })
        }),
        way("PM2", Cleaned, pm2),
        way("a wrapper that execs Node", Cleaned, |place| {
            let script = place.package.join("dist/index.js");
            let text = format!("#!/bin/sh\nexec {} {} \"$@\"\n", place.node.display(), script.display());
            wrapper(place, &text)
        }),
        common("a wrapper that is a Node program", Cleaned, |place| {
            let script = place.package.join("dist/index.js");
            let text =
                format!("#!{}\nprocess.argv[1] = {script:?};\nimport({script:?});\n", place.node.display());
            wrapper(place, &text)
        }),
        common("an installation that was removed since; restarted from another", Cleaned, |place| {
            removed(place, "openclaw")
        }),
        way("one that was removed from a folder of another name", Unclassified, |place| {
            removed(place, "app")
        }),
        way("the package under its former name", Cleaned, |place| {
            let package = place.copy("app")?;
            rename_package(&package, "clawdbot")?;
            Ok(place.node_in(&package, &["dist/index.js"]))
        }),
        common("another package with the same script", Other, |place| {
            let package = place.scratch.join("other");
            fs::create_dir_all(package.join("dist"))?;
            fs::write(package.join("package.json"), "{\"name\":\"other\"}")?;
            let text = "require('net').createServer().listen(process.argv[4], '127.0.0.1')";
            fs::write(package.join("dist/index.js"), text)?;
            Ok(place.node_in(&package, &["dist/index.js"]))
        }),
    ]
}

/// What the installed unit runs: the runtime's full path, the script's full path, `gateway --port N`.
pub(super) fn service(place: &Place) -> Result<Line> {
    Ok(place.node(&[&place.package.join("dist/index.js").display().to_string()]))
}

/// What the command in the PATH leads to.
pub(super) fn launcher(place: &Place) -> Result<Line> {
    Ok(place.node(&["openclaw.mjs"]))
}

fn link(place: &Place) -> Result<Line> {
    let link = place.scratch.join("oc");
    symlink(place.package.join("dist/index.js"), &link)?;
    Ok(place.node(&[&link.display().to_string()]))
}

fn renamed(place: &Place, name: &str) -> Result<Line> {
    let program = place.scratch.join(name);
    fs::hard_link(&place.node, &program)?;
    Ok(Line { program, ..service(place)? })
}

fn removed(place: &Place, folder: &str) -> Result<Line> {
    let package = place.copy(folder)?;
    let script = package.join("dist/index.js").display().to_string();
    Ok(Line { removed: Some(package), ..place.node_in(&place.scratch, &[&script]) })
}

/// The package with an entry where a checkout has its own. The sources are not in the package.
fn checkout(place: &Place) -> Result<PathBuf> {
    let package = place.copy("openclaw")?;
    fs::create_dir_all(package.join("src"))?;
    let script = package.join("dist/index.js");
    let text = format!("process.argv[1] = {script:?};\nawait import({script:?});\nexport {{}};\n");
    fs::write(package.join("src/entry.ts"), text)?;
    Ok(package)
}

fn wrapper(place: &Place, text: &str) -> Result<Line> {
    let program = place.scratch.join("my-claw");
    fs::write(&program, text)?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    let environment = vec![("OPENCLAW_WRAPPER".into(), program.clone().into())];
    Ok(Line { environment, ..place.line(program, &[]) })
}

fn pm2(place: &Place) -> Result<Line> {
    let pm2 = place.tools.join("pm2/bin/pm2");
    let home = ("PM2_HOME".into(), place.scratch.join("pm2").into());
    let mut line = place.line(place.node.clone(), &[]);
    line.ended_by = Some(vec![pm2.clone().into(), "kill".into()]);
    let gateway = std::mem::take(&mut line.arguments);
    line.arguments = vec![pm2.into(), "start".into(), place.package.join("dist/index.js").into()];
    line.arguments.extend(["--no-autorestart", "--"].map(OsString::from));
    line.arguments.extend(gateway);
    line.environment.push(home);
    Ok(line)
}

fn rename_package(package: &Path, name: &str) -> Result<()> {
    let path = package.join("package.json");
    let mut manifest: Value = serde_json::from_str(&fs::read_to_string(&path)?)?;
    manifest["name"] = name.into();
    // The copy shares its files with the installation: this one is put in its place, not written over.
    fs::remove_file(&path)?;
    fs::write(path, manifest.to_string())?;
    Ok(())
}

impl Place {
    pub(super) fn new(installed: &Installed, release: &str, port: u16, scratch: PathBuf) -> Self {
        let release = installed.release(release);
        Self {
            package: release.join("node_modules/openclaw"),
            release,
            node: installed.node(),
            bun: installed.bun(),
            tools: installed.tools(),
            port,
            scratch,
        }
    }

    /// Node first, then the system's own.
    pub(super) fn path(&self) -> OsString {
        let mut path = self.node.parent().unwrap_or(&self.node).as_os_str().to_owned();
        path.push(":/usr/local/bin:/usr/bin:/bin");
        path
    }

    /// What gateways write, and what gatewatch writes besides its answer while it restarts one.
    pub(super) fn log(&self) -> PathBuf {
        self.scratch.join("log")
    }

    /// What they have written so far.
    pub(super) fn logged(&self) -> String {
        fs::read_to_string(self.log()).unwrap_or_default()
    }

    /// Where a gateway keeps its state.
    pub(super) fn state(&self) -> PathBuf {
        self.scratch.join("state")
    }

    /// A program with the gateway's arguments after its own.
    fn line(&self, program: PathBuf, before: &[&str]) -> Line {
        let port = self.port.to_string();
        let gateway = ["gateway", "--port", &port, "--allow-unconfigured"];
        Line {
            program,
            arguments: before.iter().chain(&gateway).map(OsString::from).collect(),
            folder: self.package.clone(),
            environment: Vec::new(),
            removed: None,
            ended_by: None,
        }
    }

    fn node(&self, before: &[&str]) -> Line {
        self.line(self.node.clone(), before)
    }

    fn node_in(&self, folder: &Path, before: &[&str]) -> Line {
        Line { folder: folder.to_owned(), ..self.node(before) }
    }

    /// A copy of the package in a folder of this name, made of links to the same files.
    fn copy(&self, name: &str) -> Result<PathBuf> {
        let copy = self.scratch.join("copy").join(name);
        fs::create_dir_all(self.scratch.join("copy"))?;
        run(Command::new("cp").arg("--archive").arg("--link").arg(&self.package).arg(&copy))?;
        Ok(copy)
    }
}
