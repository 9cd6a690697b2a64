//! A client that Redis tells what to forget (CLIENT TRACKING).
//!
//! Redis tells the connection that a key was read over, so such a client keeps its lease. When that is lost nobody tells it of
//! anything it has read: it is told to forget all, and tracked again before it reads. While that cannot be, nothing is
//! answered as if it were.

use super::{Session, Step, Turn};
use crate::client::clients::Env;
use crate::command::keys::is;
use crate::resp::request::Args;
use crate::upstream::{Cause, Protocol};

impl Session {
    /// Notes what the server was asked to tell of: it has said so.
    pub(super) fn learn_tracking(&mut self, request: &[u8], reply: &[u8]) {
        if reply == b"+OK\r\n" {
            let is_on = Args::new(request).nth(2).is_some_and(|mode| is(mode, b"on"));
            self.state.tracking = is_on.then(|| request.into());
        }
    }

    /// Nobody tells its client any more of what it has read: it is to forget all of that. False if it cannot be told.
    pub(super) fn loses_track(&mut self, env: &mut Env) -> bool {
        let Some(tracking) = &self.state.tracking else { return true };
        if Args::new(tracking).any(|word| is(word, b"redirect")) {
            // Somebody else is told, over another connection.
            return false;
        }
        if self.state.protocol == Protocol::Resp3 {
            self.out.push(b">2\r\n$10\r\ninvalidate\r\n_\r\n", &mut env.pool);
        }
        true
    }

    /// Has the server tell a client again of what it will read, over a new lease, before it reads. Returns what became of its
    /// request if that cannot be.
    pub(super) fn track_again(&mut self, frame: &[u8], turn: &mut Turn<'_, '_>) -> Option<Step> {
        let tracking = self.state.tracking.clone()?;
        if let Err(step) = self.obtain_lease(Cause::ClientState, None, frame, None, turn) {
            return Some(step);
        }
        self.hold.as_mut()?.rearms();
        self.send_muted(&tracking, turn);
        None
    }
}
