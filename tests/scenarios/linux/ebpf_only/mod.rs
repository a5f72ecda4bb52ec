//! What only kernel events show.

mod holders;
mod restart;
mod watch;
