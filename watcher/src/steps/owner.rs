//! Owners: the processes that hold a port, what each one is, and whether it may be ended.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use super::exclude::Exclusions;
use super::first_look::FirstLook;
use super::identify::Rules;
use crate::model::{
    Backend, Descriptor, Exclusion, Port, Process, ProcessState, Protocol, Reason, Socket, SocketId, Verdict,
};
use crate::platform::contract::{MOST_OTHER_PORTS, ObserveError, Observer, ProcessError, System, TimeWaits};

/// A process that holds a port, seen or unseen.
#[derive(Debug, Clone)]
pub struct Owner {
    /// The process; `None` if it can't be seen or read.
    pub process: Option<Process>,
    /// Its pid, if known.
    pub pid: Option<u32>,
    /// How long it has run; `None` when it can't be read.
    pub age: Option<Duration>,
    /// The user of an unseen owner, if the socket table has it.
    pub uid: Option<u32>,
    /// The sockets that it holds.
    pub holdings: Vec<Holding>,
    /// The other ports that it listens on, 16 at most; `None` if that can't be told, or was not asked.
    pub other_ports: Option<Vec<u16>>,
    /// The verdict of the rules.
    pub verdict: Verdict,
    /// The reason for the verdict, as a short clause for people.
    pub why: String,
    /// Why it is never ended, if that is the case.
    pub exclusion: Option<Exclusion>,
    /// Why a match is spared all the same, if so.
    pub spared_for: Option<Reason>,
    /// Whether it is ended because it holds the very socket of a match (`--inherited`), whatever it is itself.
    pub inherits: bool,
}

/// A socket and the descriptor by which an owner holds it.
#[derive(Debug, Clone)]
pub struct Holding {
    /// The socket.
    pub socket: Socket,
    /// The descriptor; `None` for an unseen owner.
    pub descriptor: Option<Descriptor>,
}

/// The owners of a port.
#[derive(Debug, Clone)]
pub(crate) struct Owners {
    /// The port.
    pub(crate) port: Port,
    /// In the order of their pids, unseen ones last.
    pub(crate) owners: Vec<Owner>,
    /// How many more there are, of which nothing is told.
    pub(crate) left_out: usize,
    /// Processes that are only connected from the port, where nobody owns it.
    pub(crate) clients: Vec<Owner>,
    /// Why the port can't be bound although nobody owns it, as far as is known.
    pub(crate) reason: Option<Reason>,
    /// How long that lasts, where it is known.
    pub(crate) free_in: Option<Duration>,
    /// How the port was observed.
    pub(crate) backend: Backend,
}

impl Owners {
    /// Looks at the port once. Where nobody owns it, it also says what else can keep it from being bound, as far as the
    /// tables tell: nothing is bound to find out, because that could make another server's bind fail.
    ///
    /// # Errors
    /// When the port can't be observed.
    pub(crate) fn of_port(
        system: &dyn System,
        observer: &mut dyn Observer,
        port: Port,
        rules: &Rules,
        exclusions: &Exclusions,
    ) -> Result<Self, ObserveError> {
        let look = |observer: &mut dyn Observer| -> Result<Vec<Owner>, ObserveError> {
            Ok(owners(&observer.snapshot(port)?, system, rules, exclusions))
        };
        let mut all = look(observer)?;
        if all.iter().any(|owner| owner.unheld().is_some()) {
            // Its holder may have been about to end, or to receive it, during that look.
            all = look(observer)?;
        }
        add_other_ports(&mut all, observer, port);
        let (owners, clients): (Vec<_>, Vec<_>) = all.into_iter().partition(Owner::owns_port);
        let nobody = Self::nobody(port, observer.backend());
        if !owners.is_empty() {
            let reason = owners.iter().find_map(Owner::unheld);
            return Ok(Self { owners, reason, ..nobody });
        }
        let lingering = if clients.is_empty() { observer.time_wait(port)? } else { TimeWaits::new() };
        let free_in = lingering.into_values().max();
        let reason =
            if clients.is_empty() { free_in.map(|_| Reason::TimeWait) } else { Some(Reason::BoundClient) };
        Ok(Self { clients, reason, free_in, ..nobody })
    }

