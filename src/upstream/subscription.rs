//! Publish and subscribe: one connection for all subscribers of a worker, over which their messages come once.
//!
//! - `register`: who hears what, and which acknowledgements are due. Pure.
//! - `notice`: what the server says. `feed`: the connection.
//! - This file: how it comes and goes, within the pool's bound and by the leave of breaker and supervisor, like the
//!   connections of a lane; it has a lane of its own, [`LANE`], of which no client is a member.
//!
//! A client's request is sent, and settled by the server's answer ([`Verdict`]). When the connection is lost, clients that
//! heard something cannot go on as if nothing had happened: messages may be missing. They are disconnected, or subscribed
//! again if the operator prefers that ([`OnLoss`]).

mod feed;
mod notice;
mod register;

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::Instant;

use super::breaker::State;
use super::connect::{LaneKey, Protocol};
use super::connection::{ClientKey, Made, Replies};
use super::error::{Error, Failure, Outcome, Why};
use super::lane::{ConnectionId, Lane, LaneId, Use};
use super::shared::Shared;
use super::watch::jittered;
use super::{Event, Reserve, Upstream, Want};
use crate::buffer::CHUNK;
use crate::resp::request::Args;
use feed::Feed;
use register::{Register, Unanswered};

/// The lane of the subscription connection.
pub(super) const LANE: LaneId = 0;

/// The slot of the subscription connection, which is not in the list of the others.
pub(super) const SLOT: usize = usize::MAX - 1;

/// What the server would not end is asked again this often, in ticks.
const RETRY_EVERY: u32 = 10;

/// A connection over which nobody hears anything is closed after this long.
const RETIRE_AFTER: Duration = Duration::from_secs(10);

/// What can be subscribed to. Each has names of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sort {
    /// SUBSCRIBE
    Channel,
    /// PSUBSCRIBE
    Pattern,
    /// SSUBSCRIBE
    Shard,
}

impl Sort {
    /// Each of them.
    pub(crate) const ALL: [Self; 3] = [Self::Channel, Self::Pattern, Self::Shard];

    /// The command that subscribes.
    pub(crate) fn subscribe(self) -> &'static str {
        match self {
            Self::Channel => "subscribe",
            Self::Pattern => "psubscribe",
            Self::Shard => "ssubscribe",
        }
    }

    /// The command that ends a subscription.
    pub(crate) fn unsubscribe(self) -> &'static str {
        match self {
            Self::Channel => "unsubscribe",
            Self::Pattern => "punsubscribe",
            Self::Shard => "sunsubscribe",
        }
    }
}

/// The name of a channel or pattern, kept once for all who hear it.
pub(crate) type Name = Rc<[u8]>;

/// Names of every sort.
pub(crate) type Topics = Vec<(Sort, Vec<Name>)>;

/// What becomes of subscribers whose upstream connection is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnLoss {
    /// They are disconnected, and know that they may have missed messages.
    Close,
    /// They are subscribed again, and never know.
    Resubscribe,
}

/// What became of a client's request.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Verdict<'a> {
    /// It has taken effect.
    Done,
    /// It is taken as done, though the server has not said so: whoever leaves has left.
    Assumed,
    /// The server refused it: its error line, without the `-`.
    Refused(&'a [u8]),
    /// It has not taken effect.
    Failed(Failure),
}

/// A worker's subscriptions.
pub(super) struct Subscriptions {
    feed: Option<Feed>,
    register: Register,
    /// The connection is being made, or nothing is subscribed over it yet.
    coming: Option<Coming>,
    /// Clients that publish, and let those go first who asked to subscribe before.
    publishers: HashMap<ClientKey, Waker>,
    /// Since when subscribers hear nothing although they should.
    gap_since: Option<Instant>,
    /// Commands being written.
    commands: Vec<u8>,
}

impl Subscriptions {
    pub(super) fn new() -> Self {
        Self {
            feed: None,
            register: Register::default(),
            coming: None,
            publishers: HashMap::new(),
            gap_since: None,
            commands: Vec::new(),
        }
    }

    /// The lane that belongs at [`LANE`].
    pub(super) fn lane() -> Lane {
        Lane::new(LaneKey { database: 0, protocol: Protocol::Resp2 })
    }

    /// Connections it holds.
    pub(super) fn held(&self) -> usize {
        usize::from(self.feed.is_some())
    }
}

