//! The real `gatewatch.exe` under Wine, against listeners that run there too.
//!
//! What Wine 8 can't show is left out: it names no process for a listener over IPv6.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::run::{run, succeeds, target};

const PATIENCE: Duration = Duration::from_secs(60);

/// A rule, and the test that it holds.
type Rule = (&'static str, fn(&Wine) -> Result<()>);

/// Every rule of the smoke test.
const RULES: &[Rule] = &[
    ("a_port_that_nobody_holds_is_free", nobody),
    ("an_owner_is_named_and_known_for_a_gateway", owners),
    ("a_gateway_that_obeys_is_asked_to_end", obeys),
    ("a_gateway_that_does_not_is_ended_by_force", stubborn),
    ("another_program_is_left_alone", other),
    ("a_dry_run_ends_nobody", dry_run),
    ("the_callers_parent_is_never_ended", parent),
    ("a_protected_process_is_never_ended", protected),
    ("wait_comes_true_or_runs_out_of_time", wait),
    ("watch_tells_who_holds_a_port", watch),
    ("what_is_linuxs_says_so", linux_only),
    ("bad_input_is_status_2", bad_input),
];

/// Runs all rules; fails when one doesn't hold.
///
/// # Errors
/// When a rule doesn't hold, or Wine can't be set up.
pub(crate) fn smoke(program: &Path) -> Result<()> {
    let wine = Wine::set_up(program)?;
    let mut failed = 0;
    for (name, rule) in RULES {
        match rule(&wine) {
            Ok(()) => println!("test windows::{name} ... ok"),
            Err(error) => {
                failed += 1;
                println!("test windows::{name} ... FAILED\n  {error:#}");
            }
        }
    }
    let _ = succeeds(wine.command("wineserver").arg("-k"));
    println!("test result: {} passed; {failed} failed", RULES.len() - failed);
    ensure!(failed == 0, "{failed} rules do not hold under Wine");
    Ok(())
}

struct Wine {
    prefix: PathBuf,
    gatewatch: PathBuf,
    /// The same program, named as a gateway is.
    gateway: PathBuf,
}

struct Answer {
    status: i32,
    out: String,
    err: String,
}

impl Answer {
    fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.out)
            .with_context(|| format!("status {}, no JSON: {:?} {:?}", self.status, self.out, self.err))
    }

    fn expect(&self, status: i32, outcome: &str) -> Result<Value> {
        let json = self.json()?;
        ensure!(self.status == status && json["outcome"] == outcome, "status {}, {json}", self.status);
        Ok(json)
    }
}

impl Wine {
    fn set_up(program: &Path) -> Result<Self> {
        let folder = target().join("cross/wine");
        let wine = Self {
            prefix: folder.join("prefix"),
            gatewatch: program.to_owned(),
            gateway: folder.join("openclaw-gateway.exe"),
        };
        fs::create_dir_all(&folder)?;
        if !wine.prefix.join("system.reg").exists() {
            run(wine.command("wineboot").arg("-i").stdout(Stdio::null()).stderr(Stdio::null()))?;
            run(wine.command("wineserver").arg("-w"))?;
        }
        wine.add_random(&folder)?;
        fs::copy(program, &wine.gateway)?;
        Ok(wine)
    }

    /// Every Rust program imports `ProcessPrng` from a library that Wine 8 has not got; an older one does the same.
    fn add_random(&self, folder: &Path) -> Result<()> {
        const SOURCE: &str = "#include <windows.h>\n\
            BOOLEAN NTAPI SystemFunction036(PVOID, ULONG);\n\
            __declspec(dllexport) BOOL WINAPI ProcessPrng(PBYTE to, SIZE_T length)\n\
            { return SystemFunction036(to, (ULONG)length); }\n";
        let library = self.prefix.join("drive_c/windows/system32/bcryptprimitives.dll");
        if library.exists() {
            return Ok(());
        }
        let source = folder.join("random.c");
        fs::write(&source, SOURCE)?;
        let mut compile = Command::new("x86_64-w64-mingw32-gcc");
        run(compile.args(["-shared", "-O1", "-o"]).arg(library).arg(source).arg("-ladvapi32"))
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("WINEPREFIX", &self.prefix).env("WINEDEBUG", "-all").env("WINEARCH", "win64");
        command
            .env("LANG", "C.UTF-8")
            .env_remove("DISPLAY")
            .env_remove("GATEWATCH_SOCKET")
            .stdin(Stdio::null());
        command
    }

    fn gatewatch(&self, arguments: &[&str]) -> Result<Answer> {
        let mut command = self.command("wine");
        let output = command.arg(&self.gatewatch).args(arguments).output().context("wine can't be run")?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace('\r', "");
        Ok(Answer {
            status: output.status.code().unwrap_or(-1),
            out: text(&output.stdout),
            err: text(&output.stderr),
        })
    }

    fn on(&self, command: &[&str], port: u16) -> Result<Answer> {
        self.gatewatch(&[command, &["--format", "json", "-p", &port.to_string()]].concat())
    }

    fn clean(&self, port: u16, arguments: &[&str]) -> Result<Answer> {
        self.on(&[&["clean"], arguments].concat(), port)
    }

