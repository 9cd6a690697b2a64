//! One client, from its first byte to its last.
//!
//! A session is driven from two sides. Its own task ([`Session::drive`]) reads requests and decides where each goes. The
//! tasks of upstream connections hand it replies ([`Session::deliver`]) and, at the end of their batch, make it write
//! them at once ([`Session::flush`]); only what the socket does not take then waits for the session's own task.
//!
//! ```text
//!   socket ─▶ read ─▶ scan ─▶ route ─┬─▶ shared: reserve, send ──────▶ upstream connection
//!                                    ├─▶ block: queue … EXEC: send ─┘
//!                                    └─▶ local: answer ─▶ reply queue ─┐
//!   socket ◀─ flush ◀─ out ◀──────────────── deliver ◀─────────────────┴── replies
//! ```
//!
//! This file holds the session's life and its decisions; `intake` what comes from the client, `output` what goes to it,
//! `acquire` how it comes by a connection of its own, `hold` what it does with it, `retold` what that says of itself,
//! `tracking` what it is told to forget, `transaction` MULTI to EXEC, `subscriber` what is different for a client that
//! subscribes, `parting` how it ends when the process does, `administration` commands about other clients and about the server.
//!
//! Invariants: an idle session holds no buffer. A client has unanswered requests on one upstream connection at most; a
//! change of lane waits until there are none. Reading never stops because the client's own unread replies wait (many
//! clients write a whole pipeline before they read); those are bounded by disconnecting it.

mod acquire;
mod administration;
mod hold;
mod intake;
mod output;
mod parting;
mod retold;
mod subscriber;
mod tracking;
mod transaction;

use std::mem;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use hold::Hold;
pub(super) use intake::TURN_BYTES;
use output::PATIENCE;
use subscriber::Subscriber;

use super::clients::Env;
use super::local::{self, Answer};
use super::refusal;
use super::reply_queue::ReplyQueue;
use super::section;
use super::state::State;
use super::transaction::Block;
use super::unserved::{self, Asked};
use tokio::time::Instant;

use crate::buffer::ByteQueue;
use crate::command::route::{self, Cause, Local, Manner, Route, Transaction};
use crate::command::table;
use crate::lifecycle::Stage;
use crate::observe::cells::{Given, Outcome, Tag};
use crate::resp::build;
use crate::resp::request::{Args, RequestScanner};
use crate::transport::Transport;
use crate::upstream::{
    Behind, ClientKey, ConnectionId, Error, Failure, LaneId, LaneKey, Message, Protocol, Reserve, Traits, Upstream,
    Use, Want, Why,
};

/// So long what is published waits for the subscriptions that were asked for before, in ticks.
const HEAD_START: u32 = 5;

/// Requests taken from one client in one turn; then its neighbours have theirs.
const TURN_REQUESTS: usize = 128;

/// A request of this size or more is handed over instead of copied. Above [`TURN_BYTES`], so that it always has a buffer
/// of its own.
const OWN_BUFFER: usize = TURN_BYTES + 1;

/// A request above this size takes a connection of its own: on a shared one everybody would wait behind it.
const LARGEST_SHARED: usize = 1024 * 1024;

/// Requests and replies from this size on count as bulk traffic, in bytes.
const BULK_ITEM: usize = 4 * 1024;

/// A client that moved more than this in bulk within a second uses the lane's bulk connection for the next second.
const BULK_RATE: usize = 1024 * 1024;

/// After the last reply so much is read and thrown away, lest the kernel answer it with a reset that would destroy the
/// reply on its way.
const LINGER_BYTES: usize = 64 * 1024;

/// Why a client is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Departure {
    /// It has left.
    Client,
    /// It has sent what is no request.
    Protocol,
    /// It speaks HTTP.
    CrossProtocol,
    /// It has not taken its replies, or made us hold too much.
    OutputLimit,
    /// What it had on a connection of its own is lost, or the rest of a reply.
    UpstreamLost,
    /// Somebody has said CLIENT KILL.
    Killed,
    /// The proxy stops.
    Drain,
}

impl Departure {
    /// As a label's value.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Protocol => "protocol",
            Self::CrossProtocol => "cross_protocol",
            Self::OutputLimit => "output_limit",
            Self::UpstreamLost => "upstream_lost",
            Self::Killed => "killed",
            Self::Drain => "drain",
        }
    }
}

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

