//! The thread that writes the history.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant, SystemTime};

use tracing::{info, warn};

use super::describe::Processes;
use super::{Message, Shared, Trouble};
use crate::config::HistoryConfig;
use crate::model::{
    Backend, Described, EventKind, Gap, GapReason, LostIn, OpenSocket, Port, Record, Remainder, Socket,
    SocketKey, SocketState, Told, WatchEvent, WatchKind,
};
use crate::platform::Host;
use crate::platform::clock;
use crate::platform::contract::{
    Batch, Exported, HistoryError, HistorySystem as _, HistoryWriter, LastRun, Left, Relieved,
};

/// A record waits for others so long at most, before it is written.
const DUE: Duration = Duration::from_millis(200);
/// So many records are written at once.
const WRITTEN_AT_ONCE: usize = 2_000;
/// While the disk is full, so many records are kept in memory.
const KEPT: usize = 8_192;
/// How long to wait after a failure.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// How often to note that the agent runs.
const ALIVE: Duration = Duration::from_secs(5);
/// How often to delete what is too old or too much, and after how many records besides.
const TRIM: Duration = Duration::from_secs(60);
const TRIM_AFTER: usize = 5_000;
/// So much is deleted in a row before other work has its turn.
const TRIMS_IN_A_ROW: usize = 4;
/// If the wall clock jumps further than this, nothing is called old until it has been steady for an hour.
const JUMP: Duration = Duration::from_secs(60);
const STEADY: Duration = Duration::from_secs(3600);
/// How finely a process's start is known.
const TICK: Duration = Duration::from_millis(20);
/// How many open sockets are remembered at most: any user can open thousands, in a network namespace of its own.
const OPEN: usize = 65_536;
/// Of so many of them it is remembered who opened them, in full: that takes up to 4 KiB each.
const DESCRIBED: usize = 8_192;

/// The writing of the history.
pub(super) struct Recording {
    config: HistoryConfig,
    messages: Receiver<Message>,
    shared: Arc<Shared>,
    processes: Processes,
    /// `None` while it can't be opened.
    writer: Option<Box<dyn HistoryWriter>>,
    batch: Batch,
    /// When the oldest record of the batch came.
    oldest: Option<Instant>,
    /// When to try again after a failure.
    again: Option<Instant>,
    /// Records were dropped since then, because they could not be written.
    dropped: Option<SystemTime>,
    next: u64,
    /// When it was begun: what has happened since is handed over.
    begun: SystemTime,
    /// What the agent before has left: what happened since it had ended.
    relieved: Option<Relieved>,
    /// Whether an event is read that was left.
    is_left: bool,
    open: HashMap<SocketKey, OpenSocket>,
    /// How far the records were exported, as it is on disk.
    exported: Option<Exported>,
    alive: Instant,
    trimmed: Instant,
    since_trim: usize,
    /// The wall clock less the monotonic one, and since when it has not jumped.
    clock: (SystemTime, Option<Instant>),
}

impl Recording {
    pub(super) fn new(
        config: HistoryConfig,
        messages: Receiver<Message>,
        shared: Arc<Shared>,
        system: Host,
        relieved: Option<Relieved>,
    ) -> Self {
        Self {
            config,
            messages,
            shared,
            processes: Processes::new(system),
            writer: None,
            batch: Batch::default(),
            oldest: None,
            again: None,
            dropped: None,
            next: 1,
            begun: SystemTime::now(),
            relieved,
            is_left: false,
            open: HashMap::new(),
            exported: None,
            alive: Instant::now(),
            trimmed: Instant::now(),
            since_trim: 0,
            clock: (clock_difference(), None),
        }
    }

    /// Writes until nobody can hand anything over any more.
    pub(super) fn run(mut self) {
        self.open(self.begun);
        loop {
            match self.messages.recv_timeout(self.pause()) {
                Err(RecvTimeoutError::Disconnected) => break,
                Ok(message) => self.take(message),
                Err(RecvTimeoutError::Timeout) => {}
            }
            self.do_what_is_due();
        }
        self.flush();
        self.note_exported();
        if let Some(writer) = &mut self.writer
            && self.batch.records.is_empty()
        {
            writer.note_end();
        }
    }

    /// How long to wait for the next message.
    fn pause(&self) -> Duration {
        let due = self.again.or(self.oldest.map(|oldest| oldest + DUE));
        let alive = self.alive + ALIVE;
        due.map_or(alive, |due| due.min(alive)).saturating_duration_since(Instant::now())
    }