/// What a client that publishes waits for.
#[derive(Clone, Copy)]
pub(crate) struct Behind {
    /// This is to be answered, a command's number.
    change: u64,
    /// And that is all: who had left before it was subscribed is not any more.
    again: bool,
}

/// All workers know that somebody is about to hear something, or nothing any more, as long as there is this.
pub(crate) struct Unsettled(Arc<Shared>);

impl Unsettled {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        shared.unsettled.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(shared))
    }
}

impl Drop for Unsettled {
    fn drop(&mut self) {
        self.0.unsettled.fetch_sub(1, Ordering::Relaxed);
        self.0.broadcast(|| Event::Settled);
    }
}

/// A connection that is being made.
struct Coming {
    _unsettled: Unsettled,
    /// It has come when all commands up to this are answered, which were sent first.
    until: Option<u64>,
}

impl Shared {
    /// Disconnects a client, of whatever worker. Who knows that, and then publishes, does not count it any more.
    pub(crate) fn kill_client(self: &Arc<Self>, client: u64) {
        let unsettled = Arc::new(Unsettled::new(self));
        self.broadcast(|| Event::Kill(client, Arc::clone(&unsettled)));
    }
}

impl Upstream {
    /// True while somebody is not subscribed yet who asked for it before, or still is who has left: what a client publishes
    /// now would not be heard by the first, who may not wait to be told, and the second would be counted. The waker is
    /// called when it is worth asking again; `behind` is kept meanwhile.
    pub(crate) fn is_too_early(&mut self, behind: &mut Option<Behind>, client: ClientKey, waker: &Waker) -> bool {
        let Subscriptions { register, publishers, .. } = &mut self.subscriptions;
        let is_early = self.shared.unsettled.load(Ordering::Relaxed) > 0 || {
            let last = register.last_change();
            let behind = behind.get_or_insert(Behind { change: last, again: false });
            if !behind.again && register.has_answered(behind.change) {
                *behind = Behind { change: last, again: true };
            }
            !register.has_answered(behind.change)
        };
        if is_early {
            publishers.insert(client, waker.clone());
        } else {
            *behind = None;
        }
        is_early
    }

    /// Lets those who publish ask again.
    pub(super) fn release_publishers(&mut self) {
        self.subscriptions.publishers.drain().for_each(|(_, waker)| waker.wake());
    }

    pub(super) fn expect_feed(&mut self) {
        self.subscriptions.coming = Some(Coming { _unsettled: Unsettled::new(&self.shared), until: None });
    }

    pub(super) fn expect_no_feed(&mut self) {
        self.subscriptions.coming = None;
    }

    /// Notes which of the commands that were to be answered are.
    fn progress_of_feed(&mut self) {
        let Subscriptions { register, coming, publishers, .. } = &mut self.subscriptions;
        if let Some(Coming { until, .. }) = coming
            && register.has_answered(*until.get_or_insert(register.last_change()))
        {
            *coming = None;
        }
        if !publishers.is_empty() {
            self.release_publishers();
        }
    }

    /// Finds the connection for a client's request. With `opens` it is one that subscribes: then the breaker is asked, and a
    /// connection is made if there is none. Without a connection nothing is heard, so whatever else is asked has taken
    /// effect already.
    pub(crate) fn reserve_feed(&mut self, client: ClientKey, opens: bool, waker: &Waker) -> Reserve {
        let serves = matches!(self.view.state, State::Closed | State::Starting | State::Disabled);
        if opens && !serves {
            return self.refuse(LANE, Error::Open);
        }
        let Subscriptions { feed, register, .. } = &mut self.subscriptions;
        match feed {
            Some(feed) if feed.has_room(register) => Reserve::Ready(feed.id()),
            Some(feed) => {
                feed.wait(client, waker);
                Reserve::Wait
            }
            None if opens => self.need(Want { client, lane: LANE, bound: None, usage: Use::Normal }, waker),
            None => Reserve::Unavailable(Error::Closed),
        }
    }

    /// Sends a client's SUBSCRIBE over the connection that [`Upstream::reserve_feed`] has just named, as it came. `since`:
    /// when it arrived, in ticks, if it had to wait. Returns the names in it.
    pub(crate) fn subscribe(&mut self, client: ClientKey, sort: Sort, request: &[u8], since: Option<u32>) -> Vec<Name> {
        let deadline = self.feed_deadline(since);
        let Subscriptions { feed, register, .. } = &mut self.subscriptions;
        feed.iter_mut().for_each(|feed| feed.begin(register));
        let names = register.subscribe(client, sort, Args::new(request).skip(1), request.len(), deadline);
        feed.iter_mut().for_each(|feed| feed.send(request, &mut self.pool));
        names
    }

