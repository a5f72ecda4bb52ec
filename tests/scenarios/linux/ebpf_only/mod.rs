//! What only kernel events show.

mod holders;
mod kept;
mod restart;
mod watch;
