//! /proc: what a process is, and which sockets it holds.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use procfs::FromRead as _;
use procfs::process::Stat;

use super::{cgroup, file, foreign, kin, state, status, time, user};
use crate::model::{Descriptor, Fd, Parent, Pod, Process, Remainder, Room, Socket};
use crate::platform::contract::ProcessError;
use crate::platform::patience;

/// `PROC_PID_INIT_INO`, linux/proc_ns.h: the initial pid namespace's inode.
pub(in crate::platform::linux) const INITIAL_PID_NAMESPACE: u32 = 0xefff_fffc;

/// Our pid namespace's inode number; `None` when it is the initial one.
pub(in crate::platform::linux) fn own_pid_namespace() -> Option<u32> {
    let inode = fs::metadata("/proc/self/ns/pid").ok()?.ino();
    u32::try_from(inode).ok().filter(|&inode| inode != INITIAL_PID_NAMESPACE)
}

/// Whether a process is in our own pid namespace.
pub(in crate::platform::linux) fn same_pid_namespace(pid: u32) -> bool {
    let inode = |path: String| fs::metadata(path).map(|metadata| metadata.ino()).ok();
    let own = inode("/proc/self/ns/pid".to_owned());
    foreign::why().is_none() && own.is_some() && own == inode(format!("/proc/{pid}/ns/pid"))
}

/// Reads a process. If its leader has ended, `/proc/PID` is nearly empty, so a living thread's folder is read.
///
/// One that has memory and shows no arguments is read once more: it may have ended in between, and its pid been given to
/// another, which within one clock tick has the same start time.
pub(in crate::platform::linux) fn read(pid: u32) -> Result<Process, ProcessError> {
    match read_once(pid)? {
        (_, true) => Ok(read_once(pid)?.0),
        (process, false) => Ok(process),
    }
}

/// Reads a process, and says whether it has memory and shows no arguments.
fn read_once(pid: u32) -> Result<(Process, bool), ProcessError> {
    if let Some(why) = foreign::why() {
        return Err(ProcessError::Unreadable(why.to_owned()));
    }
    let folder = PathBuf::from(format!("/proc/{pid}"));
    let leader = stat(&folder).map_err(|error| match error {
        // With `hidepid=2` a process that this user may not see has no folder either (proc(5)).
        // If the folder is there by now, it is another process's, which has been given the pid.
        ProcessError::Gone if kin::exists(pid) && stat(&folder).is_err() => {
            ProcessError::Unreadable("/proc hides it from this user (hidepid)".to_owned())
        }
        other => other,
    })?;
    let (living, stat) = if state::has_ended(&leader) || state::is_leaving(&leader) {
        // When every thread of a process has ended, only its entry in the process table remains.
        living_thread(&folder, leader.clone()).ok_or(ProcessError::Gone)?
    } else {
        (folder, leader.clone())
    };
    let link = |name: &str| fs::read_link(living.join(name));
    let exe = link("exe");
    let cgroup = file::text(&living.join("cgroup")).unwrap_or_default();
    let cgroup::Place { unit, container, pod } = cgroup::place(&cgroup);
    let (uid, effective_uid) = status::users(&file::text(&living.join("status")).unwrap_or_default());
    // The arguments lie in the process's memory, which can be a file that is never read to its end, and so can its
    // executable.
    let place = living.clone();
    let slow = move || {
        // The link leads to the very file, wherever it is, and also once it was deleted.
        (argv(&place), fs::metadata(place.join("exe")).ok().map(|file| file.uid()))
    };
    let begun = time::start(leader.starttime);
    let ((argv, argv_cut), exe_owner) = patience::within(pid, begun, uid, slow).unwrap_or_default();
    // The link is empty (ENOENT) once the memory is gone. If it may not be read, nothing follows from that. It is read after
    // the arguments, because the memory may have gone between the two.
    let is_gone = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    let has_memory = argv.is_some() || !link("exe").as_ref().is_err_and(is_gone);
    // By then the process may be gone, and the pid nobody's or another process's, which has its memory. Of one that went after
    // the link was looked up, the kernel says EACCES.
    let is_the_same =
        || self::stat(Path::new(&format!("/proc/{pid}"))).is_ok_and(|now| now.starttime == leader.starttime);
    if argv.is_none() && has_memory && !is_the_same() {
        return Err(ProcessError::Gone);
    }
    let is_silent = argv.is_none() && has_memory;
    let process = Process {
        pid,
        start_time: begun,
        parent: parent_of(&leader),
        session: u32::try_from(leader.session).ok(),
        uid,
        effective_uid,
        user: uid.and_then(user::name),
        state: state::of(&stat, has_memory, cgroup::is_frozen(&cgroup)),
        comm: stat.comm,
        argv,
        argv_cut,
        exe: exe.ok().map(without_deleted),
        exe_owner,
        cwd: link("cwd").ok().map(without_deleted),
        root: Some(living.join("root")),
        unit,
        container,
        pod: pod.map(|uid| Pod { uid: Some(uid), name: None }),
        naming: None,
    };
    Ok((process, is_silent))
}