    /// Asks on behalf of a client to hear these topics, each named once, no more.
    pub(crate) fn unsubscribe(&mut self, client: ClientKey, sort: Sort, names: Vec<Name>, since: Option<u32>) {
        let deadline = self.feed_deadline(since);
        self.command(|register, out| register.unsubscribe(client, sort, names, deadline, out));
    }

    /// Sends a PING on behalf of a client: it is settled behind all messages that were published before.
    pub(crate) fn ping_feed(&mut self, client: ClientKey, since: Option<u32>) {
        let deadline = self.feed_deadline(since);
        self.command(|register, out| register.ping(client, deadline, out));
    }

    /// A client that heard these topics hears nothing any more, and waits for nothing.
    pub(crate) fn forget(&mut self, client: ClientKey, topics: Topics) {
        topics.into_iter().for_each(|(sort, names)| self.subscriptions.register.forget(client, sort, &names));
        self.command(Register::undo);
    }

    fn feed_deadline(&self, since: Option<u32>) -> u32 {
        since.unwrap_or(self.ticks) + self.limit
    }

    /// Sends what `write` writes, if there is a connection.
    fn command(&mut self, write: impl FnOnce(&mut Register, &mut Vec<u8>)) {
        let Subscriptions { feed: Some(feed), register, commands, .. } = &mut self.subscriptions else { return };
        feed.begin(register);
        commands.clear();
        write(register, commands);
        if !commands.is_empty() {
            feed.send(commands, &mut self.pool);
        }
        commands.shrink_to(CHUNK);
    }

    /// One turn of the connection's task; ready when it is no more.
    pub(super) fn drive_feed(
        &mut self,
        id: ConnectionId,
        cx: &mut Context<'_>,
        clients: &mut impl Replies,
    ) -> Poll<()> {
        let Subscriptions { feed, register, .. } = &mut self.subscriptions;
        let Some(feed) = feed.as_mut().filter(|feed| feed.id() == id) else { return Poll::Ready(()) };
        let result = feed.turn(cx, &mut self.buffer, &mut self.pool, register, clients);
        let (received, sent) = feed.take_traffic();
        self.cells.upstream_received.add(received);
        self.cells.upstream_sent.add(sent);
        self.heard = self.heard.max(feed.heard);
        self.progress_of_feed();
        if let Err(error) = result {
            self.lose_feed(&error, clients);
            return Poll::Ready(());
        }
        self.command(Register::undo);
        Poll::Pending
    }

    /// The connection was made. It is returned: it needs a task that drives it.
    pub(super) fn install_feed(&mut self, made: Made) -> ConnectionId {
        if self.subscriptions.feed.is_some() {
            // An attempt that was given up, and another took its place.
            return ConnectionId::ELSEWHERE;
        }
        let mut feed = Feed::new(made, self.serial, self.shared.config.longest_message, self.now);
        let Subscriptions { register, gap_since, commands, .. } = &mut self.subscriptions;
        commands.clear();
        register.resume(commands);
        if let Some(since) = gap_since.take() {
            let gap_ms = u64::try_from(self.now.saturating_duration_since(since).as_millis()).unwrap_or(u64::MAX);
            let gaps = self.shared.gaps.fetch_add(1, Ordering::Relaxed) + 1;
            let topics = register.count();
            tracing::warn!(topics, gap_ms, gaps, "subscribed again: what was published meanwhile is lost");
        }
        feed.send(commands, &mut self.pool);
        commands.shrink_to(CHUNK);
        let id = feed.id();
        self.subscriptions.feed = Some(feed);
        id
    }

