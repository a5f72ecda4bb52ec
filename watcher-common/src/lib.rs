//! The records that gatewatch's kernel program and its user-space side share.
//!
//! Each is `repr(C)` without padding, so that both sides, compiled by different compilers for different targets,
//! agree on every byte. Numbers are in the machine's own byte order; ports are already converted from the network's.
#![no_std]

#[cfg(feature = "user")]
mod user;

#[cfg(feature = "user")]
pub use user::Record;

/// `AF_INET`, socket(2).
pub const AF_INET: u16 = 2;
/// `AF_INET6`, socket(2).
pub const AF_INET6: u16 = 10;
/// `IPPROTO_TCP`, in(7).
pub const IPPROTO_TCP: u16 = 6;
/// `IPPROTO_UDP`.
pub const IPPROTO_UDP: u16 = 17;
/// `IPPROTO_MPTCP`: a multipath socket. Its port is held by a TCP socket inside of it, the first subflow.
pub const IPPROTO_MPTCP: u16 = 262;
/// The kernel's `TCP_TIME_WAIT`: what is left of a connection, which has no file.
pub const TCP_TIME_WAIT: u16 = 6;
/// The kernel's `TCP_CLOSE`: also the state of a socket that is bound and does not listen.
pub const TCP_CLOSE: u16 = 7;
/// The kernel's `TCP_LISTEN`.
pub const TCP_LISTEN: u16 = 10;

/// The firewall mark (`SO_MARK`, socket(7)) of gatewatch's own sockets, which never listen. It says where to look closer,
/// and proves nothing: in a user namespace of its own everybody may set any mark. What makes a socket gatewatch's is that
/// root or the watcher's own user made it, in a process that runs gatewatch's own file. No rule on marks ever applies to a
/// bound socket that never sends.
pub const OWN_MARK: u32 = 0x6761_7465;

/// The size of a protocol's part of the map of watched ports: one bit a port, in 64-bit words. TCP's part comes first, then
/// UDP's.
pub const PORT_WORDS: u32 = 65_536 / 64;

/// The number of counts of lost events, for gatewatch's own network namespace and then for all others: of those that a watch
/// would have made lines of, and of the rest.
pub const LOST_COUNTS: u32 = 4;

/// How many sockets bound to watched ports are remembered, so that clients among them are known when they go.
pub const BOUND_COOKIES: u32 = 4096;

