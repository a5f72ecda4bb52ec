//! The history on disk: what the agent's loop hands over is written by a thread of its own, in batches.
//!
//! The loop never waits for the disk. [`recording`] is what the thread does, [`describe`] what it reads of the processes
//! that events name, and [`serving`] how the history is read for a request.

mod describe;
mod recording;
pub(super) mod serving;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::{oneshot, watch};
use tokio::time::timeout;
use tracing::{debug, warn};

pub(super) use self::describe::described;
use self::recording::Recording;
use crate::config::HistoryConfig;
use crate::model::{CleanTold, Described, Port, Socket, WatchEvent};
use crate::platform::Host;
use crate::platform::contract::{Exported, Relieved};

/// So much waits for the thread at most. What comes beyond is counted as lost.
const QUEUE: usize = 16_384;
/// How long the thread may take for its last batch.
const FINISH: Duration = Duration::from_secs(5);
/// How long a reader waits until what has happened is written.
const CAUGHT_UP: Duration = Duration::from_secs(2);

/// What is handed to the thread.
enum Message {
    Event(Box<WatchEvent>),
    /// A clean, and more of the process that asked for it.
    Clean(Box<CleanTold>, Box<Described>),
    /// The sockets that hold a port at this moment of the events, and which ports are followed (`None`: all).
    Sockets(Vec<Socket>, Option<Vec<Port>>),
    Limits(HistoryConfig),
    /// Write what has come so far, and say when that is done.
    Flush(oneshot::Sender<()>),
}

/// What the thread tells the others.
#[derive(Debug, Default)]
struct Shared {
    /// How many records found no place in the queue.
    missed: AtomicU64,
    /// Whether the thread wants to be told which sockets hold a port.
    wants_sockets: AtomicBool,
    trouble: Mutex<Option<Trouble>>,
    /// The number of the newest record that is on disk.
    written: watch::Sender<u64>,
    /// How far the records were exported, once that is known.
    exported: Mutex<Option<Exported>>,
}

/// Why the history is not written at this moment.
#[derive(Debug, Clone)]
pub(super) struct Trouble {
    /// From when on it is not complete.
    pub(super) since: SystemTime,
    why: String,
}

impl Shared {
    fn trouble(&self) -> MutexGuard<'_, Option<Trouble>> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn exported(&self) -> MutexGuard<'_, Option<Exported>> {
        self.exported.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The history on disk, as the agent has it.
pub(super) struct Store {
    pub(super) path: PathBuf,
    pins: Option<PathBuf>,
    /// `None` once the agent ends: what is in it is still written.
    queue: Mutex<Option<SyncSender<Message>>>,
    shared: Arc<Shared>,
    ended: Mutex<Receiver<()>>,
}

impl Store {
    /// Begins to write. The thread must not exist before the process has given up its privileges, because each thread has
    /// its own.
    pub(super) fn begin(config: &HistoryConfig, system: Host, relieved: Option<Relieved>) -> Self {
        let (queue, messages) = sync_channel(QUEUE);
        let (end, ended) = channel();
        let shared = Arc::new(Shared::default());
        let recording = Recording::new(config.clone(), messages, Arc::clone(&shared), system, relieved);
        let run = move || {
            recording.run();
            let _ = end.send(());
        };
        if let Err(error) = std::thread::Builder::new().name("history".to_owned()).spawn(run) {
            let why = format!("no thread can be started: {error}");
            *shared.trouble() = Some(Trouble { since: SystemTime::now(), why });
        }
        let (path, pins) = (config.path.clone(), config.pins.clone());
        Self { path, pins, queue: Mutex::new(Some(queue)), shared, ended: Mutex::new(ended) }
    }

    pub(super) fn event(&self, event: &WatchEvent) {
        self.hand_over(Message::Event(Box::new(event.clone())));
    }

    pub(super) fn clean(&self, clean: CleanTold, asker: Described) {
        self.hand_over(Message::Clean(Box::new(clean), Box::new(asker)));
    }

    fn hand_over(&self, message: Message) {
        if !self.try_send(message) {
            self.shared.missed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether there was room.
    fn try_send(&self, message: Message) -> bool {
        self.queue().as_ref().is_some_and(|queue| queue.try_send(message).is_ok())
    }

    fn queue(&self) -> MutexGuard<'_, Option<SyncSender<Message>>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it has to be told which sockets hold a port: what it knows of them may be out of date.
    pub(super) fn wants_sockets(&self) -> bool {
        self.shared.wants_sockets.load(Ordering::Relaxed)
    }

    /// Tells it which sockets hold a port. All events up to now must have been handed over, and none that comes later.
    pub(super) fn sockets(&self, sockets: Vec<Socket>, followed: Option<Vec<Port>>) {
        if self.try_send(Message::Sockets(sockets, followed)) {
            self.shared.wants_sockets.store(false, Ordering::Relaxed);
        }
    }

    /// Keeps as long and as much as this says, from now on.
    pub(super) fn limit(&self, config: &HistoryConfig) {
        if config.pins != self.pins {
            warn!("where events are kept between two agents takes effect at the agent's next start");
        }
        if config.path != self.path {
            warn!("the history goes on where it is: another path takes effect at the agent's next start");
        }
        self.try_send(Message::Limits(config.clone()));
    }

    /// Why it is not written at this moment.
    pub(super) fn trouble(&self) -> Option<Trouble> {
        self.shared.trouble().clone()
    }

    /// The same as a sentence.
    pub(super) fn degraded(&self) -> Option<String> {
        let trouble = self.trouble()?;
        let path = self.path.display();
        Some(format!("the history {path} can't be written: {}; tried again every second", trouble.why))
    }

    /// Waits until what has happened so far is written, or can't be.
    pub(super) async fn catch_up(&self) {
        let (tell, told) = oneshot::channel();
        if self.try_send(Message::Flush(tell)) {
            let _ = timeout(CAUGHT_UP, told).await;
        }
    }

    /// Tells the number of the newest record that is on disk, whenever there is a newer one.
    pub(super) fn written(&self) -> watch::Receiver<u64> {
        self.shared.written.subscribe()
    }

    /// Notes how far the records were exported: on disk within seconds, and at the end.
    pub(super) fn note_exported(&self, exported: Exported) {
        *self.shared.exported() = Some(exported);
    }

    /// Writes what is left, and ends.
    pub(super) fn end(&self) {
        drop(self.queue().take());
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        match ended.recv_timeout(FINISH) {
            Ok(()) => debug!("the history is written"),
            Err(_) => warn!("the last of the history was not written"),
        }
    }
}
