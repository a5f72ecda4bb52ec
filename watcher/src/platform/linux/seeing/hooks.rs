//! The table of hooks: where each program of the object is attached, what it provides, and which interest needs it.
//!
//! A new hook is a file in `watcher-ebpf/src` and a row here; a new kind of event is also a variant of
//! [`watcher_common::EventKind`].

use aya_obj::generated::bpf_attach_type;

use super::btf::Kind;
use super::kernel_layout::KernelLayout;
use super::kernel_version;
use crate::model::{Port, Protocol};
use crate::platform::contract::Interest;

/// One hook.
pub(super) struct HookSpec {
    /// The program's name in the object.
    pub(super) program: &'static str,
    /// Where the program is attached.
    pub(super) place: Place,
    /// The kernel's name for that place, as shown to people.
    pub(super) name: &'static str,
    /// What the hook provides.
    pub(super) gives: &'static str,
    /// The least interest in TCP ports that needs it; `None` if none does.
    pub(super) tcp: Option<Interest>,
    /// The same of UDP ports.
    pub(super) udp: Option<Interest>,
    pub(super) kernels: Kernels,
    pub(super) role: Role,
}

/// Where a program is attached.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place {
    /// A tracepoint with the kernel's own types, by the name of its typedef in BTF.
    BtfTracepoint(&'static str),
    /// A plain tracepoint, by its path under tracefs's `events`.
    Tracepoint(&'static str),
    /// The root cgroup, for a program that is given a socket.
    Cgroup(bpf_attach_type),
    /// The root cgroup, for a program that is given the address that a process asks for.
    CgroupAddress(bpf_attach_type),
    /// The end of a function of the kernel, by its name.
    FunctionEnd(&'static str),
    /// An iterator, by the name of the function that describes it in BTF.
    Iterator(&'static str),
}

/// On which kernels a hook can be attached.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kernels {
    WithBtf,
    /// A replacement for a hook that needs BTF.
    WithoutBtf,
    /// With BTF, and with loops without bounds.
    WithLoops,
    /// A replacement for a hook that needs such loops.
    WithoutLoops,
    /// With BTF, and where the ends of the kernel's functions can be followed: all of these hooks or none.
    WithEnds,
    /// A replacement for hooks that need that.
    WithoutEnds,
    All,
}

/// Whether the backend can do without a hook.
#[derive(Debug, Clone, Copy)]
pub(super) enum Role {
    /// No: if it can't be attached, the backend is unavailable.
    Foundation,
    /// Yes: without it, what it provides is lost, and that is reported.
    Optional(Part),
    /// It observes nothing: it is attached for a port that is guarded.
    Guard,
}

/// A part of the backend that can be switched off: to work around a kernel on which it misbehaves, and to test the rest
/// without it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Part {
    Btf,
    Iterator,
    /// Loops without bounds in the kernel program.
    Loops,
    Binds,
    UdpReleases,
    Conflicts,
    /// The ends of the kernel's functions.
    Ends,
    /// The socket tables through netlink.
    SocketDiag,
    /// The field `family` of the plain tracepoints' records.
    Family,
    /// The look into the kernel's own table of ports that are taken.
    Bucket,
    /// The program that finds holders, as an earlier command has kept it.
    Kept,
    Guard,
}

/// The plain tracepoints that replace BTF hooks on kernels without BTF, by their path under tracefs's `events`.
pub(super) const STATE_EVENT: &str = "sock/inet_sock_set_state";
pub(super) const DESTROY_EVENT: &str = "tcp/tcp_destroy_sock";

/// What bind and listen of a multipath socket call on a kernel on which they do not call those of its family (since Linux 6.6).
/// On others they are followed there.
pub(super) const SUBFLOW_BIND: &str = "inet_bind_sk";

/// All hooks, in the order in which they are attached.
pub(super) static HOOKS: &[HookSpec] = &[
    HookSpec {
        program: "destroy",
        place: Place::BtfTracepoint("btf_trace_tcp_destroy_sock"),
        name: "tp_btf/tcp_destroy_sock",
        gives: "release events",
        tcp: Some(Interest::Releases),
        udp: None,
        kernels: Kernels::WithBtf,
        role: Role::Foundation,
    },
    HookSpec {
        program: "destroy_plain",
        place: Place::Tracepoint(DESTROY_EVENT),
        name: "tracepoint tcp:tcp_destroy_sock",
        gives: "release events",
        tcp: Some(Interest::Releases),
        udp: None,
        kernels: Kernels::WithoutBtf,
        role: Role::Foundation,
    },
    HookSpec {
        program: "set_state",
        place: Place::BtfTracepoint("btf_trace_inet_sock_set_state"),
        name: "tp_btf/inet_sock_set_state",
        gives: "listen events",
        tcp: Some(Interest::Listening),
        udp: None,
        kernels: Kernels::WithBtf,
        role: Role::Foundation,
    },
    HookSpec {
        program: "set_state_plain",
        place: Place::Tracepoint(STATE_EVENT),
        name: "tracepoint sock:inet_sock_set_state",
        gives: "listen events",
        tcp: Some(Interest::Listening),
        udp: None,
        kernels: Kernels::WithoutBtf,
        role: Role::Foundation,
    },
    HookSpec {
        program: "holders",
        place: Place::Iterator("bpf_iter_task"),
        name: "iter/task",
        gives: "all holders of a socket, in one pass",
        tcp: Some(Interest::Snapshots),
        udp: Some(Interest::Snapshots),
        kernels: Kernels::WithLoops,
        role: Role::Optional(Part::Iterator),
    },
    HookSpec {
        program: "holders_by_file",
        place: Place::Iterator("bpf_iter_task_file"),
        name: "iter/task_file",
        gives: "all holders of a socket, in one pass",
        tcp: Some(Interest::Snapshots),
        udp: Some(Interest::Snapshots),
        kernels: Kernels::WithoutLoops,
        role: Role::Optional(Part::Iterator),
    },
    HookSpec {
        program: "bind4",
        place: Place::Cgroup(bpf_attach_type::BPF_CGROUP_INET4_POST_BIND),
        name: "cgroup/post_bind4",
        gives: "bind events",
        tcp: Some(Interest::Everything),
        udp: Some(Interest::Listening),
        kernels: Kernels::All,
        role: Role::Optional(Part::Binds),
    },
    HookSpec {
        program: "bind6",
        place: Place::Cgroup(bpf_attach_type::BPF_CGROUP_INET6_POST_BIND),
        name: "cgroup/post_bind6",
        gives: "bind events",
        tcp: Some(Interest::Everything),
        udp: Some(Interest::Listening),
        kernels: Kernels::All,
        role: Role::Optional(Part::Binds),
    },
    HookSpec {
        program: "udp_release",
        place: Place::Cgroup(bpf_attach_type::BPF_CGROUP_INET_SOCK_RELEASE),
        name: "cgroup/sock_release",
        gives: "release events of UDP ports",
        tcp: None,
        udp: Some(Interest::Releases),
        kernels: Kernels::WithBtf,
        role: Role::Optional(Part::UdpReleases),
    },
    HookSpec {
        program: "bind4_end",
        place: Place::FunctionEnd("inet_bind"),
        name: "fexit/inet_bind",
        gives: "conflict events",
        tcp: Some(Interest::Everything),
        udp: Some(Interest::Everything),
        kernels: Kernels::WithEnds,
        role: Role::Optional(Part::Conflicts),
    },
    HookSpec {
        program: "bind6_end",
        place: Place::FunctionEnd("inet6_bind"),
        name: "fexit/inet6_bind",
        gives: "conflict events",
        tcp: Some(Interest::Everything),
        udp: Some(Interest::Everything),
        kernels: Kernels::WithEnds,
        role: Role::Optional(Part::Conflicts),
    },
    HookSpec {
        program: "multipath_bind_end",
        place: Place::FunctionEnd("mptcp_bind"),
        name: "fexit/mptcp_bind",
        gives: "conflict events",
        tcp: Some(Interest::Everything),
        udp: None,
        kernels: Kernels::WithEnds,
        role: Role::Optional(Part::Conflicts),
    },
    HookSpec {
        program: "listen_end",
        place: Place::FunctionEnd("inet_listen"),
        name: "fexit/inet_listen",
        gives: "conflict events",
        tcp: Some(Interest::Everything),
        udp: None,
        kernels: Kernels::WithEnds,
        role: Role::Optional(Part::Conflicts),
    },
    HookSpec {
        program: "multipath_listen_end",
        place: Place::FunctionEnd("mptcp_listen"),
        name: "fexit/mptcp_listen",
        gives: "conflict events",
        tcp: Some(Interest::Everything),
        udp: None,
        kernels: Kernels::WithEnds,
        role: Role::Optional(Part::Conflicts),
    },
    HookSpec {
        program: "bind_exit",
        place: Place::Tracepoint("syscalls/sys_exit_bind"),
        name: "tracepoint syscalls:sys_exit_bind",
        gives: "conflict events",
        tcp: Some(Interest::Everything),
        udp: Some(Interest::Everything),
        kernels: Kernels::WithoutEnds,
        role: Role::Optional(Part::Conflicts),
    },
    HookSpec {
        program: "listen_exit",
        place: Place::Tracepoint("syscalls/sys_exit_listen"),
        name: "tracepoint syscalls:sys_exit_listen",
        gives: "conflict events",
        tcp: Some(Interest::Everything),
        udp: None,
        kernels: Kernels::WithoutEnds,
        role: Role::Optional(Part::Conflicts),
    },
    HookSpec {
        program: "guard4",
        place: Place::CgroupAddress(bpf_attach_type::BPF_CGROUP_INET4_BIND),
        name: "cgroup/bind4",
        gives: "guard of ports",
        tcp: None,
        udp: None,
        kernels: Kernels::WithBtf,
        role: Role::Guard,
    },
    HookSpec {
        program: "guard6",
        place: Place::CgroupAddress(bpf_attach_type::BPF_CGROUP_INET6_BIND),
        name: "cgroup/bind6",
        gives: "guard of ports",
        tcp: None,
        udp: None,
        kernels: Kernels::WithBtf,
        role: Role::Guard,
    },
];

/// What is wanted of the ports of each protocol; `None` if none of them is watched.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    tcp: Option<Interest>,
    udp: Option<Interest>,
}