    fn do_what_is_due(&mut self) {
        let now = Instant::now();
        let may_try = self.again.is_none_or(|again| again <= now);
        if self.writer.is_none() {
            if may_try {
                self.open(SystemTime::now());
            }
            return;
        }
        let is_due = self.oldest.is_some_and(|oldest| oldest + DUE <= now);
        if may_try && (is_due || self.batch.records.len() >= WRITTEN_AT_ONCE || self.dropped.is_some()) {
            self.flush();
        }
        if self.alive + ALIVE <= now {
            self.alive = now;
            self.note_exported();
            if let Some(writer) = &mut self.writer
                && self.again.is_none()
            {
                writer.note_alive();
            }
        }
        if self.trimmed + TRIM <= now || self.since_trim >= TRIM_AFTER {
            self.trim();
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Event(_) | Message::Clean(..) if self.writer.is_none() => {
                // What holds the ports is compared once it can be opened.
                self.dropped.get_or_insert_with(SystemTime::now);
            }
            Message::Event(event) => self.event(*event),
            Message::Clean(clean, asker) => {
                self.push(Told::Clean(clean), *asker, false, None);
            }
            Message::Sockets(..) if self.writer.is_none() => {
                self.shared.wants_sockets.store(true, Ordering::Relaxed);
            }
            Message::Sockets(sockets, followed) => self.compare(&sockets, followed.as_deref()),
            Message::Limits(config) => {
                self.config = HistoryConfig { path: self.config.path.clone(), ..config };
                self.trimmed = Instant::now().checked_sub(TRIM).unwrap_or(self.trimmed);
            }
            Message::Flush(done) => {
                if self.again.is_none() {
                    self.flush();
                }
                let _ = done.send(());
            }
        }
    }

    /// Opens it. All that happened since this moment is still to be written.
    fn open(&mut self, begun: SystemTime) {
        match Host::write_history(&self.config.path, begun) {
            Ok(mut writer) => {
                let last = writer.last_run();
                let left = self.left_by(last.as_ref());
                let is_known = left.as_ref().is_some_and(|left| left.is_whole)
                    && last.as_ref().is_some_and(|last| last.orderly);
                let gap = last.as_ref().filter(|_| !is_known).map(|last| Gap {
                    from: Some(last.alive.min(begun)),
                    until: begun,
                    why: match last {
                        _ if !last.same_boot => GapReason::Rebooted,
                        _ if last.orderly => GapReason::Stopped,
                        _ => GapReason::Killed,
                    },
                });
                let same_boot = last.is_none_or(|last| last.same_boot);
                writer.note_ring(self.relieved.as_ref().map(|relieved| relieved.ring));
                self.writer = Some(writer);
                self.go_on(gap, same_boot);
                if let Some(left) = left.filter(|_| self.writer.is_some()) {
                    self.left_behind(left);
                }
            }
            Err(error) => self.failed(&error),
        }
    }

    /// Goes on with what is on disk, after a gap.
    fn go_on(&mut self, gap: Option<Gap>, same_boot: bool) {
        let Some(writer) = &mut self.writer else { return };
        self.next = writer.next_number();
        let open = match writer.open_sockets() {
            Ok(open) => open,
            Err(error) => {
                self.writer = None;
                return self.failed(&error);
            }
        };
        self.dropped = None;
        self.open = open.into_iter().take(OPEN).map(|socket| (socket.key.clone(), socket)).collect();
        if let Some(gap) = gap {
            self.push(Told::Gap(gap), Described::default(), false, None);
        }
        if !same_boot {
            // No socket outlives the host.
            let gone = std::mem::take(&mut self.open);
            gone.into_values().for_each(|socket| self.found_gone(socket));
        }
        self.shared.wants_sockets.store(true, Ordering::Relaxed);
        self.flush();
    }

    /// What the last agent has left. What is in the ring of another one, an agent after that has seen.
    fn left_by(&mut self, last: Option<&LastRun>) -> Option<Left> {
        let left = self.relieved.as_mut()?.left.take()?;
        last.is_some_and(|last| last.same_boot && last.ring == Some(left.ring)).then_some(left)
    }

