//! Torture: the real gatewatch in random scenes and against time. Each part holds what must never be broken, however the
//! scene goes: nobody but an owner is signalled, and no answer is wrong. Only that is judged, never how long it takes.

mod agent;
mod ancestors;
mod clean;
mod events;
mod keep;
mod pids;
mod random;
mod rebind;
mod respawn;
mod witness;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;

use self::random::Random;
use crate::run::{build_debug, build_release};

pub(crate) use pids::swap_pids;
pub(crate) use respawn::take_port;

/// What to try, and for how long.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only these parts
    parts: Vec<Part>,
    /// How long all parts take together, such as 60s or 10m; each has a fair share
    #[arg(long = "for", value_parser = duration, conflicts_with = "rounds")]
    time: Option<Duration>,
    /// How many rounds each part takes; without this, --for and --short, some hundreds
    #[arg(long)]
    rounds: Option<u64>,
    /// The seed of the first round; the next rounds have the next numbers
    #[arg(long)]
    seed: Option<u64>,
    /// The form for CI: few rounds of each part, with seed 1 unless another is given
    #[arg(long, conflicts_with_all = ["time", "rounds"])]
    short: bool,
    /// Try the release build, which is faster but has no assertions
    #[arg(long)]
    release: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// `clean` of every kind of owner: the port can be bound at the answer, and nobody else was signalled
    Clean,
    /// The owner ends during `clean`, and a bystander gets its pid at once
    Pids,
    /// A new owner takes the port the moment that it is free
    Respawn,
    /// Ancestors end and are given other parents while they are looked for
    Ancestors,
    /// The agent is killed, suspended, or robbed of what it needs, while it is asked
    Agent,
    /// A server gives its port back and takes it again while owners are asked for without a pause: it always gets it
    Rebind,
    /// `restart --keep-listening`, while clients connect all the time: no connection is refused or reset
    Keep,
    /// Events at full speed and with a stalled reader: seen and lost together are all that happened
    Events,
}

impl Part {
    fn run(self, rounds: &mut Rounds) -> Result<()> {
        match self {
            Self::Clean => clean::run(rounds),
            Self::Pids => pids::run(rounds),
            Self::Respawn => respawn::run(rounds),
            Self::Ancestors => ancestors::run(rounds),
            Self::Agent => agent::run(rounds),
            Self::Rebind => rebind::run(rounds),
            Self::Keep => keep::run(rounds),
            Self::Events => events::run(rounds),
        }
    }

    fn usual_rounds(self) -> u64 {
        match self {
            Self::Clean | Self::Pids | Self::Respawn | Self::Ancestors => 300,
            Self::Agent => 100,
            Self::Keep | Self::Rebind | Self::Events => 20,
        }
    }

    /// In all about a minute on two processors.
    fn few_rounds(self) -> u64 {
        match self {
            Self::Clean | Self::Respawn => 40,
            Self::Pids => 80,
            Self::Ancestors => 8,
            Self::Keep => 3,
            Self::Agent => 25,
            Self::Rebind | Self::Events => 12,
        }
    }
}

/// Runs the parts; all of them if none is named.
///
/// # Errors
/// When something can't be built or run, or gatewatch failed in a round.
pub(crate) fn run_parts(options: &Options) -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "the torture loads kernel programs: run it as root");
    // What is judged is how a step ends, and not when; but one that never ends has failed.
    gatewatch_tests::be_more_patient(6);
    gatewatch_tests::use_programs(if options.release { build_release()? } else { build_debug()? });
    let clock = nix::time::clock_gettime(nix::time::ClockId::CLOCK_REALTIME)?;
    let any_seed = || if options.short { 1 } else { Duration::from(clock).subsec_nanos().into() };
    let seed = options.seed.unwrap_or_else(any_seed);
    println!("torture: seed {seed}; a failed round is repeated by its part, its own --seed, and --rounds 1");
    let failure = Failure::catch();
    let mut parts = options.parts.clone();
    if parts.is_empty() {
        // Whoever else on the machine reads /proc/PID/fd can keep a port as well.
        let alone = |part: &&Part| !(options.short && **part == Part::Rebind);
        parts = Part::value_variants().iter().filter(alone).copied().collect();
    }
    let begun = Instant::now();
    let (mut all, mut failed) = (0, 0);
    for (at, &part) in parts.iter().enumerate() {
        let left = u32::try_from(parts.len() - at)?;
        let until = options.time.map(|time| Instant::now() + time.saturating_sub(begun.elapsed()) / left);
        let usual = if options.short { part.few_rounds() } else { part.usual_rounds() };
        let most = options.rounds.or(until.is_none().then_some(usual));
        let mut rounds = Rounds::new(seed, until, most, Arc::clone(&failure));
        if let Err(error) = part.run(&mut rounds) {
            rounds.fail(seed, &format!("the part can't go on: {error:#}"));
        }
        rounds.print(part);
        all += rounds.made;
        failed += rounds.failed;
    }
    println!("torture: {all} rounds, {failed} failed, in {:.0} s", begun.elapsed().as_secs_f64());
    if failed > 0 {
        // All has been said; an error would only add where in this program it came from.
        std::process::exit(1);
    }
    Ok(())
}