/// The short name of a process, and its real user: all that an event tells, by two small reads.
pub(in crate::platform::linux) fn name(pid: u32) -> Option<(String, Option<u32>)> {
    if foreign::why().is_some() {
        return None;
    }
    let folder = PathBuf::from(format!("/proc/{pid}"));
    let leader = stat(&folder).ok()?;
    let (living, stat) = if state::has_ended(&leader) || state::is_leaving(&leader) {
        living_thread(&folder, leader)?
    } else {
        (folder, leader)
    };
    let (uid, _) = status::users(&file::text(&living.join("status")).unwrap_or_default());
    Some((stat.comm, uid))
}

/// A number that changes with the process and with its program: each start of a program puts its stack, and the arguments
/// on it, at another random place.
pub(in crate::platform::linux) fn incarnation(pid: u32) -> Option<u64> {
    if foreign::why().is_some() {
        return None;
    }
    let stat = stat(Path::new(&format!("/proc/{pid}"))).ok()?;
    if state::has_ended(&stat) || state::is_leaving(&stat) {
        return None;
    }
    let mut hasher = DefaultHasher::new();
    (stat.starttime, stat.startstack, stat.arg_start).hash(&mut hasher);
    Some(hasher.finish())
}

fn parent_of(stat: &Stat) -> Option<Parent> {
    let pid = u32::try_from(stat.ppid).ok().filter(|&parent| parent != 0)?;
    Some(Parent { pid, comm: name_of(Path::new(&format!("/proc/{pid}"))) })
}

/// The process's short name, where `comm` is that of another of its threads, which acted so long ago.
pub(in crate::platform::linux) fn name_beside_thread(pid: u32, comm: &str, ago: Duration) -> Option<String> {
    /// A process can have any number of threads, and this is asked for while others wait.
    const MOST_THREADS: usize = 64;
    let folder = PathBuf::from(format!("/proc/{pid}"));
    let name = name_of(&folder).filter(|name| name != comm)?;
    // A process that was there before is the one that acted. Of a younger one a thread of this name has to tell.
    let was_there = stat(&folder).is_ok_and(|stat| time::age(stat.starttime).is_some_and(|age| age > ago));
    let has_thread = || {
        let mut threads = fs::read_dir(folder.join("task")).ok()?.flatten().take(MOST_THREADS);
        threads.any(|thread| name_of(&thread.path()).is_some_and(|name| name == comm)).then_some(())
    };
    (was_there || has_thread().is_some()).then_some(name)
}

/// Whether the process has not ended, so far as /proc shows it.
pub(super) fn is_running(pid: u32) -> bool {
    let folder = PathBuf::from(format!("/proc/{pid}"));
    stat(&folder).is_ok_and(|stat| !state::has_ended(&stat) || living_thread(&folder, stat).is_some())
}

