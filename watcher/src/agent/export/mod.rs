//! The export: the history's records are sent to a server elsewhere, by a thread of its own.
//!
//! The agent's loop has no part in it, and the history on disk is the [`spool`]: the thread reads what comes after the last
//! record that the server has confirmed. Whatever goes wrong, the connection is dropped with the runtime that it lives in,
//! and made anew after a pause; what was on its way is sent again, by the same id, so that the server drops the repeats.

mod spool;

use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{debug, info, warn};

use self::spool::Position;
use super::state::Agent;
use super::troubles::Part;
use crate::config::NatsConfig;
use crate::model::Record;
use crate::platform::Host;
use crate::platform::contract::{
    Delivery, ExportSystem, Exporter as _, HistoryError, HistoryReader, HistorySystem as _, Outgoing,
};
use crate::wire;

/// So many records are on their way at most.
const ON_THE_WAY: usize = 256;
/// The pause after the first failure, and the longest, to which it grows.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// While the agent ends, so long the thread may go on sending, and so long it is waited for.
const FINISH: Duration = Duration::from_secs(1);
const WAITED_FOR: Duration = Duration::from_secs(2);

/// The export, as the agent has it.
pub(super) struct Export {
    pub(super) config: NatsConfig,
    end: watch::Sender<bool>,
    ended: Mutex<Receiver<()>>,
}

impl Export {
    /// Begins to send. The thread must not exist before the process has given up its privileges, because each thread has its
    /// own.
    pub(super) fn begin(agent: &Arc<Agent>, config: &NatsConfig) -> Self {
        let end = watch::Sender::new(false);
        let (tell, ended) = channel();
        let sending = Sending::new(Arc::clone(agent), config.clone(), end.subscribe());
        let run = move || {
            sending.run();
            let _ = tell.send(());
        };
        if let Err(error) = std::thread::Builder::new().name("export".to_owned()).spawn(run) {
            agent.troubles.note(Part::Export, Some(format!("events are not exported: no thread: {error}")));
        }
        Self { config: config.clone(), end, ended: Mutex::new(ended) }
    }

    /// Sends what is left, as far as that is possible at once, and ends.
    pub(super) fn end(&self) {
        self.end.send_replace(true);
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        if ended.recv_timeout(WAITED_FOR).is_err() {
            warn!("the export does not end; what it has not sent is sent after the agent's next start");
        }
    }
}

/// Why a connection is no longer used.
enum Ended {
    /// The agent ends.
    Agent,
    /// Something went wrong.
    Failed(String),
}

/// What the thread does.
struct Sending {
    agent: Arc<Agent>,
    config: NatsConfig,
    host: String,
    end: watch::Receiver<bool>,
    /// `None` until the history could be read.
    position: Option<Position>,
    /// Whether a record was confirmed on this connection.
    has_delivered: bool,
}

impl Sending {
    fn new(agent: Arc<Agent>, config: NatsConfig, end: watch::Receiver<bool>) -> Self {
        let host = config.host.clone().unwrap_or_else(Host::host_name);
        Self { agent, config, host, end, position: None, has_delivered: false }
    }

