//! One side of a comparison: clients of a script and where they connect to, and a connection to the server that is behind.

use super::differences::is_seen;
use super::script::{Manner, Step};
use crate::support::{Client, Frame, Kind, words};
use std::collections::BTreeMap;
use std::fmt;
use std::io::ErrorKind;
use std::thread;
use std::time::{Duration, Instant};

/// Between two looks at a server that has not got so far.
const PAUSE: Duration = Duration::from_micros(100);

/// What messages, and acknowledgements of subscriptions, begin with.
const WORDS: [&str; 10] = [
    "message",
    "pmessage",
    "smessage",
    "subscribe",
    "psubscribe",
    "ssubscribe",
    "unsubscribe",
    "punsubscribe",
    "sunsubscribe",
    "invalidate",
];

/// Clients and their server.
pub struct Side {
    /// Where clients connect to.
    address: String,
    /// Straight to the server.
    control: Client,
    has_shards: bool,
    people: Vec<Person>,
    /// Who was told which id, of this script.
    ids: BTreeMap<String, String>,
    patience: Duration,
}

/// One client of the script, which may have several connections, one after the other.
#[derive(Default)]
struct Person {
    present: Option<Present>,
    /// What came to it in this step.
    heard: Vec<Heard>,
    lives: usize,
}

struct Present {
    client: Client,
    id: String,
    /// It sends nothing more, so that the server is to close.
    has_finished: bool,
}

/// What came to a client.
#[derive(Clone, PartialEq, Eq)]
pub enum Heard {
    /// A reply or a push, as it arrived.
    Frame(Vec<u8>),
    /// The other side closed.
    End,
}

/// What can be seen of a server whoever its clients are: what it stores, and who waits for something to happen there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    digest: String,
    blocked_clients: String,
    channels: Vec<String>,
    patterns: String,
    shard_channels: Vec<String>,
}

impl Side {
    /// `count` clients that connect to `address`, and a control connection to the server, of this kind, at `server`.
    pub fn new(address: String, server: &str, kind: Kind, count: usize, patience: Duration) -> Self {
        let people = (0..count).map(|_| Person::default()).collect();
        let has_shards = kind > Kind::Redis62;
        Self { address, control: Client::connect(server), has_shards, people, ids: BTreeMap::new(), patience }
    }

    /// How long something that is due may take.
    pub const fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// Who was told which id: the names by which they are shown.
    pub const fn ids(&self) -> &BTreeMap<String, String> {
        &self.ids
    }

    /// Does what the step says. Nothing is read.
    pub fn perform(&mut self, step: &Step) {
        for client in step.named() {
            self.arrive(client);
        }
        let own = step.client;
        if step.commands.is_empty() && self.people[own - 1].present.is_none() {
            return;
        }
        self.arrive(own);
        let bytes = step.bytes(|client| self.id(client));
        let person = &mut self.people[own - 1];
        let Some(mut present) = person.present.take() else { return };
        // Where it cannot be sent the connection has ended, and that is heard.
        let _ = present.client.try_send(&bytes);
        match step.manner {
            Manner::Leaves => {}
            Manner::Resets => present.client.reset(),
            Manner::Finishes => {
                present.client.finish_sending();
                present.has_finished = true;
                person.present = Some(present);
            }
            Manner::Says | Manner::Waits => person.present = Some(present),
        }
    }

    /// Whether a client is blocked at the server; only where clients connect straight to it.
    pub fn is_blocked(&mut self, client: usize) -> bool {
        let Some(present) = &self.people[client - 1].present else { return false };
        let line = self.control.frame(&format!("CLIENT LIST ID {}", present.id)).as_text();
        let flags = line.split(' ').find_map(|field| field.strip_prefix("flags="));
        flags.is_some_and(|flags| flags.contains('b'))
    }

    /// Reads until the server has done all that was asked of it; only where clients connect straight to it, over sockets
    /// that carry bytes at once.
    ///
    /// What was sent lies before the server when it is asked by the control connection, so it is read no later than that
    /// question, and its answer written no later than that to the next. A client that was served may go on by that: until
    /// nothing changes. The end of what is sent is read after all else, and told by the server's closing.
    pub fn settle(&mut self) -> Seen {
        let mut before = self.look();
        self.listen();
        let start = Instant::now();
        loop {
            let now = self.look();
            let heard = self.listen();
            let is_over =
                self.people.iter().all(|person| person.present.as_ref().is_none_or(|client| !client.has_finished));
            if heard == 0 && now == before && is_over {
                return now;
            }
            assert!(start.elapsed() < self.patience, "the server does not come to rest: {now:?}, before {before:?}");
            before = now;
        }
    }

    /// Reads until every client has heard as much as it should and the server is seen as it should be, or it takes too
    /// long. Returns how the server was seen last.
    pub fn follow(&mut self, due: &[usize], seen: &Seen) -> Seen {
        for (person, due) in self.people.iter_mut().zip(due) {
            person.hear(*due);
        }
        let start = Instant::now();
        loop {
            let now = self.look();
            if now == *seen || start.elapsed() > self.patience {
                // What is surplus may have come by now.
                self.listen();
                return now;
            }
            thread::sleep(PAUSE);
        }
    }

    /// What each client has heard since this was asked last. Those whose connection has ended are gone.
    pub fn take_heard(&mut self) -> Vec<Vec<Heard>> {
        self.people.iter_mut().map(Person::take_heard).collect()
    }

