//! Errors of the agent's interface: `application/problem+json` (RFC 9457), with how to fix them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What went wrong, and how to fix it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct Problem {
    /// The HTTP status.
    pub(crate) status: u16,
    /// The kind of problem, in a few words.
    pub(crate) title: String,
    /// What failed here.
    pub(crate) detail: String,
    /// How to fix it.
    pub(crate) mend: String,
}
