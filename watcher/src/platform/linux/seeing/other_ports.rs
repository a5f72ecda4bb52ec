//! The other ports that an owner listens on. Its own descriptors tell, by the iterator. Otherwise the kernel lists all listeners of
//! the namespace in one answer, and the owner's descriptors tell which are its.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;

use super::netns::Netns;
use super::{diag, proc_net};
use crate::model::{Port, Socket};
use crate::platform::contract::MOST_OTHER_PORTS;
use crate::platform::linux::processes::proc;

/// Of so many owners the other ports are told.
const MOST_OWNERS: usize = 16;
/// So many descriptors are read for that, of all together.
const MOST_DESCRIPTORS: usize = 20_000;

/// As [`Observer::other_ports`](crate::platform::contract::Observer::other_ports). `told` gives all ports that a process serves in
/// its network namespace, of so many descriptors at most as are left, and takes them off; `None` if it can't.
pub(super) fn of(
    home: &Netns,
    port: Port,
    pids: &[u32],
    mut told: impl FnMut(u32, u32, &mut usize) -> Option<BTreeSet<u16>>,
) -> HashMap<u32, Vec<u16>> {
    // Those of a namespace whose listeners can't be read stay unknown.
    let mut namespaces: HashMap<u32, Option<Listeners>> = HashMap::new();
    let mut found = HashMap::new();
    // Whoever makes many processes with many descriptors each must not make a look at them long.
    let mut left = MOST_DESCRIPTORS;
    for &pid in pids.iter().take(MOST_OWNERS) {
        let Some(netns) = proc::network_namespace(pid) else { continue };
        let ports = told(pid, netns, &mut left).or_else(|| {
            let listeners = namespaces.entry(netns).or_insert_with(|| {
                let protocol = port.protocol;
                let listed = if netns == home.inode() {
                    diag::listeners(home, protocol).or_else(|_| proc_net::listeners(home, protocol))
                } else {
                    proc_net::listeners_of(pid, protocol)
                };
                Some(Listeners::new(&listed.ok()?))
            });
            listeners.as_ref()?.among(|| proc::socket_inodes(pid, &mut left)).ok()
        });
        if let Some(mut ports) = ports {
            ports.remove(&port.number);
            found.insert(pid, ports.into_iter().take(MOST_OTHER_PORTS).collect());
        }
    }
    found
}

/// The ports of a namespace's listeners, by inode.
struct Listeners(HashMap<u64, u16>);

impl Listeners {
    fn new(sockets: &[Socket]) -> Self {
        let serving = sockets.iter().filter(|socket| socket.serves());
        Self(serving.filter_map(|socket| Some((socket.inode?, socket.address.port()))).collect())
    }

    fn among(&self, inodes: impl FnOnce() -> io::Result<HashSet<u64>>) -> io::Result<BTreeSet<u16>> {
        if self.0.is_empty() {
            return Ok(BTreeSet::new());
        }
        let inodes = inodes()?;
        Ok(self.0.iter().filter(|(inode, _)| inodes.contains(inode)).map(|(_, port)| *port).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn the_other_ports_of_a_process_are_found_in_order() {
        let listeners: Vec<TcpListener> = (0..4).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let mut ports: Vec<u16> =
            listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect();
        let asked = ports.remove(0);
        let own = std::process::id();
        let found = of(&Netns::current().unwrap(), Port::tcp(asked), &[own], |_, _, _| None);
        let found = &found[&own];
        assert!(found.is_sorted() && !found.contains(&asked), "{found:?}");
        // Other tests of this process listen as well.
        if found.len() < MOST_OTHER_PORTS {
            assert!(ports.iter().all(|port| found.contains(port)), "{found:?} {ports:?}");
        }
    }
}
