//! One connection through the proxy with faults: three threads and the fault that it suffers.
//!
//! One thread reads requests, another replies, each one frame at a time; the third alone writes to the client, and so keeps
//! answers that are made here in their place among those of the server.
//!
//! ```text
//! client ──▶ take_requests ─────────────▶ server
//!                 │ Event::Due               │
//!                 ▼                          ▼
//! client ◀──── tell ◀──── Event::Reply ─ take_replies
//! ```

use super::super::{Frame, frame_length};
use super::{Fault, Hub, Plant, locked, reset_at_end};
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// Room for one read, in bytes.
const ROOM: usize = 64 * 1024;

/// How long a reply waits for another to be exchanged with.
const EXCHANGE_PATIENCE: Duration = Duration::from_secs(2);

/// What no reply can begin with.
const GARBAGE: &[u8] = b"HTTP/1.1 400 Bad Request\r\n\r\n\0\xff";

/// What is said to a request that is to run too late.
const MAY_HAVE_RUN: &str = "-INDETERMINATE a planted fault, the command may have run";

/// A reply that nobody asked for, and nobody may see.
const EXTRA: &[u8] = b"$7\r\nforeign\r\n";

/// One client of ours and its connection to the server; closed when the last thread lets go of it.
pub(super) struct Link {
    hub: Arc<Hub>,
    client: TcpStream,
    server: TcpStream,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    fault: Fault,
    /// Bytes were thrown away, so nothing that follows would make sense.
    is_lost: bool,
    /// Bytes of replies since the fault was switched on.
    replied: usize,
}

/// What the writing thread learns of.
enum Event {
    Due(Due),
    Reply(Vec<u8>),
    End,
}

/// A request that is to run too late.
struct Kept {
    request: Vec<u8>,
    /// Whether another write of this connection has run meanwhile.
    is_overtaken: bool,
}

impl Kept {
    fn of(request: &[u8]) -> Self {
        Self { request: request.to_vec(), is_overtaken: false }
    }
}

/// Where the next reply to the client comes from.
enum Due {
    Server,
    /// From the server, and nobody is to see it.
    Unseen,
    Here(Vec<u8>),
}

impl Link {
    /// Passes on what `client` and `server` say to each other.
    pub(super) fn start(hub: &Arc<Hub>, client: TcpStream, server: TcpStream) -> Arc<Self> {
        for stream in [&client, &server] {
            stream.set_nodelay(true).expect("an option can be set");
        }
        let state = Mutex::new(State { fault: Fault::Pass, is_lost: false, replied: 0 });
        let link = Arc::new(Self { hub: Arc::clone(hub), client, server, state, changed: Condvar::new() });
        let (sender, events) = channel();
        let (requests, replies, telling) = (Arc::clone(&link), Arc::clone(&link), Arc::clone(&link));
        let of_requests = sender.clone();
        thread::spawn(move || requests.take_requests(&of_requests));
        thread::spawn(move || replies.take_replies(&sender));
        thread::spawn(move || telling.tell(&events));
        link
    }

    /// From now on this happens here.
    pub(super) fn turn(&self, fault: Fault) {
        let mut state = locked(&self.state);
        (state.fault, state.replied) = (fault, 0);
        drop(state);
        self.changed.notify_all();
        if fault.ends_connections() {
            self.hub.strike();
            self.end(fault != Fault::HangUp);
        }
    }

    /// What is to happen to a request; waits while it is to stay here.
    fn fault(&self) -> Fault {
        self.fault_past(&[Fault::Hang])
    }

    /// What is to happen to a reply; waits while it is to stay here.
    fn fault_of_replies(&self) -> Fault {
        self.fault_past(&[Fault::Hang, Fault::HangReplies])
    }