/// Defines [`EventKind`] and the list of its variants from one list, so that neither can lack what the other has.
macro_rules! event_kinds {
    ($($(#[$doc:meta])* $kind:ident = $number:literal,)*) => {
        /// What a kernel event reports.
        #[repr(u16)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum EventKind {
            $($(#[$doc])* $kind = $number,)*
        }

        impl EventKind {
            /// Every kind.
            pub const ALL: &[Self] = &[$(Self::$kind,)*];
        }
    };
}

event_kinds! {
    /// A socket was bound to the port.
    Bind = 1,
    /// A socket began listening.
    Listen = 2,
    /// A listener stopped listening, by `shutdown` or as the first step of its close, but still holds the port.
    Unlisten = 3,
    /// The socket is being destroyed; its port goes back before anything else runs on that CPU.
    Release = 4,
    /// `bind` or `listen` failed with `EADDRINUSE`.
    Conflict = 5,
    /// A bind of a guarded port failed with `EPERM`, because nobody has let the process in.
    Refused = 6,
}

impl EventKind {
    /// Its number in [`Event::kind`].
    #[inline(always)]
    #[must_use]
    pub fn number(self) -> u16 {
        self as u16
    }
}

/// The bits of [`Descriptor::options`]: the bit fields `skc_reuse:4`, `skc_reuseport:1` and `skc_ipv6only:1` of one byte, in
/// this order since Linux 3.13.
pub mod option {
    /// `SO_REUSEADDR` is set, if any of these bits is.
    pub const REUSEADDR: u16 = 0x0f;
    /// `IPV6_V6ONLY` is set.
    pub const V6ONLY: u16 = 0x20;
}

/// One kernel event about a watched port.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub time_ns: u64,
    /// The socket's cookie (`SO_COOKIE`), unique while the system is up; 0 if the kernel did not give it.
    pub cookie: u64,
    /// The process (thread group) that was running; 0 if it is not visible in gatewatch's pid namespace.
    pub pid: u32,
    /// Its user, in the initial user namespace.
    pub uid: u32,
    /// The socket's network namespace, as an inode number; 0 if the kernel did not give it.
    pub netns: u32,
    /// `SO_BINDTODEVICE`'s interface index, or the scope of a link-local address; 0 for none.
    pub interface: u32,
    /// The local address; IPv4 in the first four bytes.
    pub address: [u8; 16],
    /// The thread's name, NUL-padded.
    pub comm: [u8; 16],
    /// The number of an [`EventKind`].
    pub kind: u16,
    /// [`AF_INET`] or [`AF_INET6`].
    pub family: u16,
    /// The local port.
    pub port: u16,
    /// [`IPPROTO_TCP`], also for a multipath socket, or [`IPPROTO_UDP`].
    pub protocol: u16,
}

/// The version of [`Event`]'s layout: another one when a field of it changes. An agent reads the ring that the agent before
/// has left, which may have been of another version.
pub const EVENT_LAYOUT: u32 = 1;

/// One descriptor, in a process, of a socket on a watched port: what the kernel has there, as it is.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// The socket's cookie; 0 if nobody has asked for it yet, because the kernel makes it when it is asked for.
    pub cookie: u64,
    /// The cookie of a multipath socket's first subflow. Of other sockets it says nothing.
    pub subflow_cookie: u64,
    /// The inode that `/proc/PID/fd` shows as `socket:[…]`.
    pub inode: u64,
    /// The local IPv6 address. Of an IPv4 socket it says nothing.
    pub v6: [u8; 16],
    /// The local IPv4 address. Of an IPv6 socket it says nothing.
    pub v4: [u8; 4],
    /// The process; 0 if it is not visible in gatewatch's pid namespace.
    pub pid: u32,
    /// The thread whose descriptor table has it; differs from `pid` when the leader has ended.
    pub tid: u32,
    /// The descriptor's number.
    pub fd: u32,
    /// As in [`Event::netns`].
    pub netns: u32,
    /// As in [`Event::interface`].
    pub interface: u32,
    /// The user who created the socket, in the initial user namespace.
    pub uid: u32,
    /// As in [`Event::family`].
    pub family: u16,
    /// `IPPROTO_TCP`, `IPPROTO_MPTCP` or `IPPROTO_UDP`.
    pub protocol: u16,
    /// The local port.
    pub port: u16,
    /// The remote port; 0 if it is not connected.
    pub remote_port: u16,
    /// The kernel's TCP state, which a UDP socket has as well.
    pub state: u16,
    /// Bits of [`option`].
    pub options: u16,
}

/// How many files an iterator over descriptors takes out of a table at once: as many as a word of the table's bitmap has bits.
pub const FILES_AT_ONCE: usize = 64;

/// So many descriptors of a port's files can be looked at once more. If there are more, all processes are looked at.
pub const MET_AT_MOST: usize = 8;

/// What an iterator over descriptors knows from one visit to the next. User space sets `socket` before the first.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The address of the kernel's `socket_file_ops`, which every file of a socket has, and no other.
    pub sockets: u64,
    /// A descriptor of gatewatch's own that is a socket, to find that address by.
    pub socket: u32,
    /// The thread that had more descriptors to report than there was room for.
    pub thread: u32,
    /// The first of them that found none.
    pub descriptor: u32,
    /// Whether the sockets of all ports are wanted, watched or not: 1 or 0.
    pub any_port: u32,
    /// The only TCP port that is wanted, in the network namespace of `socket`, so that other files need not be looked at; 0 if
    /// there is none. The kernel program makes it 0 where it can't find all sockets of the port beforehand.
    pub port: u32,
    /// 1 after the last visit if other sockets had the port than before the first, else 0.
    pub has_changed: u32,
    /// 1 if it is enough to know whether the port has a bucket, which any socket gives it; else 0.
    pub only_buckets: u32,
    /// 1 if the only processes to look at are those that made the port's sockets, and their children; else 0.
    pub only_makers: u32,
    /// 1 once every reference to the port's files is known to be a descriptor that was found, else 0. Then no other process
    /// has one, and the rest need not be looked at.
    pub is_over: u32,
    /// Nothing: the next fields are eight bytes long.
    pub padding: u32,
    /// The address of the file of `socket`.
    pub file: u64,
    /// Of which files the sockets are looked at. Each file is one of 64 bits.
    pub filter: u64,
    /// The sum of the addresses of the port's files.
    pub sum: u64,
    /// How many buckets the port has: none if no socket at all has it.
    pub buckets: u64,
    /// Of whom the processes are looked at. Each `struct cred` is one of 64 bits.
    pub makers: u64,
    /// The sum of the addresses of the port's files, each as often as it is referred to; 0 if that can't be told.
    pub references: u64,
    /// The same sum of the descriptors that were found.
    pub met: u64,
    /// Where the pointers to their files stand in the tables: the last few.
    pub places: [u64; MET_AT_MOST],
    /// How many there are.
    pub met_count: u64,
    /// 1 once one was found in a table that others than the threads of a process may share, else 0.
    pub is_shared: u64,
    /// The kernel program's own: where it is among the port's sockets.
    pub walk: Walk,
    /// The kernel program's own: where it is in a table of descriptors.
    pub visit: Visit,
    /// The kernel program's own: addresses of the files that it looks at next.
    pub files: [u64; FILES_AT_ONCE],
}

