//! What polling answers where it can't see what the kernel program sees: never `free`.
//!
//! | case | by kernel events | by polling |
//! |---|---|---|
//! | a socket that is bound and does not listen | an owner like any other | `unknown`: the bind fails, or a plain one does and no connection explains it |
//! | a listener that was shut down and is kept | the same | the same |
//! | a connection from the port that blocks it | `held_by_other`, with the process | `unknown` |
//! | bind and conflict events | seen | not seen |
//!
//! What Windows answers otherwise than Unix:
//!
//! | case | on Unix | on Windows |
//! |---|---|---|
//! | a connection in `TIME_WAIT` | keeps servers without `SO_REUSEADDR` out | keeps nobody out |

use gatewatch_tests::Backend;

/// The outcome where a socket that does not listen holds the port: `seen` by kernel events, unknown to polling.
pub(crate) fn of_a_socket_that_does_not_listen(backend: Backend, seen: &'static str) -> &'static str {
    match backend {
        Backend::Ebpf => seen,
        Backend::Poll => "unknown",
    }
}

/// Whether a server that sets no option can bind beside a connection in `TIME_WAIT`.
pub(crate) fn plain_bind_beside_a_lingering_connection() -> bool {
    gatewatch_tests::ASKED != "SIGTERM"
}