/// What became of one request.
enum Step {
    Done,
    Blocked,
    Large { id: ConnectionId, message: Message },
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
    departure: Option<Departure>,
    state: State,
    /// Its open transaction.
    block: Option<Box<Block>>,
    /// The lane of the state's database and protocol.
    lane: LaneId,
    /// The connection that holds the unanswered requests; none without any.
    bound: Option<ConnectionId>,
    /// The deadline of the request sent last, in ticks of the worker.
    due: u32,
    /// Since when the requests at hand wait to be sent, in ticks of the worker.
    since: Option<u32>,
    /// Until when they may, in ticks of the worker.
    until: u32,
    /// It is in the list of those that wait.
    blocked: bool,
    /// The connection that it has for itself.
    hold: Option<Box<Hold>>,
    /// It waits for one, and somebody ends that: with an error, or without.
    leasing: bool,
    unblocked: Option<bool>,
    /// Where it last sent something that may have written.
    wrote: Option<ConnectionId>,
    /// It gets the error while Redis cannot be asked, and never an empty answer.
    strict: bool,
    /// When what is to be taken was read, and what is counted of the request at hand until somebody else counts it.
    arrived: u64,
    tag: Tag,
    scanner: RequestScanner,
    /// Bytes read and not yet taken, from `position` on.
    input: Vec<u8>,
    position: usize,
    /// What is in `input` cannot go on without more bytes.
    starving: bool,
    replies: ReplyQueue,
    /// What it has if it subscribes.
    subscriber: Option<Box<Subscriber>>,
    /// Bytes the socket did not take yet.
    out: ByteQueue,
    /// Since when there are some, and what was asked last by then.
    flushing: Option<(u64, Tag)>,
    last: Tag,
    /// Delivered in this batch and still in the connection's buffer.
    batch: Range<usize>,
    /// It is in the list of those to be flushed at the end of the batch.
    pub(super) dirty: bool,
    /// Half a reply was delivered: nothing else may come between.
    half_delivered: bool,
    /// The task is to be woken when no more forwarded requests than this are unanswered.
    wake_at: Option<usize>,
    /// What it publishes waits for the subscriptions that were asked for before.
    behind: Option<Behind>,
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
    paused: Option<Instant>,
    /// Bulk traffic in the second that began at this tick, and the tick until which it counts as bulk.
    bulk: (u32, usize, u32),
}

impl Session {
    pub(super) fn new(key: ClientKey, transport: Transport, state: State, strict: bool, lane: LaneId) -> Self {
        Self {
            key,
            transport,
            phase: Phase::Serving,
            departure: None,
            state,
            block: None,
            lane,
            bound: None,
            due: 0,
            since: None,
            until: 0,
            blocked: false,
            hold: None,
            leasing: false,
            unblocked: None,
            wrote: None,
            strict,
            arrived: 0,
            tag: Tag::NONE,
            scanner: RequestScanner::default(),
            input: Vec::new(),
            position: 0,
            starving: false,
            replies: ReplyQueue::default(),
            subscriber: None,
            out: ByteQueue::default(),
            flushing: None,
            last: Tag::NONE,
            batch: 0..0,
            dirty: false,
            half_delivered: false,
            wake_at: None,
            behind: None,
            task: None,
            blocked_on_write: false,
            thirsty: false,
            watched: false,
            progress: 0,
            paced: 0,
            patience: PATIENCE,
            paused: None,
            bulk: (0, 0, 0),
        }
    }

    /// Its unanswered requests have left the connection they were sent on: nothing is sent before they are answered.
    pub(super) fn moved(&mut self) {
        self.bound = Some(ConnectionId::ELSEWHERE);
    }

    /// What it waited for may still run on that connection: its next request goes there too.
    pub(super) fn kept(&mut self, id: ConnectionId) {
        self.bound = Some(id);
    }

    /// Bytes of buffers that the client makes us hold.
    pub(super) fn holding(&self) -> usize {
        let block = self.block.as_ref().map_or(0, |block| block.capacity());
        let topics = self.subscriber.as_ref().map_or(0, |subscriber| subscriber.holding());
        self.backlog() + self.input.capacity() + block + topics
    }

    /// Bytes of replies that the client did not take yet.
    pub(super) fn backlog(&self) -> usize {
        let held = self.subscriber.as_ref().map_or(0, |subscriber| subscriber.backlog());
        self.out.len() + self.replies.bytes() + held
    }

