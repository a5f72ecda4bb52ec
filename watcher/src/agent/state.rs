//! What the agent knows: the watched ports, the recent past, the configuration.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant, SystemTime};

use strum::VariantArray as _;
use tokio::sync::{Notify, watch};
use tracing::{info, warn};

use super::AgentError;
use super::export::Export;
use super::guard::{Guards, Held};
use super::history::History;
use super::limits::{Buckets, CLEANS, ConnectionLimit, Places, READS};
use super::makers::Known;
use super::metrics::Metrics;
use super::off_loop::OffLoop;
use super::past::Past;
use super::refusals::Refusals;
use super::reserve::Reserve;
use super::scrape::Texts;
use super::settings::Settings;
use super::store::Store;
use super::troubles::{Part, Troubles};
use crate::config::{Config, HistoryConfig};
use crate::model::{Backend, Port, Protocol, Socket, WatchKind};
use crate::platform::Host;
use crate::platform::contract::{
    AgentObserver, BackendChoice, Chosen, ObserveError, Platform, Relieved, ServiceState, ServiceSystem as _,
    System as _, choose,
};
use crate::steps::observe::MOST_READY;
use crate::watch::Watch;
use crate::wire::agent::{ConfigurationJson, ExportJson, HistoryJson};

/// After so many events others have their turn: any process can make them without end, in a network namespace of its own.
const EVENTS_PER_TURN: usize = 256;

/// Where the agent's files are.
#[derive(Debug)]
pub(super) struct Paths {
    pub(super) socket: PathBuf,
    /// As it was named; `None` for the default one.
    pub(super) config: Option<PathBuf>,
}

/// Serialises cleans of one port.
type CleanLock = Arc<tokio::sync::Mutex<()>>;

/// The agent.
pub(super) struct Agent {
    pub(super) host: Host,
    pub(super) paths: Paths,
    settings: Mutex<Arc<Settings>>,
    watch: Mutex<Watch<dyn AgentObserver>>,
    /// The loop found it in use, and is to be woken.
    missed: AtomicBool,
    /// A look is due.
    look_due: Notify,
    pub(super) history: History,
    /// The history on disk, if one is kept.
    store: OnceLock<Store>,
    /// The export, if there is one.
    export: OnceLock<Export>,
    /// The task that waits for events.
    waiting: Mutex<Waker>,
    /// What the backend can't do here, and why.
    pub(super) losses: Vec<String>,
    pub(super) backend: Backend,
    pub(super) metrics: Metrics,
    pub(super) texts: Texts,
    pub(super) reads: Buckets,
    pub(super) cleans: Buckets,
    pub(super) connections: ConnectionLimit,
    /// One clean at a time on each port of each namespace, so that the second sees the result of the first.
    cleaning: Mutex<HashMap<(u32, Port), CleanLock>>,
    /// What was ended a short while ago.
    pub(super) past: Past,
    /// What made the sockets of the watched ports.
    pub(super) makers: Known,
    pub(super) guards: Guards,
    /// The cleans that were begun and have not ended.
    pub(super) under_way: Places,
    /// What reads other users' processes.
    pub(super) off_loop: OffLoop,
    pub(super) refusals: Refusals,
    pub(super) reserve: Reserve,
    /// Why the last look at the kernel's sockets failed; `None` if it did not.
    blind: Mutex<Option<String>>,
    pub(super) troubles: Troubles,
    ending: watch::Sender<bool>,
    pub(super) started: Instant,
}

