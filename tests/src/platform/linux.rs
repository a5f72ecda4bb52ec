//! Linux: pidfds, namespaces, capabilities, other users.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use nix::libc;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigHandler, Signal, kill};
use nix::unistd::Pid;
use socket2::{Domain, Protocol, Socket, Type};

pub use super::unix::{ASKED, FORCED, FORWARDER, user};
pub(crate) use super::unix::{interrupt, interruptible, is_root, name_again};
use crate::{Actor, Backend, Gatewatch, Needs, Part, program};

/// How ports can be observed.
pub const BACKENDS: &[Backend] = &[Backend::Ebpf, Backend::Poll];

/// Copies a program, or a script, to where it is to be run, by a process of its own. If this one wrote the copy, another thread's
/// fork could hold the descriptor that writes it for a moment, and whoever runs the copy then would find it busy (ETXTBSY).
///
/// # Panics
/// When it can't be copied.
pub fn install(program: &Path, to: &Path) {
    let status = Command::new("install").args(["-m", "755"]).arg(program).arg(to).status().unwrap();
    assert!(status.success(), "{} can't be copied to {}", program.display(), to.display());
}

/// Writes a script that is to be run, as [`install`] does.
///
/// # Panics
/// When it can't be written.
pub fn install_script(text: &str, to: &Path) {
    let written = to.with_extension("text");
    std::fs::write(&written, text).unwrap();
    install(&written, to);
}

/// Whether no TCP or UDP socket has this port. Asked of the table, not by a bind: a child that another scenario forks in that
/// moment has the listener too, and keeps the port until it is executed.
pub(crate) fn is_unused(port: u16) -> bool {
    let local = format!(":{port:04X}");
    let tables = ["/proc/net/tcp", "/proc/net/tcp6", "/proc/net/udp", "/proc/net/udp6"];
    tables.into_iter().all(|table| {
        // There is no second table where IPv6 is off.
        let sockets = std::fs::read_to_string(table).unwrap_or_default();
        sockets.lines().all(|line| !line.split_whitespace().nth(1).is_some_and(|word| word.ends_with(&local)))
    })
}

/// Sends a signal.
///
/// # Panics
/// When there is no such process, or this user may not.
pub fn send(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid.try_into().unwrap()), signal).unwrap();
}

/// Heeds the signals that a program is asked to end by, whatever started this one: a script's job in the background ignores
/// SIGINT, and so would all that is started here.
///
/// # Panics
/// Never: they can be heeded.
pub fn heed_signals() {
    for signal in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM] {
        // SAFETY: no handler is set.
        unsafe { nix::sys::signal::signal(signal, SigHandler::SigDfl) }.unwrap();
    }
}

/// Detaches the hooks that a process has at cgroups, as `bpftool link detach` does; how many there were.
///
/// # Panics
/// When they can't be detached.
pub fn detach_cgroup_hooks(pid: u32) -> usize {
    const BPF_LINK_GET_FD_BY_ID: libc::c_int = 30;
    const BPF_LINK_DETACH: libc::c_int = 34;
    let bpf = |command: libc::c_int, number: u32| {
        let mut attributes = [0u32; 32];
        attributes[0] = number;
        let length = size_of_val(&attributes);
        // SAFETY: both commands read one number from the attributes, which have the length that is passed.
        let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut attributes, length) };
        nix::errno::Errno::result(result).unwrap()
    };
    let mut ids = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fdinfo")).unwrap() {
        let info = std::fs::read_to_string(entry.unwrap().path()).unwrap_or_default();
        let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        if field("link_type:") == Some("cgroup") {
            ids.extend(field("link_id:").and_then(|id| id.parse::<u32>().ok()));
        }
    }
    for &id in &ids {
        let fd = i32::try_from(bpf(BPF_LINK_GET_FD_BY_ID, id)).unwrap();
        // SAFETY: the kernel has just made this descriptor for us.
        let link = unsafe { OwnedFd::from_raw_fd(fd) };
        bpf(BPF_LINK_DETACH, link.as_raw_fd().cast_unsigned());
    }
    ids.len()
}

/// The actor with a name: its first argument.
pub(crate) fn named(name: &str) -> Command {
    let mut command = Command::new(program("actor"));
    command.arg0(name);
    command
}