impl Wanted {
    /// Everything.
    pub(super) const ALL: Self = Self { tcp: Some(Interest::Everything), udp: Some(Interest::Everything) };

    /// This of the ports of these protocols.
    pub(crate) fn of(protocols: &[Protocol], interest: Interest) -> Self {
        let of = |protocol| protocols.contains(&protocol).then_some(interest);
        Self { tcp: of(Protocol::Tcp), udp: of(Protocol::Udp) }
    }

    /// This of these ports.
    pub(crate) fn of_ports(ports: &[Port], interest: Interest) -> Self {
        let has = |protocol: &Protocol| ports.iter().any(|port| port.protocol == *protocol);
        let protocols: Vec<Protocol> = Protocol::ALL.into_iter().filter(has).collect();
        Self::of(&protocols, interest)
    }

    /// The same, and releases from the start.
    pub(super) fn with_releases(self) -> Self {
        let with = |interest: Interest| interest.max(Interest::Releases);
        Self { tcp: self.tcp.map(with), udp: self.udp.map(with) }
    }

    /// The greatest interest.
    pub(super) fn interest(self) -> Interest {
        self.tcp.max(self.udp).unwrap_or(Interest::Snapshots)
    }

    /// Whether UDP ports can't be followed without this hook: no other one reports what it does.
    pub(super) fn is_blind_without(self, hook: &HookSpec) -> bool {
        matches!(hook.role, Role::Optional(Part::Binds | Part::UdpReleases)) && is_needed(hook.udp, self.udp)
    }
}

