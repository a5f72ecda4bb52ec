//! The ring buffer: turns the kernel program's records into events.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::sync::LazyLock;
use std::task::{Context, Poll, ready};
use std::time::SystemTime;

use aya::maps::{Array, Map, MapData, RingBuf};
use nix::time::ClockId;
use tokio::io::unix::AsyncFd;
use watcher_common::{AF_INET6, EventKind as Kind, LOST_COUNTS, Record};

use super::address::socket_address;
use crate::model::{Event, EventKind, LostIn, Observation};
use crate::platform::clock;
use crate::platform::linux::protocol;
use crate::platform::unix;

/// The events of the kernel program.
pub(super) struct Stream {
    ring: AsyncFd<RingBuf<MapData>>,
    lost: Array<MapData, u64>,
    /// How many were lost when it was last read, here and elsewhere: lines of a watch, and others.
    lost_before: Losses,
    /// The same when it was last asked whether there are more.
    lost_when_asked: Losses,
    /// How many records were read since the counters were.
    records: u32,
}

/// So many records are read at most until it is asked whether some were lost: where others make events without end, the ring
/// is never empty.
const RECORDS: u32 = 4096;

/// The kernel program's counters: of lines and of others, here and elsewhere.
type Losses = [[u64; 2]; 2];

const _: () = assert!(LOST_COUNTS == 4);

impl Stream {
    pub(super) fn new(events: MapData, lost: MapData) -> io::Result<Self> {
        let ring = RingBuf::try_from(Map::RingBuf(events)).map_err(io::Error::other)?;
        let lost = Array::try_from(Map::Array(lost)).map_err(io::Error::other)?;
        // SAFETY: the ring owns its descriptor, and always returns the same one.
        let ring = unsafe { AsyncFd::register(ring) }?;
        Ok(Self {
            ring,
            lost,
            lost_before: Losses::default(),
            lost_when_asked: Losses::default(),
            records: 0,
        })
    }

    /// Whether more was lost since this was last asked, also while the ring never is empty.
    pub(super) fn has_lost(&mut self) -> io::Result<bool> {
        let losses = self.losses()?;
        Ok(std::mem::replace(&mut self.lost_when_asked, losses) != losses)
    }

    fn losses(&self) -> io::Result<Losses> {
        let count = |at| self.lost.get(&at, 0).map_err(io::Error::other);
        Ok([[count(0)?, count(1)?], [count(2)?, count(3)?]])
    }

    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Observation>> {
        loop {
            while self.records < RECORDS
                && let Some(record) = self.ring.get_mut().next()
            {
                self.records += 1;
                if let Some(event) = watcher_common::Event::read(&record).and_then(|event| decode(&event)) {
                    return Poll::Ready(Ok(Observation::Event(event)));
                }
            }
            // The ring does not report that it was full.
            let is_empty = std::mem::take(&mut self.records) < RECORDS;
            let lost = self.losses()?;
            // It is told now, and whoever is told looks.
            self.lost_when_asked = lost;
            let before = self.lost_before.iter_mut().zip(lost).zip([LostIn::Home, LostIn::Elsewhere]);
            for ((before, lost), lost_in) in before {
                if *before != lost {
                    let lines = lost[0] - before[0];
                    *before = lost;
                    return Poll::Ready(Ok(Observation::Lost(Some(lines), lost_in)));
                }
            }
            if is_empty {
                ready!(self.ring.poll_read_ready(cx))?.clear_ready();
            }
        }
    }
}

/// From the kernel's monotonic clock, which its programs read, to the one of this process's time namespace
/// (time_namespaces(7)); 0 outside of any.
static CLOCK_OFFSET: LazyLock<i64> =
    LazyLock::new(|| fs::read_to_string("/proc/self/timens_offsets").map_or(0, |text| clock_offset(&text)));

/// The kernel's monotonic clock at this moment, in nanoseconds, whatever time namespace this process is in.
pub(super) fn kernel_now() -> u64 {
    unix::clock_now(ClockId::CLOCK_MONOTONIC).saturating_add_signed(-*CLOCK_OFFSET)
}

/// `monotonic SECONDS NANOSECONDS`, one clock a line.
pub(super) fn clock_offset(text: &str) -> i64 {
    let offset = text.lines().find_map(|line| {
        let mut words = line.strip_prefix("monotonic")?.split_whitespace();
        let (seconds, rest): (i64, i64) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        seconds.checked_mul(1_000_000_000)?.checked_add(rest)
    });
    offset.unwrap_or(0)
}

/// Converts a record to an event; `None` if its kind or its protocol is unknown.
pub(super) fn decode(record: &watcher_common::Event) -> Option<Event> {
    let kind = match Kind::from_number(record.kind)? {
        Kind::Bind => EventKind::Bind,
        Kind::Listen => EventKind::Listen,
        Kind::Unlisten => EventKind::Unlisten,
        Kind::Release => EventKind::Release,
        Kind::Conflict => EventKind::Conflict,
        Kind::Refused => EventKind::Refused,
    };
    let time_ns = record.time_ns.saturating_add_signed(*CLOCK_OFFSET);
    let at = clock::at(time_ns)?;
    let delay = at.elapsed();
    let some = |number: u32| Some(number).filter(|&number| number != 0);
    let comm = text(&record.comm);
    Some(Event {
        kind,
        protocol: protocol::from_number(record.protocol.try_into().ok()?)?,
        address: socket_address(ip(record.family, record.address), record.port, record.interface),
        monotonic_ns: time_ns,
        at,
        time: SystemTime::now().checked_sub(delay)?,
        delay: Some(delay),
        pid: some(record.pid),
        uid: Some(record.uid),
        by_kernel_thread: is_kernel_thread(&comm),
        comm,
        cookie: Some(record.cookie).filter(|&cookie| cookie != 0),
        netns: some(record.netns),
    })
}

/// Whether the name is that of a kernel thread, which closes what other processes left behind.
fn is_kernel_thread(comm: &str) -> bool {
    comm.starts_with("kworker/") || comm.starts_with("ksoftirqd/")
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

    #[test]
    fn a_time_namespaces_offset_is_read() {
        assert_eq!(clock_offset("monotonic           -5         7\nboottime   1   0\n"), -4_999_999_993);
        assert_eq!(clock_offset(""), 0);
    }

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
