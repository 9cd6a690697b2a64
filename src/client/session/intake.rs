//! What comes from the client: bytes read, cut into requests, each sent on its way.
//!
//! A client that sends little at a time borrows the worker's buffer, and keeps nothing of its own. One whose request is
//! incomplete, or has to wait, keeps just those bytes.

use std::mem;
use std::task::Poll;

use bytes::BufMut;

use super::{Departure, Phase, Session, Step, Turn};
use crate::client::clients::Env;
use crate::lifecycle::Stage;
use crate::resp::inline;
use crate::resp::request::{Args, Form, ProtocolError, Request};
use crate::upstream::{ConnectionId, Message};

/// Bytes read from one client in one turn.
pub(in crate::client) const TURN_BYTES: usize = 64 * 1024;

/// Replies a client may be owed; beyond that it is not read.
const MAX_OUTSTANDING: usize = 64 * 1024;

/// Bytes of local answers that may wait behind forwarded requests; beyond that the client is not read. They are not in the
/// memory budget, so this bound, and the length of what is answered here, is all that bounds them.
const MAX_WAITING_BYTES: usize = 16 * 1024;

/// So much is read of a client whose requests wait for long, in bytes, and so much at a time.
const AHEAD: usize = 64 * 1024;
const READ_AHEAD: usize = 4 * 1024;

/// From this size on the buffer of an incomplete request grows only while memory is not short, in bytes.
const LARGE_INPUT: usize = 1024 * 1024;

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
    Large { id: ConnectionId, message: Message },
}

