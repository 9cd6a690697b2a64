//! Scripts of several clients, through the proxy and direct: the same bytes, in both protocols, on every server.
//!
//! A step is `A SUBSCRIBE a b`, said by client A; `A GET k | PING` are two requests in one write. Client 3 and the like
//! speak RESP3. `@PUBLISH …` is said to the server itself. Behind each step comes a PING, whose pong ends what the step
//! brought. While replies are off there is none: `A=2 …` takes two frames instead.
//!
//! Where a message matches several patterns, the server goes through these in the order of its hash table, so that such
//! messages are compared as a set.

use super::shown;
use crate::differential::modulo_id;
use crate::support::{Client, Frame, Kind, Proxy, Server, words};
use std::collections::BTreeMap;

const SCRIPTS: &[&str] = &[
    // Counts.
    "A SUBSCRIBE a b a; A SUBSCRIBE b; A PSUBSCRIBE p* a; A UNSUBSCRIBE a zz a; A UNSUBSCRIBE; A UNSUBSCRIBE; \
     A PUNSUBSCRIBE; A PUNSUBSCRIBE; A GET k",
    "3 SUBSCRIBE a b a; 3 PSUBSCRIBE p* a; 3 UNSUBSCRIBE a zz a; 3 UNSUBSCRIBE; 3 UNSUBSCRIBE; 3 PUNSUBSCRIBE; 3 GET k",
    "A SSUBSCRIBE s t; A SUBSCRIBE a; A SUNSUBSCRIBE s; A GET k; A SUNSUBSCRIBE; A SUNSUBSCRIBE; A UNSUBSCRIBE; A GET k",
    "3 SSUBSCRIBE s t; 3 SUBSCRIBE a; 3 SUNSUBSCRIBE s; 3 SUNSUBSCRIBE; 3 SUNSUBSCRIBE; 3 UNSUBSCRIBE",
    "A PSUBSCRIBE one two three four five; A PUNSUBSCRIBE three; A PUNSUBSCRIBE",
    "A UNSUBSCRIBE; A UNSUBSCRIBE a b; A PUNSUBSCRIBE x; A SUNSUBSCRIBE; A PING",
    "3 UNSUBSCRIBE; 3 UNSUBSCRIBE a b; 3 PUNSUBSCRIBE x; 3 SUNSUBSCRIBE x",
    // What a subscriber in RESP2 may not do.
    "A SUBSCRIBE a; A GET k; A get; A NOSUCH x; A CLIENT ID; A CLIENT NOSUCH; A CLIENT; A SELECT 1; A HELLO 3; A HELLO; \
     A AUTH x; A MULTI; A EXEC; A DISCARD; A WATCH k; A CONFIG GET x; A PING x y; A SUBSCRIBE; A PSUBSCRIBE; A RESET x; \
     A ECHO x; A COMMAND; A COMMAND COUNT; A OBJECT ENCODING k; A BLPOP; A BLPOP k 0; A MONITOR; A PUBLISH a x; A QUIT x",
    "A SUBSCRIBE a; A PING; A PING text; A ping; A PUNSUBSCRIBE; A UNSUBSCRIBE x; A UNSUBSCRIBE a; A PING; A GET k",
    // What one in RESP3 may.
    "3 SUBSCRIBE a; 3 GET k; 3 SET k v; 3 GET k; 3 SELECT 1; 3 GET k; 3 ECHO x; 3 PING; 3 PING x y; 3 CLIENT GETNAME; \
     3 CLIENT NOSUCH; 3 SUBSCRIBE; @PUBLISH a after; 3 SELECT 0; 3 GET k",
    // Changing the protocol.
    "3 SUBSCRIBE a; 3 HELLO 2; 3 GET k; @PUBLISH a x; 3 HELLO 3; 3 UNSUBSCRIBE; 3 HELLO 3; 3 GET k",
    "3 SUBSCRIBE a; 3 HELLO 3; @PUBLISH a x; 3 GET k; 3 HELLO 4; 3 HELLO 2 SETNAME me; 3 PING",
    // Leaving.
    "A SUBSCRIBE a; A PSUBSCRIBE b; A SSUBSCRIBE c; @PUBLISH a x; A RESET; @PUBLISH a y; A GET k; A SUBSCRIBE a; @PUBLISH a z",
    "3 SUBSCRIBE a; 3 PSUBSCRIBE a; @PUBLISH a x; 3 RESET; @PUBLISH a y; 3 GET k; 3 HELLO 3; 3 SUBSCRIBE a; @PUBLISH a z",
    "A SUBSCRIBE a; A QUIT",
    "3 SUBSCRIBE a; @PUBLISH a x; 3 QUIT",
    // Messages.
    "A SUBSCRIBE a; @PUBLISH a x; A PSUBSCRIBE a* *; @PUBLISH a y; A UNSUBSCRIBE a; @PUBLISH a z; A PUNSUBSCRIBE *; \
     @PUBLISH a w; @PUBLISH b w; A PUNSUBSCRIBE; @PUBLISH a v; A GET k",
    "3 SUBSCRIBE a; @PUBLISH a x; 3 PSUBSCRIBE a* *; @PUBLISH a y; 3 UNSUBSCRIBE a; @PUBLISH a z; 3 PUNSUBSCRIBE *; \
     @PUBLISH a w; @PUBLISH b w; 3 PUNSUBSCRIBE; @PUBLISH a v; 3 GET k",
    "A SSUBSCRIBE s; B SUBSCRIBE s; @SPUBLISH s x; @PUBLISH s y; 3 SSUBSCRIBE s; @SPUBLISH s z; A SUNSUBSCRIBE s; \
     @SPUBLISH s w; A PING; B PING; 3 PING",
    "A SUBSCRIBE a; B SUBSCRIBE a; 3 SUBSCRIBE a; 4 PSUBSCRIBE ?; @PUBLISH a x; A PING; B UNSUBSCRIBE a; @PUBLISH a y; \
     B GET k; 3 GET k; 4 GET k; A UNSUBSCRIBE a; @PUBLISH a z; 3 UNSUBSCRIBE a; @PUBLISH a w; 4 PING; A PING; 3 PING",
    "A SUBSCRIBE a; @PUBLISH a x; B SUBSCRIBE a; A PING; B PING; A QUIT; @PUBLISH a y; B PING; C SUBSCRIBE a; @PUBLISH a z; \
     B UNSUBSCRIBE a; C PING",
    // Pipelines: acknowledgements in their place.
    "3 GET k | SUBSCRIBE a | GET k | SUBSCRIBE b c | PSUBSCRIBE d | SET k v | UNSUBSCRIBE a b | GET k",
    "A GET k | SUBSCRIBE a | GET k | PING | UNSUBSCRIBE a | GET k | PING",
    "A SUBSCRIBE a | SUBSCRIBE b | PSUBSCRIBE c | PING | UNSUBSCRIBE a | UNSUBSCRIBE b | PUNSUBSCRIBE | GET k",
    "A SUBSCRIBE a | RESET | GET k | SUBSCRIBE b | RESET | RESET | PING",
    "3 SUBSCRIBE a | HELLO 2 | GET k | UNSUBSCRIBE a | GET k | HELLO 3 | GET k",
    "A SUBSCRIBE a | UNSUBSCRIBE a | SUBSCRIBE a | UNSUBSCRIBE | GET k | SUBSCRIBE a; @PUBLISH a x; A PING",
    "A SUBSCRIBE a | QUIT",
    // Replies switched off.
    "A=0 CLIENT REPLY OFF; A=1 SUBSCRIBE a; @PUBLISH a m; A=1 PING; A=1 UNSUBSCRIBE; A=0 GET k; A CLIENT REPLY ON; A GET k",
    "3=0 CLIENT REPLY OFF; 3=1 SUBSCRIBE a; @PUBLISH a m; 3=1 PING; 3=1 UNSUBSCRIBE; 3=0 GET k; 3 CLIENT REPLY ON; 3 GET k",
    "A=2 CLIENT REPLY SKIP | SUBSCRIBE a b; @PUBLISH a m; A PING; A UNSUBSCRIBE a b; A=1 CLIENT REPLY SKIP | UNSUBSCRIBE; A PING",
    "3=2 CLIENT REPLY SKIP | SUBSCRIBE a b; @PUBLISH a m; 3 PING; 3=0 CLIENT REPLY SKIP | PING; 3 UNSUBSCRIBE a b",
    "A=0 CLIENT REPLY SKIP | SUBSCRIBE; A PING",
];

