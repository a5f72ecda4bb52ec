//! Attaches the programs of the table of hooks, and reports what is lost if one can't be attached.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use tracing::{debug, info, warn};

use super::hooks::{self, HookSpec, Kernels, Part, Place, Role, Wanted};
use super::kernel_layout::KernelLayout;
use super::load::{LoadError, Loader};
use super::sys;
use super::tracefs::Tracefs;
use super::{kernel_version, refused};
use crate::platform::contract::Hook;
use crate::platform::linux::host;
use crate::platform::linux::processes::proc;

/// The attached hooks. Dropping them detaches all.
#[derive(Default)]
pub(super) struct Hooks {
    states: Vec<Hook>,
    links: Vec<(&'static HookSpec, OwnedFd)>,
    programs: Vec<OwnedFd>,
    /// The links that others can detach.
    detachable: Vec<Detachable>,
    iterator: Option<TaskIterator>,
}

/// The iterator over the descriptors of all tasks.
pub(super) struct TaskIterator {
    pub(super) program: OwnedFd,
    pub(super) link: OwnedFd,
}

/// A link to a cgroup, and what is needed to attach it again.
struct Detachable {
    spec: &'static HookSpec,
    program: OwnedFd,
    link: OwnedFd,
    /// Why it could not be attached again.
    failure: Option<String>,
}

impl Hooks {
    /// Attaches what is wanted. This comes before any snapshot, so that a process that begins to listen between
    /// the two is seen by both.
    pub(super) fn attach(
        loader: &Loader,
        layout: Option<&KernelLayout>,
        wanted: Wanted,
    ) -> Result<Self, LoadError> {
        let mut hooks = Self::default();
        let has_ends = hooks.attach_ends(loader, layout, wanted);
        for spec in hooks::needed_for(wanted) {
            match spec.role {
                _ if matches!(spec.kernels, Kernels::WithEnds) => {}
                _ if has_ends && matches!(spec.kernels, Kernels::WithoutEnds) => {}
                Role::Foundation => hooks.attach_foundation(spec, loader, layout)?,
                Role::Optional(part) => hooks.attach_optional(spec, part, loader, layout),
                // No interest in any port needs it.
                Role::Guard => {}
            }
        }
        Ok(hooks)
    }

    /// What snapshots need, which is the iterator, and was attached already.
    pub(super) fn only_iterator(wanted: Wanted) -> Self {
        let mut hooks = Self::default();
        for spec in hooks::needed_for(wanted) {
            hooks.note(spec, None);
        }
        hooks
    }

    /// Whether all that is attached is enough for what is wanted.
    pub(super) fn check(&self, wanted: Wanted) -> Result<(), LoadError> {
        let needed = hooks::HOOKS.iter().filter(|hook| wanted.is_blind_without(hook));
        for HookSpec { name, gives, .. } in needed {
            let state = self.states.iter().find(|state| state.name == *name);
            if let Some(why) = state.and_then(|state| state.failure.clone()) {
                return Err(LoadError::Udp { name, gives, why });
            }
        }
        Ok(())
    }

    /// Attaches what guards ports, anew if it was before. Whether it is, its states tell.
    pub(super) fn attach_guard(&mut self, loader: &Loader, layout: Option<&KernelLayout>) {
        self.states.retain(|state| !hooks::guards().any(|hook| hook.name == state.name));
        self.detachable.retain(|hook| !matches!(hook.spec.role, Role::Guard));
        for spec in hooks::guards() {
            self.attach_optional(spec, Part::Guard, loader, layout);
        }
    }

