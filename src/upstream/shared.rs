//! What all workers share of the upstream side: permits, the breaker, the supervisor, and what is known of the server.
//!
//! Nobody waits for a lock here on the path of a request: that reads two atomics, the breaker's view and the link. Locks are
//! taken at dial, at close, ten times a second for each connection, and while the breaker is half-open.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::time::{Instant, sleep, timeout};

use super::Event;
use super::absence::Absence;
use super::breaker::{self, Breaker, Change, Guard, Reason, State, View};
use super::connect::{Identity, Protocol, Target};
use super::error::Error;
use super::pool::Permits;
use super::quota::Quota;
use super::resolve::Resolver;
use super::subscription::OnLoss;
use super::supervisor::{DialFailure, Link, Supervisor};
use crate::observe::metrics::Metrics;

/// Dials under way at once in the whole process.
const DIALS: usize = 2;

/// How often time is told to the breaker and the supervisor, at least.
const LOOK: Duration = Duration::from_millis(100);

/// Settings of the upstream side.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where Redis is.
    pub target: Target,
    /// Most upstream connections of the process.
    pub pool_size: usize,
    /// Dial and handshake together.
    pub connect_timeout: Duration,
    /// What a request may take in all: waiting, dialling, the reply.
    pub request_timeout: Duration,
    /// The same for a command that may honestly take long.
    pub slow_request_timeout: Duration,
    /// When the breaker trips, and for how long.
    pub breaker: breaker::Settings,
    /// Databases that are accepted unseen while Redis cannot be asked: 0 to this, exclusive.
    pub databases: u32,
    /// Workers that share the pool.
    pub workers: usize,
    /// Our host's name, as CLIENT LIST on the server shows it.
    pub host: String,
    /// What becomes of subscribers whose upstream connection is lost.
    pub on_loss: OnLoss,
    /// Longest message that is handed on, in bytes; who would hear a longer one is disconnected.
    pub longest_message: usize,
}

/// Who has which connection for itself: the server's ids by those that clients know, and the other way round.
#[derive(Default)]
struct Lessees {
    connections: HashMap<u64, u64>,
    clients: HashMap<u64, u64>,
}

/// What went wrong with a connection.
#[derive(Debug, Clone)]
pub(super) struct Problem {
    pub(super) at: Instant,
    pub(super) text: String,
    /// What it was, as labels have it.
    pub(super) kind: &'static str,
    /// How a dial failed, if it was one.
    pub(super) dial: Option<DialFailure>,
}

/// What all workers share.
pub(crate) struct Shared {
    pub(super) config: Config,
    pub(super) metrics: Arc<Metrics>,
    pub(super) permits: Arc<Permits>,
    pub(super) quota: Arc<Quota>,
    pub(super) dials: Semaphore,
    /// Whose turn it is with the control connection.
    pub(super) control: Semaphore,
    pub(super) identity: Identity,
    pub(super) resolver: Arc<Resolver>,
    pub(super) guard: Arc<Guard>,
    supervisor: Mutex<Supervisor>,
    /// The supervisor's link, to be looked at without the lock.
    link: AtomicU8,
    /// Something changed that the supervisor's loop has to know.
    news: Notify,
    /// Where each worker takes its events.
    workers: OnceLock<Vec<mpsc::UnboundedSender<Event>>>,
    origin: Instant,
    /// When something last came from the server, in microseconds since `origin`.
    heard: AtomicU64,
    /// When the latest question was asked that the server has answered, in the same.
    proved: AtomicU64,
    /// When the server was asked for the last PONG that did not come in time; 0 if each has.
    unanswered: AtomicU64,
    /// Connections in service.
    usable: AtomicUsize,
    /// One ever was.
    was_usable: AtomicBool,
    /// The worker that last had a request and no connection for it.
    demand: AtomicUsize,
    /// Attempts that are carried on in the background, at servers that took a connection and say nothing.
    pub(super) lingering: AtomicUsize,
    /// Changes of subscriptions of which their worker's subscription connection does not know yet.
    pub(super) unsettled: AtomicUsize,
    /// Counts how often all connections were given up because the server had become a replica.
    pub(super) renewals: AtomicU32,
    /// What the server calls the connection that a client has for itself, by the id that the client knows.
    lessees: Mutex<Lessees>,
    /// Clients that wait for one to block on.
    queued: Mutex<HashSet<u64>>,
    /// Counts how often subscribers were subscribed again after having heard nothing for a while.
    pub(super) gaps: AtomicU64,
    /// How often each worker has looked after its connections: one that does so no more is stuck.
    beats: Box<[AtomicU64]>,
    /// What went wrong last, for people.
    problem: Mutex<Option<Problem>>,
    /// The reply to COMMAND that was seen last, in RESP2 and in RESP3.
    commands: Mutex<[Option<Arc<[u8]>>; 2]>,
}