/// Means a process even after its pid is reused.
pub struct Life(OwnedFd);

impl Life {
    /// Opens it.
    ///
    /// # Panics
    /// When there is no such process.
    pub fn of(pid: u32) -> Self {
        // SAFETY: pidfd_open(2) takes two numbers and gives a new descriptor.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        let fd = i32::try_from(nix::errno::Errno::result(fd).unwrap()).unwrap();
        // SAFETY: the kernel has just made this descriptor for us.
        Self(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// Whether it has ended, or ends within this time. A zombie has ended.
    ///
    /// # Panics
    /// When that can't be found out.
    pub fn ends_within(&self, time: Duration) -> bool {
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::try_from(time).unwrap()).unwrap() > 0
    }
}

/// A process in a frozen control group of version 1, where not even SIGKILL reaches it. It is thawed when this is dropped.
pub struct Frozen(PathBuf);

impl Frozen {
    /// Freezes a process.
    ///
    /// # Panics
    /// When this kernel has no such groups.
    pub fn new(pid: u32) -> Self {
        let mut freezer = PathBuf::from("/sys/fs/cgroup/freezer");
        if !freezer.join("cgroup.procs").exists() {
            // Hosts that use version 2 alone can mount it beside.
            freezer = crate::programs().join("freezer");
            std::fs::create_dir_all(&freezer).unwrap();
            let mount = ["-t", "cgroup", "-o", "freezer", "gatewatch-tests"];
            assert!(Command::new("mount").args(mount).arg(&freezer).status().unwrap().success());
        }
        let group = freezer.join(format!("gatewatch-tests-{pid}"));
        std::fs::create_dir(&group).unwrap();
        let frozen = Self(group);
        std::fs::write(frozen.0.join("cgroup.procs"), pid.to_string()).unwrap();
        let state = frozen.0.join("freezer.state");
        std::fs::write(&state, "FROZEN").unwrap();
        crate::until("the group is frozen", || std::fs::read_to_string(&state).unwrap() == "FROZEN\n");
        frozen
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = std::fs::write(self.0.join("freezer.state"), "THAWED");
        leave(&self.0);
    }
}

/// A file system. It goes when this is dropped.
pub struct Mounted(PathBuf);

impl Mounted {
    /// Mounts one of this kind in a new folder.
    ///
    /// # Panics
    /// When that can't be done.
    pub fn of(kind: &str, at: &Path, options: Option<&str>) -> Self {
        std::fs::create_dir(at).unwrap();
        mount(Some(kind), at, Some(kind), MsFlags::empty(), options).unwrap();
        Self(at.to_owned())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Fills a small disk. There is room again once the file that this gives is removed.
    ///
    /// # Panics
    /// When it can't be written to, or has too much room.
    pub fn fill(&self) -> PathBuf {
        let filler = self.0.join("filler");
        let written = std::fs::write(&filler, vec![1; 16 << 20]);
        assert_eq!(written.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
        filler
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Who has files open there keeps it until they are closed.
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

/// A control group of version 2 whose name makes it a unit's. It is given up when this is dropped.
pub struct Unit(PathBuf);

impl Unit {
    /// Makes one.
    ///
    /// # Panics
    /// When this kernel has no such groups.
    pub fn new(name: &str) -> Self {
        let known = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(PathBuf::from);
        let is_it = |mount: &PathBuf| mount.join("cgroup.controllers").exists();
        let mount = known.into_iter().find(is_it).unwrap_or_else(|| {
            let mount = crate::programs().join("cgroup2");
            std::fs::create_dir_all(&mount).unwrap();
            let words = ["-t", "cgroup2", "gatewatch-tests"];
            assert!(Command::new("mount").args(words).arg(&mount).status().unwrap().success());
            mount
        });
        let group = mount.join(name);
        std::fs::create_dir(&group).unwrap();
        Self(group)
    }

    /// Makes a process one of the unit's.
    ///
    /// # Panics
    /// When that is not allowed.
    pub fn add(&self, pid: u32) {
        std::fs::write(self.0.join("cgroup.procs"), pid.to_string()).unwrap();
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        leave(&self.0);
    }
}

/// Removes a control group, once its last processes have left it.
fn leave(group: &Path) {
    let above = group.parent().map(|above| above.join("cgroup.procs"));
    for pid in std::fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default().lines() {
        let _ = above.as_ref().map(|above| std::fs::write(above, pid));
    }
    let _ = std::fs::remove_dir(group);
    // Gives up the mount, where there is one of ours; busy while another group is in use.
    if let Some(mount) = group.parent().filter(|mount| mount.starts_with(crate::programs())) {
        let _ = Command::new("umount").arg("--quiet").arg(mount).status();
    }
}

/// Whether there are multipath sockets.
pub(crate) fn has_multipath() -> bool {
    Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::MPTCP)).is_ok()
}

/// Whether anybody may make an io_uring. Before Linux 6.6 there is no such setting.
pub(crate) fn has_io_uring() -> bool {
    let allowed =
        std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").map(|text| text.trim() == "0");
    // SAFETY: with a null pointer the call changes nothing, and says that the pointer is bad where the kernel has it.
    let asked = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, std::ptr::null::<u8>()) };
    allowed.unwrap_or(true) && nix::errno::Errno::result(asked) == Err(nix::errno::Errno::EFAULT)
}

/// Why this system can't show what needs this: no such need is known.
pub(crate) fn cannot(_needs: Needs) -> Option<&'static str> {
    None
}

