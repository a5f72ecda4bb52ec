//! The kernel's own table of which ports are taken: in it the kernel program finds the sockets of a port, and whether there are
//! any, without looking at others. A "none" spares the walk through all that are bound ([`super::bound`]), which takes
//! milliseconds.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, getsockname, setsockopt, socket, sockopt,
};

use super::holders::Holders;
use super::hooks::Part;
use super::netns::Netns;
use crate::platform::linux::prepare_bind;

/// Tries it: a socket of our own must be found there. Where the kernel keeps its sockets in another way than the program knows,
/// it is not.
///
/// # Errors
/// If it is not found, or can't be made.
pub(super) fn try_out(holders: &mut Holders, home: &Netns) -> io::Result<()> {
    if Part::Bucket.is_switched_off() {
        return Err(io::Error::other("switched off by GATEWATCH_WITHOUT"));
    }
    let own = home
        .run(|| -> io::Result<_> {
            let own = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
            // Nobody is told of it, and it works where the loopback interface is down.
            prepare_bind(&own);
            // So that it keeps no server from a port that the kernel chooses for it, as far as that is possible.
            setsockopt(&own, sockopt::ReuseAddr, &true)?;
            bind(own.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0))?;
            Ok(own)
        })
        .flatten()?;
    let port = getsockname::<SockaddrIn>(own.as_raw_fd())?.port();
    if holders.finds(own.as_fd(), port)? {
        Ok(())
    } else {
        Err(io::Error::other("it lacks a socket that is there"))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::os::fd::{AsRawFd, OwnedFd};
    use std::process::{Command, Stdio};
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Mutex, PoisonError};
    use std::thread;

    use nix::libc;
    use nix::sched::{CloneFlags, clone};
    use nix::sys::signal::{Signal, kill};
    use nix::sys::socket::{
        AddressFamily, SockFlag, SockType, SockaddrIn, SockaddrIn6, bind, connect, getsockname, socket,
    };
    use nix::sys::wait::waitpid;
    use nix::unistd::{Pid, pause};

    use crate::model::Port;
    use crate::platform::contract::{Interest, Observer as _};
    use crate::platform::linux::fd::own;
    use crate::platform::linux::seeing::holders::{Reach, Seen};
    use crate::platform::linux::seeing::{EbpfObserver, Netns, Scope, Wanted};

    /// Taken by each test to which the descriptors of this process matter: its children may have them as well.
    static ALONE: Mutex<()> = Mutex::new(());

    /// A socket that is bound there and does not listen, and its port.
    fn bound_to(address: SocketAddr) -> (OwnedFd, u16) {
        let open = |family| socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        match address {
            SocketAddr::V4(v4) => {
                let own = open(AddressFamily::Inet);
                bind(own.as_raw_fd(), &SockaddrIn::from(v4)).unwrap();
                let port = getsockname::<SockaddrIn>(own.as_raw_fd()).unwrap().port();
                (own, port)
            }
            SocketAddr::V6(v6) => {
                let own = open(AddressFamily::Inet6);
                bind(own.as_raw_fd(), &SockaddrIn6::from(v6)).unwrap();
                let port = getsockname::<SockaddrIn6>(own.as_raw_fd()).unwrap().port();
                (own, port)
            }
        }
    }

    #[test]
    fn a_port_is_nobodys_only_if_no_socket_in_whatever_state_has_it() {
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let port = Port::tcp(address.port());
        let scope = Scope::One(Netns::current().unwrap());
        // An ordinary user may not load programs.
        let wanted = Wanted::of_ports(&[port], Interest::Snapshots);
        let Ok(mut observer) = EbpfObserver::new(&[port], scope, wanted) else { return };
        // while it listens
        assert!(!observer.nobody_has(port));
        // while a connection of it is open, and while that lingers
        let client = TcpStream::connect(address).unwrap();
        let (server, _) = listener.accept().unwrap();
        drop(listener);
        assert!(!observer.nobody_has(port));
        drop((server, client));
        assert!(!observer.nobody_has(port));
        // while it is bound, by whatever family
        for any in ["127.0.0.1:0", "[::1]:0", "[::]:0"] {
            // What lingers of a connection of another process may have the number as well, on another address.
            let is_nobodys_then = (0..20).any(|_| {
                let (bound, number) = bound_to(any.parse().unwrap());
                let port = Port::tcp(number);
                assert!(!observer.nobody_has(port), "{any}");
                drop(bound);
                observer.nobody_has(port)
            });
            assert!(is_nobodys_then, "{any}");
        }
    }

    /// The descriptors by which processes have the port, as process, descriptor and inode; `None` if that can't be told.
    fn descriptors(observer: &mut EbpfObserver, reach: Reach) -> Option<Vec<(u32, u32, u64)>> {
        let mut found = Vec::new();
        let add = |record: &watcher_common::Descriptor| found.push((record.pid, record.fd, record.inode));
        let seen = observer.holders.as_mut()?.read(reach, add).unwrap();
        found.sort_unstable();
        let wanted = if reach == Reach::All { Seen::All } else { Seen::Told };
        (seen == wanted).then_some(found)
    }

    #[test]
    fn the_table_of_taken_ports_leads_to_every_descriptor_of_a_port() {
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let of_own = |listener: &TcpListener| listener.local_addr().unwrap().port();
        let on = |address: &str| TcpListener::bind(address).unwrap();
        // what listens, by two descriptors
        let (v4, dual) = (on("127.0.0.1:0"), on("[::]:0"));
        let second = v4.try_clone().unwrap();
        // what is bound without listening
        let (bound, bound_port) = bound_to("127.0.0.1:0".parse().unwrap());
        // a client that keeps its port to itself
        let (client, client_port) = bound_to("127.0.0.1:0".parse().unwrap());
        connect(client.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, of_own(&v4))).unwrap();
        let (served, _) = v4.accept().unwrap();
        // a listener on another address of the same port, and a connection to it that nobody has accepted
        let other = TcpListener::bind(("127.0.0.2", of_own(&v4))).unwrap();
        let waiting = TcpStream::connect(other.local_addr().unwrap()).unwrap();
        let port = Port::tcp(of_own(&v4));
        let scope = Scope::One(Netns::current().unwrap());
        // An ordinary user may not load programs.
        let wanted = Wanted::of_ports(&[port], Interest::Snapshots);
        let Ok(mut observer) = EbpfObserver::new(&[port], scope, wanted) else { return };
        assert!(observer.knows_buckets());
        for (number, count) in [(port.number, 3), (of_own(&dual), 1), (bound_port, 1), (client_port, 1)] {
            observer.ports.set(&[Port::tcp(number)]).unwrap();
            let all = descriptors(&mut observer, Reach::All).unwrap();
            assert_eq!(all.len(), count, "port {number}: {all:?}");
            for quick in [Reach::Makers(number), Reach::Files(number)] {
                assert_eq!(descriptors(&mut observer, quick).as_ref(), Some(&all), "{quick:?}");
            }
        }
        drop((second, bound, served, waiting));
        // a multipath listener: its port is another socket's, inside of it
        // SAFETY: socket(2) takes numbers and returns a new descriptor.
        let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_MPTCP) };
        let Ok(multipath) = own(fd.into()) else { return };
        bind(multipath.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0)).unwrap();
        let number = getsockname::<SockaddrIn>(multipath.as_raw_fd()).unwrap().port();
        observer.ports.set(&[Port::tcp(number)]).unwrap();
        let all = descriptors(&mut observer, Reach::All).unwrap();
        assert_eq!(all.len(), 1, "{all:?}");
        for quick in [Reach::Makers(number), Reach::Files(number)] {
            assert!(descriptors(&mut observer, quick).is_none_or(|quick| quick == all));
        }
    }

    /// An observer of the port that the listener has; `None` for an ordinary user, who may not load programs.
    fn observer_of(listener: &TcpListener) -> Option<(EbpfObserver, u16)> {
        let port = Port::tcp(listener.local_addr().unwrap().port());
        let scope = Scope::One(Netns::current().unwrap());
        let wanted = Wanted::of_ports(&[port], Interest::Snapshots);
        Some((EbpfObserver::new(&[port], scope, wanted).ok()?, port.number))
    }

    /// How many processes a look of each reach finds; `None` if it is in doubt.
    fn counts(observer: &mut EbpfObserver, port: u16) -> [Option<usize>; 3] {
        [Reach::Makers(port), Reach::Files(port), Reach::All].map(|reach| {
            let found = descriptors(observer, reach)?;
            Some(found.iter().map(|(pid, ..)| pid).collect::<HashSet<_>>().len())
        })
    }

    /// Tries until the counts are these. Other tests' children have the descriptors of this process as well, for a moment; and one
    /// in some dozens of processes is looked at by chance, because its credentials have the bit of the maker's.
    fn assert_counts(expected: [Option<usize>; 3], mut attempt: impl FnMut() -> [Option<usize>; 3]) {
        let mut counted = attempt();
        for _ in 0..50 {
            if counted == expected {
                return;
            }
            counted = attempt();
        }
        assert_eq!(counted, expected);
    }

    #[test]
    fn whoever_got_a_socket_from_its_maker_is_found_or_the_look_is_in_doubt() {
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let Some((mut observer, port)) = observer_of(&listener) else { return };
        let end = |pid| kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        let inherited = || Stdio::from(OwnedFd::from(listener.try_clone().unwrap()));
        assert_counts([Some(1); 3], || counts(&mut observer, port));
        // its child is looked at as well
        assert_counts([Some(2); 3], || {
            let mut child = Command::new("sleep").arg("60").stdin(inherited()).spawn().unwrap();
            let counted = counts(&mut observer, port);
            child.kill().unwrap();
            child.wait().unwrap();
            counted
        });
        // not so the child's child, once that has no such parent
        assert_counts([None, Some(2), Some(2)], || {
            let script = "exec 3<&0; sleep 60 <&3 >/dev/null 2>&1 & echo $!";
            let shell = Command::new("sh").args(["-c", script]).stdin(inherited()).output().unwrap();
            let counted = counts(&mut observer, port);
            end(String::from_utf8(shell.stdout).unwrap().trim().parse().unwrap());
            counted
        });
    }

    #[test]
    fn a_process_that_shares_the_makers_table_is_never_left_out() {
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let Some((mut observer, port)) = observer_of(&listener) else { return };
        assert_counts([None, Some(2), Some(2)], || {
            let mut stack = vec![0; 64 << 10];
            let waits = Box::new(|| {
                loop {
                    pause();
                }
            });
            let flags = CloneFlags::CLONE_FILES;
            // SAFETY: the child has memory of its own, and does nothing but wait for a signal.
            let sharer = unsafe { clone(waits, &mut stack, flags, Some(Signal::SIGCHLD as i32)) }.unwrap();
            let is_over = AtomicBool::new(false);
            let counted = thread::scope(|scope| {
                // while this process's threads come and go, which share the table as well
                scope.spawn(|| {
                    while !is_over.load(Ordering::Relaxed) {
                        thread::spawn(|| ()).join().unwrap();
                    }
                });
                let counted: Vec<_> = (0..20).map(|_| counts(&mut observer, port)).collect();
                is_over.store(true, Ordering::Relaxed);
                counted
            });
            assert!(counted.iter().all(|[makers, ..]| makers.is_none()), "{counted:?}");
            let counted = counts(&mut observer, port);
            kill(sharer, Signal::SIGKILL).unwrap();
            waitpid(sharer, None).unwrap();
            counted
        });
    }
}
