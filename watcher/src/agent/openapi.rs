//! The description of the interface, made from the types that it speaks in.

use utoipa::OpenApi;

use super::api;
use super::problem::Problem;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Gatewatch's host agent",
        description = "Who owns a port, what happens to it, and having its stale owners ended. Over a Unix socket: \
                       the caller is known by its credentials."
    ),
    paths(
        api::ports,
        api::owners_of,
        api::clean_port,
        api::wait_for,
        api::stream,
        api::status,
        api::health,
        api::metrics,
        api::description
    ),
    components(schemas(Problem, crate::watch::Line))
)]
struct Description;

/// The description, as JSON.
#[must_use]
pub fn document() -> String {
    Description::openapi().to_json().unwrap_or_default()
}
