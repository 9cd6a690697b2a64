//! A client that has an upstream connection for itself: why, for how long, and what goes over it.
//!
//! While it does, all its requests that are for Redis go over that connection, as they came; what it sets on its
//! own connection is set there too. It is given back as soon as nothing keeps it: no watched key, no open MULTI, nothing
//! that a later request may depend on, and nothing unanswered. What was left behind cannot be undone, so such a
//! connection is closed when its client leaves or says RESET.
//!
//! A request that may wait for others, or whose effect shows only in its reply, goes *alone*: what comes behind it waits
//! here until it is answered. The socket is read meanwhile, to notice that the client leaves.

use std::mem;
use std::ops::Range;
use std::time::Duration;

use super::acquire::with_timeout;
use super::retold::Noted;
use super::{Departure, OWN_BUFFER, Phase, Session, Step, Turn};
use crate::buffer::{Memory, Owner};
use crate::client::clients::Env;
use crate::client::ids;
use crate::client::local;
use crate::client::refusal;
use crate::client::section;
use crate::client::transaction::Block;
use crate::command::blocking::{self, Timeout};
use crate::command::keys::is;
use crate::command::route::{self, Local, Manner, Route, Subscription, Transaction};
use crate::command::table;
use crate::lifecycle::Stage;
use crate::observe::cells::Tag;
use crate::resp::build;
use crate::resp::inline;
use crate::resp::request::{Args, Limits, RequestScanner};
use crate::upstream::{Cause, LaneKey, Lease, Message, Protocol, Traits, Upstream};

const PING: &[u8] = b"*1\r\n$4\r\nPING\r\n";

/// The channel on which clients in RESP2 are told what to forget.
const INVALIDATIONS: &[u8] = b"__redis__:invalidate";

/// Requests about the client's own connection that an open MULTI may hold, and how long each may be, in bytes: they are kept
/// until EXEC is answered.
const MAX_NOTED: usize = 1_000;
const LONGEST_NOTED: usize = 16 * 1024;

/// For ever, in ticks.
pub(super) const FOR_EVER: u32 = u32::MAX / 2;

/// What a client holds.
pub(super) struct Hold {
    lease: Lease,
    /// Keys are watched there.
    watching: bool,
    /// A MULTI is open there.
    in_multi: bool,
    /// Something was left behind: it is closed in the end.
    pinned: bool,
    /// That is to be assumed until a reply says otherwise.
    presumed: bool,
    /// It is the client's for its life.
    lasting: bool,
    /// Something is set there that nobody needs: nothing keeps it, but it is closed in the end.
    pub(super) stale: bool,
    /// It has another database, protocol or name than it had, which is known here.
    pub(super) moved: bool,
    /// What the client says next may be tracked, or not, by its last word.
    caching: bool,
    /// How many commands of the open MULTI are queued, and those of them that are about the client's own connection. The
    /// same outside a MULTI for the request that goes alone.
    queued: usize,
    pub(super) noted: Vec<Noted>,
    /// The beginning of the reply to them.
    kept: Vec<u8>,
    /// The request under way goes alone.
    alone: Option<Alone>,
    /// Everything that comes is for the client, whatever was asked; until the server has done its RESET.
    pub(super) streams: bool,
    resetting: bool,
    /// Its client says no more.
    left: bool,
    /// Something that may take long is queued.
    slow: bool,
    /// What it waits for ends soon, as if its time were up, and is to be asked for again: this.
    again: Option<Vec<u8>>,
}

/// A request that goes alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Alone {
    /// It waits for others, or may.
    Blocking,
    /// It waits for replicas, or for the disk.
    Replication,
    /// Nobody knows it; if the server does not either, nothing was left behind.
    Unknown,
    /// The connection becomes a stream, if the server agrees.
    Monitor,
    /// Its reply is told in other words, or learnt from.
    Retold,
    /// It is ours: tracking is switched on again, or another database chosen. Its client hears nothing of it, and cannot go on
    /// if it is refused.
    Obeyed,
}

