//! The subscription connection: one socket over which this worker gets the messages of all its clients.
//!
//! It speaks RESP2, in which every frame says what it is, also to servers that know nothing else. Messages are handed out
//! from the buffer they were read into, and a *run* of messages of one topic at once, so that a busy channel costs each
//! hearer one step and one write for a whole read.
//!
//! Invariants: reading never stops for a hearer. A frame that is no answer to the next command due, and no message, ends
//! the connection.

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::mem;
use std::task::{Context, Poll, Waker};

use tokio::time::Instant;

use super::notice::Notice;
use super::register::{Register, Settled};
use super::{SLOT, Sort, Verdict};
use crate::buffer::{ByteQueue, ChunkPool, MAX_SLICES};
use crate::resp::reply::{Advance, ReplyScanner};
use crate::transport::Transport;
use crate::upstream::connection::{ClientKey, Made, Replies};
use crate::upstream::error::{Error, Failure, Outcome, Why, cannot_serve};
use crate::upstream::lane::ConnectionId;
use crate::upstream::pool::Permit;

/// Most commands that are not answered; clients then wait.
const MAX_DUE: usize = 1024;

/// Most bytes of commands that wait to be written; one command may pass it.
const MAX_UNWRITTEN: usize = 1024 * 1024;

/// So much of a message is looked at for its topic, if it is too long to be kept whole, in bytes.
const TOPIC_WITHIN: usize = 64 * 1024;

/// A connection in service.
pub(super) struct Feed {
    transport: Transport,
    _permit: Permit,
    serial: u64,
    /// The renewal it was made after, see [`crate::upstream::Event::Renew`].
    pub(super) renewal: u32,
    /// Longest message that is kept whole, in bytes.
    longest: usize,
    out: ByteQueue,
    /// Bytes handed to the kernel.
    written: u64,
    /// Bytes received and sent that nobody has counted yet.
    traffic: (u64, u64),
    scanner: ReplyScanner,
    /// The beginning of an incomplete frame.
    held: Vec<u8>,
    /// Where the messages of a run begin; kept for its memory only.
    starts: Vec<usize>,
    /// The incomplete frame is too long for any hearer: its bytes are dropped.
    skipping: bool,
    /// It is to end for this reason.
    doom: Option<Error>,
    task: Option<Waker>,
    /// Clients that wait until fewer commands are due.
    waiting: HashMap<ClientKey, Waker>,
    /// When it was made, when something last came, and since when an answer is due.
    made: Instant,
    pub(super) heard: Instant,
    busy_since: Instant,
    /// When it was last needed.
    pub(super) used: Instant,
}

/// Messages of one topic, one right after the other; none at first.
struct Run<'a> {
    sort: Sort,
    topic: &'a [u8],
    /// Where each begins.
    starts: Vec<usize>,
    end: usize,
}

impl Feed {
    pub(super) fn new(made: Made, serial: u64, longest: usize, now: Instant) -> Self {
        Self {
            transport: made.transport,
            _permit: made.permit,
            serial,
            renewal: made.renewal,
            longest,
            out: ByteQueue::default(),
            written: 0,
            traffic: (0, 0),
            scanner: ReplyScanner::default(),
            held: Vec::new(),
            starts: Vec::new(),
            skipping: false,
            doom: None,
            task: None,
            waiting: HashMap::new(),
            made: now,
            heard: now,
            busy_since: now,
            used: now,
        }
    }

    pub(super) fn id(&self) -> ConnectionId {
        ConnectionId { slot: SLOT, serial: self.serial }
    }

    /// True if a command may be added.
    pub(super) fn has_room(&self, register: &Register) -> bool {
        self.doom.is_none() && register.due() < MAX_DUE && self.out.len() < MAX_UNWRITTEN
    }

    /// Wakes `waker` when there may be room, or when the connection is gone.
    pub(super) fn wait(&mut self, client: ClientKey, waker: &Waker) {
        self.waiting.insert(client, waker.clone());
    }

    /// True if the server has said something on it.
    pub(super) fn has_served(&self) -> bool {
        self.heard > self.made
    }

