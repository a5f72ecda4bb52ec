//! What the scenarios are made of: actors that own ports, and the real gatewatch that is run against them.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that can't go on must fail, and say where")]

mod actor;
#[cfg(target_os = "linux")]
mod agent;
mod gatewatch;
mod needs;
mod platform;

pub use actor::{Actor, Part, node_package};
#[cfg(target_os = "linux")]
pub use agent::{Agent, Events, Managed, Reply, config};
pub use gatewatch::{Answer, Backend, Gatewatch, Running, Watch};
pub use needs::{Needs, Scenario, have};
#[cfg(target_os = "linux")]
pub use platform::send;
pub use platform::{ASKED, BACKENDS, FORCED, FORWARDER, Life, user};

use std::env::consts::EXE_SUFFIX;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

/// Which run of the scenarios this is, as `GATEWATCH_TESTS_RUN` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Run {
    /// All of them, as who runs them.
    All,
    /// Those by polling that need no root, as an ordinary user: `user`.
    User,
    /// The same as root without the capabilities for BPF, where `auto` has to come down to polling: `without-bpf`.
    WithoutBpf,
}

impl Run {
    /// How a backend is asked for.
    pub fn flag(self, backend: Backend) -> &'static str {
        if self == Self::WithoutBpf { "auto" } else { backend.name() }
    }
}

/// This run.
///
/// # Panics
/// When the variable says something else.
pub fn run() -> Run {
    match std::env::var("GATEWATCH_TESTS_RUN").as_deref() {
        Err(_) => Run::All,
        Ok("user") => Run::User,
        Ok("without-bpf") => Run::WithoutBpf,
        Ok(other) => panic!("GATEWATCH_TESTS_RUN is {other}"),
    }
}

/// Longer than anything takes that works.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The folder with the programs: beside the test's own, readable by everybody.
///
/// # Panics
/// When `gatewatch` can't be built.
pub fn programs() -> &'static PathBuf {
    static PROGRAMS: OnceLock<PathBuf> = OnceLock::new();
    PROGRAMS.get_or_init(|| {
        let deps = std::env::current_exe().unwrap().parent().unwrap().to_owned();
        let built = deps.parent().unwrap().to_owned();
        let mut cargo =
            std::process::Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo
            .args(["build", "--quiet", "--package", "gatewatch", "--target-dir"])
            .arg(built.parent().unwrap());
        if built.ends_with("release") {
            cargo.arg("--release");
        }
        let gatewatch = std::env::var_os("GATEWATCH_BIN").map(PathBuf::from);
        if gatewatch.is_none() {
            assert!(cargo.status().unwrap().success(), "gatewatch can't be built");
        }
        // A checkout may lie where another user can't read it.
        let public = std::env::temp_dir().join(format!("gatewatch-tests-{}", std::process::id()));
        std::fs::create_dir_all(&public).unwrap();
        for (name, from) in [("gatewatch", gatewatch), ("actor", None)] {
            let name = format!("{name}{EXE_SUFFIX}");
            std::fs::copy(from.unwrap_or_else(|| built.join(&name)), public.join(&name)).unwrap();
        }
        public
    })
}

/// One of the programs: gatewatch, or the actor by whatever name.
///
/// # Panics
/// When it can't be given the name.
pub fn program(name: &str) -> PathBuf {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock();
    let path = programs().join(format!("{name}{EXE_SUFFIX}"));
    if !path.exists() {
        platform::name_again(&programs().join(format!("actor{EXE_SUFFIX}")), &path).unwrap();
    }
    path
}

/// Removes what [`programs`] made.
pub fn clean_up() {
    let _ = std::fs::remove_dir_all(programs());
}

/// A port that nobody has, and that no other scenario of this run is given.
///
/// # Panics
/// When there is none.
pub fn unused_port() -> u16 {
    use std::sync::atomic::{AtomicU16, Ordering};
    // Below the ports that the kernel gives to connections, so that none of those gets in the way.
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 12_000 + u16::try_from(std::process::id() % 8_000).unwrap();
    loop {
        let port = first + NEXT.fetch_add(1, Ordering::Relaxed);
        assert!(port < 32_000, "no ports are left");
        if can_bind((Ipv4Addr::UNSPECIFIED, port).into()) {
            return port;
        }
    }
}

/// Whether a server (one with `SO_REUSEADDR`, as Rust's listeners are) can listen there.
pub fn can_bind(address: SocketAddr) -> bool {
    TcpListener::bind(address).is_ok()
}

/// Waits until something is so.
///
/// # Panics
/// When it does not come to be.
pub fn until(what: &str, mut is: impl FnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !is() {
        assert!(begun.elapsed() < PATIENCE, "it never came about: {what}");
        std::thread::yield_now();
    }
}
