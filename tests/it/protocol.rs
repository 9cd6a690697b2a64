//! Odd and broken input: the words are the server's, they come after the replies that were due, and the connection ends
//! (or goes on) as the server's would, in whatever pieces the bytes arrive.

use crate::support::{Client, Kind, Proxy, Server, command, is_direct, words};
use std::io;
use std::time::Duration;

/// Input that ends the connection with an error. No line holds a NUL: the server looks for the line's end up to it, and waits
/// for ever.
const REFUSED: &[&[u8]] = &[
    b"*abc\r\n",
    b"*\r\n",
    b"*1x\r\n",
    b"*+1\r\n",
    b"*01\r\n",
    b"*1 \r\n",
    b"* 1\r\n",
    b"*1.5\r\n",
    b"*2147483648\r\n",
    b"*99999999999999999999\r\n",
    b"*-99999999999999999999\r\n",
    b"*\xff\xfe\r\n",
    b"*1\r\n:5\r\n",
    b"*1\r\nPING\r\n",
    b"*1\r\n\r\n",
    b"*1\r\n\n\r\n",
    b"*1\r\n*1\r\n",
    b"*1\r\n+OK\r\n",
    b"*1\r\n\xff\r\n",
    b"*1\r\n$\r\n",
    b"*1\r\n$-1\r\n",
    b"*1\r\n$-5\r\n",
    b"*1\r\n$abc\r\n",
    b"*1\r\n$4x\r\n",
    b"*1\r\n$+4\r\n",
    b"*1\r\n$04\r\n",
    b"*1\r\n$ 4\r\n",
    b"*1\r\n$536870913\r\n",
    b"*1\r\n$4294967300\r\n",
    b"*1\r\n$99999999999999999999\r\n",
    b"*2\r\n$3\r\nGET\r\n$-1\r\n",
    b"*2\r\n$3\r\nGET\r\n:1\r\n",
    b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$x\r\n",
    b"ECHO \"unbalanced\r\n",
    b"ECHO 'unbalanced\r\n",
    b"\"\r\n",
    b"'\n",
];

/// Quotes that Redis refuses and Valkey 9.1 understands; the proxy has one set of rules, that of Redis.
const REFUSED_BY_REDIS: &[&[u8]] =
    &[b"ECHO \"a\"b\r\n", b"ECHO 'a'b\r\n", b"ECHO a\"b\"c\r\n", b"ECHO \"ends in a backslash\\\"\r\n"];

/// Input that is odd and yet understood, or passed over.
const ACCEPTED: &[&[u8]] = &[
    b"*0\r\n",
    b"*-1\r\n",
    b"*-10\r\n",
    b"*-9223372036854775808\r\n",
    b"\r\n",
    b"\n",
    b"\n\n\r\n\r\n",
    b"   \r\n",
    b"\t \x0b\x0c\r\n",
    b"PING\r\n",
    b"PING\n",
    b"  PING  \r\n",
    b"PING\r\r\n",
    b"pInG\r\n",
    b"PING\r\nPING a\nPING b\r\n",
    b"PING a b\r\n",
    b"ECHO\ta\r\n",
    b"ECHO \"\"\r\n",
    b"ECHO ''\r\n",
    b"ECHO \"with spaces\"\r\n",
    b"ECHO 'with spaces'\r\n",
    b"ECHO \"a\\r\\n\\t\\a\\b\\\\\\\"\\q\\x41\\x00\\xff\"\r\n",
    b"ECHO \"\\xzz \\x4\"\r\n",
    b"ECHO 'it\\'s \\n raw'\r\n",
    b"ECHO \\x41\r\n",
    b"ECHO a\"b c\"\r\n",
    b"ECHO caf\xc3\xa9\r\n",
    b"SET inline \"v v\"\r\nGET inline\r\n",
    b"GET k\n*2\r\n$3\r\nGET\r\n$1\r\nk\r\nGET k\r\n",
    b"*2\r\n$4\r\nECHO\r\n$0\r\n\r\n",
    b"*2\r\n$4\r\nECHO\r\n$4\r\n\r\n\r\n\r\n",
    b"*2\r\n$4\r\nECHO\r\n$5\r\n*1\r\n$\r\n",
    b"*2\r\n$3\r\nGET\r\n$0\r\n\r\n",
    b"GET / HTTP/1.0\r\n\r\n",
];

/// Line ends that Redis never looks at and Valkey 9.1 refuses; the proxy has one set of rules, that of Redis.
const ACCEPTED_BY_REDIS: &[&[u8]] =
    &[b"*1\r\n$4\r\nPINGxx", b"*2\r\n$3\r\nGETxx$1\r\nkyy", b"*2\rx$3\ryGET\r\n$1\rzk\r\n"];

