//! Where the agent's history lies, who writes it, and who reads it.

use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::model::{GapReason, OpenSocket, Record, Span};

/// Where the agent's history lies on disk. By default there is none.
pub(crate) trait HistorySystem {
    /// Opens the history for the one agent that writes it, and creates it if need be. All that happens from `begun` on will
    /// be written.
    ///
    /// # Errors
    /// [`HistoryError`].
    fn write_history(path: &Path, begun: SystemTime) -> Result<Box<dyn HistoryWriter>, HistoryError> {
        let _ = (path, begun);
        Err(HistoryError::Unsupported)
    }

    /// Opens the history for reading, which disturbs nobody.
    ///
    /// # Errors
    /// [`HistoryError`].
    fn read_history(path: &Path) -> Result<Box<dyn HistoryReader>, HistoryError> {
        let _ = path;
        Err(HistoryError::Unsupported)
    }
}

/// Why the history can't be written or read.
#[derive(Debug, thiserror::Error)]
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "only Linux has a history"))]
pub(crate) enum HistoryError {
    /// This system has none.
    #[error("a history is kept on Linux only")]
    Unsupported,
    /// The disk, or the quota, is full.
    #[error("the disk is full")]
    Full,
    /// Another agent writes it.
    #[error("another agent writes it")]
    Taken,
    /// The file is not a history, or is damaged.
    #[error("the file is damaged, or is not a history: {0}")]
    Damaged(String),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

/// What the history says of the agent that wrote it last.
#[derive(Debug)]
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "only Linux has a history"))]
pub(crate) struct LastRun {
    /// When it was last known to run.
    pub(crate) alive: SystemTime,
    /// Whether it ended because it was told to.
    pub(crate) orderly: bool,
    /// Whether the host has not been started anew since.
    pub(crate) same_boot: bool,
    /// The number of the ring that it left its events in.
    pub(crate) ring: Option<u32>,
}

/// Records to be written together, and what follows from them.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// The records, in order; for one that ends a socket, the number of the record of its beginning.
    pub(crate) records: Vec<(Record, Option<u64>)>,
    /// The numbers of the records that began a socket which is open now, and whether it listens.
    pub(crate) opened: Vec<(u64, bool)>,
    /// Those of sockets that are open no more.
    pub(crate) closed: Vec<u64>,
}

/// Writes the history.
pub(crate) trait HistoryWriter: Send {
    /// The agent that wrote before; `None` if there was none.
    fn last_run(&self) -> Option<LastRun>;

    /// The number of the next record.
    fn next_number(&self) -> u64;

    /// The sockets that were open when it was last written. Can be asked for once.
    ///
    /// # Errors
    /// [`HistoryError`].
    fn open_sockets(&mut self) -> Result<Vec<OpenSocket>, HistoryError>;

    /// Writes all of the batch, or nothing.
    ///
    /// # Errors
    /// [`HistoryError`].
    fn append(&mut self, batch: &Batch) -> Result<(), HistoryError>;

    /// Deletes some of what is older than `keep`, or too much for `max_size` bytes; whether more is left to delete.
    ///
    /// # Errors
    /// [`HistoryError`].
    fn trim(&mut self, keep: Duration, max_size: u64) -> Result<bool, HistoryError>;

    /// Notes how far the records were exported.
    ///
    /// # Errors
    /// [`HistoryError`].
    fn note_exported(&mut self, exported: Exported) -> Result<(), HistoryError>;

    /// Notes that the agent runs.
    fn note_alive(&mut self);

    /// Notes that the agent ends because it was told to.
    fn note_end(&mut self);

    /// Notes in which ring the agent leaves its events, for the next.
    fn note_ring(&mut self, ring: Option<u32>);
}

/// How far the records were exported.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Exported {
    /// All up to this number were sent, or were dropped.
    pub(crate) through: u64,
    /// Of the records up to this number, those that are missing were missing before the export was begun.
    pub(crate) origin: u64,
}

/// The numbers of the history's records.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "only Linux has a history"))]
pub(crate) struct Numbers {
    /// The newest record's, whether or not that was deleted since; 0 if there was none.
    pub(crate) last: u64,
    /// Of the records up to this number, those of sockets that are open alone are there: the others were deleted.
    pub(crate) trimmed: u64,
    /// How far they were exported; `None` if the export was never begun.
    pub(crate) exported: Option<Exported>,
}

/// How far the history reaches.
#[derive(Debug)]
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "only Linux has a history"))]
pub(crate) struct Reach {
    /// Of what came before, nothing or not all is kept.
    pub(crate) since: SystemTime,
    /// When an agent was last known to write it.
    pub(crate) alive: SystemTime,
    /// Whether that agent ended because it was told to.
    pub(crate) orderly: bool,
}

impl Reach {
    /// Why nothing is known of the time up to this moment; `None` if an agent may well be writing.
    pub(crate) fn silent(&self, until: SystemTime) -> Option<GapReason> {
        // Longer than it takes an agent to note that it runs.
        const SILENCE: Duration = Duration::from_secs(15);
        let silence = until.duration_since(self.alive).ok()?;
        if self.orderly {
            return Some(GapReason::Stopped);
        }
        (silence > SILENCE).then_some(GapReason::Killed)
    }
}

/// Reads the history.
pub(crate) trait HistoryReader: Send {
    /// How far it reaches.
    ///
    /// # Errors
    /// [`HistoryError`].
    fn reach(&mut self) -> Result<Reach, HistoryError>;

    /// The records of the beginnings of the sockets that held a port when the span began.
    ///
    /// # Errors
    /// [`HistoryError`].
    fn held(&mut self, span: &Span) -> Result<Vec<Record>, HistoryError>;

    /// The next records of the span after this number, at most so many.
    ///
    /// # Errors
    /// [`HistoryError`].
    fn page(&mut self, span: &Span, after: u64, most: usize) -> Result<Vec<Record>, HistoryError>;

    /// The numbers of its records.
    ///
    /// # Errors
    /// [`HistoryError`].
    fn numbers(&mut self) -> Result<Numbers, HistoryError>;

    /// The next records after this number, whatever they concern, at most so many.
    ///
    /// # Errors
    /// [`HistoryError`].
    fn after(&mut self, number: u64, most: usize) -> Result<Vec<Record>, HistoryError>;
}
