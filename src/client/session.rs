//! One client, from its first byte to its last.
//!
//! A session is driven from two sides. Its own task ([`Session::drive`]) reads requests and decides where each goes. The
//! tasks of upstream connections hand it replies ([`Session::deliver`]) and, at the end of their batch, make it write
//! them at once ([`Session::flush`]); only what the socket does not take then waits for the session's own task.
//!
//! ```text
//!   socket ─▶ read ─▶ scan ─▶ route ─┬─▶ shared: reserve, send ─▶ upstream connection
//!                                    └─▶ local: answer ─▶ reply queue ─┐
//!   socket ◀─ flush ◀─ out ◀──────────────── deliver ◀─────────────────┴── replies
//! ```
//!
//! Invariants: an idle session holds no buffer. A client has unanswered requests on one upstream connection at most; a
//! change of lane waits until there are none. Reading never stops because the client's own unread replies wait (many
//! clients write a whole pipeline before they read); those are bounded by disconnecting it.

use std::io::{self, IoSlice};
use std::mem;
use std::ops::Range;
use std::task::{Context, Poll, Waker};

use bytes::BufMut;

use super::clients::Env;
use super::local::{self, Answer};
use super::refusal;
use super::reply_queue::ReplyQueue;
use super::state::State;
use crate::buffer::{ByteQueue, MAX_SLICES};
use crate::command::route::{self, Cause, Local, Route};
use crate::resp::request::{Args, Form, ProtocolError, Request, RequestScanner};
use crate::resp::{build, inline};
use crate::transport::Transport;
use crate::upstream::{
    ClientKey, ConnectionId, Error, LaneId, LaneKey, MAY_HAVE_RUN, NOT_SENT, Outcome, Reserve, Upstream, Use, Want,
};

/// Requests taken from one client in one turn; then its neighbours have theirs.
const TURN_REQUESTS: usize = 128;

/// Bytes read from one client in one turn.
pub(super) const TURN_BYTES: usize = 64 * 1024;

/// Replies a client may be owed; beyond that it is not read.
const MAX_OUTSTANDING: usize = 64 * 1024;

/// Bytes of local answers that may wait behind forwarded requests; beyond that the client is not read.
const MAX_WAITING_BYTES: usize = 64 * 1024;

/// From this size on the buffer of an incomplete request grows only while memory is not short, in bytes.
const LARGE_INPUT: usize = 1024 * 1024;

/// A request of this size or more is handed over instead of copied. Above [`TURN_BYTES`], so that it always has a buffer
/// of its own.
const OWN_BUFFER: usize = TURN_BYTES + 1;

/// Requests and replies from this size on count as bulk traffic, in bytes.
const BULK_ITEM: usize = 4 * 1024;

/// A client that moved more than this in bulk within a second uses the lane's bulk connection for the next second.
const BULK_RATE: usize = 1024 * 1024;

/// While a large reply streams and more than this waits for its client, upstream is not read for a millisecond, in bytes.
const LAG: usize = 4 * 1024 * 1024;

/// How often that may happen for one client that takes nothing; each [`PATIENCE_PER`] bytes it takes earn it once more.
const PATIENCE: u64 = 250;
const PATIENCE_PER: u64 = 16 * 1024;

/// After the last reply so much is read and thrown away, lest the kernel answer it with a reset that would destroy the
/// reply on its way.
const LINGER_BYTES: usize = 64 * 1024;

/// Where a session is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Takes requests.
    Serving,
    /// Takes no more; ends when everything due has left. With `linger` the client may still be sending.
    Finishing { linger: bool },
    /// Has said everything; throws away so many more bytes.
    Lingering { left: usize },
    /// Over.
    Dead,
}

/// Why the requests at hand cannot go on just now.
enum Stop {
    /// All were taken.
    Exhausted,
    /// The last one is incomplete.
    Incomplete,
    /// This turn's share is used up.
    Share,
    /// Something has to happen first; the task will be woken.
    Blocked,
    /// The rest is one large request, for which this connection is reserved.
    Large { id: ConnectionId, muted: bool },
}