/// A walk through the sockets that have a port: addresses of the kernel's, and what was found so far.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Walk {
    /// The network namespace.
    pub net: u64,
    /// The next bucket of the chain in which the port's are.
    pub bucket: u64,
    /// Where the pointer to that lies, to which the bucket must point back.
    pub to_bucket: u64,
    /// The next of the parts that a bucket of the port has: one for each address.
    pub part: u64,
    /// As `to_bucket`.
    pub to_part: u64,
    /// The next socket.
    pub socket: u64,
    /// As `to_bucket`.
    pub to_socket: u64,
    /// As [`Progress::buckets`].
    pub buckets: u64,
    /// As [`Progress::filter`].
    pub filter: u64,
    /// As [`Progress::sum`].
    pub sum: u64,
    /// As [`Progress::makers`].
    pub makers: u64,
    /// As [`Progress::references`].
    pub references: u64,
    /// Where among all chains this one is.
    pub place: u32,
    /// What of a number tells the place.
    pub mask: u32,
    /// 1 once all were seen, else 0.
    pub has_ended: u32,
    /// 1 once something was found that can't be, or a socket whose file can't be told; else 0.
    pub is_lost: u32,
}

/// A visit to the descriptors of a task.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Visit {
    /// The address of the task.
    pub task: u64,
    /// That of the array of pointers to files.
    pub files: u64,
    /// That of the bitmap of the descriptors that are open.
    pub bitmap: u64,
    /// The first of the descriptors that are looked at together: a word of the bitmap.
    pub first: u64,
    /// Which of the present word are open and to be looked at.
    pub open: u64,
    /// Which of the next word are to be looked at: those of the first that were not, then all.
    pub wanted: u64,
    /// 1 once there was no room for a descriptor, else 0.
    pub is_full: u64,
}

