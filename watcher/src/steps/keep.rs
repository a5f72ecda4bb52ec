//! Keep: the listening sockets of those that are about to be ended stay open here, so that the port never stops listening.
//! What comes meanwhile waits in their queues.
//!
//! They are taken once it is decided who is ended, and before anybody is signalled. Afterwards it is followed who uses them:
//! a process that merely inherited them serves nobody.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::owner::Owner;
use crate::model::{Port, Protocol, Socket, SocketId};
use crate::platform::contract::{KeepError, KeptSocket, System, Use};

/// The sockets that are kept, shared by those who take them and those who hand them on.
#[derive(Debug, Clone, Default)]
pub(crate) struct Keeper(Arc<Mutex<Keeping>>);

#[derive(Debug, Default)]
struct Keeping {
    kept: Vec<Kept>,
    failure: Option<KeepError>,
    /// Why they were not taken over, and closed.
    fallback: Option<String>,
    /// Whether the old owners are gone, so that many may wait.
    is_wide: bool,
    /// Whether it is counted who waits.
    is_open: bool,
    /// Whether systemd keeps them for the new owner as well.
    is_stored: bool,
    taken_over: bool,
}

/// A socket that is kept, or was.
#[derive(Debug)]
struct Kept {
    socket: Socket,
    at: Instant,
    /// `None` once it is closed here.
    handle: Option<Box<dyn KeptSocket>>,
    /// How many waited when last looked, and at most.
    waiting: u32,
    most: u32,
    /// Whether somebody has accepted since the old owner's end.
    accepts: bool,
    /// Who was last seen to wait for connections. It goes on serving while it deals with one.
    waits: Option<u32>,
    /// Whether somebody waits for connections, or did: what comes then is not late.
    is_served: bool,
    /// Whether clients may have been refused: the old owner stopped it for all, or the queue was full.
    may_have_refused: bool,
}

/// Who uses the kept sockets of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TakenOver {
    /// All are used; one of them by this process.
    By(u32),
    /// One is not.
    NotYet,
    /// One may be, and this is why that can't be told.
    Hidden(&'static str),
}

/// What a restart's answer tells of the kept sockets of a port.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Handover {
    /// Where each listens, by which number the command gets it, and by which name. systemd numbers those that it keeps by
    /// itself.
    pub(crate) sockets: Vec<(SocketAddr, Option<usize>, String)>,
    /// How many connections were refused; `None` where that can't be told.
    pub(crate) refused: Option<u32>,
    /// How many were seen to wait in the queue until the new owner accepted; `None` where nobody took the sockets over, and
    /// by UDP.
    pub(crate) served_late: Option<u32>,
    /// Why there was an ordinary restart all the same.
    pub(crate) fallback: Option<String>,
}

/// How often it is counted who waits.
const COUNT: Duration = Duration::from_millis(1);

/// The number of the first descriptor that is handed on.
const FIRST: usize = 3;

