//! The same conversation direct and through the proxy, byte for byte.

use super::shown;
use crate::differential::{talk, where_they_part};
use crate::support::{Client, Figures, Kind, Proxy, Server, words};
use std::env;

/// Each on a connection of its own; requests are separated by `;`. What needs a connection of its own is not among them.
const CONVERSATIONS: &[&str] = &[
    "MULTI; EXEC",
    "multi; set k v; Get k; INCR n; exec; GET k",
    "MULTI; DISCARD; EXEC; DISCARD",
    "MULTI; SET k discarded; DISCARD; GET k",
    "GET k; MULTI; GET k; EXEC; GET k; MULTI; INCR n; EXEC; INCR n; MULTI; EXEC; PING",
    "EXEC; DISCARD; UNWATCH",
    "EXEC x; DISCARD x; MULTI x; UNWATCH x; WATCH",
    "MULTI x; SET k bare; EXEC",
    "MULTI; SET k x; EXEC x; EXEC; GET k",
    "MULTI; DISCARD x; SET k x; EXEC; GET k",
    "MULTI; MULTI; SET k nested; EXEC; GET k",
    "MULTI; WATCH k; SET k watched; EXEC; GET k",
    "MULTI; MULTI x; EXEC",
    "MULTI; WATCH; EXEC",
    "MULTI; UNWATCH; SET k v; EXEC",
    "MULTI; UNWATCH x; EXEC",
    "MULTI; SET k v; LPUSH k x; GET k; EXEC",
    "MULTI; NOSUCH a b; SET k x; EXEC; GET k",
    "MULTI; NOSUCH; MULTI; WATCH k; GET; NOSUCH; DISCARD; GET k",
    "MULTI; GET; EXEC",
    "MULTI; GET a b; SET k x; EXEC; EXEC; GET k",
    "MULTI; SET k; DISCARD; MULTI; GET k; EXEC",
    "MULTI; OBJECT; EXEC",
    "MULTI; OBJECT ENCODING; EXEC",
    "MULTI; OBJECT HELP; OBJECT ENCODING k; CONFIG GET maxclients; EXEC",
    "MULTI; CONFIG GET; XGROUP CREATE; MEMORY USAGE; EXEC",
    "MULTI; CLIENT; EXEC",
    "MULTI; SELECT; EXEC",
    "MULTI; AUTH; EXEC",
    "MULTI; PING; PING m; PING a b; ECHO x; EXEC",
    "MULTI; ECHO; EXEC",
    "MULTI; SET k x; RESET; EXEC; GET k",
    "MULTI; RESET x; EXEC",
    "MULTI; SET k x; QUIT; EXEC",
    "MULTI; QUIT now",
    "MULTI; BLPOP b 0; BRPOP b 0; BRPOPLPUSH b c 0; BLMOVE b c LEFT LEFT 0; BZPOPMIN b 0; XREAD BLOCK 0 STREAMS b $; EXEC",
    "MULTI; WAIT 0 0; WAIT 1 100; EXEC",
    "MULTI; PUBLISH c m; EVAL return(1) 0; EVAL return(redis.call('GET','n')) 0; SCRIPT EXISTS x; EXEC",
    "MULTI; FLUSHALL; SWAPDB 0 1; SET k v; DBSIZE; EXEC; GET k",
    "MULTI; HSET h a 1 b 2; HGETALL h; SADD s a; SMEMBERS s; ZADD z 1.5 a; ZSCORE z a; ZRANGE z 0 -1 WITHSCORES; EXEC",
    "MULTI; GET none; LPOP none 2; HGETALL none; ZSCORE none a; SISMEMBER none a; XADD s2 1-1 f v; EXEC",
    "CLIENT REPLY SKIP; MULTI; SET k v; GET k; EXEC; PING",
    "MULTI; SET k v; EXEC; CLIENT REPLY SKIP; EXEC; PING",
    "CLIENT REPLY OFF; MULTI; SET k silent; GET k; EXEC; CLIENT REPLY ON; GET k",
    "CLIENT REPLY OFF; MULTI; GET; EXEC; CLIENT REPLY ON; GET k",
    "SELECT 3; MULTI; SET k three; EXEC; SELECT 0; GET k; MULTI; GET k; EXEC",
];

/// Steps of random conversations: right ones, wrong ones, and those of transactions, which come often.
const STEPS: &[&str] = &[
    "MULTI",
    "MULTI",
    "MULTI",
    "EXEC",
    "EXEC",
    "EXEC",
    "DISCARD",
    "UNWATCH",
    "SET k v",
    "GET k",
    "INCR n",
    "INCR k",
    "GET",
    "GET a b",
    "NOSUCH x",
    "MULTI x",
    "EXEC x",
    "DISCARD x",
    "WATCH",
    "PING",
    "PING a b",
    "ECHO x",
    "ECHO",
    "OBJECT",
    "OBJECT ENCODING k",
    "CONFIG GET maxclients",
    "RPUSH l a",
    "LPUSH k x",
    "HSET h f v",
    "HGETALL h",
    "ZADD z 1.5 m",
    "ZSCORE z m",
    "RESET",
    "RESET x",
    "DEL k n l",
    "EVAL return(1) 0",
];

/// The longest random conversation.
const LONGEST: usize = 40;

#[test]
fn transactions_read_the_same_on_redis_6_2() {
    compare_all(Kind::Redis62);
}

#[test]
fn transactions_read_the_same_on_redis_7_0() {
    compare_all(Kind::Redis70);
}

