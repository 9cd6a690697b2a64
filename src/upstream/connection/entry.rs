//! What an upstream connection and the clients' side say to each other: whose request, of what manner, and what became of
//! it.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;

use tokio::time::Instant;

use super::Failure;
use super::View;
use super::timing::Parts;
use crate::observe::cells::Tag;
use crate::upstream::lane::ConnectionId;
use crate::upstream::subscription::{Topics, Verdict};

/// Names a client to its worker. The generation tells a client from a later one in the same slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ClientKey {
    /// Index in the worker's list of clients.
    pub(crate) slot: u32,
    /// Counts the clients of this worker.
    pub(crate) generation: u32,
}

/// From here on slots are our own.
const OURS: u32 = u32::MAX - 6;

impl ClientKey {
    /// Nobody: what needs no answer, and tombstones of requests that were answered here.
    pub(crate) const NOBODY: Self = Self { slot: OURS, generation: 0 };
    /// Ourselves: the reply is kept.
    pub(crate) const CAPTURE: Self = Self { slot: OURS + 1, generation: 0 };

    /// Ourselves: a PING that asks for a sign of life.
    pub(crate) const PROOF: Self = Self { slot: OURS + 3, generation: 0 };

    /// Ourselves: a PING to be able to say whether Redis answers.
    pub(crate) const CHECK: Self = Self { slot: OURS + 5, generation: 0 };

    /// Ourselves: a PING of a connection that nobody uses.
    pub(crate) const PING: Self = Self { slot: OURS + 6, generation: 0 };

    /// A CLIENT UNBLOCK of the leased connection of that serial.
    pub(crate) fn of_release(serial: u32) -> Self {
        Self { slot: OURS + 4, generation: serial }
    }

    /// The serial of the connection that a CLIENT UNBLOCK is about.
    pub(crate) fn release(self) -> Option<u32> {
        (self.slot == OURS + 4).then_some(self.generation)
    }

    /// A fence, by its serial.
    pub(crate) fn of_fence(serial: u32) -> Self {
        Self { slot: OURS + 2, generation: serial }
    }

    /// The serial of a fence.
    pub(crate) fn fence(self) -> Option<u32> {
        (self.slot == OURS + 2).then_some(self.generation)
    }

    /// True if it is a PING of ours.
    pub(crate) fn is_ping(self) -> bool {
        matches!(self, Self::PROOF | Self::CHECK | Self::PING)
    }

    /// True if it is no client.
    pub(crate) fn is_ours(self) -> bool {
        self.slot >= OURS
    }
}

/// What matters of a request while it is in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Traits(u16);

impl Traits {
    const MUTED: u16 = 1;
    const SLOW: u16 = 2;
    const REPEATABLE: u16 = 4;
    const SCRIPT: u16 = 8;
    const REPEATED: u16 = 16;
    const LATE: u16 = 32;
    const RESP3: u16 = 64;
    const QUEUED: u16 = 128;
    const INFORMED: u16 = 256;
    const REFUSED: u16 = 512;

    /// `slow`: it may honestly take long. `repeatable`: it only reads. `script`: its errors may come from within.
    pub(crate) const fn new(slow: bool, repeatable: bool, script: bool) -> Self {
        let slow = if slow { Self::SLOW } else { 0 };
        let repeatable = if repeatable { Self::REPEATABLE } else { 0 };
        Self(slow | repeatable | if script { Self::SCRIPT } else { 0 })
    }

    /// The reply is due, but not to be shown (CLIENT REPLY OFF or SKIP).
    pub(crate) fn muted(self, muted: bool) -> Self {
        if muted { Self(self.0 | Self::MUTED) } else { self }
    }

    /// Its reply is to be in RESP3, or in RESP2.
    pub(crate) fn resp3(self, resp3: bool) -> Self {
        if resp3 { Self(self.0 | Self::RESP3) } else { self }
    }

