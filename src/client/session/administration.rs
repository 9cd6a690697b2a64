//! CLIENT KILL of the proxy's own clients, which know each other by ids of ours, and CLIENT UNBLOCK of one that waits here.
//!
//! The server knows none of these clients, so it is not asked. Everything else that the commands can name is the server's, and
//! goes there.

use std::time::Duration;

use super::{Departure, Phase, Session, Step, Turn};
use crate::client::clients::Env;
use crate::client::ids;
use crate::command::keys::is;
use crate::command::route::Route;
use crate::observe::cells::Tag;
use crate::resp::build;
use crate::resp::request::Args;
use crate::upstream::control::Order;
use crate::upstream::{Error, Protocol, Release, Traits};

/// A CLIENT KILL that names one of our clients.
pub(super) struct Kill {
    id: u64,
    /// It is what else it should be too.
    pub(super) counts: bool,
}

impl Session {
    /// A command about connections or the server.
    pub(super) fn administer(&mut self, name: &[u8], frame: &[u8], route: Route, turn: &mut Turn<'_, '_>) -> Step {
        if name.eq_ignore_ascii_case(b"client")
            && !self.is_queueing()
            && let Some(kill) = self.kill_of(frame, turn.env)
        {
            let step = self.answer_with(turn.env, |out| build::integer(u64::from(kill.counts), out));
            self.carry_out(&kill, turn.env);
            return step;
        }
        if name.eq_ignore_ascii_case(b"client")
            && !self.is_queueing()
            && let Some((id, with_error)) = unblocked_by(frame)
            && turn.upstream.shared().unblock(id, with_error)
        {
            return self.answer_with(turn.env, |out| build::integer(1, out));
        }
        self.over_hold_or_not(name, frame, route, turn)
    }

    /// Sends a command that must reach the server also when it answers nothing else.
    pub(super) fn control(&mut self, frame: &[u8], turn: &mut Turn<'_, '_>) -> Step {
        if self.replies.forwarded() > 0 {
            // It comes behind what was asked before.
            self.wake_at = Some(0);
            return if self.may_wait(turn) { Step::Blocked } else { self.unavailable(&[], &Error::Overdue, turn) };
        }
        let words: Vec<&[u8]> = Args::new(frame).collect();
        let ends_server = words.first().is_some_and(|name| is(name, b"shutdown"));
        let traits = Traits::default().muted(self.state.mutes_next()).resp3(self.state.protocol == Protocol::Resp3);
        let order = Order { client: self.key, name: self.state.id, traits, tag: self.tag, words, ends_server };
        if let Err(error) = turn.upstream.control(order) {
            return self.unavailable(&[], &error, turn);
        }
        (self.since, self.tag) = (None, Tag::NONE);
        self.replies.forward();
        // Nothing is sent elsewhere before it is answered.
        self.moved();
        Step::Done
    }

    /// Whom of our clients this ends; nobody if it is about the server's connections, or for the server to refuse.
    pub(super) fn kill_of(&self, frame: &[u8], env: &Env) -> Option<Kill> {
        let mut words = Args::new(frame).skip(1);
        words.next().filter(|subcommand| is(subcommand, b"kill"))?;
        let (mut id, mut skips_me, mut hears, mut age) = (None, true, None, None);
        let knows_age = env
            .upstream
            .identity()
            .release()
            .is_some_and(|Release { is_valkey, version }| version >= if is_valkey { (8, 0) } else { (7, 4) });
        while let Some(option) = words.next() {
            let value = words.next()?;
            if is(option, b"id") && id.is_none() {
                id = Some(ids::number(value)?);
            } else if is(option, b"skipme") && (is(value, b"yes") || is(value, b"no")) {
                skips_me = is(value, b"yes");
            } else if is(option, b"type") && (is(value, b"normal") || is(value, b"pubsub")) {
                hears = Some(is(value, b"pubsub"));
            } else if is(option, b"maxage") && knows_age {
                age = Some(Duration::from_secs(ids::number(value)?));
            } else {
                return None;
            }
        }
        let id = id?;
        let known = env.census.find(id)?;
        let counts = !(skips_me && id == self.state.id)
            && hears.is_none_or(|hears| hears == known.hears)
            && age.is_none_or(|age| known.since.elapsed() >= age);
        Some(Kill { id, counts })
    }

    /// Ends a client's connection; its own when what is due has left.
    pub(super) fn carry_out(&mut self, kill: &Kill, env: &Env) {
        if !kill.counts {
            return;
        }
        if kill.id == self.state.id {
            self.note_departure(Departure::Killed);
            self.phase = Phase::Finishing { linger: true };
            self.wake();
        } else {
            env.census.forget(kill.id);
            env.upstream.kill_client(kill.id);
        }
    }
}

/// Whose wait this CLIENT UNBLOCK ends, and whether with an error.
fn unblocked_by(frame: &[u8]) -> Option<(u64, bool)> {
    let mut words = Args::new(frame).skip(1);
    words.next().filter(|subcommand| is(subcommand, b"unblock"))?;
    let id = ids::number(words.next()?)?;
    let with_error = match words.next() {
        None => false,
        Some(how) if is(how, b"timeout") || is(how, b"error") => is(how, b"error"),
        Some(_) => return None,
    };
    words.next().is_none().then_some((id, with_error))
}
