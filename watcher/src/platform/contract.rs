//! The contract of a system: everything that the rest of the program needs from one. Read this to port the program.
//!
//! A port to another system is one row in [`super`] and one folder beside `linux`, with a type that implements what stands
//! here first. What it need not have has a default that says so.
//!
//! | file | what it asks for | a system |
//! | --- | --- | --- |
//! | `system.rs` | [`System`]: processes and binds, for the jobs | must have it |
//! | `start.rs` | [`Platform`]: what the program needs at its start | must have it |
//! | `files.rs` | [`ProcessRoot`]: the files that a process sees | must have it |
//! | `observing.rs` | [`Observer`]: sockets of ports, and what happens to them | has it by polling, without a line |
//! | `agent.rs` | [`AgentSystem`] and [`ServiceSystem`]: the host agent | has it by `unix/agent.rs`, or is without one by `without_agent.rs` |
//! | `history.rs` | [`HistorySystem`]: the agent's history on disk | can be without it |
//! | `export.rs` | [`ExportSystem`]: records on their way elsewhere | can be without it |
//! | `kept.rs` | [`KeptSocket`]: sockets that outlive their process | can be without them |
//!
//! The jobs and the steps know these names and nothing below them.

mod agent;
mod export;
mod files;
mod history;
mod kept;
mod observing;
mod start;
mod system;

pub use self::observing::ObserveError;
pub(crate) use self::{
    agent::*, export::*, files::*, history::*, kept::*, observing::*, start::*, system::*,
};
pub(crate) use super::choose::{BackendChoice, Chosen, choose};