/// Whether a descriptor of the process, the one given or any, leads to the socket.
pub(in crate::platform::linux) fn holds(descriptor: &Descriptor, inode: u64) -> io::Result<bool> {
    if let Some(why) = foreign::why() {
        return Err(io::Error::other(why));
    }
    let target = PathBuf::from(format!("socket:[{inode}]"));
    let pid = descriptor.pid;
    if let Some(Fd { thread, number }) = descriptor.fd
        && fs::read_link(format!("/proc/{pid}/task/{thread}/fd/{number}")).is_ok_and(|link| link == target)
    {
        return Ok(true);
    }
    // The descriptor may have moved to another number, or into another thread's own table.
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        for fd in fs::read_dir(task?.path().join("fd"))? {
            if fs::read_link(fd?.path()).is_ok_and(|link| link == target) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// The inode number of the network namespace that a process is in; `None` if that can't be read.
pub(in crate::platform::linux) fn network_namespace(pid: u32) -> Option<u32> {
    if foreign::why().is_some() {
        return None;
    }
    let folder = PathBuf::from(format!("/proc/{pid}"));
    let inode = |folder: &Path| Some(fs::metadata(folder.join("ns/net")).ok()?.ino());
    // A leader that has ended is in none any more; its threads are.
    let inode = inode(&folder).or_else(|| inode(&living_thread(&folder, stat(&folder).ok()?)?.0));
    u32::try_from(inode?).ok()
}

/// The processes of a network namespace whose first argument contains one of the texts. A title is there as well, and
/// the kernel's short name need not tell of it.
pub(in crate::platform::linux) fn named(texts: &[&str], netns: u32, among: Option<Vec<u32>>) -> Vec<u32> {
    if foreign::why().is_some() {
        return Vec::new();
    }
    let is_named = |pid: u32| {
        let arguments = file::read_once(Path::new(&format!("/proc/{pid}/cmdline"))).unwrap_or_default();
        let first = arguments.split(|&byte| byte == 0).next().unwrap_or_default();
        let name = String::from_utf8_lossy(first).to_lowercase();
        texts.iter().any(|text| name.contains(text))
    };
    let mut pids = among.unwrap_or_else(|| numbers(Path::new("/proc")).unwrap_or_default());
    pids.retain(|&pid| is_named(pid) && network_namespace(pid) == Some(netns));
    pids
}

/// The inodes of the sockets that a process has descriptors of.
pub(in crate::platform::linux) fn socket_inodes(pid: u32, left: &mut usize) -> io::Result<HashSet<u64>> {
    let mut inodes = HashSet::new();
    let tables = tables(&PathBuf::from(format!("/proc/{pid}")));
    if tables.is_empty() {
        return Err(io::Error::from(io::ErrorKind::NotFound));
    }
    for table in tables {
        for fd in fs::read_dir(table)? {
            *left = left.checked_sub(1).ok_or_else(|| io::Error::other("it has too many descriptors"))?;
            let Ok(link) = fs::read_link(fd?.path()) else { continue };
            let inode = link.to_str().and_then(|link| link.strip_prefix("socket:[")?.strip_suffix(']'));
            inodes.extend(inode.and_then(|inode| inode.parse::<u64>().ok()));
        }
    }
    Ok(inodes)
}

/// The folders with a process's descriptors. Threads share one table; if the leader has ended, only the other threads'
/// folders still show it.
fn tables(folder: &Path) -> Vec<PathBuf> {
    if stat(folder).is_ok_and(|stat| !state::has_ended(&stat)) {
        return vec![folder.join("fd")];
    }
    let threads = numbers(&folder.join("task")).unwrap_or_default();
    threads.into_iter().map(|thread| folder.join(format!("task/{thread}/fd"))).collect()
}

/// How much of the processes a walk over /proc has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::platform::linux) enum Sight {
    /// Every process of our pid namespace, with all of its descriptors.
    Whole,
    /// Some may not be looked into by this user, or are hidden.
    Partial,
}

/// Finds the descriptors of sockets by walking all readable processes: for kernels without the iterator. None are found in
/// another pid namespace's /proc, because its pids are not ours.
pub(in crate::platform::linux) fn add_descriptors(sockets: &mut Vec<Socket>) -> io::Result<Sight> {
    let mut places: HashMap<PathBuf, usize> = HashMap::new();
    for (place, socket) in sockets.iter().enumerate() {
        if let Some(inode) = socket.inode {
            places.insert(format!("socket:[{inode}]").into(), place);
        }
    }
    if places.is_empty() || foreign::why().is_some() {
        return Ok(Sight::Partial);
    }
    let mut sight = if hides_processes() { Sight::Partial } else { Sight::Whole };
    let (mut room, mut left_out) = (Room::new(None), Remainder::default());
    let begun = Instant::now();
    for pid in numbers(Path::new("/proc"))? {
        let folder = PathBuf::from(format!("/proc/{pid}"));
        let alive = stat(&folder).is_ok_and(|stat| !state::has_ended(&stat));
        // Threads share one table. If the leader has ended, only the other threads' folders still show it.
        let threads = if alive { vec![pid] } else { numbers(&folder.join("task")).unwrap_or_default() };
        for tid in threads {
            let table = folder.join(format!("task/{tid}/fd"));
            let numbers = numbers(&table);
            if matches!(&numbers, Err(error) if error.kind() == io::ErrorKind::PermissionDenied) {
                sight = Sight::Partial;
            }
            for fd in numbers.unwrap_or_default() {
                let link = match fs::read_link(table.join(fd.to_string())) {
                    Ok(link) => link,
                    Err(error) => {
                        if sight == Sight::Whole && is_refused(&error, pid) {
                            sight = Sight::Partial;
                        }
                        continue;
                    }
                };
                if let Some(&place) = places.get(&link) {
                    let fd = Some(Fd { thread: tid, number: fd });
                    let socket = &mut sockets[place];
                    if room.take(socket, socket.descriptors.len()) {
                        socket.descriptors.push(Descriptor { pid, fd });
                    } else {
                        left_out.add(socket, true, begun);
                    }
                }
            }
        }
    }
    sockets.extend(left_out.into_sockets());
    Ok(sight)
}

/// Whether the kernel refuses to show where a descriptor leads. The folder is listed by its mode, which `CAP_DAC_OVERRIDE` and
/// `CAP_DAC_READ_SEARCH` pass; its links are read by the right to trace the process (`proc_fd_access_allowed`, fs/proc/base.c).
/// The same error comes for a process that has ended since its folder was listed.
fn is_refused(error: &io::Error, pid: u32) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied && is_running(pid)
}