    /// As [`Self::of_port`], for many ports by one look, in their order. What else keeps a port that nobody owns is not told.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn of_ports(
        system: &dyn System,
        observer: &mut dyn Observer,
        ports: &[(Port, Rules)],
        exclusions: &Exclusions,
    ) -> Result<Vec<Self>, ObserveError> {
        let numbers: Vec<Port> = ports.iter().map(|(port, _)| *port).collect();
        let look = Look::at(observer, &numbers)?;
        Ok(ports.iter().map(|(port, rules)| look.owners(system, *port, rules, exclusions)).collect())
    }

    /// All ports of these protocols that somebody owns, by number, by one look. Only for those the rules are asked for.
    ///
    /// # Errors
    /// As there, and of the rules.
    pub(crate) fn of_all<E: From<ObserveError>>(
        system: &dyn System,
        observer: &mut dyn Observer,
        protocols: &[Protocol],
        rules_of: impl Fn(Port) -> Result<Rules, E>,
        exclusions: &Exclusions,
    ) -> Result<Vec<Self>, E> {
        let ports: Vec<Port> = protocols.iter().copied().flat_map(Port::all).collect();
        let look = Look::at(observer, &ports)?;
        let mut held: Vec<Port> = look.held.keys().copied().collect();
        held.sort_unstable_by_key(|port| (port.number, port.protocol));
        let owners = |port| Ok(look.owners(system, port, &rules_of(port)?, exclusions));
        let all = held.into_iter().map(owners).collect::<Result<Vec<Self>, E>>()?;
        Ok(all.into_iter().filter(|owners| !owners.owners.is_empty()).collect())
    }

    /// A port that nobody owns.
    pub(crate) fn nobody(port: Port, backend: Backend) -> Self {
        let (owners, clients) = (Vec::new(), Vec::new());
        Self { port, owners, left_out: 0, clients, reason: None, free_in: None, backend }
    }
}

/// What one look at many ports has shown.
struct Look {
    held: HashMap<Port, Vec<Socket>>,
    /// The ports that each process serves by each protocol.
    served: HashMap<(u32, Protocol), BTreeSet<u16>>,
    backend: Backend,
}

impl Look {
    fn at(observer: &mut dyn Observer, ports: &[Port]) -> Result<Self, ObserveError> {
        let mut held: HashMap<Port, Vec<Socket>> = HashMap::new();
        let mut served: HashMap<(u32, Protocol), BTreeSet<u16>> = HashMap::new();
        for socket in observer.owning(ports)? {
            if socket.serves() {
                for descriptor in &socket.descriptors {
                    let of = (descriptor.pid, socket.protocol);
                    served.entry(of).or_default().insert(socket.address.port());
                }
            }
            held.entry(socket.port()).or_default().push(socket);
        }
        Ok(Self { held, served, backend: observer.backend() })
    }

    fn owners(&self, system: &dyn System, port: Port, rules: &Rules, exclusions: &Exclusions) -> Owners {
        let sockets = self.held.get(&port).map_or(&[][..], Vec::as_slice);
        let mut owners = owners(sockets, system, rules, exclusions);
        for owner in &mut owners {
            let served = owner.pid.and_then(|pid| self.served.get(&(pid, port.protocol)));
            let others = served.into_iter().flatten().copied().filter(|&number| number != port.number);
            owner.other_ports = Some(others.take(MOST_OTHER_PORTS).collect());
        }
        let reason = owners.iter().find_map(Owner::unheld);
        Owners { reason, owners, ..Owners::nobody(port, self.backend) }
    }
}

impl Owner {
    /// Whether the process may be ended: it matches, nothing excludes it, and it holds one of the stale sockets.
    #[must_use]
    pub(crate) fn is_target(&self, first_look: &FirstLook) -> bool {
        (self.verdict == Verdict::Match || self.inherits)
            && self.exclusion.is_none()
            && self.spared_for.is_none()
            && self.holds_stale(first_look)
    }

    /// Why no process holds its sockets, where that is known.
    #[must_use]
    pub(crate) fn unheld(&self) -> Option<Reason> {
        self.holdings.iter().find_map(|holding| holding.socket.unheld)
    }