/// What becomes of a reply that came over a lease.
pub(super) enum Heard {
    /// The client gets it.
    Reply,
    /// It is kept until it is whole.
    Part,
    /// It is whole, and to be told in other words.
    Whole(Vec<u8>),
    /// This is to be asked again instead.
    AskAgain(Vec<u8>),
    /// The client cannot go on.
    Fatal,
}

impl Hold {
    pub(super) fn of(lease: Lease, lasting: bool) -> Self {
        Self {
            lease,
            watching: false,
            in_multi: false,
            pinned: false,
            presumed: false,
            lasting,
            stale: false,
            moved: false,
            caching: false,
            queued: 0,
            noted: Vec::new(),
            kept: Vec::new(),
            alone: None,
            streams: false,
            resetting: false,
            left: false,
            slow: false,
            again: None,
        }
    }

    /// True if nothing keeps it but what is unanswered.
    fn is_over(&self) -> bool {
        !(self.watching || self.in_multi || self.pinned || self.presumed || self.streams || self.lasting)
    }

    /// True while it is not known whether another database or protocol is set there.
    fn is_unsure(&self) -> bool {
        self.alone == Some(Alone::Retold) && self.noted.iter().any(Noted::moves)
    }

    /// Whether a request may honestly take long. EXEC does if anything does that is queued.
    fn is_slow(&mut self, route: Route, frame: &[u8]) -> bool {
        let slow = match route {
            Route::Shared(manner) => manner.slow,
            Route::Leased(_) => table::of_request(Args::new(frame)).is_none_or(|command| command.slow),
            Route::Transaction(Transaction::Exec) => mem::take(&mut self.slow),
            Route::Local(_) | Route::Subscription(_) | Route::Transaction(_) | Route::Control | Route::Refused => false,
        };
        self.slow |= slow && self.in_multi;
        slow
    }

    /// The next request goes alone.
    fn learns(&mut self, alone: Alone) {
        self.alone = Some(alone);
        self.streams |= alone == Alone::Monitor;
        // Unless its reply says otherwise.
        self.presumed = alone == Alone::Unknown;
    }

    /// Learns from a reply, or from the next bytes of one. `queued`: to a request behind MULTI.
    pub(super) fn hear(&mut self, reply: &[u8], complete: bool, queued: bool, memory: &Memory) -> Heard {
        if self.alone == Some(Alone::Retold) {
            let before = self.kept.capacity();
            self.kept.extend_from_slice(reply);
            if !complete {
                memory.resized(Owner::Leases, before, self.kept.capacity());
                return Heard::Part;
            }
            self.alone = None;
            memory.resized(Owner::Leases, before, 0);
            return Heard::Whole(mem::take(&mut self.kept));
        }
        if !complete {
            return Heard::Reply;
        }
        self.queued += usize::from(queued && reply == b"+QUEUED\r\n");
        let again = self.again.take().filter(|_| [b"*-1\r\n".as_slice(), b"$-1\r\n", b"_\r\n"].contains(&reply));
        match self.alone.take() {
            Some(Alone::Unknown) => {
                let refused =
                    |words: &[u8]| reply.get(..words.len()).is_some_and(|start| start.eq_ignore_ascii_case(words));
                self.pinned |= !(refused(b"-ERR unknown command") || refused(b"-ERR unknown subcommand"));
                self.presumed = false;
            }
            // What was to come as a stream is not to reach another client.
            Some(Alone::Monitor) if reply.starts_with(b"-") => (self.streams, self.stale) = (false, true),
            Some(Alone::Obeyed) if reply != b"+OK\r\n" => return Heard::Fatal,
            Some(Alone::Monitor | Alone::Blocking | Alone::Replication | Alone::Retold | Alone::Obeyed) | None => {}
        }
        again.map_or(Heard::Reply, Heard::AskAgain)
    }

    /// It is kept for what its client is told of, which is asked for again.
    pub(super) fn rearms(&mut self) {
        self.pinned = true;
        self.learns(Alone::Obeyed);
    }

    /// No more of a reply will come.
    pub(super) fn forget_kept(&mut self, memory: &Memory) {
        memory.resized(Owner::Leases, mem::take(&mut self.kept).capacity(), 0);
    }

    /// True while its client is in the midst of a transaction: keys are watched, or a MULTI is open.
    pub(super) fn is_in_transaction(&self) -> bool {
        self.watching || self.in_multi
    }