/// What became of one request.
enum Step {
    Done,
    Blocked,
    Large { id: ConnectionId, muted: bool },
}

/// One turn of a session's task: what it may use, and how much of it is left.
struct Turn<'a, 'c> {
    cx: &'a mut Context<'c>,
    upstream: &'a mut Upstream,
    env: &'a mut Env,
    /// Requests that may still be taken.
    share: usize,
}

/// A client's session.
pub(super) struct Session {
    pub(super) key: ClientKey,
    transport: Transport,
    phase: Phase,
    state: State,
    /// The lane of the state's database and protocol.
    lane: LaneId,
    /// The connection that holds the unanswered requests; none without any.
    bound: Option<ConnectionId>,
    scanner: RequestScanner,
    /// Bytes read and not yet taken, from `position` on.
    input: Vec<u8>,
    position: usize,
    /// What is in `input` cannot go on without more bytes.
    starving: bool,
    replies: ReplyQueue,
    /// Bytes the socket did not take yet.
    out: ByteQueue,
    /// Delivered in this batch and still in the connection's buffer.
    batch: Range<usize>,
    /// It is in the list of those to be flushed at the end of the batch.
    pub(super) dirty: bool,
    /// Half a reply was delivered: nothing else may come between.
    half_delivered: bool,
    /// The task is to be woken when no more forwarded requests than this are unanswered.
    wake_at: Option<usize>,
    task: Option<Waker>,
    /// The task waits for the socket to take more.
    pub(super) blocked_on_write: bool,
    /// It waits for memory to be free.
    pub(super) thirsty: bool,
    /// Its progress is watched over.
    pub(super) watched: bool,
    /// Bytes written, and read of large requests, since it came: whether it gets on.
    pub(super) progress: u64,
    /// What `progress` was when reading was last slowed down for its sake, and how often it still may be.
    paced: u64,
    patience: u64,
    /// Bulk traffic in the second that began at this tick, and the tick until which it counts as bulk.
    bulk: (u32, usize, u32),
}

impl Session {
    pub(super) fn new(key: ClientKey, transport: Transport, state: State, lane: LaneId) -> Self {
        Self {
            key,
            transport,
            phase: Phase::Serving,
            state,
            lane,
            bound: None,
            scanner: RequestScanner::default(),
            input: Vec::new(),
            position: 0,
            starving: false,
            replies: ReplyQueue::default(),
            out: ByteQueue::default(),
            batch: 0..0,
            dirty: false,
            half_delivered: false,
            wake_at: None,
            task: None,
            blocked_on_write: false,
            thirsty: false,
            watched: false,
            progress: 0,
            paced: 0,
            patience: PATIENCE,
            bulk: (0, 0, 0),
        }
    }

    /// Bytes of buffers that the client makes us hold.
    pub(super) fn holding(&self) -> usize {
        self.backlog() + self.input.capacity()
    }

    /// Bytes of replies that the client did not take yet.
    pub(super) fn backlog(&self) -> usize {
        self.out.len() + self.replies.bytes()
    }

    /// True if much waits for a client that is still worth waiting for; asked once a millisecond, and costs patience.
    pub(super) fn lags(&mut self) -> bool {
        let taken = self.progress - mem::replace(&mut self.paced, self.progress);
        self.patience = self.patience.saturating_add(taken / PATIENCE_PER).min(PATIENCE);
        if self.out.len() <= LAG || self.patience == 0 {
            return false;
        }
        self.patience -= 1;
        true
    }

    /// Ends the session at once; requests in flight become tombstones.
    pub(super) fn kill(&mut self) {
        self.phase = Phase::Dead;
        self.wake();
    }