#[test]
fn transactions_read_the_same_on_valkey_9_1() {
    compare_all(Kind::Valkey91);
}

/// Each conversation in one write, then request by request, in both protocols.
fn compare_all(kind: Kind) {
    let pair = Pair::start(kind);
    let mut differences = Vec::new();
    for conversation in CONVERSATIONS {
        for start in ["", "HELLO 3; "] {
            for pipelined in [true, false] {
                differences.extend(pair.difference(&format!("{start}{conversation}"), pipelined));
            }
        }
    }
    assert!(differences.is_empty(), "{}: {} differences:\n{}", kind.name(), differences.len(), differences.join("\n"));
}

#[test]
fn random_conversations_read_the_same() {
    let count = env::var("OUTRIGGER_CONVERSATIONS").map_or(100, |count| count.parse().expect("a number"));
    let seed = env::var("OUTRIGGER_SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().expect("a number"));
    let mut figures = Figures::of("random conversations with transactions");
    figures.add("seed", seed);
    figures.add("for_each_server", count);
    let mut rng = fastrand::Rng::with_seed(seed);
    for kind in Kind::ALL {
        let pair = Pair::start(kind);
        for _ in 0..count {
            let mut conversation = vec![*rng.choice(&["HELLO 2", "HELLO 3"]).expect("there are two")];
            conversation.extend((0..rng.usize(1..LONGEST)).map(|_| *rng.choice(STEPS).expect("there are steps")));
            let difference = pair.difference(&conversation.join("; "), rng.bool());
            assert_eq!(difference, None, "{}, seed {seed}", kind.name());
        }
    }
}

/// Two fresh servers of one kind: one behind a proxy, one not.
struct Pair {
    servers: [Server; 2],
    proxy: Proxy,
}

impl Pair {
    fn start(kind: Kind) -> Self {
        let servers = [Server::start(kind), Server::start(kind)];
        let proxy = Proxy::patient(&servers[0], |_| {});
        // What the server is decides about some words.
        assert_eq!(proxy.connect().ask("DBSIZE"), servers[1].connect().ask("DBSIZE"));
        Self { servers, proxy }
    }

    /// How a conversation differs through the proxy.
    fn difference(&self, conversation: &str, pipelined: bool) -> Option<String> {
        let proxied = talk(self.proxy.connect(), conversation, pipelined);
        let direct = talk(self.servers[1].connect(), conversation, pipelined);
        (proxied != direct).then(|| {
            let (proxied, direct) = where_they_part(&proxied, &direct);
            format!("{conversation} (pipelined: {pipelined})\n    proxied {proxied}\n    direct  {direct}")
        })
    }
}

#[test]
fn a_transaction_may_come_byte_by_byte() {
    let server = Server::start(Kind::Redis70);
    let proxy = Proxy::patient(&server, |_| {});
    for protocol in [2, 3] {
        let mut client = proxy.connect();
        if protocol == 3 {
            client.hello3();
        }
        let requests = ["MULTI", "SET k v", "GET none", "EXEC", "GET k"].map(words).concat();
        requests.iter().for_each(|byte| client.send(&[*byte]));
        let nil = if protocol == 3 { "_" } else { "$-1" };
        let due = format!("+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n+OK\r\n{nil}\r\n$1\r\nv\r\n");
        let replies: Vec<u8> = (0..5).flat_map(|_| client.reply()).collect();
        assert_eq!(shown(&replies), shown(due.as_bytes()));
    }
}

#[test]
fn a_transaction_may_come_inline() {
    let server = Server::start(Kind::Redis70);
    let proxy = Proxy::patient(&server, |_| {});
    let mut client = proxy.connect();
    client.send(b"multi\r\nset k \"two words\"\r\nget k\r\nexec\r\n");
    let replies: Vec<u8> = (0..4).flat_map(|_| client.reply()).collect();
    assert_eq!(shown(&replies), r"+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n+OK\r\n$9\r\ntwo words\r\n");
}

/// What is no request ends the connection, and with it the transaction.
#[test]
fn a_protocol_error_ends_the_transaction() {
    for kind in Kind::ALL {
        let server = Server::start(kind);
        let proxy = Proxy::patient(&server, |_| {});
        let [proxied, direct] = [proxy.connect(), server.connect()].map(|mut client: Client| {
            client.send(&[words("MULTI"), words("SET k v"), b"*1\r\nGET\r\n".to_vec(), words("EXEC")].concat());
            client.rest_however_closed().expect("it is closed")
        });
        assert_eq!(shown(&proxied), shown(&direct), "{}", kind.name());
        assert_eq!(server.connect().ask("EXISTS k"), b":0\r\n");
    }
}

#[test]
fn a_client_without_a_password_cannot_begin() {
    use std::io::Write;
    let mut file = tempfile::NamedTempFile::new().expect("a file can be made");
    file.write_all(b"secret").expect("it can be written");
    for kind in Kind::ALL {
        let server = Server::start(kind);
        let closed = Server::start_with(kind, &["--requirepass", "secret"]);
        let proxy = Proxy::patient(&server, |flags| {
            flags.arg("--password-file").arg(file.path());
        });
        if crate::support::is_direct() {
            return;
        }
        let [proxied, direct] = [proxy.connect(), closed.connect()]
            .map(|client| talk(client, "MULTI; SET k v; EXEC; DISCARD; AUTH secret; MULTI; GET k; EXEC", true));
        assert_eq!(shown(&proxied), shown(&direct), "{}", kind.name());
    }
}
