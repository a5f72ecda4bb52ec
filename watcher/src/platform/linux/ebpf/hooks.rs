//! The hooks: where the kernel program is attached, and what is lost where it can't be.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use aya_obj::generated::bpf_attach_type as attach;
use tracing::debug;
use watcher_common::TraceOffsets;

use super::btf::Btf;
use super::load::{LoadError, Loader};
use super::{offsets, sys};
use crate::observe::Interest;

/// A hook and its state.
#[derive(Debug)]
pub(crate) struct Hook {
    /// The kernel's name of it.
    pub(crate) name: &'static str,
    /// What it is for.
    pub(crate) gives: &'static str,
    /// Why it is not attached, if so.
    pub(crate) failure: Option<String>,
}

impl Hook {
    /// What is lost without it, as a sentence; `None` when it is attached.
    pub(crate) fn loss(&self) -> Option<String> {
        let Self { name, gives, failure } = self;
        failure.as_ref().map(|why| format!("no {gives}: {name} can't be attached ({why})"))
    }
}

/// The attached hooks. Dropping them detaches all.
pub(super) struct Hooks {
    states: Vec<Hook>,
    links: Vec<OwnedFd>,
    programs: Vec<OwnedFd>,
    iterator: Option<OwnedFd>,
}

impl Hooks {
    /// Attaches what the interest needs. Releases and snapshots are the foundation; what comes on top may be missing.
    pub(super) fn attach(
        loader: &Loader,
        btf: Option<&Btf<'_>>,
        interest: Interest,
    ) -> Result<Self, LoadError> {
        let mut hooks = Self { states: Vec::new(), links: Vec::new(), programs: Vec::new(), iterator: None };
        match btf {
            Some(btf) => hooks.attach_with_btf(loader, btf, interest)?,
            None => hooks.attach_plain(loader, interest)?,
        }
        if interest >= Interest::Everything {
            hooks.attach_binds(loader);
            hooks.attach_conflicts(loader);
        }
        Ok(hooks)
    }

    fn attach_with_btf(
        &mut self,
        loader: &Loader,
        btf: &Btf<'_>,
        interest: Interest,
    ) -> Result<(), LoadError> {
        // Events first, snapshots later: whoever listens between the two is seen by both.
        if interest >= Interest::Releases {
            let program = loader.tracing("destroy", "btf_trace_tcp_destroy_sock", btf)?;
            let link = sys::attach_tracing(program.as_fd());
            self.keep(program, link, "tp_btf/tcp_destroy_sock", "release events", "destroy")?;
        }
        if interest >= Interest::Listening {
            let program = loader.tracing("set_state", "btf_trace_inet_sock_set_state", btf)?;
            let link = sys::attach_tracing(program.as_fd());
            self.keep(program, link, "tp_btf/inet_sock_set_state", "listen events", "set_state")?;
        }
        let (name, gives) = ("iter/task_file", "all holders of a socket, in one pass");
        let attached = if disabled("iter") {
            Err("switched off by GATEWATCH_WITHOUT".to_owned())
        } else {
            loader.iterator("holders", "bpf_iter_task_file", btf).map_err(|error| error.to_string()).and_then(
                |program| {
                    let link = sys::link(program.as_fd(), None, attach::BPF_TRACE_ITER)
                        .map_err(|e| e.to_string())?;
                    Ok((program, link))
                },
            )
        };
        match attached {
            Ok((program, link)) => {
                self.iterator = Some(link);
                self.programs.push(program);
                self.note(name, gives, None);
            }
            Err(why) => self.note(name, gives, Some(why)),
        }
        Ok(())
    }

    fn attach_plain(&mut self, loader: &Loader, interest: Interest) -> Result<(), LoadError> {
        if interest >= Interest::Releases {
            let program = loader.tracepoint("destroy_plain")?;
            let link = tracepoint(&program, "tcp/tcp_destroy_sock");
            self.keep(program, link, "tracepoint tcp:tcp_destroy_sock", "release events", "destroy_plain")?;
        }
        if interest >= Interest::Listening {
            let program = loader.tracepoint("set_state_plain")?;
            let link = tracepoint(&program, "sock/inet_sock_set_state");
            self.keep(
                program,
                link,
                "tracepoint sock:inet_sock_set_state",
                "listen events",
                "set_state_plain",
            )?;
        }
        let why = "the kernel has no type information (CONFIG_DEBUG_INFO_BTF)".to_owned();
        self.note("iter/task_file", "all holders of a socket, in one pass", Some(why));
        Ok(())
    }

    fn attach_binds(&mut self, loader: &Loader) {
        for (name, program, at) in [
            ("cgroup/post_bind4", "bind4", attach::BPF_CGROUP_INET4_POST_BIND),
            ("cgroup/post_bind6", "bind6", attach::BPF_CGROUP_INET6_POST_BIND),
        ] {
            let attached = (|| {
                if disabled("bind") {
                    return Err("switched off by GATEWATCH_WITHOUT".to_owned());
                }
                let cgroup = File::open(root_cgroup()?).map_err(|error| error.to_string())?;
                let program = loader.cgroup(program, at).map_err(|error| error.to_string())?;
                let link = sys::link(program.as_fd(), Some(cgroup.as_fd()), at)
                    .map_err(|error| error.to_string())?;
                Ok((program, vec![link]))
            })();
            self.optional(name, "bind events", attached);
        }
    }

