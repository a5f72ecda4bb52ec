//! How an answer looks to people.

pub(super) mod clean;
pub(super) mod clock;
pub(super) mod doctor;
pub(super) mod history;
pub(super) mod list;
pub(super) mod owners;
pub(super) mod restart;
pub(super) mod style;
pub(super) mod wait;
pub(super) mod watch;