    /// Attaches what follows the ends of the kernel's functions: all of it, or nothing where one can't be followed. False if
    /// nothing is attached.
    fn attach_ends(&mut self, loader: &Loader, layout: Option<&KernelLayout>, wanted: Wanted) -> bool {
        let Some(known) = layout.filter(|_| !Part::Conflicts.is_switched_off()) else { return false };
        // Before the file below is read, which waits for whoever lets go of a function.
        if proc::own_pid_namespace().is_some() && !kernel_version::ends_followers() {
            info!(
                "the kernel's functions are not followed: in a pid namespace that can hang this kernel (before Linux 6.9)"
            );
            return false;
        }
        // Then a program is attached, and never runs.
        if fs::read_to_string("/proc/sys/kernel/ftrace_enabled").is_ok_and(|enabled| enabled.trim() == "0") {
            info!("the kernel's functions can't be followed: kernel.ftrace_enabled is 0");
            return false;
        }
        let load = |spec: &'static HookSpec| loader.load(spec, layout).map(|program| (spec, program));
        let attach = |(spec, program): (&'static HookSpec, OwnedFd)| {
            let link = link_hook(spec, program.as_fd())?;
            Ok((spec, program, link))
        };
        // Nothing is attached before it is known that all can be loaded.
        let loaded: Result<Vec<_>, _> = hooks::at_ends(wanted, known).map(load).collect();
        let attached =
            loaded.and_then(|loaded| loaded.into_iter().map(attach).collect::<Result<Vec<_>, _>>());
        let attached = attached
            .inspect_err(|error| info!(%error, "the kernel's functions can't be followed"))
            .unwrap_or_default();
        let any = !attached.is_empty();
        for (spec, program, link) in attached {
            self.keep(spec, program, link);
            self.note(spec, None);
        }
        any
    }

    fn attach_foundation(
        &mut self,
        spec: &'static HookSpec,
        loader: &Loader,
        layout: Option<&KernelLayout>,
    ) -> Result<(), LoadError> {
        // On other kernels, another row of the table provides the same.
        if spec.kernels.include(layout.is_some()) {
            let program = loader.load(spec, layout)?;
            let link = link_hook(spec, program.as_fd())?;
            self.keep(spec, program, link);
            self.note(spec, None);
        }
        Ok(())
    }

    fn attach_optional(
        &mut self,
        spec: &'static HookSpec,
        part: Part,
        loader: &Loader,
        layout: Option<&KernelLayout>,
    ) {
        let attach = || {
            if part.is_switched_off() {
                return Err("switched off by GATEWATCH_WITHOUT".to_owned());
            }
            if !spec.kernels.include(layout.is_some()) {
                return Err("the kernel has no type information (CONFIG_DEBUG_INFO_BTF)".to_owned());
            }
            let program = loader.load(spec, layout).map_err(|error| refused::with_reason(&error))?;
            let link = link_hook(spec, program.as_fd()).map_err(|error| refused::with_reason(&error))?;
            Ok((program, link))
        };
        let failure = match attach() {
            Ok((program, link)) => {
                self.keep(spec, program, link);
                None
            }
            Err(why) => Some(why),
        };
        self.note(spec, failure);
    }

    fn keep(&mut self, spec: &'static HookSpec, program: OwnedFd, link: OwnedFd) {
        match spec.place {
            Place::Iterator(_) => {
                self.iterator = Some(TaskIterator { program, link });
                return;
            }
            Place::BtfTracepoint(_) | Place::Tracepoint(_) | Place::FunctionEnd(_) => {
                self.links.push((spec, link));
            }
            Place::Cgroup(_) | Place::CgroupAddress(_) => {
                self.detachable.push(Detachable { spec, program, link, failure: None });
                return;
            }
        }
        self.programs.push(program);
    }

    /// The links of the event programs, with their hooks.
    pub(super) fn links(&self) -> impl Iterator<Item = (&'static HookSpec, BorrowedFd<'_>)> {
        let detachable = self.detachable.iter().map(|hook| (hook.spec, hook.link.as_fd()));
        self.links.iter().map(|(spec, link)| (*spec, link.as_fd())).chain(detachable)
    }

    /// Whether others can detach one of the hooks.
    pub(super) fn can_be_detached(&self) -> bool {
        !self.detachable.is_empty()
    }