/// The rounds of a part.
struct Rounds {
    seed: u64,
    until: Option<Instant>,
    most: Option<u64>,
    failure: Arc<Failure>,
    made: u64,
    failed: u64,
    first: Option<String>,
    figures: BTreeMap<String, u64>,
    slowest: Duration,
    skipped: Option<String>,
}

impl Rounds {
    fn new(seed: u64, until: Option<Instant>, most: Option<u64>, failure: Arc<Failure>) -> Self {
        Self {
            seed,
            until,
            most,
            failure,
            made: 0,
            failed: 0,
            first: None,
            figures: BTreeMap::new(),
            slowest: Duration::ZERO,
            skipped: None,
        }
    }

    /// Whether there is another round. There is always a first one, however short the time is.
    fn go_on(&self) -> bool {
        let in_time = self.until.is_none_or(|until| Instant::now() < until);
        self.made == 0 || in_time && self.most.is_none_or(|most| self.made < most)
    }

    /// Makes one round, with what it is to be counted as; whether it held.
    fn round(&mut self, round: impl FnOnce(&mut Random) -> Result<String>) -> bool {
        let seed = self.seed.wrapping_add(self.made);
        self.made += 1;
        let mut random = Random::new(seed);
        let begun = Instant::now();
        let held = catch_unwind(AssertUnwindSafe(|| round(&mut random)));
        self.slowest = self.slowest.max(begun.elapsed());
        let why = match held {
            Ok(Ok(figure)) => {
                self.count(&figure, 1);
                return true;
            }
            Ok(Err(error)) => format!("{error:#}"),
            Err(_) => self.failure.take(),
        };
        self.fail(seed, &why);
        false
    }

    fn fail(&mut self, seed: u64, why: &str) {
        self.failed += 1;
        self.first.get_or_insert_with(|| format!("--seed {seed}: {why}"));
    }

    /// Adds to a figure that is printed at the end.
    fn count(&mut self, figure: &str, more: u64) {
        *self.figures.entry(figure.to_owned()).or_default() += more;
    }

    /// Says why this machine can't show what the part tries.
    fn skip(&mut self, why: &str) {
        self.skipped = Some(why.to_owned());
    }

    fn print(&self, part: Part) {
        let name = part.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        if let Some(why) = &self.skipped {
            println!("  {name:<10} skipped: {why}");
        }
        let figures: Vec<String> =
            self.figures.iter().map(|(figure, count)| format!("{figure} {count}")).collect();
        println!(
            "  {name:<10} {} rounds, {} failed, the slowest {:.1} s; {}",
            self.made,
            self.failed,
            self.slowest.as_secs_f64(),
            figures.join(", ")
        );
        if let Some(first) = &self.first {
            println!("  {name:<10} the first that failed, {first}");
        }
    }
}

/// The message of the last panic: the tests' helpers panic where they can't go on.
#[derive(Default)]
struct Failure(Mutex<String>);

impl Failure {
    /// From here on keeps what a panic says instead of printing it.
    fn catch() -> Arc<Self> {
        let failure = Arc::new(Self::default());
        let kept = Arc::clone(&failure);
        std::panic::set_hook(Box::new(move |panic| {
            *kept.0.lock().unwrap_or_else(PoisonError::into_inner) = panic.to_string();
        }));
        failure
    }

    fn take(&self) -> String {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Two busy loops, which make the machine's processors change hands at any moment.
struct Busy {
    over: Arc<AtomicBool>,
    loops: Vec<JoinHandle<()>>,
}

impl Busy {
    fn begin() -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let busy = || {
            let over = Arc::clone(&over);
            std::thread::spawn(move || {
                // A little behind the others, however nice they are: on a machine that is busy anyway nothing else would
                // get on.
                // SAFETY: takes a number, and applies to this thread alone (nice(2), NOTES).
                unsafe { nix::libc::nice(5) };
                while !over.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            })
        };
        let loops = vec![busy(), busy()];
        Self { over, loops }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        for each in self.loops.drain(..) {
            let _ = each.join();
        }
    }
}

/// A duration as it is written: 500ms, 60s, 10m, 1h.
fn duration(text: &str) -> Result<Duration> {
    let digits = text.trim_end_matches(|char: char| char.is_ascii_alphabetic());
    let number: u64 = digits.parse().with_context(|| format!("{text} is no duration, such as 60s"))?;
    Ok(match &text[digits.len()..] {
        "ms" => Duration::from_millis(number),
        "s" => Duration::from_secs(number),
        "m" => Duration::from_secs(number * 60),
        "h" => Duration::from_secs(number * 3600),
        _ => bail!("{text} has no unit: ms, s, m or h"),
    })
}