    /// What is to happen; waits until it is none of these.
    fn fault_past(&self, waits: &[Fault]) -> Fault {
        let state = locked(&self.state);
        if waits.contains(&state.fault) {
            self.hub.strike();
        }
        let state = self.changed.wait_while(state, |state| waits.contains(&state.fault));
        let state = state.unwrap_or_else(PoisonError::into_inner);
        if state.is_lost && !state.fault.ends_connections() { Fault::BlackHole } else { state.fault }
    }

    /// Lets time pass, or less if the fault ends before.
    fn pause(&self, time: Duration) {
        let state = locked(&self.state);
        let fault = state.fault;
        let waited = self.changed.wait_timeout_while(state, time, |state| state.fault == fault);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    /// Throws bytes away, and from now on all others.
    #[expect(clippy::unnecessary_wraps, reason = "it stands where bytes are otherwise written")]
    fn lose(&self) -> io::Result<()> {
        self.hub.strike();
        locked(&self.state).is_lost = true;
        Ok(())
    }

    /// Ends the connection on both sides.
    fn end(&self, by_reset: bool) {
        // A reset is what closing sends, and the threads that read must let go for that; an orderly end would come first.
        let side = if by_reset { Shutdown::Read } else { Shutdown::Both };
        if by_reset {
            reset_at_end(&self.client);
        }
        for stream in [&self.client, &self.server] {
            // It may have ended already.
            drop(stream.shutdown(side));
        }
    }

    fn take_requests(&self, events: &Sender<Event>) {
        let mut kept = None;
        for request in Frames::of(&self.client) {
            let went_well = match self.fault() {
                Fault::BlackHole => self.lose(),
                fault if fault.ends_connections() => return,
                Fault::Planted(Plant::Overtaken, name) => self.overtake(name, &request, &mut kept, events),
                Fault::Planted(plant, name) if name == name_of(&request) => {
                    self.pass_on_carelessly(plant, &request, &mut kept, events)
                }
                fault => match answer(fault, &name_of(&request)) {
                    Some(words) => self.answer_here(words, events),
                    None => self.pass_on(&request, Due::Server, events),
                },
            };
            if went_well.is_err() {
                break;
            }
        }
        // The client has ended. What is on its way to it is of no use where nothing arrives.
        if self.fault() == Fault::BlackHole {
            self.end(true);
        } else {
            drop(self.server.shutdown(Shutdown::Write));
        }
    }

    fn pass_on(&self, request: &[u8], due: Due, events: &Sender<Event>) -> io::Result<()> {
        drop(events.send(Event::Due(due)));
        (&self.server).write_all(request)
    }

    /// Says `words` when all requests before are answered.
    #[expect(clippy::unnecessary_wraps, reason = "it stands where a request is otherwise passed on")]
    fn answer_here(&self, words: &str, events: &Sender<Event>) -> io::Result<()> {
        self.hub.strike();
        drop(events.send(Event::Due(Due::Here(format!("{words}\r\n").into()))));
        Ok(())
    }

    /// Passes a request on as a careless proxy might.
    fn pass_on_carelessly(
        &self,
        plant: Plant,
        request: &[u8],
        kept: &mut Option<Kept>,
        events: &Sender<Event>,
    ) -> io::Result<()> {
        match plant {
            Plant::Resend if self.hub.strike_once() => {
                self.pass_on(request, Due::Server, events)?;
                self.pass_on(request, Due::Unseen, events)
            }
            Plant::Deny if self.hub.strike_once() => {
                self.answer_here("-UNAVAILABLE a planted fault, command not sent", events)?;
                self.pass_on(request, Due::Unseen, events)
            }
            Plant::Late if self.hub.strike_once() => {
                *kept = Some(Kept::of(request));
                self.answer_here(MAY_HAVE_RUN, events)
            }
            Plant::Resend | Plant::Swap | Plant::Late | Plant::Overtaken | Plant::Deny => {
                self.pass_on(request, Due::Server, events)?;
                match kept.take() {
                    Some(late) => self.pass_on(&late.request, Due::Unseen, events),
                    None => Ok(()),
                }
            }
        }
    }

    /// Keeps requests of this name, each instead of the one before, which never runs then. Once another write has
    /// overtaken one, and a read of its key has shown that it has not run, it runs.
    fn overtake(&self, name: &str, request: &[u8], kept: &mut Option<Kept>, events: &Sender<Event>) -> io::Result<()> {
        let is_armed = self.hub.armed.load(SeqCst);
        if is_armed && name_of(request) == name {
            *kept = Some(Kept::of(request));
            drop(events.send(Event::Due(Due::Here(format!("{MAY_HAVE_RUN}\r\n").into()))));
            return Ok(());
        }
        self.pass_on(request, Due::Server, events)?;
        let is_write = ["RPUSH", "INCR", "SET"].contains(&name_of(request).as_str());
        let late = kept.take_if(|late| {
            late.is_overtaken |= is_write;
            late.is_overtaken && !is_write && key_of(request) == key_of(&late.request)
        });
        match late {
            Some(late) if self.hub.strike_once() => self.pass_on(&late.request, Due::Unseen, events),
            Some(_) | None => Ok(()),
        }
    }

    fn take_replies(&self, events: &Sender<Event>) {
        for reply in Frames::of(&self.server) {
            self.hub.note(&reply);
            drop(events.send(Event::Reply(reply)));
        }
        drop(events.send(Event::End));
    }

    /// Writes to the client what is due to it, in order.
    fn tell(&self, events: &Receiver<Event>) {
        let (mut due, mut replies) = (VecDeque::new(), VecDeque::new());
        for event in events {
            match event {
                Event::Due(next) => due.push_back(next),
                Event::Reply(reply) => replies.push_back(reply),
                Event::End => break,
            }
            while let Some(bytes) = next_reply(&mut due, &mut replies) {
                if self.say(&bytes, due.is_empty()).is_err() {
                    return;
                }
            }
        }
        // The end is also something that comes late, or not at all, or has come already.
        let fault = self.fault_of_replies();
        if fault != Fault::BlackHole && !fault.ends_connections() {
            self.end(false);
        }
    }

    /// Says one reply, as the fault has it; `nothing_due` behind it. An error ends the connection.
    fn say(&self, reply: &[u8], nothing_due: bool) -> io::Result<()> {
        match self.fault_of_replies() {
            Fault::BlackHole => self.lose(),
            fault if fault.ends_connections() => Err(ErrorKind::ConnectionReset.into()),
            Fault::ResetWithin(limit) | Fault::SilentWithin(limit) => self.say_up_to(limit, reply),
            Fault::Drip { bytes, every } => reply.chunks(bytes).try_for_each(|piece| {
                self.hub.strike();
                self.pause(every);
                self.write(piece)
            }),
            Fault::Slow(each) => {
                let _busy = locked(&self.hub.busy);
                self.hub.strike();
                self.pause(each);
                self.write(reply)
            }
            Fault::Garbage => {
                self.hub.strike();
                self.write(GARBAGE)
            }
            Fault::Extra if nothing_due => {
                self.hub.strike();
                self.write(&[reply, EXTRA].concat())
            }
            Fault::Planted(Plant::Swap, _) => self.write(&self.hub.exchange.swap(reply, &self.hub)),
            _ => self.write(reply),
        }
    }

    /// Says the reply; half of it and no more if it passes the limit.
    fn say_up_to(&self, limit: usize, reply: &[u8]) -> io::Result<()> {
        let mut state = locked(&self.state);
        let before = state.replied;
        state.replied += reply.len();
        let (fault, reached) = (state.fault, state.replied >= limit);
        drop(state);
        if !reached {
            return self.write(reply);
        }
        // No reply is so short that it has no middle.
        let middle = limit.saturating_sub(before).clamp(1, reply.len() - 1);
        self.write(&reply[..middle])?;
        if matches!(fault, Fault::SilentWithin(_)) {
            return self.lose();
        }
        self.hub.strike();
        self.end(true);
        Err(ErrorKind::ConnectionReset.into())
    }

    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        (&self.client).write_all(bytes)
    }
}