/// Where the running kernel keeps what the program reads: byte offsets from its BTF. User space fills this in before
/// the load, because the program has no relocations of its own (aya-ebpf 0.2 has none).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "each field is named after the kernel's struct and member")]
pub struct Offsets {
    pub sock_dport: u32,
    pub sock_family: u32,
    pub sock_state: u32,
    /// The local port, in the machine's own order; 0 once the socket has none.
    pub sock_num: u32,
    pub sock_bind_node: u32,
    pub sock_socket: u32,
    /// The byte that holds the bit fields `skc_reuse:4`, `skc_reuseport:1` and `skc_ipv6only:1`.
    pub sock_reuse: u32,
    pub sock_bound_dev_if: u32,
    pub sock_net: u32,
    pub sock_rcv_saddr: u32,
    pub sock_v6_rcv_saddr: u32,
    pub sock_cookie: u32,
    pub sock_mark: u32,
    pub sock_protocol: u32,
    pub sock_uid: u32,
    pub inet_sport: u32,
    pub net_inum: u32,
    pub mptcp_first: u32,
    pub socket_sk: u32,
    pub socket_file: u32,
    pub file_private_data: u32,
    pub file_inode: u32,
    pub file_op: u32,
    /// 0 if it is not known where the next two are.
    pub file_cred: u32,
    pub file_count: u32,
    /// How many references a file has if its count is 0.
    pub file_first_count: u32,
    pub inode_ino: u32,
    pub inode_mode: u32,
    pub inode_sb: u32,
    /// In `struct super_block`: `s_dev`.
    pub super_dev: u32,
    pub task_tgid: u32,
    pub task_pid: u32,
    pub task_files: u32,
    pub task_cred: u32,
    pub task_group_leader: u32,
    pub task_real_parent: u32,
    pub task_signal: u32,
    pub task_thread_pid: u32,
    pub task_mm: u32,
    pub mm_exe_file: u32,
    pub signal_pids: u32,
    pub signal_live: u32,
    pub pid_level: u32,
    pub pid_numbers: u32,
    pub pidns_inum: u32,
    pub files_fdt: u32,
    pub files_count: u32,
    pub fdtable_fd: u32,
    pub fdtable_max_fds: u32,
    pub fdtable_open_fds: u32,
    /// `struct pt_regs`: the register of a system call's first argument, as it was at the call's entry.
    pub regs_first: u32,
    pub regs_second: u32,
    pub net_hash_mix: u32,
    /// In `struct net`: `ipv4.tcp_death_row.hashinfo`.
    pub net_tcp_tables: u32,
    pub tables_bhash: u32,
    pub tables_bhash_size: u32,
    /// `struct inet_bind_hashbucket`, and how long it is.
    pub chain_first: u32,
    pub chain_size: u32,
    /// `struct inet_bind_bucket`.
    pub bucket_net: u32,
    pub bucket_port: u32,
    pub bucket_node: u32,
    /// Its sockets; 0 if they are in its parts (since Linux 6.8).
    pub bucket_owners: u32,
    /// Its parts, `struct inet_bind2_bucket`.
    pub bucket_parts: u32,
    pub part_node: u32,
    pub part_owners: u32,
}

/// The user of a [`Badge`] that is anybody's: no user has this number (`setuid(2)` takes it for "none").
pub const ANYBODY: u32 = u32::MAX;

/// Whom a guard lets in to a port: whoever runs this file as this user.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Badge {
    /// The inode's number; 0 for any file.
    pub inode: u64,
    /// The file system's device as the kernel numbers it: the minor number in the lower 20 bits.
    pub device: u32,
    /// The real user id, in the initial user namespace; or [`ANYBODY`].
    pub uid: u32,
    /// The port.
    pub port: u32,
    /// [`IPPROTO_TCP`] or [`IPPROTO_UDP`].
    pub protocol: u32,
}

/// So many may be let in at once, on all ports together.
pub const MOST_BADGES: u32 = 4096;

/// What the program `file_number` is asked: its context.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileQuestion {
    /// A descriptor of gatewatch's own.
    pub descriptor: u64,
    /// One of [`file`].
    pub part: u64,
}

/// What it is asked for: a part of a [`Badge`].
pub mod file {
    /// The device.
    pub const DEVICE: u32 = 0;
    /// The lower half of the inode's number.
    pub const INODE_LOW: u32 = 1;
    /// The upper half.
    pub const INODE_HIGH: u32 = 2;
}

/// Fields of the plain tracepoints, for kernels without BTF: byte offsets from the `format` files in tracefs.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "each field is named after the tracepoint and its field")]
pub struct TraceOffsets {
    pub state_oldstate: u32,
    pub state_newstate: u32,
    pub state_sport: u32,
    /// 0 if the record has no such field; so too `destroy_family`.
    pub state_family: u32,
    pub state_protocol: u32,
    pub state_saddr: u32,
    pub state_saddr_v6: u32,
    pub destroy_sport: u32,
    pub destroy_dport: u32,
    pub destroy_family: u32,
    pub destroy_saddr: u32,
    pub destroy_saddr_v6: u32,
    pub destroy_cookie: u32,
}

/// What the program is to see, and how. User space fills this in before the load.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// The only network namespace whose sockets are reported, as an inode number; 0 for all.
    pub scope: u32,
    /// Gatewatch's own pid namespace; 0 when it is the initial one and pids need no translation.
    pub pidns: u32,
    /// 1 when offsets are known (the kernel has BTF).
    pub has_offsets: u32,
    /// The inode number of gatewatch's own file, its lower half.
    pub own_file: u32,
    /// Gatewatch's own user, in the initial user namespace.
    pub own_uid: u32,
    /// Gatewatch's own network namespace, whose events have no budget.
    pub home: u32,
}