    /// Whether it is on its way out: its sockets go without a signal of ours.
    #[must_use]
    pub(crate) fn is_leaving(&self) -> bool {
        self.process.as_ref().is_some_and(|process| process.state == ProcessState::Leaving)
    }

    /// Whether it holds this very socket.
    #[must_use]
    pub(crate) fn holds(&self, id: SocketId) -> bool {
        self.holdings.iter().any(|holding| holding.socket.id() == id)
    }

    /// Whether it holds one of the stale sockets.
    #[must_use]
    pub(crate) fn holds_stale(&self, first_look: &FirstLook) -> bool {
        let process = self.process.as_ref();
        process
            .is_some_and(|process| self.holdings.iter().any(|holding| first_look.includes(holding, process)))
    }

    /// Whether it holds the port for itself rather than being connected from it.
    #[must_use]
    pub fn owns_port(&self) -> bool {
        self.holdings.iter().any(|holding| holding.socket.owns_port())
    }

    /// The addresses that it listens on, or by UDP is bound to, each once.
    #[must_use]
    pub fn listeners(&self) -> Vec<SocketAddr> {
        let mut addresses: Vec<_> = self
            .holdings
            .iter()
            .filter(|holding| holding.socket.serves())
            .map(|holding| holding.socket.address)
            .collect();
        addresses.sort_unstable();
        addresses.dedup();
        addresses
    }

    /// Whether both are the same process, or the same unseen holder of the same socket.
    #[must_use]
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let of_same_socket = || {
            let first = |owner: &Self| owner.holdings.first().map(|holding| holding.socket.id());
            self.pid == other.pid && first(self) == first(other)
        };
        self.same_process(other) || (self.process.is_none() && other.process.is_none() && of_same_socket())
    }

    /// Whether both are the same process: pid and start time, because pids are reused.
    #[must_use]
    pub fn same_process(&self, other: &Self) -> bool {
        match (&self.process, &other.process) {
            (Some(a), Some(b)) => a.pid == b.pid && a.start_time == b.start_time,
            _ => false,
        }
    }
}

/// Adds the other ports that each of them listens on, where that is not known yet.
pub(crate) fn add_other_ports(owners: &mut [Owner], observer: &mut dyn Observer, port: Port) {
    let seen = |owner: &Owner| owner.process.as_ref().map(|process| process.pid);
    let pids: Vec<u32> = owners.iter().filter(|owner| owner.other_ports.is_none()).filter_map(seen).collect();
    if pids.is_empty() {
        return;
    }
    let mut found = observer.other_ports(port, &pids);
    for owner in owners.iter_mut().filter(|owner| owner.other_ports.is_none()) {
        owner.other_ports = seen(owner).and_then(|pid| found.remove(&pid));
    }
}

/// Leaves so many processes at most to hold the sockets, those with the lowest pids, and says how many it left out: before
/// they are read, because that is what costs.
pub(crate) fn limit_holders(sockets: &mut Vec<Socket>, most: usize) -> usize {
    let mut pids: Vec<u32> =
        sockets.iter().flat_map(|socket| &socket.descriptors).map(|descriptor| descriptor.pid).collect();
    pids.sort_unstable();
    pids.dedup();
    let Some(&first_left_out) = pids.get(most) else { return 0 };
    sockets.retain_mut(|socket| {
        let was_held = !socket.descriptors.is_empty();
        socket.descriptors.retain(|descriptor| descriptor.pid < first_left_out);
        // Without a descriptor it would look like one whose holder can't be seen.
        was_held != socket.descriptors.is_empty()
    });
    pids.len() - most
}

/// So many bytes of arguments are kept of all owners together. They are judged by all that was read.
const ALL_ARGUMENTS: usize = 16 << 20;

