//! One upstream connection: the queue that pairs replies with requests.
//!
//! Requests of many clients are appended to one outgoing queue and leave in one write a turn; each has an entry in the
//! in-flight queue, and since Redis answers in order, the next reply belongs to the oldest entry. A client that left
//! keeps its entries: they are tombstones, whose replies are read and dropped.
//!
//! ```text
//!   client A ──GET a──┐                                     ┌──▶ reply queue of A
//!   client B ──GET b──┼─▶ outgoing: GET a GET b GET c ──▶ Redis
//!   client A ──GET c──┘   in flight: A     B     A   ◀── replies, in order
//! ```
//!
//! A request's bytes are kept until it is answered ([`super::outgoing`]), so that a read can be asked again elsewhere. One
//! whose deadline passes becomes a tombstone like that of a client that left; `overdue` holds this side of it.
//!
//! Invariants: reading and writing advance independently at every poll (two full socket buffers would deadlock a
//! connection that waits for its write before it reads). A reply that nobody waits for, or bytes that are no reply, end
//! the connection: it is never resynchronised, because an error of one would give every client another's data.
//! Reading never stops because a client does not take its replies; it is slowed down, a millisecond at a time, while a
//! client that keeps taking a very large one lags behind ([`Replies::lags`]).

mod block;
mod entry;
mod overdue;
mod timing;

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::io::{self, IoSlice};
use std::mem;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

use block::{Block, Ended};
pub(crate) use entry::{ClientKey, InFlight, Replies, Sending, Traits, Unanswered};
pub(crate) use overdue::Slot;
pub(crate) use timing::Parts;
use timing::Timing;

use super::admission::Admission;
use super::breaker::{Change, Trial, View};
use super::connect::Peer;
use super::error::{Error, Failure, Outcome, Why, cannot_serve, is_readonly};
use super::health::{Asker, Obstacle};
use super::outgoing::Outgoing;
use super::pool::Permit;
use crate::buffer::{ChunkPool, MAX_SLICES, Owner};
use crate::observe::cells::Cells;
use crate::resp::reply::{Advance, Kind, ReplyScanner};
use crate::transport::Transport;

/// Most requests in flight on one connection.
pub(crate) const MAX_IN_FLIGHT: usize = 16_384;

/// Most bytes of requests in flight on one connection; one request may pass it, if it was below before.
const MAX_IN_FLIGHT_BYTES: u64 = 4 * 1024 * 1024;

/// An incomplete reply is held back until it is complete or this long, in bytes; a longer one streams to its client as
/// it arrives. What was held back can still be answered properly if the connection dies.
const STREAM_FROM: usize = 64 * 1024;

/// Bytes read from upstream in one turn, besides a held-back reply.
const READ_TURN: usize = 192 * 1024;

/// How long reading pauses for a client that lags behind in taking a large reply.
const PACE: Duration = Duration::from_millis(1);

/// Size of the worker's read buffer for upstream connections.
pub(crate) const READ_BUFFER: usize = STREAM_FROM + READ_TURN;

/// Longest reply to a request of our own that is kept, in bytes.
const MAX_CAPTURED: usize = 4 * 1024 * 1024;

/// What a connection learnt in its turn, for its owner to act upon.
#[derive(Default)]
pub(crate) struct News {
    /// Writes that the server refused because it is a replica, each the only request of its client here.
    pub(crate) returned: Vec<(Unanswered, Vec<u8>)>,
    /// It refused others too, which were told.
    pub(crate) is_replica: bool,
    /// Fences that were answered, by their serial.
    pub(crate) fenced: Vec<u32>,
    /// Connections whose CLIENT UNBLOCK was answered, by their serial.
    pub(crate) released: Vec<u32>,
    /// When the sign of life that came was asked for.
    pub(crate) proof: Option<Instant>,
    /// Whole replies to [`ClientKey::CAPTURE`].
    pub(crate) captured: Vec<Vec<u8>>,
    /// What trials have made of the breaker.
    pub(crate) changes: Vec<Change>,
}