    /// Sends commands, of which the register knows already.
    pub(super) fn send(&mut self, commands: &[u8], pool: &mut ChunkPool) {
        self.out.push(commands, pool);
        self.wake();
    }

    /// Notes that something is due from now on, if nothing was.
    pub(super) fn begin(&mut self, register: &Register) {
        if register.due() == 0 {
            self.busy_since = Instant::now();
        }
    }

    /// Since when the server owes us an answer without a byte coming; nothing if it owes none.
    pub(super) fn silent_since(&self, register: &Register) -> Option<Instant> {
        (register.due() > 0).then(|| self.heard.max(self.busy_since))
    }

    /// Lets it end in its next turn.
    pub(super) fn end_for(&mut self, error: Error) {
        self.doom = Some(error);
        self.wake();
    }

    /// Bytes received and sent since the last call.
    pub(super) fn take_traffic(&mut self) -> (u64, u64) {
        mem::take(&mut self.traffic)
    }

    fn wake(&self) {
        self.task.iter().for_each(Waker::wake_by_ref);
    }

    /// Gives back its memory, lets everybody who waits try again, and its task find that it is gone.
    pub(super) fn close(mut self, pool: &mut ChunkPool) {
        self.out.clear(pool);
        pool.resized(self.held.capacity(), 0);
        self.wake_waiting();
        self.wake();
    }

    fn wake_waiting(&mut self) {
        self.waiting.drain().for_each(|(_, waker)| waker.wake());
    }

    /// One turn: writes what waits, reads what came, hands it on.
    ///
    /// # Errors
    /// Why the connection has to go; the messages that came before were handed on.
    pub(super) fn turn(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
        pool: &mut ChunkPool,
        register: &mut Register,
        clients: &mut impl Replies,
    ) -> Result<(), Error> {
        if !self.task.as_ref().is_some_and(|task| task.will_wake(cx.waker())) {
            self.task = Some(cx.waker().clone());
        }
        if let Some(error) = self.doom.take() {
            return Err(error);
        }
        let written = self.write(cx, pool);
        self.read(cx, buffer, pool, register, clients)?;
        written?;
        if !self.waiting.is_empty() && self.has_room(register) {
            self.wake_waiting();
        }
        Ok(())
    }

