//! Rules of Linux alone: kernel events, descriptors that are inherited and passed on, namespaces, users,
//! the agent.

mod agent;
mod ancestors;
mod clean;
mod commands;
mod completions;
mod containers;
mod daemon_set;
mod dual_stack;
mod ebpf_only;
mod exclusion;
mod field;
mod field_keep;
mod field_udp;
mod foreign_proc;
mod holders;
mod hostile;
mod hostile_files;
mod identity;
mod keep;
mod lingering;
mod namespaces;
mod owner_record;
mod packaged_unit;
mod plan;
mod restart;
mod seeing;
mod stand_in;
mod terminal;
mod top;
mod udp;
mod unprivileged;
mod wait;
mod watch;