    /// Attaches what others have detached, and returns whether there was any: events are missing then.
    pub(super) fn attach_again(&mut self) -> bool {
        let mut any = false;
        for hook in &mut self.detachable {
            if sys::is_attached_to_cgroup(hook.link.as_fd()).unwrap_or(true) {
                continue;
            }
            match link(hook.spec.place, hook.program.as_fd()) {
                Ok(link) => {
                    warn!("{} was detached by another program, and is attached again", hook.spec.name);
                    (hook.link, hook.failure) = (link, None);
                    any = true;
                }
                Err(error) => {
                    if hook.failure.is_none() {
                        warn!(%error, "{} was detached by another program, and can't be attached again", hook.spec.name);
                        any = true;
                    }
                    hook.failure = Some(error.to_string());
                }
            }
        }
        any
    }

    /// Why ports can't be guarded, if they can't.
    pub(super) fn no_guard(&self) -> Option<String> {
        let mut states =
            self.states.iter().filter(|state| hooks::guards().any(|hook| hook.name == state.name));
        states.find_map(|Hook { name, failure, .. }| {
            Some(format!("{name} can't be attached ({})", failure.as_ref()?))
        })
    }

    /// What was lost since the start, as sentences.
    pub(super) fn losses(&self) -> Vec<String> {
        let loss = |hook: &Detachable| {
            let HookSpec { name, gives, .. } = hook.spec;
            let why = hook.failure.as_ref()?;
            Some(format!(
                "no {gives}: {name} was detached by another program, and can't be attached again ({why})"
            ))
        };
        self.detachable.iter().filter_map(loss).collect()
    }

    fn note(&mut self, spec: &HookSpec, failure: Option<String>) {
        debug!(name = spec.name, ?failure, "hook");
        self.states.push(Hook { name: spec.name, gives: spec.gives, failure });
    }

    pub(super) fn states(&self) -> &[Hook] {
        &self.states
    }

    pub(super) fn into_states(self) -> Vec<Hook> {
        self.states
    }

    /// Takes the iterator over descriptors, if it is attached.
    pub(super) fn take_iterator(&mut self) -> Option<TaskIterator> {
        self.iterator.take()
    }

    pub(super) fn any_program(&self) -> Option<BorrowedFd<'_>> {
        self.programs.first().map(AsFd::as_fd)
    }
}

/// Attaches a hook's program.
fn link_hook(spec: &HookSpec, program: BorrowedFd<'_>) -> Result<OwnedFd, LoadError> {
    link(spec.place, program).map_err(|error| LoadError::Program { name: spec.program, error })
}

/// Attaches a loaded program.
fn link(place: Place, program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    match place {
        Place::BtfTracepoint(_) | Place::FunctionEnd(_) => sys::attach_tracing(program),
        Place::Tracepoint(event) => sys::attach_tracepoint(program, Tracefs::open()?.id(event)?),
        Place::Cgroup(attach) | Place::CgroupAddress(attach) => {
            sys::link(program, Some(root_cgroup()?.as_fd()), attach)
        }
        Place::Iterator(_) => sys::link_iterator(program),
    }
}

/// The root of the cgroup2 hierarchy, at which hooks see every process. A container may show its own group there
/// (cgroup_namespaces(7)), with the files that only the root has not; then the root is the one that the host shows, or
/// that group if the host can't be seen.
fn root_cgroup() -> io::Result<File> {
    let places = [Path::new("/"), host::root()].into_iter().flat_map(|root| {
        ["sys/fs/cgroup", "sys/fs/cgroup/unified"].into_iter().map(move |place| root.join(place))
    });
    let mounts: Vec<PathBuf> = places.filter(|path| path.join("cgroup.controllers").is_file()).collect();
    let root = mounts.iter().find(|path| !path.join("cgroup.type").exists());
    let path = root
        .or(mounts.first())
        .ok_or_else(|| io::Error::other("no cgroup2 file system is mounted under /sys/fs/cgroup"))?;
    File::open(path)
}
