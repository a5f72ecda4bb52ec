//! /proc: what a process is, and which sockets it holds.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use nix::time::{ClockId, clock_gettime};
use nix::unistd::{SysconfVar, sysconf};
use procfs::FromRead as _;
use procfs::ProcError;
use procfs::process::Stat;

use super::cgroup;
use crate::clock;
use crate::observe::{Holder, Socket};
use crate::process::{Process, StartTime};
use crate::system::ProcessError;

/// `PROC_PID_INIT_INO`, linux/proc_ns.h: the initial pid namespace's inode.
const INITIAL_PID_NAMESPACE: u32 = 0xefff_fffc;

/// Our pid namespace's inode number; `None` when it is the initial one.
pub(super) fn own_pid_namespace() -> Option<u32> {
    let inode = fs::metadata("/proc/self/ns/pid").ok()?.ino();
    u32::try_from(inode).ok().filter(|&inode| inode != INITIAL_PID_NAMESPACE)
}

/// Whether a process is in our own pid namespace.
pub(super) fn same_pid_namespace(pid: u32) -> bool {
    let inode = |path: String| fs::metadata(path).map(|metadata| metadata.ino()).ok();
    let own = inode("/proc/self/ns/pid".to_owned());
    own.is_some() && own == inode(format!("/proc/{pid}/ns/pid"))
}

/// Reads a process. When its leader has ended, `/proc/PID` is nearly empty and the living thread's folder is read.
pub(super) fn read(pid: u32, tid: u32) -> Result<Process, ProcessError> {
    let folder = PathBuf::from(format!("/proc/{pid}"));
    let stat = stat(&folder)?;
    let living = if stat.state == 'Z' || stat.state == 'X' {
        let thread = folder.join(format!("task/{tid}"));
        // Nothing is left of a process whose every thread has ended but its entry in the table.
        if tid == pid || !thread.join("stat").exists() {
            living_thread(&folder, pid).ok_or(ProcessError::Gone)?
        } else {
            thread
        }
    } else {
        folder.clone()
    };
    let link = |name: &str| fs::read_link(living.join(name)).ok();
    let root = living.join("root");
    let (unit, container) =
        fs::read_to_string(living.join("cgroup")).map_or((None, None), |text| cgroup::place(&text));
    Ok(Process {
        pid,
        start_time: start_time(stat.starttime),
        parent: u32::try_from(stat.ppid).ok().filter(|&parent| parent != 0),
        uid: real_uid(&living),
        comm: name_of(&living).unwrap_or(stat.comm),
        argv: argv(&living),
        exe: link("exe").map(without_deleted),
        cwd: link("cwd").map(without_deleted),
        root: Some(root),
        unit,
        container,
    })
}

/// The parent's pid: the second field after the name, which ends at the last `)`. All ancestors are walked for each
/// answer, and the forty fields that follow are nothing to them.
pub(super) fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let after_name = stat.rsplit(|&byte| byte == b')').next()?;
    let parent = std::str::from_utf8(after_name).ok()?.split_whitespace().nth(1)?;
    parent.parse().ok().filter(|&parent| parent != 0)
}

