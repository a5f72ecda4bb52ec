//! Loading: from the object in this binary to programs in the kernel.
//!
//! aya-obj parses and links the object and aya makes the maps; the programs are loaded by this module, since aya's
//! own loader reads all of the kernel's BTF first (see [`super::btf`]).

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use aya::maps::MapData;
use aya_obj::generated::{bpf_attach_type as attach, bpf_prog_type as kind};
use aya_obj::{EbpfSectionKind, Object};
use watcher_common::{Offsets, Record, Scope, TraceOffsets};

use super::btf::BtfError;
use super::sys;
use crate::observe::Interest;

/// The kernel program, built by `cargo xtask build-ebpf`.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("GATEWATCH_EBPF_OBJECT"));

/// Maps that carry events, which snapshots can do without.
const OF_EVENTS: &[&str] = &["EVENTS", "LOST", "AYA_LOGS"];

/// Whether a program of this name may have to be loaded.
fn may_be_loaded(name: &str, interest: Interest) -> bool {
    let least = match name {
        "holders" => Interest::Snapshots,
        "destroy" | "destroy_plain" => Interest::Releases,
        "set_state" | "set_state_plain" => Interest::Listening,
        _ => Interest::Everything,
    };
    interest >= least
}

/// Why the kernel program could not be loaded.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoadError {
    #[error("the kernel's type information (/sys/kernel/btf/vmlinux): {0}")]
    Btf(#[from] BtfError),
    #[error("the object: {0}")]
    Object(String),
    #[error("the map {name}: {error}")]
    Map { name: String, error: String, denied: bool },
    #[error("the program {name}: {error}")]
    Program { name: &'static str, error: io::Error, log: String },
}

impl LoadError {
    /// Whether a privilege is missing, rather than a feature of the kernel.
    pub(super) fn is_denied(&self) -> bool {
        match self {
            Self::Program { error, .. } => error.kind() == io::ErrorKind::PermissionDenied,
            Self::Map { denied, .. } => *denied,
            Self::Btf(_) | Self::Object(_) => false,
        }
    }
}

/// What is told to the program before its load.
#[derive(Default)]
pub(super) struct Globals {
    pub(super) offsets: Option<Offsets>,
    pub(super) plain: Option<TraceOffsets>,
    /// 0 for all namespaces.
    pub(super) netns: u32,
    /// 0 when pids need no translation.
    pub(super) pidns: u32,
    /// The kernel program's own diagnostics are wanted.
    pub(super) log: bool,
}

/// The object, linked to its maps; programs are loaded from it one by one.
pub(super) struct Loader {
    object: Object,
    maps: HashMap<String, MapData>,
}

impl Loader {
    /// Parses the object, sets its globals and makes its maps: those of events only where events are wanted.
    pub(super) fn new(globals: &Globals, interest: Interest) -> Result<Self, LoadError> {
        let broken = |error: &dyn std::fmt::Display| LoadError::Object(error.to_string());
        let mut object = Object::parse(OBJECT).map_err(|error| broken(&error))?;
        // The kernel takes programs without type information of their own.
        object.btf = None;
        object.btf_ext = None;

        let offsets = globals.offsets.unwrap_or_default();
        let plain = globals.plain.unwrap_or_default();
        let scope = Scope {
            netns: globals.netns,
            pidns: globals.pidns,
            has_offsets: u32::from(globals.offsets.is_some()),
        };
        // aya-log's levels: 0 is none, 5 is trace.
        let log_level = [if globals.log { 5u8 } else { 0 }];
        let values = HashMap::from([
            ("OFFSETS", (offsets.bytes(), true)),
            ("TRACE_OFFSETS", (plain.bytes(), true)),
            ("SCOPE", (scope.bytes(), true)),
            ("AYA_LOG_LEVEL", (log_level.as_slice(), false)),
        ]);
        // What is never loaded need not be linked.
        let unwanted: HashSet<_> = object
            .programs
            .iter()
            .filter(|(name, _)| !may_be_loaded(name, interest))
            .map(|(_, program)| program.function_key())
            .collect();
        object.functions.retain(|key, _| !unwanted.contains(key));
        object.programs.retain(|name, _| may_be_loaded(name, interest));
        object.patch_map_data(values).map_err(|error| broken(&error))?;

        let mut maps = HashMap::new();
        let mut linked = Vec::new();
        for (name, map) in object.maps.drain() {
            if interest < Interest::Releases && OF_EVENTS.contains(&name.as_str()) {
                // Nothing that refers to it is loaded.
                linked.push((name, -1, map));
                continue;
            }
            let refused = |error: String, denied: bool| LoadError::Map { name: name.clone(), error, denied };
            let made = MapData::create(map.clone(), &name, None).map_err(|error| {
                let denied = matches!(&error, aya::maps::MapError::CreateError { io_error, .. }
                    if io_error.kind() == io::ErrorKind::PermissionDenied);
                let source = std::error::Error::source(&error).map(ToString::to_string);
                refused(source.unwrap_or_else(|| error.to_string()), denied)
            })?;
            if !map.data().is_empty() {
                sys::set_data(made.fd().as_fd(), map.data())
                    .map_err(|error| refused(error.to_string(), false))?;
            }
            if map.section_kind() == EbpfSectionKind::Rodata {
                sys::freeze(made.fd().as_fd()).map_err(|error| refused(error.to_string(), false))?;
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

    /// Takes a map out, for use from here.
    pub(super) fn take_map(&mut self, name: &str) -> Result<MapData, LoadError> {
        self.maps.remove(name).ok_or_else(|| LoadError::Object(format!("it has no map {name}")))
    }

    /// Loads a BTF tracepoint; `target` is its BTF id.
    pub(super) fn tracing(&self, name: &'static str, target: u32) -> Result<OwnedFd, LoadError> {
        self.load(name, kind::BPF_PROG_TYPE_TRACING, Some(attach::BPF_TRACE_RAW_TP), target)
    }

    /// Loads an iterator; `target` is the BTF id of the function that describes it.
    pub(super) fn iterator(&self, name: &'static str, target: u32) -> Result<OwnedFd, LoadError> {
        self.load(name, kind::BPF_PROG_TYPE_TRACING, Some(attach::BPF_TRACE_ITER), target)
    }

    /// Loads a program for a cgroup's sockets.
    pub(super) fn cgroup(&self, name: &'static str, at: attach) -> Result<OwnedFd, LoadError> {
        self.load(name, kind::BPF_PROG_TYPE_CGROUP_SOCK, Some(at), 0)
    }

    /// Loads a plain tracepoint.
    pub(super) fn tracepoint(&self, name: &'static str) -> Result<OwnedFd, LoadError> {
        self.load(name, kind::BPF_PROG_TYPE_TRACEPOINT, None, 0)
    }

    fn load(
        &self,
        name: &'static str,
        kind: kind,
        attach: Option<attach>,
        target: u32,
    ) -> Result<OwnedFd, LoadError> {
        let missing = || LoadError::Object(format!("it has no program {name}"));
        let program = self.object.programs.get(name).ok_or_else(missing)?;
        let function = self.object.functions.get(&program.function_key()).ok_or_else(missing)?;
        let instructions = &function.instructions;
        let request =
            sys::Program { name, kind, attach, target, license: &self.object.license, instructions };
        sys::load(&request).map_err(|sys::LoadError { error, log }| {
            if !log.is_empty() {
                tracing::debug!(program = name, "the verifier says:\n{log}");
            }
            LoadError::Program { name, error, log }
        })
    }
}
