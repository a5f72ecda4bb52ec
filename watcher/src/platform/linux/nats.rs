//! The export to NATS JetStream, by its own client library. Nothing is subscribed to but the server's confirmations, so that
//! nobody can ask for anything this way.
//!
//! The library's own way of connecting again is not used: it would send what waits in it in another order, and never read
//! the credentials again. Whoever holds an [`Exporter`] drops it once it is lost, with the runtime that it lives in.

use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::header::NATS_MESSAGE_ID;
use async_nats::jetstream::context::{ContextBuilder, PublishAckFuture, PublishError, PublishErrorKind};
use async_nats::jetstream::{Context, ErrorCode, stream};
use async_nats::{ConnectErrorKind, ConnectOptions, Event, HeaderMap, ServerAddr};
use tokio::sync::Notify;

use super::Linux;
use crate::config::{NatsConfig, NewStream};
use crate::platform::contract::{Delivery, ExportSystem, Exporter, NotObeyed, Outgoing};
use crate::platform::unix;

/// How long a server may take to greet, and to confirm a record.
const PATIENCE: Duration = Duration::from_secs(5);
/// Long enough that it never comes: a connection that is lost is dropped.
const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);
/// For so long a stream that is created here knows a repeat: as long as NATS itself proposes.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);
/// Whatever a file of credentials has in it, it is not longer.
const LONGEST_CREDENTIALS: u64 = 1 << 16;
/// The permission bits that let others than the owner read.
const OTHERS_READ: u32 = 0o044;

/// A connection to a server.
pub(crate) struct Connection {
    jetstream: Context,
    lost: Arc<Notify>,
}

impl ExportSystem for Linux {
    type Exporter = Connection;

    fn host_name() -> String {
        let name = nix::sys::utsname::uname();
        name.map(|name| name.nodename().to_string_lossy().into_owned()).unwrap_or_default()
    }

    fn check_export(config: &NatsConfig) -> Result<(), String> {
        addresses(config).map(drop)
    }

    async fn connect_export(config: &NatsConfig) -> Result<Connection, String> {
        let (lost, connected) = (Arc::new(Notify::new()), Arc::new(AtomicBool::new(false)));
        let (tell, was_connected) = (Arc::clone(&lost), Arc::clone(&connected));
        let mut options = ConnectOptions::new()
            .name("gatewatch")
            .connection_timeout(PATIENCE)
            .reconnect_delay_callback(move |_| {
                if was_connected.load(Ordering::Relaxed) { NEVER } else { Duration::ZERO }
            })
            .event_callback(move |event| {
                if matches!(event, Event::Disconnected | Event::Closed | Event::LameDuckMode) {
                    tell.notify_one();
                }
                std::future::ready(())
            });
        if let Some(path) = &config.credentials {
            let failed = |why: String| format!("the credentials {} {why}", path.display());
            let text = secret(path).map_err(failed)?;
            options =
                options.credentials(&text).map_err(|error| failed(format!("can't be used: {error}")))?;
        }
        if let Some(path) = &config.ca {
            options = options.add_root_certificates(path.clone());
        }
        let client = options.connect(addresses(config)?).await.map_err(|error| {
            let why = match error.kind() {
                ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
                    "it does not take the credentials".to_owned()
                }
                ConnectErrorKind::TimedOut => format!("it does not answer within {PATIENCE:?}"),
                _ => chain(&error),
            };
            format!("{}: {why}", config.url.join(", "))
        })?;
        connected.store(true, Ordering::Relaxed);
        let jetstream = ContextBuilder::new().timeout(PATIENCE).build(client);
        if let Some(new) = &config.create_stream {
            create(&jetstream, new, config).await?;
        }
        Ok(Connection { jetstream, lost })
    }
}

fn addresses(config: &NatsConfig) -> Result<Vec<ServerAddr>, String> {
    let address = |url: &String| url.parse().map_err(|_| format!("{url:?} is not a server's address"));
    config.url.iter().map(address).collect()
}

