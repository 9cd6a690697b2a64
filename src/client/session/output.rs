//! What goes to the client: replies delivered, kept in order with local answers, written at the end of each batch.
//!
//! While nothing waits, replies are written straight from the buffer of the upstream connection. Only what the socket does
//! not take is copied, and bounded: see [`Session::mind_backlog`].

use std::io::{self, IoSlice};
use std::mem;
use std::ops::Range;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::hold::Heard;
use super::{BULK_ITEM, Departure, Phase, Session};
use crate::buffer::MAX_SLICES;
use crate::client::clients::{Env, count_dropped, count_reply};
use crate::client::section;
use crate::client::unserved::{self, Asked};
use crate::command::keys::{self, asks_to_block};
use crate::command::table::{self, Blocks, Command};
use crate::lifecycle::Stage;
use crate::observe::cells::{Outcome, Tag, command_name};
use crate::observe::slowlog::Slow;
use crate::resp::request::Args;
use crate::upstream::{Failure, InFlight, Outcome as Fate, Parts, Protocol};

/// While a large reply streams and more than this waits for its client, upstream is not read for a millisecond, in bytes.
const LAG: usize = 4 * 1024 * 1024;

/// How many milliseconds that may take for one client that takes nothing; each [`PATIENCE_PER`] bytes it takes earn it one
/// more.
pub(super) const PATIENCE: u64 = 250;
const PATIENCE_PER: u64 = 16 * 1024;

/// What one pause costs at most, in milliseconds.
const LONGEST_PAUSE: u64 = 5;

impl Session {
    /// Takes the next bytes of a reply, which stay in the connection's buffer until [`Session::flush`].
    pub(in crate::client) fn deliver(
        &mut self,
        entry: InFlight,
        buffer: &[u8],
        range: Range<usize>,
        complete: bool,
        env: &mut Env,
    ) {
        let traits = entry.traits;
        if self.phase == Phase::Dead {
            if complete {
                count_dropped(entry, env);
            }
            return;
        }
        if range.len() >= BULK_ITEM {
            self.count_bulk(range.len(), env.tick);
        }
        let mut muted = traits.is_muted();
        let (mut kept, mut is_counted) = (false, true);
        if let Some(hold) = &mut self.hold {
            let bytes = buffer.get(range.clone()).unwrap_or_default();
            match hold.hear(bytes, complete, traits.is_queued(), env.pool.memory()) {
                Heard::Reply => {}
                Heard::Part if hold.kept() > env.output_limit => return self.kill(Departure::OutputLimit),
                Heard::Part => (muted, kept) = (true, true),
                Heard::Whole(reply) => {
                    self.deliver_retold(&reply, muted, buffer, env);
                    count_reply(entry, &reply, env);
                    (muted, is_counted) = (true, false);
                }
                Heard::AskAgain(request) => {
                    if env.stage == Stage::Serving {
                        self.take_back(&request, env);
                    } else {
                        env.cells.settled(entry.tag(), Outcome::Unavailable, env.clock);
                        self.depart();
                    }
                    (muted, is_counted) = (true, false);
                }
                Heard::Fatal => return self.kill(Departure::UpstreamLost),
            }
        }
        if traits.is_informed() && complete && !self.half_delivered {
            muted = muted || self.inform(buffer, range.clone(), env);
        }
        self.append(muted, buffer, range.clone(), env);
        let was_half = mem::replace(&mut self.half_delivered, !complete && !kept);
        self.last = entry.tag();
        if complete && is_counted {
            // Of a long reply the beginning is gone; it is no error, and what it holds is not looked into.
            count_reply(entry, if was_half { &[] } else { buffer.get(range).unwrap_or_default() }, env);
        }
        if complete {
            self.answered(buffer, env);
            if was_half {
                self.release_held(buffer, env);
            }
        }
    }

    /// Passes on a whole reply with our section added to it; false if it is to be passed on as it is.
    fn inform(&mut self, buffer: &[u8], range: Range<usize>, env: &mut Env) -> bool {
        let mut reply = mem::take(&mut env.answer);
        reply.clear();
        let is_told = section::add(buffer.get(range).unwrap_or_default(), &env.upstream, &mut reply);
        if is_told {
            self.spill(buffer, env);
            self.out.push(&reply, &mut env.pool);
        }
        env.answer = reply;
        is_told
    }

