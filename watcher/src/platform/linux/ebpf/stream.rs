//! The ring buffer: kernel records become events.

use std::io;
use std::net::IpAddr;
use std::task::{Context, Poll, ready};
use std::time::SystemTime;

use aya::maps::{Array, Map, MapData, RingBuf};
use tokio::io::unix::AsyncFd;
use watcher_common::{AF_INET6, Record, kind};

use crate::clock;
use crate::observe::{Event, EventKind, Observation, socket_address};

/// The events of the kernel program.
pub(super) struct Stream {
    ring: AsyncFd<RingBuf<MapData>>,
    lost: Array<MapData, u64>,
    lost_before: u64,
}

impl Stream {
    pub(super) fn new(events: MapData, lost: MapData) -> io::Result<Self> {
        let ring = RingBuf::try_from(Map::RingBuf(events)).map_err(io::Error::other)?;
        let lost = Array::try_from(Map::Array(lost)).map_err(io::Error::other)?;
        // SAFETY: the ring owns its descriptor, and always gives the same one.
        let ring = unsafe { AsyncFd::register(ring) }?;
        Ok(Self { ring, lost, lost_before: 0 })
    }

    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Observation>> {
        loop {
            while let Some(record) = self.ring.get_mut().next() {
                if let Some(event) = watcher_common::Event::read(&record).and_then(|event| decode(&event)) {
                    return Poll::Ready(Ok(Observation::Event(event)));
                }
            }
            // The ring tells nobody when it is full, so the count is looked at whenever it has been emptied.
            let lost = self.lost.get(&0, 0).map_err(io::Error::other)?;
            if lost != self.lost_before {
                let news = lost - self.lost_before;
                self.lost_before = lost;
                return Poll::Ready(Ok(Observation::Lost(news)));
            }
            ready!(self.ring.poll_read_ready(cx))?.clear_ready();
        }
    }
}

/// A record as an event; `None` for a kind that this side does not know.
pub(super) fn decode(record: &watcher_common::Event) -> Option<Event> {
    let kind = match record.kind {
        kind::BIND => EventKind::Bind,
        kind::LISTEN => EventKind::Listen,
        kind::UNLISTEN => EventKind::Unlisten,
        kind::RELEASE => EventKind::Release,
        kind::CONFLICT => EventKind::Conflict,
        _ => return None,
    };
    let at = clock::at(record.time_ns)?;
    let delay = at.elapsed();
    let some = |number: u32| Some(number).filter(|&number| number != 0);
    Some(Event {
        kind,
        address: socket_address(ip(record.family, record.address), record.port, record.interface),
        monotonic_ns: record.time_ns,
        at,
        time: SystemTime::now().checked_sub(delay)?,
        delay: Some(delay),
        pid: some(record.pid),
        uid: Some(record.uid),
        comm: text(&record.comm),
        cookie: Some(record.cookie).filter(|&cookie| cookie != 0),
        netns: some(record.netns),
    })
}

/// The address in a record.
pub(super) fn ip(family: u16, bytes: [u8; 16]) -> IpAddr {
    if family == AF_INET6 {
        IpAddr::from(bytes)
    } else {
        IpAddr::from([bytes[0], bytes[1], bytes[2], bytes[3]])
    }
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_decode_to_an_event_or_to_nothing(bytes in proptest::collection::vec(any::<u8>(), 0..128)) {
            let event = watcher_common::Event::read(&bytes);
            prop_assert_eq!(event.is_some(), bytes.len() >= size_of::<watcher_common::Event>());
            if let Some(event) = event.and_then(|event| decode(&event).map(|decoded| (event, decoded))) {
                let (record, decoded) = event;
                prop_assert_eq!(decoded.address.port(), record.port);
                prop_assert_eq!(decoded.monotonic_ns, record.time_ns);
                prop_assert!(decoded.comm.chars().count() <= 16);
            }
        }
    }
}