impl Part {
    /// With this short name, whatever the program and its arguments are.
    pub fn with_comm(self, name: &str) -> Self {
        self.with(&["--comm", name])
    }

    /// As an ordinary user.
    pub fn as_nobody(mut self) -> Self {
        self.command.uid(65_534).gid(65_534);
        self
    }

    /// As an ordinary user with the capabilities for kernel events.
    pub fn as_nobody_with_kernel_events(self) -> Self {
        let mut outer = Command::new(AS_NOBODY[0]);
        outer.args(&AS_NOBODY[1..]).args(WITH_KERNEL_EVENTS).arg(self.command.get_program());
        outer.args(self.command.get_args());
        Self::program(outer)
    }

    /// In a network namespace of its own, whose loopback is up.
    pub fn in_own_network(mut self) -> Self {
        // SAFETY: between fork and exec only system calls are made.
        unsafe {
            self.command.pre_exec(|| {
                nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)?;
                Ok(())
            });
        }
        self
    }

    /// On this link-local address, which the loopback of a network namespace of its own has.
    ///
    /// # Panics
    /// When it ends before it is ready.
    pub fn start_on_link_local(self, address: &str, port: u16) -> Actor {
        let mut outer = Command::new("unshare");
        outer.args(["--net", "bash", "-ec"]).arg(format!(
            "ip link set lo up; ip address add {address}/64 dev lo nodad; exec -a openclaw-gateway \"$0\" \"$@\""
        ));
        // The loopback is the first interface of each namespace.
        outer.arg(self.command.get_program()).args(["--on", &format!("[{address}%1]:{port}")]);
        outer.args(self.command.get_args());
        Self::program(outer).start()
    }

    /// As an ordinary user who is root of a user namespace and a network namespace of its own: what everybody may be.
    pub fn in_own_user_namespace(self) -> Self {
        let mut part = self.as_nobody();
        in_own_user_namespace(&mut part.command);
        part
    }

    /// Starts it as PID 1 of its own pid namespace. Its pid here is that of the outer namespace.
    ///
    /// # Panics
    /// When it ends before it is ready.
    pub fn start_as_init(self) -> Actor {
        self.start_as_init_through(&[])
    }

    /// Like [`Self::start_as_init`], as an ordinary user.
    ///
    /// # Panics
    /// When it ends before it is ready.
    pub fn start_as_init_of_nobody(self) -> Actor {
        self.start_as_init_through(&AS_NOBODY)
    }

    fn start_as_init_through(self, before: &[&str]) -> Actor {
        let name = "openclaw-gateway";
        let mut outer = Command::new("unshare");
        outer.args(["--pid", "--fork", "--mount-proc", "--kill-child"]).args(before).args(["bash", "-c"]);
        outer.arg(format!("exec -a {name} \"$0\" \"$@\"")).arg(self.command.get_program());
        outer.args(self.command.get_args());
        let mut actor = Self::program(outer).start();
        let outer = actor.started_pid();
        let children = std::fs::read_to_string(format!("/proc/{outer}/task/{outer}/children")).unwrap();
        actor.replace_holders(vec![children.trim().parse().unwrap()]);
        actor
    }

    /// Starts it in its own pid namespace, where /proc is still the outer namespace's; with a double, a child that has the
    /// number there that it has here. `outer` are more arguments for unshare.
    ///
    /// # Panics
    /// When it ends before it is ready.
    pub fn start_under_foreign_proc(self, outer: &[&str]) -> Actor {
        let mut unshare = Command::new("unshare");
        unshare.args(outer).args(["--pid", "--fork", "--kill-child", "bash", "-c"]);
        // The first process of the namespace is the shell.
        unshare.arg("(exec -a openclaw-gateway \"$0\" \"$@\" --double); exit $?");
        unshare.arg(self.command.get_program()).args(self.command.get_args());
        Self::program(unshare).start()
    }

    /// Starts it as an ordinary user, where /proc hides other users' processes.
    ///
    /// # Panics
    /// When it ends before it is ready.
    pub fn start_where_proc_hides(self, hidepid: &str) -> Actor {
        let mut outer = Command::new("unshare");
        outer.args(["--mount", "bash", "-c"]).arg(format!(
            "mount -t proc -o hidepid={hidepid} proc /proc && exec {} \
             bash -c 'exec -a openclaw-gateway \"$0\" \"$@\"' \"$0\" \"$@\"",
            AS_NOBODY.join(" ")
        ));
        outer.arg(self.command.get_program()).args(self.command.get_args());
        Self::program(outer).start()
    }
}

