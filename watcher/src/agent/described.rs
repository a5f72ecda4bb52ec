//! What the interface's description says of parameters and refusals, beside what the routes say themselves.
#![expect(
    dead_code,
    unused_qualifications,
    reason = "these types are read by the macros that describe the interface, and never made"
)]

use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{AnyOfBuilder, KnownFormat, ObjectBuilder, Schema, SchemaFormat, Type};
use utoipa::{IntoParams, IntoResponses, PartialSchema, ToSchema};

use crate::wire::problem::Problem;

/// The content type of a refusal.
pub(super) const PROBLEM: &str = "application/problem+json";

/// The port in a path, whose slash is written `%2F`.
#[derive(IntoParams)]
#[into_params(parameter_in = Path, names("port"))]
pub(super) struct PortPath(#[param(inline)] PortWord);

/// The parameters of a wait.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct WaitQuery {
    /// What to wait for.
    #[param(inline)]
    until: UntilName,
    /// The longest wait, in milliseconds; ten minutes at most are waited.
    #[param(minimum = 0, maximum = 4294967295_u32, nullable = false)]
    timeout_ms: Option<u32>,
}

/// What can be waited for.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub(super) enum UntilName {
    Free,
    Listening,
}

/// The parameters of the event stream.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct EventsQuery {
    /// A watched port; more than one can be named. All, if none is.
    #[param(nullable = false, inline)]
    port: Option<Vec<PortWord>>,
    /// The inode number of a network namespace.
    #[param(minimum = 0, maximum = 4294967295_u32, nullable = false)]
    netns: Option<u32>,
    /// Where to go on: the `cursor` of the last line that was read.
    #[param(pattern = "^[0-9a-f]{1,16}-[0-9]{1,19}$", nullable = false)]
    after: Option<String>,
}

/// The parameters of the history.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct HistoryQuery {
    /// A port; more than one can be named. All, if none is.
    #[param(nullable = false, inline)]
    port: Option<Vec<PortWord>>,
    /// The inode number of a network namespace.
    #[param(minimum = 0, maximum = 4294967295_u32, nullable = false)]
    netns: Option<u32>,
    /// From when: RFC 3339, or a duration back from now (`90m`, `2d`). The last hour, unless said.
    #[param(schema_with = moment)]
    since: Option<String>,
    /// Until when, which is not before `since`. Now, unless said.
    #[param(schema_with = moment)]
    until: Option<String>,
}

/// A moment: a time, or a duration back from now.
fn moment() -> Schema {
    let text = || ObjectBuilder::new().schema_type(Type::String);
    let time = text().format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)));
    let ago = text().pattern(Some("^[0-9]{1,9}(ms|s|m|h|d|w)$"));
    AnyOfBuilder::new().item(time).item(ago).into()
}

/// A port: its number, or with its protocol after a slash.
pub(super) struct PortWord;

impl PartialSchema for PortWord {
    fn schema() -> RefOr<Schema> {
        const PATTERN: &str = "^([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])\
                               /(tcp|udp)$";
        let number = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(1)).maximum(Some(u16::MAX));
        let word = ObjectBuilder::new().schema_type(Type::String).pattern(Some(PATTERN));
        Schema::from(AnyOfBuilder::new().item(number).item(word)).into()
    }
}

impl ToSchema for PortWord {}

/// The request is wrong: a parameter, the body, or a port that is none
#[derive(IntoResponses)]
#[response(status = 400, content_type = "application/problem+json")]
pub(super) struct BadRequest(#[to_schema] Problem);

/// The caller may not do this, or can't be identified
#[derive(IntoResponses)]
#[response(status = 403, content_type = "application/problem+json")]
pub(super) struct Forbidden(#[to_schema] Problem);

/// The port is not watched
#[derive(IntoResponses)]
#[response(status = 404, content_type = "application/problem+json")]
pub(super) struct NotFound(#[to_schema] Problem);

/// Too many requests by this user
#[derive(IntoResponses)]
#[response(status = 429, content_type = "application/problem+json")]
pub(super) struct TooMany(#[to_schema] Problem);

/// The agent's configuration or the agent is broken
#[derive(IntoResponses)]
#[response(status = 500, content_type = "application/problem+json")]
pub(super) struct Failed(#[to_schema] Problem);

/// The agent is ending, or can't look at the sockets at this moment; `Retry-After` says when to ask again
#[derive(IntoResponses)]
#[response(status = 503, content_type = "application/problem+json")]
pub(super) struct Unavailable(#[to_schema] Problem);