/// A socket that was dialled, greeted and admitted.
pub(crate) struct Made {
    pub(crate) transport: Transport,
    pub(crate) permit: Permit,
    /// What the server calls it, if it says so.
    pub(crate) peer: Option<Peer>,
    /// When it was asked something that the server has answered since.
    pub(crate) asked: Instant,
    /// How often connections had been renewed when it was dialled.
    pub(crate) renewal: u32,
}

/// A shared connection in service.
pub(crate) struct Connection {
    transport: Transport,
    permit: Permit,
    /// What the server calls it, if it says so.
    peer: Option<Peer>,
    outgoing: Outgoing,
    in_flight: VecDeque<InFlight>,
    timing: Timing,
    scanner: ReplyScanner,
    /// The beginning of an incomplete reply.
    held_back: Vec<u8>,
    /// The incomplete reply is too long to hold back: its bytes go on as they come.
    streaming: bool,
    /// That is a push message.
    pushing: bool,
    /// Offset of the requests up to which replies came.
    answered: u64,
    /// Most requests in flight just now; smaller while the server recovers.
    window: usize,
    admission: Admission,
    /// Takes no new request; it comes to rest and is put to another use.
    withdrawn: bool,
    /// The client that has it for itself: it gets what nobody asked for, too.
    owner: Option<ClientKey>,
    /// What comes and was not asked for is no fault: it is a stream, and goes to the owner.
    streams: bool,
    /// Its client sends no more: so do we.
    finishing: bool,
    /// READONLY is passed on to clients, because it is what the present primary says.
    passes_on_readonly: bool,
    /// It has answered a client's request.
    served: bool,
    /// Takes no new request until it has shown that it works; see [`super::Upstream`]'s `watch`.
    sidelined: bool,
    /// When it was put to its present use, when it last had any traffic, and when a client last used it.
    since: Instant,
    active: Instant,
    used: Instant,
    /// When something last came from the server, when replies last came, and since when some are due.
    heard: Instant,
    replied: Instant,
    busy_since: Instant,
    /// A client's request was added since the last turn.
    fresh: bool,
    /// The view of the breaker under which the last request was sent, and from which offset on that holds.
    view: View,
    view_from: u64,
    /// In the present slot of 100 ms: a request of this view was answered; something failed.
    succeeded: bool,
    failed: bool,
    /// Trials under way, each with the offset behind its request.
    trials: VecDeque<(u64, Trial)>,
    /// Which of the requests in flight are blocks, oldest first.
    blocks: VecDeque<Block>,
    /// The earliest deadline of a request in flight, or an earlier one.
    next_deadline: u32,
    /// Requests in flight whose deadline has passed.
    late: usize,
    /// The serial of the last fence sent here.
    pub(super) fences: u32,
    captured: Vec<u8>,
    /// When a sign of life was asked for here that has not come yet.
    proof_asked: Option<Instant>,
    /// Who wants to know whether Redis answers: one for each PING that asks so, oldest first.
    checks: VecDeque<Asker>,
    news: News,
    /// The task that drives it, and whether that was woken since its last turn.
    task: Option<Waker>,
    scheduled: bool,
    /// Reading goes on when this has passed.
    pause: Option<Pin<Box<Sleep>>>,
    /// Clients that wait until there is room, or until the connection is at rest.
    waiting: HashMap<ClientKey, Waker>,
    /// Push messages dropped.
    pushes: u64,
}