/// Whether /proc may leave processes out for this user (`hidepid`, proc(5)); true where that can't be read.
fn hides_processes() -> bool {
    let Ok(mounts) = fs::read_to_string("/proc/self/mountinfo") else { return true };
    let mut at_proc = mounts.lines().filter(|mount| mount.split(' ').nth(4) == Some("/proc"));
    // The last mount at a place lies on top. `hidepid=0` is not shown.
    at_proc.next_back().is_none_or(|mount| mount.contains("hidepid="))
}

/// Whether a message that carries descriptors waits at a local socket of any process (`scm_fds`, Linux 5.6), or may: also
/// where one of them may not be looked into.
pub(in crate::platform::linux) fn messages_may_carry_descriptors() -> bool {
    let carries = |path: PathBuf| {
        let info = file::text(&path).unwrap_or_default();
        let mut numbers = status::numbers(&info, "scm_fds").into_iter().flatten();
        numbers.next().is_some_and(|number| number != "0")
    };
    let may_carry = |folder: &Path, pid: u32, fd: u32| match fs::read_link(folder.join(format!("fd/{fd}"))) {
        // Of other files the kernel tells as much as they have, and may wait for whoever uses them (an epoll's lock).
        Ok(link) => {
            link.as_os_str().as_bytes().starts_with(b"socket:[")
                && carries(folder.join(format!("fdinfo/{fd}")))
        }
        Err(error) => is_refused(&error, pid),
    };
    let Ok(pids) = numbers(Path::new("/proc")) else { return true };
    hides_processes()
        || pids.into_iter().any(|pid| {
            let folder = PathBuf::from(format!("/proc/{pid}"));
            match numbers(&folder.join("fd")) {
                Ok(fds) => fds.into_iter().any(|fd| may_carry(&folder, pid, fd)),
                Err(error) => is_refused(&error, pid),
            }
        })
}