fn is_needed(least: Option<Interest>, wanted: Option<Interest>) -> bool {
    least.zip(wanted).is_some_and(|(least, wanted)| least <= wanted)
}

/// The hooks that are needed, in the order in which they are attached.
pub(super) fn needed_for(wanted: Wanted) -> impl Iterator<Item = &'static HookSpec> {
    let is_wanted =
        move |hook: &&HookSpec| is_needed(hook.tcp, wanted.tcp) || is_needed(hook.udp, wanted.udp);
    HOOKS.iter().filter(is_wanted).filter(|hook| !hook.kernels.are_others())
}

/// The hooks at the ends of the kernel's functions among those that are needed. Those of multipath sockets are only if the
/// kernel has such sockets, and has them bind in that way.
pub(super) fn at_ends(wanted: Wanted, layout: &KernelLayout) -> impl Iterator<Item = &'static HookSpec> {
    let has_multipath = layout.offsets.mptcp_first != 0 && layout.binds_subflows();
    needed_for(wanted)
        .filter(|hook| matches!(hook.kernels, Kernels::WithEnds))
        .filter(move |hook| has_multipath || !hook.program.starts_with("multipath"))
}

/// The hooks that guard ports.
pub(super) fn guards() -> impl Iterator<Item = &'static HookSpec> {
    HOOKS.iter().filter(|hook| matches!(hook.role, Role::Guard))
}

