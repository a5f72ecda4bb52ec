//! The hooks: where the kernel program is attached, and what is lost where it can't be.

use std::error::Error;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use aya_obj::generated::bpf_attach_type as attach;
use tracing::debug;
use watcher_common::TraceOffsets;

use super::facts::Facts;
use super::load::{LoadError, Loader};
use super::{offsets, sys};
use crate::observe::Interest;
use crate::platform::Hook;

/// The name of the iterator's hook, and what it gives.
const HOLDERS: (&str, &str) = ("iter/task_file", "all holders of a socket, in one pass");
const NO_BTF: &str = "the kernel has no type information (CONFIG_DEBUG_INFO_BTF)";

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
        facts: Option<&Facts>,
        interest: Interest,
    ) -> Result<Self, LoadError> {
        let mut hooks = Self { states: Vec::new(), links: Vec::new(), programs: Vec::new(), iterator: None };
        match facts {
            Some(facts) => hooks.attach_with_btf(loader, facts, interest)?,
            None => hooks.attach_plain(loader, interest)?,
        }
        if interest >= Interest::Everything {
            hooks.attach_binds(loader);
            hooks.attach_conflicts(loader, facts);
        }
        Ok(hooks)
    }

    fn attach_with_btf(
        &mut self,
        loader: &Loader,
        facts: &Facts,
        interest: Interest,
    ) -> Result<(), LoadError> {
        // Events first, snapshots later: whoever listens between the two is seen by both.
        if interest >= Interest::Releases {
            let program = loader.tracing("destroy", facts.destroy)?;
            let link = sys::attach_tracing(program.as_fd());
            self.keep(program, link, "tp_btf/tcp_destroy_sock", "release events", "destroy")?;
        }
        if interest >= Interest::Listening {
            let program = loader.tracing("set_state", facts.set_state)?;
            let link = sys::attach_tracing(program.as_fd());
            self.keep(program, link, "tp_btf/inet_sock_set_state", "listen events", "set_state")?;
        }
        let attached = attempt("iter", || {
            let program = loader.iterator("holders", facts.task_file)?;
            let link = sys::link(program.as_fd(), None, attach::BPF_TRACE_ITER)?;
            Ok((program, link))
        });
        let failure = match attached {
            Ok((program, link)) => {
                self.iterator = Some(link);
                self.programs.push(program);
                None
            }
            Err(why) => Some(why),
        };
        self.note(HOLDERS.0, HOLDERS.1, failure);
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
        self.note(HOLDERS.0, HOLDERS.1, Some(NO_BTF.to_owned()));
        Ok(())
    }

    fn attach_binds(&mut self, loader: &Loader) {
        for (name, program, at) in [
            ("cgroup/post_bind4", "bind4", attach::BPF_CGROUP_INET4_POST_BIND),
            ("cgroup/post_bind6", "bind6", attach::BPF_CGROUP_INET6_POST_BIND),
        ] {
            let attached = attempt("bind", || {
                let cgroup = File::open(root_cgroup()?)?;
                let program = loader.cgroup(program, at)?;
                let link = sys::link(program.as_fd(), Some(cgroup.as_fd()), at)?;
                Ok((program, link))
            });
            self.optional(name, "bind events", attached);
        }
    }

    fn attach_conflicts(&mut self, loader: &Loader, facts: Option<&Facts>) {
        for (name, program, event) in [
            ("tracepoint syscalls:sys_exit_bind", "bind_exit", "syscalls/sys_exit_bind"),
            ("tracepoint syscalls:sys_exit_listen", "listen_exit", "syscalls/sys_exit_listen"),
        ] {
            let attached = attempt("conflict", || {
                facts.ok_or(NO_BTF)?;
                let program = loader.tracepoint(program)?;
                let link = tracepoint(&program, event)?;
                Ok((program, link))
            });
            self.optional(name, "conflict events", attached);
        }
    }

    fn optional(
        &mut self,
        name: &'static str,
        gives: &'static str,
        attached: Result<(OwnedFd, OwnedFd), String>,
    ) {
        let failure = match attached {
            Ok((program, link)) => {
                self.programs.push(program);
                self.links.push(link);
                None
            }
            Err(why) => Some(why),
        };
        self.note(name, gives, failure);
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

/// Attaches a hook whose absence can be borne, unless it is switched off.
fn attempt<T>(hook: &str, attach: impl FnOnce() -> Result<T, Box<dyn Error>>) -> Result<T, String> {
    if disabled(hook) {
        return Err("switched off by GATEWATCH_WITHOUT".to_owned());
    }
    attach().map_err(|error| error.to_string())
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
