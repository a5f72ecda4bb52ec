//! Words that all systems share, though not all have the thing.

use std::io;
use std::path::PathBuf;

/// A hook in the kernel and its state.
#[derive(Debug)]
pub(crate) struct Hook {
    /// The kernel's name of it.
    pub(crate) name: &'static str,
    /// What it is for.
    pub(crate) gives: &'static str,
    /// Why it is not attached, if so.
    pub(crate) failure: Option<String>,
}

/// Why a path is no network namespace.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// This system has none.
    #[error("network namespaces are Linux's: leave --netns out")]
    Unsupported,
    /// It can't be opened.
    #[error("the network namespace {path} can't be opened: {error}", path = path.display())]
    Open {
        /// The path.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// It is something else.
    #[error("{path} is no network namespace; name one as /run/netns/NAME or /proc/PID/ns/net", path = .0.display())]
    Other(PathBuf),
    /// It can't be entered.
    #[error("the network namespace {path} can't be entered: {error}; that takes CAP_SYS_ADMIN", path = path.display())]
    Enter {
        /// The path.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}