    /// True while its client waits for others: for an element, or for replicas.
    pub(super) fn waits_for_others(&self) -> bool {
        matches!(self.alone, Some(Alone::Blocking | Alone::Replication))
    }

    /// Bytes of a reply that is kept until it is whole.
    pub(super) fn kept(&self) -> usize {
        self.kept.len()
    }

    /// A MULTI begins there, or is over.
    fn begin_block(&mut self, in_multi: bool) {
        (self.in_multi, self.queued) = (in_multi, 0);
        self.noted.clear();
    }
}

impl Session {
    /// Gives back what is not needed any more, before the next request is looked at.
    pub(super) fn settle_hold(&mut self, upstream: &mut Upstream) {
        if self.replies.forwarded() > 0 {
            return;
        }
        // It may have been answered here.
        self.hold.iter_mut().for_each(|hold| hold.alone = None);
        if let Some(hold) = &mut self.hold
            && (hold.stale || mem::take(&mut hold.moved))
        {
            let key = LaneKey { database: self.state.database, protocol: self.state.protocol };
            self.lane = upstream.lane(key);
            upstream.move_lease(&hold.lease, self.lane, &self.state.name);
        }
        if self.hold.as_ref().is_some_and(|hold| hold.is_over())
            && let Some(hold) = self.hold.take()
        {
            self.since = None;
            if hold.stale {
                drop(hold);
                upstream.bury();
            } else {
                upstream.give_back(hold.lease);
            }
        }
    }

    /// True while it gets everything that comes over its connection.
    pub(super) fn is_streaming(&self) -> bool {
        self.hold.as_ref().is_some_and(|hold| hold.streams)
    }

    /// True while a MULTI of its is open at the server.
    pub(super) fn is_queueing(&self) -> bool {
        self.hold.as_ref().is_some_and(|hold| hold.in_multi)
    }

    /// True while the reply to a WATCH of its is due, or to anything else over the connection where keys are watched.
    pub(super) fn awaits_watch(&self) -> bool {
        self.replies.forwarded() > 0 && self.hold.as_ref().is_some_and(|hold| hold.watching)
    }

    /// True while the client's leaving is to be noticed at once, though nothing more is taken from it.
    pub(super) fn is_attentive(&self) -> bool {
        let waits = |hold: &Hold| matches!(hold.alone, Some(Alone::Blocking | Alone::Replication | Alone::Monitor));
        self.leasing || self.hold.as_deref().is_some_and(waits)
    }

    /// Others wait for its connection: it stands in line again when it hears that its time is up.
    pub(in crate::client) fn rotate(&mut self, request: Vec<u8>, left: Option<Duration>, stage: Stage) -> bool {
        let Some(hold) = self.hold.as_mut().filter(|hold| hold.alone == Some(Alone::Blocking)) else { return false };
        if stage == Stage::Serving && Args::new(&request).skip(1).any(|word| word == b"$") {
            // It waits for what is added from now on (XREAD): asked again later, it would miss what came between.
            return false;
        }
        let shortened = timeout_of(&request).zip(left).map(|(timeout, left)| with_timeout(&request, timeout, left));
        hold.again = Some(shortened.unwrap_or(request));
        true
    }

    /// Puts a request before those that wait.
    pub(super) fn take_back(&mut self, request: &[u8], env: &Env) {
        let before = self.input.capacity();
        let rest = self.input.get(self.position..).unwrap_or_default();
        self.input = [request, rest].concat();
        (self.position, self.starving, self.scanner) = (0, false, RequestScanner::default());
        env.pool.resized(before, self.input.capacity());
    }

    /// The connection is gone, and what was on it.
    pub(in crate::client) fn bereave(&mut self, env: &mut Env) {
        let Some(hold) = self.hold.take() else { return };
        self.since = None;
        if hold.streams {
            // A stream cannot be continued honestly; what came of it is passed on.
            if self.phase == Phase::Serving {
                self.note_departure(Departure::UpstreamLost);
                self.phase = Phase::Finishing { linger: true };
            }
            self.wake();
            return;
        }
        if env.stage != Stage::Serving && matches!(self.phase, Phase::Finishing { .. }) {
            // It ends in an orderly way all the same.
            return self.wake();
        }
        if hold.is_unsure() || self.phase != Phase::Serving || !self.loses_track(env) {
            // What is done in a database that only the server knows cannot be continued either, and who leaves is told
            // nothing more.
            self.kill(Departure::UpstreamLost);
            return;
        }
        self.state.unwatched |= hold.watching;
        if hold.in_multi {
            // The client does not know, and goes on.
            self.block = Some(Box::new(Block::lost()));
        }
        self.wake();
    }