    /// What the kernel has kept since the agent before ended.
    fn left_behind(&mut self, left: Left) {
        info!(events = left.events.len(), "read what happened while no agent ran");
        self.is_left = true;
        for event in left.events {
            let kind = match event.kind {
                EventKind::Bind => WatchKind::Bind,
                EventKind::Listen => WatchKind::Listen,
                EventKind::Release => WatchKind::Release,
                EventKind::Unlisten | EventKind::Conflict | EventKind::Refused => continue,
            };
            // Since when it was ready to be read says nothing about how long the kernel took.
            let told = WatchEvent { delay: None, ..WatchEvent::of(&event, kind, Backend::Ebpf) };
            // The kernel also tells of connections that nobody accepted.
            if told.kind != WatchKind::Release || self.is_open(&told) {
                self.event(told);
            }
        }
        self.is_left = false;
    }

    /// What can be read of the process that an event names. If the event was left, another process may have its pid since.
    fn describe(&mut self, event: &WatchEvent) -> Described {
        let described = self.processes.of(event.pid, event.uid, event.comm.as_deref());
        let is_another = described.start_time.is_some_and(|start| start > event.time + TICK);
        if self.is_left && is_another { Described::default() } else { described }
    }

    fn is_open(&self, event: &WatchEvent) -> bool {
        self.open.contains_key(&SocketKey::new(event.port, event.netns, event.cookie, event.address))
    }

    fn failed(&mut self, error: &HistoryError) {
        self.again = Some(Instant::now() + AGAIN_AFTER);
        let first = self.batch.records.first().map(|(record, _)| record.told.time());
        let since = self.dropped.or(first).unwrap_or_else(SystemTime::now);
        let mut trouble = self.shared.trouble();
        if trouble.is_none() {
            warn!(%error, path = %self.config.path.display(), "the history can't be written; tried again every second");
        }
        let since = trouble.as_ref().map_or(since, |trouble| trouble.since.min(since));
        *trouble = Some(Trouble { since, why: error.to_string() });
    }

    /// Writes the batch.
    fn flush(&mut self) {
        let missed = self.shared.missed.swap(0, Ordering::Relaxed);
        if missed > 0 && self.writer.is_some() {
            let lost = WatchKind::Lost { count: Some(missed), lost_in: LostIn::Anywhere };
            self.push(
                Told::Event(WatchEvent::now(lost, Port::EVERY, Backend::Agent)),
                Described::default(),
                false,
                None,
            );
            self.shared.wants_sockets.store(true, Ordering::Relaxed);
        }
        let Some(writer) = &mut self.writer else { return };
        if let Some(since) = self.dropped {
            // Whether there is room again is seen by the attempt to write just this.
            let gap = Gap { from: Some(since), until: SystemTime::now(), why: GapReason::NotWritten };
            self.batch = Batch::default();
            self.next = writer.next_number();
            let number = self.next;
            let record = Record { number, told: Told::Gap(gap), process: Described::default(), found: false };
            let gap = Batch { records: vec![(record, None)], ..Batch::default() };
            match writer.append(&gap) {
                Ok(()) => {
                    self.oldest = None;
                    self.well();
                    self.go_on(None, true);
                }
                Err(error) => self.failed(&error),
            }
            return;
        }
        if self.batch.records.is_empty() && self.batch.closed.is_empty() && self.batch.opened.is_empty() {
            // There may have been nothing to write since it could be opened, or a comparison has found no difference.
            self.oldest = None;
            return self.well();
        }
        match writer.append(&self.batch) {
            Ok(()) => {
                self.since_trim += self.batch.records.len();
                self.batch = Batch::default();
                self.oldest = None;
                self.well();
            }
            Err(error) => {
                self.failed(&error);
                if self.batch.records.len() > KEPT {
                    let first = self.batch.records.first().map(|(record, _)| record.told.time());
                    self.dropped = Some(first.unwrap_or_else(SystemTime::now));
                    self.batch = Batch::default();
                    self.oldest = None;
                }
            }
        }
    }

    /// Notes how far the records were exported. Where that fails, it is tried again within seconds; the next agent would send
    /// the last ones again.
    fn note_exported(&mut self) {
        let exported = *self.shared.exported();
        let Some(writer) = self.writer.as_mut().filter(|_| self.again.is_none()) else { return };
        if let Some(now) = exported.filter(|_| exported != self.exported)
            && writer.note_exported(now).is_ok()
        {
            self.exported = exported;
        }
    }

