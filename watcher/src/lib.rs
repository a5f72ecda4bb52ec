//! Gatewatch knows who owns a port, ends its stale owner, and proves that the port is free.
//!
//! [`clean`] a port, and follow its [`events`]:
//!
//! ```
//! # use std::net::TcpListener;
//! use futures_core::Stream as _;
//! use gatewatch::{CleanOptions, Outcome, Port, Rules, WatchKind};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), gatewatch::ObserveError> {
//! # let port = Port::tcp(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port());
//! // End a stale gateway that holds the port, and go on once the port can be bound.
//! let cleaned = gatewatch::clean(port, Rules::openclaw_gateway(), &CleanOptions::default()).await?;
//! assert_eq!(cleaned.outcome, Outcome::Free);
//!
//! // Follow what happens to the port. The first events say who holds it, then that the watch is armed.
//! let mut events = std::pin::pin!(gatewatch::events(&[port])?);
//! let first = std::future::poll_fn(|cx| events.as_mut().poll_next(cx)).await;
//! let first = first.expect("a watch does not end by itself")?;
//! assert!(matches!(first.kind, WatchKind::Ready { .. }));
//! # Ok(())
//! # }
//! ```
//!
//! Both need a tokio runtime with its drivers enabled. Kernel events are used if privileges and kernel allow it;
//! otherwise the socket table is polled. [`Cleaned::backend`] and [`WatchEvent::backend`] say which.
//!
//! To read the code, begin with `clean.rs`: it is the policy, and it names the five steps that it consists of.

mod agent;
mod clean;
mod cli;
mod config;
mod doctor;
mod duration;
#[cfg(all(any(fuzzing, test), target_os = "linux"))]
#[doc(hidden)]
pub mod fuzzing;
mod history;
mod library;
mod model;
mod owner_record;
mod platform;
mod restart;
mod steps;
mod wait;
mod watch;
mod wire;

pub use crate::clean::Cleaned;
pub use crate::library::{CleanOptions, Events, clean, events};
pub use crate::model::{LostIn, Outcome, Port, WatchEvent, WatchKind};
pub use crate::platform::contract::ObserveError;
pub use crate::steps::end::Timeouts;
pub use crate::steps::identify::{Criteria, Rules};

/// The types of the fields of [`Cleaned`] and [`WatchEvent`].
pub mod parts {
    pub use crate::clean::{EndedBefore, LeftOut};
    pub use crate::model::{
        Action, Backend, Descriptor, EndSignal, Exclusion, Fd, NamedProcess, Naming, Parent, Pod, PodName,
        PortError, Process, ProcessState, ProofKind, Protocol, Reason, Socket, SocketState, StartTime,
        Verdict,
    };
    pub use crate::steps::elsewhere::GatewayElsewhere;
    pub use crate::steps::end::OwnerOutcome;
    pub use crate::steps::owner::{Holding, Owner};
    pub use crate::steps::prove::Proof;
}

/// Runs the program `gatewatch` with the arguments of this process, and returns its exit status.
#[must_use]
pub fn run() -> std::process::ExitCode {
    cli::run()
}