/// Creates the stream, if there is none of its name.
async fn create(jetstream: &Context, new: &NewStream, config: &NatsConfig) -> Result<(), String> {
    let stream = stream::Config {
        name: new.name.clone(),
        description: Some("What Gatewatch's agents saw happen to ports".to_owned()),
        subjects: vec![config.subject.wildcard()],
        max_age: new.max_age,
        max_bytes: new.max_size.map_or(-1, |size| i64::try_from(size).unwrap_or(i64::MAX)),
        num_replicas: new.replicas,
        duplicate_window: DUPLICATE_WINDOW.min(new.max_age),
        ..stream::Config::default()
    };
    let created = jetstream.get_or_create_stream(stream).await;
    created.map(drop).map_err(|error| format!("the stream {} can't be created: {}", new.name, chain(&error)))
}

/// A secret's text.
fn secret(path: &Path) -> Result<String, String> {
    let unread = |error: std::io::Error| format!("can't be read: {error}");
    let mut file = unix::open_to_obey(path).map_err(|error| match error {
        NotObeyed::Unopened(error) => unread(error),
        NotObeyed::Strangers(_) => format!("{error}: `chown root` and `chmod 600` it"),
    })?;
    let metadata = file.metadata().map_err(unread)?;
    if metadata.mode() & OTHERS_READ != 0 {
        return Err("can be read by others: `chmod 600` it".to_owned());
    }
    let mut text = String::new();
    file.by_ref().take(LONGEST_CREDENTIALS).read_to_string(&mut text).map_err(unread)?;
    Ok(text)
}

/// An error with what caused it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let why = error.to_string();
        if !text.contains(&why) {
            text = format!("{text}: {why}");
        }
        cause = error.source();
    }
    text
}

/// What became of one record.
enum Fate {
    Kept {
        is_repeat: bool,
    },
    /// The server refuses it, and always will.
    Refused,
}

impl Exporter for Connection {
    async fn deliver(&self, records: &[Outgoing]) -> Delivery {
        // All are sent before the first confirmation is waited for.
        let mut sent = Vec::with_capacity(records.len());
        for record in records {
            let on_its_way = self.send(record).await;
            let is_stuck = on_its_way.as_ref().is_err_and(|error| judge(error).is_err());
            sent.push(on_its_way);
            if is_stuck {
                break;
            }
        }
        let mut delivery = Delivery::default();
        for sent in sent {
            let fate = match sent {
                Ok(confirmed) => confirmed
                    .await
                    .map_or_else(|error| judge(&error), |kept| Ok(Fate::Kept { is_repeat: kept.duplicate })),
                Err(error) => judge(&error),
            };
            match fate {
                Ok(Fate::Kept { is_repeat }) => delivery.repeats += u64::from(is_repeat),
                Ok(Fate::Refused) => delivery.refused += 1,
                Err(why) => {
                    delivery.failure = Some(why);
                    break;
                }
            }
            delivery.done += 1;
        }
        delivery
    }

    async fn lost(&self) -> String {
        self.lost.notified().await;
        "the connection was lost".to_owned()
    }
}

impl Connection {
    async fn send(&self, record: &Outgoing) -> Result<PublishAckFuture, PublishError> {
        let mut headers = HeaderMap::new();
        headers.insert(NATS_MESSAGE_ID, record.id.as_str());
        let payload = record.payload.clone().into();
        self.jetstream.publish_with_headers(record.subject.clone(), headers, payload).await
    }
}

/// What an error means for the record.
fn judge(error: &PublishError) -> Result<Fate, String> {
    use std::error::Error as _;

    let server = error.source().and_then(|source| source.downcast_ref::<async_nats::jetstream::Error>());
    match error.kind() {
        PublishErrorKind::MaxPayloadExceeded => Ok(Fate::Refused),
        _ if server.is_some_and(|error| error.error_code() == ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM) => {
            Ok(Fate::Refused)
        }
        PublishErrorKind::StreamNotFound => Err(
            "the server has no stream for the subject: create one, or let `create_stream` do it (docs/fleet.md)"
                .to_owned(),
        ),
        PublishErrorKind::TimedOut => Err(format!("the server does not confirm within {PATIENCE:?}")),
        _ => Err(chain(error)),
    }
}
