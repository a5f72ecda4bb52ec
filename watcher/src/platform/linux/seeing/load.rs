//! Loads the programs from the object in this binary into the kernel.
//!
//! aya-obj parses and links the object, and aya creates the maps. This module loads the programs itself, because aya's
//! own loader reads all of the kernel's BTF first (see [`super::btf`]).

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use aya::maps::MapData;
use aya_obj::generated::{bpf_attach_type as attach, bpf_prog_type as kind};
use aya_obj::{EbpfSectionKind, Object};
use nix::unistd::{SysconfVar, geteuid, sysconf};
use watcher_common::{Offsets, Record, Settings, TraceOffsets};

use super::btf::BtfError;
use super::callbacks::Types;
use super::hooks::{self, HookSpec, Place, Wanted};
use super::kernel_layout::KernelLayout;
use super::{guard, kernel_version, sys};
use crate::platform::contract::Interest;

/// The kernel program, built by `cargo xtask build-ebpf`.
pub(super) static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("GATEWATCH_EBPF_OBJECT"));

/// The maps that carry events. Snapshots don't need them.
const EVENT_MAPS: &[&str] = &["EVENTS", "LOST", BUDGET_MAP, BIND_MAP, LOG_MAP];
/// The map that only bind events fill.
const BIND_MAP: &str = "BOUND";
/// The map that only events of other network namespaces fill.
const BUDGET_MAP: &str = "UNREAD";
/// The ring of aya-log.
const LOG_MAP: &str = "AYA_LOGS";

/// Whether the program may have to be loaded. Ports are guarded by an agent alone, which observes all namespaces.
fn may_be_loaded(program: &str, wanted: Wanted, may_guard: bool) -> bool {
    let mut needed = hooks::needed_for(wanted).chain(hooks::guards().filter(|_| may_guard));
    (may_guard && program == guard::NUMBER_PROGRAM) || needed.any(|hook| hook.program == program)
}