/// The entries of a folder whose names are numbers.
pub(super) fn numbers(folder: &Path) -> io::Result<Vec<u32>> {
    let entries = fs::read_dir(folder)?.filter_map(Result::ok);
    Ok(entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
}

/// `/proc/PID/stat`, parsed by the procfs crate, which takes the text between the first `(` and the last `)` as the
/// name, because a name can contain anything.
fn stat(folder: &Path) -> Result<Stat, ProcessError> {
    let bytes = file::read_once(&folder.join("stat")).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => ProcessError::Gone,
        _ if error.raw_os_error() == Some(nix::libc::ESRCH) => ProcessError::Gone,
        _ => ProcessError::Unreadable(error.to_string()),
    })?;
    parse_stat(&bytes).map_err(ProcessError::Unreadable)
}

/// The parser panics on what does not have the form `PID (NAME) STATE`, so that is looked at first.
pub(super) fn parse_stat(bytes: &[u8]) -> Result<Stat, String> {
    let has_form = || {
        let (begin, end) =
            (bytes.iter().position(|&byte| byte == b'(')?, bytes.iter().rposition(|&byte| byte == b')')?);
        let (before, after) = (bytes.get(..begin)?, bytes.get(end + 1..)?);
        let formed = before.first()?.is_ascii_digit() && before.last()? == &b' ' && begin < end;
        // The parser takes whatever stands up to the next space as the state, and other readers do not.
        Some(formed && matches!(after, [b' ', state, b' ', ..] if state.is_ascii_alphabetic()))
    };
    if has_form() != Some(true) {
        return Err("its stat has another form than PID (NAME) STATE".to_owned());
    }
    Stat::from_read(bytes).map_err(|error| error.to_string())
}

/// The folder of a thread that has not ended, and its `stat`; one that is not about to end, if there is one.
fn living_thread(folder: &Path, leader: Stat) -> Option<(PathBuf, Stat)> {
    let mut leaving = (!state::has_ended(&leader)).then(|| (folder.to_owned(), leader));
    for tid in numbers(&folder.join("task")).ok()? {
        let thread = folder.join(format!("task/{tid}"));
        match stat(&thread) {
            Ok(stat) if state::has_ended(&stat) => {}
            Ok(stat) if state::is_leaving(&stat) => leaving = leaving.or(Some((thread, stat))),
            Ok(stat) => return Some((thread, stat)),
            Err(_) => {}
        }
    }
    leaving
}

/// The arguments, and whether there are more than were read.
fn argv(folder: &Path) -> (Option<Vec<String>>, bool) {
    match file::read_up_to(&folder.join("cmdline"), file::MOST + 1) {
        Ok(bytes) => arguments(&bytes),
        Err(_) => (None, false),
    }
}

/// The arguments in the beginning of a command line, at most [`file::MOST`] bytes of text, and whether that is all of it.
/// If a process writes a title over them, one argument remains, and NULs fill the room of the others.
pub(super) fn arguments(bytes: &[u8]) -> (Option<Vec<String>>, bool) {
    let mut cut = bytes.len() > file::MOST;
    let bytes = &bytes[..bytes.len().min(file::MOST)];
    let end = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    if end == 0 {
        return (None, cut);
    }
    let mut room = file::MOST;
    let mut arguments = Vec::new();
    for argument in bytes[..end].split(|&byte| byte == 0) {
        // A byte that is not UTF-8 is replaced by three.
        let mut argument = String::from_utf8_lossy(argument).into_owned();
        if argument.len() > room {
            argument.truncate(argument.floor_char_boundary(room));
            cut = true;
        }
        room = room.saturating_sub(argument.len() + 1);
        arguments.push(argument);
        if cut && room == 0 {
            break;
        }
    }
    (Some(arguments), cut)
}

fn name_of(folder: &Path) -> Option<String> {
    let bytes = file::read_once(&folder.join("comm")).ok()?;
    Some(String::from_utf8_lossy(bytes.strip_suffix(b"\n").unwrap_or(&bytes)).into_owned())
}

