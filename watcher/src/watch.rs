//! Watch: what happens to ports, told as it happens.

use std::collections::{HashSet, VecDeque};
use std::task::{Context, Poll, ready};
use std::time::{Instant, SystemTime};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::observe::{
    Backend, Change, Event, EventKind, Observation, ObserveError, Observer, Socket, SocketState, Table,
};
use crate::report::{cookie, micros, timestamp};
use crate::system::System;

/// The events of `watch`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// It was held already.
    Held,
    /// The watch is armed: nothing later can be missed.
    Ready,
    /// A socket took the port.
    Bind,
    /// A socket began to listen.
    Listen,
    /// A bind failed.
    Conflict,
    /// A socket gave the port back.
    Release,
    /// The last one did.
    Free,
    /// Events were dropped; `held` lines follow.
    Lost,
}

/// One line of `watch`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Line {
    /// What happened.
    pub event: What,
    /// The port; the first one for `ready` and `lost`, which speak of all.
    pub port: u16,
    /// When, RFC 3339 in UTC.
    pub time: String,
    /// The same moment on the monotonic clock; null where no event stamped it.
    pub monotonic_ns: Option<u64>,
    /// Who: the owner, the process that tried, or the last holder.
    pub pid: Option<u32>,
    /// Its user.
    pub uid: Option<u32>,
    /// Its short name.
    pub comm: Option<String>,
    /// The address.
    pub address: Option<String>,
    /// The network namespace's inode number.
    pub netns: Option<u32>,
    /// The socket's cookie.
    pub socket: Option<String>,
    /// How it was observed.
    pub backend: Backend,
    /// From the kernel's timestamp until the program had the event, in microseconds.
    pub delay_us: Option<u64>,
    /// For a conflict: who holds the port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub holders: Option<Vec<HolderLine>>,
    /// For `lost`: how many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// For `ready`: what is shorter than this, in microseconds, can be missed. Only where ports are polled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resolution_us: Option<u64>,
}

impl Line {
    /// A line of this moment that says no more than this.
    #[must_use]
    pub fn blank(event: What, port: u16, backend: Backend) -> Self {
        Self {
            event,
            port,
            time: timestamp(SystemTime::now(), 6),
            monotonic_ns: None,
            pid: None,
            uid: None,
            comm: None,
            address: None,
            netns: None,
            socket: None,
            backend,
            delay_us: None,
            holders: None,
            count: None,
            resolution_us: None,
        }
    }
}

/// A holder in the line of a conflict.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct HolderLine {
    /// The pid; null for one that can't be seen.
    pub pid: Option<u32>,
    /// Its short name.
    pub comm: Option<String>,
    /// The address that it holds.
    pub address: String,
}

/// Ports under watch.
pub struct Watch<S> {
    system: S,
    observer: Box<dyn Observer>,
    ports: Vec<u16>,
    table: Table,
    ready: VecDeque<Line>,
}

impl<S: System> Watch<S> {
    /// Begins: the observer is attached, so a snapshot now leaves no gap. The first lines are those that hold a port,
    /// then `ready`.
    ///
    /// # Errors
    /// When the sockets can't be read.
    pub fn begin(system: S, observer: Box<dyn Observer>, ports: &[u16]) -> Result<Self, ObserveError> {
        let mut watch =
            Self { system, observer, ports: ports.to_vec(), table: Table::default(), ready: VecDeque::new() };
        watch.load()?;
        let line = watch.blank(What::Ready, watch.first_port());
        watch.ready.push_back(line);
        Ok(watch)
    }

