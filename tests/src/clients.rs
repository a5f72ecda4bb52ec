//! Clients that connect all the time, and count what becomes of it.

use std::io::{ErrorKind, Read};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;

use crate::{patience, until};

/// What became of the connections of clients that never rest.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Those that were answered.
    pub answered: u32,
    /// Those that nobody listened for.
    pub refused: u32,
    /// Those that were reset, or closed without an answer.
    pub reset: u32,
}

/// Clients that connect and wait for a byte, one connection after the other.
pub struct Clients {
    clients: Vec<JoinHandle<Counts>>,
    is_over: Arc<AtomicBool>,
    answered: Arc<AtomicU32>,
}

impl Clients {
    /// Four of them, from here on.
    pub fn of(port: u16) -> Self {
        let (is_over, answered) = <(Arc<AtomicBool>, Arc<AtomicU32>)>::default();
        let client = || {
            let (is_over, answered) = (Arc::clone(&is_over), Arc::clone(&answered));
            std::thread::spawn(move || {
                let mut counts = Counts::default();
                while !is_over.load(Ordering::Relaxed) {
                    match ask(port) {
                        Ok(true) => {
                            counts.answered += 1;
                            answered.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(error) if error.kind() == ErrorKind::ConnectionRefused => counts.refused += 1,
                        Ok(false) | Err(_) => counts.reset += 1,
                    }
                }
                counts
            })
        };
        Self { clients: (0..4).map(|_| client()).collect(), is_over: Arc::clone(&is_over), answered }
    }

    /// Waits until so many more connections were answered.
    ///
    /// # Panics
    /// When they are not.
    pub fn until_answered(&self, more: u32) {
        let before = self.answered.load(Ordering::Relaxed);
        until("connections are answered", || self.answered.load(Ordering::Relaxed) >= before + more);
    }

    /// What became of all.
    ///
    /// # Panics
    /// When a client has.
    pub fn end(self) -> Counts {
        self.is_over.store(true, Ordering::Relaxed);
        let all = self.clients.into_iter().map(|client| client.join().unwrap());
        all.fold(Counts::default(), |sum, one| Counts {
            answered: sum.answered + one.answered,
            refused: sum.refused + one.refused,
            reset: sum.reset + one.reset,
        })
    }
}

/// Whether a connection is answered by something.
///
/// # Errors
/// If it is refused, or reset.
pub fn ask(port: u16) -> std::io::Result<bool> {
    let mut connection = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    connection.set_read_timeout(Some(patience()))?;
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer)?;
    Ok(!answer.is_empty())
}