    fn attach_conflicts(&mut self, loader: &Loader) {
        for (name, enter, exit) in [
            (
                "tracepoint syscalls:sys_*_bind",
                ("bind_enter", "syscalls/sys_enter_bind"),
                ("bind_exit", "syscalls/sys_exit_bind"),
            ),
            (
                "tracepoint syscalls:sys_*_listen",
                ("listen_enter", "syscalls/sys_enter_listen"),
                ("listen_exit", "syscalls/sys_exit_listen"),
            ),
        ] {
            let attached = (|| {
                if disabled("conflict") {
                    return Err("switched off by GATEWATCH_WITHOUT".to_owned());
                }
                let mut links = Vec::new();
                for (program, event) in [exit, enter] {
                    let program = loader.tracepoint(program).map_err(|error| error.to_string())?;
                    links.push(tracepoint(&program, event).map_err(|error| error.to_string())?);
                    self.programs.push(program);
                }
                Ok(links)
            })();
            match attached {
                Ok(links) => {
                    self.links.extend(links);
                    self.note(name, "conflict events", None);
                }
                Err(why) => self.note(name, "conflict events", Some(why)),
            }
        }
    }

    fn optional(
        &mut self,
        name: &'static str,
        gives: &'static str,
        attached: Result<(OwnedFd, Vec<OwnedFd>), String>,
    ) {
        match attached {
            Ok((program, links)) => {
                self.programs.push(program);
                self.links.extend(links);
                self.note(name, gives, None);
            }
            Err(why) => self.note(name, gives, Some(why)),
        }
    }

    fn keep(
        &mut self,
        program: OwnedFd,
        link: io::Result<OwnedFd>,
        name: &'static str,
        gives: &'static str,
        function: &'static str,
    ) -> Result<(), LoadError> {
        let link = link.map_err(|error| LoadError::Program { name: function, error, log: String::new() })?;
        self.programs.push(program);
        self.links.push(link);
        self.note(name, gives, None);
        Ok(())
    }

    fn note(&mut self, name: &'static str, gives: &'static str, failure: Option<String>) {
        debug!(name, ?failure, "hook");
        self.states.push(Hook { name, gives, failure });
    }

    pub(super) fn states(&self) -> &[Hook] {
        &self.states
    }

    pub(super) fn into_states(self) -> Vec<Hook> {
        self.states
    }

    /// The iterator over descriptors, where it is attached.
    pub(super) fn iterator(&self) -> Option<BorrowedFd<'_>> {
        self.iterator.as_ref().map(AsFd::as_fd)
    }

    pub(super) fn any_program(&self) -> Option<BorrowedFd<'_>> {
        self.programs.first().map(AsFd::as_fd)
    }
}

/// Whether a hook was switched off by `GATEWATCH_WITHOUT`, a comma-separated list of `btf`, `iter`, `bind` and
/// `conflict`: to live with a kernel on which one misbehaves, and to try what is left without it.
pub(super) fn disabled(hook: &str) -> bool {
    std::env::var("GATEWATCH_WITHOUT").is_ok_and(|list| list.split(',').any(|name| name.trim() == hook))
}

/// The plain tracepoints' fields.
pub(super) fn plain_offsets() -> Option<TraceOffsets> {
    let found = Tracefs::open().and_then(|tracefs| offsets::find_plain(&tracefs.events));
    found.map_err(|error| debug!(%error, "the plain tracepoints can't be read")).ok()
}

fn tracepoint(program: &OwnedFd, event: &str) -> io::Result<OwnedFd> {
    let tracefs = Tracefs::open()?;
    let id = std::fs::read_to_string(tracefs.events.join(event).join("id"))?;
    sys::attach_tracepoint(program.as_fd(), id.trim().parse().map_err(io::Error::other)?)
}

/// tracefs, where the kernel numbers its tracepoints.
struct Tracefs {
    events: PathBuf,
    /// Where it is mounted nowhere: a mount of our own that no path leads to, gone when this is dropped.
    _mount: Option<OwnedFd>,
}

impl Tracefs {
    fn open() -> io::Result<Self> {
        // Its own mount point, and the one under debugfs that came before it.
        for path in ["/sys/kernel/tracing/events", "/sys/kernel/debug/tracing/events"] {
            if Path::new(path).join("sock").is_dir() {
                return Ok(Self { events: path.into(), _mount: None });
            }
        }
        let mount = sys::mount_tracefs().map_err(|error| {
            io::Error::other(format!(
                "tracefs: {error}; mount it: mount -t tracefs tracefs /sys/kernel/tracing"
            ))
        })?;
        Ok(Self { events: format!("/proc/self/fd/{}/events", mount.as_raw_fd()).into(), _mount: Some(mount) })
    }
}

/// The root of the second version's cgroups, where hooks see every process.
fn root_cgroup() -> Result<PathBuf, String> {
    ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        .into_iter()
        .map(Path::new)
        .find(|path| path.join("cgroup.controllers").is_file())
        .map(Path::to_path_buf)
        .ok_or_else(|| "no cgroup2 file system is mounted under /sys/fs/cgroup".to_owned())
}
