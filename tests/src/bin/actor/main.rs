//! An actor: plays every kind of owner that a port can have.
//!
//! It prints `ready {…}` on standard output once its part can begin, so that no test waits for a guessed time, and ends
//! when its standard input is closed, so that no actor outlives its test.
#![expect(clippy::unwrap_used, clippy::panic, reason = "an actor that can't play its part must fail loudly")]

mod platform;
mod sockets;

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio, exit};
use std::time::{Duration, Instant};

use clap::Parser;
use socket2::Socket;

use self::platform::Ending;
use self::sockets::{address_of, close_first, open, open_all};

#[derive(Parser)]
struct Part {
    /// Addresses to bind; port 0 takes any, and the next ones take the same
    #[arg(long = "on")]
    addresses: Vec<SocketAddr>,
    /// Bind and do not listen
    #[arg(long)]
    bound: bool,
    #[arg(long)]
    no_reuse: bool,
    /// On IPv6 addresses, leave IPv4's alone
    #[arg(long)]
    v6_only: bool,
    /// By UDP, and without any option, as nearly all servers do
    #[arg(long)]
    udp: bool,
    /// With `SO_REUSEADDR`, by which UDP sockets share a port
    #[arg(long)]
    shared: bool,
    /// What to do when asked to end: exit, ignore, close (the listener, and live on), shut-down (the listener), fork (and end), drain:MILLISECONDS, or
    /// connect:ADDRESS
    #[arg(long, default_value = "exit")]
    on_term: String,
    /// When the owner ends, another takes its place at once: a supervisor
    #[arg(long)]
    respawn: bool,
    /// Play the one that takes the place
    #[arg(long, hide = true)]
    respawned: bool,
    /// Accept a connection and close it first, which leaves TIME_WAIT on this side
    #[arg(long)]
    accept_and_close: bool,
    /// Be a client: bind the address and connect here
    #[arg(long)]
    connect: Option<SocketAddr>,
    /// Touch this many MiB of memory
    #[arg(long, default_value_t = 0)]
    memory: usize,
    /// Hold this many more sockets
    #[arg(long, default_value_t = 0)]
    sockets: usize,
    /// Bind and close this many times before being ready
    #[arg(long, default_value_t = 0)]
    churn: u32,
    /// Hold the port for this many microseconds each time
    #[arg(long, default_value_t = 0)]
    churn_for: u64,
    /// Wait for this many milliseconds after each time
    #[arg(long, default_value_t = 0)]
    churn_pause: u64,
    /// End where the port is not given back at once, each time
    #[arg(long)]
    churn_strictly: bool,
    /// Try again this many times to bind an address that is in use, every 100 milliseconds
    #[arg(long, default_value_t = 0)]
    retries: u32,
    /// Try to bind once more after being ready, and say how that went
    #[arg(long)]
    try_again: bool,
    /// Go on when standard input ends: for a service manager, which gives none
    #[arg(long)]
    stay: bool,
    /// End by itself after this many milliseconds
    #[arg(long)]
    live_for: Option<u64>,
    /// The status of that end
    #[arg(long, default_value_t = 0)]
    status: i32,
    /// Make this file, and end
    #[arg(long)]
    touch: Option<PathBuf>,
    /// End with this status, at once
    #[arg(long)]
    exit: Option<i32>,
    /// How many processes are between this one and the command
    #[arg(long, default_value_t = 0)]
    hops: u32,
    /// Be one of them
    #[arg(long, hide = true)]
    hop: bool,
    /// What only this system can do
    #[command(flatten)]
    own: platform::Own,
    /// Once ready, run this command as a descendant, and say how it ended
    #[arg(last = true)]
    command: Vec<String>,
}

