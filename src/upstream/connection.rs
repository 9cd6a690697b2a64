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
//! Invariants: reading and writing advance independently at every poll (two full socket buffers would deadlock a
//! connection that waits for its write before it reads). A reply that nobody waits for, or bytes that are no reply, end
//! the connection: it is never resynchronised, because an error of one would give every client another's data.
//! Reading never stops because a client does not take its replies; it is slowed down, a millisecond at a time, while a
//! client that keeps taking a very large one lags behind ([`Replies::lags`]).

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::io::{self, IoSlice};
use std::mem;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

use super::error::Error;
use super::pool::Permit;
use crate::buffer::{ByteQueue, ChunkPool, MAX_SLICES};
use crate::resp::reply::{Advance, Kind, ReplyScanner};
use crate::transport::Transport;

/// Most requests in flight on one connection.
const MAX_IN_FLIGHT: usize = 16_384;

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

/// Names a client to its worker. The generation tells a client from a later one in the same slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ClientKey {
    /// Index in the worker's list of clients.
    pub(crate) slot: u32,
    /// Counts the clients of this worker.
    pub(crate) generation: u32,
}

impl ClientKey {
    /// Nobody: entries of our own requests.
    pub(crate) const NOBODY: Self = Self { slot: u32::MAX, generation: u32::MAX };
}

/// An in-flight entry: whose request it is, and how far in the stream it reaches.
#[derive(Debug, Clone, Copy)]
pub(crate) struct InFlight {
    /// Who gets the reply.
    pub(crate) client: ClientKey,
    /// The reply is due, but not to be shown (CLIENT REPLY OFF or SKIP).
    pub(crate) muted: bool,
    /// Offset behind the request's last byte in everything ever sent on this connection.
    end: u64,
}

/// Whether a request whose reply will not come can have run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Its last byte was not handed to the kernel: it cannot have run.
    NotSent,
    /// It was sent; whether it ran is unknown.
    Unknown,
}

/// The clients' side, as upstream sees it: somebody who takes replies.
pub(crate) trait Replies {
    /// Takes `buffer[range]`, the next bytes of the reply to `entry`; with `complete` they end it. The bytes need not be
    /// copied before [`Replies::flush`].
    fn deliver(&mut self, entry: InFlight, buffer: &[u8], range: Range<usize>, complete: bool);
    /// The reply to `entry` will not come, or not the rest of it.
    fn fail(&mut self, entry: InFlight, outcome: Outcome);
    /// True if this client has much to take still and is worth waiting a moment for; it is not for long if it takes
    /// nothing.
    fn lags(&mut self, client: ClientKey) -> bool;
    /// Ends a batch: everything delivered leaves now, while `buffer` is still what it was.
    fn flush(&mut self, buffer: &[u8]);
}

/// A shared connection in service.
pub(crate) struct Connection {
    transport: Transport,
    permit: Permit,
    outgoing: ByteQueue,
    in_flight: VecDeque<InFlight>,
    scanner: ReplyScanner,
    /// The beginning of an incomplete reply.
    held_back: Vec<u8>,
    /// The incomplete reply is too long to hold back: its bytes go on as they come.
    streaming: bool,
    /// Bytes accepted, handed to the kernel, and covered by replies, since the beginning.
    accepted: u64,
    written: u64,
    answered: u64,
    /// Takes no new request; it comes to rest and is put to another use.
    withdrawn: bool,
    /// When it was put to its present use, when it last had any traffic, and when a client last used it.
    since: Instant,
    active: Instant,
    used: Instant,
    /// A client's request was added since the last turn.
    fresh: bool,
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
    pub(crate) fn new(transport: Transport, permit: Permit, now: Instant) -> Self {
        Self {
            transport,
            permit,
            outgoing: ByteQueue::default(),
            in_flight: VecDeque::new(),
            scanner: ReplyScanner::default(),
            held_back: Vec::new(),
            streaming: false,
            accepted: 0,
            written: 0,
            answered: 0,
            withdrawn: false,
            since: now,
            active: now,
            used: now,
            fresh: false,
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
        !self.withdrawn && self.in_flight.len() < MAX_IN_FLIGHT && self.accepted - self.answered < MAX_IN_FLIGHT_BYTES
    }

    /// True if there is room for many requests: those who wait are woken all at once.
    fn has_ample_room(&self) -> bool {
        !self.withdrawn
            && self.in_flight.len() < MAX_IN_FLIGHT / 2
            && self.accepted - self.answered < MAX_IN_FLIGHT_BYTES / 2
    }

    /// True if nothing is outstanding in either direction.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.in_flight.is_empty() && self.outgoing.is_empty() && self.scanner.at_boundary()
    }