    /// Writes until nothing waits or the socket is full; then the task is woken when it no longer is.
    fn write(&mut self, cx: &mut Context<'_>, pool: &mut ChunkPool) -> io::Result<()> {
        while !self.out.is_empty() {
            let mut slices = [IoSlice::new(&[]); MAX_SLICES];
            let count = self.out.slices(&mut slices);
            match self.transport.try_write_vectored(slices.get(..count).unwrap_or_default()) {
                Ok(count) => {
                    self.written += count as u64;
                    self.traffic.1 += count as u64;
                    self.out.consume(count, pool);
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

    /// Reads until nothing more is there, or a buffer full; then there is a turn for the clients' tasks between.
    fn read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
        pool: &ChunkPool,
        register: &mut Register,
        clients: &mut impl Replies,
    ) -> Result<(), Error> {
        loop {
            let count = match self.transport.poll_read(cx, buffer) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(0)) => return Err(Error::Closed),
                Poll::Ready(Ok(count)) => count,
                Poll::Ready(Err(error)) => return Err(error.into()),
            };
            self.heard = Instant::now();
            self.traffic.0 += count as u64;
            self.take(buffer.get(..count).unwrap_or_default(), pool, register, clients)?;
            if count == buffer.len() {
                cx.waker().wake_by_ref();
                return Ok(());
            }
        }
    }

    /// Hands on the frames that `fresh` completes, straight from there unless one of them began earlier.
    fn take(
        &mut self,
        fresh: &[u8],
        pool: &ChunkPool,
        register: &mut Register,
        clients: &mut impl Replies,
    ) -> Result<(), Error> {
        pool.resized(self.held.capacity(), 0);
        let mut held = mem::take(&mut self.held);
        let scanned = held.len();
        if scanned > 0 {
            held.extend_from_slice(fresh);
        }
        let bytes = if scanned > 0 { &held } else { fresh };
        let handed_on = self.hand_on(bytes, scanned, register, clients);
        clients.flush_messages(bytes);
        self.held = match handed_on? {
            // Nothing is complete: it goes on growing where it is.
            0 if scanned > 0 => held,
            count => bytes.get(count..).unwrap_or_default().to_vec(),
        };
        pool.resized(0, self.held.capacity());
        Ok(())
    }

    /// Hands on the whole frames in `bytes`, of which the first `scanned` were looked at before, and returns where the
    /// incomplete rest begins.
    fn hand_on(
        &mut self,
        bytes: &[u8],
        scanned: usize,
        register: &mut Register,
        clients: &mut impl Replies,
    ) -> Result<usize, Error> {
        let (mut start, mut position) = (0, scanned);
        let mut run = Run { sort: Sort::Channel, topic: &[], starts: mem::take(&mut self.starts), end: 0 };
        let whole = loop {
            let rest = bytes.get(position..).unwrap_or_default();
            match self.scanner.advance(rest) {
                Ok(Advance::Complete { taken, kind: _ }) => position += taken,
                Ok(Advance::More) => break Ok(start),
                Err(error) => break Err(Error::Protocol(error.to_string())),
            }
            let frame = mem::replace(&mut start, position)..position;
            if mem::take(&mut self.skipping) {
                continue;
            }
            match Notice::read(bytes.get(frame.clone()).unwrap_or_default()) {
                Some(Notice::Message(sort, topic)) => {
                    if !run.is_of(sort, topic) {
                        run.publish(bytes, register, clients);
                        (run.sort, run.topic) = (sort, topic);
                    }
                    run.starts.push(frame.start);
                    run.end = frame.end;
                }
                Some(answer) => {
                    run.publish(bytes, register, clients);
                    self.settle(answer, bytes, register, clients)?;
                }
                None => break Err(Error::Protocol("neither a message nor an acknowledgement".to_owned())),
            }
        };
        run.publish(bytes, register, clients);
        self.starts = run.starts;
        let rest = bytes.len() - whole?;
        if !self.skipping && rest > self.longest {
            self.skip(bytes.get(start..).unwrap_or_default(), bytes, register, clients)?;
        }
        Ok(if self.skipping { bytes.len() } else { start })
    }

    /// Takes the answer to a command.
    fn settle(
        &self,
        answer: Notice<'_>,
        bytes: &[u8],
        register: &mut Register,
        clients: &mut impl Replies,
    ) -> Result<(), Error> {
        let settled = register.answer(answer, self.written).map_err(|why| Error::Protocol(why.to_owned()))?;
        let Some(Settled { client, refusal, orphans }) = settled else { return Ok(()) };
        let verdict = match refusal {
            None => Verdict::Done,
            Some(line) if cannot_serve(line) => {
                Verdict::Failed(Failure { outcome: Outcome::NotRun, why: Why::NotReady })
            }
            Some(line) => Verdict::Refused(line),
        };
        clients.settled(client, verdict, bytes);
        orphans.into_iter().for_each(|orphan| clients.cut(orphan, bytes));
        Ok(())
    }

    /// A message is longer than what any client may leave unread: whoever would hear it is disconnected, and nobody else.
    fn skip(
        &mut self,
        begun: &[u8],
        bytes: &[u8],
        register: &Register,
        clients: &mut impl Replies,
    ) -> Result<(), Error> {
        let Some(Notice::Message(sort, topic)) = Notice::read(begun.get(..TOPIC_WITHIN).unwrap_or(begun)) else {
            return Err(Error::Protocol("an oversized frame".to_owned()));
        };
        self.skipping = true;
        let hearers = register.hearers(sort, topic).into_iter().flatten();
        hearers.for_each(|hearer| clients.overrun(*hearer, bytes));
        Ok(())
    }
}

impl Run<'_> {
    fn is_of(&self, sort: Sort, topic: &[u8]) -> bool {
        self.sort == sort && self.topic == topic
    }

    /// Hands its messages to those who hear the topic, and empties it.
    fn publish(&mut self, bytes: &[u8], register: &Register, clients: &mut impl Replies) {
        if !self.starts.is_empty()
            && let Some(hearers) = register.hearers(self.sort, self.topic)
        {
            clients.publish(hearers, bytes, &self.starts, self.end);
        }
        self.starts.clear();
    }
}