/// The owners of the sockets, in the order of their pids, unseen ones last. Each process counts once, however many
/// sockets and descriptors it has. A process that has ended since the sockets were read is left out.
#[must_use]
pub(crate) fn owners(
    sockets: &[Socket],
    system: &dyn System,
    rules: &Rules,
    exclusions: &Exclusions,
) -> Vec<Owner> {
    let mut owners: Vec<Owner> = Vec::new();
    let mut places: HashMap<u32, usize> = HashMap::new();
    let mut left_for_arguments = ALL_ARGUMENTS;
    let mut known: HashSet<(u32, SocketId, SocketAddr)> = HashSet::new();
    for socket in sockets {
        // Without its holders but the first, which can be part of what it is known by: each of thousands would have all others.
        let bare =
            Socket { descriptors: socket.descriptors.first().cloned().into_iter().collect(), ..*socket };
        if socket.descriptors.is_empty() {
            owners.push(unseen(socket, None, why_unseen(socket, system).to_owned(), None));
        }
        for descriptor in &socket.descriptors {
            let pid = descriptor.pid;
            if !known.insert((pid, bare.id(), bare.address)) {
                continue;
            }
            let holding = Holding { socket: bare.clone(), descriptor: Some(descriptor.clone()) };
            if let Some(owner) = places.get(&pid).and_then(|&at| owners.get_mut(at)) {
                owner.holdings.push(holding);
                continue;
            }
            match system.process(pid) {
                Ok(mut process) => {
                    let judgement = rules.judge(&process);
                    // After the verdict, which no name of a container's may change.
                    system.name_container(&mut process);
                    let length =
                        process.argv.iter().flatten().map(|word| word.len() + size_of::<String>()).sum();
                    match left_for_arguments.checked_sub(length) {
                        Some(left) => left_for_arguments = left,
                        None => (process.argv, process.argv_cut) = (None, true),
                    }
                    places.insert(pid, owners.len());
                    owners.push(Owner {
                        age: SystemTime::now().duration_since(process.start_time.wall).ok(),
                        pid: Some(process.pid),
                        uid: process.uid,
                        exclusion: exclusions.exclusion(process.pid),
                        process: Some(process),
                        holdings: vec![holding],
                        other_ports: None,
                        verdict: judgement.verdict,
                        why: judgement.why,
                        spared_for: None,
                        inherits: false,
                    });
                }
                Err(ProcessError::Gone) => {}
                Err(ProcessError::Unreadable(why)) => {
                    places.insert(pid, owners.len());
                    owners.push(unseen(&bare, Some(pid), why, exclusions.exclusion(pid)));
                }
            }
        }
    }
    for owner in &mut owners {
        doubt_handed_sockets(owner);
        spare_clients(owner);
        exclusions.spare_doubtful(owner);
    }
    explain_workers(&mut owners);
    spare_activated(&mut owners);
    owners.sort_by_key(|owner| owner.pid.unwrap_or(u32::MAX));
    owners
}

/// A worker of Python's multiprocessing that has its socket from a process that is gone does not show by itself what it
/// serves.
fn explain_workers(owners: &mut [Owner]) {
    /// The argument by which such a worker is started.
    const WORKER: &str = "--multiprocessing-fork";
    let pids: HashSet<u32> = owners.iter().filter_map(|owner| owner.pid).collect();
    for owner in owners.iter_mut().filter(|owner| owner.verdict == Verdict::Other) {
        let Some(process) = &owner.process else { continue };
        let is_worker = process.argv.as_ref().is_some_and(|argv| argv.iter().any(|word| word == WORKER));
        let is_left = process.parent.as_ref().is_none_or(|parent| !pids.contains(&parent.pid));
        if is_worker && is_left {
            owner.why.push_str(
                "; it is a worker of Python's multiprocessing whose starter is gone, and only an agent that saw its socket \
                 made knows by whom",
            );
        }
    }
}

fn why_unseen(socket: &Socket, system: &dyn System) -> &'static str {
    match socket.unheld {
        Some(Reason::InFlight) => {
            "no process holds it: it is in a message on its way between two (SCM_RIGHTS), or the kernel itself has it"
        }
        Some(Reason::TooMany) => "there are more sockets or holders here than are kept account of",
        Some(Reason::OtherNamespace) => "a process outside of this pid namespace holds it",
        _ => system.blindness().unwrap_or("its holder can't be seen by this user"),
    }
}

fn unseen(socket: &Socket, pid: Option<u32>, why: String, exclusion: Option<Exclusion>) -> Owner {
    Owner {
        process: None,
        age: None,
        pid,
        uid: socket.uid,
        holdings: vec![Holding { socket: socket.clone(), descriptor: None }],
        other_ports: None,
        verdict: Verdict::Unclassified,
        why,
        exclusion,
        spared_for: None,
        inherits: false,
    }
}

