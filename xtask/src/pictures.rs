//! The pictures of the README, made from real runs: a recording of a terminal in which a port is asked about and cleaned, and
//! the phases of a restart as `restart --svg` draws them.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anstyle_svg::Term;
use anyhow::{Result, ensure};

use crate::debian::install;
use crate::run::{build_debug, build_release, output, root, run};

const NEEDED: &[(&str, &str)] = &[("tmux", "tmux"), ("unshare", "util-linux"), ("node", "nodejs")];
/// As wide as a README shows without making it smaller.
const COLUMNS: usize = 96;
const LINES: usize = 18;
/// As anstyle-svg measures a letter, a line, and the edge.
const WIDTH: usize = COLUMNS * 84 / 10 + 20;
const HEIGHT: usize = LINES * 18 + 20;
/// Longer than anything takes that works.
const PATIENCE: Duration = Duration::from_secs(30);

/// Makes all pictures anew.
///
/// # Errors
/// When a run does not go as it is meant to.
pub(crate) fn make(debug: bool) -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "kernel events and a network namespace take root");
    install(NEEDED)?;
    let programs = if debug { build_debug() } else { build_release() }?;
    let pictures = root().join("docs/pictures");
    fs::create_dir_all(&pictures)?;
    let home = std::env::temp_dir().join(format!("gatewatch-pictures-{}", std::process::id()));
    let shop = home.join("shop");
    fs::create_dir_all(&shop)?;
    fs::write(
        shop.join("server.js"),
        "require('http').createServer((_, answer) => answer.end()).listen(3000, '127.0.0.1');\n",
    )?;
    let desk = Desk::open(&programs, &home)?;
    let made = record(&desk).and_then(|recording| {
        fs::write(pictures.join("clean.svg"), recording)?;
        draw_restart(&desk, &pictures.join("restart.svg"))
    });
    drop(desk);
    fs::remove_dir_all(&home)?;
    made
}

/// What is seen of a terminal, and for how long.
struct Frame {
    seconds: f64,
    shown: String,
}

/// `gatewatch 3000`, then `gatewatch clean 3000`, and a yes to its question.
fn record(desk: &Desk) -> Result<String> {
    desk.serve()?;
    let mut frames = Vec::new();
    let mut keep = |seconds: f64| -> Result<()> {
        frames.push(Frame { seconds, shown: desk.seen(true)? });
        Ok(())
    };
    for (typed, sign, reading) in
        [("gatewatch 3000", "to end it", 3.5), ("gatewatch clean 3000", "[y/N]", 2.0), ("y", "proof", 6.0)]
    {
        let words = typed.split_inclusive(' ');
        for word in words {
            desk.types(word)?;
            desk.shows(word.trim_end())?;
            keep(0.5)?;
        }
        desk.presses("Enter")?;
        desk.shows(sign)?;
        // and the prompt, where the command has ended
        desk.settles()?;
        keep(reading)?;
    }
    Ok(animated(&frames))
}

/// A restart of the same server, by which its port is never free for long.
fn draw_restart(desk: &Desk, file: &Path) -> Result<()> {
    desk.serve()?;
    desk.presses("C-l")?;
    desk.types(&format!("gatewatch restart 3000 --any --svg {} -- node server.js", file.display()))?;
    desk.presses("Enter")?;
    desk.shows("listening")?;
    desk.types("gatewatch clean 3000 --any")?;
    desk.presses("Enter")?;
    desk.shows("proof")
}

/// All frames on one ground, each seen in its turn, and the last one where nothing may move.
fn animated(frames: &[Frame]) -> String {
    let whole: f64 = frames.iter().map(|frame| frame.seconds).sum();
    let mut style = String::new();
    let mut body = String::new();
    let mut since = 0.0;
    for (at, frame) in frames.iter().enumerate() {
        let (from, to) = (100.0 * since / whole, 100.0 * (since + frame.seconds) / whole);
        since += frame.seconds;
        let is_last = at + 1 == frames.len();
        let before = if from > 0.0 { "0% { visibility: hidden } ".to_owned() } else { String::new() };
        let after = if is_last { String::new() } else { format!("{to:.2}% {{ visibility: hidden }} ") };
        let _ =
            writeln!(style, "    @keyframes f{at} {{ {before}{from:.2}% {{ visibility: visible }} {after}}}");
        let still = if is_last { "visible" } else { "hidden" };
        let _ = writeln!(
            style,
            "    .f{at} {{ visibility: {still}; animation: f{at} {whole:.1}s step-end infinite }}"
        );
        let shown = Term::new().background(false).render_svg(&frame.shown);
        let _ = writeln!(body, "<g class=\"f{at}\">\n{shown}</g>");
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{HEIGHT}\" \
         viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"gatewatch 3000, then gatewatch clean 3000\">\n  \
         <style>\n{style}    @media (prefers-reduced-motion: reduce) {{ g {{ animation: none !important }} }}\n  \
         </style>\n  <rect width=\"100%\" height=\"100%\" rx=\"6\" fill=\"#0d1117\" stroke=\"#3d444d\"/>\n{body}</svg>\n"
    )
}

