//! A client that says random things and knows what it must hear: only it uses its keys, and it remembers what it wrote.

use crate::support::command;
use std::collections::HashMap;
use std::fmt;
use std::mem::take;

/// How many databases a client goes about in.
const DATABASES: u8 = 4;
/// How many keys it has for texts in each. They have the same names everywhere, so that a mix-up shows.
const KEYS: u8 = 6;

/// What a reply must be.
pub enum Due {
    /// These bytes.
    Bytes(Vec<u8>),
    /// A frame of this type: its content is not ours to know.
    OfType(u8),
}

/// One connection's end of the conversation.
pub struct Speaker {
    name: String,
    rng: fastrand::Rng,
    database: u8,
    resp3: bool,
    texts: HashMap<(u8, u8), Vec<u8>>,
    counters: HashMap<u8, u64>,
    fields: HashMap<u8, Vec<u8>>,
    own_name: String,
    said: u64,
    requests: Vec<u8>,
    due: Vec<Due>,
}

impl Speaker {
    /// A client that calls its keys by `name`, which nobody else uses.
    pub fn new(name: String, rng: fastrand::Rng) -> Self {
        let mut speaker = Self {
            name,
            rng,
            database: 0,
            resp3: false,
            texts: HashMap::new(),
            counters: HashMap::new(),
            fields: HashMap::new(),
            own_name: String::new(),
            said: 0,
            requests: Vec::new(),
            due: Vec::new(),
        };
        if speaker.rng.bool() {
            speaker.hello();
        }
        speaker
    }

    /// Who speaks.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// All requests since the last call, and what must come back.
    pub fn pipeline(&mut self) -> (Vec<u8>, Vec<Due>) {
        (take(&mut self.requests), take(&mut self.due))
    }

    /// Adds one request to the pipeline.
    pub fn say_something(&mut self) {
        self.said += 1;
        match self.rng.u8(..100) {
            0..20 => self.set(),
            20..48 => self.get(),
            48..56 => self.echo(),
            56..63 => self.ping(),
            63..70 => self.select(),
            70..77 => self.count(),
            77..81 => self.set_field(),
            81..86 => self.get_fields(),
            86..90 => self.get_many(),
            90..93 => self.delete(),
            93..96 => self.mistake(),
            96..98 => self.own_name(),
            98 => self.hello(),
            _ => self.inline(),
        }
    }

    fn set(&mut self) {
        let (number, key) = self.any_key();
        let value = self.text();
        self.ask(&[b"SET", &key, &value], b"+OK\r\n".to_vec());
        self.texts.insert((self.database, number), value);
    }

    fn get(&mut self) {
        let (number, key) = self.any_key();
        let due = self.bulk_or_null(self.texts.get(&(self.database, number)));
        self.ask(&[b"GET", &key], due);
    }

    fn get_many(&mut self) {
        let keys = [self.any_key(), self.any_key(), self.any_key()];
        let values = keys.iter().map(|(number, _)| self.bulk_or_null(self.texts.get(&(self.database, *number))));
        let due = [b"*3\r\n".to_vec(), values.collect::<Vec<_>>().concat()].concat();
        self.ask(&[b"MGET", &keys[0].1, &keys[1].1, &keys[2].1], due);
    }

    fn delete(&mut self) {
        let (number, key) = self.any_key();
        let was_there = self.texts.remove(&(self.database, number)).is_some();
        self.ask(&[b"DEL", &key], format!(":{}\r\n", u8::from(was_there)).into_bytes());
    }

    /// An error reply out of the server: a list command on a text.
    fn mistake(&mut self) {
        let (number, key) = self.any_key();
        if self.texts.contains_key(&(self.database, number)) {
            self.ask(
                &[b"LLEN", &key],
                b"-WRONGTYPE Operation against a key holding the wrong kind of value\r\n".to_vec(),
            );
        } else {
            self.ask(&[b"LLEN", &key], b":0\r\n".to_vec());
        }
    }

    fn count(&mut self) {
        let count = self.counters.entry(self.database).or_insert(0);
        *count += 1;
        let due = format!(":{count}\r\n").into_bytes();
        let key = format!("{}:counter", self.name);
        self.ask(&[b"INCR", key.as_bytes()], due);
    }

    fn set_field(&mut self) {
        let key = format!("{}:hash", self.name);
        let value = self.text();
        let is_new = self.fields.insert(self.database, value.clone()).is_none();
        self.ask(&[b"HSET", key.as_bytes(), b"field", &value], format!(":{}\r\n", u8::from(is_new)).into_bytes());
    }