impl Shared {
    pub(crate) fn new(config: Config, metrics: Arc<Metrics>, seed: u64) -> Arc<Self> {
        let now = Instant::now();
        let breaker = Breaker::new(config.breaker.clone(), seed, now);
        if breaker.view().state == State::Isolated {
            metrics.begins_open();
        }
        Arc::new(Self {
            permits: Permits::new(config.pool_size),
            quota: Quota::new(config.pool_size, config.workers),
            dials: Semaphore::new(DIALS),
            control: Semaphore::new(1),
            identity: Identity::default(),
            resolver: Arc::default(),
            guard: Guard::new(breaker),
            supervisor: Mutex::new(Supervisor::new(seed, now)),
            link: AtomicU8::new(Link::Unknown as u8),
            news: Notify::new(),
            workers: OnceLock::new(),
            origin: now,
            heard: AtomicU64::new(0),
            proved: AtomicU64::new(0),
            unanswered: AtomicU64::new(0),
            usable: AtomicUsize::new(0),
            was_usable: AtomicBool::new(false),
            demand: AtomicUsize::new(0),
            lingering: AtomicUsize::new(0),
            unsettled: AtomicUsize::new(0),
            renewals: AtomicU32::new(0),
            lessees: Mutex::default(),
            queued: Mutex::default(),
            gaps: AtomicU64::new(0),
            beats: (0..config.workers).map(|_| AtomicU64::new(0)).collect(),
            problem: Mutex::default(),
            commands: Mutex::default(),
            metrics,
            config,
        })
    }

    /// Tells where the workers take their events; once, before clients are taken in.
    pub(crate) fn connect_workers(&self, workers: Vec<mpsc::UnboundedSender<Event>>) {
        // A second call would change nothing.
        let _ = self.workers.set(workers);
    }

    /// What the server said of itself, once it was reached.
    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// What is counted.
    pub(crate) fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// The database of a client that never said SELECT.
    pub(crate) fn default_database(&self) -> u32 {
        self.config.target.database
    }

    /// Databases that are accepted unseen while Redis cannot be asked: 0 to this, exclusive.
    pub(crate) fn databases(&self) -> u32 {
        self.config.databases
    }

    /// How many leases are held for each cause, for people.
    pub(crate) fn leases(&self) -> String {
        self.quota.summary()
    }

    /// Connections a worker may keep while another waits for a permit.
    pub(super) fn fair_share(&self) -> usize {
        (self.permits.total() / self.config.workers.max(1)).max(1)
    }

    /// The breaker, at a glance.
    pub(super) fn view(&self) -> View {
        self.guard.view()
    }

    /// Tells the breaker of something that counts against Redis, for that reason.
    pub(super) fn blame(&self, reason: &str, what: impl FnOnce(&mut Breaker)) {
        self.metrics.failures.with_label_values(&[reason]).inc();
        self.tell(what);
    }

    /// Tells the breaker something, and everybody what became of it.
    pub(super) fn tell(&self, what: impl FnOnce(&mut Breaker)) {
        let ((), change) = self.guard.with(what);
        change.into_iter().for_each(|change| self.announce(change));
    }

    /// Logs a change of the breaker and tells the workers.
    pub(super) fn announce(&self, change: Change) {
        let (from, state) = (change.from.label(), change.to.label());
        self.metrics.breaker_changed((from, state), change.reason.label(), change.why());
        let next_dial_ms = self.next_dial_ms(Instant::now()).filter(|_| change.to == State::Open);
        if change.to == State::Open && change.reason != Reason::Released {
            tracing::warn!(state, from, reason = change.why(), next_dial_ms, "breaker");
        } else {
            tracing::info!(state, from, reason = change.why(), next_dial_ms, "breaker");
        }
        self.broadcast(|| Event::Breaker(change));
        self.news.notify_one();
    }

    /// Tells the supervisor something, and everybody if the link changed.
    pub(super) fn supervise<R>(&self, what: impl FnOnce(&mut Supervisor) -> R) -> R {
        let result = self.ask(what);
        self.news.notify_one();
        result
    }

    /// As [`Shared::supervise`], for what does not change when the next probe is due.
    pub(super) fn ask<R>(&self, what: impl FnOnce(&mut Supervisor) -> R) -> R {
        let mut supervisor = locked(&self.supervisor);
        let result = what(&mut supervisor);
        let link = supervisor.link();
        let before = self.link.swap(link as u8, Ordering::AcqRel);
        drop(supervisor);
        if before != link as u8 {
            tracing::debug!(?link, "link");
            self.broadcast(|| Event::Link);
        }
        result
    }

