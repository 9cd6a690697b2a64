//! Random scripts of up to four clients, through the proxy and direct: the same bytes.
//!
//! Left out is what cannot be the same: the order in which the server lists several topics at a bare UNSUBSCRIBE is that of
//! its hash table.

use super::direct::{Cast, difference};
use crate::support::{Figures, Kind, Proxy, Server};
use fastrand::Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::env;

/// Scripts for each server, if `OUTRIGGER_ROUNDS` does not say how many.
const SCRIPTS: usize = 150;

const STEPS: usize = 14;

#[test]
fn random_scripts_bring_the_same_bytes_on_redis_6_2() {
    compare(Kind::Redis62);
}

#[test]
fn random_scripts_bring_the_same_bytes_on_redis_7_0() {
    compare(Kind::Redis70);
}

#[test]
fn random_scripts_bring_the_same_bytes_on_valkey_9_1() {
    compare(Kind::Valkey91);
}

fn compare(kind: Kind) {
    let number = |name: &str| env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = number("OUTRIGGER_SEED").unwrap_or_else(|| fastrand::u64(..));
    let scripts = number("OUTRIGGER_ROUNDS").map_or(SCRIPTS as u64, |rounds| 10 * rounds);
    println!("seed {seed}");
    let mut rng = Rng::with_seed(seed);
    let servers = [Server::start(kind), Server::start(kind)];
    let proxy = Proxy::before(&servers[0]);
    // Until there was a first contact, nobody knows what the server knows.
    assert_eq!(proxy.connect().ask("DEL k"), b":0\r\n");
    let mut figures = Figures::of(&format!("random subscribers on {}", kind.name()));
    let mut bytes = 0;
    for _ in 0..scripts {
        let script = Author::new(&mut rng, kind).write();
        let proxied = Cast::play(&script, proxy.address(), &servers[0]);
        let direct = Cast::play(&script, &servers[1].address(), &servers[1]);
        bytes += direct.concat().len();
        let difference = difference(&script, &proxied, &direct);
        assert!(difference.is_none(), "{}, seed {seed}: {}", kind.name(), difference.unwrap_or_default());
    }
    figures.add("scripts", scripts);
    figures.add("bytes_compared", bytes);
}

/// Writes one script; knows what its clients are subscribed to, as far as it must.
struct Author<'rng> {
    rng: &'rng mut Rng,
    kind: Kind,
    /// By client and command: the topics.
    topics: BTreeMap<(char, &'static str), BTreeSet<String>>,
}

/// The commands that subscribe, with those that undo it.
const PAIRS: [(&str, &str); 3] =
    [("SUBSCRIBE", "UNSUBSCRIBE"), ("PSUBSCRIBE", "PUNSUBSCRIBE"), ("SSUBSCRIBE", "SUNSUBSCRIBE")];

impl<'rng> Author<'rng> {
    fn new(rng: &'rng mut Rng, kind: Kind) -> Self {
        Self { rng, kind, topics: BTreeMap::new() }
    }

    fn write(mut self) -> String {
        let steps: Vec<_> = (0..STEPS).map(|_| self.step()).collect();
        // Whoever heard something last says so.
        steps.join("; ") + "; A PING; B PING; 3 PING; 4 PING"
    }

    fn step(&mut self) -> String {
        if self.rng.u8(..3) == 0 {
            let verb = if self.kind > Kind::Redis62 && self.rng.bool() { "SPUBLISH" } else { "PUBLISH" };
            return format!("@{verb} {} {}", self.topic(), self.rng.u16(..));
        }
        let client = *self.rng.choice(&['A', 'B', '3', '4']).expect("there are some");
        let requests: Vec<_> = (0..self.rng.usize(1..4)).map(|_| self.request(client)).collect();
        format!("{client} {}", requests.join(" | "))
    }

    fn request(&mut self, client: char) -> String {
        match self.rng.u8(..12) {
            0 => "GET k".to_owned(),
            1 => "PING".to_owned(),
            2 => {
                self.topics.retain(|(of, _), _| *of != client);
                "RESET".to_owned()
            }
            3 => ["SET k v", "ECHO x", "NOSUCH", "HELLO 2", "SELECT 0", "PING text", "HELLO 3"][self.rng.usize(..7)]
                .to_owned(),
            4..=8 => self.subscribe(client),
            _ => self.unsubscribe(client),
        }
    }

    fn subscribe(&mut self, client: char) -> String {
        let (verb, _) = PAIRS[self.rng.usize(..3)];
        let topics: Vec<_> = (0..self.rng.usize(1..4)).map(|_| self.topic()).collect();
        self.topics.entry((client, verb)).or_default().extend(topics.iter().cloned());
        format!("{verb} {}", topics.join(" "))
    }

    fn unsubscribe(&mut self, client: char) -> String {
        let (subscribe, verb) = PAIRS[self.rng.usize(..3)];
        let known = self.topics.entry((client, subscribe)).or_default();
        if self.rng.bool() && known.len() < 2 {
            known.clear();
            return verb.to_owned();
        }
        let topics: Vec<_> = (0..self.rng.usize(1..4)).map(|_| self.topic()).collect();
        let known = self.topics.entry((client, subscribe)).or_default();
        topics.iter().for_each(|topic| {
            known.remove(topic);
        });
        format!("{verb} {}", topics.join(" "))
    }

    fn topic(&mut self) -> String {
        ["a", "b", "c", "a*", "?", "[ab]"][self.rng.usize(..6)].to_owned()
    }
}