impl Keeper {
    fn lock(&self) -> MutexGuard<'_, Keeping> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the sockets by which these owners serve, each once. False if one can't be taken; then all are let go of.
    pub(crate) fn take<'a>(&self, system: &dyn System, owners: impl Iterator<Item = &'a Owner>) -> bool {
        let mut keeping = self.lock();
        let mut taken: Vec<Kept> = Vec::new();
        for holding in owners.flat_map(|owner| &owner.holdings).filter(|holding| holding.socket.serves()) {
            let id = holding.socket.id();
            let is_it = |kept: &Kept| kept.socket.id() == id;
            let Some(descriptor) = &holding.descriptor else { continue };
            if keeping.kept.iter().any(is_it) || taken.iter().any(is_it) {
                continue;
            }
            match system.take_over(descriptor, &holding.socket) {
                Ok(handle) => taken.push(Kept::new(holding.socket.clone(), handle)),
                Err(failure) => {
                    keeping.failure = Some(failure);
                    keeping.kept.clear();
                    return false;
                }
            }
        }
        taken.sort_by_key(|kept| (kept.socket.address, kept.socket.cookie));
        keeping.kept.extend(taken);
        true
    }

    /// Why a socket could not be taken.
    pub(crate) fn take_failure(&self) -> Option<KeepError> {
        self.lock().failure.take()
    }

    /// Whether no socket is kept now.
    pub(crate) fn is_empty(&self) -> bool {
        !self.lock().kept.iter().any(|kept| kept.handle.is_some())
    }

    /// When the first socket of a port was taken; `None` where none is kept.
    pub(crate) fn since(&self, port: Port) -> Option<Instant> {
        let keeping = self.lock();
        keeping.of(port).filter(|kept| kept.handle.is_some()).map(|kept| kept.at).min()
    }

    /// Whether the socket is kept.
    fn holds(&self, id: SocketId) -> bool {
        self.lock().kept.iter().any(|kept| kept.handle.is_some() && kept.socket.id() == id)
    }

    /// Leaves out that this process holds them: with it, nobody may hold them.
    pub(crate) fn leave_out_own(&self, sockets: &mut Vec<Socket>) {
        let own = std::process::id();
        sockets.retain_mut(|socket| {
            if !self.holds(socket.id()) {
                return true;
            }
            socket.descriptors.retain(|descriptor| descriptor.pid != own);
            !socket.descriptors.is_empty()
        });
    }

    /// The old owners are gone: as many connections may wait now as the system allows, until the new one says otherwise, and
    /// a socket that one of them has shut down listens again.
    pub(crate) fn widen(&self) {
        let Keeping { kept, is_wide, .. } = &mut *self.lock();
        if std::mem::replace(is_wide, true) {
            return;
        }
        for kept in kept {
            let Some(handle) = kept.handle.as_ref().filter(|_| kept.is_tcp()) else { continue };
            let is_full = handle.queue().is_none_or(|queue| queue.waiting > queue.room);
            kept.may_have_refused |= is_full || !handle.serves();
            if let Err(error) = handle.listen(u32::MAX) {
                tracing::debug!(%error, address = %kept.socket.address, "the queue can't be widened");
            }
        }
    }

    /// Widens the queues, if that was not done yet, and counts from now on who waits.
    pub(crate) fn open(&self) {
        self.widen();
        if std::mem::replace(&mut self.lock().is_open, true) || self.is_empty() {
            return;
        }
        let keeping = Arc::downgrade(&self.0);
        // By a thread of its own, because a look at all processes can take longer than the new owner needs to empty a queue.
        let counting = std::thread::Builder::new().name("counts-waiting".to_owned()).spawn(move || {
            while keeping.upgrade().is_some_and(|keeping| Self(keeping).count()) {
                std::thread::sleep(COUNT);
            }
        });
        if let Err(error) = counting {
            tracing::debug!(%error, "who waits is counted less often");
        }
    }

    /// Counts who waits; false once nobody does in vain.
    fn count(&self) -> bool {
        let mut keeping = self.lock();
        let is_waited = |kept: &&mut Kept| kept.handle.is_some() && kept.is_tcp() && !kept.is_served;
        let mut waited = keeping.kept.iter_mut().filter(is_waited).peekable();
        let is_left = waited.peek().is_some();
        waited.for_each(Kept::count);
        is_left
    }

    /// The descriptors in the order in which they are handed on, and their names.
    pub(crate) fn descriptors(&self) -> (Vec<i32>, String) {
        let (descriptors, names): (Vec<i32>, Vec<String>) = self.named().into_iter().unzip();
        (descriptors, names.join(":"))
    }

    /// Each descriptor that is kept, with its name.
    pub(crate) fn named(&self) -> Vec<(i32, String)> {
        let keeping = self.lock();
        let kept = keeping.kept.iter();
        kept.filter_map(|kept| Some((kept.handle.as_ref()?.descriptor(), kept.name()))).collect()
    }

    /// systemd keeps them as well, and hands them on.
    pub(crate) fn is_stored(&self) {
        self.lock().is_stored = true;
    }

    /// Looks which of these processes use the port's sockets; `None` where none is kept.
    pub(crate) fn look(&self, port: Port, pids: &[u32]) -> Option<TakenOver> {
        let mut keeping = self.lock();
        let of_port = |kept: &&mut Kept| kept.socket.port() == port && kept.handle.is_some();
        let all: Vec<TakenOver> =
            keeping.kept.iter_mut().filter(of_port).map(|kept| kept.look(pids)).collect();
        let is_not_yet = |taken: &TakenOver| *taken == TakenOver::NotYet;
        let is_hidden = |taken: &TakenOver| matches!(taken, TakenOver::Hidden(_));
        let worst = all.iter().find(|it| is_not_yet(it)).or_else(|| all.iter().find(|it| is_hidden(it)));
        worst.or(all.first()).copied()
    }

    /// Whether one of these processes holds one of the sockets.
    pub(crate) fn is_held_by(&self, pids: &[u32]) -> bool {
        let keeping = self.lock();
        let handles = keeping.kept.iter().filter_map(|kept| kept.handle.as_ref());
        handles.into_iter().any(|handle| pids.iter().any(|&pid| handle.used_by(pid) != Use::Absent))
    }

    /// Which of these processes are seen to hold one of the sockets.
    pub(crate) fn holders(&self, pids: &[u32]) -> Vec<u32> {
        let keeping = self.lock();
        let handles: Vec<_> = keeping.kept.iter().filter_map(|kept| kept.handle.as_ref()).collect();
        let holds =
            |pid: &u32| handles.iter().any(|handle| matches!(handle.used_by(*pid), Use::Held | Use::Waited));
        pids.iter().copied().filter(holds).collect()
    }

    /// The new owner has them.
    pub(crate) fn give_up(&self) {
        let Keeping { kept, taken_over, .. } = &mut *self.lock();
        for kept in kept {
            let Some(handle) = kept.handle.take() else { continue };
            *taken_over = true;
            kept.may_have_refused |= !handle.serves();
        }
    }

    /// Nobody has taken them over, and this is why. How many connections waited in vain.
    pub(crate) fn close(&self, why: &str) -> u32 {
        let mut keeping = self.lock();
        let handles: Vec<_> = keeping.kept.iter_mut().filter_map(|kept| kept.handle.take()).collect();
        let in_vain = handles.iter().filter_map(|handle| handle.queue()).map(|queue| queue.waiting).sum();
        keeping.fallback = Some(why.to_owned());
        in_vain
    }

    /// What the answer tells of a port.
    pub(crate) fn told(&self, port: Port) -> Handover {
        let keeping = self.lock();
        let numbered = keeping.kept.iter().zip(FIRST..).filter(|(kept, _)| kept.socket.port() == port);
        let number = |number| (!keeping.is_stored).then_some(number);
        let sockets: Vec<_> =
            numbered.map(|(kept, at)| (kept.socket.address, number(at), kept.name())).collect();
        let is_done = keeping.taken_over && !sockets.is_empty();
        let knows = is_done && !keeping.of(port).any(|kept| kept.may_have_refused);
        let most = || keeping.of(port).map(|kept| kept.most).sum();
        let has_queue = keeping.of(port).any(Kept::is_tcp);
        let none = || "nobody listened on the port, so that there was no socket to keep".to_owned();
        Handover {
            fallback: keeping.fallback.clone().or_else(|| (keeping.is_open && sockets.is_empty()).then(none)),
            sockets,
            refused: knows.then_some(0),
            served_late: (is_done && has_queue).then(most),
        }
    }
}

