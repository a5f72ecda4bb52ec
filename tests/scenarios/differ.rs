//! What polling answers where it can't see what the kernel program sees: never `free`.
//!
//! | case | by kernel events | by polling |
//! |---|---|---|
//! | a socket that is bound and does not listen | an owner like any other | the same from Linux 6.8; else `unknown`: the bind fails, or a plain one does and no connection explains it |
//! | a listener that was shut down and is kept | the same | the same |
//! | a socket in a message on its way | `unknown`, with the reason where all processes are in sight | the same |
//! | a connection from the port that blocks it | `held_by_other`, with the process | the same on Linux for who may trace the process; else `unknown` |
//! | bind and conflict events | seen | not seen, except for binds by chance |
//!
//! What Windows answers differently from Unix:
//!
//! | case | on Unix | on Windows |
//! |---|---|---|
//! | a connection in `TIME_WAIT` | keeps servers without `SO_REUSEADDR` out | keeps nobody out |

use gatewatch_tests::{Backend, Run};

/// The outcome if a socket that does not listen holds the port: `seen` where it is listed, else unknown.
pub(crate) fn of_a_socket_that_does_not_listen(backend: Backend, seen: &'static str) -> &'static str {
    if backend == Backend::Ebpf || lists_bound() { seen } else { "unknown" }
}

/// Whether the kernel lists sockets that are bound and do not listen: Linux does since 6.8.
fn lists_bound() -> bool {
    is_linux_since((6, 8))
}

/// Whether the kernel can take away a connection in `TIME_WAIT`: all of Linux since 6.5 can, and some older ones that were
/// given it later.
#[cfg(target_os = "linux")]
pub(crate) fn surely_drops_time_wait() -> bool {
    is_linux_since((6, 5))
}

fn is_linux_since(version: (u32, u32)) -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split('.').map_while(|number| number.parse::<u32>().ok());
    // Wine shows the host's /proc to programs of Windows.
    cfg!(target_os = "linux") && (numbers.next(), numbers.next()) >= (Some(version.0), Some(version.1))
}

/// Whether this may be the outcome if a client holds the port without `SO_REUSEADDR`.
pub(crate) fn may_be_of_a_blocking_client(backend: Backend, outcome: &str) -> bool {
    // An ordinary user may not be allowed to trace even its own processes (Yama).
    let sees = backend == Backend::Ebpf || cfg!(target_os = "linux");
    let surely = sees && gatewatch_tests::run() != Run::User;
    outcome == "held_by_other" && sees || outcome == "unknown" && !surely
}

/// The reason where a socket is in a message on its way: only from the initial pid namespace (`PROC_PID_INIT_INO`), and
/// with every process in sight, is it certain that no process has it.
#[cfg(target_os = "linux")]
pub(crate) fn of_a_socket_on_its_way(backend: Backend) -> serde_json::Value {
    const INITIAL: &str = "pid:[4026531836]";
    // The iterator asks nobody whether it may look into a process.
    let may_look = || backend == Backend::Ebpf || may_look_into_every_process();
    let sees_all = gatewatch_tests::have(gatewatch_tests::Needs::Root).is_ok() && may_look();
    let initial = std::fs::read_link("/proc/self/ns/pid").is_ok_and(|link| link.as_os_str() == INITIAL);
    if sees_all && initial { "in_flight".into() } else { serde_json::Value::Null }
}

/// Whether the kernel shows where the descriptors of every process lead: some machines keep even root from those of PID 1.
#[cfg(target_os = "linux")]
fn may_look_into_every_process() -> bool {
    let is_refused = |process: &std::path::Path| {
        let links = std::fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
        let is_denied = |error: std::io::Error| error.kind() == std::io::ErrorKind::PermissionDenied;
        let denied = links.map(|link| std::fs::read_link(link.path())).any(|read| read.is_err_and(is_denied));
        // The kernel refuses the same of a process that has ended meanwhile.
        denied && std::fs::read_to_string(process.join("stat")).is_ok_and(|stat| !stat.contains(") Z "))
    };
    !std::fs::read_dir("/proc").unwrap().flatten().any(|process| is_refused(&process.path()))
}

/// Whether a server that sets no option can bind beside a connection in `TIME_WAIT`.
pub(crate) fn plain_bind_beside_a_lingering_connection() -> bool {
    gatewatch_tests::ASKED != "SIGTERM"
}