impl Agent {
    pub(super) fn new(settings: Settings, paths: Paths, pace: Duration) -> Result<Self, AgentError> {
        let host = Host::new(None).map_err(|error| ObserveError::Unavailable {
            what: "the network namespace".to_owned(),
            why: error.to_string(),
            mend: "mount /proc".to_owned(),
        })?;
        let (observer, losses, protocols) = observe(&host, &settings, pace)?;
        let settings = settings.limited_to(protocols);
        let ports = settings.followed();
        for loss in &losses {
            warn!("{loss}");
        }
        let backend = observer.backend();
        let metrics = Metrics::default();
        metrics.know(&settings.ports());
        let run = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Ok(Self {
            paths,
            watch: Mutex::new(
                Watch::begin(Arc::new(host.clone()), observer, &ports)?
                    .without_beginning()
                    .looking_when_called(),
            ),
            settings: Mutex::new(Arc::new(settings)),
            missed: AtomicBool::new(false),
            look_due: Notify::new(),
            history: History::new(u64::try_from(run.as_micros()).unwrap_or(0)),
            store: OnceLock::new(),
            export: OnceLock::new(),
            waiting: Mutex::new(Waker::noop().clone()),
            losses,
            backend,
            metrics,
            texts: Texts::default(),
            reads: Buckets::new(READS),
            cleans: Buckets::new(CLEANS),
            connections: ConnectionLimit::new(),
            cleaning: Mutex::default(),
            past: Past::default(),
            makers: Known::default(),
            guards: Guards::default(),
            under_way: Places::default(),
            off_loop: OffLoop::default(),
            refusals: Refusals::new(),
            reserve: Reserve::new(),
            blind: Mutex::default(),
            troubles: Troubles::default(),
            ending: watch::Sender::new(false),
            started: Instant::now(),
            host,
        })
    }