fn main() {
    let part = Part::parse();
    if part.hop {
        exit(run(&part));
    }
    if let Some(path) = &part.touch {
        std::fs::File::create(path).unwrap();
    }
    if let Some(status) = part.exit.or(part.touch.as_ref().map(|_| 0)) {
        exit(status);
    }
    let ending = Ending::begin();
    if !part.stay {
        end_with_the_test();
    }
    if let Some(milliseconds) = part.live_for {
        end_after(Duration::from_millis(milliseconds), part.status);
    }
    platform::dress(&part.own);
    if part.respawn {
        supervise();
    }
    let _memory = vec![1u8; part.memory << 20];
    let _spare = sockets::spare(part.sockets);
    for _ in 0..part.churn {
        let begun = Instant::now();
        let sockets = open_all(&part);
        while begun.elapsed() < Duration::from_micros(part.churn_for) {
            std::hint::spin_loop();
        }
        drop(sockets);
        std::thread::sleep(Duration::from_millis(part.churn_pause));
    }
    let sockets = open_all(&part);
    let address = sockets.first().map(address_of);
    platform::act(part, ending, sockets, address);
}

/// Reports that it is ready, does what it was asked to, and serves.
fn play(
    part: &Part,
    ending: &Ending,
    sockets: Vec<Socket>,
    address: Option<SocketAddr>,
    holders: &[u32],
) -> ! {
    if part.respawned {
        println!("respawned {}", std::process::id());
    } else {
        ready(address, holders);
    }
    if part.accept_and_close {
        close_first(&sockets[0]);
        println!("closed");
    }
    if part.try_again {
        let answer = open(part, address.unwrap()).map_err(|error| error.raw_os_error());
        println!("errno {}", answer.err().flatten().unwrap_or(0));
    }
    if !part.command.is_empty() {
        println!("status {}", run(part));
    }
    serve(part, ending, sockets);
}

fn ready(address: Option<SocketAddr>, pids: &[u32]) {
    let address = address.map_or_else(|| "null".to_owned(), |address| format!("\"{address}\""));
    let mut out = std::io::stdout().lock();
    writeln!(out, "ready {{\"address\":{address},\"pids\":{pids:?}}}").unwrap();
    out.flush().unwrap();
}

/// A thread that ends the process when standard input does.
fn end_with_the_test() {
    std::thread::spawn(|| {
        // Not std's own input: a fork may happen while this thread has its lock, and the child would never get it.
        let mut input = platform::input();
        while input.read(&mut [0; 1]).is_ok_and(|length| length > 0) {}
        exit(0);
    });
}

fn end_after(time: Duration, status: i32) {
    std::thread::spawn(move || {
        std::thread::sleep(time);
        exit(status);
    });
}

/// Waits until the actor is asked to end, and does what its part says then.
fn serve(part: &Part, ending: &Ending, mut sockets: Vec<Socket>) -> ! {
    loop {
        ending.wait();
        match part.on_term.as_str() {
            "exit" => exit(0),
            "ignore" => {}
            "close" => sockets.clear(),
            "shut-down" => {
                sockets.iter().for_each(|socket| socket.shutdown(std::net::Shutdown::Both).unwrap());
                exit(0);
            }
            "fork" => platform::go_on_in_a_fork(),
            other if let Some(to) = other.strip_prefix("connect:") => {
                let to: SocketAddr = to.parse().unwrap();
                sockets[0].connect(&to.into()).unwrap();
            }
            other => {
                let milliseconds = other.strip_prefix("drain:").and_then(|text| text.parse().ok()).unwrap();
                std::thread::sleep(Duration::from_millis(milliseconds));
                exit(0);
            }
        }
    }
}

/// Runs one owner after another, each as this program with the same arguments.
fn supervise() -> ! {
    for first in std::iter::successors(Some(true), |_| Some(false)) {
        let mut owner = platform::again();
        owner.args(std::env::args_os().skip(1).filter(|word| word != "--respawn"));
        if !first {
            owner.arg("--respawned");
        }
        // It ends when this process does, and its input with it.
        let mut owner = owner.stdin(Stdio::piped()).spawn().unwrap();
        let _open = owner.stdin.take();
        owner.wait().unwrap();
    }
    unreachable!("there is always a next one")
}

/// Runs the command below a chain of processes; its exit status.
fn run(part: &Part) -> i32 {
    let mut command = if part.hops == 0 {
        Command::new(&part.command[0])
    } else {
        let mut hop = Command::new(std::env::current_exe().unwrap());
        hop.args(["--hop", "--hops", &(part.hops - 1).to_string(), "--", &part.command[0]]);
        hop
    };
    command.args(&part.command[1..]).status().unwrap().code().unwrap_or(255)
}