/// Commands that a browser can be tricked into sending: the connection ends without a word.
const FORGED: &[&[u8]] = &[
    b"POST / HTTP/1.1\r\nContent-Length: 10\r\n\r\n",
    b"post\r\n",
    b"Host: localhost\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost:6379\r\nAccept: */*\r\n\r\n",
    b"host: x\n",
    b"*1\r\n$4\r\nPOST\r\n",
    b"*2\r\n$5\r\nHost:\r\n$1\r\nx\r\n",
];

/// Garbage that reads as the name of a command that does not exist.
const UNKNOWN: &[&[u8]] = &[
    b"$5\r\n",
    b":1\r\n",
    b"+OK\r\n",
    b"\x16\x03\x01\x02\x01\x01\n",
    b"NOSUCH a b \"c d\" \x01\r\n",
    b"*2\r\n$6\r\nNOSUCH\r\n$3\r\na\r\n\r\n",
    b"*1\r\n$0\r\n\r\n",
    b"ECHO\x0ba\r\n",
    b"*2\r\n$3\r\nG T\r\n$1\r\nk\r\n",
];

/// Commands that nobody knows where Valkey 9.1 differs from Redis: it understands quotes within a word, and leaves bytes
/// above 0x7f out when it quotes what it got.
const UNKNOWN_TO_REDIS: &[&[u8]] = &[b"{\"json\": true}\r\n", b"NOSUCH a \x01\xff\r\n"];

/// How the bytes are handed over.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Pieces {
    Whole,
    SingleBytes,
}

#[test]
fn broken_input_is_refused_in_the_servers_words() {
    Bench::for_each_server(|bench| {
        let by_redis = if bench.kind == Kind::Valkey91 { &[] } else { REFUSED_BY_REDIS };
        for input in REFUSED.iter().chain(by_redis) {
            bench.compare(input, b"", Pieces::Whole);
            bench.compare(input, b"", Pieces::SingleBytes);
        }
    });
}

#[test]
fn odd_input_is_understood_as_the_server_understands_it() {
    Bench::for_each_server(|bench| {
        let by_redis = if bench.kind == Kind::Valkey91 { &[] } else { ACCEPTED_BY_REDIS };
        for input in ACCEPTED.iter().chain(by_redis) {
            bench.compare(input, b"QUIT\r\n", Pieces::Whole);
            bench.compare(input, b"QUIT\r\n", Pieces::SingleBytes);
        }
    });
}

#[test]
fn endless_lines_are_refused_in_the_servers_words() {
    let beginnings: [&[u8]; 4] = [b"a", b"ECHO \"", b"*", b"*1\r\n$"];
    Bench::for_each_server(|bench| {
        for beginning in beginnings {
            bench.compare(&[beginning, &[b'1'; 70_000]].concat(), b"", Pieces::Whole);
        }
    });
}

#[test]
fn garbage_that_reads_as_a_command_is_unknown_in_the_servers_words() {
    Bench::for_each_server(|bench| {
        let by_redis = if bench.kind == Kind::Valkey91 { &[] } else { UNKNOWN_TO_REDIS };
        for input in UNKNOWN.iter().chain(by_redis) {
            bench.compare(input, b"QUIT\r\n", Pieces::Whole);
            bench.compare(input, b"QUIT\r\n", Pieces::SingleBytes);
        }
    });
}

#[test]
fn forged_requests_end_the_connection_without_a_word() {
    let server = Server::start(Kind::Redis70);
    let proxy = Proxy::before(&server);
    for input in FORGED {
        let mut client = proxy.connect();
        assert_eq!(client.ask("PING"), b"+PONG\r\n");
        client.send(input);
        let rest = client.rest().unwrap_or_else(|error| panic!("{}: no orderly end: {error}", input.escape_ascii()));
        let due = b"-ERR wrong number of arguments for 'get' command\r\n";
        let said_nothing = rest.is_empty() || (input.starts_with(b"GET /") && rest == due);
        assert!(said_nothing, "after {}: {}", input.escape_ascii(), rest.escape_ascii());
    }
}

#[test]
fn a_client_that_stops_sending_gets_all_its_replies() {
    const REQUESTS: usize = 5_000;
    let server = Server::start(Kind::Redis70);
    let proxy = Proxy::before(&server);
    let mut client = proxy.connect();
    let value = vec![b'v'; 2_000];
    assert_eq!(client.call(&[b"SET", b"k", &value]), b"+OK\r\n");
    let get_reply = [b"$2000\r\n".as_slice(), &value, b"\r\n"].concat();
    let (mut requests, mut due) = (Vec::new(), Vec::new());
    for number in 0..REQUESTS {
        if number % 3 == 0 {
            requests.extend(words(&format!("PING {number}")));
            due.extend(format!("${}\r\n{number}\r\n", number.to_string().len()).into_bytes());
        } else {
            requests.extend(words("GET k"));
            due.extend_from_slice(&get_reply);
        }
    }
    client.send(&requests);
    client.finish_sending();
    let received = client.rest().expect("an orderly end");
    if is_direct() {
        return; // The server itself drops what it has not sent when the client stops sending.
    }
    assert_eq!(received.len(), due.len());
    assert!(received == due, "the replies are not those that were due");
}

