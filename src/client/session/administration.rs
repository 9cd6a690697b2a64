//! CLIENT KILL and CLIENT UNBLOCK of the proxy's own clients, which know each other by ids of ours.
//!
//! The server knows none of these ids: it is asked about the connection that such a client has for itself, or not at all.
//! Everything else that these commands can name is the server's, and goes there as it is.

use super::{Phase, Session, Step, Turn};
use crate::command::keys::is;
use crate::command::route::Route;
use crate::resp::build;
use crate::resp::inline;
use crate::resp::request::Args;

impl Session {
    /// A command about connections or the server.
    pub(super) fn administer(&mut self, name: &[u8], frame: &[u8], route: Route, turn: &mut Turn<'_, '_>) -> Step {
        let mut args = Args::new(frame).skip(1);
        let (subcommand, first, second) =
            (args.next().unwrap_or_default(), args.next().unwrap_or_default(), args.next().unwrap_or_default());
        if name.eq_ignore_ascii_case(b"client") && !self.is_queueing() {
            if is(subcommand, b"unblock")
                && let Some(connection) = id_of(first).and_then(|id| turn.upstream.shared().connection_of(id))
            {
                let connection = connection.to_string();
                let words = Args::new(frame).enumerate();
                let mut mapped = Vec::new();
                inline::encode(words.map(|(at, word)| if at == 2 { connection.as_bytes() } else { word }), &mut mapped);
                return self.over_hold_or_not(name, &mapped, route, turn);
            }
            let id = id_of(second).filter(|id| is(first, b"id") && turn.env.census.has(*id));
            if let Some(id) = id.filter(|_| is(subcommand, b"kill")) {
                return self.kill_by_id(id, frame, turn);
            }
        }
        self.over_hold_or_not(name, frame, route, turn)
    }

    /// Ends another client's connection; its own only if it says so.
    fn kill_by_id(&mut self, id: u64, frame: &[u8], turn: &mut Turn<'_, '_>) -> Step {
        let own = id == self.state.id;
        let mut rest = Args::new(frame).skip(4);
        let mut skips_me = true;
        while let (Some(option), Some(value)) = (rest.next(), rest.next()) {
            skips_me &= !(is(option, b"skipme") && is(value, b"no"));
        }
        let killed = !own || !skips_me;
        let step = self.answer_with(turn.env, |out| build::integer(u64::from(killed), out));
        if own && killed {
            self.phase = Phase::Finishing { linger: true };
        } else if killed {
            turn.upstream.kill_client(id);
        }
        step
    }
}

fn id_of(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}