    fn well(&mut self) {
        let written = self.writer.as_ref().map_or(0, |writer| writer.next_number() - 1);
        self.shared.written.send_if_modified(|last| std::mem::replace(last, written) != written);
        self.again = None;
        if self.shared.trouble().take().is_some() {
            info!("the history is written again");
        }
    }

    fn push(&mut self, told: Told, process: Described, found: bool, began: Option<u64>) -> u64 {
        let number = self.next;
        self.next += 1;
        if self.dropped.is_some() {
            return number;
        }
        self.oldest.get_or_insert_with(Instant::now);
        self.batch.records.push((Record { number, told, process, found }, began));
        number
    }

    fn event(&mut self, event: WatchEvent) {
        match event.kind {
            // The sockets are compared instead.
            WatchKind::Held | WatchKind::Ready { .. } => {}
            WatchKind::Lost { .. } => {
                self.shared.wants_sockets.store(true, Ordering::Relaxed);
                let event = WatchEvent { port: Port::EVERY, ..event };
                self.push(Told::Event(event), Described::default(), false, None);
            }
            WatchKind::Bind | WatchKind::Listen => self.begun(event),
            WatchKind::Release => self.ended(event),
            WatchKind::Conflict { .. } | WatchKind::Refused => {
                let process = self.describe(&event);
                self.push(Told::Event(event), process, false, None);
            }
            WatchKind::Free => {
                let process = self.last_process(&event);
                self.push(Told::Event(event), process, false, None);
            }
        }
    }

    /// What the record before, of the same moment, says of the same process.
    fn last_process(&self, event: &WatchEvent) -> Described {
        let last = self.batch.records.last().map(|(record, _)| record);
        let same = last.filter(|last| {
            matches!(&last.told, Told::Event(told) if told.pid == event.pid && told.monotonic_ns == event.monotonic_ns)
        });
        same.map(|last| last.process.clone()).unwrap_or_default()
    }

    fn begun(&mut self, event: WatchEvent) {
        let listens = event.kind == WatchKind::Listen;
        let key = SocketKey::new(event.port, event.netns, event.cookie, event.address);
        if let Some(open) = self.open.get_mut(&key) {
            if listens && !open.listens {
                open.listens = true;
                let opened = (open.began, true);
                self.batch.opened.push(opened);
            }
            let is_same = (open.pid, &open.comm, open.uid) == (event.pid, &event.comm, event.uid);
            let process = if is_same { open.process.clone() } else { self.describe(&event) };
            self.push(Told::Event(event), process, false, None);
            return;
        }
        let process = self.describe(&event);
        let socket = OpenSocket {
            key,
            began: 0,
            address: event.address,
            pid: event.pid,
            uid: event.uid,
            comm: event.comm.clone(),
            process: process.clone(),
            listens,
        };
        let number = self.push(Told::Event(event), process, false, None);
        self.opened(OpenSocket { began: number, ..socket });
    }

    fn opened(&mut self, mut socket: OpenSocket) {
        if self.open.len() >= DESCRIBED {
            socket.process = Described::default();
        }
        if self.open.len() < OPEN && self.dropped.is_none() {
            self.batch.opened.push((socket.began, socket.listens));
            self.open.insert(socket.key.clone(), socket);
        }
    }

    fn ended(&mut self, event: WatchEvent) {
        let open = self.take_open(&event);
        let began = open.as_ref().map(|open| open.began);
        self.batch.closed.extend(began);
        let holder = open.filter(|open| event.pid.is_none() || open.pid == event.pid);
        let process = match holder {
            Some(open) => open.process,
            None => self.describe(&event),
        };
        self.push(Told::Event(event), process, false, began);
    }

    /// The open socket of an event that ends it, by its address where one of the two has no cookie.
    fn take_open(&mut self, event: &WatchEvent) -> Option<OpenSocket> {
        let key = SocketKey::new(event.port, event.netns, event.cookie, event.address);
        if let Some(open) = self.open.remove(&key) {
            return Some(open);
        }
        let is_it = |open: &&OpenSocket| {
            open.key.port == event.port
                && open.address == event.address
                && (open.key.cookie.is_none() || event.cookie.is_none())
                && (open.key.netns == event.netns || open.key.netns.is_none() || event.netns.is_none())
        };
        let key = self.open.values().find(is_it)?.key.clone();
        self.open.remove(&key)
    }

