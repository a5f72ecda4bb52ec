//! One network namespace as the agent sees it: an ordinary observer that the jobs can use.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::task::{Context, Poll};

use super::history::{Cursor, HistoryRead};
use super::state::Agent;
use crate::model::{
    Backend, Event, EventKind, LostIn, Observation, Port, Socket, SocketId, WatchEvent, WatchKind,
};
use crate::platform::clock;
use crate::platform::contract::{ObserveError, Observer, Platform as _, TimeWaits};

/// The agent's observer, for one request in one network namespace.
pub(super) struct NamespaceObserver {
    agent: Arc<Agent>,
    netns: u32,
    at: Cursor,
    pending: VecDeque<Observation>,
    /// Whether it is polled on the loop, which waits for no other thread.
    on_loop: bool,
}

impl NamespaceObserver {
    pub(super) fn new(agent: Arc<Agent>, netns: u32) -> Self {
        let at = agent.history.end();
        Self { agent, netns, at, pending: VecDeque::new(), on_loop: false }
    }

    /// The same for the loop.
    pub(super) fn on_loop(self) -> Self {
        Self { on_loop: true, ..self }
    }

    /// Whether it is the agent's own network namespace.
    fn is_own(&self) -> bool {
        self.agent.host.netns() == self.netns
    }
}

impl Observer for NamespaceObserver {
    fn backend(&self) -> Backend {
        Backend::Agent
    }

    fn look(&mut self, ports: &[Port]) -> Result<Vec<Socket>, ObserveError> {
        self.agent.drain_events();
        let known: HashSet<SocketId> = {
            let watch = self.agent.watch();
            ports.iter().flat_map(|&port| watch.sockets(port)).map(Socket::id).collect()
        };
        let mut sockets = self.agent.look(|watch| watch.observer().look_in(ports, self.netns))?;
        if !self.is_own() {
            // The observer lists the sockets of its own namespace alone; what it finds in another one is compared with what
            // the events told before.
            for socket in &mut sockets {
                socket.after_look = socket.owns_port() && !known.contains(&socket.id());
            }
        }
        Ok(sockets)
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Observation, ObserveError>> {
        if let Some(observation) = self.pending.pop_front() {
            return Poll::Ready(Ok(observation));
        }
        // The kernel may have sent more events than the agent's own task has read so far. They are read once: another
        // namespace may make new ones faster than they are read.
        if self.on_loop {
            self.agent.drain_events_if_free();
        } else {
            // A release that has happened is told, also while the loop reads it.
            self.agent.drain_events();
        }
        loop {
            if let Some(observation) = self.pending.pop_front() {
                return Poll::Ready(Ok(observation));
            }
            match self.agent.history.poll_read(self.at, cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(HistoryRead::Lost(count, next)) => {
                    self.at = next;
                    self.pending.push_back(Observation::Lost(count, LostIn::Anywhere));
                }
                Poll::Ready(HistoryRead::Event(told, next)) => {
                    self.at = next;
                    if let WatchKind::Lost { count, lost_in } = told.kind {
                        // What was lost may have been in this namespace, and only a look tells. Even if it was not, the look
                        // that stands in for it is of all, and what it has already is not told.
                        let is_here = lost_in.concerns(Some(self.netns), self.agent.host.netns());
                        let count = if is_here { count } else { Some(0) };
                        self.pending.push_back(Observation::Lost(count, lost_in));
                    } else if told.netns.is_none_or(|netns| netns == self.netns) {
                        self.pending.extend(event(&told).map(Observation::Event));
                    }
                }
            }
        }
    }

    fn time_wait(&mut self, port: Port) -> Result<TimeWaits, ObserveError> {
        if !self.is_own() {
            return Ok(TimeWaits::new());
        }
        self.agent.look(|watch| watch.observer().time_wait(port))
    }

    fn drop_time_wait(&mut self, port: Port) -> Result<usize, ObserveError> {
        if self.is_own() {
            return self.agent.watch().observer().drop_time_wait(port);
        }
        Err(ObserveError::Unavailable {
            what: "dropping connections in TIME_WAIT".to_owned(),
            why: "the agent can do it in its own network namespace alone".to_owned(),
            mend: "use --agent never".to_owned(),
        })
    }

    fn other_ports(&mut self, port: Port, pids: &[u32]) -> HashMap<u32, Vec<u16>> {
        self.agent.watch().observer().other_ports(port, pids)
    }

    fn may_hide_bound(&mut self, port: Port) -> Result<bool, ObserveError> {
        self.agent.look(|watch| watch.observer().may_hide_bound(port))
    }

    fn nobody_has(&mut self, port: Port) -> bool {
        self.is_own() && self.agent.watch().observer().nobody_has(port)
    }
}

/// The observer's event behind a watch's event; `None` if there is none.
fn event(told: &WatchEvent) -> Option<Event> {
    let kind = match told.kind {
        WatchKind::Bind => EventKind::Bind,
        WatchKind::Listen => EventKind::Listen,
        WatchKind::Release => EventKind::Release,
        WatchKind::Conflict { .. } => EventKind::Conflict,
        WatchKind::Refused => EventKind::Refused,
        WatchKind::Held | WatchKind::Ready { .. } | WatchKind::Free | WatchKind::Lost { .. } => return None,
    };
    let monotonic_ns = told.monotonic_ns?;
    Some(Event {
        kind,
        protocol: told.port.protocol,
        address: told.address?,
        monotonic_ns,
        at: clock::at(monotonic_ns)?,
        time: told.time,
        delay: told.delay,
        pid: told.pid,
        uid: told.uid,
        comm: told.comm.clone().unwrap_or_default(),
        by_kernel_thread: false,
        cookie: told.cookie,
        netns: told.netns,
    })
}