    /// Whether there is a connection, as far as anybody knows.
    pub(super) fn link(&self) -> Link {
        match self.link.load(Ordering::Acquire) {
            link if link == Link::Up as u8 => Link::Up,
            link if link == Link::Doubtful as u8 => Link::Doubtful,
            link if link == Link::Down as u8 => Link::Down,
            link if link == Link::Recovering as u8 => Link::Recovering,
            _ => Link::Unknown,
        }
    }

    /// Whether a request without a connection should wait for one.
    pub(super) fn is_worth_waiting(&self, now: Instant) -> bool {
        match self.link() {
            Link::Up => true,
            Link::Down | Link::Recovering => false,
            Link::Unknown | Link::Doubtful => self.ask(|supervisor| supervisor.is_worth_waiting(now)),
        }
    }

    /// Notes that a worker is at work.
    pub(super) fn beat(&self, worker: usize) {
        if let Some(beats) = self.beats.get(worker) {
            beats.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How often each worker has been at work: ten times a second, from its start on.
    pub(crate) fn beats(&self) -> Vec<u64> {
        self.beats.iter().map(|beats| beats.load(Ordering::Relaxed)).collect()
    }

    /// Notes what went wrong with a connection, or a dial.
    pub(super) fn note_problem(&self, error: &Error, dial: bool, now: Instant) {
        let problem = Problem {
            at: now,
            text: error.to_string(),
            kind: error.reason(),
            dial: dial.then(|| error.dial_failure()),
        };
        *locked(&self.problem) = Some(problem);
    }

    /// What went wrong last.
    pub(super) fn problem(&self) -> Option<Problem> {
        locked(&self.problem).clone()
    }

    /// Sends an event to one worker; dropped if there is none of that number.
    pub(super) fn send_to(&self, worker: usize, event: Event) {
        let workers = self.workers.get().map(Vec::as_slice).unwrap_or_default();
        if let Some(worker) = workers.get(worker) {
            // A worker only ends with the process.
            drop(worker.send(event));
        }
    }

    /// Sends an event to every worker.
    pub(super) fn broadcast(&self, event: impl Fn() -> Event) {
        for worker in self.workers.get().into_iter().flatten() {
            // A worker only ends with the process.
            drop(worker.send(event()));
        }
    }

    /// Notes that something came from the server.
    pub(super) fn hear(&self, now: Instant) {
        self.heard.fetch_max(self.micros(now), Ordering::Relaxed);
    }

    /// When something last came from the server, to any worker.
    pub(super) fn last_heard(&self) -> Option<Instant> {
        let micros = self.heard.load(Ordering::Relaxed);
        self.was_usable().then(|| self.origin + Duration::from_micros(micros))
    }

    /// True if something came from the server, to any worker, after `instant`.
    pub(super) fn heard_since(&self, instant: Instant) -> bool {
        self.heard.load(Ordering::Relaxed) > self.micros(instant)
    }

    /// Notes that the server has not answered in time a PING that it was asked then.
    pub(super) fn note_silence(&self, asked: Instant) {
        self.unanswered.fetch_max(self.micros(asked), Ordering::Relaxed);
    }

    /// True if nothing was heard since the server was asked a PING that it did not answer in time.
    pub(super) fn is_silent(&self) -> bool {
        let unanswered = self.unanswered.load(Ordering::Relaxed);
        unanswered > 0 && unanswered >= self.heard.load(Ordering::Relaxed)
    }

    /// When the last PING was asked that was not answered in time.
    pub(super) fn silent_since(&self) -> Instant {
        self.origin + Duration::from_micros(self.unanswered.load(Ordering::Relaxed))
    }

    /// Notes that the server has answered what it was asked then.
    pub(super) fn prove(&self, asked: Instant) {
        self.proved.fetch_max(self.micros(asked), Ordering::Relaxed);
    }

    /// True if the server has answered something that it was asked after `instant`, whatever it still owes: it is not slow,
    /// and does not hang.
    pub(super) fn is_proved_since(&self, instant: Instant) -> bool {
        self.proved.load(Ordering::Relaxed) >= self.micros(instant)
    }

    fn micros(&self, instant: Instant) -> u64 {
        u64::try_from(instant.saturating_duration_since(self.origin).as_micros()).unwrap_or(u64::MAX)
    }

    /// One connection more, or less, is in service.
    pub(super) fn count_usable(&self, more: bool) {
        if more {
            self.was_usable.store(true, Ordering::Relaxed);
            self.usable.fetch_add(1, Ordering::AcqRel);
        } else {
            self.usable.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// Connections in service in the whole process.
    pub(super) fn usable(&self) -> usize {
        self.usable.load(Ordering::Acquire)
    }

    /// True if any connection ever was.
    pub(super) fn was_usable(&self) -> bool {
        self.was_usable.load(Ordering::Relaxed)
    }

    /// True if any connection of the process is in service.
    pub(super) fn has_usable(&self) -> bool {
        self.usable() > 0
    }

    /// Notes that a worker has requests and no connection: the next probe is to be its.
    pub(super) fn demand(&self, worker: usize) {
        if self.demand.load(Ordering::Relaxed) != worker {
            self.demand.store(worker, Ordering::Relaxed);
        }
    }

    /// Notes that a client has a connection for itself, which the server knows by this id, or has it no more.
    pub(super) fn note_lessee(&self, client: u64, connection: Option<u64>) {
        let Lessees { connections, clients } = &mut *locked(&self.lessees);
        let before = match connection {
            Some(connection) => {
                clients.insert(connection, client);
                connections.insert(client, connection)
            }
            None => connections.remove(&client),
        };
        if let Some(before) = before.filter(|before| connection != Some(*before)) {
            clients.remove(&before);
        }
    }

    /// What the server calls the connection that a client has for itself, if it has one.
    pub(crate) fn connection_of(&self, client: u64) -> Option<u64> {
        locked(&self.lessees).connections.get(&client).copied()
    }

    /// Notes that a client waits for a lease to block on, or does so no more.
    pub(super) fn note_queued(&self, client: u64, waits: bool) {
        let mut queued = locked(&self.queued);
        if waits {
            queued.insert(client)
        } else {
            queued.remove(&client)
        };
    }

    /// Ends a client's wait for a lease to block on, whichever worker has it; false if it does not wait for one.
    pub(crate) fn unblock(&self, client: u64, with_error: bool) -> bool {
        let waits = locked(&self.queued).contains(&client);
        if waits {
            self.broadcast(|| Event::Unblock(client, with_error));
        }
        waits
    }

    /// The client that has this connection for itself.
    pub(crate) fn client_of(&self, connection: u64) -> Option<u64> {
        locked(&self.lessees).clients.get(&connection).copied()
    }

    /// The reply to COMMAND that was seen last.
    pub(crate) fn commands(&self, protocol: Protocol) -> Option<Arc<[u8]>> {
        let [resp2, resp3] = &*locked(&self.commands);
        if protocol == Protocol::Resp3 { resp3.clone() } else { resp2.clone() }
    }

    /// Keeps a reply to COMMAND.
    pub(super) fn learn_commands(&self, protocol: Protocol, reply: &[u8]) {
        // An error is no list of commands.
        if reply.starts_with(b"*") {
            let [resp2, resp3] = &mut *locked(&self.commands);
            *(if protocol == Protocol::Resp3 { resp3 } else { resp2 }) = Some(reply.into());
        }
    }

    /// The password is another one: a server that refused the last may be asked again.
    pub(crate) fn password_changed(&self) {
        self.supervise(|supervisor| supervisor.hurry(Instant::now()));
    }

    /// Waits while the operator keeps us from Redis.
    pub(crate) async fn not_isolated(&self) {
        while self.view().state == State::Isolated {
            sleep(LOOK).await;
        }
    }

    /// Waits until there is a connection.
    pub(crate) async fn reached(&self) {
        while !matches!(self.link(), Link::Up | Link::Recovering) {
            sleep(LOOK / 2).await;
        }
    }

    /// The supervisor's loop: tells time, and sends a worker to probe when it is due. Never ends.
    pub(crate) async fn watch(self: Arc<Self>) {
        let mut absence = Absence::default();
        loop {
            let now = Instant::now();
            self.tell(|breaker| breaker.tick(now));
            self.tell_of_absence(&mut absence, now);
            let stranded = self.view().state == State::Open && !self.has_usable();
            let due = self.ask(|supervisor| {
                if stranded {
                    // Requests are refused, so nobody will miss a connection and dial.
                    supervisor.lost(false, true, now);
                }
                supervisor.settled(now);
                supervisor.next_probe(now)
            });
            let (may, _) = self.guard.with(|breaker| breaker.may_probe(now));
            if may && due.is_some_and(|due| due <= now) {
                let worker = self.demand.load(Ordering::Relaxed);
                self.send_to(worker, Event::Probe);
                // The worker says in a moment whether it could; it may have no permit.
                sleep(LOOK / 5).await;
                continue;
            }
            let wait = due.filter(|_| may).map_or(LOOK, |due| due.saturating_duration_since(now)).min(LOOK);
            // What wakes us before is news that may change when the next probe is due.
            let _ = timeout(wait, self.news.notified()).await;
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that runs under these locks can panic half-way, so a poisoned one still guards good data.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