/// Why the kernel program could not be loaded.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoadError {
    #[error("the kernel's type information (/sys/kernel/btf/vmlinux): {0}")]
    Btf(#[from] BtfError),
    #[error("the object: {0}")]
    Object(String),
    #[error("the map {name}: {error}")]
    Map { name: String, error: String, refusal: Option<i32> },
    #[error("the tracepoints of kernels without BTF: {0}")]
    Tracepoints(io::Error),
    #[error("the program {name}: {error}")]
    Program { name: &'static str, error: io::Error },
    #[error("no {gives}: {name} can't be attached ({why})")]
    Udp { name: &'static str, gives: &'static str, why: String },
}

impl LoadError {
    /// The number of the error by which the kernel refused something, if it did.
    pub(super) fn refusal(&self) -> Option<i32> {
        match self {
            Self::Program { error, .. } | Self::Tracepoints(error) => error.raw_os_error(),
            Self::Map { refusal, .. } => *refusal,
            Self::Btf(_) | Self::Object(_) | Self::Udp { .. } => None,
        }
    }

    /// The reason, for people: the kernel's version if that is it, because an old kernel's own error says nothing.
    pub(super) fn reason(&self) -> String {
        let is_denied = matches!(self.refusal(), Some(nix::libc::EPERM | nix::libc::EACCES));
        let too_old = if is_denied { None } else { kernel_version::too_old() };
        too_old.inspect(|_| tracing::info!("the kernel refuses {self}")).unwrap_or_else(|| self.to_string())
    }
}

/// Constants that are patched into the program before it is loaded.
#[derive(Default)]
pub(super) struct Globals {
    pub(super) offsets: Option<Offsets>,
    pub(super) plain: Option<TraceOffsets>,
    /// The only network namespace to report; 0 for all.
    pub(super) scope: u32,
    /// Gatewatch's own network namespace.
    pub(super) home: u32,
    /// 0 when pids need no translation.
    pub(super) pidns: u32,
    /// Whether the kernel program writes its own diagnostics.
    pub(super) log: bool,
}

impl Globals {
    /// What the kernel program is told about itself.
    pub(super) fn settings(&self) -> Settings {
        Settings {
            scope: self.scope,
            pidns: self.pidns,
            has_offsets: u32::from(self.offsets.is_some()),
            own_file: own_file(),
            own_uid: geteuid().as_raw(),
            home: self.home,
        }
    }
}

/// The object, linked to its maps; programs are loaded from it one by one.
pub(super) struct Loader {
    object: Object,
    maps: HashMap<String, MapData>,
}

impl Loader {
    /// Parses the object, patches its globals and creates its maps: those of events only if events are wanted.
    pub(super) fn new(globals: &Globals, wanted: Wanted) -> Result<Self, LoadError> {
        let interest = wanted.interest();
        let may_guard = globals.scope == 0 && interest == Interest::Everything;
        let broken = |error: &dyn std::fmt::Display| LoadError::Object(error.to_string());
        let mut object = Object::parse(OBJECT).map_err(|error| broken(&error))?;
        // The kernel also accepts programs without type information of their own.
        object.btf = None;
        object.btf_ext = None;

        let offsets = globals.offsets.unwrap_or_default();
        let plain = globals.plain.unwrap_or_default();
        let settings = globals.settings();
        // aya-log's levels: 0 is none, 5 is trace.
        let log_level = [if globals.log { 5u8 } else { 0 }];
        let values = HashMap::from([
            ("OFFSETS", (offsets.bytes(), true)),
            ("TRACE_OFFSETS", (plain.bytes(), true)),
            ("SETTINGS", (settings.bytes(), true)),
            ("AYA_LOG_LEVEL", (log_level.as_slice(), false)),
        ]);
        // A program that is never loaded need not be linked.
        let unwanted: HashSet<_> = object
            .programs
            .iter()
            .filter(|(name, _)| !may_be_loaded(name, wanted, may_guard))
            .map(|(_, program)| program.function_key())
            .collect();
        object.functions.retain(|key, _| !unwanted.contains(key));
        object.programs.retain(|name, _| may_be_loaded(name, wanted, may_guard));
        object.patch_map_data(values).map_err(|error| broken(&error))?;

        let mut maps = HashMap::new();
        let mut linked = Vec::new();
        for (name, mut map) in object.maps.drain() {
            let least = match name.as_str() {
                BIND_MAP if interest < Interest::Everything => Some(1),
                BUDGET_MAP if globals.scope != 0 => Some(1),
                // The length of a ring is one of pages.
                LOG_MAP if !globals.log => sysconf(SysconfVar::PAGE_SIZE).ok().flatten(),
                _ => None,
            };
            if let Some(least) = least.and_then(|least| u32::try_from(least).ok()) {
                map.set_max_entries(least);
            }
            let is_unused = (interest < Interest::Releases && EVENT_MAPS.contains(&name.as_str()))
                || (!may_guard && guard::MAPS.contains(&name.as_str()));
            if is_unused {
                // No program that refers to this map is loaded.
                linked.push((name, -1, map));
                continue;
            }
            let refused = |error: String, refusal| LoadError::Map { name: name.clone(), error, refusal };
            let made = MapData::create(map.clone(), &name, None).map_err(|error| {
                let refusal = match &error {
                    aya::maps::MapError::CreateError { io_error, .. } => io_error.raw_os_error(),
                    _ => None,
                };
                let source = std::error::Error::source(&error).map(ToString::to_string);
                refused(source.unwrap_or_else(|| error.to_string()), refusal)
            })?;
            if !map.data().is_empty() {
                sys::set_data(made.fd().as_fd(), map.data())
                    .map_err(|error| refused(error.to_string(), error.raw_os_error()))?;
            }
            if map.section_kind() == EbpfSectionKind::Rodata {
                sys::freeze(made.fd().as_fd())
                    .map_err(|error| refused(error.to_string(), error.raw_os_error()))?;
            }
            linked.push((name.clone(), made.fd().as_fd().as_raw_fd(), map));
            maps.insert(name, made);
        }
        let sections: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
        let links = linked.iter().map(|(name, fd, map)| (name.as_str(), *fd, map));
        object.relocate_maps(links, &sections).map_err(|error| broken(&error))?;
        object.relocate_calls(&sections).map_err(|error| broken(&error))?;
        Ok(Self { object, maps })
    }

    /// Takes a map out of the loader, for use in user space.
    pub(super) fn take_map(&mut self, name: &str) -> Result<MapData, LoadError> {
        self.maps.remove(name).ok_or_else(|| LoadError::Object(format!("it has no map {name}")))
    }

    /// Copies of the descriptors of maps that have not been taken; `None` if one has, or can't be copied.
    pub(super) fn copy_of<const N: usize>(&self, names: [&str; N]) -> Option<[OwnedFd; N]> {
        let copy = |name| self.maps.get(name)?.fd().as_fd().try_clone_to_owned().ok();
        let copies: Option<Vec<OwnedFd>> = names.into_iter().map(copy).collect();
        copies?.try_into().ok()
    }

    /// Loads a hook's program.
    pub(super) fn load(&self, hook: &HookSpec, layout: Option<&KernelLayout>) -> Result<OwnedFd, LoadError> {
        let (kind, attach) = match hook.place {
            Place::BtfTracepoint(_) => (kind::BPF_PROG_TYPE_TRACING, Some(attach::BPF_TRACE_RAW_TP)),
            Place::Tracepoint(_) => (kind::BPF_PROG_TYPE_TRACEPOINT, None),
            Place::Cgroup(attach) => (kind::BPF_PROG_TYPE_CGROUP_SOCK, Some(attach)),
            Place::CgroupAddress(attach) => (kind::BPF_PROG_TYPE_CGROUP_SOCK_ADDR, Some(attach)),
            Place::FunctionEnd(_) => (kind::BPF_PROG_TYPE_TRACING, Some(attach::BPF_TRACE_FEXIT)),
            Place::Iterator(_) => (kind::BPF_PROG_TYPE_TRACING, Some(attach::BPF_TRACE_ITER)),
        };
        let target = layout.map_or(0, |layout| layout.target_id(hook.place));
        self.load_as(hook.program, kind, attach, target)
    }

    /// Loads a program that is attached to nothing, but [run](sys::run).
    pub(super) fn load_to_run(&self, name: &'static str) -> Result<OwnedFd, LoadError> {
        self.load_as(name, kind::BPF_PROG_TYPE_RAW_TRACEPOINT, None, 0)
    }

    fn load_as(
        &self,
        name: &'static str,
        kind: kind,
        attach: Option<attach>,
        target: u32,
    ) -> Result<OwnedFd, LoadError> {
        let missing = || LoadError::Object(format!("it has no program {name}"));
        let program = self.object.programs.get(name).ok_or_else(missing)?;
        let function = self.object.functions.get(&program.function_key()).ok_or_else(missing)?;
        let types = Types::of(&function.instructions).map_err(|error| LoadError::Program { name, error })?;
        let request = sys::Program {
            name,
            kind,
            attach,
            target,
            license: &self.object.license,
            instructions: &function.instructions,
            types: types.as_ref(),
        };
        let loaded = sys::load(&request).map_err(|sys::Refusal { error, log }| {
            if !log.is_empty() {
                tracing::info!(program = name, "the verifier says:\n{log}");
            }
            LoadError::Program { name, error }
        })?;
        if tracing::enabled!(tracing::Level::DEBUG) {
            // `cargo xtask verifier` reads this line.
            let verified = sys::verified_instructions(loaded.as_fd()).unwrap_or(0);
            tracing::debug!(program = name, verified, "loaded");
        }
        Ok(loaded)
    }
}

/// The inode number of this program's file, its lower half.
fn own_file() -> u32 {
    let number = std::fs::metadata("/proc/self/exe").map_or(0, |file| file.ino());
    u32::try_from(number & u64::from(u32::MAX)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_program_of_the_object_is_run_or_has_one_row_in_the_table() {
        let object = Object::parse(OBJECT).unwrap();
        let mut programs: Vec<&str> = object.programs.keys().map(String::as_str).collect();
        let mut rows: Vec<&str> = hooks::HOOKS.iter().map(|hook| hook.program).collect();
        rows.push(guard::NUMBER_PROGRAM);
        programs.sort_unstable();
        rows.sort_unstable();
        assert_eq!(programs, rows);
    }
}