impl Keeping {
    fn of(&self, port: Port) -> impl Iterator<Item = &Kept> {
        self.kept.iter().filter(move |kept| kept.socket.port() == port)
    }
}

impl Kept {
    /// A socket that was just taken.
    fn new(socket: Socket, handle: Box<dyn KeptSocket>) -> Self {
        Self {
            socket,
            at: Instant::now(),
            handle: Some(handle),
            waiting: 0,
            most: 0,
            accepts: false,
            waits: None,
            is_served: false,
            may_have_refused: false,
        }
    }

    /// The name by which the command finds it: the port's.
    fn name(&self) -> String {
        match self.socket.protocol {
            Protocol::Tcp => self.socket.address.port().to_string(),
            Protocol::Udp => format!("{}-udp", self.socket.address.port()),
        }
    }

    /// Whether it has a queue of connections.
    fn is_tcp(&self) -> bool {
        self.socket.protocol == Protocol::Tcp
    }

    /// Counts who waits in the queue.
    fn count(&mut self) {
        let Some(queue) = self.handle.as_ref().and_then(|handle| handle.queue()) else { return };
        // A connection that its client has given up stays in the queue until it is accepted.
        self.accepts |= queue.waiting < self.waiting;
        self.is_served |= self.accepts;
        self.waiting = queue.waiting;
        self.may_have_refused |= queue.waiting > queue.room;
        if !self.is_served {
            self.most = self.most.max(queue.waiting);
        }
    }