/// A terminal with a shell, in a network namespace of its own, in which port 3000 is nobody's.
struct Desk {
    socket: String,
    programs: PathBuf,
    home: PathBuf,
}

impl Desk {
    fn open(programs: &Path, home: &Path) -> Result<Self> {
        let socket = format!("gatewatch-pictures-{}", std::process::id());
        let desk = Self { socket, programs: programs.to_owned(), home: home.to_owned() };
        let mut start = Command::new("unshare");
        start.args([
            "--net",
            "sh",
            "-c",
            "ip link set lo up && exec \"$@\"",
            "sh",
            "tmux",
            "-L",
            &desk.socket,
        ]);
        start.args([
            "-f",
            "/dev/null",
            "new-session",
            "-d",
            "-x",
            &COLUMNS.to_string(),
            "-y",
            &LINES.to_string(),
        ]);
        run(start.args(desk.shell()))?;
        desk.shows("$")?;
        Ok(desk)
    }

    /// A shell like anybody's, in the folder of the server.
    fn shell(&self) -> Vec<String> {
        let path = std::env::var("PATH").unwrap_or_default();
        let variables = [
            format!("PATH={}:{path}", self.programs.display()),
            "PS1=$ ".to_owned(),
            format!("HOME={}", self.home.display()),
            "GATEWATCH_SOCKET=/nonexistent".to_owned(),
            "TZ=UTC".to_owned(),
        ];
        let words = ["--", "env", "-C", &self.home.join("shop").to_string_lossy()].map(str::to_owned);
        words.into_iter().chain(variables).chain(["bash", "--norc"].map(str::to_owned)).collect()
    }

    fn tmux(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("tmux");
        command.args(["-L", &self.socket]).args(arguments);
        command
    }

    /// Starts the server in a window of its own, by another shell, and waits until it listens.
    fn serve(&self) -> Result<()> {
        let shell = self.shell();
        let mut start = self.tmux(&["new-window", "-d"]);
        run(start.args(shell))?;
        run(&mut self.tmux(&["send-keys", "-t", ":$", "node server.js", "Enter"]))?;
        self.types("gatewatch wait listening 3000 > /dev/null")?;
        self.presses("Enter")?;
        self.settles()?;
        self.presses("C-l")?;
        self.until("an empty screen", || Ok(self.seen(false)?.trim() == "$"))
    }

    fn types(&self, text: &str) -> Result<()> {
        run(&mut self.tmux(&["send-keys", "-t", ":0", "-l", text]))
    }

    fn presses(&self, key: &str) -> Result<()> {
        run(&mut self.tmux(&["send-keys", "-t", ":0", key]))
    }

    fn seen(&self, coloured: bool) -> Result<String> {
        let mut capture = self.tmux(&["capture-pane", "-p", "-t", ":0"]);
        if coloured {
            capture.arg("-e");
        }
        output(&mut capture)
    }

    fn shows(&self, text: &str) -> Result<()> {
        self.until(text, || Ok(self.seen(false)?.contains(text)))
    }

    /// A question or a prompt is the last thing that is seen.
    fn settles(&self) -> Result<()> {
        self.until("a prompt", || {
            let seen = self.seen(false)?;
            Ok(seen.trim_end().ends_with('$') || seen.trim_end().ends_with("[y/N]"))
        })
    }

    fn until(&self, what: &str, is: impl Fn() -> Result<bool>) -> Result<()> {
        let begun = Instant::now();
        while !is()? {
            ensure!(begun.elapsed() < PATIENCE, "this is never shown: {what}\n{}", self.seen(false)?);
            sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        let _ = self.tmux(&["kill-server"]).status();
    }
}