/// The reply whose turn it is, if it is there.
fn next_reply(due: &mut VecDeque<Due>, replies: &mut VecDeque<Vec<u8>>) -> Option<Vec<u8>> {
    loop {
        match due.pop_front()? {
            Due::Here(words) => return Some(words),
            waiting if replies.is_empty() => {
                due.push_front(waiting);
                return None;
            }
            Due::Server => return replies.pop_front(),
            Due::Unseen => drop(replies.pop_front()),
        }
    }
}

/// What is said here to a request of this name instead of passing it on.
fn answer(fault: Fault, name: &str) -> Option<&'static str> {
    match fault {
        Fault::Answer(words) => Some(words),
        Fault::AnswerAfterHandshake(words) => (!["HELLO", "AUTH", "SELECT", "CLIENT"].contains(&name)).then_some(words),
        Fault::WrongPassword if ["HELLO", "AUTH"].contains(&name) => {
            Some("-WRONGPASS invalid username-password pair or user is disabled.")
        }
        Fault::WrongPassword => Some("-NOAUTH Authentication required."),
        _ => None,
    }
}

/// The command's name in capital letters.
fn name_of(request: &[u8]) -> String {
    Frame::whole(request).items.first().map(|name| name.as_text().to_uppercase()).unwrap_or_default()
}