    pub(super) fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.settings.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What is watched. Another thread may have it for as long as a look takes: on the loop, see [`Self::watch_if_free`].
    pub(super) fn watch(&self) -> Watching<'_> {
        let watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        Watching { watch, _after: WakeLoop(self) }
    }

    /// The same for the loop, which waits for nobody: it is woken once it is free again.
    fn watch_if_free(&self) -> Option<Watching<'_>> {
        let attempt = || match self.watch.try_lock() {
            Ok(watch) => Some(watch),
            Err(TryLockError::Poisoned(error)) => Some(error.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        };
        // Whoever gave it back before that was noted wakes nobody.
        let watch = attempt().or_else(|| {
            self.missed.store(true, Ordering::SeqCst);
            attempt()
        })?;
        Some(Watching { watch, _after: WakeLoop(self) })
    }

    /// Reads events that have arrived, for one turn; pending until an error ends the stream.
    pub(super) fn poll_events(&self, cx: &mut Context<'_>) -> Poll<ObserveError> {
        cx.waker().clone_into(&mut self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        match self.watch_if_free() {
            Some(watch) => self.read_events(watch, cx, EVENTS_PER_TURN),
            None => Poll::Pending,
        }
    }

    /// Reads so many events at most, and none that came later than the reading began.
    fn read_events(&self, mut watch: Watching<'_>, cx: &mut Context<'_>, most: usize) -> Poll<ObserveError> {
        let begun = Host::monotonic_now();
        let settings = self.settings();
        let mut left = most;
        while left > 0 {
            left -= 1;
            match watch.poll_next(cx) {
                Poll::Ready(Ok(event)) => {
                    if matches!(event.kind, WatchKind::Lost { .. }) {
                        // The sockets were looked at afresh, so all that was before is known. While that took its time, more
                        // may have been lost again.
                        left = left.min(watch.ready_events());
                    }
                    if event.monotonic_ns.is_some_and(|at| at > begun) {
                        left = left.min(watch.ready_events());
                    }
                    if let Some(store) = self.store.get() {
                        store.event(&event);
                    }
                    let is_configured = settings.is_configured(event.port);
                    self.metrics.count(&event, is_configured);
                    if is_configured {
                        self.makers.note(&event, &self.host, || {
                            settings.config.rules(settings.config.ruleset_of(event.port)).ok()
                        });
                    }
                    self.history.push(event);
                }
                Poll::Ready(Err(error @ ObserveError::Stream(_))) => return Poll::Ready(error),
                // Events were lost, and the look that stands in for them failed. The next one comes within a second.
                Poll::Ready(Err(error)) => {
                    self.note_look(Err(&error));
                    return Poll::Pending;
                }
                Poll::Pending => {
                    if watch.is_look_due() {
                        self.look_due.notify_one();
                    }
                    return Poll::Pending;
                }
            }
        }
        if watch.is_look_due() {
            self.look_due.notify_one();
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Takes a look at the kernel's sockets. Where that fails, most likely because no descriptors are left, it is taken
    /// once more with those kept back.
    pub(super) fn look<T>(
        &self,
        mut look: impl FnMut(&mut Watch<dyn AgentObserver>) -> Result<T, ObserveError>,
    ) -> Result<T, ObserveError> {
        let mut watch = self.watch();
        look(&mut watch).or_else(|error| match error {
            ObserveError::Stream(_) => Err(error),
            ObserveError::Snapshot { .. } | ObserveError::Unavailable { .. } => {
                let _lent = self.reserve.lend();
                look(&mut watch)
            }
        })
    }

    /// Remembers whether what the agent knows is up to date, and tells the log when that changes.
    fn note_look(&self, looked: Result<(), &ObserveError>) {
        let mut blind = self.blind.lock().unwrap_or_else(PoisonError::into_inner);
        match (looked, blind.is_some()) {
            (Err(error), was_blind) => {
                *blind = Some(format!("what is known may be out of date, because a look failed: {error}"));
                if !was_blind {
                    warn!(%error, "the sockets can't be looked at; tried again every second");
                }
            }
            (Ok(()), true) => {
                *blind = None;
                info!("the sockets can be looked at again");
            }
            (Ok(()), false) => {}
        }
    }

    /// What the agent can't do at this moment, and why.
    pub(super) fn degraded(&self) -> Vec<String> {
        let blind = self.blind.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let unwritten = self.store.get().and_then(Store::degraded);
        let losses = self.losses.iter().cloned().chain(self.watch().observer().losses());
        losses.chain(blind).chain(unwritten).chain(self.troubles.all()).collect()
    }

    /// The parts of the agent, and whether each is degraded.
    pub(super) fn degraded_parts(&self) -> Vec<(&'static str, bool)> {
        let is_degraded = |part| match part {
            Part::KernelEvents => !self.losses.is_empty() || !self.watch().observer().losses().is_empty(),
            Part::Look => self.is_blind() || self.troubles.of(Part::Look).is_some(),
            Part::History => self.store.get().and_then(Store::degraded).is_some(),
            Part::Configuration | Part::Metrics | Part::Export | Part::Guard => {
                self.troubles.of(part).is_some()
            }
        };
        Part::VARIANTS.iter().map(|&part| (part.name(), is_degraded(part))).collect()
    }

    /// What is due every second: a look again after one that failed, and how many lines the log was spared.
    pub(super) fn each_second(&self) {
        if self.is_blind() {
            self.look_due.notify_one();
        }
        self.guards.beat();
        // While another thread takes a look, all that needs what it finds waits for the next second.
        if let Some(watch) = self.watch_if_free() {
            self.troubles.note(Part::Look, what_is_left_out(watch.is_partial()).map(str::to_owned));
            if self.store.get().is_some_and(Store::wants_sockets) {
                self.tell_sockets(&watch);
            }
            if self.guards.are_there() {
                self.look_after_guards(&watch);
                self.troubles.note(Part::Guard, self.guards.wrong());
            }
        }
        for (uid, count) in self.refusals.take_left_out() {
            warn!(uid, count, "more refusals were left out");
        }
    }

    /// Reads the events that have arrived, without waiting for more. It polls with the waiting task's waker, because a
    /// descriptor wakes only the last task that polled it.
    pub(super) fn drain_events(&self) {
        // An observation can make two events.
        let _ = self.read_events(self.watch(), &mut Context::from_waker(&self.waiting()), 2 * MOST_READY);
    }

    /// The same if no other thread is at it: whoever waits for events on the loop is told of them by the history.
    pub(super) fn drain_events_if_free(&self) {
        if let Some(watch) = self.watch_if_free() {
            let _ = self.read_events(watch, &mut Context::from_waker(&self.waiting()), 2 * MOST_READY);
        }
    }

    fn waiting(&self) -> Waker {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads from the kernel what no event reports, and the events up to then.
    fn refresh(&self) -> Result<(), ObserveError> {
        self.metrics.refreshed();
        let waiting = self.waiting();
        let refreshed = self.look(|watch| watch.refresh(&mut Context::from_waker(&waiting)));
        self.note_look(refreshed.as_ref().copied());
        self.drain_events();
        refreshed
    }

    /// Takes the look that stands in for lost events, if some were.
    fn look_for_lost(&self) -> Result<(), ObserveError> {
        let waiting = self.waiting();
        let looked = self.look(|watch| watch.look_for_lost(&mut Context::from_waker(&waiting)));
        self.note_look(looked.as_ref().copied());
        looked
    }

    /// Makes sure that what is known is no older than the last look, and that none has failed since.
    pub(super) fn see(&self) -> Result<(), ObserveError> {
        self.drain_events();
        // While others make more events than are read, what was lost is not told: only a look knows who came.
        if self.is_blind() || self.watch().observer().has_lost()? {
            return self.refresh();
        }
        let looked = self.look_for_lost();
        let _ = self.read_events(self.watch(), &mut Context::from_waker(&self.waiting()), EVENTS_PER_TURN);
        looked
    }

    fn is_blind(&self) -> bool {
        self.blind.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// The sockets that own a port, from memory. If memory turns out to be out of date, because a holder has ended or
    /// no longer holds the socket, the kernel is asked.
    pub(super) fn sockets(&self, port: Port) -> Result<Vec<Socket>, ObserveError> {
        self.see()?;
        let known: Vec<Socket> = self.watch().sockets(port).cloned().collect();
        // Those that stand for what was left out have no holder in memory, and another look would leave as much out.
        let sound = known.iter().filter(|socket| !socket.is_left_out()).all(|socket| {
            let holds = |descriptor| self.host.holds(descriptor, socket).unwrap_or(false);
            !socket.descriptors.is_empty() && socket.descriptors.iter().all(holds)
        });
        if sound {
            return Ok(known);
        }
        self.refresh()?;
        Ok(self.watch().sockets(port).cloned().collect())
    }

    /// The lock to hold while a port is cleaned.
    pub(super) fn clean_lock(&self, netns: u32, port: Port) -> CleanLock {
        let mut cleaning = self.cleaning.lock().unwrap_or_else(PoisonError::into_inner);
        cleaning.retain(|_, lock| Arc::strong_count(lock) > 1);
        Arc::clone(cleaning.entry((netns, port)).or_default())
    }

    /// Ends the event streams and the waits, and each connection once its request is answered.
    pub(super) fn end(&self) {
        self.ending.send_replace(true);
        self.history.wake();
    }

    pub(super) fn is_ending(&self) -> bool {
        *self.ending.borrow()
    }

    /// Ready once the agent is told to end.
    pub(super) async fn has_to_end(&self) {
        // Fails only if the sender is gone, and that is ours.
        let _ = self.ending.subscribe().wait_for(|ending| *ending).await;
    }

    /// Ready once a look is due because events were lost, or because the last one failed.
    pub(super) async fn look_is_due(&self) {
        self.look_due.notified().await;
    }

    /// Takes the look that is due.
    pub(super) fn look_again(&self) {
        if self.is_blind() {
            self.resync();
        } else if self.watch().is_look_due() {
            // It may have been taken for somebody's answer meanwhile.
            let _ = self.look_for_lost();
        }
        self.waiting().wake();
    }

    /// Corrects what is known; a failure is remembered.
    pub(super) fn resync(&self) {
        if self.refresh().is_ok() {
            self.drain_events();
            self.tell_sockets(&self.watch());
        }
    }

    /// Guards the ports that the configuration says.
    pub(super) fn begin_guards(&self) {
        let ports = self.settings().guarded();
        let named: Vec<String> = ports.keys().map(Port::to_string).collect();
        let set = self.guards.set(ports, || self.watch().observer().begin_guard());
        let trouble = set.err().map(|why| format!("no guard of {}: {why}", named.join(", ")));
        let works = trouble.is_none();
        self.troubles.note(Part::Guard, trouble);
        if works {
            self.look_after_guards(&self.watch());
        }
    }

    /// Has the guards find out whom to let in.
    fn look_after_guards(&self, watch: &Watching<'_>) {
        self.guards.beat();
        let settings = self.settings();
        let own = |socket: &&Socket| socket.netns.is_none_or(|netns| netns == self.host.netns());
        let held = self.guards.unknown().into_iter().filter_map(|port| {
            let sockets: Vec<Socket> = watch.sockets(port).filter(own).cloned().collect();
            let rules = settings.config.rules(settings.config.ruleset_of(port)).ok()?;
            (!sockets.is_empty()).then_some(Held { port, sockets, rules })
        });
        self.guards.look(held.collect(), &self.host);
    }

    /// Begins to write the history, if one is to be kept; after that no privilege may be given up.
    pub(super) fn begin_store(&self) {
        if let Some(config) = &self.settings().config.history {
            let relieved = self.relieve(config);
            self.store.get_or_init(|| Store::begin(config, self.host.clone(), relieved));
        }
    }

    /// Begins to export, if that is wanted; the history must have been begun.
    pub(super) fn begin_export(self: &Arc<Self>) {
        if let Some(config) = &self.settings().config.export.nats {
            self.export.get_or_init(|| Export::begin(self, config));
        }
    }

    /// The export, if there is one.
    pub(super) fn export(&self) -> Option<&Export> {
        self.export.get()
    }

    /// Takes over what the agent before has left in the kernel, if the configuration says so.
    fn relieve(&self, config: &HistoryConfig) -> Option<Relieved> {
        let pins = config.pins.as_ref()?;
        let mut watch = self.watch();
        let until = watch.known_since();
        match watch.observer().relieve(pins, until) {
            Ok(mut relieved) => {
                // The one before may have followed other ports.
                if let Some(left) = &mut relieved.left {
                    let settings = self.settings();
                    left.events.retain(|event| settings.follows(event.port()));
                }
                Some(relieved)
            }
            Err(error) => {
                let pins = pins.display();
                let trouble = format!("what happens while no agent runs is not kept in {pins}: {error}");
                self.troubles.note(Part::History, Some(trouble));
                None
            }
        }
    }

    /// The history on disk, if one is kept.
    pub(super) fn store(&self) -> Option<&Store> {
        self.store.get()
    }

    /// Tells the history which sockets hold a port. While events are still to be handed over, or what is known may be out of
    /// date, that would be wrong.
    fn tell_sockets(&self, watch: &Watching<'_>) {
        let Some(store) = self.store.get() else { return };
        let settings = self.settings();
        if watch.ready_events() > 0 || self.is_blind() {
            return;
        }
        let held = watch.held_ports().into_iter();
        let sockets = held.flat_map(|port| watch.sockets(port)).cloned().collect();
        let are_all = settings.follows_all() && settings.protocols == Protocol::ALL;
        store.sockets(sockets, (!are_all).then(|| settings.followed()));
    }

    /// What the history has come to, if one is kept.
    pub(super) fn recorded(&self) -> Option<HistoryJson> {
        let store = self.store()?;
        let settings = self.settings();
        let config = settings.config.history.as_ref()?;
        Some(HistoryJson {
            path: store.path.display().to_string(),
            keep_s: config.keep.as_secs(),
            max_size: config.max_size,
            works: store.trouble().is_none(),
            newest: *store.written().borrow(),
        })
    }

    /// What the export has come to, if there is one.
    pub(super) fn exported(&self) -> Option<ExportJson> {
        let Export { config, .. } = self.export()?;
        let counted = &self.metrics.export;
        Some(ExportJson {
            url: config.url.clone(),
            subject: config.subject.to_string(),
            works: self.troubles.of(Part::Export).is_none(),
            sent: counted.sent.get(),
            repeats: counted.repeats.get(),
            dropped: counted.dropped.get(),
            waiting: counted.waiting.get(),
        })
    }

    /// The configuration that is in force.
    pub(super) fn configuration(&self) -> ConfigurationJson {
        let path = self.paths.config.as_deref().unwrap_or(Path::new(Host::CONFIG));
        let agent = &self.settings().config.agent;
        ConfigurationJson {
            path: path.display().to_string(),
            exists: path.exists(),
            group: agent.group.clone(),
            metrics: agent.metrics.map(|at| at.to_string()),
            reload_failed: self.troubles.of(Part::Configuration),
        }
    }

    /// Reads the configuration again, and takes its turn among the looks: ports that are new are looked at.
    pub(super) fn reload(&self) {
        let loaded = Config::load(self.paths.config.as_deref()).and_then(Settings::new);
        match loaded {
            Ok(settings) => {
                let settings = settings.limited_to(self.settings().protocols);
                for warning in settings.config.warnings() {
                    warn!("{warning}");
                }
                self.metrics.know(&settings.ports());
                let ports = settings.followed();
                let waiting = self.waiting();
                let settings = Arc::new(settings);
                {
                    // An event is judged wholly by the old configuration or wholly by the new one.
                    let mut watch = self.watch();
                    if let Err(error) = watch.set_ports(&ports, &mut Context::from_waker(&waiting)) {
                        warn!(%error, "the new configuration's ports can't be watched");
                    }
                    *self.settings.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&settings);
                    self.makers.forget();
                }
                info!(ports = settings.described(), "configuration reloaded");
                match (&settings.config.history, self.store.get()) {
                    (Some(config), Some(store)) => store.limit(config),
                    (None, None) => {}
                    _ => warn!("whether a history is kept takes effect at the agent's next start"),
                }
                if settings.config.export.nats.as_ref() != self.export.get().map(|export| &export.config) {
                    warn!("what the configuration says of the export takes effect at the agent's next start");
                }
                self.begin_guards();
                self.troubles.note(Part::Configuration, None);
            }
            Err(error) => {
                let trouble = format!("the reload failed; keeping the previous configuration: {error}");
                self.troubles.note(Part::Configuration, Some(trouble));
            }
        }
        if !self.is_ending() {
            Host::notify(ServiceState::Ready(&self.status_line()));
        }
    }

    pub(super) fn status_line(&self) -> String {
        format!("watching {} by {}", self.settings().described(), self.backend.name())
    }
}

/// What is watched, for one thread at a time.
pub(super) struct Watching<'a> {
    // Fields are dropped in this order: it is given back before the loop is woken.
    watch: MutexGuard<'a, Watch<dyn AgentObserver>>,
    _after: WakeLoop<'a>,
}

impl std::ops::Deref for Watching<'_> {
    type Target = Watch<dyn AgentObserver>;

    fn deref(&self) -> &Self::Target {
        &self.watch
    }
}

impl std::ops::DerefMut for Watching<'_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.watch
    }
}

