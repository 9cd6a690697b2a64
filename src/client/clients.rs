//! One worker's clients: who is there, and the handing out of replies to them.

use std::collections::{BTreeSet, HashMap};
use std::mem;
use std::ops::Range;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use slab::Slab;
use tokio::time::Instant;

use super::Config;
use super::listener::label;
use super::session::{Departure, Session, TURN_BYTES};
use super::state::State;
use crate::buffer::{CHUNK, ChunkPool, Memory, Owner};
use crate::command::degrade::Policy;
use crate::command::deny::Denied;
use crate::lifecycle::Stage;
use crate::observe::cells::{Cells, Outcome};
use crate::observe::metrics::Metrics;
use crate::resp::request::Limits;
use crate::secret::Secret;
use crate::transport::Transport;
use crate::upstream::{
    ClientKey, ConnectionId, Failure, InFlight, LaneKey, Parts, Protocol, Replies, Shared, Topics, Upstream, Verdict,
};

/// A client that owes us the reading of more than this must make progress, in bytes.
const SLOW_BACKLOG: usize = 1024 * 1024;

/// How long such a client may take nothing at all, in ticks of 100 ms.
const STALLED: u32 = 300;

/// How long one may take nothing while memory is short, in ticks of 100 ms.
const STUCK: u32 = 10;

/// Room for a batch of messages that is kept from one to the next, in bytes; more only for a message that is longer.
const MAX_PUSHES: usize = 256 * 1024;

/// What was denied is logged no more often, in ticks of 100 ms.
const REPORT_EVERY: u32 = 100;

/// How long a session lingers after its last reply, in ticks of 100 ms.
const LINGER: u32 = 10;

/// What the sessions of a worker share: buffers, settings, and lists of those that need looking after.
pub(super) struct Env {
    pub(super) pool: ChunkPool,
    /// Limits of a client's requests, and of those of one that has yet to say who it is.
    pub(super) limits: Limits,
    pub(super) stranger_limits: Limits,
    pub(super) password: Option<Secret>,
    pub(super) output_limit: usize,
    /// What clients are answered while Redis cannot be asked.
    pub(super) policy: Rc<Policy>,
    /// Every client has an upstream connection for itself.
    pub(super) dedicated: bool,
    /// What no client may ask for, and how often one did since that was last logged.
    pub(super) denied: Option<Denied>,
    pub(super) denials: u64,
    /// Clients that spoke HTTP and that the log has not told of yet.
    pub(super) foreigners: u64,
    pub(super) upstream: Arc<Shared>,
    pub(super) metrics: Arc<Metrics>,
    /// What this worker counts.
    pub(super) cells: Arc<Cells>,
    /// The time of this turn, as tags of requests have it.
    pub(super) clock: u64,
    pub(super) census: Arc<Census>,
    /// How far the process is with taking its leave.
    pub(super) stage: Stage,
    /// Borrowed by whoever reads.
    pub(super) read_buffer: Box<[u8]>,
    /// Requests rewritten in canonical form.
    pub(super) rewritten: Vec<u8>,
    /// A reply being built.
    pub(super) reply: Vec<u8>,
    pub(super) answer: Vec<u8>,
    /// Tenths of a second since the worker began.
    pub(super) tick: u32,
    /// Sessions whose requests wait for a connection.
    pub(super) blocked: Vec<ClientKey>,
    /// Sessions whose large requests wait for memory.
    pub(super) thirsty: Vec<ClientKey>,
    /// Sessions that linger, and since when.
    pub(super) lingering: Vec<(ClientKey, u32)>,
    /// Sessions that make us hold much.
    watched: Vec<Watched>,
}

struct Watched {
    key: ClientKey,
    /// How far it had got at the last look, and the tick since when it has not got on.
    progress: u64,
    stuck_since: u32,
}

impl Env {
    /// Counts what became of a request that was sent once more.
    fn note_repeat(&self, entry: InFlight, result: &str) {
        let reason = match entry.traits {
            traits if traits.is_refused() => "refused",
            traits if traits.is_repeatable() => "read",
            _ => "not_sent",
        };
        self.metrics.retries.with_label_values(&[reason, result]).inc();
    }

    /// Watches over a client that makes us hold much; each is told of once.
    pub(super) fn watch(&mut self, key: ClientKey, progress: u64) {
        self.watched.push(Watched { key, progress, stuck_since: self.tick });
    }
}