    /// The client has sent its last byte. What waits for others is given up at once: a reply that does not exist yet is
    /// not due, and must not take an element from anybody.
    pub(super) fn leave_hold(&mut self, upstream: &mut Upstream, env: &mut Env) {
        let Some(hold) = self.hold.as_mut().filter(|hold| !hold.left) else { return };
        hold.left = true;
        upstream.finish_lease(&hold.lease);
        if hold.alone.is_some() || hold.streams {
            // The server ends it, or we do.
            env.lingering.push((self.key, env.tick));
        }
    }

    /// A request of a client that holds a lease.
    pub(super) fn over_lease(&mut self, name: &[u8], frame: &[u8], route: Route, turn: &mut Turn<'_, '_>) -> Step {
        let mapped = match route {
            Route::Leased(route::Cause::Administration | route::Cause::ClientState) => {
                ids::for_server(frame, |id| turn.upstream.shared().connection_of(id))
            }
            _ => None,
        };
        let frame = mapped.as_deref().unwrap_or(frame);
        let begins = self.begins_stream(route, frame);
        let Some(hold) = self.hold.as_mut() else { return Step::Done };
        if self.replies.forwarded() > 0 && (self.bound.is_some() || (begins && !hold.in_multi)) {
            // A change of connection is a barrier.
            return self.stand_behind_all(turn);
        }
        let alone = Args::new(frame).len() == 1;
        let quits = route == Route::Local(Local::Quit) || (route == Route::Local(Local::Reset) && alone);
        if self.replies.forwarded() > 0 && (hold.alone.is_some() || quits) {
            return self.stand_behind_all(turn);
        }
        if begins && !hold.in_multi {
            hold.streams = true;
            turn.upstream.open_stream(&hold.lease);
        }
        if hold.streams {
            return self.send_in_stream(frame, quits, route, turn);
        }
        if quits {
            self.hold = None;
            turn.upstream.bury();
            return self.local_of(route, frame, turn);
        }
        if self.state.unwatched && route == Route::Transaction(Transaction::Multi) {
            // Its watch is lost: this one will not run, wherever it is.
            return self.outside_block(Transaction::Multi, frame, turn);
        }
        if !turn.upstream.lease_has_room(&hold.lease, self.key, turn.cx.waker()) {
            return self.stand_behind(turn);
        }
        if hold.in_multi {
            return self.inside_multi(frame, route, turn);
        }
        self.outside_multi(name, frame, route, turn)
    }

    /// True if a client asks to be told what another, whose CLIENT TRACKING is redirected to it, has to forget. The server
    /// tells that to one connection, so it has to be the client's own.
    pub(super) fn begins_stream(&self, route: Route, frame: &[u8]) -> bool {
        matches!(route, Route::Subscription(Subscription::Subscribe))
            && self.subscriber.is_none()
            && Args::new(frame).skip(1).any(|channel| channel == INVALIDATIONS)
    }

    /// A request of a client that gets everything that comes: what it ends with comes in its place.
    fn send_in_stream(&mut self, frame: &[u8], quits: bool, route: Route, turn: &mut Turn<'_, '_>) -> Step {
        let Some(hold) = self.hold.as_mut() else { return Step::Done };
        if hold.resetting || !turn.upstream.lease_has_room(&hold.lease, self.key, turn.cx.waker()) {
            return self.stand_behind(turn);
        }
        turn.upstream.send_into_stream(&hold.lease, frame);
        if quits {
            hold.resetting = true;
            if route == Route::Local(Local::Quit) {
                // The server closes, behind its last words.
                turn.upstream.finish_lease(&hold.lease);
            }
        }
        Step::Done
    }