    /// A reply whose shape depends on the protocol.
    fn get_fields(&mut self) {
        let key = format!("{}:hash", self.name);
        let due = match (self.fields.get(&self.database), self.resp3) {
            (Some(value), true) => [b"%1\r\n$5\r\nfield\r\n".to_vec(), bulk(value)].concat(),
            (Some(value), false) => [b"*2\r\n$5\r\nfield\r\n".to_vec(), bulk(value)].concat(),
            (None, true) => b"%0\r\n".to_vec(),
            (None, false) => b"*0\r\n".to_vec(),
        };
        self.ask(&[b"HGETALL", key.as_bytes()], due);
    }

    fn echo(&mut self) {
        let text = self.text();
        self.ask(&[b"ECHO", &text], bulk(&text));
    }

    fn ping(&mut self) {
        if self.rng.bool() {
            let text = format!("{}:{}", self.name, self.said).into_bytes();
            self.ask(&[b"PING", &text], bulk(&text));
        } else {
            self.ask(&[b"PING"], b"+PONG\r\n".to_vec());
        }
    }

    fn inline(&mut self) {
        let text = format!("{}:{}", self.name, self.said);
        self.requests.extend(format!("ECHO {text}\r\n").into_bytes());
        self.due.push(Due::Bytes(bulk(text.as_bytes())));
    }

    fn select(&mut self) {
        self.database = self.rng.u8(..DATABASES);
        let database = self.database.to_string();
        self.ask(&[b"SELECT", database.as_bytes()], b"+OK\r\n".to_vec());
    }

    fn own_name(&mut self) {
        if self.rng.bool() {
            self.own_name = format!("{}:{}", self.name, self.said);
            let own_name = self.own_name.clone();
            self.ask(&[b"CLIENT", b"SETNAME", own_name.as_bytes()], b"+OK\r\n".to_vec());
        } else {
            let due = if self.own_name.is_empty() { self.null() } else { bulk(self.own_name.as_bytes()) };
            self.ask(&[b"CLIENT", b"GETNAME"], due);
        }
    }

    /// The other protocol from here on.
    fn hello(&mut self) {
        self.resp3 = !self.resp3;
        let (version, kind): (&[u8], _) = if self.resp3 { (b"3", b'%') } else { (b"2", b'*') };
        self.requests.extend(command(&[b"HELLO", version]));
        self.due.push(Due::OfType(kind));
    }

    fn ask(&mut self, arguments: &[&[u8]], due: Vec<u8>) {
        self.requests.extend(command(arguments));
        self.due.push(Due::Bytes(due));
    }

    fn any_key(&mut self) -> (u8, Vec<u8>) {
        let number = self.rng.u8(..KEYS);
        (number, format!("{}:{number}", self.name).into_bytes())
    }

    /// A text never said before, of mostly few and sometimes very many bytes.
    fn text(&mut self) -> Vec<u8> {
        let length = match self.rng.u16(..1000) {
            0 => self.rng.usize(64_000..300_000),
            1..8 => self.rng.usize(8_000..64_000),
            8..90 => self.rng.usize(200..8_000),
            90..100 => 0,
            _ => self.rng.usize(..200),
        };
        if length == 0 {
            return Vec::new();
        }
        let mut text = format!("{}:{}:{}\r\n$3\r\n+OK\r\n", self.name, self.database, self.said).into_bytes();
        let filler = self.rng.u8(..);
        text.resize(text.len() + length, filler);
        text
    }

    fn bulk_or_null(&self, value: Option<&Vec<u8>>) -> Vec<u8> {
        value.map_or_else(|| self.null(), |value| bulk(value))
    }

    fn null(&self) -> Vec<u8> {
        if self.resp3 { b"_\r\n".to_vec() } else { b"$-1\r\n".to_vec() }
    }
}

impl Due {
    /// Whether `reply` is what was due.
    pub fn is(&self, reply: &[u8]) -> bool {
        match self {
            Self::Bytes(bytes) => bytes == reply,
            Self::OfType(kind) => reply.first() == Some(kind),
        }
    }
}

impl fmt::Display for Due {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(out, "{}", bytes[..bytes.len().min(300)].escape_ascii()),
            Self::OfType(kind) => write!(out, "something that begins with {}", char::from(*kind)),
        }
    }
}

fn bulk(text: &[u8]) -> Vec<u8> {
    [format!("${}\r\n", text.len()).as_bytes(), text, b"\r\n"].concat()
}