/// For [`AS_NOBODY`], and before what it runs: with the capabilities for kernel events.
const WITH_KERNEL_EVENTS: [&str; 3] = [
    "--inh-caps=+bpf,+perfmon,+net_admin,+sys_ptrace,+dac_read_search",
    "--ambient-caps=+bpf,+perfmon,+net_admin,+sys_ptrace,+dac_read_search",
    "--",
];

/// Runs what follows as an ordinary user.
const AS_NOBODY: [&str; 4] = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];

/// A program that belongs to root and runs as root whoever starts it, as `sudo` does; it runs a command, as its parent
/// and as the ordinary user again.
///
/// # Panics
/// When it can't be made.
pub fn below_setuid_hop(command: Vec<String>) -> Vec<String> {
    static HOP: OnceLock<PathBuf> = OnceLock::new();
    let hop = HOP.get_or_init(|| {
        let hop = crate::programs().join("setuid-hop");
        // By another program: while this one has the file open for writing, a fork in another thread could keep it so, and
        // it could not be executed.
        let made = Command::new("install").args(["-m", "4755"]).arg(program("actor")).arg(&hop).status();
        assert!(made.unwrap().success());
        hop
    });
    let mut words: Vec<String> = vec![hop.to_str().unwrap().to_owned()];
    words.extend(["--hop", "--"].iter().chain(&AS_NOBODY).map(|&word| word.to_owned()));
    words.extend(command);
    words
}

impl Actor {
    /// The children of its first thread.
    ///
    /// # Panics
    /// When they can't be read.
    pub fn children(&self) -> Vec<u32> {
        let pid = self.pid();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        children.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
    }

    /// Asks the first holder to end.
    pub fn ask_to_end(&self) {
        send(self.pid(), Signal::SIGTERM);
    }

    /// Its network namespace.
    pub fn netns(&self) -> String {
        format!("/proc/{}/ns/net", self.pid())
    }
}

/// Makes it run as the user `nobody`, who is root of a user namespace and a network namespace of its own.
pub fn in_own_user_namespace(command: &mut Command) {
    command.uid(65_534).gid(65_534);
    // SAFETY: between fork and exec only system calls are made.
    unsafe {
        command.pre_exec(|| {
            use nix::sched::{CloneFlags, unshare};
            // After a change of the user, the files of the own /proc folder are root's (PR_SET_DUMPABLE, prctl(2)).
            nix::sys::prctl::set_dumpable(true)?;
            unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET)?;
            std::fs::write("/proc/self/uid_map", "0 65534 1")
        });
    }
}

impl Gatewatch {
    /// As an ordinary user.
    pub fn as_nobody(mut self) -> Self {
        self.command.uid(65_534).gid(65_534);
        self
    }