    /// Compares what is known to be open with the sockets that hold a port.
    fn compare(&mut self, sockets: &[Socket], followed: Option<&[Port]>) {
        let key = |socket: &Socket| {
            SocketKey::new(socket.port(), socket.netns, socket.cookie, Some(socket.address))
        };
        let there: HashSet<SocketKey> = sockets.iter().map(key).collect();
        // What stands for sockets of which there are too many may stand for one that is known.
        let left_out = || sockets.iter().filter(|socket| socket.is_left_out());
        let partly: HashSet<_> = left_out().map(|socket| (socket.port(), socket.netns)).collect();
        let is_partial = left_out().count() >= Remainder::ADDRESSES;
        let may_be_there =
            |key: &SocketKey| there.contains(key) || is_partial || partly.contains(&(key.port, key.netns));
        let gone: Vec<SocketKey> = self.open.keys().filter(|key| !may_be_there(key)).cloned().collect();
        for socket in gone.iter().filter_map(|key| self.open.remove(key)).collect::<Vec<_>>() {
            if followed.is_none_or(|ports| ports.contains(&socket.key.port)) {
                self.found_gone(socket);
            } else {
                // It may be open; nobody looks any more.
                self.batch.closed.push(socket.began);
            }
        }
        for socket in sockets.iter().filter(|socket| socket.owns_port() && !socket.is_left_out()) {
            if !self.open.contains_key(&key(socket)) {
                self.found(socket, key(socket));
            }
        }
        self.oldest.get_or_insert_with(Instant::now);
    }

    /// A socket whose end nobody saw. Of one that did not listen nothing is said: it may be a connection by now.
    fn found_gone(&mut self, socket: OpenSocket) {
        self.batch.closed.push(socket.began);
        if !socket.listens {
            return;
        }
        let event = WatchEvent {
            pid: socket.pid,
            uid: socket.uid,
            comm: socket.comm,
            address: socket.address,
            netns: socket.key.netns,
            cookie: socket.key.cookie,
            ..WatchEvent::now(WatchKind::Release, socket.key.port, Backend::Agent)
        };
        self.push(Told::Event(event), socket.process, true, Some(socket.began));
    }

    /// A socket whose beginning nobody saw.
    fn found(&mut self, socket: &Socket, key: SocketKey) {
        let pid = socket.descriptors.iter().map(|descriptor| descriptor.pid).min();
        let named = pid.and_then(|pid| self.processes.named(pid));
        let (comm, uid, process) = match named {
            Some((comm, uid, process)) => (Some(comm), uid, process),
            None => (None, None, Described::default()),
        };
        let event = WatchEvent {
            pid,
            uid: uid.or(socket.uid),
            comm,
            address: Some(socket.address),
            netns: socket.netns,
            cookie: socket.cookie,
            ..WatchEvent::now(WatchKind::Held, socket.port(), Backend::Agent)
        };
        let (address, uid, comm) = (event.address, event.uid, event.comm.clone());
        let number = self.push(Told::Event(event), process.clone(), true, None);
        let listens = socket.state == SocketState::Listen;
        self.opened(OpenSocket { key, began: number, address, pid, uid, comm, process, listens });
    }

    fn trim(&mut self) {
        (self.trimmed, self.since_trim) = (Instant::now(), 0);
        let keep = if self.clock_is_steady() { self.config.keep } else { Duration::MAX };
        let Some(writer) = self.writer.as_mut().filter(|_| self.again.is_none()) else { return };
        for _ in 0..TRIMS_IN_A_ROW {
            match writer.trim(keep, self.config.max_size) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => return self.failed(&error),
            }
        }
        // There may be more; what came meanwhile has its turn first.
        self.since_trim = TRIM_AFTER;
    }

    /// Whether the wall clock can be trusted with what is old.
    fn clock_is_steady(&mut self) -> bool {
        let difference = clock_difference();
        let (before, jumped) = self.clock;
        let apart = difference.duration_since(before).or_else(|_| before.duration_since(difference));
        let jumped = if apart.is_ok_and(|apart| apart < JUMP) { jumped } else { Some(Instant::now()) };
        self.clock = (difference, jumped);
        jumped.is_none_or(|jumped| jumped.elapsed() > STEADY)
    }
}

/// The wall clock at the monotonic clock's zero.
fn clock_difference() -> SystemTime {
    let monotonic = Duration::from_nanos(clock::monotonic_ns(Instant::now()));
    SystemTime::now().checked_sub(monotonic).unwrap_or(SystemTime::UNIX_EPOCH)
}
