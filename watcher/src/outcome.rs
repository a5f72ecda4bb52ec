//! Outcomes, and the exit statuses that scripts go by.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How a port was at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It can be bound, and nobody was signalled.
    Free,
    /// It can be bound, and somebody was ended for it.
    Cleaned,
    /// A dry run: nobody would be left.
    WouldClean,
    /// Somebody listens.
    Listening,
    /// The port was cleaned, and a new owner listens.
    Restarted,
    /// The command of a restart failed before a new owner listened.
    CommandFailed,
    /// The new owner ended again, or could not take the port.
    Crashed,
    /// A process that isn't a match holds it.
    HeldByOther,
    /// The caller, an ancestor of it, or a protected process holds it.
    HeldByProtected,
    /// It is held, and its owner can't be seen or identified.
    Unknown,
    /// The owner matches, and this user may not signal it.
    NotPermitted,
    /// A budget ran out.
    TimedOut,
    /// The old owner is gone, and a new process took the port.
    Respawned,
}

impl Outcome {
    /// The exit status.
    #[must_use]
    pub fn status(self) -> u8 {
        match self {
            Self::Free | Self::Cleaned | Self::WouldClean | Self::Listening | Self::Restarted => 0,
            Self::CommandFailed | Self::Crashed => 1,
            Self::HeldByOther => 3,
            Self::HeldByProtected => 4,
            Self::Unknown => 5,
            Self::NotPermitted => 6,
            Self::TimedOut => 7,
            Self::Respawned => 8,
        }
    }
}
