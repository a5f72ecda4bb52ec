//! More events than anybody can read.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{JoinHandle, spawn};

use socket2::{Domain, Socket, Type};

/// Threads that bind a port and give it back, again and again, until this is dropped.
pub struct Flood {
    is_over: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<()>>,
}

impl Flood {
    /// Of this port, on addresses of the loopback interface, each time to listen there.
    pub fn of(port: u16) -> Self {
        Self::by(port, |address| drop(TcpListener::bind(address)))
    }

    /// As [`Self::of`], but nobody listens.
    pub fn without_listening(port: u16) -> Self {
        Self::by(port, |address| {
            if let Ok(socket) = Socket::new(Domain::IPV4, Type::STREAM, None)
                && socket.set_reuse_address(true).is_ok()
            {
                let _ = socket.bind(&address.into());
            }
        })
    }

    fn by(port: u16, bind: impl Fn(SocketAddr) + Copy + Send + 'static) -> Self {
        let (is_over, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let begin = |last| {
            let (is_over, count) = (Arc::clone(&is_over), Arc::clone(&count));
            spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    bind((Ipv4Addr::new(127, 0, 0, last), port).into());
                    count.fetch_add(1, Ordering::Relaxed);
                }
            })
        };
        let threads = (5..=8).map(begin).collect();
        Self { is_over, count, threads }
    }

    /// How many binds there were.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