    fn look(&mut self, pids: &[u32]) -> TakenOver {
        self.count();
        // One that has been shut down serves nobody, whoever waits on it.
        let Some(handle) = self.handle.as_ref().filter(|handle| handle.serves()) else {
            return TakenOver::NotYet;
        };
        let mut taken = TakenOver::NotYet;
        for &pid in pids {
            match handle.used_by(pid) {
                Use::Waited => {
                    (self.is_served, self.waits) = (true, Some(pid));
                    return TakenOver::By(pid);
                }
                Use::Held | Use::Hidden(_) if self.accepts || self.waits == Some(pid) => {
                    taken = TakenOver::By(pid);
                }
                Use::Hidden(why) if taken == TakenOver::NotYet => taken = TakenOver::Hidden(why),
                Use::Absent | Use::Held | Use::Hidden(_) => {}
            }
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::SocketState;

    /// A socket with a queue, and two processes that have it.
    #[derive(Debug)]
    struct Fake(Mutex<u32>, Use, bool);

    impl KeptSocket for Fake {
        fn serves(&self) -> bool {
            self.2
        }

        fn queue(&self) -> Option<crate::platform::contract::Queue> {
            let waiting = *self.0.lock().unwrap();
            Some(crate::platform::contract::Queue { waiting, room: 8 })
        }

        fn listen(&self, _room: u32) -> std::io::Result<()> {
            Ok(())
        }

        fn used_by(&self, pid: u32) -> Use {
            if pid == 1 { Use::Absent } else { self.1 }
        }

        fn descriptor(&self) -> i32 {
            9
        }
    }

    fn kept(waiting: u32, used: Use) -> Kept {
        let socket = Socket::new(Protocol::Tcp, ([127, 0, 0, 1], 80).into(), SocketState::Listen);
        Kept::new(socket, Box::new(Fake(Mutex::new(waiting), used, true)))
    }

    #[test]
    fn a_socket_that_is_merely_held_is_not_taken_over() {
        assert_eq!(kept(3, Use::Held).look(&[1, 2]), TakenOver::NotYet);
        assert_eq!(kept(3, Use::Waited).look(&[1, 2]), TakenOver::By(2));
        assert_eq!(kept(3, Use::Waited).look(&[1]), TakenOver::NotYet);
        assert_eq!(kept(3, Use::Hidden("so")).look(&[1, 2]), TakenOver::Hidden("so"));
    }

    #[test]
    fn a_queue_that_gets_shorter_shows_that_a_holder_accepts() {
        for used in [Use::Held, Use::Hidden("so")] {
            let mut kept = kept(3, used);
            let before = kept.look(&[2]);
            assert_ne!(before, TakenOver::By(2));
            kept.handle = Some(Box::new(Fake(Mutex::new(1), used, true)));
            assert_eq!(kept.look(&[2]), TakenOver::By(2));
            // and those that waited until then were served late
            assert_eq!(kept.most, 3);
        }
    }

    #[test]
    fn a_process_that_has_waited_serves_on_while_it_deals_with_a_connection() {
        let mut kept = kept(0, Use::Waited);
        assert_eq!(kept.look(&[2]), TakenOver::By(2));
        kept.handle = Some(Box::new(Fake(Mutex::new(0), Use::Held, true)));
        assert_eq!(kept.look(&[2]), TakenOver::By(2));
        // but not another one, nor once it has let go of the socket
        assert_eq!(kept.look(&[3]), TakenOver::NotYet);
        kept.handle = Some(Box::new(Fake(Mutex::new(0), Use::Absent, true)));
        assert_eq!(kept.look(&[2]), TakenOver::NotYet);
    }

    #[test]
    fn a_socket_that_has_been_shut_down_is_not_taken_over() {
        let mut kept = kept(0, Use::Waited);
        kept.handle = Some(Box::new(Fake(Mutex::new(0), Use::Waited, false)));
        assert_eq!(kept.look(&[2]), TakenOver::NotYet);
    }

    #[test]
    fn all_sockets_of_a_port_must_be_taken_over() {
        let keeper = Keeper::default();
        keeper.lock().kept.extend([kept(0, Use::Waited), kept(0, Use::Held)]);
        assert_eq!(keeper.look(Port::tcp(80), &[2]), Some(TakenOver::NotYet));
        keeper.lock().kept.pop();
        assert_eq!(keeper.look(Port::tcp(80), &[2]), Some(TakenOver::By(2)));
        assert_eq!(keeper.look(Port::tcp(81), &[2]), None);
        keeper.give_up();
        assert_eq!((keeper.told(Port::tcp(80)).refused, keeper.is_empty()), (Some(0), true));
    }

    #[test]
    fn refused_connections_are_not_counted_where_they_can_not_be() {
        let keeper = Keeper::default();
        keeper.lock().kept.push(kept(9, Use::Waited));
        // a full queue
        keeper.look(Port::tcp(80), &[2]);
        keeper.give_up();
        assert_eq!(keeper.told(Port::tcp(80)).refused, None);
        // and after a fallback
        let keeper = Keeper::default();
        keeper.lock().kept.push(kept(2, Use::Held));
        assert_eq!(keeper.close("so"), 2);
        let told = keeper.told(Port::tcp(80));
        assert_eq!((told.refused, told.served_late, told.fallback.as_deref()), (None, None, Some("so")));
    }
}