/// Counts that all workers and the listeners share.
#[derive(Debug, Default)]
pub(crate) struct Census {
    /// Clients of the process.
    pub(crate) clients: AtomicUsize,
    /// Those of them that came over a strict listener.
    pub(crate) strict: AtomicUsize,
    /// The next CLIENT ID.
    pub(crate) next_id: AtomicU64,
    /// Those that are here, by their ids.
    known: Mutex<HashMap<u64, Known>>,
}

/// What CLIENT KILL may ask of a client.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    /// When it came.
    pub(super) since: Instant,
    /// It is subscribed to something.
    pub(super) hears: bool,
}

impl Census {
    /// Nobody is here, and the first to come gets this id.
    pub(crate) fn new(first_id: u64) -> Self {
        Self { next_id: AtomicU64::new(first_id), ..Self::default() }
    }

    /// How many came over ordinary and over strict listeners, as metrics have these.
    pub(crate) fn by_listener(&self) -> [(&'static str, usize); 2] {
        let strict = self.strict.load(Ordering::Relaxed);
        [(label(false), self.count().saturating_sub(strict)), (label(true), strict)]
    }

    /// How many clients the process has.
    pub(crate) fn count(&self) -> usize {
        self.clients.load(Ordering::Relaxed)
    }

    /// What is known of the client of this id, if it is here.
    pub(super) fn find(&self, id: u64) -> Option<Known> {
        self.known().get(&id).copied()
    }

    /// Notes whether a client is subscribed to something.
    pub(super) fn note_hearing(&self, id: u64, hears: bool) {
        self.known().get_mut(&id).into_iter().for_each(|known| known.hears = hears);
    }

    /// A client is ended, and so not to be found any more.
    pub(super) fn forget(&self, id: u64) {
        self.known().remove(&id);
    }

    fn known(&self) -> MutexGuard<'_, HashMap<u64, Known>> {
        // Nothing that runs under the lock can panic half-way, so a poisoned one still guards good data.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All clients of one worker.
pub(crate) struct Clients {
    sessions: Slab<Box<Session>>,
    generation: u32,
    /// Slots of the sessions that got something in this batch.
    dirty: Vec<u32>,
    /// This batch of messages as far as clients in RESP3 hear it: the same bytes at the same places, as pushes.
    pushes: Vec<u8>,
    env: Env,
    census: Arc<Census>,
    /// Clients of this worker, for the listeners' choice.
    count: Arc<AtomicUsize>,
}

impl Clients {
    pub(crate) fn new(
        config: &Config,
        upstream: Arc<Shared>,
        memory: Arc<Memory>,
        census: Arc<Census>,
        (worker, count): (usize, Arc<AtomicUsize>),
    ) -> Self {
        let metrics = Arc::clone(upstream.metrics());
        let env = Env {
            pool: ChunkPool::new(memory, Owner::Clients),
            limits: Limits::default(),
            stranger_limits: Limits { authenticated: false, ..Limits::default() },
            password: config.password.clone(),
            output_limit: config.output_limit,
            policy: Rc::new(config.degrade.clone()),
            dedicated: config.dedicated,
            denied: config.denied.clone(),
            denials: 0,
            foreigners: 0,
            upstream,
            cells: metrics.worker(worker),
            metrics,
            clock: 0,
            census: Arc::clone(&census),
            stage: Stage::Serving,
            read_buffer: vec![0; TURN_BYTES].into_boxed_slice(),
            rewritten: Vec::new(),
            reply: Vec::new(),
            answer: Vec::new(),
            tick: 0,
            blocked: Vec::new(),
            thirsty: Vec::new(),
            lingering: Vec::new(),
            watched: Vec::new(),
        };
        Self { sessions: Slab::new(), generation: 0, dirty: Vec::new(), pushes: Vec::new(), env, census, count }
    }

    /// Takes in a client, which was counted when it was accepted; it needs a task that drives it.
    ///
    /// `strict`: it gets the error while Redis cannot be asked, and never an empty answer.
    pub(crate) fn admit(&mut self, transport: Transport, strict: bool, upstream: &mut Upstream) -> ClientKey {
        self.generation = self.generation.wrapping_add(1);
        let database = upstream.shared().default_database();
        let id = self.census.next_id.fetch_add(1, Ordering::Relaxed);
        let state = State::new(id, database, self.env.password.is_none());
        self.census.known().insert(id, Known { since: state.since, hears: false });
        let lane = upstream.lane(LaneKey { database, protocol: Protocol::Resp2 });
        let slot = self.sessions.vacant_entry();
        let key = ClientKey { slot: u32::try_from(slot.key()).unwrap_or(u32::MAX), generation: self.generation };
        slot.insert(Box::new(Session::new(key, transport, state, strict, lane)));
        key
    }

    /// One turn of a client's task; ready when the client is gone.
    pub(crate) fn drive(&mut self, key: ClientKey, cx: &mut Context<'_>, upstream: &mut Upstream) -> Poll<()> {
        let Some(session) = self.sessions.get_mut(key.slot as usize).filter(|session| session.key == key) else {
            return Poll::Ready(());
        };
        upstream.look();
        if session.drive(cx, upstream, &mut self.env).is_pending() {
            return Poll::Pending;
        }
        self.env.metrics.departed.with_label_values(&[session.departure().name()]).inc();
        let strict = session.is_strict();
        session.leave_feed(upstream);
        session.release(&mut self.env);
        self.env.census.forget(session.id());
        self.sessions.remove(key.slot as usize);
        // What it had for itself ends with it, at once.
        upstream.renounce(key);
        upstream.bury();
        if self.sessions.is_empty() {
            self.sessions = Slab::new();
        }
        self.forget_one(strict);
        Poll::Ready(())
    }

    /// The process takes its leave: everybody looks whether it is at rest.
    pub(crate) fn part(&mut self, stage: Stage) {
        self.env.stage = stage;
        self.sessions.iter().for_each(|(_, session)| session.wake());
    }

    /// Takes back the count of a client that is gone, or could not be admitted.
    pub(crate) fn forget_one(&self, strict: bool) {
        self.census.clients.fetch_sub(1, Ordering::Relaxed);
        self.census.strict.fetch_sub(usize::from(strict), Ordering::Relaxed);
        self.count.fetch_sub(1, Ordering::Relaxed);
    }

    /// Housekeeping, ten times a second.
    pub(crate) fn tick(&mut self, upstream: &Upstream) {
        let sessions = &mut self.sessions;
        self.env.blocked.retain(|key| find(sessions, *key).is_some_and(|session| session.is_blocked(upstream)));
        let env = &mut self.env;
        env.tick += 1;
        let tick = env.tick;
        if tick.is_multiple_of(10) {
            env.pool.trim();
            self.pushes = Vec::new();
        }
        if env.denials > 0 && tick.is_multiple_of(REPORT_EVERY) {
            tracing::warn!(requests = mem::take(&mut env.denials), "refused what --deny-commands denies");
        }
        if env.foreigners > 0 && tick.is_multiple_of(REPORT_EVERY) {
            let clients = mem::take(&mut env.foreigners);
            tracing::warn!(clients, "closed connections that speak HTTP: possibly a cross-protocol attack");
        }
        let sessions = &mut self.sessions;
        if env.pool.memory().is_tight() {
            relieve(sessions, &env.watched, env.pool.memory().excess(), tick);
            env.thirsty.retain(|key| find(sessions, *key).is_some());
        } else {
            for key in env.thirsty.drain(..) {
                if let Some(session) = find(sessions, key) {
                    session.thirsty = false;
                    session.wake();
                }
            }
        }
        env.lingering.retain(|(key, since)| {
            let Some(session) = find(sessions, *key) else { return false };
            // Who is closed by us, and not by itself, may have been given an element already.
            let is_owed = env.stage != Stage::Serving && session.is_owed();
            let over = tick - since >= if is_owed { upstream.limit() } else { LINGER };
            if over {
                session.kill(Departure::Client);
            }
            !over
        });
        env.watched.retain_mut(|watched| {
            let Some(session) = find(sessions, watched.key) else { return false };
            session.watched = session.holding() > CHUNK;
            if session.progress != watched.progress {
                (watched.progress, watched.stuck_since) = (session.progress, tick);
            } else if session.backlog() > SLOW_BACKLOG && tick - watched.stuck_since >= STALLED {
                let backlog = session.backlog();
                tracing::warn!(backlog, "disconnecting a client that has stopped reading its replies");
                session.kill(Departure::OutputLimit);
            }
            session.watched
        });
    }
}

/// While memory is short, whoever holds most of it has to go: one at a time, and only one that holds much and has not got on
/// for a second. Beyond the budget it is as many as it takes, the largest first. Everybody else goes on meanwhile.
fn relieve(sessions: &mut Slab<Box<Session>>, watched: &[Watched], excess: usize, tick: u32) {
    let mut holders = Vec::new();
    for watched in watched {
        holders.extend(find(sessions, watched.key).map(|session| (session.holding(), watched)));
    }
    holders.retain(|(held, watched)| excess > 0 || (*held >= SLOW_BACKLOG && tick - watched.stuck_since >= STUCK));
    holders.sort_by_key(|(held, _)| std::cmp::Reverse(*held));
    let mut freed = 0;
    for (holding, watched) in holders {
        if let Some(session) = find(sessions, watched.key) {
            tracing::warn!(holding, "buffer memory is short: disconnecting the client that holds most of it");
            session.kill(Departure::OutputLimit);
        }
        freed += holding;
        if freed >= excess {
            break;
        }
    }
}

fn find(sessions: &mut Slab<Box<Session>>, key: ClientKey) -> Option<&mut Session> {
    sessions.get_mut(key.slot as usize).filter(|session| session.key == key).map(Box::as_mut)
}

/// Counts a request whose reply nobody waits for any more. Its beginning may be gone, so that it is not looked into.
pub(super) fn count_dropped(entry: InFlight, env: &Env) {
    env.cells.tombstones.add(1);
    let outcome = if entry.traits.is_queued() { Outcome::Local } else { Outcome::Ok };
    env.cells.settled(entry.tag(), outcome, env.clock);
}

/// Counts a request by its reply, as far as that is at hand. What is queued in a transaction is only noted by the server.
pub(super) fn count_reply(entry: InFlight, reply: &[u8], env: &Env) {
    match entry.traits.is_queued() {
        true => env.cells.settled(entry.tag(), Outcome::Local, env.clock),
        false => env.cells.answered(entry.tag(), reply, env.clock),
    }
}

impl Replies for Clients {
    fn clock(&mut self, now: Instant) {
        if !self.env.cells.is_off() {
            self.env.clock = self.env.cells.micros(now);
        }
    }

    fn slow(&mut self, entry: InFlight, request: &[u8], parts: Parts) {
        if let Some(session) = find(&mut self.sessions, entry.client) {
            session.note_slow(entry, request, parts, &self.env);
        }
    }

    fn deliver(&mut self, entry: InFlight, buffer: &[u8], range: Range<usize>, complete: bool) {
        let Some(session) = find(&mut self.sessions, entry.client) else {
            // A client that left has a tombstone here: its reply is dropped.
            if complete {
                count_dropped(entry, &self.env);
            }
            return;
        };
        if complete && entry.traits.is_repeated() {
            self.env.note_repeat(entry, "ok");
        }
        session.deliver(entry, buffer, range, complete, &mut self.env);
        if !session.dirty {
            session.dirty = true;
            self.dirty.push(entry.client.slot);
        }
    }

    fn fail(&mut self, entry: InFlight, request: &[u8], failure: Failure, buffer: &[u8]) {
        let Some(session) = find(&mut self.sessions, entry.client) else {
            self.env.cells.settled(entry.tag(), failure.for_metrics(), self.env.clock);
            return;
        };
        if entry.traits.is_repeated() {
            self.env.note_repeat(entry, "failed");
        }
        session.fail(entry, request, failure, buffer, &mut self.env);
        if !session.dirty {
            session.dirty = true;
            self.dirty.push(entry.client.slot);
        }
    }

    fn push(&mut self, client: ClientKey, buffer: &[u8], range: Range<usize>, complete: bool) {
        let Some(session) = find(&mut self.sessions, client) else { return };
        session.push(buffer, range, complete, &mut self.env);
        if !session.dirty {
            session.dirty = true;
            self.dirty.push(client.slot);
        }
    }

    fn rotate(&mut self, client: ClientKey, request: Vec<u8>, left: Option<Duration>) -> bool {
        find(&mut self.sessions, client).is_some_and(|session| session.rotate(request, left, self.env.stage))
    }

    fn kill(&mut self, client: u64) -> Option<(ClientKey, Topics)> {
        let mut sessions = self.sessions.iter_mut().map(|(_, session)| session);
        let session = sessions.find(|session| session.id() == client)?;
        session.kill(Departure::Killed);
        Some((session.key, session.topics()))
    }

    fn unblock(&mut self, client: u64, with_error: bool) {
        let mut sessions = self.sessions.iter_mut().map(|(_, session)| session);
        sessions.find(|session| session.id() == client).into_iter().for_each(|session| session.unblock(with_error));
    }

    fn dismiss(&mut self, client: ClientKey) {
        find(&mut self.sessions, client).into_iter().for_each(Session::dismiss);
    }

    fn bereave(&mut self, client: ClientKey) {
        if let Some(session) = find(&mut self.sessions, client) {
            session.bereave(&mut self.env);
        }
    }

    fn moved(&mut self, client: ClientKey) {
        if let Some(session) = find(&mut self.sessions, client) {
            session.moved();
        }
    }

    fn kept(&mut self, client: ClientKey, id: ConnectionId) {
        if let Some(session) = find(&mut self.sessions, client) {
            session.kept(id);
        }
    }

    fn lags(&mut self, client: ClientKey) -> bool {
        find(&mut self.sessions, client).is_some_and(Session::lags)
    }

    fn flush(&mut self, buffer: &[u8]) {
        for slot in self.dirty.drain(..) {
            if let Some(session) = self.sessions.get_mut(slot as usize) {
                session.dirty = false;
                session.flush(buffer, &mut self.env);
            }
        }
    }

    fn publish(&mut self, hearers: &BTreeSet<ClientKey>, buffer: &[u8], starts: &[usize], end: usize) {
        let messages = starts.first().copied().unwrap_or(end)..end;
        for key in hearers {
            let Some(session) = find(&mut self.sessions, *key) else { continue };
            let bytes = if session.hears_pushes() { mirror(&mut self.pushes, buffer, starts, end) } else { buffer };
            session.hear(bytes, messages.clone(), &mut self.env);
            if !mem::replace(&mut session.dirty, true) {
                self.dirty.push(key.slot);
            }
        }
    }

    fn settled(&mut self, client: ClientKey, verdict: Verdict<'_>, buffer: &[u8]) {
        self.tell(client, buffer, |session, buffer, env| session.settled(verdict, buffer, env));
    }

    fn cut(&mut self, client: ClientKey, buffer: &[u8]) {
        self.tell(client, buffer, Session::cut);
    }

    fn overrun(&mut self, client: ClientKey, buffer: &[u8]) {
        self.tell(client, buffer, |session, _, _| session.overrun());
    }

    fn flush_messages(&mut self, buffer: &[u8]) {
        for slot in self.dirty.drain(..) {
            if let Some(session) = self.sessions.get_mut(slot as usize) {
                session.dirty = false;
                session.flush(if session.hears_pushes() { &self.pushes } else { buffer }, &mut self.env);
            }
        }
        self.pushes.clear();
        self.pushes.shrink_to(MAX_PUSHES);
    }
}

impl Clients {
    /// Lets a session have part in a batch of messages, of which it sees what it has delivered.
    fn tell(&mut self, client: ClientKey, buffer: &[u8], what: impl FnOnce(&mut Session, &[u8], &mut Env)) {
        let Some(session) = find(&mut self.sessions, client) else { return };
        let buffer = if session.hears_pushes() { &self.pushes } else { buffer };
        what(session, buffer, &mut self.env);
        if !mem::replace(&mut session.dirty, true) {
            self.dirty.push(client.slot);
        }
    }
}

/// Brings the copy for clients in RESP3 up to `end`: there each message, which begins at one of `starts`, is a push. All else
/// is the same in both protocols.
fn mirror<'a>(pushes: &'a mut Vec<u8>, buffer: &[u8], starts: &[usize], end: usize) -> &'a [u8] {
    if pushes.len() < end {
        pushes.extend_from_slice(buffer.get(pushes.len()..end).unwrap_or_default());
        for start in starts {
            pushes.get_mut(*start).into_iter().for_each(|first| *first = b'>');
        }
    }
    pushes
}