    fn run(mut self) {
        let mut pause = FIRST_PAUSE;
        loop {
            // With the runtime goes all that the connection has begun.
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => {
                    self.note(Some(&format!("no runtime can be started: {error}")));
                    return;
                }
            };
            self.has_delivered = false;
            let mut end = self.end.clone();
            let ended = runtime.block_on(async {
                tokio::select! {
                    ended = self.send_all() => ended,
                    () = late(&mut end) => Ended::Agent,
                }
            });
            let Ended::Failed(why) = ended else {
                runtime.shutdown_background();
                return;
            };
            self.note(Some(&why));
            if self.has_delivered {
                pause = FIRST_PAUSE;
            }
            let is_ending = runtime.block_on(self.wait(pause));
            // A look-up of a name can hang; nobody waits for it.
            runtime.shutdown_background();
            if is_ending {
                return;
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn note(&self, why: Option<&str>) {
        let trouble =
            why.map(|why| format!("events are not exported: {why}; tried again, at least every 30 s"));
        self.agent.troubles.note(Part::Export, trouble);
    }

    /// Connects, and sends what there is and what comes, until something goes wrong or the agent ends.
    async fn send_all(&mut self) -> Ended {
        let Some(store) = self.agent.store() else { return Ended::Failed("there is no history".to_owned()) };
        let mut written = store.written();
        let connecting = Host::connect_export(&self.config);
        let exporter = match connecting.await {
            Ok(exporter) => exporter,
            Err(why) => return Ended::Failed(why),
        };
        info!(url = self.config.url.join(", "), "exporting");
        loop {
            let is_ending = *self.end.borrow();
            // Until the first record is on disk, the file may have no tables yet.
            let is_there = *written.borrow_and_update() > 0;
            let sent = if is_there { self.send_what_is_there(&exporter).await } else { Ok(()) };
            match sent {
                Ok(()) => self.note(None),
                Err(why) => return Ended::Failed(why),
            }
            if is_ending {
                return Ended::Agent;
            }
            let mut end = self.end.clone();
            tokio::select! {
                _ = written.changed() => {}
                _ = end.wait_for(|end| *end) => {}
                why = exporter.lost() => return Ended::Failed(why),
            }
        }
    }

    /// Sends all records that are on disk.
    async fn send_what_is_there(
        &mut self,
        exporter: &<Host as ExportSystem>::Exporter,
    ) -> Result<(), String> {
        let unread = |error: HistoryError| format!("the history can't be read: {error}");
        let mut reader = self.reader().map_err(unread)?;
        loop {
            let last = self.look(&mut *reader).map_err(unread)?;
            let Some(position) = &mut self.position else { return Ok(()) };
            if position.through() >= last {
                return Ok(());
            }
            let records = reader.after(position.through(), ON_THE_WAY).map_err(unread)?;
            if records.is_empty() {
                let dropped = position.skip(last);
                self.dropped(dropped);
                self.note_position(last);
                continue;
            }
            let outgoing = records.into_iter().map(|record| self.outgoing(record));
            let outgoing: Vec<Outgoing> = outgoing.collect();
            let delivery = tokio::select! {
                delivery = exporter.deliver(&outgoing) => delivery,
                why = exporter.lost() => return Err(why),
            };
            self.delivered(&outgoing, &delivery, last);
            if let Some(why) = delivery.failure {
                return Err(why);
            }
        }
    }

    /// The history, opened for as long as there is something to send: a damaged one is put aside, and another begun.
    fn reader(&self) -> Result<Box<dyn HistoryReader>, HistoryError> {
        let store = self.agent.store().ok_or(HistoryError::Unsupported)?;
        Host::read_history(&store.path)
    }

    /// Looks how much waits, and drops what is too much; the newest record's number.
    fn look(&mut self, reader: &mut dyn HistoryReader) -> Result<u64, HistoryError> {
        let numbers = reader.numbers()?;
        let most = self.config.spool_events;
        let known = self.position.filter(|position| position.through() <= numbers.last);
        let mut position = known.unwrap_or_else(|| Position::begin(&numbers));
        let dropped = position.limit(numbers.last, most);
        self.position = Some(position);
        self.dropped(dropped);
        self.note_position(numbers.last);
        Ok(numbers.last)
    }

    fn outgoing(&self, record: Record) -> Outgoing {
        let (number, time) = (record.number, record.told.time());
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_micros();
        Outgoing {
            number,
            subject: self.config.subject.of(&self.host, &record),
            // With its time, because a history that was put aside, or lost its end with the host's power, gives a number again.
            id: format!("{}-{number}-{since:x}", self.host),
            payload: wire::export::line(&self.host, record, self.config.command_lines).unwrap_or_default(),
        }
    }

    fn delivered(&mut self, outgoing: &[Outgoing], delivery: &Delivery, last: u64) {
        let Some(position) = &mut self.position else { return };
        let numbers: Vec<u64> = outgoing[..delivery.done].iter().map(|record| record.number).collect();
        let dropped = position.done(&numbers) + delivery.refused;
        let export = &self.agent.metrics.export;
        export.sent.inc_by(delivery.done as u64 - delivery.refused);
        export.repeats.inc_by(delivery.repeats);
        self.has_delivered |= delivery.done > 0;
        if delivery.refused > 0 {
            warn!(count = delivery.refused, "the server refuses events that are too long for it");
        }
        self.dropped(dropped);
        self.note_position(last);
    }

    fn dropped(&self, count: u64) {
        if count > 0 {
            self.agent.metrics.export.dropped.inc_by(count);
            debug!(count, "events were dropped before they could be exported");
        }
    }

    /// Tells the history how far the records were sent, and everybody how many wait.
    fn note_position(&self, last: u64) {
        let (Some(position), Some(store)) = (self.position, self.agent.store()) else { return };
        store.note_exported(position.exported());
        let waiting = i64::try_from(position.waiting(last)).unwrap_or(i64::MAX);
        self.agent.metrics.export.waiting.set(waiting);
    }

    /// Waits before the next attempt, and counts meanwhile what is too much; whether the agent ends.
    async fn wait(&mut self, pause: Duration) -> bool {
        let (mut end, written) = (self.end.clone(), self.agent.store().map(super::store::Store::written));
        let Some(mut written) = written else { return true };
        let over = sleep(pause);
        tokio::pin!(over);
        let ending = end.wait_for(|end| *end);
        tokio::pin!(ending);
        loop {
            let is_there = *written.borrow() > 0;
            if is_there
                && let Ok(mut reader) = self.reader()
                && let Err(error) = self.look(&mut *reader)
            {
                debug!(%error, "the history can't be read");
            }
            tokio::select! {
                () = &mut over => return false,
                _ = &mut ending => return true,
                _ = written.changed() => {}
            }
        }
    }
}

/// Ready once the agent has been ending for so long that nothing more is sent.
async fn late(end: &mut watch::Receiver<bool>) {
    // Fails only if the agent is gone.
    let _ = end.wait_for(|end| *end).await;
    sleep(FINISH).await;
}
