//! How a client comes by a connection of its own: it waits for one as long as that makes sense, and is told if there is none.
//!
//! It waits with nothing outstanding. How long depends on why: a command that waits for others has its own time, and is
//! answered then as if nobody had served it; everything else has a second if too many connections are held, and the time of
//! a request if only the connection is missing.

use std::time::Duration;

use super::hold::{FOR_EVER, Hold, ticks, timeout_of};
use super::{Session, Step, Turn};
use crate::client::clients::Env;
use crate::client::refusal;
use crate::command::blocking::Timeout;
use crate::command::route::{self, Route, Transaction};
use crate::resp::build;
use crate::resp::inline;
use crate::resp::request::Args;
use crate::upstream::{Cause, ConnectionId, Error, Failure, LeaseWant, Leased, Outcome, Protocol, Why};

/// How long a client waits for a lease, in ticks of 100 ms, unless its command says how long it is ready to wait.
const PATIENCE: u32 = 10;

impl Session {
    /// Somebody ends its wait for others, with an error or as if its time were up; it waits for a lease still.
    pub(in crate::client) fn unblock(&mut self, with_error: bool) {
        // If it has come by one in this moment, that is as if it had been served.
        if self.leasing {
            self.unblocked = Some(with_error);
            self.wake();
        }
    }

    /// Waits no more for a lease, because somebody has said so.
    fn give_up_waiting(&mut self, with_error: bool, frame: &[u8], turn: &mut Turn<'_, '_>) -> Step {
        turn.upstream.renounce(self.key);
        (self.leasing, self.since) = (false, None);
        if with_error {
            return self.answer_with(turn.env, |out| build::error(refusal::UNBLOCKED, out));
        }
        self.nobody_came(Args::new(frame).next().unwrap_or_default(), turn.env)
    }

    /// A request of a client that has a connection for its life, from its first request on.
    pub(super) fn over_lasting_lease(
        &mut self,
        name: &[u8],
        frame: &[u8],
        route: Route,
        turn: &mut Turn<'_, '_>,
    ) -> Step {
        match self.obtain_lease(Cause::Session, None, frame, None, turn) {
            Ok(_) => self.over_lease(name, frame, route, turn),
            Err(Step::Blocked) => Step::Blocked,
            Err(step) => {
                // What was to be watched is not.
                self.state.unwatched |= route == Route::Transaction(Transaction::Watch);
                step
            }
        }
    }

    /// A request that needs a connection of its own.
    pub(super) fn over_new_lease(&mut self, name: &[u8], frame: &[u8], route: Route, turn: &mut Turn<'_, '_>) -> Step {
        let cause = cause_of(route);
        let timeout = if cause == Cause::Blocking { timeout_of(frame) } else { None };
        // WAIT concerns what was written over its connection.
        let on = self.wrote.filter(|_| route == Route::Leased(route::Cause::Replication) && timeout.is_some());
        match self.obtain_lease(cause, on, frame, timeout, turn) {
            Ok(waited) => {
                // The time it has waited is not to be waited again.
                let waited = Duration::from_millis(100) * waited;
                let length = timeout.and_then(|timeout| timeout.length).filter(|_| !waited.is_zero());
                let left = length.map(|length| length.saturating_sub(waited));
                let shortened = timeout.zip(left).map(|(timeout, left)| with_timeout(frame, timeout, left));
                self.over_lease(name, shortened.as_deref().unwrap_or(frame), route, turn)
            }
            Err(Step::Blocked) => Step::Blocked,
            Err(step) => {
                // What was to be watched is not.
                self.state.unwatched |= cause == Cause::Watch;
                step
            }
        }
    }

    /// Sends a block over the client's own connection; its EXEC comes there too.
    pub(super) fn exec_over_lasting_lease(&mut self, frame: &[u8], turn: &mut Turn<'_, '_>) -> Step {
        match self.obtain_lease(Cause::Session, None, frame, None, turn) {
            Ok(_) => {
                self.replay_block(turn);
                self.over_lease(b"exec", frame, Route::Transaction(Transaction::Exec), turn)
            }
            Err(Step::Blocked) => Step::Blocked,
            Err(step) => {
                self.drop_block(turn.env);
                step
            }
        }
    }

