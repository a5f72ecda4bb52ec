//! What the scenarios are made of: actors that own ports, and the real gatewatch, run against them.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that can't go on must fail, and say where")]

mod actor;
#[cfg(target_os = "linux")]
mod agent;
mod clients;
mod flood;
mod gatewatch;
#[cfg(target_os = "linux")]
mod journal;
#[cfg(target_os = "linux")]
mod nats;
mod needs;
mod platform;

pub use actor::{Actor, Part, node_package};
#[cfg(target_os = "linux")]
pub use agent::{Agent, Connection, Events, Managed, Reply, as_user, config, folder};
pub use clients::{Clients, Counts, ask};
pub use flood::Flood;
pub use gatewatch::{Answer, Backend, Gatewatch, Running, Watch};
#[cfg(target_os = "linux")]
pub use journal::{Entry, Journal};
#[cfg(target_os = "linux")]
pub use nats::{Message, NatsServer};
pub use needs::{Needs, have};
pub use platform::{ASKED, BACKENDS, FORCED, FORWARDER, Life, user};
#[cfg(target_os = "linux")]
pub use platform::{
    Frozen, Mounted, Unit, below_setuid_hop, detach_cgroup_hooks, heed_signals, in_own_user_namespace,
    install, install_script, send,
};

use std::env::consts::EXE_SUFFIX;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

/// Which run of the scenarios this is, according to `GATEWATCH_TESTS_RUN`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Run {
    /// All of them, as the user who runs them.
    All,
    /// Those by polling that need no root, as an ordinary user: `user`.
    User,
    /// The same as root without the capabilities for BPF, where `auto` must fall back to polling: `without-bpf`.
    WithoutBpf,
}

impl Run {
    /// The value of `--backend` that selects a backend.
    pub fn flag(self, backend: Backend) -> &'static str {
        if self == Self::WithoutBpf { "auto" } else { backend.name() }
    }
}

/// This run.
///
/// # Panics
/// When the variable has another value.
pub fn run() -> Run {
    match std::env::var("GATEWATCH_TESTS_RUN").as_deref() {
        Err(_) => Run::All,
        Ok("user") => Run::User,
        Ok("without-bpf") => Run::WithoutBpf,
        Ok(other) => panic!("GATEWATCH_TESTS_RUN is {other}"),
    }
}

/// Longer than any passing step takes.
pub const PATIENCE: Duration = Duration::from_secs(20);

static PATIENCE_TIMES: AtomicU32 = AtomicU32::new(1);

/// [`PATIENCE`], or a multiple of it.
pub fn patience() -> Duration {
    PATIENCE * PATIENCE_TIMES.load(Ordering::Relaxed)
}

/// Waits so many times as long for each step: for what is done on a machine that is kept busy on purpose.
pub fn be_more_patient(times: u32) {
    PATIENCE_TIMES.store(times, Ordering::Relaxed);
}

/// The checkout that the tests were built from.
pub fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Where `cargo xtask test` puts real servers.
pub fn servers() -> PathBuf {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| checkout().join("target"), PathBuf::from);
    target.join("servers")
}

/// The real NATS server.
pub fn nats_server() -> PathBuf {
    servers().join("debian/usr/sbin/nats-server")
}

/// A program of the real Prometheus.
pub fn prometheus(program: &str) -> PathBuf {
    servers().join("debian/usr/bin").join(program)
}

static PROGRAMS: OnceLock<PathBuf> = OnceLock::new();

/// The folder with the programs: built now and copied to where everybody can read them, unless [`use_programs`] has
/// given another.
///
/// # Panics
/// When `gatewatch` can't be built.
pub fn programs() -> &'static PathBuf {
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
        // Another user may not be able to read the checkout.
        let public = public();
        std::fs::create_dir_all(&public).unwrap();
        for (name, from) in [("gatewatch", gatewatch), ("actor", None)] {
            let name = format!("{name}{EXE_SUFFIX}");
            std::fs::copy(from.unwrap_or_else(|| built.join(&name)), public.join(&name)).unwrap();
        }
        public
    })
}

/// Uses the programs of this folder as they are; for benchmarks, which build them for release.
///
/// # Panics
/// When others are used already.
pub fn use_programs(folder: PathBuf) {
    PROGRAMS.set(folder).expect("the programs are chosen once");
}

/// The folder that [`programs`] makes.
fn public() -> PathBuf {
    std::env::temp_dir().join(format!("gatewatch-tests-{}", std::process::id()))
}

/// One of the programs: gatewatch, or the actor under any name.
///
/// # Panics
/// When the actor can't be given that name.
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
    let _ = std::fs::remove_dir_all(public());
}

/// Listens on a port again, and lets it go. Whoever reads the descriptors of processes at that moment holds the listener of
/// before a little longer than its owner, and the bind fails until then.
///
/// # Panics
/// When it never succeeds.
pub fn come_and_go(port: u16) {
    until("the port can be bound", || TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok());
}

/// A port that nobody holds and that no other scenario of this run gets.
///
/// # Panics
/// When there is none.
pub fn unused_port() -> u16 {
    use std::sync::atomic::{AtomicU16, Ordering};
    // Below the ports that the kernel gives to outgoing connections, so that none of those is in the way.
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 12_000 + u16::try_from(std::process::id() % 8_000).unwrap();
    loop {
        let port = first + NEXT.fetch_add(1, Ordering::Relaxed);
        assert!(port < 32_000, "no ports are left");
        if platform::is_unused(port) {
            return port;
        }
    }
}

/// Whether a server with `SO_REUSEADDR`, which Rust's listeners set, can listen there.
pub fn can_bind(address: SocketAddr) -> bool {
    TcpListener::bind(address).is_ok()
}

/// Whether a UDP server without any option, as nearly all are, can bind there.
pub fn can_bind_udp(address: SocketAddr) -> bool {
    UdpSocket::bind(address).is_ok()
}

/// Waits until a condition holds.
///
/// # Panics
/// When it never does.
pub fn until(what: &str, mut is: impl FnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !is() {
        assert!(begun.elapsed() < patience(), "this never happened: {what}");
        std::thread::yield_now();
    }
}
