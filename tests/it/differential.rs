//! Through the proxy and direct, the same bytes: a corpus that uses every command a shared connection can carry, in RESP2
//! and RESP3, against two fresh servers of one version, compared reply by reply.

mod compare;
mod corpus;
mod local;
mod misuse;

pub use compare::where_they_part;
pub use corpus::split;
pub use local::{modulo_id, talk};

use crate::support::{Client, Figures, Frame, Kind, Proxy, Server, command};
use compare::Rule;
use corpus::{Argument, Line};
use outrigger::command::table;
use std::collections::BTreeSet;

/// How many differences a failing test shows.
const SHOWN: usize = 40;

#[test]
fn redis_6_2_in_resp2() {
    Pair::start(Kind::Redis62, 2).run_corpus();
}

#[test]
fn redis_6_2_in_resp3() {
    Pair::start(Kind::Redis62, 3).run_corpus();
}

#[test]
fn redis_7_0_in_resp2() {
    Pair::start(Kind::Redis70, 2).run_corpus();
}

#[test]
fn redis_7_0_in_resp3() {
    Pair::start(Kind::Redis70, 3).run_corpus();
}

#[test]
fn valkey_9_1_in_resp2() {
    Pair::start(Kind::Valkey91, 2).run_corpus();
}

#[test]
fn valkey_9_1_in_resp3() {
    Pair::start(Kind::Valkey91, 3).run_corpus();
}

#[test]
fn misused_data_commands_get_the_servers_words() {
    for kind in Kind::ALL {
        for protocol in [2, 3] {
            Pair::start(kind, protocol).run_misuse();
        }
    }
}

#[test]
fn the_corpus_uses_every_command_that_a_shared_connection_may_carry() {
    let used = commands_used();
    for kind in Kind::ALL {
        let known = known_commands(&mut Server::start(kind).connect());
        let due = table::all().iter().filter(|entry| entry.shared && !entry.is_container());
        let names = due.map(|entry| entry.name.replace('|', " ").to_uppercase());
        let unused: Vec<_> = names.filter(|name| known.contains(name) && !used.contains(name)).collect();
        assert!(unused.is_empty(), "the corpus has no line for these commands of {}: {unused:?}", kind.name());
    }
}

/// Every command of the corpus, in capitals; of containers also `NAME SUBCOMMAND`.
fn commands_used() -> BTreeSet<String> {
    corpus::lines().iter().map(Line::words).flat_map(|words| [words[0].clone(), words.join(" ")]).collect()
}

/// The names of all commands that `client`'s server lists, in capitals; subcommands (as Redis 7 lists them) as
/// `NAME SUBCOMMAND`.
fn known_commands(client: &mut Client) -> BTreeSet<String> {
    let commands = client.frame("COMMAND").items;
    let subcommands = commands.iter().filter_map(|entry| entry.items.get(9)).flat_map(|list| &list.items);
    commands.iter().chain(subcommands).map(|entry| entry.items[0].as_text().replace('|', " ").to_uppercase()).collect()
}

/// Two fresh servers of one kind: one behind a proxy, one not, and a client of each.
struct Pair {
    kind: Kind,
    known: BTreeSet<String>,
    proxied: Client,
    direct: Client,
    differences: Vec<String>,
    compared: usize,
    protocol: u8,
    _proxy: Proxy,
    _servers: [Server; 2],
}

impl Pair {
    fn start(kind: Kind, protocol: u8) -> Self {
        let servers = [Server::start(kind), Server::start(kind)];
        let proxy = Proxy::patient(&servers[0], |_| {});
        let known = known_commands(&mut servers[1].connect());
        let (mut proxied, mut direct) = (proxy.connect(), servers[1].connect());
        if protocol == 3 {
            proxied.hello3();
            direct.hello3();
        }
        let differences = Vec::new();
        Self { kind, known, proxied, direct, differences, compared: 0, protocol, _proxy: proxy, _servers: servers }
    }

    /// The corpus, one request after the other, because replies (`{last}`) go into later requests.
    fn run_corpus(mut self) {
        let mut last = Vec::new();
        for line in corpus::lines() {
            if let Some(request) = self.request(&line, &last) {
                last = self.compare(&line.text, &request);
            }
        }
        self.report("corpus");
    }

    /// Every data command with keys of every type and arguments of many sorts.
    fn run_misuse(mut self) {
        for name in misuse::commands(&self.known) {
            for (text, requests) in misuse::attempts(&name) {
                let proxied = self.proxied.pipeline(&requests);
                let direct = self.direct.pipeline(&requests);
                self.note(&text, Rule::Exact, &proxied.concat(), &direct.concat());
            }
        }
        self.report("misuse");
    }

    /// The bytes of a line, or `None` if it is not meant for this server.
    fn request(&self, line: &Line, last: &[u8]) -> Option<Vec<u8>> {
        let meant = line.since <= self.kind && self.known.contains(&line.words()[0]);
        let arguments: Vec<_> = line.arguments.iter().map(|argument| argument.bytes(last)).collect();
        meant.then(|| command(&arguments))
    }

    /// Sends a request both ways; returns the payload of the direct reply.
    fn compare(&mut self, text: &str, request: &[u8]) -> Vec<u8> {
        self.proxied.send(request);
        self.direct.send(request);
        let direct = self.direct.reply();
        match self.proxied.try_reply() {
            Ok(Some(proxied)) => self.note(text, compare::rule_for(text), &proxied, &direct),
            other => panic!(
                "{}: after {text:?} the proxy ended with {other:?}\n{}",
                self.name(),
                self.differences.join("\n")
            ),
        }
        Frame::whole(&direct).text
    }

    fn note(&mut self, text: &str, rule: Rule, proxied: &[u8], direct: &[u8]) {
        self.compared += 1;
        if !rule.same(proxied, direct) {
            let (proxied, direct) = where_they_part(proxied, direct);
            self.differences.push(format!("{text}\n    proxied {proxied}\n    direct  {direct}"));
        }
    }

    fn name(&self) -> String {
        format!("{} in RESP{}", self.kind.name(), self.protocol)
    }

    fn report(self, what: &str) {
        let mut figures = Figures::of(&format!("{what} on {}", self.name()));
        figures.add("compared", self.compared);
        figures.add("different", self.differences.len());
        let shown = self.differences.iter().take(SHOWN).cloned().collect::<Vec<_>>().join("\n");
        assert!(
            self.differences.is_empty(),
            "{}: {} of {} replies differ:\n{shown}",
            self.name(),
            self.differences.len(),
            self.compared
        );
    }
}

#[test]
fn the_corpus_is_read_as_it_is_meant() {
    let line = Line::read(r#">=7.0 SET "a\r\n\x00\"b" {last} plain"#).expect("a command");
    assert_eq!(line.since, Kind::Redis70);
    let bytes: Vec<_> = line.arguments.iter().map(|argument| argument.bytes(b"LAST")).collect();
    assert_eq!(bytes, [&b"SET"[..], b"a\r\n\0\"b", b"LAST", b"plain"]);
    assert!(matches!(line.arguments[2], Argument::Last));
    assert_eq!(line.words(), ["SET", "\"A\\R\\N\\X00\\\"B\""]);
}