    /// Sees to it that the client holds a lease; returns how long it has waited for it, in ticks, or what became of its
    /// request.
    pub(super) fn obtain_lease(
        &mut self,
        cause: Cause,
        on: Option<ConnectionId>,
        frame: &[u8],
        timeout: Option<Timeout>,
        turn: &mut Turn<'_, '_>,
    ) -> Result<u32, Step> {
        if self.replies.forwarded() > 0 {
            // A change of connection is a barrier.
            self.wake_at = Some(0);
            return Err(if self.may_wait(turn) { Step::Blocked } else { self.unavailable(&[], &Error::Overdue, turn) });
        }
        if let Some(with_error) = self.unblocked.take().filter(|_| self.leasing) {
            return Err(self.give_up_waiting(with_error, frame, turn));
        }
        let waited = self.since.map_or(0, |since| turn.upstream.ticks().saturating_sub(since));
        let want = LeaseWant { client: self.key, name: self.state.id, lane: self.lane, cause, on };
        match turn.upstream.lease(want, turn.cx.waker()) {
            Leased::Ready(lease) => {
                (self.leasing, self.since) = (false, None);
                if let Some(id) = self.bound.take() {
                    turn.upstream.leave(id);
                }
                turn.upstream.name_lease(&lease, &self.state.name);
                turn.env.metrics.leases.with_label_values(&[cause.name()]).inc();
                if !turn.env.cells.is_off() {
                    turn.env.cells.lease_wait.observe(turn.env.cells.now().saturating_sub(self.arrived));
                }
                let lasting = cause == Cause::Session;
                self.hold = Some(Box::new(Hold::of(lease, lasting)));
                Ok(waited)
            }
            Leased::Wait { crowded } => {
                let own = match timeout {
                    Some(Timeout { length, .. }) => length.map_or(FOR_EVER, ticks),
                    None if crowded => PATIENCE,
                    None => turn.upstream.limit(),
                };
                // Another client may keep the one that it must be for as long as it likes.
                let is_taken = on.is_some_and(|id| turn.upstream.is_held(id));
                let limit = if is_taken { own.min(PATIENCE) } else { own };
                if self.may_wait_for(limit, turn) {
                    // Whoever waits for others is gone at once; whoever leaves otherwise is answered first.
                    self.leasing = cause == Cause::Blocking;
                    return Err(Step::Blocked);
                }
                turn.upstream.renounce(self.key);
                (self.leasing, self.since) = (false, None);
                Err(self.gave_up(cause, frame, timeout.filter(|_| limit == own), turn))
            }
            Leased::Unavailable(error) => {
                (self.leasing, self.since) = (false, None);
                if on.is_some() && matches!(error, Error::Closed) {
                    // Nobody knows where what it wrote is.
                    let lost = Failure { outcome: Outcome::Unknown, why: Why::Lost };
                    let step = self.answer_with(turn.env, |out| build::error(lost.text(), out));
                    self.gave(lost.given(), true, turn.env);
                    return Err(step);
                }
                Err(self.unavailable(on_its_own(cause, self.block.is_some(), frame), &error, turn))
            }
        }
    }

    /// Nobody gave up a connection in time.
    fn gave_up(&mut self, cause: Cause, frame: &[u8], timeout: Option<Timeout>, turn: &mut Turn<'_, '_>) -> Step {
        turn.upstream.report_crowd();
        if timeout.is_none() {
            return self.unavailable(on_its_own(cause, self.block.is_some(), frame), &Error::NoLease, turn);
        }
        let name = Args::new(frame).next().unwrap_or_default();
        self.nobody_came(name, turn.env)
    }

    /// The answer to a command that nobody has served in its own time.
    fn nobody_came(&mut self, name: &[u8], env: &mut Env) -> Step {
        let resp3 = self.state.protocol == Protocol::Resp3;
        let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
        self.answer_with(env, |out| match () {
            () if is("blmove") || is("brpoplpush") => build::nil(resp3, out),
            () if is("wait") => build::integer(0, out),
            () if is("waitaof") => out.extend_from_slice(b"*2\r\n:0\r\n:0\r\n"),
            () => build::nil_array(resp3, out),
        })
    }
}

/// What metrics and the bound on leases call the reason.
fn cause_of(route: Route) -> Cause {
    match route {
        Route::Leased(route::Cause::Blocking | route::Cause::Replication) => Cause::Blocking,
        Route::Leased(route::Cause::Monitor) => Cause::Monitor,
        Route::Leased(route::Cause::Unknown | route::Cause::UnknownSubcommand) => Cause::Unknown,
        Route::Transaction(Transaction::Watch) => Cause::Watch,
        Route::Transaction(_) => Cause::Transaction,
        // What could be shared has one because it is large.
        Route::Shared(_) => Cause::Big,
        Route::Leased(route::Cause::Administration | route::Cause::ClientState)
        | Route::Local(_)
        | Route::Subscription(_)
        | Route::Control
        | Route::Refused => Cause::ClientState,
    }
}

/// A request that would be answered as any other if it needed no connection of its own; nothing if it is part of something.
fn on_its_own(cause: Cause, is_queued: bool, frame: &[u8]) -> &[u8] {
    if matches!(cause, Cause::Big | Cause::Session) && !is_queued { frame } else { &[] }
}

/// The same request with so much time left.
pub(super) fn with_timeout(frame: &[u8], timeout: Timeout, left: Duration) -> Vec<u8> {
    let left = timeout.text(left);
    let mut shortened = Vec::with_capacity(frame.len() + left.len());
    let args = Args::new(frame).enumerate();
    inline::encode(args.map(|(at, arg)| if at == timeout.at { left.as_bytes() } else { arg }), &mut shortened);
    shortened
}