    /// A request of a client whose MULTI is open at the server.
    fn inside_multi(&mut self, frame: &[u8], route: Route, turn: &mut Turn<'_, '_>) -> Step {
        let Some(hold) = self.hold.as_mut() else { return Step::Done };
        let ends = route == Route::Transaction(Transaction::Exec)
            || (route == Route::Transaction(Transaction::Discard) && Args::new(frame).len() == 1);
        let notes = Noted::is_wanted_inside(route, frame);
        let is_unknown = matches!(route, Route::Leased(route::Cause::Unknown | route::Cause::UnknownSubcommand));
        if (is_unknown || notes || (ends && !hold.noted.is_empty())) && self.replies.forwarded() > 0 {
            return self.stand_behind_all(turn);
        }
        if ends {
            let retold = route == Route::Transaction(Transaction::Exec) && !hold.noted.is_empty();
            let noted = mem::take(&mut hold.noted);
            hold.begin_block(false);
            if retold {
                hold.noted = noted;
                hold.learns(Alone::Retold);
            }
            hold.watching = false;
            self.state.unwatched = false;
            return self.send_over_lease(frame, route, None, turn);
        }
        if is_unknown {
            hold.learns(Alone::Unknown);
        }
        match route {
            // Of this the server must not know: it is ours to mute.
            Route::Local(Local::ClientReply) => return self.spoil_multi(turn),
            // Redis would answer in the midst of its reply to EXEC.
            Route::Subscription(_) if self.state.protocol == Protocol::Resp3 => return self.spoil_multi(turn),
            Route::Local(Local::ClientNoEvict | Local::ClientNoTouch) | Route::Leased(route::Cause::ClientState) => {
                hold.pinned = true;
            }
            Route::Subscription(_) => {
                hold.pinned = true;
                turn.upstream.open_stream(&hold.lease);
            }
            Route::Local(_)
            | Route::Leased(_)
            | Route::Shared(_)
            | Route::Transaction(_)
            | Route::Control
            | Route::Refused => {}
        }
        let mut sent = None;
        if notes {
            if hold.noted.len() >= MAX_NOTED || frame.len() > LONGEST_NOTED {
                return self.spoil_multi(turn);
            }
            let place = Some(hold.queued);
            hold.noted.push(Noted { place, route, request: frame.to_vec() });
            sent = local::without_login(route, Args::new(frame), turn.env.password.as_ref());
        }
        self.send_over_lease(sent.as_deref().unwrap_or(frame), route, None, turn)
    }

    /// A request of a client that holds a lease and has no MULTI open there.
    fn outside_multi(&mut self, name: &[u8], frame: &[u8], route: Route, turn: &mut Turn<'_, '_>) -> Step {
        let timeout = match route {
            Route::Leased(route::Cause::Blocking | route::Cause::Replication) => timeout_of(frame),
            _ => None,
        };
        let alone = match route {
            Route::Leased(route::Cause::Blocking) => timeout.map(|_| Alone::Blocking),
            Route::Leased(route::Cause::Replication) => timeout.map(|_| Alone::Replication),
            Route::Leased(route::Cause::Unknown | route::Cause::UnknownSubcommand) => Some(Alone::Unknown),
            Route::Leased(route::Cause::Monitor) => Some(Alone::Monitor),
            _ => Noted::is_wanted(route, frame).then_some(Alone::Retold),
        };
        if alone.is_some() && self.replies.forwarded() > 0 {
            return self.stand_behind_all(turn);
        }
        let is_single = Args::new(frame).len() == 1;
        let Some(hold) = self.hold.as_mut() else { return Step::Done };
        alone.into_iter().for_each(|alone| hold.learns(alone));
        if alone == Some(Alone::Retold) {
            hold.noted = vec![Noted { place: None, route, request: frame.to_vec() }];
        }
        match route {
            Route::Local(_) if alone == Some(Alone::Retold) => {}
            Route::Local(_) if self.replies.forwarded() > 0 && self.state.tracking.is_some() => {
                // What it is told of besides replies comes in its place.
                return self.stand_behind_all(turn);
            }
            Route::Local(_) => return self.local_beside(frame, route, turn),
            Route::Subscription(_) | Route::Control | Route::Refused if self.replies.forwarded() > 0 => {
                return self.stand_behind_all(turn);
            }
            Route::Subscription(_) | Route::Control | Route::Refused => {
                return self.without_lease(name, frame, route, turn);
            }
            Route::Transaction(Transaction::Watch) => hold.watching = true,
            Route::Transaction(Transaction::Unwatch) if is_single => {
                hold.watching = false;
                self.state.unwatched = false;
            }
            Route::Transaction(Transaction::Multi) if is_single && self.replies.forwarded() > 0 => {
                // What it queues is counted by the replies.
                return self.stand_behind_all(turn);
            }
            Route::Transaction(Transaction::Multi) if is_single => hold.begin_block(true),
            Route::Leased(route::Cause::Monitor) => {
                turn.upstream.open_stream(&hold.lease);
            }
            Route::Leased(route::Cause::ClientState) => hold.pinned = true,
            Route::Leased(
                route::Cause::Administration
                | route::Cause::Blocking
                | route::Cause::Replication
                | route::Cause::Unknown
                | route::Cause::UnknownSubcommand,
            )
            | Route::Transaction(_)
            | Route::Shared(_) => {}
        }
        let timeout = timeout.map(|timeout| timeout.length.map(ticks));
        self.send_over_lease(frame, route, timeout, turn)
    }