    /// The connection failed. Requests without an answer fail; whoever heard something is disconnected, or waits for the
    /// next connection.
    pub(super) fn lose_feed(&mut self, error: &Error, clients: &mut impl Replies) {
        let Some(feed) = self.subscriptions.feed.take() else { return };
        let (now, served, resubscribe) =
            (self.now, feed.has_served(), self.shared.config.on_loss == OnLoss::Resubscribe);
        feed.close(&mut self.pool);
        let is_check = matches!(error, Error::Silent) && self.subscriptions.register.owes_only_pongs();
        let reason = if is_check { "health" } else { error.reason() };
        self.shared.metrics.disconnects.with_label_values(&[reason]).inc();
        // If it is us who end it, that says nothing of the server.
        let lost = !matches!(error, Error::Open);
        if lost {
            self.doubt_server();
        }
        let register = &mut self.subscriptions.register;
        let (unanswered, hearers) = (register.lose(), register.all_hearers());
        let orderly = matches!(error, Error::Closed) && unanswered.is_empty();
        if orderly && hearers.is_empty() {
            tracing::info!("the upstream ended an idle connection");
        } else if lost || !hearers.is_empty() {
            tracing::warn!(%error, subscribers = hearers.len(), resubscribe, "lost the subscription connection");
        }
        if lost && !(orderly || matches!(error, Error::Replica)) {
            self.shared.blame(error.fault(), |breaker| breaker.failure(self.view.generation, now));
        }
        if lost {
            self.shared.supervise(|supervisor| supervisor.lost(self.shared.has_usable(), served, now));
            self.look();
        }
        fail(unanswered, Why::Lost, clients);
        self.expect_no_feed();
        self.release_publishers();
        if resubscribe && !hearers.is_empty() {
            self.subscriptions.gap_since.get_or_insert(now);
        } else {
            self.subscriptions.register.clear();
            hearers.into_iter().for_each(|hearer| clients.cut(hearer, &[]));
        }
        clients.flush_messages(&[]);
        self.resume_feed();
    }

    /// One look at it, ten times a second: deadlines, silence, PINGs, and whether it is needed.
    pub(super) fn watch_feed(&mut self, clients: &mut impl Replies) {
        let (now, timeout) = (self.now, self.shared.config.request_timeout);
        let overdue = self.subscriptions.register.take_overdue(self.ticks);
        fail(overdue, Why::Deadline, clients);
        clients.flush_messages(&[]);
        if self.ticks.is_multiple_of(RETRY_EVERY) {
            self.subscriptions.register.retry();
        }
        self.command(Register::undo);
        let Subscriptions { feed, register, .. } = &mut self.subscriptions;
        let Some(feed) = feed else { return self.resume_feed() };
        let silent = feed.silent_since(register).map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        if register.is_wanted() {
            feed.used = now;
        }
        let unused = now.saturating_duration_since(feed.used);
        if silent >= timeout.saturating_mul(2) {
            self.lose_feed(&Error::Silent, clients);
        } else if register.due() > 0 {
            // Somebody waits for an answer, if only we.
        } else if unused >= RETIRE_AFTER || (!unused.is_zero() && self.shared.permits.is_wanted()) {
            self.subscriptions.feed.take().into_iter().for_each(|feed| feed.close(&mut self.pool));
            // The next one begins anew; what was sent over this one is not sent over that.
            self.subscriptions.register.clear();
            self.shared.metrics.disconnects.with_label_values(&["idle"]).inc();
        } else if now.saturating_duration_since(feed.heard) >= jittered(feed.id(), super::watch::PING_AFTER) {
            self.check_feed();
        }
    }

    /// Asks whether the connection still works, unless it owes us an answer already.
    pub(super) fn check_feed(&mut self) {
        if self.subscriptions.register.due() == 0 {
            self.command(|register, out| register.ping(ClientKey::PING, u32::MAX, out));
        }
    }

    /// The server has become a replica: a connection from before goes.
    pub(super) fn renew_feed(&mut self, current: u32) {
        let old = self.subscriptions.feed.as_mut().filter(|feed| feed.renewal < current);
        old.into_iter().for_each(|feed| feed.end_for(Error::Replica));
    }

    /// Gets a connection for those who are to be subscribed again, if there is none.
    pub(super) fn resume_feed(&mut self) {
        let Subscriptions { feed: None, register, .. } = &self.subscriptions else { return };
        let paused = |lane: &Lane| lane.failure.as_ref().is_some_and(|(_, until)| self.now < *until);
        if register.is_wanted()
            && matches!(self.view.state, State::Closed | State::Starting | State::Disabled)
            && !self.lanes.get(LANE).is_some_and(paused)
        {
            self.obtain_if_bare(LANE);
        }
    }
}

/// Tells clients that their requests are not answered.
fn fail(unanswered: Vec<Unanswered>, why: Why, clients: &mut impl Replies) {
    for Unanswered { client, failed } in unanswered {
        let failure = Failure { outcome: Outcome::NotRun, why };
        clients.settled(client, if failed { Verdict::Failed(failure) } else { Verdict::Assumed }, &[]);
    }
}
