//! Looks at who has a port at a moment: the kernel's table of listeners, joined with the descriptors that lead to them.

use std::collections::HashSet;

use super::diag::{self, States};
use super::holders::{self, Found, Reach, Seen};
use super::hooks::{self, Part};
use super::{EbpfObserver, LinuxTable, bucket, unheld};
use crate::model::{Port, Protocol, Socket, SocketState};
use crate::platform::contract::{ObserveError, in_namespace};
use crate::platform::poll::{SocketTable as _, failed};

impl EbpfObserver {
    /// Whether the kernel's table of taken ports can be asked.
    pub(super) fn knows_buckets(&mut self) -> bool {
        let Some(holders) = &mut self.holders else { return false };
        *self.knows_buckets.get_or_insert_with(|| {
            let tried = bucket::try_out(holders, self.scope.home());
            if let (Ok(()), Some(kept)) = (&tried, &mut self.kept) {
                kept.note_tried();
            }
            tried.inspect_err(|error| tracing::debug!(%error, "no quick look for a port's sockets")).is_ok()
        })
    }

    /// The port that is looked for, if the kernel's table of taken ports can tell whose descriptors to look at: one TCP port of
    /// the home network namespace.
    fn quickly(&mut self, ports: &[Port], netns: Option<u32>) -> Option<u16> {
        let &[Port { protocol: Protocol::Tcp, number }] = ports else { return None };
        let is_home = netns.or(self.scope.only()) == Some(self.scope.home().inode());
        let is_off =
            Part::Bucket.is_switched_off() || self.knows_buckets == Some(false) || !hooks::has_loops();
        (is_home && !is_off).then_some(number)
    }

    /// As [`Observer::look_in`]; without a network namespace, at all that are seen.
    pub(super) fn look_at(
        &mut self,
        ports: &[Port],
        netns: Option<u32>,
    ) -> Result<Vec<Socket>, ObserveError> {
        let quick = self.quickly(ports, netns);
        let is_tried = self.knows_buckets == Some(true);
        let Some(holders) = &mut self.holders else {
            // Without the iterator only the own network namespace is seen, and none of its sockets is another one's.
            let sockets = LinuxTable(self.scope.home().clone()).snapshot(ports)?;
            return Ok(match netns {
                Some(netns) => in_namespace(sockets, netns),
                None => sockets,
            });
        };
        let home = self.scope.home();
        let here = netns.unwrap_or(home.inode());
        let only = netns.or(self.scope.only());
        let asked: HashSet<Port> = ports.iter().copied().collect();
        let wanted = |descriptor: &watcher_common::Descriptor| {
            asked.contains(&holders::port(descriptor)) && only.is_none_or(|netns| netns == descriptor.netns)
        };
        let mut visit = |listed: &[Socket], reach: Reach| -> Result<Option<Vec<Socket>>, ObserveError> {
            let mut found = Found::new(here);
            let add = |descriptor: &watcher_common::Descriptor| {
                if wanted(descriptor) {
                    found.add(descriptor);
                }
            };
            let seen = holders.read(reach, add).map_err(|error| failed(ports, error.to_string()))?;
            let (mut sockets, left_out) = found.join(listed);
            let is_held = |socket: &Socket| !socket.descriptors.is_empty() || socket.is_left_out();
            let is_whole = match seen {
                Seen::All => true,
                // That a listener's holder was found shows that this kernel keeps its sockets as the program thinks.
                Seen::Told => sockets.iter().all(is_held),
                Seen::InDoubt => false,
            };
            if !is_whole {
                return Ok(None);
            }
            // The iterator visits every process of our pid namespace.
            unheld::explain(&mut sockets);
            sockets.extend(left_out);
            Ok(Some(sockets))
        };
        let mut read = |listed: &[Socket]| -> Result<Vec<Socket>, ObserveError> {
            // What the quick way leaves in doubt, the other one tells. Where nothing listens, only a bind would show that it can
            // be believed, and that of a mere look could be in a server's way.
            let is_worth_it = !listed.is_empty() || is_tried;
            if let Some(port) = quick.filter(|_| is_worth_it) {
                for reach in [Reach::Makers(port), Reach::Files(port)] {
                    if let Some(sockets) = visit(listed, reach)? {
                        return Ok(sockets);
                    }
                }
            }
            Ok(visit(listed, Reach::All)?.unwrap_or_default())
        };
        if here != home.inode() {
            return read(&[]);
        }
        // The table comes first, and its moment is the look's: what begins to listen while the descriptors are read is
        // found by them alone, and is known to be newer.
        let listed = match LinuxTable(home.clone()).owners(ports, false) {
            Ok(listed) => listed,
            Err(error) => {
                tracing::debug!(%error, "only sockets that some process holds are seen");
                return read(&[]);
            }
        };
        let mut sockets = read(&listed)?;
        let bound: Vec<Socket> =
            sockets.iter().filter(|socket| is_bound_without_serving(socket)).cloned().collect();
        if !bound.is_empty() {
            // Sockets that do not listen are in another table, which takes milliseconds to read. So it is read only if
            // there are some, and then the look begins again with it. Before Linux 6.8 they are not in it.
            let listed = diag::sockets(home, ports, States::OWNING).unwrap_or_default();
            let table = holders::Listed::new(&listed);
            if bound.iter().any(|socket| table.find(socket).is_some()) {
                sockets = read(&listed)?;
                let states = [SocketState::Listen, SocketState::Bound];
                holders::mark_newer(&mut sockets, &listed, home.inode(), &states);
                return Ok(sockets);
            }
        }
        holders::mark_newer(&mut sockets, &listed, home.inode(), &[SocketState::Listen]);
        Ok(sockets)
    }
}

/// Whether it is in the kernel's table of sockets that are bound and do not listen.
fn is_bound_without_serving(socket: &Socket) -> bool {
    socket.state == SocketState::Bound && !socket.serves() && !socket.is_left_out()
}
