//! Rules of the agent's interface for any input: requests at its end, responses at the client's.

use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

use super::api::clean_request;
use super::client::{Client, ClientError};
use super::history::Cursor;
use super::query::Query;
use crate::model::Port;
use crate::wait::Until;
use crate::wire::agent::{CleanRequest, LONGEST_WAIT};
use crate::wire::problem::Problem;

/// A request: port and query, as in a path, and after a line's end the body of a clean.
pub(crate) fn request(bytes: &[u8]) {
    let (head, body) = match bytes.iter().position(|&byte| byte == b'\n') {
        Some(at) => (&bytes[..at], &bytes[at + 1..]),
        None => (bytes, &b""[..]),
    };
    let head = String::from_utf8_lossy(head);
    let (port, query) = head.split_once('?').map_or((&*head, None), |(port, query)| (port, Some(query)));
    if let Ok(number) = Port::with_protocol(port) {
        assert_ne!(number.number, 0);
        assert_eq!(Port::with_protocol(&number.to_string()), Ok(number));
    }
    if let Ok(port) = Port::from_variable(port) {
        assert_ne!(port.number, 0);
    }
    match Query::parse(query, &["port", "netns", "after", "until", "timeout_ms"]) {
        Ok(query) => judge_query(&query),
        Err(problem) => is_answer(&problem, bytes.len()),
    }
    match clean_request(body) {
        Ok(request) => judge_clean(&request),
        Err(problem) => is_answer(&problem, bytes.len()),
    }
}

fn judge_query(query: &Query) {
    for text in query.all("after") {
        if let Ok(cursor) = text.parse::<Cursor>() {
            let written = cursor.to_string();
            assert!(written.len() <= 16 + 1 + 20);
            assert_eq!(written.parse(), Ok(cursor));
        }
    }
    for text in query.all("until") {
        assert!(Until::named(text).is_none_or(|until| until.name() == text));
    }
    if let (Ok(Some(number)), Some(text)) = (query.number("netns"), query.get("netns")) {
        assert_eq!(text.trim_start_matches('+').trim_start_matches('0').parse().unwrap_or(0), number);
    }
}

fn judge_clean(request: &CleanRequest) {
    let overrides = request.overrides(LONGEST_WAIT);
    for wait in [overrides.term, overrides.kill, overrides.free].into_iter().flatten() {
        assert!(wait <= LONGEST_WAIT);
    }
    assert_eq!(overrides.signal, None, "the caller does not choose the signal");
    let written = serde_json::to_string(request).expect("it can be written");
    let again: CleanRequest = serde_json::from_str(&written).expect("it can be read");
    assert_eq!(serde_json::to_string(&again).ok(), Some(written));
}

/// A refusal is the client's fault, says what to do, and is not much longer than the request.
fn is_answer(problem: &Problem, asked: usize) {
    assert_eq!(problem.status, 400);
    assert!(!problem.mend.is_empty() && problem.detail.len() <= 300 + 10 * asked, "{problem:?}");
}

/// What a client is sent by something at the agent's socket, head and all.
pub(crate) fn client(bytes: &[u8]) {
    static RUNTIME: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| {
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
    });
    let Some((&kind, response)) = bytes.split_first() else { return };
    RUNTIME.block_on(async {
        let (near, mut far) = duplex(64 * 1024);
        let mut client = Client::over(near, Path::new("agent")).await.expect("nothing is read yet");
        let answers = async move {
            let mut request = [0; 16 * 1024];
            let _ = far.read(&mut request).await;
            let _ = far.write_all(response).await;
        };
        let port = Port::GATEWAY;
        let asks = async {
            match kind {
                b'o' => client.owners(port, 1).await.map(drop),
                b'c' => client.clean(port, &CleanRequest::default()).await.map(drop),
                b'w' => client.wait(port, Until::Free, Duration::ZERO).await.map(drop),
                _ => follow(client, port, response.len()).await,
            }
        };
        let (asked, ()) = tokio::join!(asks, answers);
        if let Err(error) = asked {
            assert!(!error.to_string().is_empty());
        }
    });
}

/// The stream ends when the sender does, and has no more events than it had lines.
async fn follow(client: Client, port: Port, length: usize) -> Result<(), ClientError> {
    let mut events = client.events(&[port], 1, None).await?;
    for _ in 0..=length {
        if let (_, Some(cursor)) = events.next().await?
            && let Ok(cursor) = cursor.parse::<Cursor>()
        {
            assert_eq!(cursor.to_string().parse(), Ok(cursor));
        }
    }
    unreachable!("more events than bytes");
}