    /// Within the pid namespace of a process, but not as its descendant.
    pub fn inside(self, pid: u32) -> Self {
        self.through(&["nsenter", "--pid", "--mount", "--target", &pid.to_string(), "--"])
    }

    /// Like [`Self::inside`], with other mounts, where the runtimes of containers keep nothing.
    pub fn inside_with_other_files(self, pid: u32) -> Self {
        let script = "mount -t tmpfs none /run; mount -t tmpfs none /var/lib; exec \"$0\" \"$@\"";
        let target = pid.to_string();
        let outer = ["nsenter", "--pid", "--mount", "--target", &target, "--", "unshare", "--mount"];
        self.through(&[&outer[..], &["sh", "-ec", script]].concat())
    }

    /// Within the pid namespace of a process, but with the /proc of this one; `outer` are more arguments for nsenter.
    pub fn inside_with_foreign_proc(self, pid: u32, outer: &[&str]) -> Self {
        let target = pid.to_string();
        self.through(&[&["nsenter"], outer, &["--pid", "--target", &target, "--"]].concat())
    }

    /// With the mounts that a process sees.
    pub fn in_mounts_of(self, pid: u32) -> Self {
        self.through(&["nsenter", "--mount", "--target", &pid.to_string(), "--"])
    }

    /// Within the network namespace of a process.
    pub fn in_network_of(self, pid: u32) -> Self {
        self.through(&["nsenter", "--net", "--target", &pid.to_string(), "--"])
    }

    /// In a time namespace of its own, whose monotonic clock is a day ahead.
    pub fn in_own_time(self) -> Self {
        self.through(&["unshare", "--time", "--monotonic", "86400", "--"])
    }

    /// As root, without a capability.
    pub fn without_capability(self, name: &str) -> Self {
        self.through(&["setpriv", &format!("--bounding-set=-{name}"), &format!("--inh-caps=-{name}"), "--"])
    }

    /// As an ordinary user with the capabilities for kernel events, as a unit with `User=` and `AmbientCapabilities=` runs.
    pub fn as_nobody_with_kernel_events(self) -> Self {
        self.through(&[&AS_NOBODY[..], &WITH_KERNEL_EVENTS].concat())
    }

    /// As root of a user namespace of its own.
    pub fn in_own_user_namespace(self) -> Self {
        self.through(&["unshare", "--user", "--map-root-user", "--"])
    }

    /// Under a filter of system calls that refuses bpf(2) with this error, as a container's does.
    pub fn filtered(mut self, error: nix::errno::Errno) -> Self {
        let step = |code: u32, if_so: u8, if_not: u8, k: u32| libc::sock_filter {
            code: u16::try_from(code).unwrap(),
            jt: if_so,
            jf: if_not,
            k,
        };
        let number = u32::try_from(libc::SYS_bpf).unwrap();
        let refused = libc::SECCOMP_RET_ERRNO | (error as i32).cast_unsigned();
        // The number of the system call is the first word of what a filter reads.
        let mut filter = [
            step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
            step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, number),
            step(libc::BPF_RET | libc::BPF_K, 0, 0, refused),
            step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
        ];
        let install = move || {
            let program =
                libc::sock_fprog { len: u16::try_from(filter.len()).unwrap(), filter: filter.as_mut_ptr() };
            // SAFETY: the kernel copies the filter, which has this length and outlives the call.
            let set =
                unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
            nix::errno::Errno::result(set).map(drop).map_err(Into::into)
        };
        // SAFETY: between fork and exec only a system call is made.
        unsafe { self.command.pre_exec(install) };
        self
    }

    /// Where its tables in /proc/net are hidden; `tables` are made there instead, empty.
    pub fn without_proc_net(self, tables: &[&str]) -> Self {
        let tables: Vec<String> = tables.iter().map(|table| format!(": > $net/{table}; ")).collect();
        // The tables are those of the thread that reads them.
        let script = format!(
            "net=/proc/$$/task/$$/net; mount -t tmpfs none $net; {}exec \"$0\" \"$@\"",
            tables.concat()
        );
        self.through(&["unshare", "--mount", "sh", "-ec", &script])
    }

    fn through(self, outer: &[&str]) -> Self {
        let mut command = Command::new(outer[0]);
        command.args(&outer[1..]).args(self.words());
        for (name, value) in self.command.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        Self { command }
    }
}