/// Wakes the loop, if it wanted what was in use.
struct WakeLoop<'a>(&'a Agent);

impl Drop for WakeLoop<'_> {
    fn drop(&mut self) {
        if self.0.missed.swap(false, Ordering::SeqCst) {
            self.0.waiting().wake();
        }
    }
}

/// What is left out here, and of other network namespaces, in words.
fn what_is_left_out((here, elsewhere): (bool, bool)) -> Option<&'static str> {
    match (here, elsewhere) {
        (false, false) => None,
        (false, true) => Some(
            "there are more sockets or holders in other network namespaces than are kept account of; answers about those \
             ports there say so",
        ),
        (true, _) => Some(
            "there are more sockets or holders on watched ports than are kept account of; answers about those ports say so",
        ),
    }
}

/// An observer, what it can't do, and of which protocols it can follow ports.
type Observed = (Box<dyn AgentObserver>, Vec<String>, &'static [Protocol]);

/// Observes by kernel events in all network namespaces, else by polling in this one. UDP's hooks can be missing where TCP's
/// are not: UDP ports are then not followed.
fn observe(host: &Host, settings: &Settings, pace: Duration) -> Result<Observed, ObserveError> {
    const TCP_ALONE: &[Protocol] = &[Protocol::Tcp];
    let ports = settings.followed();
    let by_events = || host.by_events_everywhere(&ports, &Protocol::ALL);
    let chosen = choose(BackendChoice::Auto, by_events, || host.by_polling(&ports, pace))?;
    let Chosen { observer, mut losses, fallback } = chosen;
    let Some(error) = fallback else { return Ok((observer, losses, &Protocol::ALL)) };
    let tcp: Vec<Port> = ports.into_iter().filter(|port| port.protocol == Protocol::Tcp).collect();
    if let Ok((observer, mut losses)) = host.by_events_everywhere(&tcp, TCP_ALONE) {
        losses.push(format!("UDP ports are not followed: {error}"));
        return Ok((observer, losses, TCP_ALONE));
    }
    losses.push(format!("{error}; ports are polled every {pace:?}"));
    Ok((observer, losses, &Protocol::ALL))
}