    /// Adds to what this batch has for the client.
    #[inline(always)] // Once for each request or reply: a call costs as much as what it does.
    pub(super) fn append(&mut self, muted: bool, buffer: &[u8], range: Range<usize>, env: &mut Env) {
        if muted {
            return;
        }
        if self.batch.is_empty() {
            self.batch = range;
        } else if self.batch.end == range.start {
            self.batch.end = range.end;
        } else {
            self.spill(buffer, env);
            self.batch = range;
        }
    }

    /// The reply to a request will not come. If half of it was delivered, the client cannot be told in any way it would
    /// understand, and is disconnected.
    pub(in crate::client) fn fail(
        &mut self,
        entry: InFlight,
        request: &[u8],
        failure: Failure,
        buffer: &[u8],
        env: &mut Env,
    ) {
        if self.phase == Phase::Dead {
            env.cells.settled(entry.tag(), failure.for_metrics(), env.clock);
            return;
        }
        let traits = entry.traits;
        self.tag = entry.tag();
        self.hold.iter_mut().for_each(|hold| hold.forget_kept(env.pool.memory()));
        if env.stage != Stage::Serving && self.is_dismissed() {
            // It waited for others, and is told no more than by a server that ends.
            env.cells.settled(mem::take(&mut self.tag), failure.for_metrics(), env.clock);
            self.answered(buffer, env);
            return;
        }
        let leaves = self.hold.is_some() && self.phase != Phase::Serving && env.stage == Stage::Serving;
        if leaves || (mem::take(&mut self.half_delivered) && !traits.is_muted()) {
            env.cells.settled(mem::take(&mut self.tag), failure.for_metrics(), env.clock);
            self.kill(Departure::UpstreamLost);
            return;
        }
        self.note_unserved(request, failure.outcome == Fate::NotSent, env);
        if !traits.is_muted() {
            // What this batch has delivered comes before it.
            self.spill(buffer, env);
            let mut reply = mem::take(&mut env.answer);
            reply.clear();
            let protocol = if traits.is_resp3() { Protocol::Resp3 } else { Protocol::Resp2 };
            let (strict, policy, upstream) = (self.strict, &*env.policy, &*env.upstream);
            // What stands in a transaction is no read that could be answered.
            let request = if traits.is_queued() { &[] } else { request };
            let given = unserved::answer(&Asked { request, protocol, strict, policy, upstream }, failure, &mut reply);
            self.out.push(&reply, &mut env.pool);
            env.answer = reply;
            self.gave(given, true, env);
        } else {
            self.gave(failure.given(), true, env);
        }
        self.answered(buffer, env);
        self.release_held(buffer, env);
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
    pub(super) fn spill(&mut self, buffer: &[u8], env: &mut Env) {
        let batch = mem::take(&mut self.batch);
        self.out.push(buffer.get(batch).unwrap_or_default(), &mut env.pool);
    }

    /// Writes what a batch delivered: straight from the connection's buffer if nothing waits before it.
    pub(in crate::client) fn flush(&mut self, buffer: &[u8], env: &mut Env) {
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
                    env.cells.sent.add(count as u64);
                    self.out.push(bytes.get(count..).unwrap_or_default(), &mut env.pool);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.out.push(bytes, &mut env.pool),
                Err(_) => return self.kill(Departure::Client),
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
        self.limit_backlog(env);
    }

    /// Bounds what the client makes us hold of its unread replies and messages.
    pub(super) fn limit_backlog(&mut self, env: &mut Env) {
        self.be_watched(env);
        if self.backlog() > env.output_limit {
            let (client, backlog) = (self.state.id, self.backlog());
            tracing::warn!(client, backlog, "disconnecting a client: more unread replies than --client-output-limit");
            self.kill(Departure::OutputLimit);
        }
    }

    /// Asks for its memory and its progress to be watched over.
    pub(super) fn be_watched(&mut self, env: &mut Env) {
        if !mem::replace(&mut self.watched, true) {
            env.watch(self.key, self.progress);
        }
    }

    /// Writes what waits, and arranges to be woken when the socket takes more.
    pub(super) fn write_out(&mut self, cx: &mut Context<'_>, env: &mut Env) {
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
                    if self.flushing.is_none() {
                        self.flushing = Some((env.cells.now(), self.last));
                    }
                    self.mind_backlog(env);
                    return;
                }
            }
        }
        if let Some((since, tag)) = self.flushing.take() {
            let waited = env.cells.now().saturating_sub(since);
            env.cells.flush.observe(waited);
            if waited >= env.cells.slow_from() {
                let slow = self.slow(tag);
                env.metrics.slow.add_flush(Slow { flush: Duration::from_micros(waited), ..slow });
            }
        }
    }

    /// A slow request of this client of which nothing else is known.
    fn slow(&self, tag: Tag) -> Slow {
        Slow {
            at: SystemTime::now(),
            command: command_name(usize::from(tag.command)),
            client: String::from_utf8_lossy(&self.state.name).into_owned(),
            id: (self.state.id, tag.arrived),
            keys: 0,
            request: 0,
            reply: 0,
            queue: Duration::ZERO,
            upstream: Duration::ZERO,
            head_of_line: Duration::ZERO,
            flush: Duration::ZERO,
        }
    }

    /// Notes that the reply to a request took long. What waits for others is not slow.
    pub(in crate::client) fn note_slow(&self, entry: InFlight, request: &[u8], parts: Parts, env: &Env) {
        self.note(entry.tag(), request, parts, env);
    }

    /// Notes that the request at hand, which Redis has not answered, took long all the same.
    pub(super) fn note_unserved(&self, request: &[u8], queued: bool, env: &Env) {
        let waited = env.clock.saturating_sub(self.tag.arrived);
        if self.tag == Tag::NONE || waited < env.cells.slow_from() || env.cells.is_off() {
            return;
        }
        let waited = Duration::from_micros(waited);
        let (queue, upstream) = if queued { (waited, Duration::ZERO) } else { (Duration::ZERO, waited) };
        let parts = Parts { request: request.len() as u64, reply: 0, queue, upstream, head_of_line: Duration::ZERO };
        self.note(self.tag, request, parts, env);
    }

    fn note(&self, tag: Tag, request: &[u8], parts: Parts, env: &Env) {
        let args = Args::new(request);
        // What is not at hand any more may have asked to wait for others.
        let kept = table::of_request(args.clone());
        let command = kept.or_else(|| table::all().get(usize::from(tag.command)));
        let blocks = |command: &Command| match kept {
            Some(_) => asks_to_block(command, args.clone()),
            None => command.blocks != Blocks::Never,
        };
        if command.is_some_and(blocks) {
            return;
        }
        let mut keys = 0;
        command.into_iter().for_each(|command| keys::keys(command, args.clone(), |_| keys += 1));
        let slow = self.slow(tag);
        let Parts { request, reply, queue, upstream, head_of_line } = parts;
        env.metrics.slow.add(Slow { keys, request, reply, queue, upstream, head_of_line, ..slow });
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
                    env.cells.sent.add(count as u64);
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

    /// Queues a local answer in its place in the client's order.
    pub(super) fn answer_local(&mut self, bytes: &[u8], env: &mut Env) {
        if self.replies.answer(bytes) {
            self.out.push(bytes, &mut env.pool);
        }
    }

    /// True if much waits for a client that is still worth waiting for. Asked before each pause and after it, which costs
    /// patience: a timer of a millisecond may take two.
    pub(in crate::client) fn lags(&mut self) -> bool {
        let taken = self.progress - mem::replace(&mut self.paced, self.progress);
        self.patience = self.patience.saturating_add(taken / PATIENCE_PER).min(PATIENCE);
        if let Some(paused) = self.paused.take() {
            // The end of a pause may be noticed late, when the machine had no time for us.
            let spent = u64::try_from(paused.elapsed().as_millis()).unwrap_or(u64::MAX).clamp(1, LONGEST_PAUSE);
            self.patience = self.patience.saturating_sub(spent);
        }
        if self.out.len() <= LAG || self.patience == 0 {
            return false;
        }
        self.paused = Some(Instant::now());
        true
    }
}
