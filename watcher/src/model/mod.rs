//! Plain data: the nouns of the program. Nothing here does input or output, or uses another part of the program.
//!
//! Each enum's names are written once, here; JSON, flags, logs and metrics all use them.

mod backend;
mod event;
mod history;
mod outcome;
mod owner_record;
mod port;
mod process;
mod room;
mod socket;

pub use self::backend::Backend;
pub(crate) use self::event::{Event, EventKind, Observation};
pub use self::event::{LostIn, NamedProcess, WatchEvent, WatchKind};
pub(crate) use self::history::{
    CleanTold, Described, Gap, GapReason, LONGEST_ARGV, OpenSocket, OwnerTold, Record, SocketKey, Span, Told,
};
pub(crate) use self::outcome::Step;
pub use self::outcome::{Action, EndSignal, Outcome, ProofKind, Reason};
pub(crate) use self::owner_record::{RECORD_LIMIT, RecordFault, RecordFile};
pub use self::port::{Port, PortError, Protocol};
pub use self::process::{Exclusion, Naming, Parent, Pod, PodName, Process, ProcessState, StartTime, Verdict};
pub(crate) use self::room::{Remainder, Room};
pub(crate) use self::socket::SocketId;
pub use self::socket::{Descriptor, Fd, Socket, SocketState};
