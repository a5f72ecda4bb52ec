//! macOS.

use std::process::Command;
use std::time::Duration;

use nix::sys::event::{EvFlags, EventFilter, FilterFlag, KEvent, Kqueue};

pub use super::unix::{ASKED, FORCED, FORWARDER, user};
pub(crate) use super::unix::{interrupt, interruptible, is_root, name_again};
use crate::{Backend, Needs, Part, program};

/// How ports can be observed.
pub const BACKENDS: &[Backend] = &[Backend::Poll];

/// Whether a server can listen on this port.
pub(crate) fn is_unused(port: u16) -> bool {
    crate::can_bind((std::net::Ipv4Addr::UNSPECIFIED, port).into())
}

/// The actor with a name: its file's, which is what the kernel's short name is made of.
pub(crate) fn named(name: &str) -> Command {
    Command::new(program(name))
}

/// Means a process even after its pid is reused.
pub struct Life(Kqueue);

impl Life {
    /// Opens it.
    ///
    /// # Panics
    /// When there is no such process.
    pub fn of(pid: u32) -> Self {
        let queue = Kqueue::new().unwrap();
        let ident = pid.try_into().unwrap();
        let exit = KEvent::new(ident, EventFilter::EVFILT_PROC, EvFlags::EV_ADD, FilterFlag::NOTE_EXIT, 0, 0);
        queue.kevent(&[exit], &mut [], None).unwrap();
        Self(queue)
    }

    /// Whether it has ended, or ends within this time. A zombie has ended.
    ///
    /// # Panics
    /// When that can't be found out.
    pub fn ends_within(&self, time: Duration) -> bool {
        let time = nix::sys::time::TimeSpec::from_duration(time);
        let exit = KEvent::new(0, EventFilter::EVFILT_PROC, EvFlags::empty(), FilterFlag::empty(), 0, 0);
        self.0.kevent(&[], &mut [exit], Some(*time.as_ref())).unwrap() > 0
    }
}

/// There are no multipath sockets for servers here.
pub(crate) fn has_multipath() -> bool {
    false
}

pub(crate) fn has_io_uring() -> bool {
    false
}

/// Why this system can't show what needs this: no such need is known.
pub(crate) fn cannot(_needs: Needs) -> Option<&'static str> {
    None
}

impl Part {
    /// Nothing to do: a process here has no short name but its file's.
    pub fn with_comm(self, _name: &str) -> Self {
        self
    }
}