    /// Waits for what is before it on the same connection, for as long as that takes.
    fn stand_behind(&mut self, turn: &mut Turn<'_, '_>) -> Step {
        if self.may_wait_for(FOR_EVER, turn) { Step::Blocked } else { Step::Done }
    }

    /// Waits until all before it is answered.
    pub(super) fn stand_behind_all(&mut self, turn: &mut Turn<'_, '_>) -> Step {
        self.wake_at = Some(0);
        self.stand_behind(turn)
    }

    /// Ends a MULTI in which something stands that cannot be forwarded: nothing of it may run.
    fn spoil_multi(&mut self, turn: &mut Turn<'_, '_>) -> Step {
        if self.replies.forwarded() > 0 {
            return self.stand_behind_all(turn);
        }
        self.lose_multi(turn);
        self.answer_with(turn.env, |out| build::error(refusal::NOT_IN_MULTI, out))
    }

    /// Ends the MULTI that is open at the server; its EXEC will say that nothing ran.
    fn lose_multi(&mut self, turn: &mut Turn<'_, '_>) {
        self.hold = None;
        turn.upstream.bury();
        self.block = Some(Box::new(Block::lost()));
        if !self.loses_track(turn.env) {
            self.kill(Departure::UpstreamLost);
        }
    }

    /// Refuses what the operator denies, as Redis refuses what an ACL denies: within a transaction it ends all of it.
    pub(super) fn deny(&mut self, route: Route, frame: &[u8], turn: &mut Turn<'_, '_>) -> Step {
        if self.awaits_verdict() {
            return self.wait_for_verdict(turn);
        }
        if self.awaits_watch() {
            return self.stand_behind_all(turn);
        }
        if self.is_queueing() {
            if self.replies.forwarded() > 0 {
                return self.stand_behind_all(turn);
            }
            self.lose_multi(turn);
        }
        turn.env.denials += 1;
        let args = Args::new(frame);
        let mut error = Vec::new();
        refusal::deny(&args, &mut error);
        if route == Route::Transaction(Transaction::Exec) {
            return self.abort(error.trim_ascii_end().strip_prefix(b"-").unwrap_or_default(), turn);
        }
        self.spoil_block(turn.env);
        self.answer_with(turn.env, |out| out.extend_from_slice(&error))
    }

    /// A block that cannot share a connection goes on over one of its client's own, which is told what was queued so far.
    pub(super) fn move_block(&mut self, name: &[u8], route: Route, frame: &[u8], turn: &mut Turn<'_, '_>) -> Step {
        if self.hold.is_none() {
            let cause = if turn.env.dedicated { Cause::Session } else { Cause::Transaction };
            match self.obtain_lease(cause, None, frame, None, turn) {
                Ok(_) => {}
                Err(Step::Blocked) => return Step::Blocked,
                Err(step) => {
                    // The client was told so; nothing of the block runs.
                    self.spoil_block(turn.env);
                    return step;
                }
            }
        }
        if let Some(error) = turn.upstream.shared().identity().refusal_of_blocks() {
            self.spoil_block(turn.env);
            return self.answer_with(turn.env, |out| build::error(error.as_bytes(), out));
        }
        self.replay_block(turn);
        self.over_lease(name, frame, route, turn)
    }

