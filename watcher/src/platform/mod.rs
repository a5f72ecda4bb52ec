//! What differs from system to system. Everything above this folder is the same on all.

#[cfg(target_os = "linux")]
pub mod linux;
pub(crate) mod poll;

#[cfg(target_os = "linux")]
pub use linux as host;