    /// Lets the task look again.
    pub(super) fn wake(&self) {
        if let Some(task) = &self.task {
            task.wake_by_ref();
        }
    }

    /// Gives back everything the session holds.
    pub(super) fn release(&mut self, env: &mut Env) {
        self.out.clear(&mut env.pool);
        self.drop_input(env);
    }

    /// One turn of the session's own task; ready when the session is over.
    pub(super) fn drive(&mut self, cx: &mut Context<'_>, upstream: &mut Upstream, env: &mut Env) -> Poll<()> {
        if !self.task.as_ref().is_some_and(|task| task.will_wake(cx.waker())) {
            self.task = Some(cx.waker().clone());
        }
        self.wake_at = None;
        self.blocked_on_write = false;
        let served = match self.phase {
            Phase::Serving => self.serve(&mut Turn { cx: &mut *cx, upstream, env: &mut *env, share: TURN_REQUESTS }),
            Phase::Finishing { .. } | Phase::Lingering { .. } | Phase::Dead => Poll::Pending,
        };
        self.write_out(cx, env);
        self.finish(cx, env);
        if self.phase == Phase::Dead {
            return Poll::Ready(());
        }
        if served.is_ready() && self.phase == Phase::Serving {
            // The turn's share is used up, not the work.
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// Takes requests until the socket is empty (pending), something has to happen first (pending, and woken then), or
    /// the turn's share is used up (ready).
    fn serve(&mut self, turn: &mut Turn<'_, '_>) -> Poll<()> {
        loop {
            if self.phase != Phase::Serving {
                return Poll::Pending;
            }
            if self.replies.outstanding() >= MAX_OUTSTANDING {
                self.wake_at = Some(MAX_OUTSTANDING / 2);
                return Poll::Pending;
            }
            if self.replies.bytes() >= MAX_WAITING_BYTES {
                // They wait for forwarded replies, not for the client to read: each that comes may free some.
                self.wake_at = self.replies.forwarded().checked_sub(1);
                return Poll::Pending;
            }
            if self.input.is_empty() || self.starving {
                match self.read(turn) {
                    Poll::Ready(true) => {}
                    Poll::Ready(false) => return Poll::Ready(()),
                    Poll::Pending => return Poll::Pending,
                }
            } else {
                let input = mem::take(&mut self.input);
                let (stop, input) = self.take_owned(input, turn);
                self.input = input;
                match stop {
                    Stop::Share => return Poll::Ready(()),
                    Stop::Blocked => return Poll::Pending,
                    Stop::Exhausted | Stop::Incomplete | Stop::Large { .. } => {}
                }
            }
        }
    }

    /// Reads once and takes what came. Ready with true to go on, with false when the turn's share is used up.
    fn read(&mut self, turn: &mut Turn<'_, '_>) -> Poll<bool> {
        if turn.share == 0 {
            return Poll::Ready(false);
        }
        if !self.input.is_empty() {
            return self.read_more(turn);
        }
        let count = match self.transport.poll_read(turn.cx, &mut turn.env.read_buffer) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(0)) => return self.end_of_input(),
            Poll::Ready(Err(_)) => return self.broken(),
            Poll::Ready(Ok(count)) => count,
        };
        let buffer = mem::take(&mut turn.env.read_buffer);
        let bytes = buffer.get(..count).unwrap_or_default();
        let (taken, stop) = self.take(bytes, turn);
        let rest = bytes.get(taken..).unwrap_or_default();
        if !rest.is_empty() && self.phase == Phase::Serving {
            self.input = rest.to_vec();
            turn.env.pool.memory().resized(0, self.input.capacity());
            self.starving = matches!(stop, Stop::Incomplete);
        }
        turn.env.read_buffer = buffer;
        match stop {
            Stop::Blocked => Poll::Pending,
            Stop::Share => Poll::Ready(false),
            // A full buffer is a turn's worth of bytes.
            Stop::Exhausted | Stop::Incomplete | Stop::Large { .. } => Poll::Ready(count < TURN_BYTES),
        }
    }