    /// True once [`Connection::withdraw`] was called.
    pub(crate) fn is_withdrawn(&self) -> bool {
        self.withdrawn
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

    /// Takes no new request from now on.
    pub(crate) fn withdraw(&mut self) {
        self.withdrawn = true;
    }

    /// Wakes `waker` when the connection has room again, is at rest, or is gone.
    pub(crate) fn wait(&mut self, client: ClientKey, waker: &Waker) {
        self.waiting.insert(client, waker.clone());
    }

    /// Adds a request, copying its bytes.
    pub(crate) fn send(&mut self, client: ClientKey, muted: bool, request: &[u8], pool: &mut ChunkPool) {
        self.outgoing.push(request, pool);
        self.enter(client, muted, request.len());
    }

    /// Adds a large request without copying it; its capacity is in the budget already.
    pub(crate) fn send_owned(&mut self, client: ClientKey, muted: bool, request: Vec<u8>) {
        let len = request.len();
        self.outgoing.push_owned(request);
        self.enter(client, muted, len);
    }

    fn enter(&mut self, client: ClientKey, muted: bool, len: usize) {
        self.accepted += len as u64;
        self.fresh |= client != ClientKey::NOBODY;
        self.in_flight.push_back(InFlight { client, muted, end: self.accepted });
        if !self.scheduled {
            self.scheduled = true;
            self.wake_task();
        }
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
        if self.fresh {
            self.fresh = false;
            self.used = now;
        }
        if self.written == self.answered {
            // Nothing is due, so whatever is known to have come is surplus; it must not pass for the reply to what is written
            // next.
            self.read(cx, buffer, clients)?;
        }
        // What was answered before the connection broke is read all the same.
        let written = self.write(cx, pool);
        self.read(cx, buffer, clients)?;
        written?;
        if !self.waiting.is_empty() && (self.has_ample_room() || self.is_at_rest()) {
            self.wake_waiting();
        }
        Ok(())
    }

    /// Writes until nothing waits or the socket is full; then the task is woken when it no longer is.
    fn write(&mut self, cx: &mut Context<'_>, pool: &mut ChunkPool) -> io::Result<()> {
        while !self.outgoing.is_empty() {
            let mut slices = [IoSlice::new(&[]); MAX_SLICES];
            let attempt = match self.outgoing.slices(&mut slices) {
                1 => self.transport.try_write(&slices[0]),
                count => self.transport.try_write_vectored(slices.get(..count).unwrap_or_default()),
            };
            match attempt {
                Ok(count) => {
                    self.outgoing.consume(count, pool);
                    self.written += count as u64;
                }
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
            let settled = self.settle(buffer, held, held + count, clients);
            clients.flush(buffer);
            settled?;
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
        self.streaming = false;
        if kind == Kind::Push {
            // Nobody subscribes on a lane, so nobody asked for this one.
            self.pushes += 1;
            if self.pushes == 1 {
                tracing::warn!("dropped a push message that nobody asked for on a shared upstream connection");
            }
            return Ok(());
        }
        let entry = self.due()?;
        self.in_flight.pop_front();
        self.answered = entry.end;
        clients.deliver(entry, buffer, range, true);
        Ok(())
    }

    /// Whose reply comes next: the oldest request in flight, if all of it was sent.
    fn due(&self) -> Result<InFlight, Error> {
        let sent = self.in_flight.front().filter(|entry| entry.end <= self.written);
        sent.copied().ok_or_else(|| Error::Protocol("a reply that nobody waits for".to_owned()))
    }

    fn incomplete(&mut self, buffer: &[u8], range: Range<usize>, clients: &mut impl Replies) -> Result<(), Error> {
        let push = !self.streaming && buffer.get(range.start) == Some(&b'>');
        let entry = if push { None } else { Some(self.due()?) };
        if !self.streaming && range.len() < STREAM_FROM {
            self.held_back.extend_from_slice(buffer.get(range).unwrap_or_default());
            return Ok(());
        }
        let entry = entry.ok_or_else(|| Error::Protocol("an oversized push message".to_owned()))?;
        self.streaming = true;
        clients.deliver(entry, buffer, range, false);
        Ok(())
    }

    fn wake_waiting(&mut self) {
        for (_, waker) in self.waiting.drain() {
            waker.wake();
        }
    }

    /// Ends the connection: every request in flight is answered with an error, everybody who waits tries again.
    pub(crate) fn close(mut self, pool: &mut ChunkPool, clients: &mut impl Replies) {
        for entry in mem::take(&mut self.in_flight) {
            let outcome = if entry.end > self.written { Outcome::NotSent } else { Outcome::Unknown };
            clients.fail(entry, outcome);
        }
        clients.flush(&[]);
        self.outgoing.clear(pool);
        self.release();
    }

    /// Takes the socket and its permit out of a connection at rest, to put them to another use.
    pub(crate) fn release(mut self) -> (Transport, Permit) {
        self.wake_waiting();
        // The task finds its connection gone, and ends.
        self.wake_task();
        (self.transport, self.permit)
    }
}
