//! The body of a request, which a client may send slowly, at length, or never.

use axum::body::Bytes;
use axum::extract::Request;
use axum::http::StatusCode;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use tokio::time::timeout;

use super::api::{bad_request, ending, problem};
use super::limits::{BODY, BODY_WITHIN};
use super::state::Agent;
use crate::wire::problem::Problem;

/// Reads the body.
pub(super) async fn read(agent: &Agent, request: Request) -> Result<Bytes, Problem> {
    let body = Limited::new(request.into_body(), BODY);
    let read = tokio::select! {
        read = timeout(BODY_WITHIN, body.collect()) => read,
        () = agent.has_to_end() => return Err(ending()),
    };
    match read {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(problem(
            StatusCode::PAYLOAD_TOO_LARGE,
            "the body is too long",
            format!("send {BODY} bytes at most"),
        )),
        Ok(Err(_)) => Err(bad_request("the body broke off", "send as much as the request's head announces")),
        Err(_) => Err(problem(
            StatusCode::REQUEST_TIMEOUT,
            "the body did not arrive in time",
            format!("send it within {} s", BODY_WITHIN.as_secs()),
        )),
    }
}
