//! A server that gets its sockets as a service manager gives them, and answers who connects.

use std::io::{ErrorKind, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, FromRawFd, RawFd};
use std::process::exit;
use std::sync::Mutex;

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Socket, Type};

use crate::Ending;

/// How it gets its sockets, and what it does with them.
#[derive(clap::Args)]
pub(super) struct Activated {
    /// Take the sockets that a service manager gives (sd_listen_fds(3)), and open none
    #[arg(long = "activated")]
    is_activated: bool,
    /// Answer each connection, and each datagram, with a byte; asked to end, finish the one that was begun
    #[arg(long)]
    pub(super) answers: bool,
}

/// The sockets that were given to this very process.
pub(crate) fn given(own: &super::Own) -> Option<Vec<Socket>> {
    if !own.activated.is_activated {
        return None;
    }
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
    assert_eq!(number("LISTEN_PID"), Some(std::process::id()), "the sockets are another process's");
    let count = number("LISTEN_FDS").unwrap();
    let take = |fd: RawFd| {
        // SAFETY: it was given to this process, and nothing else here has it.
        unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
        // SAFETY: as above.
        unsafe { Socket::from_raw_fd(fd) }
    };
    Some((3..3 + RawFd::try_from(count).unwrap()).map(take).collect())
}

/// One answer at a time, so that none is begun once it ends.
static TURN: Mutex<()> = Mutex::new(());

/// Answers until it is asked to end.
pub(super) fn answer(ending: &Ending, sockets: &[Socket]) -> ! {
    let sockets: Vec<Socket> = sockets.iter().map(|socket| socket.try_clone().unwrap()).collect();
    for socket in &sockets {
        socket.set_nonblocking(true).unwrap();
    }
    std::thread::spawn(move || {
        loop {
            let mut polled: Vec<PollFd> =
                sockets.iter().map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN)).collect();
            poll(&mut polled, PollTimeout::NONE).unwrap();
            let _turn = TURN.lock().unwrap();
            sockets.iter().for_each(answer_one);
        }
    });
    ending.wait();
    let _turn = TURN.lock().unwrap();
    exit(0);
}

fn answer_one(socket: &Socket) {
    if socket.r#type().unwrap() == Type::DGRAM {
        if let Ok((_, from)) = socket.recv_from(&mut [MaybeUninit::uninit(); 16]) {
            socket.send_to(b"x", &from).unwrap();
        }
        return;
    }
    match socket.accept() {
        // A client that has gone by then is no reason to end.
        Ok((mut connection, _)) => drop(connection.write_all(b"x")),
        // Another worker was faster.
        Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
    }
}