/// The command's first argument.
fn key_of(request: &[u8]) -> Option<String> {
    Frame::whole(request).items.get(1).map(Frame::as_text)
}

/// The frames that come out of a connection, until it ends in whichever way.
struct Frames<'link> {
    stream: &'link TcpStream,
    room: Vec<u8>,
    unread: Vec<u8>,
}

impl<'link> Frames<'link> {
    fn of(stream: &'link TcpStream) -> Self {
        Self { stream, room: vec![0; ROOM], unread: Vec::new() }
    }
}

impl Iterator for Frames<'_> {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(length) = (!self.unread.is_empty()).then(|| frame_length(&self.unread)).flatten() {
                let rest = self.unread.split_off(length);
                return Some(std::mem::replace(&mut self.unread, rest));
            }
            match self.stream.read(&mut self.room) {
                Ok(count) if count > 0 => self.unread.extend_from_slice(&self.room[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => return None,
            }
        }
    }
}

/// Where two replies change places.
#[derive(Default)]
pub(super) struct Exchange {
    place: Mutex<Place>,
    changed: Condvar,
}

#[derive(Default)]
enum Place {
    #[default]
    Free,
    Offered(Vec<u8>),
    Taken(Vec<u8>),
}

impl Exchange {
    /// The reply of another connection in exchange for this one, while the hub has not seen that happen; then its own.
    fn swap(&self, own: &[u8], hub: &Hub) -> Vec<u8> {
        let mut place = locked(&self.place);
        match &*place {
            Place::Offered(other) if other != own && hub.strike_once() => {
                let other = other.clone();
                *place = Place::Taken(own.to_vec());
                self.changed.notify_all();
                other
            }
            Place::Free if hub.armed.load(SeqCst) => {
                *place = Place::Offered(own.to_vec());
                let waited = self
                    .changed
                    .wait_timeout_while(place, EXCHANGE_PATIENCE, |place| matches!(place, Place::Offered(_)));
                let (mut place, _) = waited.unwrap_or_else(PoisonError::into_inner);
                match std::mem::take(&mut *place) {
                    Place::Taken(other) => other,
                    Place::Free | Place::Offered(_) => own.to_vec(),
                }
            }
            Place::Free | Place::Offered(_) | Place::Taken(_) => own.to_vec(),
        }
    }
}