impl Connection {
    /// A connection at rest, whose requests have `deadline` in all.
    pub(crate) fn new(made: Made, deadline: Duration, view: View, cells: Arc<Cells>, now: Instant) -> Self {
        let Made { transport, permit, peer, asked: _, renewal: _ } = made;
        Self {
            transport,
            permit,
            peer,
            outgoing: Outgoing::default(),
            in_flight: VecDeque::new(),
            timing: Timing::new(cells),
            scanner: ReplyScanner::default(),
            held_back: Vec::new(),
            streaming: false,
            pushing: false,
            answered: 0,
            window: MAX_IN_FLIGHT,
            admission: Admission::new(deadline),
            withdrawn: false,
            owner: None,
            streams: false,
            finishing: false,
            passes_on_readonly: false,
            served: false,
            sidelined: false,
            since: now,
            active: now,
            used: now,
            heard: now,
            replied: now,
            busy_since: now,
            fresh: false,
            view,
            view_from: 0,
            succeeded: false,
            failed: false,
            trials: VecDeque::new(),
            blocks: VecDeque::new(),
            next_deadline: u32::MAX,
            late: 0,
            fences: 0,
            captured: Vec::new(),
            proof_asked: None,
            checks: VecDeque::new(),
            news: News::default(),
            task: None,
            scheduled: false,
            pause: None,
            waiting: HashMap::new(),
            pushes: 0,
        }
    }

    /// Requests whose replies are due.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// True if a request may be added.
    pub(crate) fn has_room(&self) -> bool {
        !self.withdrawn && self.in_flight.len() < self.window.min(self.admission.limit()) && !self.is_full()
    }

    /// True if as many bytes are in flight as may be.
    pub(crate) fn is_full(&self) -> bool {
        self.outgoing.accepted() - self.answered >= MAX_IN_FLIGHT_BYTES
    }

    /// True if there is room for many requests: those who wait are woken all at once.
    fn has_ample_room(&self) -> bool {
        !self.withdrawn
            && self.in_flight.len() < self.window.min(self.admission.limit()) / 2
            && self.outgoing.accepted() - self.answered < MAX_IN_FLIGHT_BYTES / 2
    }

    /// True if more is in flight than the server answers in time, at the rate it shows.
    pub(crate) fn is_overloaded(&self) -> bool {
        self.admission.is_known() && self.in_flight.len() >= self.admission.limit()
    }