#[test]
fn subscribers_get_the_servers_bytes_on_redis_6_2() {
    compare_all(Kind::Redis62);
}

#[test]
fn subscribers_get_the_servers_bytes_on_redis_7_0() {
    compare_all(Kind::Redis70);
}

#[test]
fn subscribers_get_the_servers_bytes_on_valkey_9_1() {
    compare_all(Kind::Valkey91);
}

#[test]
fn acl_rules_for_channels_concern_the_asking_client_only() {
    for kind in Kind::ALL {
        let scripts = [
            "A SUBSCRIBE ok; A SUBSCRIBE no; A SUBSCRIBE ok2 no; A PSUBSCRIBE *; A PSUBSCRIBE ok*; @PUBLISH ok x; A PING; \
             A UNSUBSCRIBE; A UNSUBSCRIBE ok",
            "A SUBSCRIBE ok; B SUBSCRIBE no; @PUBLISH ok x; B GET k; A PING; 3 SUBSCRIBE ok no; 3 GET k; @PUBLISH ok y; A PING",
            "3 SUBSCRIBE no | GET k | SUBSCRIBE ok | GET k | SSUBSCRIBE no",
        ];
        compare(kind, &scripts, |server| {
            let mut admin = server.connect();
            assert_eq!(admin.ask("ACL SETUSER default resetchannels &ok*"), b"+OK\r\n");
        });
    }
}

