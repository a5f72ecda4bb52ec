//! What differs from system to system: one folder per system, behind one [`contract`]. Everything above this folder is
//! the same on all systems.

mod choose;
pub(crate) mod clock;
pub(crate) mod contract;
pub(crate) mod patience;
pub(crate) mod poll;

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "macos")]
mod macos;
#[cfg(not(target_os = "linux"))]
mod netstat;
#[cfg(not(target_os = "linux"))]
mod root_by_name;
#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;
#[cfg(not(unix))]
mod without_agent;
#[cfg(not(all(target_os = "linux", feature = "nats")))]
mod without_export;
#[cfg(not(target_os = "linux"))]
mod without_kernel_events;

/// Its folder.
#[cfg(target_os = "linux")]
use linux as own;
#[cfg(all(any(fuzzing, test), target_os = "linux"))]
pub(crate) use linux::fuzzing;
#[cfg(target_os = "macos")]
use macos as own;
#[cfg(windows)]
use windows as own;

/// The system that this program was built for.
#[cfg(target_os = "linux")]
pub(crate) use linux::Linux as Host;
#[cfg(not(target_os = "linux"))]
pub(crate) use without_kernel_events::Host;
