//! Gatewatch knows who owns a port, ends its stale owner, and proves that the port is free.
//!
//! Begin with [`clean`]: it is the policy, and it names the five ideas that it is made of.

pub mod agent;
pub mod clean;
pub mod cli;
pub mod clock;
pub mod config;
pub mod end;
pub mod exclude;
pub mod identify;
pub mod observe;
pub mod outcome;
pub mod owner;
pub mod platform;
pub mod port;
pub mod process;
pub mod prove;
pub mod report;
pub mod restart;
pub mod stale;
pub mod system;
pub mod wait;
pub mod watch;
