//! The terminal: taken over for the screen, and given back as it was, however the program ends.

use std::io::{self, IsTerminal, Stdout, stdin, stdout};
use std::panic;

use crossterm::cursor::Show;
use crossterm::execute;
use crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode};
use ratatui::backend::CrosstermBackend;
use ratatui::{Frame, Terminal};

use crate::cli::exit::CliError;

/// The terminal while the screen is shown. Dropping it gives the terminal back.
pub(super) struct Screen(Terminal<CrosstermBackend<Stdout>>);

impl Screen {
    /// Whether there is a terminal to show it on and to type at.
    ///
    /// # Errors
    /// When there is none.
    pub(super) fn is_possible() -> Result<(), CliError> {
        if stdin().is_terminal() && stdout().is_terminal() {
            return Ok(());
        }
        Err(CliError::Usage(
            "top needs a terminal; `gatewatch list` and `gatewatch watch --all` say the same to files and pipes"
                .to_owned(),
        ))
    }

    /// Takes the terminal over.
    ///
    /// # Errors
    /// When it can't be; then it is as it was.
    pub(super) fn open() -> io::Result<Self> {
        // A panic ends the released program at once, without drops: the hook is all that runs.
        let hook = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            give_back();
            hook(panic);
        }));
        let open = || {
            enable_raw_mode()?;
            execute!(stdout(), EnterAlternateScreen)?;
            Terminal::new(CrosstermBackend::new(stdout()))
        };
        open().map(Self).inspect_err(|_| give_back())
    }

    /// Shows what is drawn.
    ///
    /// # Errors
    /// When the terminal takes nothing any more.
    pub(super) fn draw(&mut self, draw: impl FnOnce(&mut Frame<'_>)) -> io::Result<()> {
        self.0.draw(draw).map(drop)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

/// Where it fails, the terminal has gone.
fn give_back() {
    let _ = disable_raw_mode();
    let _ = execute!(stdout(), LeaveAlternateScreen, Show);
}

#[cfg(all(test, unix))]
mod tests {
    use std::env;
    use std::fs::File;
    use std::io::Read;
    use std::process::{Command, Stdio};

    use nix::pty::openpty;
    use nix::sys::termios::{LocalFlags, tcgetattr};

    use super::*;

    /// Set for the process that panics.
    const PANICS: &str = "GATEWATCH_TEST_PANICS";

    #[test]
    fn a_panic_gives_the_terminal_back() {
        if env::var_os(PANICS).is_some() {
            let screen = Screen::open().unwrap();
            // As in the released program, which ends without a drop.
            std::mem::forget(screen);
            panic!("as it was meant to");
        }
        let pty = openpty(None, None).unwrap();
        let before = tcgetattr(&pty.slave).unwrap().local_flags;
        let slave = || Stdio::from(pty.slave.try_clone().unwrap());
        let name = "cli::top::screen::tests::a_panic_gives_the_terminal_back";
        let status = Command::new(env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .envs([(PANICS, "1"), ("RUST_BACKTRACE", "0")])
            .stdin(slave())
            .stdout(slave())
            .stderr(slave())
            .status();
        assert!(!status.unwrap().success());
        let after = tcgetattr(&pty.slave).unwrap().local_flags;
        // One read can give a part of what was written. With nobody on the other side, the last one is an error.
        drop(pty.slave);
        let mut written = Vec::new();
        let _ = File::from(pty.master).read_to_end(&mut written);
        let written = String::from_utf8_lossy(&written);
        let place = |text: &str| written.find(text).unwrap_or_else(|| panic!("no {text:?}: {written:?}"));
        // The message is to be read on the ordinary screen.
        assert!(place("\u{1b}[?1049h") < place("\u{1b}[?1049l"));
        assert!(place("\u{1b}[?1049l") < place("as it was meant to"));
        place("\u{1b}[?25h");
        assert!(after.contains(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG));
        assert_eq!(after, before);
    }
}