    /// It stands in a transaction, so that its reply is not what it asks for.
    pub(crate) fn queued(self, queued: bool) -> Self {
        if queued { Self(self.0 | Self::QUEUED) } else { self }
    }

    /// To its reply a section of ours is added.
    pub(crate) fn informed(self, informed: bool) -> Self {
        if informed { Self(self.0 | Self::INFORMED) } else { self }
    }

    /// It was sent before, on another connection.
    pub(crate) fn repeated(self) -> Self {
        Self(self.0 | Self::REPEATED)
    }

    /// Redis refused it before it ran.
    pub(crate) fn refused(self) -> Self {
        Self(self.0 | Self::REFUSED)
    }

    pub(super) fn late(self) -> Self {
        Self(self.0 | Self::LATE)
    }

    pub(crate) fn is_muted(self) -> bool {
        self.0 & Self::MUTED != 0
    }

    pub(crate) fn is_resp3(self) -> bool {
        self.0 & Self::RESP3 != 0
    }

    pub(crate) fn is_queued(self) -> bool {
        self.0 & Self::QUEUED != 0
    }

    pub(crate) fn is_informed(self) -> bool {
        self.0 & Self::INFORMED != 0
    }

    pub(crate) fn is_slow(self) -> bool {
        self.0 & Self::SLOW != 0
    }

    pub(crate) fn is_repeatable(self) -> bool {
        self.0 & Self::REPEATABLE != 0
    }

    pub(crate) fn is_script(self) -> bool {
        self.0 & Self::SCRIPT != 0
    }

    pub(crate) fn is_repeated(self) -> bool {
        self.0 & Self::REPEATED != 0
    }

    pub(crate) fn is_refused(self) -> bool {
        self.0 & Self::REFUSED != 0
    }

    /// Its deadline has passed; it is a tombstone.
    pub(super) fn is_late(self) -> bool {
        self.0 & Self::LATE != 0
    }
}

/// A request about to be sent, without its bytes.
#[derive(Clone, Copy)]
pub(crate) struct Sending {
    pub(crate) client: ClientKey,
    pub(crate) traits: Traits,
    /// In ticks of its worker.
    pub(crate) deadline: u32,
    /// The breaker as it was seen when the request was let through.
    pub(crate) view: View,
    pub(crate) tag: Tag,
}

/// An in-flight entry: whose request it is, and how far in the stream it reaches.
#[derive(Debug, Clone, Copy)]
pub(crate) struct InFlight {
    /// Who gets the reply.
    pub(crate) client: ClientKey,
    /// Offset behind the request's last byte in everything ever sent on this connection.
    pub(super) end: u64,
    /// When its client is to be answered at the latest, in ticks of its worker.
    pub(crate) deadline: u32,
    pub(crate) traits: Traits,
    /// What it is and when it came, as its [`Tag`] says; apart, which keeps an entry small.
    command: u16,
    arrived: u64,
}

impl InFlight {
    pub(super) fn new(sending: Sending, end: u64) -> Self {
        let Sending { client, traits, deadline, view: _, tag: Tag { arrived, command } } = sending;
        Self { client, end, deadline, traits, command, arrived }
    }

    /// What it is and when it came.
    pub(crate) fn tag(&self) -> Tag {
        Tag { arrived: self.arrived, command: self.command }
    }

    /// A request that was not sent over one of the lanes' or leases' connections.
    pub(crate) fn elsewhere(client: ClientKey, traits: Traits, tag: Tag) -> Self {
        let Tag { arrived, command } = tag;
        Self { client, end: 0, deadline: 0, traits, command, arrived }
    }
}

/// A request taken back from a connection that does not answer it.
#[derive(Debug)]
pub(crate) struct Unanswered {
    pub(crate) entry: InFlight,
    /// Its bytes; empty if they were not kept.
    pub(crate) request: Vec<u8>,
    /// If it is a block, how many replies come before the one that counts; else none.
    pub(crate) preface: u32,
    /// Its last byte was handed to the kernel, or may yet be.
    pub(crate) sent: bool,
    /// Part of its reply was passed on.
    pub(crate) begun: bool,
}