fn compare_all(kind: Kind) {
    compare(kind, SCRIPTS, |_| {});
}

fn compare(kind: Kind, scripts: &[&str], prepare: impl Fn(&Server)) {
    let servers = [Server::start(kind), Server::start(kind)];
    servers.iter().for_each(prepare);
    let proxy = Proxy::before(&servers[0]);
    let mut differences = Vec::new();
    for script in scripts {
        let proxied = Cast::play(script, proxy.address(), &servers[0]);
        let direct = Cast::play(script, &servers[1].address(), &servers[1]);
        differences.extend(difference(script, &proxied, &direct));
        servers.iter().for_each(|server| assert_eq!(server.connect().ask("FLUSHALL"), b"+OK\r\n"));
    }
    assert!(differences.is_empty(), "{}: {} differences:\n{}", kind.name(), differences.len(), differences.join("\n"));
}

/// What differs in what the clients of a script got.
pub fn difference(script: &str, proxied: &[Heard], direct: &[Heard]) -> Option<String> {
    let (number, (proxied, direct)) = proxied.iter().zip(direct).enumerate().find(|(_, (one, other))| one != other)?;
    let step = script.split(';').nth(number).unwrap_or_default().trim();
    Some(format!("{script}\n  at {step}\n    proxied {}\n    direct  {}", shown(proxied), shown(direct)))
}

/// What one step brought its client.
pub type Heard = Vec<u8>;

/// The clients of a script.
pub struct Cast<'stage> {
    address: &'stage str,
    clients: BTreeMap<char, Client>,
    publisher: Client,
    marks: usize,
}

impl<'stage> Cast<'stage> {
    /// Plays a whole script; what each step brought.
    pub fn play(script: &str, address: &'stage str, server: &Server) -> Vec<Heard> {
        let mut cast = Self { address, clients: BTreeMap::new(), publisher: server.connect(), marks: 0 };
        script.split(';').map(|step| cast.step(step.trim())).collect()
    }

    fn step(&mut self, step: &str) -> Heard {
        if let Some(text) = step.strip_prefix('@') {
            self.publisher.ask(text);
            // It has left the server with the replies of its turn of the loop, so before this one comes.
            assert_eq!(self.publisher.ask("PING"), b"+PONG\r\n");
            return Heard::new();
        }
        let (who, said) = step.split_once(' ').expect("a client and what it says");
        let name = who.chars().next().expect("a client has a name");
        let mut requests = said.split(" | ").map(words).collect::<Vec<_>>().concat();
        let address = self.address;
        let client = self.clients.entry(name).or_insert_with(|| {
            let mut client = Client::connect(address);
            if name.is_ascii_digit() {
                client.hello3();
            }
            client
        });
        self.marks += 1;
        let mark = format!("mark-{}", self.marks);
        let silent = who.split_once('=').map(|(_, frames)| frames.parse().expect("a number of frames"));
        if silent.is_none() {
            requests.extend(words(&format!("PING {mark}")));
        }
        // A server that closes may not take all of it.
        let _ = client.try_send(&requests);
        match silent {
            Some(frames) => (0..frames).flat_map(|_: usize| client.reply()).collect(),
            None => modulo_id(&sorted_matches(&until(client, mark.as_bytes()))),
        }
    }
}

/// All frames up to the one that holds `mark`, or until the connection ends.
fn until(client: &mut Client, mark: &[u8]) -> Vec<u8> {
    let mut heard = Vec::new();
    loop {
        match client.try_reply() {
            Ok(Some(frame)) => {
                let is_last = frame.windows(mark.len()).any(|part| part == mark);
                heard.extend(frame);
                if is_last {
                    return heard;
                }
            }
            Ok(None) | Err(_) => {
                heard.extend_from_slice(b"(closed)");
                return heard;
            }
        }
    }
}

/// The frames, with what one message brought by several patterns in the order of its bytes.
fn sorted_matches(mut bytes: &[u8]) -> Vec<u8> {
    let mut frames: Vec<(Frame, &[u8])> = Vec::new();
    while let Some((frame, length)) = (!bytes.is_empty()).then(|| Frame::parse(bytes)).flatten() {
        frames.push((frame, &bytes[..length]));
        bytes = &bytes[length..];
    }
    let is_match = |frame: &Frame| frame.items.first().is_some_and(|first| first.text == b"pmessage");
    let mut sorted = Vec::new();
    for same in
        frames.chunk_by(|(one, _), (other, _)| is_match(one) && is_match(other) && one.items[2..] == other.items[2..])
    {
        let mut same: Vec<_> = same.iter().map(|(_, bytes)| *bytes).collect();
        same.sort_unstable();
        sorted.extend(same.concat());
    }
    sorted.extend_from_slice(bytes);
    sorted
}