    /// Sends what is queued, up to its EXEC, over the client's own connection.
    pub(super) fn replay_block(&mut self, turn: &mut Turn<'_, '_>) {
        let Some(block) = self.block.take() else { return };
        turn.env.pool.resized(block.capacity(), 0);
        self.hold.iter_mut().for_each(|hold| hold.begin_block(true));
        self.replay(block.replay(self.state.unwatched), turn);
    }

    /// Sends what its client believes to be queued. What the server refuses of it makes EXEC fail, and the client hears it
    /// then.
    fn replay(&mut self, mut requests: &[u8], turn: &mut Turn<'_, '_>) {
        let limits = Limits::default();
        while let Ok(Some(request)) = RequestScanner::default().scan(requests, &limits) {
            let (first, rest) = requests.split_at(request.len.min(requests.len()));
            self.send_muted(first, turn);
            requests = rest;
        }
    }

    /// Sends a request over the lease that is held whose reply is not for the client.
    pub(super) fn send_muted(&mut self, request: &[u8], turn: &mut Turn<'_, '_>) {
        let Some(hold) = &self.hold else { return };
        let after = if self.replies.forwarded() > 0 { self.due } else { 0 };
        let traits = Traits::default().muted(true).queued(hold.in_multi);
        let message = Message { client: self.key, traits, since: None, after, tag: Tag::NONE };
        self.replies.forward();
        self.due = turn.upstream.send_leased(&hold.lease, message, None, request);
    }

    /// Its WATCH is over, wherever it was.
    pub(super) fn forget_watch(&mut self, turn: &mut Turn<'_, '_>) {
        self.state.unwatched = false;
        if self.hold.as_ref().is_some_and(|hold| hold.watching) {
            self.hold = None;
            turn.upstream.bury();
            if !self.loses_track(turn.env) {
                self.kill(Departure::UpstreamLost);
            }
        }
    }

    /// Sends a request over the lease that is held.
    pub(super) fn send_over_lease(
        &mut self,
        frame: &[u8],
        route: Route,
        timeout: Option<Option<u32>>,
        turn: &mut Turn<'_, '_>,
    ) -> Step {
        let Some(hold) = &mut self.hold else { return Step::Done };
        let manner = Manner { slow: hold.is_slow(route, frame), ..manner(route) };
        hold.caching = route == Route::Leased(route::Cause::ClientState)
            && Args::new(frame).nth(1).is_some_and(|subcommand| is(subcommand, b"caching"));
        if may_write(route) {
            self.wrote = Some(hold.lease.id());
        }
        let traits = Traits::new(manner.slow, manner.repeatable && !hold.in_multi, manner.script)
            .muted(self.state.mutes_next())
            .queued(hold.in_multi)
            .informed(manner.informs && !hold.in_multi && section::is_wanted(frame))
            .resp3(self.state.protocol == Protocol::Resp3);
        let after = if self.replies.forwarded() > 0 { self.due } else { 0 };
        let message = Message { client: self.key, traits, since: None, after, tag: mem::take(&mut self.tag) };
        self.replies.forward();
        self.since = None;
        if frame.len() >= OWN_BUFFER && timeout.is_none() {
            return Step::Large { id: hold.lease.id(), message };
        }
        self.due = turn.upstream.send_leased(&hold.lease, message, timeout, frame);
        Step::Done
    }

