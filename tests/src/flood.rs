//! More events than anybody can read.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, spawn};

/// Threads that bind a port and give it back, again and again, until this is dropped.
pub struct Flood {
    is_over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Flood {
    /// Of this port, on addresses of the loopback interface.
    pub fn of(port: u16) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let begin = |last| {
            let is_over = Arc::clone(&is_over);
            spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    let _ = TcpListener::bind((Ipv4Addr::new(127, 0, 0, last), port));
                }
            })
        };
        let threads = (1..=4).map(begin).collect();
        Self { is_over, threads }
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