#[test]
fn a_client_that_stops_sending_within_a_request_gets_the_replies_before_it() {
    let server = Server::start(Kind::Redis70);
    let proxy = Proxy::before(&server);
    let mut client = proxy.connect();
    client.send(b"PING a\r\nSET k v\r\nGET k\r\n*2\r\n$3\r\nGET\r\n$1");
    client.finish_sending();
    assert_eq!(client.rest().expect("an orderly end"), b"$1\r\na\r\n+OK\r\n$1\r\nv\r\n");
}

#[test]
fn what_the_server_would_refuse_costs_no_neighbour_its_connection() {
    if is_direct() {
        return;
    }
    let server = Server::start(Kind::Valkey91);
    let proxy = Proxy::before(&server);
    let mut neighbour = proxy.connect();
    assert_eq!(neighbour.ask("SET k v"), b"+OK\r\n");
    let before = server.info_number("stats", "total_connections_received");
    for input in REFUSED_BY_REDIS.iter().chain(ACCEPTED_BY_REDIS).chain(REFUSED) {
        let mut client = proxy.connect();
        client.send(&words("GET k"));
        neighbour.send(&words("GET k").repeat(10));
        client.send(input);
        assert_eq!(client.reply(), b"$1\r\nv\r\n");
        for _ in 0..10 {
            assert_eq!(neighbour.reply(), b"$1\r\nv\r\n", "beside {}", input.escape_ascii());
        }
    }
    assert_eq!(neighbour.ask("GET k"), b"$1\r\nv\r\n");
    let after = server.info_number("stats", "total_connections_received");
    assert_eq!(after, before + 1, "the proxy had to connect again");
}

/// A server behind a proxy, and its twin that is asked directly.
struct Bench {
    kind: Kind,
    servers: [Server; 2],
    proxy: Proxy,
    differences: Vec<String>,
}

impl Bench {
    /// Runs `story` on a bench of each server; fails with all differences of one.
    fn for_each_server(story: impl Fn(&mut Self)) {
        for kind in Kind::ALL {
            let servers = [Server::start(kind), Server::start(kind)];
            let proxy = Proxy::before(&servers[0]);
            let big = vec![b'b'; 100_000];
            for server in &servers {
                assert_eq!(server.connect().call(&[b"SET", b"big", &big]), b"+OK\r\n");
            }
            let mut bench = Self { kind, servers, proxy, differences: Vec::new() };
            story(&mut bench);
            let differences = &bench.differences;
            assert!(
                differences.is_empty(),
                "{}: {} differences:\n{}",
                kind.name(),
                differences.len(),
                differences.join("\n")
            );
        }
    }

    /// Valid requests, the input, and what may follow it: all bytes until the end must be the same.
    fn compare(&mut self, input: &[u8], after: &[u8], pieces: Pieces) {
        let before = [words("SET k v"), words("GET big"), words("GET k"), command(&["ECHO", "due"])].concat();
        let bytes = [&before, input, after].concat();
        let proxied = self.proxy.connect();
        let direct = self.servers[1].connect();
        let direct = converse(direct, &bytes, pieces, Client::rest_however_closed);
        let proxied =
            converse(proxied, &bytes, pieces, if is_direct() { Client::rest_however_closed } else { Client::rest });
        if proxied != direct || direct.is_err() {
            let shown = input[..input.len().min(80)].escape_ascii();
            let [proxied, direct] = [proxied, direct].map(|end| end.map_or_else(|error| error, |bytes| ending(&bytes)));
            self.differences.push(format!("{shown} ({pieces:?})\n    proxied {proxied}\n    direct  {direct}"));
        }
    }
}

/// All that is received until the end; or why there is no proper end.
fn converse(
    mut client: Client,
    bytes: &[u8],
    pieces: Pieces,
    rest: fn(&mut Client) -> io::Result<Vec<u8>>,
) -> Result<Vec<u8>, String> {
    client.set_patience(Duration::from_secs(5)).expect("a time limit can be set");
    hand_over(&mut client, bytes, pieces);
    rest(&mut client).map_err(|error| format!("no orderly end: {error}; received {}", client.unread_shown()))
}

/// Sends the bytes; the other side may stop listening before the last.
fn hand_over(client: &mut Client, bytes: &[u8], pieces: Pieces) {
    let size = if pieces == Pieces::Whole { bytes.len() } else { 1 };
    for piece in bytes.chunks(size) {
        if client.try_send(piece).is_err() {
            break;
        }
    }
}

/// The last bytes, fit for a message.
fn ending(bytes: &[u8]) -> String {
    format!("({} bytes) …{}", bytes.len(), bytes[bytes.len().saturating_sub(160)..].escape_ascii())
}