impl Session {
    /// Takes requests until the socket is empty (pending), something has to happen first (pending, and woken then), or
    /// the turn's share is used up (ready).
    pub(super) fn serve(&mut self, turn: &mut Turn<'_, '_>) -> Poll<()> {
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
                // No whole request is left that waits.
                self.since = None;
                if turn.env.stage == Stage::LastCall {
                    self.note_departure(Departure::Drain);
                    self.phase = Phase::Finishing { linger: true };
                    return Poll::Pending;
                }
                match self.read(turn) {
                    Poll::Ready(true) => {}
                    Poll::Ready(false) => return Poll::Ready(()),
                    Poll::Pending => return self.read_ahead(turn),
                }
            } else {
                let input = mem::take(&mut self.input);
                let (stop, input) = self.take_owned(input, turn);
                self.input = input;
                match stop {
                    Stop::Share => return Poll::Ready(()),
                    Stop::Blocked => return self.read_ahead(turn),
                    Stop::Exhausted | Stop::Incomplete | Stop::Large { .. } => {}
                }
            }
        }
    }

    /// Reads what the client sends while its requests wait for something that may take long, so that its leaving is
    /// noticed. Beyond [`AHEAD`] its requests wait in the socket, and its leaving behind them.
    fn read_ahead(&mut self, turn: &mut Turn<'_, '_>) -> Poll<()> {
        let listens = turn.env.stage != Stage::LastCall;
        while listens && self.phase == Phase::Serving && !self.input.is_empty() && self.is_attentive() {
            let before = self.input.capacity();
            if self.input.len() >= AHEAD {
                break;
            }
            self.input.reserve(READ_AHEAD);
            turn.env.pool.resized(before, self.input.capacity());
            let mut limited = (&mut self.input).limit(READ_AHEAD);
            match self.transport.poll_read_buf(turn.cx, &mut limited) {
                Poll::Pending => break,
                Poll::Ready(Ok(0)) => {
                    let _ = self.end_of_input(turn);
                }
                Poll::Ready(Err(_)) => {
                    let _ = self.broken();
                }
                // When these came is not noted, since that is kept of what waits before them: theirs counts from then.
                Poll::Ready(Ok(count)) => turn.env.cells.received.add(count as u64),
            }
        }
        Poll::Pending
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
            Poll::Ready(Ok(0)) => return self.end_of_input(turn),
            Poll::Ready(Err(_)) => return self.broken(),
            Poll::Ready(Ok(count)) => count,
        };
        self.note_arrival(count, turn.env);
        let buffer = mem::take(&mut turn.env.read_buffer);
        let bytes = buffer.get(..count).unwrap_or_default();
        let (taken, stop) = self.take(bytes, turn);
        let rest = bytes.get(taken..).unwrap_or_default();
        if !rest.is_empty() && self.phase == Phase::Serving {
            self.input = rest.to_vec();
            turn.env.pool.resized(0, self.input.capacity());
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
            self.be_watched(turn.env);
            if before >= LARGE_INPUT && turn.env.pool.memory().is_tight() {
                if !mem::replace(&mut self.thirsty, true) {
                    turn.env.thirsty.push(self.key);
                }
                return Poll::Pending;
            }
            let most = if before < LARGE_INPUT { (2 * before).max(TURN_BYTES) } else { before + before / 4 };
            let wanted = self.scanner.needed().clamp(before + TURN_BYTES / 4, most);
            self.input.reserve_exact(wanted - self.input.len());
            turn.env.pool.resized(before, self.input.capacity());
        }
        let room = (self.input.capacity() - self.input.len()).min(TURN_BYTES);
        let mut limited = (&mut self.input).limit(room);
        match self.transport.poll_read_buf(turn.cx, &mut limited) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(0)) => self.end_of_input(turn),
            Poll::Ready(Err(_)) => self.broken(),
            Poll::Ready(Ok(count)) => {
                self.starving = false;
                self.progress += count as u64;
                self.note_arrival(count, turn.env);
                // Large requests are taken in whole turns, not in as many reads as fit.
                turn.share = if count == TURN_BYTES { 0 } else { turn.share };
                Poll::Ready(true)
            }
        }
    }

    /// So many bytes came, and with them the end of a request.
    fn note_arrival(&mut self, bytes: usize, env: &mut Env) {
        if !env.cells.is_off() {
            env.clock = env.cells.now();
            self.arrived = env.clock;
            env.cells.received.add(bytes as u64);
        }
    }

    /// The client has sent its last byte; it gets its replies, then the connection ends.
    fn end_of_input(&mut self, turn: &mut Turn<'_, '_>) -> Poll<bool> {
        self.leave_hold(turn.upstream, turn.env);
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
        if let Stop::Large { id, message } = stop {
            // Counted in the budget until the connection has written it.
            input.drain(..mem::take(&mut self.position));
            self.due = turn.upstream.send_owned(id, message, mem::take(&mut input));
        } else if self.position == input.len() {
            self.position = 0;
            turn.env.pool.resized(input.capacity(), 0);
            input = Vec::new();
        }
        (stop, input)
    }

    pub(super) fn drop_input(&mut self, env: &Env) {
        env.pool.resized(self.input.capacity(), 0);
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
                    if self.awaits_verdict() {
                        return (taken, Stop::Blocked);
                    }
                    self.protocol_error(error, turn.env);
                    return (bytes.len(), Stop::Exhausted);
                }
            };
            let frame = rest.get(..request.len).unwrap_or_default();
            match self.request(frame, request, turn) {
                Step::Done => taken += request.len,
                Step::Blocked => return (taken, Stop::Blocked),
                Step::Large { id, message } if frame.len() == rest.len() => {
                    return (taken, Stop::Large { id, message });
                }
                Step::Large { id, message } => {
                    self.due = turn.upstream.send(id, message, frame);
                    taken += request.len;
                }
            }
            turn.share -= 1;
            if self.replies.bytes() >= MAX_WAITING_BYTES {
                // Looked at again before the next request is taken.
                return (taken, Stop::Share);
            }
            if self.phase != Phase::Serving {
                return (bytes.len(), Stop::Exhausted);
            }
        }
        (taken, Stop::Exhausted)
    }

    /// After bytes that are no request nothing can be understood any more: the error follows the replies that are due.
    fn protocol_error(&mut self, error: ProtocolError, env: &mut Env) {
        if error == ProtocolError::CrossProtocol {
            env.foreigners += 1;
            self.note_departure(Departure::CrossProtocol);
            self.phase = Phase::Dead;
            return;
        }
        self.answer_local(&error.reply(), env);
        self.note_departure(Departure::Protocol);
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
                    Err(_) if self.awaits_verdict() => Step::Blocked,
                    Err(error) => {
                        self.protocol_error(error, turn.env);
                        Step::Done
                    }
                    Ok(()) => match Args::new(&canonical).next() {
                        Some(name) => self.dispatch(name, &canonical, turn),
                        None => Step::Done,
                    },
                };
                if let Step::Large { id, message } = step {
                    turn.env.pool.resized(0, canonical.capacity());
                    self.due = turn.upstream.send_owned(id, message, canonical);
                    return Step::Done;
                }
                turn.env.rewritten = canonical;
                turn.env.rewritten.shrink_to(TURN_BYTES);
                step
            }
        }
    }
}