    /// Forgets the clients, which have ended, and all that is stored; waits until the server is at rest.
    pub fn clear(&mut self) -> Result<(), String> {
        self.people.iter_mut().for_each(|person| *person = Person::default());
        self.ids.clear();
        self.control.ask("SCRIPT FLUSH");
        if self.has_shards {
            self.control.ask("FUNCTION FLUSH");
        }
        self.control.ask("FLUSHALL");
        let start = Instant::now();
        loop {
            let seen = self.look();
            if seen.is_at_rest() {
                return Ok(());
            }
            if start.elapsed() > self.patience {
                return Err(format!("the server is not at rest after all clients have left: {seen:?}"));
            }
            thread::sleep(PAUSE);
        }
    }

    /// Lets so many connections come and go, so that the ids of those that follow cannot be taken for other numbers.
    pub fn raise_ids(&self, count: usize) {
        (0..count).for_each(|_| drop(Client::connect(&self.address)));
    }

    /// Makes sure that a client is connected.
    fn arrive(&mut self, client: usize) {
        let person = &mut self.people[client - 1];
        if person.present.is_some() {
            return;
        }
        let mut connection = Client::connect(&self.address);
        connection.set_patience(self.patience).expect("a time limit can be set");
        let id = connection.frame("CLIENT ID").as_text();
        person.lives += 1;
        self.ids.insert(id.clone(), format!("id of client {client} in life {}", person.lives));
        person.present = Some(Present { client: connection, id, has_finished: false });
    }

    fn id(&self, client: usize) -> String {
        self.people[client - 1].present.as_ref().map(|present| present.id.clone()).unwrap_or_default()
    }

    /// Reads what has arrived; returns how much was heard by all.
    fn listen(&mut self) -> usize {
        self.people.iter_mut().map(Person::listen).sum()
    }

    fn look(&mut self) -> Seen {
        let questions = ["DEBUG DIGEST", "INFO clients", "PUBSUB CHANNELS", "PUBSUB NUMPAT", "PUBSUB SHARDCHANNELS"];
        let asked = if self.has_shards { questions.len() } else { questions.len() - 1 };
        let requests: Vec<_> = questions[..asked].iter().map(|question| words(question)).collect();
        let replies: Vec<_> = self.control.pipeline(&requests).iter().map(|reply| Frame::whole(reply)).collect();
        let info = replies[1].as_text();
        let blocked = info.lines().find_map(|line| line.strip_prefix("blocked_clients:")).expect("INFO tells it");
        Seen {
            digest: replies[0].as_text(),
            blocked_clients: blocked.to_owned(),
            channels: sorted(&replies[2]),
            patterns: replies[3].as_text(),
            shard_channels: replies.get(4).map(sorted).unwrap_or_default(),
        }
    }
}

impl Person {
    /// Reads what has arrived; returns how much was heard.
    fn listen(&mut self) -> usize {
        let before = self.heard.len();
        while let Some(present) = &mut self.present {
            let read = present.client.fill_at_once();
            if !self.note(read) {
                break;
            }
        }
        self.heard.len() - before
    }

    /// Reads until so much has been heard, or nothing comes for too long.
    fn hear(&mut self, due: usize) {
        while let Some(present) = self.present.as_mut().filter(|_| self.heard.len() < due) {
            let read = present.client.fill();
            if !self.note(read) {
                break;
            }
        }
    }

    /// Takes what was read; false if there is nothing more to read now.
    fn note(&mut self, read: std::io::Result<usize>) -> bool {
        let Some(present) = &mut self.present else { return false };
        let is_open = match read {
            Ok(read) => read > 0,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return false,
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => false,
            Err(error) => panic!("a client cannot read: {error}"),
        };
        while let Some(frame) = present.client.received() {
            self.heard.extend(is_seen(&frame).then_some(Heard::Frame(frame)));
        }
        if !is_open {
            let rest = present.client.rest_however_closed().unwrap_or_default();
            self.heard.extend((!rest.is_empty()).then_some(Heard::Frame(rest)));
            self.heard.push(Heard::End);
            self.present = None;
        }
        is_open
    }

    fn take_heard(&mut self) -> Vec<Heard> {
        std::mem::take(&mut self.heard)
    }
}

impl Seen {
    /// Whether nobody waits and nothing is stored.
    fn is_at_rest(&self) -> bool {
        self.blocked_clients == "0"
            && self.patterns == "0"
            && self.channels.is_empty()
            && self.shard_channels.is_empty()
            && self.digest.bytes().all(|digit| digit == b'0')
    }
}

impl Heard {
    /// What it is in a word: the first of an error or a message, else its type.
    pub fn sort(&self) -> String {
        let Self::Frame(bytes) = self else { return "closed".to_owned() };
        let Some((frame, _)) = Frame::parse(bytes) else { return "fragment".to_owned() };
        let word = match frame.kind {
            b'-' => frame.as_text().split(' ').next().map(ToOwned::to_owned),
            b'*' | b'>' => frame.items.first().map(Frame::as_text).filter(|word| WORDS.contains(&word.as_str())),
            _ => None,
        };
        let null = if frame.text == b"-1" && frame.kind != b':' { "-1" } else { "" };
        word.unwrap_or_else(|| format!("{}{null}", char::from(frame.kind)))
    }
}

impl fmt::Display for Heard {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frame(bytes) => write!(out, "{}", bytes.escape_ascii()),
            Self::End => write!(out, "(closed)"),
        }
    }
}

fn sorted(frame: &Frame) -> Vec<String> {
    let mut texts: Vec<_> = frame.items.iter().map(Frame::as_text).collect();
    texts.sort();
    texts
}
