//! `gatewatch top`: a live screen. [`state`] is what it knows, [`keys`] what a key does, [`draw`] how it looks, [`feed`]
//! where it all comes from, and [`cleaning`] the only way to a signal.

mod cleaning;
mod draw;
mod feed;
mod holes;
mod hour;
mod input;
mod keys;
pub(super) mod notes;
mod order;
mod question;
mod row;
mod screen;
mod state;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::future::pending;
use std::io;
use std::pin::Pin;
use std::time::{Duration, Instant, SystemTime};

use crossterm::event::KeyEvent;
use tokio::time::sleep_until;

use self::draw::{Canvas, Theme};
use self::feed::{Feed, Shown};
use self::input::{Input, Typed};
use self::keys::Action;
use self::question::Dialog;
use self::screen::Screen;
use self::state::State;
use super::args::{CleanArgs, Format, TopArgs};
use super::context::Context;
use super::exit::{CliError, Exit};
use super::text::clock::Clock;
use super::watch::leave_a_turn;
use crate::model::Port;
use crate::platform::Host;
use crate::platform::contract::{Platform, Signals as _};

/// The least time between two frames that only events ask for.
const FRAME: Duration = Duration::from_millis(100);
/// How often all owners are looked at: ages and addresses go on by themselves.
const LOOK: Duration = Duration::from_secs(2);
/// How often the screen is drawn where nothing happens.
const TICK: Duration = Duration::from_secs(1);

pub(super) async fn run(args: &TopArgs) -> Result<Exit, CliError> {
    let ended = show(args).await;
    if ended.is_err() {
        // The screen that they were written for is gone, or never was.
        notes::take().iter().for_each(|note| super::say(&format!("gatewatch: {note}\n")));
    }
    ended
}

async fn show(args: &TopArgs) -> Result<Exit, CliError> {
    let refused = if args.observing.format == Format::Json {
        Some("top is for people; `gatewatch watch --all --format json` is for programs")
    } else if args.sparing.inherited {
        Some("top ends nobody whom it has not shown: leave out --inherited")
    } else {
        None
    };
    if let Some(why) = refused {
        return Err(CliError::Usage(why.to_owned()));
    }
    Screen::is_possible()?;
    let context = Context::new(&args.observing)?;
    let shown = Shown::of(&context, args).await?;
    let failed = |error| CliError::Io { what: "signals can't be received", error };
    let mut signals = <Host as Platform>::Signals::new().map_err(failed)?;
    let mut feed = Feed::new(&context, args, &shown).await?;
    let now = SystemTime::now();
    let mut state = State::new(shown.asked(), feed.describe(), now);
    if let Some(past) = feed.past(now).await {
        state.remember(&past, now);
    }
    let mut top = Top {
        context: &context,
        args: cleaning::arguments(args),
        shown: &shown,
        state,
        screen: Screen::open().map_err(terminal)?,
        canvas: Canvas::new(Theme::chosen(), Clock::new(args.utc)),
        typed: Typed::read(),
        job: None,
    };
    tokio::select! {
        ended = top.go_on(&mut feed) => ended?,
        _ = signals.next() => {}
    }
    Ok(Exit::Done)
}

fn terminal(error: io::Error) -> CliError {
    CliError::Io { what: "the terminal can't be used", error }
}

/// A dry run, or a clean.
type Job<'a> = Pin<Box<dyn Future<Output = Result<Dialog, CliError>> + 'a>>;

/// The screen and all that moves it.
struct Top<'a> {
    context: &'a Context,
    args: CleanArgs,
    shown: &'a Shown,
    state: State,
    screen: Screen,
    canvas: Canvas,
    typed: Typed,
    job: Option<Job<'a>>,
}

impl<'a> Top<'a> {
    /// Goes on until a person quits, or the terminal is gone.
    async fn go_on(&mut self, feed: &mut Feed<'_>) -> Result<(), CliError> {
        let mut changed: BTreeSet<Port> = BTreeSet::new();
        let (mut look_at, mut draw_at) = (Instant::now(), Instant::now());
        loop {
            let now = Instant::now();
            if now >= look_at {
                if let Some(all) = feed.look().await? {
                    self.state.owned_all(all, SystemTime::now());
                }
                changed.clear();
                look_at = Instant::now() + LOOK;
            }
            if now >= draw_at {
                let ports: Vec<Port> = std::mem::take(&mut changed).into_iter().collect();
                let owners = feed.owners(&ports).await?;
                let now = SystemTime::now();
                owners.into_iter().for_each(|owners| self.state.owned(owners, now));
                self.state.source = feed.describe();
                self.draw().map_err(terminal)?;
                draw_at = Instant::now() + TICK;
            }
            leave_a_turn().await;
            tokio::select! {
                biased;
                key = self.typed.next() => match key.map_err(terminal)? {
                    Input::Key(key) => {
                        if self.pressed(key) {
                            return Ok(());
                        }
                        draw_at = Instant::now();
                    }
                    Input::Resized => draw_at = Instant::now(),
                },
                done = ended(&mut self.job) => {
                    self.job = None;
                    self.answered(done).map_err(terminal)?;
                    (look_at, draw_at) = (Instant::now(), Instant::now());
                }
                event = feed.next() => {
                    changed.extend(self.state.happened(&event?));
                    draw_at = draw_at.min(now + FRAME);
                }
                () = sleep_until(look_at.min(draw_at).into()) => {}
            }
        }
    }

    fn draw(&mut self) -> io::Result<()> {
        if let Some(note) = notes::take().pop() {
            self.state.note = Some(note);
        }
        let Self { screen, canvas, state, .. } = self;
        screen.draw(|frame| canvas.draw(frame, state, SystemTime::now()))
    }

    /// Does what a key means; true where it means the end.
    fn pressed(&mut self, key: KeyEvent) -> bool {
        self.state.note = None;
        match self.state.press(key, SystemTime::now()) {
            Some(Action::Quit) => return true,
            Some(Action::GiveUp) => self.job = None,
            Some(Action::DryRun(port)) => {
                let (context, args, asked) = (self.context, self.args.clone(), self.shown.port(port));
                self.job = Some(Box::pin(async move { cleaning::dry_run(context, &args, &asked).await }));
            }
            Some(Action::Clean(plan)) => {
                let (context, args, asked) = (self.context, self.args.clone(), self.shown.port(plan.port));
                self.job =
                    Some(Box::pin(async move { cleaning::confirmed(context, &args, &asked, &plan).await }));
            }
            None => {}
        }
        false
    }

    /// Shows what a job came to. A failure is an answer as well: the screen goes on.
    fn answered(&mut self, done: Result<Dialog, CliError>) -> io::Result<()> {
        let dialog = done.unwrap_or_else(|error| Dialog::Answer {
            title: "it failed".to_owned(),
            lines: vec![error.to_string()],
        });
        if matches!(dialog, Dialog::Ask(_)) {
            self.typed.forget();
        }
        self.state.dialog = Some(dialog);
        // Before another key is read.
        self.draw()
    }
}

/// What the job comes to; pending if there is none.
async fn ended(job: &mut Option<Job<'_>>) -> Result<Dialog, CliError> {
    match job {
        Some(job) => job.await,
        None => pending().await,
    }
}