/// Removes the kernel's mark on the path of a deleted file: an upgrade deletes a running program's file, for example.
pub(super) fn without_deleted(path: PathBuf) -> PathBuf {
    let kept = path.as_os_str().as_bytes().strip_suffix(b" (deleted)").map(OsStr::from_bytes);
    kept.map(PathBuf::from).unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use nix::sys::signal::{Signal, kill};
    use nix::sys::wait::{WaitPidFlag, waitpid};
    use nix::unistd::{Pid, geteuid, getsid, getuid};

    use super::*;
    use crate::model::ProcessState;

    #[test]
    fn a_process_is_read_with_its_users_session_parent_and_state() {
        // given a child
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let pid = Pid::from_raw(child.id().try_into().unwrap());
        let process = read(child.id()).unwrap();
        assert_eq!((process.uid, process.effective_uid), (Some(getuid().as_raw()), Some(geteuid().as_raw())));
        assert_eq!(process.user, user::name(getuid().as_raw()));
        assert_eq!(
            process.session.map(|session| session.try_into().unwrap()),
            getsid(None).ok().map(Pid::as_raw)
        );
        let parent = process.parent.as_ref().unwrap();
        assert_eq!((parent.pid, parent.comm.is_some()), (std::process::id(), true));
        assert_eq!(process.state, ProcessState::Running);
        assert!(process.age() < Duration::from_secs(3600));
        // when it is stopped
        kill(pid, Signal::SIGSTOP).unwrap();
        waitpid(pid, Some(WaitPidFlag::WUNTRACED)).unwrap();
        // then it says so
        assert_eq!(read(child.id()).unwrap().state, ProcessState::Stopped);
        // when it has ended, reaped or not, it is gone
        child.kill().unwrap();
        nix::sys::wait::waitid(nix::sys::wait::Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT)
            .unwrap();
        assert_eq!(read(child.id()).unwrap_err(), ProcessError::Gone);
        child.wait().unwrap();
        assert_eq!(read(child.id()).unwrap_err(), ProcessError::Gone);
    }

    #[test]
    fn a_command_line_is_cut_at_64_kib_whatever_is_in_it() {
        let total = |arguments: &[String]| arguments.iter().map(|argument| argument.len() + 1).sum::<usize>();
        assert_eq!(arguments(b"a\0b\0\0"), (Some(vec!["a".to_owned(), "b".to_owned()]), false));
        assert_eq!(arguments(b"\0\0"), (None, false));
        for byte in [b'x', 0xff, 0] {
            for length in [file::MOST - 1, file::MOST, file::MOST + 1] {
                let mut bytes = vec![byte; length];
                bytes[..2].copy_from_slice(b"a\0");
                let (some, cut) = arguments(&bytes);
                let too_long = length > file::MOST || byte == 0xff;
                assert_eq!(
                    (cut, total(&some.unwrap()) <= file::MOST + 1),
                    (too_long, true),
                    "{byte} {length}"
                );
            }
        }
    }

    #[test]
    fn an_event_tells_the_name_and_the_user_that_an_answer_tells() {
        let own = read(std::process::id()).unwrap();
        assert_eq!(name(std::process::id()), Some((own.comm, own.uid)));
    }

    #[test]
    fn a_stat_of_another_form_is_refused() {
        let rest = "0 ".repeat(43);
        for text in
            ["", "(", ")(", "1 (a)", "1 (a) ", "1 (a)\u{e9}", "(a) S 1", " (a) S 1", "1 )a( S 1", "1 (a) S"]
        {
            assert!(parse_stat(text.as_bytes()).is_err(), "{text:?}");
        }
        assert!(parse_stat(format!("7 (b) S:\t5 1 7 7 0 -1 0 {rest}").as_bytes()).is_err());
        assert_eq!(parse_stat(format!("7 () (b) S 1 7 7 0 -1 0 {rest}").as_bytes()).unwrap().comm, ") (b");
    }

    #[test]
    fn a_kernel_thread_is_not_leaving_though_it_has_no_memory() {
        if let Ok(kthreadd) = read(2)
            && kthreadd.comm == "kthreadd"
        {
            assert_eq!(kthreadd.state, ProcessState::Running);
        }
    }
}