/// Whether a descriptor of the process, the one given or any, leads to the socket.
pub(super) fn holds(holder: &Holder, inode: u64) -> io::Result<bool> {
    let target = PathBuf::from(format!("socket:[{inode}]"));
    let folder = PathBuf::from(format!("/proc/{}/task/{}/fd", holder.pid, holder.tid));
    if let Some(fd) = holder.fd
        && fs::read_link(folder.join(fd.to_string())).is_ok_and(|link| link == target)
    {
        return Ok(true);
    }
    // It may have moved to another number, or into another thread's own table.
    for task in fs::read_dir(format!("/proc/{}/task", holder.pid))? {
        for fd in fs::read_dir(task?.path().join("fd"))? {
            if fs::read_link(fd?.path()).is_ok_and(|link| link == target) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Finds the holders of sockets by walking all descriptors that may be read: for kernels without the iterator.
pub(super) fn add_holders(sockets: &mut [Socket]) -> io::Result<()> {
    let mut places: HashMap<PathBuf, usize> = HashMap::new();
    for (place, socket) in sockets.iter().enumerate() {
        if let Some(inode) = socket.inode {
            places.insert(format!("socket:[{inode}]").into(), place);
        }
    }
    if places.is_empty() {
        return Ok(());
    }
    for pid in numbers(Path::new("/proc"))? {
        let folder = PathBuf::from(format!("/proc/{pid}"));
        let alive = stat(&folder).is_ok_and(|stat| stat.state != 'Z');
        // Threads share one table, unless the leader has ended: then the others' folders are the only ones left.
        let threads = if alive { vec![pid] } else { numbers(&folder.join("task")).unwrap_or_default() };
        for tid in threads {
            let table = folder.join(format!("task/{tid}/fd"));
            for fd in numbers(&table).unwrap_or_default() {
                let Ok(link) = fs::read_link(table.join(fd.to_string())) else { continue };
                if let Some(&place) = places.get(&link) {
                    sockets[place].holders.push(Holder { pid, tid, fd: Some(fd) });
                }
            }
        }
    }
    Ok(())
}

/// The names in a folder that are numbers.
fn numbers(folder: &Path) -> io::Result<Vec<u32>> {
    let entries = fs::read_dir(folder)?.filter_map(Result::ok);
    Ok(entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
}

/// `/proc/PID/stat` by the procfs crate, which takes the name for what stands between the first `(` and the last `)`:
/// a name can contain anything.
fn stat(folder: &Path) -> Result<Stat, ProcessError> {
    Stat::from_file(folder.join("stat")).map_err(|error| match error {
        ProcError::NotFound(_) => ProcessError::Gone,
        ProcError::Io(error, _) if error.raw_os_error() == Some(nix::libc::ESRCH) => ProcessError::Gone,
        other => ProcessError::Unreadable(other.to_string()),
    })
}

fn living_thread(folder: &Path, pid: u32) -> Option<PathBuf> {
    let threads = numbers(&folder.join("task")).ok()?;
    let alive = |tid: &u32| {
        *tid != pid
            && stat(&folder.join(format!("task/{tid}"))).is_ok_and(|stat| !matches!(stat.state, 'Z' | 'X'))
    };
    threads.iter().find(|tid| alive(tid)).map(|tid| folder.join(format!("task/{tid}")))
}

/// The arguments. A process that writes a title over them leaves one argument and the room of the others as NULs.
fn argv(folder: &Path) -> Option<Vec<String>> {
    let bytes = fs::read(folder.join("cmdline")).ok()?;
    let end = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    if end == 0 {
        return None;
    }
    Some(
        bytes[..end]
            .split(|&byte| byte == 0)
            .map(|argument| String::from_utf8_lossy(argument).into_owned())
            .collect(),
    )
}

fn name_of(folder: &Path) -> Option<String> {
    let bytes = fs::read(folder.join("comm")).ok()?;
    Some(String::from_utf8_lossy(bytes.strip_suffix(b"\n").unwrap_or(&bytes)).into_owned())
}

/// The first number of `Uid:` in `status` is the real user's.
fn real_uid(folder: &Path) -> Option<u32> {
    let status = fs::read_to_string(folder.join("status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("Uid:"))?.split_whitespace().next()?.parse().ok()
}

/// The kernel's mark on the path of a file that was removed, as an upgrade does with a running program's.
fn without_deleted(path: PathBuf) -> PathBuf {
    path.to_str().and_then(|text| text.strip_suffix(" (deleted)")).map(PathBuf::from).unwrap_or(path)
}

fn start_time(ticks: u64) -> StartTime {
    static BOOT: OnceLock<(SystemTime, u64)> = OnceLock::new();
    let (boot, per_second) = *BOOT.get_or_init(|| {
        // Read apart, the two would show another start of the same process to each run of this program.
        let (_, (now, since_boot)) =
            clock::at_once(|| (SystemTime::now(), clock_gettime(ClockId::CLOCK_BOOTTIME)));
        let since_boot = since_boot.map(Duration::from).unwrap_or_default();
        let boot = now.checked_sub(since_boot).unwrap_or(SystemTime::UNIX_EPOCH);
        let ticks = sysconf(SysconfVar::CLK_TCK).ok().flatten().and_then(|ticks| u64::try_from(ticks).ok());
        (boot, ticks.filter(|&ticks| ticks > 0).unwrap_or(100))
    });
    let since_boot = Duration::from_millis(ticks.saturating_mul(1000) / per_second);
    StartTime { raw: ticks, wall: boot + since_boot }
}