    /// A listener, as a gateway or as something else, by now listening.
    fn listener(&self, program: &Path, port: u16, arguments: &[&str]) -> Result<Listener> {
        let mut command = self.command("wine");
        command.arg(program).args(["demo-gateway", &port.to_string()]).args(arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn()?;
        let begun = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            ensure!(begun.elapsed() < PATIENCE, "the listener does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(Listener(child))
    }

    fn gateway(&self, port: u16, arguments: &[&str]) -> Result<Listener> {
        self.listener(&self.gateway, port, arguments)
    }
}

/// It ends when this is dropped.
struct Listener(Child);

impl Listener {
    fn is_alive(&mut self) -> Result<bool> {
        Ok(self.0.try_wait()?.is_none())
    }

    fn ends(&mut self) -> Result<()> {
        let begun = Instant::now();
        while self.is_alive()? {
            ensure!(begun.elapsed() < PATIENCE, "it goes on");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn nobody(wine: &Wine) -> Result<()> {
    let json = wine.clean(21_001, &[])?.expect(0, "free")?;
    ensure!(json["backend"] == "poll" && json["released"]["proof"] == "bind", "{json}");
    Ok(())
}

fn owners(wine: &Wine) -> Result<()> {
    let _gateway = wine.gateway(21_002, &[])?;
    let json = wine.on(&["owners"], 21_002)?.json()?;
    let owner = &json["owners"][0];
    ensure!(owner["pid"].as_u64().is_some_and(|pid| pid > 0) && owner["identity"] == "match", "{json}");
    ensure!(owner["start_time"].is_string() && owner["listeners"][0] == "127.0.0.1:21002", "{json}");
    Ok(())
}

/// The demo's gateway has a console of its own, as services have, through which it can be asked; what the Unix side of
/// Wine starts has none.
fn obeys(wine: &Wine) -> Result<()> {
    let answer = wine.gatewatch(&["demo"])?;
    let (status, out, err) = (answer.status, answer.out, answer.err);
    ensure!(
        status == 0 && out.contains("by close after") && out.contains("a bind succeeded"),
        "{status} {out} {err}"
    );
    Ok(())
}

fn stubborn(wine: &Wine) -> Result<()> {
    let mut gateway = wine.gateway(21_004, &["--stubborn"])?;
    let json =
        wine.clean(21_004, &["--term-timeout", "500ms", "--kill-timeout", "20s"])?.expect(0, "cleaned")?;
    ensure!(json["owners"][0]["ended_by"] == "terminate", "{json}");
    gateway.ends()
}

fn other(wine: &Wine) -> Result<()> {
    let mut other = wine.listener(&wine.gatewatch, 21_005, &[])?;
    wine.clean(21_005, &[])?.expect(3, "held_by_other")?;
    ensure!(other.is_alive()?, "it was ended");
    Ok(())
}

fn dry_run(wine: &Wine) -> Result<()> {
    let mut gateway = wine.gateway(21_006, &[])?;
    wine.clean(21_006, &["--dry-run"])?.expect(0, "would_clean")?;
    ensure!(gateway.is_alive()?, "it was ended");
    Ok(())
}

fn parent(wine: &Wine) -> Result<()> {
    let mut command = wine.command("wine");
    let clean = ["clean", "--format", "json", "-p", "21007"];
    command
        .arg(&wine.gateway)
        .args(["demo-gateway", "21007", "--"])
        .arg(windows_path(&wine.gatewatch))
        .args(clean);
    let output = command.output()?;
    let json: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("{:?}", String::from_utf8_lossy(&output.stderr)))?;
    ensure!(json["outcome"] == "held_by_protected" && json["owners"][0]["relation"] == "ancestor", "{json}");
    ensure!(output.status.code() == Some(4), "{}", output.status);
    Ok(())
}

fn protected(wine: &Wine) -> Result<()> {
    let mut gateway = wine.gateway(21_008, &[])?;
    let pid = wine.on(&["owners"], 21_008)?.json()?["owners"][0]["pid"].to_string();
    wine.clean(21_008, &["--protect", &pid])?.expect(4, "held_by_protected")?;
    ensure!(gateway.is_alive()?, "it was ended");
    Ok(())
}

fn wait(wine: &Wine) -> Result<()> {
    wine.on(&["wait", "free"], 21_009)?.expect(0, "free")?;
    let _gateway = wine.gateway(21_009, &[])?;
    wine.on(&["wait", "listening"], 21_009)?.expect(0, "listening")?;
    wine.on(&["wait", "free", "--timeout", "200ms"], 21_009)?.expect(7, "timed_out")?;
    Ok(())
}

fn watch(wine: &Wine) -> Result<()> {
    let _gateway = wine.gateway(21_010, &[])?;
    let answer = wine.on(&["watch", "--for", "200ms"], 21_010)?;
    let lines: Vec<Value> = answer.out.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let events: Vec<&str> = lines.iter().filter_map(|line| line["event"].as_str()).collect();
    ensure!(events == ["held", "ready"] && lines[0]["backend"] == "poll", "{}", answer.out);
    Ok(())
}

fn linux_only(wine: &Wine) -> Result<()> {
    let answer = wine.gatewatch(&["owners", "-p", "21011", "--backend", "ebpf"])?;
    ensure!(answer.status == 6 && answer.err.contains("Linux"), "{} {:?}", answer.status, answer.err);
    let answer = wine.gatewatch(&["agent"])?;
    ensure!(
        answer.status == 1 && answer.err.contains("Linux and macOS"),
        "{} {:?}",
        answer.status,
        answer.err
    );
    let answer = wine.gatewatch(&["owners", "-p", "21011", "--netns", "x"])?;
    ensure!(answer.status == 2, "{} {:?}", answer.status, answer.err);
    Ok(())
}

fn bad_input(wine: &Wine) -> Result<()> {
    for port in ["0", "65536", "http"] {
        let answer = wine.gatewatch(&["clean", "-p", port])?;
        if answer.status != 2 {
            bail!("{port}: status {} {:?}", answer.status, answer.err);
        }
    }
    Ok(())
}

/// Wine shows the host's files as drive Z.
fn windows_path(path: &Path) -> String {
    format!("Z:{}", path.display()).replace('/', "\\")
}