    /// The next line; waits for it.
    ///
    /// # Errors
    /// When no more events will come.
    pub async fn next(&mut self) -> Result<Line, ObserveError> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    /// As [`Self::next`], for who waits for other things as well.
    ///
    /// # Errors
    /// As there.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Line, ObserveError>> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Poll::Ready(Ok(line));
            }
            let observation = ready!(self.observer.poll_next(cx))?;
            self.observed(observation)?;
        }
    }

    fn observed(&mut self, observation: Observation) -> Result<(), ObserveError> {
        match observation {
            Observation::Event(event) => self.take_in(&event),
            Observation::Lost(count) => {
                let mut line = self.blank(What::Lost, self.first_port());
                line.count = Some(count);
                self.ready.push_back(line);
                self.load()?;
            }
        }
        Ok(())
    }

    /// Leaves out the lines of the beginning.
    #[must_use]
    pub fn without_beginning(mut self) -> Self {
        self.ready.clear();
        self
    }

    /// The observer behind it.
    pub fn observer(&mut self) -> &mut dyn Observer {
        self.observer.as_mut()
    }

    /// The sockets that own a port, from memory.
    pub fn sockets(&self, port: u16) -> impl Iterator<Item = &Socket> {
        self.table.on_port(port)
    }

    /// A `held` line for each owner of the ports, from memory, then `ready`.
    #[must_use]
    pub fn current(&self, ports: &[u16]) -> Vec<Line> {
        let held =
            ports.iter().flat_map(|&port| self.table.on_port(port)).flat_map(|socket| self.held(socket));
        held.chain([self.blank(What::Ready, ports.first().copied().unwrap_or_default())]).collect()
    }

    /// Looks afresh, and corrects what is remembered: holders that no event told of. Whatever an event does tell of
    /// becomes a line all the same, so the events up to the look are taken in before it counts.
    ///
    /// # Errors
    /// When the sockets can't be read.
    pub fn refresh(&mut self, cx: &mut Context<'_>) -> Result<(), ObserveError> {
        for port in self.ports.clone() {
            let since = Instant::now();
            let snapshot = self.observer.snapshot(port)?;
            let mut released = HashSet::new();
            while let Poll::Ready(observation) = self.observer.poll_next(cx) {
                let observation = observation?;
                if let Observation::Event(event) = &observation
                    && event.kind == EventKind::Release
                {
                    released.extend(event.cookie);
                }
                self.observed(observation)?;
            }
            self.table.correct(port, snapshot, since, &released);
        }
        Ok(())
    }

    /// Watches these ports instead.
    ///
    /// # Errors
    /// When they can't be watched, or read.
    pub fn set_ports(&mut self, ports: &[u16], cx: &mut Context<'_>) -> Result<(), ObserveError> {
        self.observer.set_ports(ports)?;
        ports.clone_into(&mut self.ports);
        self.table.keep(ports);
        self.refresh(cx)
    }

    fn first_port(&self) -> u16 {
        self.ports.first().copied().unwrap_or_default()
    }

    fn load(&mut self) -> Result<(), ObserveError> {
        for port in self.ports.clone() {
            let since = Instant::now();
            let sockets = self.observer.snapshot(port)?;
            self.table.load(port, sockets, since);
            let lines: Vec<Line> = self.table.on_port(port).flat_map(|socket| self.held(socket)).collect();
            self.ready.extend(lines);
        }
        Ok(())
    }

    /// A line for each process that holds the socket; one without a name when none can be seen.
    fn held(&self, socket: &Socket) -> Vec<Line> {
        let mut pids: Vec<(u32, u32)> =
            socket.holders.iter().map(|holder| (holder.pid, holder.tid)).collect();
        pids.sort_unstable();
        pids.dedup_by_key(|(pid, _)| *pid);
        let base = Line {
            uid: socket.uid,
            address: Some(socket.address.to_string()),
            netns: socket.netns,
            socket: socket.cookie.map(cookie),
            ..self.blank(What::Held, socket.address.port())
        };
        if pids.is_empty() {
            return vec![base];
        }
        let named = |(pid, tid): (u32, u32)| {
            let process = self.system.process(pid, tid).ok();
            let uid = process.as_ref().and_then(|process| process.uid).or(socket.uid);
            Line { pid: Some(pid), uid, comm: process.map(|process| process.comm), ..base.clone() }
        };
        pids.into_iter().map(named).collect()
    }

    fn take_in(&mut self, event: &Event) {
        // A descriptor can be closed late, by a kernel thread that has nothing to do with it. Who held the socket is
        // known before the event takes it out of the table; to look costs more than all the rest.
        let by_kernel = event.kind == EventKind::Release && is_kernel_thread(&event.comm);
        let owner = if by_kernel { self.owner_of(event) } else { None };
        let change = self.table.apply(event);
        if change == Change::Known || event.kind == EventKind::Unlisten {
            return;
        }
        let port = event.address.port();
        let what = match event.kind {
            EventKind::Bind => What::Bind,
            EventKind::Listen => What::Listen,
            EventKind::Conflict => What::Conflict,
            EventKind::Release | EventKind::Unlisten => What::Release,
        };
        let mut line = Line {
            time: timestamp(event.time, 6),
            monotonic_ns: Some(event.monotonic_ns),
            pid: event.pid,
            uid: event.uid,
            comm: Some(event.comm.clone()).filter(|comm| !comm.is_empty()),
            address: Some(event.address.to_string()),
            netns: event.netns,
            socket: event.cookie.map(cookie),
            delay_us: event.delay.map(micros),
            ..self.blank(what, port)
        };
        if let Some((pid, comm)) = owner {
            (line.pid, line.comm) = (Some(pid), comm);
        }
        if what == What::Conflict {
            line.holders = Some(self.holders(port));
        }
        let free = Line { event: What::Free, socket: None, address: None, ..line.clone() };
        self.ready.push_back(line);
        if change == Change::NewsAndFree {
            self.ready.push_back(free);
        }
    }

    fn owner_of(&self, event: &Event) -> Option<(u32, Option<String>)> {
        let socket = self.table.sockets().find(|socket| {
            socket.address == event.address && (event.cookie.is_none() || socket.cookie == event.cookie)
        })?;
        let holder = socket.holders.first()?;
        Some((holder.pid, self.system.process(holder.pid, holder.tid).ok().map(|process| process.comm)))
    }

    fn holders(&self, port: u16) -> Vec<HolderLine> {
        let sockets = self.table.on_port(port).filter(|socket| socket.state != SocketState::Connected);
        let lines = sockets.flat_map(|socket| self.held(socket));
        lines
            .map(|line| HolderLine {
                pid: line.pid,
                comm: line.comm,
                address: line.address.unwrap_or_default(),
            })
            .collect()
    }

    fn blank(&self, event: What, port: u16) -> Line {
        let resolution_us = (event == What::Ready).then(|| self.observer.resolution().map(micros)).flatten();
        Line { resolution_us, ..Line::blank(event, port, self.observer.backend()) }
    }
}

/// The kernel's own threads that close what others left behind.
fn is_kernel_thread(comm: &str) -> bool {
    comm.starts_with("kworker/") || comm.starts_with("ksoftirqd/")
}
