//! Replies in which a leased connection speaks of itself, told as if it were the client's own; and what a client learns of
//! its own state from them.
//!
//! What a client queues about its own connection ([`Noted`]) runs with EXEC, or not: the reply to EXEC says which. Only then
//! does it count here too, and its reply is ours. Such a reply is kept until it is whole.

use std::mem;

use super::{Departure, Phase, Session};
use crate::client::clients::Env;
use crate::client::ids;
use crate::client::local::Answer;
use crate::command::keys::is;
use crate::command::route::{Cause, Local, Route, Subscription};
use crate::resp::build;
use crate::resp::reply::{Advance, ReplyScanner};
use crate::resp::request::Args;

/// A request whose reply is about the client's own connection.
#[derive(Debug)]
pub(super) struct Noted {
    /// Its place in a block, from 0; none outside.
    pub(super) place: Option<usize>,
    pub(super) route: Route,
    pub(super) request: Vec<u8>,
}

impl Noted {
    /// Outside a block: true if the reply to such a request is to be told in other words, or to be learnt from.
    pub(super) fn is_wanted(route: Route, request: &[u8]) -> bool {
        let about_clients = |wanted: &[&str]| {
            let mut words = Args::new(request);
            words.next().is_some_and(|name| name.eq_ignore_ascii_case(b"client"))
                && words.next().is_some_and(|name| wanted.iter().any(|wanted| is(name, wanted.as_bytes())))
        };
        match route {
            Route::Local(Local::ClientInfo) => Args::new(request).len() == 2,
            Route::Leased(Cause::Administration) => about_clients(&["list", "trackinginfo", "getredir"]),
            Route::Leased(Cause::ClientState) => about_clients(&["tracking"]),
            Route::Leased(
                Cause::Blocking | Cause::Monitor | Cause::Replication | Cause::Unknown | Cause::UnknownSubcommand,
            )
            | Route::Local(_)
            | Route::Control
            | Route::Refused
            | Route::Shared(_)
            | Route::Subscription(_)
            | Route::Transaction(_) => false,
        }
    }

    /// The same within a block.
    pub(super) fn is_wanted_inside(route: Route, request: &[u8]) -> bool {
        match route {
            Route::Local(Local::Ping | Local::Echo | Local::ClientNoEvict | Local::ClientNoTouch) => false,
            Route::Local(_) => true,
            Route::Leased(Cause::Administration) => {
                Self::is_wanted(route, request) || Args::new(request).nth(1).is_some_and(|word| is(word, b"kill"))
            }
            Route::Subscription(which) => {
                matches!(which, Subscription::Subscribe | Subscription::Psubscribe | Subscription::Ssubscribe)
            }
            _ => Self::is_wanted(route, request),
        }
    }

    /// True if it may change the database or the protocol.
    pub(super) fn moves(&self) -> bool {
        matches!(self.route, Route::Local(Local::Select | Local::Hello))
    }
}

impl Session {
    /// Appends a whole reply as the client is to see it: the reply to `noted`, or to an EXEC of a block of which they were
    /// part.
    pub(super) fn retell(&mut self, noted: Vec<Noted>, reply: &[u8], env: &Env) -> Vec<u8> {
        let mut out = Vec::new();
        if let [Noted { place: None, .. }] = noted.as_slice() {
            noted.iter().for_each(|noted| self.retell_one(noted, reply, env, &mut out));
            return out;
        }
        let start = reply.iter().position(|&byte| byte == b'\n').map_or(0, |end| end + 1);
        let (header, mut rest) = reply.split_at_checked(start).unwrap_or((reply, b""));
        if !header.starts_with(b"*") {
            // Nothing ran.
            return reply.to_vec();
        }
        out.extend_from_slice(header);
        let (mut noted, mut place) = (noted.into_iter().peekable(), 0);
        while let Ok(Advance::Complete { taken, .. }) = ReplyScanner::default().advance(rest) {
            let (element, after) = rest.split_at_checked(taken).unwrap_or((rest, b""));
            match noted.next_if(|noted| noted.place == Some(place)) {
                Some(noted) => self.retell_one(&noted, element, env, &mut out),
                None => out.extend_from_slice(element),
            }
            (rest, place) = (after, place + 1);
        }
        out
    }

    fn retell_one(&mut self, noted: &Noted, reply: &[u8], env: &Env, out: &mut Vec<u8>) {
        if reply.starts_with(b"-") {
            return out.extend_from_slice(reply);
        }
        match noted.route {
            Route::Local(Local::ClientInfo) => self.tell_of_clients(reply, env, out),
            Route::Local(local) => self.learn(local, noted, reply, env, out),
            Route::Subscription(_) => {
                // Messages come between replies from now on.
                self.hold.iter_mut().for_each(|hold| hold.streams = true);
                out.extend_from_slice(reply);
            }
            Route::Leased(Cause::ClientState) => {
                self.learn_tracking(&noted.request, reply);
                out.extend_from_slice(reply);
            }
            _ => match self.kill_of(&noted.request, env) {
                Some(kill) => {
                    build::integer(u64::from(kill.counts), out);
                    self.carry_out(&kill, env);
                }
                None => self.tell_of_clients(reply, env, out),
            },
        }
    }

    /// The server has done what the client queued about its own connection: it is done here too, and answered.
    fn learn(&mut self, local: Local, noted: &Noted, reply: &[u8], env: &Env, out: &mut Vec<u8>) {
        let start = out.len();
        match self.answer_here(local, Args::new(&noted.request), env, out) {
            Answer::Select(database) => {
                self.state.database = database;
                out.extend_from_slice(reply);
            }
            // The server has taken what we would not judge.
            Answer::Forward | Answer::Lease => out.extend_from_slice(reply),
            Answer::Reply | Answer::Shown | Answer::Silent | Answer::Quit => {}
        }
        let refused = out.get(start) == Some(&b'-');
        if refused && local == Local::Hello && !reply.starts_with(b"+") {
            // It speaks one protocol there and another one here.
            self.kill(Departure::UpstreamLost);
        }
        let Some(hold) = &mut self.hold else { return };
        hold.stale |= refused || local == Local::ClientSetInfo;
        hold.moved |= matches!(local, Local::Select | Local::Hello | Local::ClientSetName);
    }

    /// Appends a reply about clients.
    fn tell_of_clients(&self, reply: &[u8], env: &Env, out: &mut Vec<u8>) {
        let own = self.line(env);
        ids::for_client(reply, |id| env.upstream.client_of(id), own.as_bytes(), out);
    }

    /// Takes the whole reply to what was noted, and says it in the client's terms.
    pub(super) fn deliver_retold(&mut self, reply: &[u8], muted: bool, buffer: &[u8], env: &mut Env) {
        let noted = self.hold.as_mut().map(|hold| mem::take(&mut hold.noted)).unwrap_or_default();
        let told = self.retell(noted, reply, env);
        if !muted && self.phase != Phase::Dead {
            self.spill(buffer, env);
            self.out.push(&told, &mut env.pool);
        }
    }
}
