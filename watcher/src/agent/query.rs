//! The parameters of a request, and its body.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::limits;
use super::problem::Problem;
use crate::end::Timeouts;

/// The parameters of a request. A name that it does not know is refused rather than overlooked.
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn parse(text: Option<&str>, known: &[&str]) -> Result<Self, Problem> {
        let pairs: Vec<(String, String)> =
            form_urlencoded::parse(text.unwrap_or_default().as_bytes()).into_owned().collect();
        match pairs.iter().find(|(name, _)| !known.contains(&name.as_str())) {
            Some((name, _)) => Err(Problem::bad_request(
                format!("the parameter {name:?} is not known"),
                format!("there are {}", known.join(", ")),
            )),
            None => Ok(Self(pairs)),
        }
    }

    pub(super) fn all(&self, name: &'static str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn get(&self, name: &'static str) -> Option<&str> {
        self.all(name).next()
    }

    pub(super) fn number(&self, name: &'static str) -> Result<Option<u32>, Problem> {
        let wrong = |_| Problem::bad_request(format!("{name} is no number"), "a whole number, 0 or more");
        self.get(name).map(str::parse).transpose().map_err(wrong)
    }
}

/// What a clean may be asked for; all of it is optional. What may be ended is not the caller's to say.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CleanRequest {
    /// The longest wait after SIGTERM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub term_timeout_ms: Option<u64>,
    /// The longest wait after SIGKILL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kill_timeout_ms: Option<u64>,
    /// The longest wait for the port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub free_timeout_ms: Option<u64>,
    /// Never these, nor their ancestors.
    #[serde(default)]
    pub protect: Vec<u32>,
    /// Signal nobody.
    #[serde(default)]
    pub dry_run: bool,
}

impl CleanRequest {
    /// From a body, which may be empty.
    pub(super) fn parse(body: &[u8]) -> Result<Self, Problem> {
        if body.iter().all(u8::is_ascii_whitespace) {
            return Ok(Self::default());
        }
        serde_json::from_slice(body).map_err(|error| {
            Problem::bad_request(format!("the body: {error}"), "/v1/openapi.json describes it")
        })
    }

    /// The waits that are asked for, within the agent's own limits.
    pub(super) fn timeouts(&self) -> Timeouts {
        let usual = Timeouts::default();
        let limit = |milliseconds: Option<u64>, usual: Duration| {
            milliseconds.map_or(usual, Duration::from_millis).min(limits::LONGEST_WAIT)
        };
        Timeouts {
            term: limit(self.term_timeout_ms, usual.term),
            kill: limit(self.kill_timeout_ms, usual.kill),
            free: limit(self.free_timeout_ms, usual.free),
        }
    }
}
