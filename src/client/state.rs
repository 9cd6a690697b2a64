//! What a client has set on its connection: everything that Redis would keep for it, kept here instead.
//!
//! Upstream connections are shared, so nothing of this may ever be set on them.

use tokio::time::Instant;

use crate::upstream::Protocol;

/// The session state of one client.
#[derive(Debug)]
pub(crate) struct State {
    /// CLIENT ID. Ours begin above 2^48, so that they are not mistaken for the server's.
    pub(crate) id: u64,
    /// The version of RESP, by HELLO.
    pub(crate) protocol: Protocol,
    /// The database, by SELECT.
    pub(crate) database: u32,
    /// May give commands: said a right password, or none is asked for.
    pub(crate) authenticated: bool,
    /// It meant to watch keys, and nobody does: its next EXEC must not run anything.
    pub(crate) unwatched: bool,
    /// Which replies it wants to see, by CLIENT REPLY.
    pub(crate) mute: Mute,
    /// CLIENT SETNAME.
    pub(crate) name: Box<[u8]>,
    /// CLIENT SETINFO LIB-NAME and LIB-VER.
    pub(crate) library: (Box<[u8]>, Box<[u8]>),
    /// The CLIENT TRACKING that is in force.
    pub(crate) tracking: Option<Box<[u8]>>,
    /// When it came.
    pub(crate) since: Instant,
}

/// CLIENT REPLY: which replies are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mute {
    /// All.
    Off,
    /// All but the next.
    Next,
    /// None.
    On,
}

impl State {
    /// A client that has said nothing yet.
    pub(crate) fn new(id: u64, database: u32, authenticated: bool) -> Self {
        Self {
            id,
            protocol: Protocol::Resp2,
            database,
            authenticated,
            unwatched: false,
            mute: Mute::Off,
            name: Box::default(),
            library: (Box::default(), Box::default()),
            tracking: None,
            since: Instant::now(),
        }
    }

    /// RESET: everything but the identity of the connection as it was at first.
    pub(crate) fn reset(&mut self, database: u32, authenticated: bool) {
        *self = Self { since: self.since, ..Self::new(self.id, database, authenticated) };
    }

    /// Whether the reply to the request at hand is to be muted; counts the request.
    pub(crate) fn mutes_next(&mut self) -> bool {
        match self.mute {
            Mute::Off => false,
            Mute::Next => {
                self.mute = Mute::Off;
                true
            }
            Mute::On => true,
        }
    }
}