    /// Its client came over a strict listener.
    pub(super) fn is_strict(&self) -> bool {
        self.strict
    }

    /// What its client calls itself.
    pub(super) fn id(&self) -> u64 {
        self.state.id
    }

    /// Ends the session at once; requests in flight become tombstones.
    pub(super) fn kill(&mut self, why: Departure) {
        self.note_departure(why);
        self.phase = Phase::Dead;
        self.wake();
    }

    /// Notes why it ends, if nothing was noted before.
    fn note_departure(&mut self, why: Departure) {
        self.departure.get_or_insert(why);
    }

    /// Why it ended.
    pub(super) fn departure(&self) -> Departure {
        self.departure.unwrap_or(Departure::Client)
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
        self.hold.iter_mut().for_each(|hold| hold.forget_kept(env.pool.memory()));
        self.drop_input(env);
        self.drop_block(env);
        self.drop_subscriber(env);
    }

    /// One turn of the session's own task; ready when the session is over.
    pub(super) fn drive(&mut self, cx: &mut Context<'_>, upstream: &mut Upstream, env: &mut Env) -> Poll<()> {
        if !self.task.as_ref().is_some_and(|task| task.will_wake(cx.waker())) {
            self.task = Some(cx.waker().clone());
        }
        self.wake_at = None;
        self.blocked_on_write = false;
        self.settle_hold(upstream);
        let served = match self.phase {
            Phase::Serving => self.serve(&mut Turn { cx: &mut *cx, upstream, env: &mut *env, share: TURN_REQUESTS }),
            Phase::Finishing { .. } | Phase::Lingering { .. } | Phase::Dead => Poll::Pending,
        };
        if env.stage != Stage::Serving && served.is_pending() {
            self.part(upstream);
        }
        // At the last call what was read is answered still, also over a connection of its own.
        let is_owed = env.stage != Stage::Serving
            && self.replies.outstanding() > 0
            && self.hold.as_ref().is_some_and(|hold| !hold.streams && !hold.waits_for_others());
        if matches!(self.phase, Phase::Finishing { linger: true }) && !is_owed {
            // Nothing more is taken from it, so what it waits for it waits for in vain.
            self.leave_hold(upstream, env);
        }
        if self.hold.is_some() && self.wake_at.is_none() {
            // It may be over then.
            self.wake_at = Some(0);
        }
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

    /// Decides about one canonical request, and counts it unless that is for whoever gets its reply.
    fn dispatch(&mut self, name: &[u8], frame: &[u8], turn: &mut Turn<'_, '_>) -> Step {
        let command = table::find(name);
        let route = route::route(command, || Args::new(frame));
        self.tag = Tag::new(command, self.arrived);
        let step = self.decide(name, frame, route, turn);
        if self.tag != Tag::NONE && matches!(step, Step::Done) {
            self.count(Outcome::Local, turn.env);
        }
        step
    }

    /// Counts the request at hand, unless that was done.
    fn count(&mut self, outcome: Outcome, env: &Env) {
        env.cells.settled(mem::take(&mut self.tag), outcome, env.clock);
    }

    #[inline(always)] // Once for each request: a call costs as much as what it does.
    fn decide(&mut self, name: &[u8], frame: &[u8], route: Route, turn: &mut Turn<'_, '_>) -> Step {
        let args = || Args::new(frame);
        if !self.state.authenticated
            && !matches!(route, Route::Local(Local::Auth | Local::Hello | Local::Quit | Local::Reset))
        {
            return match route {
                Route::Transaction(Transaction::Exec) => self.abort(refusal::NOAUTH, turn),
                _ => self.answer_with(turn.env, |out| build::error(refusal::NOAUTH, out)),
            };
        }
        if turn.env.denied.as_ref().is_some_and(|denied| denied.covers(args())) {
            return self.deny(route, frame, turn);
        }
        if self.subscriber.is_some()
            && let Some(step) = self.as_subscriber(route, frame, turn)
        {
            return step;
        }
        if self.block.is_some()
            && let Some(step) = self.inside_block(name, route, frame, turn)
        {
            return step;
        }
        if route == Route::Leased(Cause::Administration) {
            return self.administer(name, frame, route, turn);
        }
        self.over_hold_or_not(name, frame, route, turn)
    }

    /// Goes on with a request, over the connection that the client has for itself if it has one.
    #[inline(always)] // Once for each request: a call costs as much as what it does.
    fn over_hold_or_not(&mut self, name: &[u8], frame: &[u8], route: Route, turn: &mut Turn<'_, '_>) -> Step {
        if self.hold.is_some() {
            self.settle_hold(turn.upstream);
            if self.hold.is_some() {
                return self.over_lease(name, frame, route, turn);
            }
        }
        if self.state.tracking.is_some()
            && !matches!(route, Route::Local(_) | Route::Subscription(_) | Route::Control | Route::Refused)
        {
            return match self.track_again(frame, turn) {
                Some(step) => step,
                None => self.over_lease(name, frame, route, turn),
            };
        }
        // What is queued needs it at its EXEC.
        let needs_upstream =
            matches!(route, Route::Shared(_) | Route::Leased(_) | Route::Transaction(Transaction::Watch));
        if turn.env.dedicated && needs_upstream {
            return self.over_lasting_lease(name, frame, route, turn);
        }
        self.without_lease(name, frame, route, turn)
    }

    /// Decides about a request of a client that holds no lease, or that needs none for it.
    #[inline(always)] // Once for each request: a call costs as much as what it does.
    fn without_lease(&mut self, name: &[u8], frame: &[u8], route: Route, turn: &mut Turn<'_, '_>) -> Step {
        match route {
            Route::Shared(_) if frame.len() > LARGEST_SHARED => self.over_new_lease(name, frame, route, turn),
            Route::Shared(manner) => self.forward(frame, manner, turn),
            Route::Control => self.control(frame, turn),
            Route::Local(local) => self.local(local, Args::new(frame), frame, turn),
            Route::Transaction(Transaction::Watch) if Args::new(frame).len() > 1 => {
                self.over_new_lease(name, frame, route, turn)
            }
            Route::Transaction(which) => self.outside_block(which, frame, turn),
            Route::Leased(_) => self.over_new_lease(name, frame, route, turn),
            Route::Refused => self.answer_with(turn.env, |out| refusal::refuse(name, out)),
            Route::Subscription(_) if self.begins_stream(route, frame) => self.over_new_lease(name, frame, route, turn),
            Route::Subscription(command) => self.subscription(command, frame, turn),
        }
    }

    fn local(&mut self, local: Local, args: Args<'_>, frame: &[u8], turn: &mut Turn<'_, '_>) -> Step {
        if local == Local::Hello && turn.upstream.shared().identity().greeting().is_none() {
            // The first contact is under way or fails; its outcome decides what we say of the server.
            let want = Want { client: self.key, lane: self.lane, bound: self.bound, usage: Use::Normal };
            if matches!(turn.upstream.reserve(want, turn.cx.waker()), Reserve::Wait) && self.may_wait(turn) {
                return Step::Blocked;
            }
        }
        let before = self.lane_key();
        let mut out = mem::take(&mut turn.env.reply);
        out.clear();
        let answer = self.answer_here(local, args, turn.env, &mut out);
        let step = match answer {
            Answer::Forward if self.hold.is_some() => self.send_over_lease(frame, Route::Local(local), None, turn),
            Answer::Forward => self.forward(frame, Manner::default(), turn),
            Answer::Lease => {
                let route = Route::Leased(Cause::ClientState);
                let name = Args::new(frame).next().unwrap_or_default();
                match self.hold {
                    Some(_) => self.over_lease(name, frame, route, turn),
                    None => self.over_new_lease(name, frame, route, turn),
                }
            }
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

    /// Answers from what is known here, and notes what is set.
    fn answer_here(&mut self, local: Local, args: Args<'_>, env: &Env, out: &mut Vec<u8>) -> Answer {
        let subscribed_to = self.subscribed_to();
        let transport = &self.transport;
        let addresses = || (transport.peer(), transport.local());
        let answer_env = local_env(env, self.hold.is_some(), subscribed_to, &addresses);
        let start = out.len();
        let answer = local::answer(local, args, &mut self.state, &answer_env, out);
        if out.get(start..).is_some_and(|answer| answer.starts_with(b"-WRONGPASS")) {
            tracing::debug!(client = self.state.id, "a client gave a wrong password");
            env.metrics.rejected.with_label_values(&["auth"]).inc();
        }
        answer
    }

    /// What CLIENT INFO says of it.
    fn line(&self, env: &Env) -> String {
        let addresses = || (self.transport.peer(), self.transport.local());
        local::line(&self.state, &local_env(env, self.hold.is_some(), self.subscribed_to(), &addresses))
    }

    /// Changes the database. One that was not seen before is asked for upstream first: to be told `OK` and then be refused
    /// at every command would be worse.
    fn select(&mut self, database: u32, turn: &mut Turn<'_, '_>) -> Step {
        if !turn.upstream.knows_database(database) && database != turn.upstream.shared().default_database() {
            let key = LaneKey { database, ..self.lane_key() };
            match turn.upstream.try_database(key, self.key, turn.cx.waker()) {
                Reserve::Ready(_) | Reserve::Elsewhere(_) => {}
                Reserve::Wait if self.may_wait(turn) => return Step::Blocked,
                Reserve::Unavailable(Error::Database(reply)) => {
                    return self.answer_with(turn.env, |out| build::error(&reply, out));
                }
                Reserve::Wait | Reserve::Unavailable(_) if database < turn.upstream.shared().databases() => {}
                Reserve::Wait => return self.unavailable(&[], &Error::Overdue, turn),
                Reserve::Unavailable(error) => return self.unavailable(&[], &error, turn),
            }
        }
        self.state.database = database;
        self.answer_with(turn.env, |out| build::simple("OK", out))
    }

    fn lane_key(&self) -> LaneKey {
        LaneKey { database: self.state.database, protocol: self.state.protocol }
    }

    /// Sends a request over the client's lane.
    fn forward(&mut self, frame: &[u8], manner: Manner, turn: &mut Turn<'_, '_>) -> Step {
        let id = match self.connection_for(frame, manner, false, turn) {
            Ok(id) => id,
            Err(step) => return step,
        };
        let mut message = self.message(id, manner, frame.len(), turn);
        if frame.len() >= OWN_BUFFER {
            return Step::Large { id, message };
        }
        if manner.informs {
            message.traits = message.traits.informed(section::is_wanted(frame));
        }
        self.due = turn.upstream.send(id, message, frame);
        if manner.remembered && turn.upstream.shared().commands(self.state.protocol).is_none() {
            turn.upstream.capture_commands(id);
        }
        Step::Done
    }

    /// The connection for a request, or for the block that this EXEC ends; otherwise what became of it.
    #[inline(always)] // Once for each request: a call costs as much as what it does.
    fn connection_for(
        &mut self,
        frame: &[u8],
        manner: Manner,
        is_block: bool,
        turn: &mut Turn<'_, '_>,
    ) -> Result<ConnectionId, Step> {
        if manner.meets_subscribers && turn.upstream.is_too_early(&mut self.behind, self.key, turn.cx.waker()) {
            if self.may_wait_for(HEAD_START, turn) {
                return Err(Step::Blocked);
            }
            self.behind = None;
        }
        let usage = if manner.slow || turn.env.tick < self.bulk.2 { Use::Bulk } else { Use::Normal };
        if self.since.is_some_and(|since| turn.upstream.is_overdue(since)) {
            // No time is left for a reply.
            return Err(self.unavailable(frame, &Error::Overdue, turn));
        }
        let mut want = Want { client: self.key, lane: self.lane, bound: self.bound, usage };
        let reserve = |want, turn: &mut Turn<'_, '_>| match is_block {
            true => turn.upstream.reserve_for_block(want, turn.cx.waker()),
            false => turn.upstream.reserve(want, turn.cx.waker()),
        };
        let mut reserved = reserve(want, turn);
        if let Reserve::Elsewhere(id) = reserved {
            if self.replies.forwarded() > 0 {
                // A change of connection is a barrier: what is unanswered on the old one comes first.
                reserved = Reserve::Wait;
            } else {
                // It was kept there, and goes elsewhere now.
                turn.upstream.leave(id);
                (self.bound, want.bound) = (None, None);
                reserved = reserve(want, turn);
            }
        }
        match reserved {
            Reserve::Ready(id) => Ok(id),
            Reserve::Wait | Reserve::Elsewhere(_) => {
                if self.replies.forwarded() > 0 {
                    // Once it has all its replies it is free to go elsewhere.
                    self.wake_at = Some(0);
                }
                Err(if self.may_wait(turn) { Step::Blocked } else { self.unavailable(frame, &Error::Overdue, turn) })
            }
            Reserve::Unavailable(error) => Err(self.unavailable(frame, &error, turn)),
        }
    }

    /// What is to be said of a request of `len` bytes that is sent on this connection, and counts as forwarded from now on.
    #[inline(always)] // Once for each request: a call costs as much as what it does.
    fn message(&mut self, id: ConnectionId, manner: Manner, len: usize, turn: &Turn<'_, '_>) -> Message {
        if len >= BULK_ITEM {
            self.count_bulk(len, turn.env.tick);
        }
        let traits = Traits::new(manner.slow, manner.repeatable, manner.script)
            .muted(self.state.mutes_next())
            .resp3(self.state.protocol == Protocol::Resp3);
        let after = if self.replies.forwarded() > 0 { self.due } else { 0 };
        self.bound = Some(id);
        if !manner.repeatable {
            self.wrote = Some(id);
        }
        self.replies.forward();
        Message { client: self.key, traits, since: self.since, after, tag: mem::take(&mut self.tag) }
    }

    /// Answers a request that is not sent.
    fn unavailable(&mut self, request: &[u8], error: &Error, turn: &mut Turn<'_, '_>) -> Step {
        if let Error::Database(reply) = error {
            return self.answer_with(turn.env, |out| build::error(reply, out));
        }
        let (protocol, strict) = (self.state.protocol, self.strict);
        let (policy, upstream) = (Rc::clone(&turn.env.policy), Arc::clone(&turn.env.upstream));
        let asked = Asked { request, protocol, strict, policy: &policy, upstream: &upstream };
        let failure = Failure::not_sent(error.why());
        if matches!(error, Error::Overdue) {
            let stage = if turn.upstream.is_dialling(self.lane) { "dial" } else { "queue" };
            turn.env.metrics.timeouts.with_label_values(&[stage]).inc();
        }
        self.note_unserved(request, true, turn.env);
        let mut given = Given::Unavailable;
        let step = self.answer_with(turn.env, |out| given = unserved::answer(&asked, failure, out));
        if failure.why == Why::Open {
            turn.env.cells.rejected.add(1);
        }
        self.gave(given, failure.why != Why::Open, turn.env);
        step
    }

    /// Counts the request at hand, which Redis has not answered.
    fn gave(&mut self, given: Given, tried: bool, env: &Env) {
        if !env.cells.is_off() {
            env.cells.degraded_clients.count(&self.state.name);
        }
        env.cells.gave(mem::take(&mut self.tag), given, tried, env.clock);
    }

    /// Whether the request at hand has time left to wait. If so somebody looks whether that is still so.
    fn may_wait(&mut self, turn: &mut Turn<'_, '_>) -> bool {
        self.may_wait_for(turn.upstream.limit(), turn)
    }

    /// The same, where it may wait for so many ticks.
    fn may_wait_for(&mut self, limit: u32, turn: &mut Turn<'_, '_>) -> bool {
        let since = *self.since.get_or_insert_with(|| turn.upstream.ticks());
        self.until = since.saturating_add(limit);
        if turn.upstream.ticks() >= self.until {
            return false;
        }
        if !mem::replace(&mut self.blocked, true) {
            turn.env.blocked.push(self.key);
        }
        true
    }

    /// True while requests wait to be sent; wakes the task when they have waited long enough.
    pub(super) fn is_blocked(&mut self, upstream: &Upstream) -> bool {
        self.blocked = self.since.is_some();
        if self.blocked && upstream.ticks() >= self.until {
            self.wake();
        }
        self.blocked
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

    /// Goes through the end of a session: the last replies, the end of the stream, and a moment of lingering.
    fn finish(&mut self, cx: &mut Context<'_>, env: &mut Env) {
        if let Phase::Finishing { linger } = self.phase {
            self.drop_input(env);
            if self.replies.outstanding() > 0 || self.awaits_verdict() || self.is_streaming() {
                self.wake_at = Some(0);
                return;
            }
            if !self.out.is_empty() || self.transport.poll_shutdown(cx).is_pending() {
                return;
            }
            let left = if env.stage == Stage::Serving { LINGER_BYTES } else { usize::MAX };
            self.phase = if linger { Phase::Lingering { left } } else { Phase::Dead };
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

/// What a local answer needs to know.
fn local_env<'a>(
    env: &'a Env,
    alone: bool,
    subscribed_to: [usize; 3],
    addresses: &'a dyn Fn() -> (String, String),
) -> local::Env<'a> {
    let (identity, database) = (env.upstream.identity(), env.upstream.default_database());
    local::Env { password: env.password.as_ref(), identity, database, alone, subscribed_to, addresses }
}
