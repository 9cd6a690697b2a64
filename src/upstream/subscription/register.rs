//! Who hears what, what the server was asked, and which acknowledgements are due. Pure: commands go into a buffer, what the
//! server says comes as a [`Notice`].
//!
//! A topic has one subscription at the server, whatever the number of its hearers: the last that leaves takes it along.
//! Every request of a client is one command upstream, and is settled by the server's answer to it, so that it takes effect
//! between the same two messages as it would on a connection of the client's own. Where nothing is to be changed at the
//! server, because others go on hearing, that command is a PING.
//!
//! ```text
//!   client A: SUBSCRIBE c   ──▶ SUBSCRIBE c      ledger: A subscribes c
//!   client B: SUBSCRIBE c   ──▶ SUBSCRIBE c              B subscribes c
//!   client A: UNSUBSCRIBE c ──▶ PING                     A leaves c
//!   client B: UNSUBSCRIBE c ──▶ UNSUBSCRIBE c            B leaves c
//! ```
//!
//! The *ledger* lists the commands that are not answered, oldest first. An acknowledgement that is not the next one due
//! means that we no longer know what the server will send: the connection is closed.

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::mem;
use std::rc::Rc;

use super::notice::Notice;
use super::{Name, Sort};
use crate::resp::inline;
use crate::upstream::PING;
use crate::upstream::connection::ClientKey;

/// Topics, their hearers, and the ledger.
#[derive(Debug, Default)]
pub(super) struct Register {
    topics: [HashMap<Name, Audience>; 3],
    ledger: VecDeque<Due>,
    /// Commands that were ever entered, and the number of the last that is no PING.
    entered: u64,
    last_change: u64,
    /// Bytes of all commands since the connection began.
    sent: u64,
    /// Topics that were left without hearers while the server sends them.
    unwanted: Vec<(Sort, Name)>,
    /// Those of them that the server would not undo.
    kept: Vec<(Sort, Name)>,
}

/// Who hears a topic.
#[derive(Debug, Default)]
struct Audience {
    hearers: BTreeSet<ClientKey>,
    /// So many of them have asked to leave.
    leaving: usize,
    /// SUBSCRIBE commands for it that are not answered.
    asked: usize,
    /// The server sends it, as far as its answers go, and was not asked to stop.
    on: bool,
}

/// A command that is not answered yet.
#[derive(Debug)]
struct Due {
    /// Whose request it is; nobody's if the client is gone or was answered, or if we asked ourselves.
    client: ClientKey,
    command: Command,
    sort: Sort,
    /// What is acknowledged one by one, and how many were.
    names: Vec<Name>,
    acknowledged: usize,
    /// What the client leaves once this is answered.
    leaves: Vec<Name>,
    /// Offset behind its last byte.
    end: u64,
    /// When its client is to be answered at the latest, in ticks of the worker.
    deadline: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Command {
    Subscribe,
    Unsubscribe,
    Ping,
}

/// The answer to a command.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Settled<'a> {
    pub(super) client: ClientKey,
    /// Why the server refused to subscribe: its error line, without the `-`. Whoever asks to stop always can.
    pub(super) refusal: Option<&'a [u8]>,
    /// Those who heard the topics until the connection was lost, and cannot any more.
    pub(super) orphans: BTreeSet<ClientKey>,
}

/// A client's request that the server does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unanswered {
    pub(super) client: ClientKey,
    /// It was to subscribe, and has not. Whoever was to leave has; a PING is as good as answered.
    pub(super) failed: bool,
}

impl Register {
    /// Commands that are not answered.
    pub(super) fn due(&self) -> usize {
        self.ledger.len()
    }

    /// True if nothing is due but answers to PINGs of our own.
    pub(super) fn owes_only_pongs(&self) -> bool {
        self.ledger.iter().all(|due| due.client == ClientKey::PING)
    }

    /// The number of the last command that subscribes, or ends subscriptions.
    pub(super) fn last_change(&self) -> u64 {
        self.last_change
    }

    /// True if the command of this number is answered, or will never be.
    pub(super) fn has_answered(&self, number: u64) -> bool {
        self.entered - self.ledger.len() as u64 >= number
    }

    /// True if a topic is heard or asked for.
    pub(super) fn is_wanted(&self) -> bool {
        self.topics.iter().any(|topics| !topics.is_empty())
    }

