//! What differs from system to system, one folder each. Everything above this folder is the same on all.

mod common;
#[cfg(not(target_os = "linux"))]
mod elsewhere;
#[cfg(target_os = "linux")]
pub mod linux;
#[cfg(target_os = "macos")]
pub mod macos;
pub(crate) mod poll;
#[cfg(unix)]
pub(crate) mod unix;
#[cfg(windows)]
pub mod windows;

pub(crate) use common::Hook;
pub use common::NetnsError;
#[cfg(target_os = "linux")]
pub use linux as host;
#[cfg(target_os = "macos")]
pub use macos as host;
#[cfg(windows)]
pub use windows as host;