/// The clients' side, as upstream sees it: somebody who takes replies.
pub(crate) trait Replies {
    /// Begins a turn: it is now.
    fn clock(&mut self, now: Instant);
    /// The reply to `entry` took long. `request` is what it asked, if that was kept. To be called before that reply is
    /// delivered.
    fn slow(&mut self, entry: InFlight, request: &[u8], parts: Parts);
    /// Takes `buffer[range]`, the next bytes of the reply to `entry`; with `complete` they end it. The bytes need not be
    /// copied before [`Replies::flush`].
    fn deliver(&mut self, entry: InFlight, buffer: &[u8], range: Range<usize>, complete: bool);
    /// The reply to `entry` will not come, or not the rest of it. `request` is what it asked, if that was kept (of a block
    /// all of it, MULTI first); `buffer` as in [`Replies::deliver`].
    fn fail(&mut self, entry: InFlight, request: &[u8], failure: Failure, buffer: &[u8]);
    /// The unanswered requests of this client are on no connection just now, or on another than they were sent on.
    fn moved(&mut self, client: ClientKey);
    /// Takes `buffer[range]`, the next bytes of a message that this client did not ask for; otherwise as
    /// [`Replies::deliver`].
    fn push(&mut self, client: ClientKey, buffer: &[u8], range: Range<usize>, complete: bool);
    /// What this client waits for on its own connection is about to be ended there, as if its time were up, because others
    /// wait for the connection. It is to be asked again: `request`, with so much time left, or for ever. False if that
    /// cannot be.
    fn rotate(&mut self, client: ClientKey, request: Vec<u8>, left: Option<Duration>) -> bool;
    /// Ends the connection of the client that knows itself by this id, if it is here. Returns what it hears.
    fn kill(&mut self, client: u64) -> Option<(ClientKey, Topics)>;
    /// Ends the wait for a lease of the client that knows itself by this id, with an error or as if its time were up.
    fn unblock(&mut self, client: u64, with_error: bool);
    /// The connection that this client had for itself is gone, and what it left there with it.
    fn bereave(&mut self, client: ClientKey);

    /// The process takes its leave, and the server did not end what this client waits for.
    fn dismiss(&mut self, client: ClientKey);
    /// All that this client waited for was answered, but the server may still run some of it: its next request goes to the
    /// same connection, behind.
    fn kept(&mut self, client: ClientKey, id: ConnectionId);
    /// True if this client has much to take still and is worth waiting a moment for; it is not for long if it takes
    /// nothing.
    fn lags(&mut self, client: ClientKey) -> bool;
    /// Ends a batch: everything delivered leaves now, while `buffer` is still what it was.
    fn flush(&mut self, buffer: &[u8]);
    /// Takes messages of one topic for all who hear it: those that begin at `starts`, one right after the other until `end`,
    /// in RESP2. The bytes need not be copied before [`Replies::flush_messages`].
    fn publish(&mut self, hearers: &BTreeSet<ClientKey>, buffer: &[u8], starts: &[usize], end: usize);
    /// The oldest request about subscriptions of this client is settled, behind the messages published so far.
    fn settled(&mut self, client: ClientKey, verdict: Verdict<'_>, buffer: &[u8]);
    /// This client cannot hear on: it is to be disconnected, once it has what else is due to it.
    fn cut(&mut self, client: ClientKey, buffer: &[u8]);
    /// A message for this client is longer than all that it may leave unread.
    fn overrun(&mut self, client: ClientKey, buffer: &[u8]);
    /// Ends a batch of messages, as [`Replies::flush`] does one of replies.
    fn flush_messages(&mut self, buffer: &[u8]);
}