    /// Reads into the session's own buffer, which holds the beginning of a request. It grows with what arrives, at most
    /// doubling, never to what was announced.
    fn read_more(&mut self, turn: &mut Turn<'_, '_>) -> Poll<bool> {
        if self.position > 0 {
            self.input.drain(..mem::take(&mut self.position));
        }
        let before = self.input.capacity();
        if self.input.len() == before {
            if before >= LARGE_INPUT {
                self.be_watched(turn.env);
                if turn.env.pool.memory().is_tight() {
                    if !mem::replace(&mut self.thirsty, true) {
                        turn.env.thirsty.push(self.key);
                    }
                    return Poll::Pending;
                }
            }
            let most = if before < LARGE_INPUT { (2 * before).max(TURN_BYTES) } else { before + before / 4 };
            let wanted = self.scanner.needed().clamp(before + TURN_BYTES / 4, most);
            self.input.reserve_exact(wanted - self.input.len());
            turn.env.pool.memory().resized(before, self.input.capacity());
        }
        let room = (self.input.capacity() - self.input.len()).min(TURN_BYTES);
        let mut limited = (&mut self.input).limit(room);
        match self.transport.poll_read_buf(turn.cx, &mut limited) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(0)) => self.end_of_input(),
            Poll::Ready(Err(_)) => self.broken(),
            Poll::Ready(Ok(count)) => {
                self.starving = false;
                self.progress += count as u64;
                // Large requests are taken in whole turns, not in as many reads as fit.
                turn.share = if count == TURN_BYTES { 0 } else { turn.share };
                Poll::Ready(true)
            }
        }
    }

    /// The client has sent its last byte; it gets its replies, then the connection ends.
    fn end_of_input(&mut self) -> Poll<bool> {
        self.phase = Phase::Finishing { linger: false };
        Poll::Pending
    }

    fn broken(&mut self) -> Poll<bool> {
        self.phase = Phase::Dead;
        Poll::Pending
    }

    /// Takes requests from the session's own buffer, which is given back as it is to be kept.
    fn take_owned(&mut self, mut input: Vec<u8>, turn: &mut Turn<'_, '_>) -> (Stop, Vec<u8>) {
        let bytes = input.get(self.position..).unwrap_or_default();
        let (taken, stop) = self.take(bytes, turn);
        self.position += taken;
        self.starving = matches!(stop, Stop::Incomplete);
        if let Stop::Large { id, muted } = stop {
            // Counted in the budget until the connection has written it.
            input.drain(..mem::take(&mut self.position));
            turn.upstream.send_owned(id, self.key, muted, mem::take(&mut input));
        } else if self.position == input.len() {
            self.position = 0;
            turn.env.pool.memory().resized(input.capacity(), 0);
            input = Vec::new();
        }
        (stop, input)
    }

    fn drop_input(&mut self, env: &Env) {
        env.pool.memory().resized(self.input.capacity(), 0);
        self.input = Vec::new();
        self.position = 0;
    }

    /// Takes as many requests from `bytes` as can go on now; returns how many bytes they had.
    fn take(&mut self, bytes: &[u8], turn: &mut Turn<'_, '_>) -> (usize, Stop) {
        let mut taken = 0;
        while taken < bytes.len() {
            if turn.share == 0 {
                return (taken, Stop::Share);
            }
            let rest = bytes.get(taken..).unwrap_or_default();
            let limits = if self.state.authenticated { &turn.env.limits } else { &turn.env.stranger_limits };
            let request = match self.scanner.scan(rest, limits) {
                Ok(Some(request)) => request,
                Ok(None) => return (taken, Stop::Incomplete),
                Err(error) => {
                    self.protocol_error(error, turn.env);
                    return (bytes.len(), Stop::Exhausted);
                }
            };
            let frame = rest.get(..request.len).unwrap_or_default();
            match self.request(frame, request, turn) {
                Step::Done => taken += request.len,
                Step::Blocked => return (taken, Stop::Blocked),
                Step::Large { id, muted } if frame.len() == rest.len() => return (taken, Stop::Large { id, muted }),
                Step::Large { id, muted } => {
                    turn.upstream.send(id, self.key, muted, frame);
                    taken += request.len;
                }
            }
            turn.share -= 1;
            if self.phase != Phase::Serving {
                return (bytes.len(), Stop::Exhausted);
            }
        }
        (taken, Stop::Exhausted)
    }

    /// After bytes that are no request nothing can be understood any more: the error follows the replies that are due.
    fn protocol_error(&mut self, error: ProtocolError, env: &mut Env) {
        if error == ProtocolError::CrossProtocol {
            tracing::warn!(
                client = self.state.id,
                "closed a connection that speaks HTTP: possibly a cross-protocol attack"
            );
            self.phase = Phase::Dead;
            return;
        }
        self.answer_local(&error.reply(), env);
        self.phase = Phase::Finishing { linger: true };
    }

    /// Puts one request into canonical form, if it is not, and decides about it.
    fn request(&mut self, frame: &[u8], request: Request, turn: &mut Turn<'_, '_>) -> Step {
        match request.form {
            Form::Array => self.dispatch(request.name.of(frame), frame, turn),
            Form::Empty => Step::Done,
            Form::Inline | Form::Loose => {
                let mut canonical = mem::take(&mut turn.env.rewritten);
                canonical.clear();
                let words = if request.form == Form::Inline {
                    inline::split(frame).map(|words| inline::encode(words.iter(), &mut canonical))
                } else {
                    inline::encode(Args::new(frame), &mut canonical);
                    Ok(())
                };
                let step = match words {
                    Err(error) => {
                        self.protocol_error(error, turn.env);
                        Step::Done
                    }
                    Ok(()) => match Args::new(&canonical).next() {
                        Some(name) => self.dispatch(name, &canonical, turn),
                        None => Step::Done,
                    },
                };
                // A large one cannot be handed over with the buffer it was rewritten from.
                let step = if let Step::Large { id, muted } = step {
                    turn.upstream.send(id, self.key, muted, &canonical);
                    Step::Done
                } else {
                    step
                };
                turn.env.rewritten = canonical;
                turn.env.rewritten.shrink_to(TURN_BYTES);
                step
            }
        }
    }

    /// Decides about one canonical request.
    fn dispatch(&mut self, name: &[u8], frame: &[u8], turn: &mut Turn<'_, '_>) -> Step {
        let args = Args::new(frame);
        let route = route::route(name, args.clone());
        if !self.state.authenticated
            && !matches!(route, Route::Local(Local::Auth | Local::Hello | Local::Quit | Local::Reset))
        {
            return self.answer_with(turn.env, |out| build::error(refusal::NOAUTH, out));
        }
        if let Some(step) = self.after_refused_multi(name, route, turn) {
            return step;
        }
        match route {
            Route::Shared { slow } => self.forward(frame, slow, turn),
            Route::Local(local) => self.local(local, args, frame, turn),
            Route::Refused(cause) => {
                let identity = turn.upstream.shared().identity();
                self.answer_with(turn.env, |out| refusal::refuse(cause, &args, identity, out))
            }
        }
    }

    /// What stands between a refused MULTI and its EXEC must not run bare: the client meant all or nothing.
    fn after_refused_multi(&mut self, name: &[u8], route: Route, turn: &mut Turn<'_, '_>) -> Option<Step> {
        let is = |word: &[u8]| name.eq_ignore_ascii_case(word);
        if !self.state.refused_multi {
            self.state.refused_multi = route == Route::Refused(Cause::Transaction) && is(b"multi");
            return None;
        }
        if matches!(route, Route::Local(Local::Quit | Local::Reset)) {
            return None;
        }
        self.state.refused_multi = !(is(b"exec") || is(b"discard"));
        Some(self.answer_with(turn.env, |out| match (is(b"exec"), is(b"discard")) {
            (true, _) => build::error(refusal::EXECABORT, out),
            (_, true) => build::simple("OK", out),
            _ => build::error(refusal::AFTER_MULTI, out),
        }))
    }

    fn local(&mut self, local: Local, args: Args<'_>, frame: &[u8], turn: &mut Turn<'_, '_>) -> Step {
        if local == Local::Hello && turn.upstream.shared().identity().greeting().is_none() {
            // The first contact is under way or fails; its outcome decides what we say of the server.
            let want = Want { client: self.key, lane: self.lane, bound: self.bound, usage: Use::Normal };
            if matches!(turn.upstream.reserve(want, turn.cx.waker()), Reserve::Wait) {
                return Step::Blocked;
            }
        }
        let before = self.lane_key();
        let mut out = mem::take(&mut turn.env.reply);
        out.clear();
        let (state, transport) = (&mut self.state, &self.transport);
        let answer_env = local::Env {
            password: turn.env.password.as_ref(),
            identity: turn.upstream.shared().identity(),
            database: turn.upstream.shared().default_database(),
            addresses: &|| (transport.peer(), transport.local()),
        };
        let answer = local::answer(local, args, state, &answer_env, &mut out);
        let step = match answer {
            Answer::Forward => self.forward(frame, false, turn),
            Answer::Select(database) => self.select(database, turn),
            Answer::Silent => Step::Done,
            Answer::Shown => {
                self.answer_local(&out, turn.env);
                Step::Done
            }
            Answer::Reply | Answer::Quit => {
                if !self.state.mutes_next() {
                    self.answer_local(&out, turn.env);
                }
                if answer == Answer::Quit {
                    self.phase = Phase::Finishing { linger: true };
                }
                Step::Done
            }
        };
        turn.env.reply = out;
        if self.lane_key() != before {
            self.lane = turn.upstream.lane(self.lane_key());
        }
        step
    }

    /// Changes the database. One that was not seen before is asked for upstream first: to be told `OK` and then be refused
    /// at every command would be worse.
    fn select(&mut self, database: u32, turn: &mut Turn<'_, '_>) -> Step {
        if !turn.upstream.knows_database(database) && database != turn.upstream.shared().default_database() {
            let key = LaneKey { database, ..self.lane_key() };
            match turn.upstream.try_database(key, self.key, turn.cx.waker()) {
                Reserve::Ready(_) => {}
                Reserve::Wait => return Step::Blocked,
                Reserve::Unavailable(Error::Database(reply)) => {
                    return self.answer_with(turn.env, |out| build::error(&reply, out));
                }
                Reserve::Unavailable(_) if database < turn.upstream.shared().databases() => {}
                Reserve::Unavailable(error) => {
                    return self.answer_with(turn.env, |out| out.extend_from_slice(&error.reply()));
                }
            }
        }
        self.state.database = database;
        self.answer_with(turn.env, |out| build::simple("OK", out))
    }

    fn lane_key(&self) -> LaneKey {
        LaneKey { database: self.state.database, protocol: self.state.protocol }
    }

    /// Sends a request over the client's lane.
    fn forward(&mut self, frame: &[u8], slow: bool, turn: &mut Turn<'_, '_>) -> Step {
        if frame.len() >= BULK_ITEM {
            self.count_bulk(frame.len(), turn.env.tick);
        }
        let usage = if slow || turn.env.tick < self.bulk.2 { Use::Bulk } else { Use::Normal };
        let want = Want { client: self.key, lane: self.lane, bound: self.bound, usage };
        if self.bound.is_some_and(|id| !turn.upstream.is_of_lane(id, self.lane)) {
            // A change of lane is a barrier: what is unanswered on the old one comes first.
            self.wake_at = Some(0);
            return Step::Blocked;
        }
        match turn.upstream.reserve(want, turn.cx.waker()) {
            Reserve::Ready(id) => {
                let muted = self.state.mutes_next();
                self.bound = Some(id);
                self.replies.forward();
                if frame.len() >= OWN_BUFFER {
                    return Step::Large { id, muted };
                }
                turn.upstream.send(id, self.key, muted, frame);
                Step::Done
            }
            Reserve::Wait => Step::Blocked,
            Reserve::Unavailable(error) => self.answer_with(turn.env, |out| out.extend_from_slice(&error.reply())),
        }
    }

    /// Notes bulk traffic, see [`BULK_RATE`]. Ten ticks are a second.
    fn count_bulk(&mut self, bytes: usize, tick: u32) {
        let (since, moved, until) = &mut self.bulk;
        if tick >= *since + 10 {
            (*since, *moved) = (tick, 0);
        }
        *moved = moved.saturating_add(bytes);
        if *moved > BULK_RATE {
            *until = tick + 10;
        }
    }

    /// Answers the request at hand with what `write` appends.
    fn answer_with(&mut self, env: &mut Env, write: impl FnOnce(&mut Vec<u8>)) -> Step {
        if !self.state.mutes_next() {
            let mut out = mem::take(&mut env.answer);
            out.clear();
            write(&mut out);
            self.answer_local(&out, env);
            env.answer = out;
        }
        Step::Done
    }

    /// Queues a local answer in its place in the client's order.
    fn answer_local(&mut self, bytes: &[u8], env: &mut Env) {
        if self.replies.answer(bytes) {
            self.out.push(bytes, &mut env.pool);
        }
    }

    /// Takes the next bytes of a reply, which stay in the connection's buffer until [`Session::flush`].
    pub(super) fn deliver(&mut self, muted: bool, buffer: &[u8], range: Range<usize>, complete: bool, env: &mut Env) {
        if self.phase == Phase::Dead {
            return;
        }
        if range.len() >= BULK_ITEM {
            self.count_bulk(range.len(), env.tick);
        }
        if !muted {
            if self.batch.is_empty() {
                self.batch = range;
            } else if self.batch.end == range.start {
                self.batch.end = range.end;
            } else {
                self.spill(buffer, env);
                self.batch = range;
            }
        }
        self.half_delivered = !complete;
        if complete {
            self.answered(buffer, env);
        }
    }

    /// The reply to a request will not come. If half of it was delivered, the client cannot be told in any way it would
    /// understand, and is disconnected.
    pub(super) fn fail(&mut self, muted: bool, outcome: Outcome, env: &mut Env) {
        if self.phase == Phase::Dead {
            return;
        }
        if mem::take(&mut self.half_delivered) && !muted {
            self.kill();
            return;
        }
        if !muted {
            let reply = match outcome {
                Outcome::NotSent => NOT_SENT,
                Outcome::Unknown => MAY_HAVE_RUN,
            };
            self.out.push(reply, &mut env.pool);
        }
        self.answered(&[], env);
    }

    /// Counts a reply, and queues the local answers that were due behind it.
    fn answered(&mut self, buffer: &[u8], env: &mut Env) {
        if self.replies.answered() {
            self.spill(buffer, env);
            let mut due = mem::take(&mut env.answer);
            due.clear();
            while self.replies.pop_due(&mut due) {}
            self.out.push(&due, &mut env.pool);
            env.answer = due;
        }
        let left = self.replies.forwarded();
        if left == 0 {
            self.bound = None;
        }
        if self.wake_at.is_some_and(|at| left <= at) {
            self.wake_at = None;
            self.wake();
        }
    }

    /// Copies what was delivered in this batch behind what waits already.
    fn spill(&mut self, buffer: &[u8], env: &mut Env) {
        let batch = mem::take(&mut self.batch);
        self.out.push(buffer.get(batch).unwrap_or_default(), &mut env.pool);
    }

    /// Writes what a batch delivered: straight from the connection's buffer if nothing waits before it.
    pub(super) fn flush(&mut self, buffer: &[u8], env: &mut Env) {
        if self.phase == Phase::Dead {
            // Nothing may follow half a reply.
            return;
        }
        if self.out.is_empty() {
            let batch = mem::take(&mut self.batch);
            let bytes = buffer.get(batch).unwrap_or_default();
            if bytes.is_empty() {
                return;
            }
            match self.transport.try_write(bytes) {
                Ok(count) => {
                    self.progress += count as u64;
                    self.out.push(bytes.get(count..).unwrap_or_default(), &mut env.pool);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.out.push(bytes, &mut env.pool),
                Err(_) => return self.kill(),
            }
        } else {
            self.spill(buffer, env);
        }
        if !self.out.is_empty() && !self.blocked_on_write {
            self.try_write_out(env);
        }
        self.mind_backlog(env);
    }

    /// What the socket did not take waits for the session's own task, up to the limit.
    fn mind_backlog(&mut self, env: &mut Env) {
        if self.out.is_empty() {
            return;
        }
        if !self.blocked_on_write {
            self.wake();
        }
        self.be_watched(env);
        if self.backlog() > env.output_limit {
            let (client, backlog) = (self.state.id, self.backlog());
            tracing::warn!(client, backlog, "disconnecting a client: more unread replies than --client-output-limit");
            self.kill();
        }
    }

    /// Asks for its memory and its progress to be watched over.
    fn be_watched(&mut self, env: &mut Env) {
        if !mem::replace(&mut self.watched, true) {
            env.watch(self.key, self.progress);
        }
    }

    /// Writes what waits, and arranges to be woken when the socket takes more.
    fn write_out(&mut self, cx: &mut Context<'_>, env: &mut Env) {
        while !self.out.is_empty() && self.phase != Phase::Dead {
            self.try_write_out(env);
            if self.out.is_empty() {
                break;
            }
            match self.transport.poll_write_ready(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => self.phase = Phase::Dead,
                Poll::Pending => {
                    self.blocked_on_write = true;
                    self.mind_backlog(env);
                    return;
                }
            }
        }
    }

    fn try_write_out(&mut self, env: &mut Env) {
        while !self.out.is_empty() {
            let mut slices = [IoSlice::new(&[]); MAX_SLICES];
            let attempt = match self.out.slices(&mut slices) {
                1 => self.transport.try_write(&slices[0]),
                count => self.transport.try_write_vectored(slices.get(..count).unwrap_or_default()),
            };
            match attempt {
                Ok(count) => {
                    self.progress += count as u64;
                    self.out.consume(count, &mut env.pool);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    self.phase = Phase::Dead;
                    return;
                }
            }
        }
    }

    /// Goes through the end of a session: the last replies, the end of the stream, and a moment of lingering.
    fn finish(&mut self, cx: &mut Context<'_>, env: &mut Env) {
        if let Phase::Finishing { linger } = self.phase {
            self.drop_input(env);
            if self.replies.outstanding() > 0 {
                self.wake_at = Some(0);
                return;
            }
            if !self.out.is_empty() || self.transport.poll_shutdown(cx).is_pending() {
                return;
            }
            self.phase = if linger { Phase::Lingering { left: LINGER_BYTES } } else { Phase::Dead };
            env.lingering.push((self.key, env.tick));
        }
        while let Phase::Lingering { left } = self.phase {
            match self.transport.poll_read(cx, &mut env.read_buffer) {
                Poll::Pending => return,
                Poll::Ready(Ok(count)) if count > 0 && count < left => {
                    self.phase = Phase::Lingering { left: left - count };
                }
                Poll::Ready(_) => self.phase = Phase::Dead,
            }
        }
    }
}