    /// True if nothing is outstanding in either direction.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.in_flight.is_empty() && self.outgoing.is_written() && self.scanner.at_boundary()
    }

    /// True once [`Connection::withdraw`] was called.
    pub(crate) fn is_withdrawn(&self) -> bool {
        self.withdrawn
    }

    /// True while it takes no new request because it may not work.
    pub(crate) fn is_sidelined(&self) -> bool {
        self.sidelined
    }

    /// Takes it out of service, or puts it back.
    pub(crate) fn sideline(&mut self, sidelined: bool) {
        self.sidelined = sidelined;
    }

    /// True once it has answered a client's request.
    pub(crate) fn has_served(&self) -> bool {
        self.served
    }

    /// Says whether READONLY is passed on to clients, or taken for a failover.
    pub(crate) fn pass_on_readonly(&mut self, passes: bool) {
        self.passes_on_readonly = passes;
    }

    /// True while a reply that is being passed on is incomplete.
    pub(crate) fn is_streaming(&self) -> bool {
        self.streaming
    }

    /// Sets how many requests may be in flight.
    pub(crate) fn set_window(&mut self, window: usize) {
        self.window = window;
    }

    /// What the server calls it.
    pub(crate) fn peer(&self) -> Option<&Peer> {
        self.peer.as_ref()
    }

    /// When it was put to its present use.
    pub(crate) fn since(&self) -> Instant {
        self.since
    }

    /// When it last sent or received something.
    pub(crate) fn active(&self) -> Instant {
        self.active
    }

    /// When a client's request last went over it.
    pub(crate) fn used(&self) -> Instant {
        self.used
    }

    /// True if a sign of life was asked for here that has not come yet.
    pub(crate) fn is_being_asked(&self) -> bool {
        self.proof_asked.is_some()
    }

    /// The next request asks whether Redis answers, and the reply goes to `asker`.
    pub(crate) fn expect_check(&mut self, asker: Asker) {
        self.checks.push_back(asker);
    }

    /// When something last came from the server.
    pub(crate) fn heard(&self) -> Instant {
        self.heard
    }

    /// Since when the server owes us something without a byte of it coming; nothing if it owes nothing.
    pub(crate) fn silent_since(&self) -> Option<Instant> {
        let due = self.in_flight.front().is_some_and(|entry| entry.end <= self.outgoing.written());
        (due || !self.outgoing.is_written()).then(|| self.heard.max(self.busy_since))
    }

    /// The view of the breaker under which it sent its last request.
    pub(crate) fn view(&self) -> View {
        self.view
    }

    /// True if [`Connection::news`] has something to tell.
    pub(crate) fn has_news(&self) -> bool {
        let News { returned, is_replica, fenced, released, proof, captured, changes } = &self.news;
        *is_replica
            || proof.is_some()
            || !(returned.is_empty()
                && fenced.is_empty()
                && released.is_empty()
                && captured.is_empty()
                && changes.is_empty())
    }

    /// What it learnt since this was asked last.
    pub(crate) fn news(&mut self) -> News {
        mem::take(&mut self.news)
    }

    /// Gives it to a client alone, or takes it back.
    pub(crate) fn lend(&mut self, owner: Option<ClientKey>) {
        self.owner = owner;
    }

    /// From the next reply on it is a stream.
    pub(crate) fn open_stream(&mut self) {
        self.streams = true;
    }

    /// Sends into a stream, where nothing tells a reply from the rest.
    pub(crate) fn send_into_stream(&mut self, request: &[u8], pool: &mut ChunkPool) {
        self.outgoing.push(request, pool);
        self.wake_task();
    }

    /// Its client sends no more. What it sent is answered yet, unless the server waits for others to answer it.
    pub(crate) fn finish(&mut self) {
        self.finishing = true;
        self.wake_task();
    }

    /// True once its client has said its last: the server ends it.
    pub(crate) fn is_finishing(&self) -> bool {
        self.finishing
    }

    /// Takes no new request from now on.
    pub(crate) fn withdraw(&mut self) {
        self.withdrawn = true;
    }

    /// Wakes `waker` when the connection has room again, is at rest, or is gone.
    pub(crate) fn wait(&mut self, client: ClientKey, waker: &Waker) {
        self.waiting.insert(client, waker.clone());
    }

    /// Adds a request, copying its bytes.
    #[inline(always)] // Once for each request or reply: a call costs as much as what it does.
    pub(crate) fn send(&mut self, sending: Sending, request: &[u8], pool: &mut ChunkPool) {
        self.outgoing.push(request, pool);
        self.enter(sending);
    }

    /// Adds a large request without copying it; its capacity is in the budget already, as this owner's.
    pub(crate) fn send_owned(&mut self, sending: Sending, request: Vec<u8>, owner: Owner) {
        self.outgoing.push_owned(request, sending.traits.is_repeatable(), owner);
        self.enter(sending);
    }

    #[inline(always)] // Once for each request or reply: a call costs as much as what it does.
    fn enter(&mut self, sending: Sending) {
        let Sending { client, deadline, view, .. } = sending;
        if !client.is_ours() {
            self.fresh = true;
        } else if client == ClientKey::PROOF {
            self.proof_asked = Some(Instant::now());
        }
        if self.view.generation != view.generation {
            self.view_from = self.in_flight.back().map_or(self.answered, |entry| entry.end);
            self.view = view;
        }
        let end = self.outgoing.accepted();
        self.next_deadline = self.next_deadline.min(deadline);
        self.in_flight.push_back(InFlight::new(sending, end));
        if !self.scheduled {
            self.scheduled = true;
            self.wake_task();
        }
    }

    /// Makes the request that was added last a trial, whose permit this is.
    pub(crate) fn try_with_last(&mut self, trial: Trial) {
        self.trials.push_back((self.outgoing.accepted(), trial));
    }

    fn wake_task(&self) {
        if let Some(task) = &self.task {
            task.wake_by_ref();
        }
    }

    /// One turn: writes what waits, reads what came, hands replies on.
    ///
    /// # Errors
    /// Why the connection has to go; the replies that came before were delivered.
    pub(crate) fn turn(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
        pool: &mut ChunkPool,
        clients: &mut impl Replies,
        now: Instant,
    ) -> Result<(), Error> {
        if !self.task.as_ref().is_some_and(|task| task.will_wake(cx.waker())) {
            self.task = Some(cx.waker().clone());
        }
        self.scheduled = false;
        self.active = now;
        self.timing.begin(now);
        if self.fresh {
            self.fresh = false;
            self.used = now;
        }
        if self.outgoing.written() == self.answered {
            self.busy_since = now;
            // Nothing is due, so whatever is known to have come is surplus; it must not pass for the reply to what is written
            // next.
            self.read(cx, buffer, clients)?;
        }
        // What was answered before the connection broke is read all the same.
        let written = self.write(cx, pool);
        if self.finishing && self.outgoing.is_written() {
            // Whether that can be said or not, the connection ends soon.
            let _ = self.transport.poll_shutdown(cx);
        }
        self.read(cx, buffer, clients)?;
        if self.streams && self.in_flight.is_empty() {
            self.answered = self.outgoing.written();
            self.timing.rest();
        }
        self.outgoing.release(self.answered, pool);
        written?;
        // Those for whom there is no hope are told so as well.
        if !self.waiting.is_empty() && (self.has_ample_room() || self.is_at_rest() || self.is_overloaded()) {
            self.wake_waiting();
        }
        Ok(())
    }

    /// Writes until nothing waits or the socket is full; then the task is woken when it no longer is.
    fn write(&mut self, cx: &mut Context<'_>, pool: &mut ChunkPool) -> io::Result<()> {
        let before = self.outgoing.written();
        let result = self.write_all(cx, pool);
        let written = self.outgoing.written();
        self.timing.wrote(written, written - before);
        result
    }

    fn write_all(&mut self, cx: &mut Context<'_>, pool: &mut ChunkPool) -> io::Result<()> {
        while !self.outgoing.is_written() {
            let mut slices = [IoSlice::new(&[]); MAX_SLICES];
            let attempt = match self.outgoing.slices(&mut slices) {
                1 => self.transport.try_write(&slices[0]),
                count => self.transport.try_write_vectored(slices.get(..count).unwrap_or_default()),
            };
            match attempt {
                Ok(count) => self.outgoing.wrote(count, pool),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.transport.poll_write_ready(cx)?.is_pending() {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads and settles one buffer; a full one means that there is more, which waits for the next turn, so that the
    /// clients' tasks come between.
    fn read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8], clients: &mut impl Replies) -> Result<(), Error> {
        if self.is_pausing(cx, clients) {
            return Ok(());
        }
        loop {
            let held = self.held_back.len();
            let space = buffer.get_mut(held..held + READ_TURN).unwrap_or_default();
            let count = match self.transport.poll_read(cx, space) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(0)) => return Err(Error::Closed),
                Poll::Ready(Ok(count)) => count,
                Poll::Ready(Err(error)) => return Err(error.into()),
            };
            if let Some(front) = buffer.get_mut(..held) {
                front.copy_from_slice(&self.held_back);
            }
            self.held_back.clear();
            self.heard = self.active;
            self.timing.read(count);
            let (before, slow) =
                (self.in_flight.len(), self.in_flight.front().is_some_and(|entry| entry.traits.is_slow()));
            let settled = self.settle(buffer, held, held + count, clients);
            self.timing.end_run();
            clients.flush(buffer);
            settled?;
            let replies = before - self.in_flight.len();
            if replies > 0 {
                let since = self.replied.max(self.busy_since);
                self.replied = self.active;
                if self.in_flight.is_empty() {
                    self.timing.rest();
                }
                if slow {
                    self.admission.replied_slowly(replies);
                } else {
                    let busy = self.active.saturating_duration_since(since);
                    self.admission.replied(replies, busy, self.in_flight.is_empty());
                }
            }
            if count == READ_TURN {
                cx.waker().wake_by_ref();
                return Ok(());
            }
        }
    }

    /// True while reading waits a moment for the client of a large reply, see [`Replies::lags`].
    fn is_pausing(&mut self, cx: &mut Context<'_>, clients: &mut impl Replies) -> bool {
        loop {
            if let Some(pause) = &mut self.pause {
                if pause.as_mut().poll(cx).is_pending() {
                    return true;
                }
                self.pause = None;
            }
            let lags = |entry: &InFlight| clients.lags(entry.client);
            if !(self.streaming && self.in_flight.front().is_some_and(lags)) {
                return false;
            }
            self.pause = Some(Box::pin(sleep(PACE)));
        }
    }

    /// Hands on the replies in `buffer[..end]`, of which everything before `new` was scanned earlier.
    fn settle(&mut self, buffer: &[u8], new: usize, end: usize, clients: &mut impl Replies) -> Result<(), Error> {
        let (mut start, mut position) = (0, new);
        while position < end {
            let bytes = buffer.get(position..end).unwrap_or_default();
            match self.scanner.advance(bytes).map_err(|error| Error::Protocol(error.to_string()))? {
                Advance::Complete { taken, kind } => {
                    position += taken;
                    self.complete(kind, buffer, start..position, clients)?;
                    start = position;
                }
                Advance::More => position = end,
            }
        }
        if start < end {
            self.incomplete(buffer, start..end, clients)?;
        }
        Ok(())
    }

    fn complete(
        &mut self,
        kind: Kind,
        buffer: &[u8],
        range: Range<usize>,
        clients: &mut impl Replies,
    ) -> Result<(), Error> {
        let streamed = mem::take(&mut self.streaming);
        if kind == Kind::Push {
            if let Some(owner) = self.owner {
                clients.push(owner, buffer, range, true);
                return Ok(());
            }
            // Nobody subscribes on a lane, so nobody asked for this one.
            self.pushes += 1;
            if self.pushes == 1 {
                tracing::warn!("dropped a push message that nobody asked for on a shared upstream connection");
            }
            return Ok(());
        }
        if let Some(owner) = self.owner.filter(|_| self.streams && self.in_flight.is_empty()) {
            clients.push(owner, buffer, range, true);
            return Ok(());
        }
        let mut ended = None;
        if self.is_block_next() {
            ended = self.reply_of_block(buffer.get(range.clone()).unwrap_or_default(), streamed)?;
            if ended.is_none() {
                return Ok(());
            }
        }
        let entry = self.due()?;
        self.in_flight.pop_front();
        let request = mem::replace(&mut self.answered, entry.end)..entry.end;
        self.late -= usize::from(entry.traits.is_late());
        self.succeeded |= request.start >= self.view_from;
        let is_error = !streamed && buffer.get(range.start) == Some(&b'-');
        let refused =
            is_error && self.refused((entry, request.clone()), ended.as_ref(), buffer, range.clone(), clients);
        if self.trials.front().is_some_and(|(end, _)| *end <= entry.end)
            && let Some((_, trial)) = self.trials.pop_front()
        {
            self.news.changes.extend(if refused { trial.fail(self.active) } else { trial.succeed(self.active) });
        }
        if refused {
            self.timing.refused(&entry, buffer.get(range).unwrap_or_default());
        } else {
            self.served |= !entry.client.is_ours();
            let failed = is_error
                && entry.client.is_ping()
                && opinion_of(buffer.get(range.clone()).unwrap_or_default()).is_err();
            let (length, asked) = (range.len() as u64, request.end - request.start);
            let reply = timing::Reply { request: asked, length, streamed, failed };
            if let Some(parts) = self.timing.replied(&entry, reply, self.owner.is_none()) {
                let mut asked = Vec::new();
                self.outgoing.copy(request, &mut asked);
                clients.slow(entry, &asked, parts);
            }
            self.hand_over(entry, buffer, range, true, clients);
        }
        match ended {
            Some(Ended { is_open: true, .. }) => {
                Err(Error::Protocol("EXEC was refused and may not be over".to_owned()))
            }
            Some(Ended { is_open: false, .. }) | None => Ok(()),
        }
    }

    #[inline(always)] // Once for each request or reply: a call costs as much as what it does.
    fn hand_over(
        &mut self,
        entry: InFlight,
        buffer: &[u8],
        range: Range<usize>,
        complete: bool,
        clients: &mut impl Replies,
    ) {
        if !entry.client.is_ours() {
            clients.deliver(entry, buffer, range, complete);
        } else if entry.client == ClientKey::CAPTURE {
            if self.captured.len() < MAX_CAPTURED {
                self.captured.extend_from_slice(buffer.get(range).unwrap_or_default());
            }
            if complete {
                let captured = mem::take(&mut self.captured);
                // A longer one is not kept in part.
                self.news.captured.extend(Some(captured).filter(|captured| captured.len() < MAX_CAPTURED));
            }
        } else if entry.client == ClientKey::PROOF {
            self.news.proof = self.proof_asked.take().or(self.news.proof);
        } else if entry.client == ClientKey::CHECK {
            self.checked(opinion_of(buffer.get(range).unwrap_or_default()));
        } else if let Some(serial) = entry.client.fence() {
            self.news.fenced.extend(complete.then_some(serial));
        } else if let Some(serial) = entry.client.release() {
            self.news.released.extend(complete.then_some(serial));
        }
    }

    /// Tells who asked first whether Redis answers.
    fn checked(&mut self, answer: Result<(), Obstacle>) {
        if let Some(asker) = self.checks.pop_front() {
            // Who asked may have given up.
            let _ = asker.send(answer);
        }
    }

    /// Deals with an error reply that says the server refused the request before running it; false if it is any other,
    /// which is an answer. Scripts may pass on such an error after having changed data. Of a block it is the reason that
    /// counts.
    fn refused(
        &mut self,
        (entry, request): (InFlight, Range<u64>),
        block: Option<&Ended>,
        buffer: &[u8],
        range: Range<usize>,
        clients: &mut impl Replies,
    ) -> bool {
        let reply = buffer.get(range).unwrap_or_default();
        let line = block.and_then(|block| block.reason.as_deref()).or_else(|| reply.get(1..)).unwrap_or_default();
        if entry.traits.is_script() {
            return false;
        }
        if self.owner.is_some() {
            // Its client has the connection for itself, and is told what the server says.
            self.news.is_replica |= line.starts_with(b"READONLY ") && !self.passes_on_readonly;
            return false;
        }
        if entry.client == ClientKey::PROOF {
            // Any answer is a sign of life.
            self.news.proof = self.proof_asked.take();
        }
        if let Some(serial) = entry.client.fence() {
            // It did not run: it goes ahead of the next request again.
            self.fences = self.fences.min(serial - 1);
        }
        let mut bytes = Vec::new();
        if cannot_serve(line) {
            self.failed = true;
            if entry.client == ClientKey::CHECK {
                self.checked(Err(Obstacle::of_refusal(line)));
            }
            self.outgoing.copy(request, &mut bytes);
            if !entry.client.is_ours() {
                clients.fail(entry, &bytes, Failure { outcome: Outcome::NotRun, why: Why::NotReady }, buffer);
            }
            return true;
        }
        if !is_readonly(line) || self.passes_on_readonly || entry.client.is_ours() {
            return false;
        }
        let kept = self.outgoing.copy(request, &mut bytes);
        if kept && self.is_alone(entry.client) {
            let preface = block.map_or(0, |block| block.preface);
            let unanswered = Unanswered { entry, request: bytes, preface, sent: false, begun: false };
            self.news.returned.push((unanswered, reply.to_vec()));
        } else {
            self.news.is_replica = true;
            clients.fail(entry, &bytes, Failure { outcome: Outcome::NotRun, why: Why::Replica }, buffer);
        }
        true
    }

    /// True if the client has nothing in flight here. Looks at the first thousand requests only: this is asked for each
    /// reply of a kind that may come in thousands.
    fn is_alone(&self, client: ClientKey) -> bool {
        self.in_flight.len() <= 1000 && self.in_flight.iter().all(|entry| entry.client != client)
    }

    /// The only request in flight, if it is one that its client wants to see answered: its bytes, and its deadline.
    pub(crate) fn only_request(&self) -> Option<(Vec<u8>, u32)> {
        let entry = self.in_flight.back().filter(|entry| !entry.client.is_ours() && !entry.traits.is_muted())?;
        let start = match self.in_flight.len() {
            1 => self.answered,
            more => self.in_flight.get(more - 2).filter(|entry| entry.client.is_ours())?.end,
        };
        let mut request = Vec::new();
        self.outgoing.copy(start..entry.end, &mut request).then_some((request, entry.deadline))
    }

    /// Whose reply comes next: the oldest request in flight, if all of it was sent.
    fn due(&self) -> Result<InFlight, Error> {
        let sent = self.in_flight.front().filter(|entry| entry.end <= self.outgoing.written());
        sent.copied().ok_or_else(|| Error::Protocol("a reply that nobody waits for".to_owned()))
    }

    fn incomplete(&mut self, buffer: &[u8], range: Range<usize>, clients: &mut impl Replies) -> Result<(), Error> {
        let push = match self.streaming {
            true => self.pushing,
            false => buffer.get(range.start) == Some(&b'>') || (self.streams && self.in_flight.is_empty()),
        };
        let entry = if push || self.awaits_preface()? { None } else { Some(self.due()?) };
        if !self.streaming && range.len() < STREAM_FROM {
            self.held_back.extend_from_slice(buffer.get(range).unwrap_or_default());
            return Ok(());
        }
        self.timing.passed_on(range.len(), !self.streaming);
        (self.streaming, self.pushing) = (true, push);
        match (entry, self.owner) {
            (Some(entry), _) => self.hand_over(entry, buffer, range, false, clients),
            (None, Some(owner)) => clients.push(owner, buffer, range, false),
            (None, None) => return Err(Error::Protocol("an oversized message that is no reply".to_owned())),
        }
        Ok(())
    }

    /// Lets everybody who waits for room try again.
    pub(crate) fn wake_waiting(&mut self) {
        for (_, waker) in self.waiting.drain() {
            waker.wake();
        }
    }

    /// Takes the socket and its permit out of a connection at rest, to put them to another use.
    pub(crate) fn release(mut self, renewal: u32) -> Made {
        self.wake_waiting();
        // The task finds its connection gone, and ends.
        self.wake_task();
        Made { transport: self.transport, permit: self.permit, peer: self.peer, asked: self.since, renewal }
    }
}

/// What the reply to a PING says of the server. Whoever may not give the command is told so by a server that serves.
fn opinion_of(reply: &[u8]) -> Result<(), Obstacle> {
    match reply.strip_prefix(b"-") {
        Some(error) if !error.starts_with(b"NOPERM") => Err(Obstacle::of_refusal(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ping_that_is_answered_by_an_error_is_none_unless_we_may_not_ask() {
        assert_eq!(opinion_of(b"+PONG\r\n"), Ok(()));
        assert_eq!(opinion_of(b"-NOPERM this user has no permissions to run the 'ping' command\r\n"), Ok(()));
        let misconf = b"-MISCONF Redis is configured to save RDB snapshots\r\n";
        assert_eq!(opinion_of(misconf), Err(Obstacle::Refused("MISCONF".to_owned())));
    }
}