    /// What concerns the client's own connection is answered here as ever, and set on the leased one too.
    fn local_beside(&mut self, frame: &[u8], route: Route, turn: &mut Turn<'_, '_>) -> Step {
        if self.hold.as_ref().is_some_and(|hold| hold.caching) && !is_about_client(route) {
            // It is this that the client's last word is about.
            self.send_muted(PING, turn);
            self.hold.iter_mut().for_each(|hold| hold.caching = false);
            return self.stand_behind(turn);
        }
        if route == Route::Local(Local::Select) && self.replies.forwarded() > 0 {
            // Its own reply, of which the client hears nothing, is the next one.
            return self.stand_behind_all(turn);
        }
        let before = self.lane_key();
        let step = self.local_of(route, frame, turn);
        let after = self.lane_key();
        if let Some(hold) = &self.hold {
            turn.upstream.name_lease(&hold.lease, &self.state.name);
        }
        if after == before || matches!(step, Step::Blocked) {
            return step;
        }
        let mut request = Vec::new();
        if after.protocol != before.protocol {
            let version: &[u8] = if after.protocol == Protocol::Resp3 { b"3" } else { b"2" };
            inline::encode([b"HELLO".as_slice(), version].into_iter(), &mut request);
        } else {
            inline::encode([b"SELECT".as_slice(), after.database.to_string().as_bytes()].into_iter(), &mut request);
        }
        if let Some(hold) = &mut self.hold {
            hold.stale = true;
            if after.protocol == before.protocol {
                // A client that was told of another database must not go on in this one.
                hold.learns(Alone::Obeyed);
            }
        }
        self.send_muted(&request, turn);
        step
    }

    fn local_of(&mut self, route: Route, frame: &[u8], turn: &mut Turn<'_, '_>) -> Step {
        match route {
            Route::Local(local) => self.local(local, Args::new(frame), frame, turn),
            _ => Step::Done,
        }
    }

    /// Takes `buffer`, the next bytes of what the client did not ask for.
    pub(in crate::client) fn push(&mut self, buffer: &[u8], range: Range<usize>, complete: bool, env: &mut Env) {
        if self.phase == Phase::Dead {
            return;
        }
        let bytes = buffer.get(range.clone()).unwrap_or_default();
        // The reply to HELLO. A message may hold anything, and is not looked into.
        let is_greeting = bytes.starts_with(b"%") || bytes.starts_with(b"*14\r\n");
        if complete && !self.half_delivered && is_greeting && self.hold.as_ref().is_some_and(|hold| hold.streams) {
            let mut told = Vec::new();
            ids::in_map(bytes, |id| env.upstream.client_of(id), &mut told);
            self.spill(buffer, env);
            self.out.push(&told, &mut env.pool);
            return;
        }
        self.append(false, buffer, range, env);
        self.half_delivered = !complete;
        if let Some(hold) = self.hold.as_mut().filter(|hold| hold.resetting)
            && bytes == b"+RESET\r\n"
        {
            (hold.streams, hold.resetting, hold.pinned, hold.stale) = (false, false, false, true);
            self.state.reset(env.upstream.default_database(), env.password.is_none());
            self.wake();
        }
    }
}

/// Whether it is a subcommand of CLIENT.
fn is_about_client(route: Route) -> bool {
    match route {
        Route::Local(local) => !matches!(
            local,
            Local::Auth | Local::Echo | Local::Hello | Local::Ping | Local::Quit | Local::Reset | Local::Select
        ),
        _ => false,
    }
}

/// Whether it may have changed data, so that a WAIT of its client is about it.
fn may_write(route: Route) -> bool {
    match route {
        Route::Shared(manner) => !manner.repeatable,
        Route::Transaction(which) => which == Transaction::Exec,
        Route::Leased(cause) => {
            matches!(cause, route::Cause::Blocking | route::Cause::Unknown | route::Cause::UnknownSubcommand)
        }
        Route::Local(_) | Route::Subscription(_) | Route::Control | Route::Refused => false,
    }
}

/// What matters of a request on its way.
fn manner(route: Route) -> Manner {
    if let Route::Shared(manner) = route { manner } else { Manner::default() }
}

pub(super) fn timeout_of(frame: &[u8]) -> Option<Timeout> {
    let args = Args::new(frame);
    blocking::timeout(table::of_request(args.clone())?, &args)
}

/// A length of time in ticks of 100 ms, rounded up.
pub(super) fn ticks(length: Duration) -> u32 {
    u32::try_from(length.as_millis().div_ceil(100)).unwrap_or(FOR_EVER).min(FOR_EVER)
}