    /// Topics that are heard or asked for.
    pub(super) fn count(&self) -> usize {
        self.topics.iter().map(HashMap::len).sum()
    }

    /// Who hears a topic.
    pub(super) fn hearers(&self, sort: Sort, name: &[u8]) -> Option<&BTreeSet<ClientKey>> {
        self.topics(sort).get(name).map(|audience| &audience.hearers)
    }

    /// Everybody who hears anything.
    pub(super) fn all_hearers(&self) -> BTreeSet<ClientKey> {
        self.topics.iter().flat_map(HashMap::values).flat_map(|audience| &audience.hearers).copied().collect()
    }

    /// Enters a client's SUBSCRIBE of `len` bytes, which the caller sends. Returns the names, which are kept once for all.
    pub(super) fn subscribe<'n>(
        &mut self,
        client: ClientKey,
        sort: Sort,
        names: impl Iterator<Item = &'n [u8]>,
        len: usize,
        deadline: u32,
    ) -> Vec<Name> {
        let names: Vec<Name> = names.map(|name| self.ask_for(sort, name)).collect();
        let leaves = Vec::new();
        self.enter(Command::Subscribe, Due::of(client, sort, names.clone(), leaves, deadline), len);
        names
    }

    fn ask_for(&mut self, sort: Sort, name: &[u8]) -> Name {
        let topics = self.topics_mut(sort);
        let name = topics.get_key_value(name).map_or_else(|| Rc::from(name), |(name, _)| Rc::clone(name));
        topics.entry(Rc::clone(&name)).or_default().asked += 1;
        name
    }

    /// Enters that a client leaves topics that it hears, each named once. The command is appended to `out`.
    pub(super) fn unsubscribe(
        &mut self,
        client: ClientKey,
        sort: Sort,
        leaves: Vec<Name>,
        deadline: u32,
        out: &mut Vec<u8>,
    ) {
        let mut last = Vec::new();
        for name in &leaves {
            if let Some(audience) = self.topics_mut(sort).get_mut(name) {
                audience.leaving += 1;
                if audience.on && audience.asked == 0 && audience.leaving == audience.hearers.len() {
                    audience.on = false;
                    last.push(Rc::clone(name));
                }
            }
        }
        let (command, len) = write_unsubscribe(sort, &last, out);
        self.enter(command, Due::of(client, sort, last, leaves, deadline), len);
    }

    /// Enters a PING, which is appended to `out`.
    pub(super) fn ping(&mut self, client: ClientKey, deadline: u32, out: &mut Vec<u8>) {
        out.extend_from_slice(PING);
        self.enter(Command::Ping, Due::of(client, Sort::Channel, Vec::new(), Vec::new(), deadline), PING.len());
    }

    fn enter(&mut self, command: Command, due: Due, len: usize) {
        self.sent += len as u64;
        self.entered += 1;
        if command != Command::Ping {
            self.last_change = self.entered;
        }
        self.ledger.push_back(Due { command, end: self.sent, ..due });
    }

    /// Takes an answer; `written` bytes of commands have been handed to the kernel. Nothing is settled until the last of a
    /// command's acknowledgements.
    ///
    /// # Errors
    /// It is not the answer that is due: the connection is in doubt.
    pub(super) fn answer<'a>(&mut self, notice: Notice<'a>, written: u64) -> Result<Option<Settled<'a>>, &'static str> {
        let due = self.ledger.front_mut().filter(|due| due.end <= written);
        let due = due.ok_or("an acknowledgement that nobody waits for")?;
        let refusal = match notice {
            Notice::Error(line) if due.acknowledged == 0 => Some(line),
            Notice::Subscribed(sort, name) if due.expects(Command::Subscribe, sort, name) => None,
            Notice::Unsubscribed(sort, name) if due.expects(Command::Unsubscribe, sort, name) => None,
            Notice::Pong if due.command == Command::Ping => None,
            Notice::Error(_)
            | Notice::Message(..)
            | Notice::Subscribed(..)
            | Notice::Unsubscribed(..)
            | Notice::Pong => return Err("an acknowledgement of something else"),
        };
        due.acknowledged += 1;
        if refusal.is_none() && due.acknowledged < due.names.len() {
            return Ok(None);
        }
        Ok(self.ledger.pop_front().map(|due| self.settle(due, refusal)))
    }

    fn settle<'a>(&mut self, due: Due, refusal: Option<&'a [u8]>) -> Settled<'a> {
        let Due { client, command, sort, names, leaves, .. } = due;
        let mut orphans = BTreeSet::new();
        match (command, refusal) {
            (Command::Subscribe, _) => {
                for name in &names {
                    self.asked(sort, name, client, refusal.is_none(), &mut orphans);
                }
            }
            (Command::Unsubscribe, Some(_)) => self.keep(client, sort, &names, &leaves),
            (Command::Unsubscribe, None) | (Command::Ping, _) => self.depart(client, sort, &leaves),
        }
        // Who asked for anything else has what was asked for.
        let refusal = refusal.filter(|_| command == Command::Subscribe);
        Settled { client, refusal, orphans }
    }

    /// A SUBSCRIBE for a topic was answered.
    fn asked(&mut self, sort: Sort, name: &Name, client: ClientKey, granted: bool, orphans: &mut BTreeSet<ClientKey>) {
        let Some(audience) = self.topics_mut(sort).get_mut(name) else { return };
        audience.asked -= 1;
        audience.on |= granted;
        if granted && !client.is_ours() {
            audience.hearers.insert(client);
        }
        if !audience.on && audience.asked == 0 && audience.leaving < audience.hearers.len() {
            orphans.append(&mut audience.hearers);
        }
        self.prune(sort, name);
    }

    /// The server refused to end these subscriptions. It goes on sending; the client hears nothing of it any more.
    fn keep(&mut self, client: ClientKey, sort: Sort, names: &[Name], leaves: &[Name]) {
        for name in names {
            self.topics_mut(sort).entry(Rc::clone(name)).or_default().on = true;
        }
        let before = self.unwanted.len();
        self.depart(client, sort, leaves);
        names.iter().for_each(|name| self.prune(sort, name));
        self.kept.extend(self.unwanted.drain(before..));
    }

    fn depart(&mut self, client: ClientKey, sort: Sort, leaves: &[Name]) {
        for name in leaves {
            if let Some(audience) = self.topics_mut(sort).get_mut(name) {
                audience.leaving -= 1;
                audience.hearers.remove(&client);
            }
            self.prune(sort, name);
        }
    }

    /// Forgets a topic that nobody wants, once the server does not send it.
    fn prune(&mut self, sort: Sort, name: &Name) {
        let Some(audience) = self.topics(sort).get(name).filter(|audience| audience.is_unwanted()) else { return };
        if audience.on {
            self.unwanted.push((sort, Rc::clone(name)));
        } else {
            self.topics_mut(sort).remove(name);
        }
    }

    /// A client is gone, which heard these topics.
    pub(super) fn forget(&mut self, client: ClientKey, sort: Sort, names: &[Name]) {
        let mut leaves = Vec::new();
        for due in self.ledger.iter_mut().filter(|due| due.client == client) {
            due.client = ClientKey::NOBODY;
            leaves.extend(mem::take(&mut due.leaves).into_iter().map(|name| (due.sort, name)));
        }
        for (sort, name) in leaves {
            self.depart(client, sort, &[name]);
        }
        for name in names {
            if let Some(audience) = self.topics_mut(sort).get_mut(name) {
                audience.hearers.remove(&client);
            }
            self.prune(sort, name);
        }
    }

    /// Ends the subscriptions that nobody wants any more; the commands are appended to `out`.
    pub(super) fn undo(&mut self, out: &mut Vec<u8>) {
        if self.unwanted.is_empty() {
            return;
        }
        let unwanted = mem::take(&mut self.unwanted);
        for sort in Sort::ALL {
            let mut names = Vec::new();
            for (_, name) in unwanted.iter().filter(|(of, _)| *of == sort) {
                let topics = self.topics_mut(sort);
                if topics.get(name).is_some_and(|audience| audience.is_unwanted() && audience.on) {
                    topics.remove(name);
                    names.push(Rc::clone(name));
                }
            }
            if !names.is_empty() {
                let (command, len) = write_unsubscribe(sort, &names, out);
                self.enter(command, Due::of(ClientKey::NOBODY, sort, names, Vec::new(), u32::MAX), len);
            }
        }
    }

    /// Lets [`Register::undo`] try again what the server would not undo.
    pub(super) fn retry(&mut self) {
        self.unwanted.append(&mut self.kept);
    }

    /// Requests whose deadline is not after `tick`. Their answers may still come, and are nobody's then.
    pub(super) fn take_overdue(&mut self, tick: u32) -> Vec<Unanswered> {
        let is_overdue = |due: &&mut Due| due.deadline <= tick && !due.client.is_ours();
        let (mut taken, mut leaves) = (Vec::new(), Vec::new());
        for due in self.ledger.iter_mut().filter(is_overdue) {
            let client = mem::replace(&mut due.client, ClientKey::NOBODY);
            taken.push(Unanswered { client, failed: due.command == Command::Subscribe });
            leaves.push((client, due.sort, mem::take(&mut due.leaves)));
        }
        leaves.into_iter().for_each(|(client, sort, leaves)| self.depart(client, sort, &leaves));
        taken
    }

    /// The connection is gone: no answer will come. Whoever was leaving has left; the others would go on hearing.
    pub(super) fn lose(&mut self) -> Vec<Unanswered> {
        let mut taken = Vec::new();
        self.topics.iter_mut().flat_map(HashMap::values_mut).for_each(|audience| audience.on = false);
        for due in mem::take(&mut self.ledger) {
            if !due.client.is_ours() {
                taken.push(Unanswered { client: due.client, failed: due.command == Command::Subscribe });
            }
            for name in due.names.iter().filter(|_| due.command == Command::Subscribe) {
                self.topics_mut(due.sort).get_mut(name).into_iter().for_each(|audience| audience.asked -= 1);
            }
            self.depart(due.client, due.sort, &due.leaves);
        }
        self.topics.iter_mut().for_each(|topics| topics.retain(|_, audience| !audience.is_unwanted()));
        (self.unwanted, self.kept, self.sent) = (Vec::new(), Vec::new(), 0);
        taken
    }

    /// Nobody hears anything any more, and the connection is gone. Only after [`Register::lose`], or where nothing is wanted or
    /// due.
    pub(super) fn clear(&mut self) {
        let Self { entered, last_change, .. } = *self;
        *self = Self { entered, last_change, ..Self::default() };
    }

    /// Asks a new connection for everything that is heard, each topic by itself: one that is refused does no harm to the
    /// others. The commands are appended to `out`.
    pub(super) fn resume(&mut self, out: &mut Vec<u8>) {
        for sort in Sort::ALL {
            let names: Vec<Name> = self.topics(sort).keys().map(Rc::clone).collect();
            for name in names {
                let before = out.len();
                inline::encode([sort.subscribe().as_bytes(), &name].into_iter(), out);
                let len = out.len() - before;
                self.subscribe(ClientKey::NOBODY, sort, [&*name].into_iter(), len, u32::MAX);
            }
        }
    }

    fn topics(&self, sort: Sort) -> &HashMap<Name, Audience> {
        let [channels, patterns, shards] = &self.topics;
        match sort {
            Sort::Channel => channels,
            Sort::Pattern => patterns,
            Sort::Shard => shards,
        }
    }

    fn topics_mut(&mut self, sort: Sort) -> &mut HashMap<Name, Audience> {
        let [channels, patterns, shards] = &mut self.topics;
        match sort {
            Sort::Channel => channels,
            Sort::Pattern => patterns,
            Sort::Shard => shards,
        }
    }
}

impl Audience {
    fn is_unwanted(&self) -> bool {
        self.hearers.is_empty() && self.asked == 0
    }
}

impl Due {
    fn of(client: ClientKey, sort: Sort, names: Vec<Name>, leaves: Vec<Name>, deadline: u32) -> Self {
        Self { client, command: Command::Ping, sort, names, acknowledged: 0, leaves, end: 0, deadline }
    }

    fn expects(&self, command: Command, sort: Sort, name: &[u8]) -> bool {
        self.command == command
            && self.sort == sort
            && self.names.get(self.acknowledged).is_some_and(|due| **due == *name)
    }
}

/// Appends the command that ends these subscriptions, or a PING if there are none.
fn write_unsubscribe(sort: Sort, names: &[Name], out: &mut Vec<u8>) -> (Command, usize) {
    if names.is_empty() {
        out.extend_from_slice(PING);
        return (Command::Ping, PING.len());
    }
    let before = out.len();
    let words = std::iter::once(sort.unsubscribe().as_bytes()).chain(names.iter().map(|name| &**name));
    inline::encode(words.collect::<Vec<_>>().into_iter(), out);
    (Command::Unsubscribe, out.len() - before)
}