/// The types in the kernel's BTF that programs are attached to.
pub(super) fn btf_targets() -> impl Iterator<Item = (Kind, &'static str)> {
    HOOKS.iter().filter_map(|hook| hook.place.btf_target()).chain([(Kind::Func, SUBFLOW_BIND)])
}

impl Place {
    /// The type in the kernel's BTF that a program is attached to at this place.
    pub(super) fn btf_target(self) -> Option<(Kind, &'static str)> {
        match self {
            Self::BtfTracepoint(name) => Some((Kind::Typedef, name)),
            Self::Iterator(name) | Self::FunctionEnd(name) => Some((Kind::Func, name)),
            Self::Tracepoint(_) | Self::Cgroup(_) | Self::CgroupAddress(_) => None,
        }
    }
}

impl Kernels {
    pub(super) fn include(self, has_btf: bool) -> bool {
        match self {
            Self::WithBtf | Self::WithLoops | Self::WithoutLoops | Self::WithEnds | Self::WithoutEnds => {
                has_btf
            }
            Self::WithoutBtf => !has_btf,
            Self::All => true,
        }
    }

    /// Whether another row of the table takes this one's place on kernels of this version.
    fn are_others(self) -> bool {
        match self {
            Self::WithLoops => !has_loops(),
            Self::WithoutLoops => has_loops(),
            Self::WithEnds => Part::Ends.is_switched_off(),
            // That some can't be followed shows when it is tried.
            Self::WithBtf | Self::WithoutBtf | Self::WithoutEnds | Self::All => false,
        }
    }
}

/// Whether the iterator with loops is the one that is attached.
pub(super) fn has_loops() -> bool {
    !Part::Loops.is_switched_off() && kernel_version::has_loops()
}

impl Part {
    /// Its name in `GATEWATCH_WITHOUT`.
    fn name(self) -> &'static str {
        match self {
            Self::Btf => "btf",
            Self::Iterator => "iter",
            Self::Loops => "loops",
            Self::Binds => "bind",
            Self::UdpReleases => "udp",
            Self::Conflicts => "conflict",
            Self::Ends => "fexit",
            Self::SocketDiag => "diag",
            Self::Family => "family",
            Self::Bucket => "bucket",
            Self::Kept => "kept",
            Self::Guard => "guard",
        }
    }

    /// Whether the environment's `GATEWATCH_WITHOUT`, a comma-separated list, names it.
    pub(super) fn is_switched_off(self) -> bool {
        crate::platform::linux::is_switched_off(self.name())
    }
}
