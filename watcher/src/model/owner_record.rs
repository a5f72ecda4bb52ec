//! The file of OpenClaw's own record, and why it is not read.

use std::path::PathBuf;

/// The largest file that is read; OpenClaw's has some hundred KiB.
pub(crate) const RECORD_LIMIT: u64 = 64 << 20;

/// A file that may hold a record.
#[derive(Debug, Clone)]
#[allow(dead_code, reason = "a system that reads no records does not judge the file")]
pub(crate) struct RecordFile {
    /// Where it is.
    pub(crate) path: PathBuf,
    /// Whose file it may be.
    pub(crate) users: Vec<u32>,
    /// Whether the caller named the folder, and so trusts the folder's owner as well.
    pub(crate) named: bool,
}

/// Why a record can't be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(dead_code, reason = "a system reads records or says `NeedsLinux`, not both")]
pub(crate) enum RecordFault {
    /// There is no such file.
    Missing,
    /// This user may not read it.
    Denied,
    /// It is a link.
    Link,
    /// It is not a regular file.
    NotAFile,
    /// It belongs to a user whose word does not count.
    Stranger(u32),
    /// It is larger than [`RECORD_LIMIT`].
    TooLarge,
    /// It changed whenever it was copied.
    Changing,
    /// Reading took too long.
    Slow,
    /// It is not a sound database.
    NotADatabase,
    /// No copy can be made: what the system said, by its number.
    NoCopy(i32),
    /// Another error of the system, by its number.
    System(i32),
    /// Here no record is read, because its start times can't be compared with the system's.
    NeedsLinux,
}