/// A process that is only connected *from* the port serves no clients on it: its verdict is *other*, whatever the rules say.
fn spare_clients(owner: &mut Owner) {
    if !owner.owns_port() {
        owner.verdict = Verdict::Other;
        if owner.pid.is_none() {
            owner.why = format!("it has a connection whose local port is this one; {}", owner.why);
            return;
        }
        let why = match owner.holdings.first().map(|holding| holding.socket.protocol) {
            // A server may connect its socket as well, once a first client has come.
            Some(Protocol::Udp) => "its socket is connected, so it has one peer and serves no others",
            Some(Protocol::Tcp) | None => "it is a client whose local port happens to be this one",
        };
        why.clone_into(&mut owner.why);
    }
}

/// A socket that one user made and another user's process holds was handed over, by a message (unix(7), `SCM_RIGHTS`):
/// anybody can put a listener into a daemon of root's that takes messages, and have it blamed, or ended. A server that
/// bound as root and dropped its rights is no such case, because root made its socket.
fn doubt_handed_sockets(owner: &mut Owner) {
    let Some(process) = &owner.process else { return };
    let users: Vec<u32> = process.uid.into_iter().chain(process.effective_uid).collect();
    let stranger = owner.holdings.iter().find_map(|holding| {
        holding.socket.uid.filter(|maker| *maker != 0 && !users.is_empty() && !users.contains(maker))
    });
    if let Some(maker) = stranger {
        owner.verdict = Verdict::Unclassified;
        owner.why =
            format!("user {maker} made its socket and handed it over, so the process may not know of it");
    }
}

fn activated(unit: Option<&str>) -> String {
    let how = match unit.and_then(|unit| Some((unit.strip_suffix(".service")?, unit))) {
        // Its own name is a socket unit's default, and an instance's socket has the template's.
        Some((name, unit)) if !name.contains('@') => {
            format!("`systemctl stop {name}.socket {unit}` gives the port back")
        }
        _ => "`systemctl list-sockets` names its socket unit: stop that instead".to_owned(),
    };
    format!("its socket belongs to PID 1 (socket activation): {how}")
}

/// With socket activation PID 1 holds the listener too, and keeps it when the service ends. Ending the service would
/// not free the port.
fn spare_activated(owners: &mut [Owner]) {
    let init_holds: HashSet<SocketId> = owners
        .iter()
        .filter(|owner| owner.exclusion == Some(Exclusion::Init))
        .flat_map(|owner| owner.holdings.iter().map(|holding| holding.socket.id()))
        .collect();
    for owner in owners.iter_mut().filter(|owner| owner.exclusion.is_none()) {
        let all = owner.holdings.iter().all(|holding| init_holds.contains(&holding.socket.id()));
        if !init_holds.is_empty() && all {
            owner.exclusion = Some(Exclusion::Init);
            let unit = owner.process.as_ref().and_then(|process| process.unit.as_deref());
            owner.why = activated(unit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::SocketState;

    #[test]
    fn holders_beyond_the_limit_are_left_out_and_counted() {
        let held_by = |pids: &[u32]| Socket {
            descriptors: pids.iter().map(|&pid| Descriptor { pid, fd: None }).collect(),
            ..Socket::new(Protocol::Tcp, ([0, 0, 0, 0], 80).into(), SocketState::Listen)
        };
        let all = [held_by(&[4, 1, 2]), held_by(&[5]), held_by(&[2, 2]), held_by(&[])];
        let mut sockets = all.to_vec();
        assert_eq!(limit_holders(&mut sockets, 4), 0);
        assert_eq!(sockets, all);
        assert_eq!(limit_holders(&mut sockets, 2), 2);
        assert_eq!(sockets, [held_by(&[1, 2]), held_by(&[2, 2]), held_by(&[])]);
    }

    #[test]
    fn an_activated_service_is_stopped_with_its_socket() {
        assert!(activated(Some("cups.service")).contains("`systemctl stop cups.socket cups.service`"));
        for unit in [None, Some("ssh@3.service"), Some("session-2.scope")] {
            assert!(activated(unit).contains("`systemctl list-sockets`"), "{unit:?}");
        }
    }
}
