//! Who may come in: sockets, passwords, addresses.

use crate::differential::talk;
use crate::support::{Client, Kind, Proxy, Server, is_direct};
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use tempfile::TempDir;

/// What clients say to a server with the password `secret`; requests are separated by `;`.
const CONVERSATIONS: &[&str] = &[
    "GET k; PING; ECHO a; SELECT 1; CLIENT SETNAME a",
    "AUTH wrong; GET k",
    "AUTH default wrong; AUTH nobody secret; AUTH ; GET k",
    "AUTH; AUTH a b c; GET k",
    "AUTH secret; SET k v; GET k; AUTH wrong; GET k",
    "AUTH default secret; PING",
    "HELLO; HELLO 2; HELLO 3; GET k",
    "HELLO 3 AUTH default wrong; GET missing",
    "HELLO 3 AUTH default secret; GET missing",
    "HELLO 2 AUTH default secret SETNAME me; CLIENT GETNAME; GET missing",
    "HELLO 4 AUTH default secret; GET missing",
    "AUTH secret; RESET; GET k; AUTH secret; GET missing",
    "AUTH secret; HELLO 3; GET missing",
    "QUIT",
];

/// Input that a server with a password refuses to read on from who has not given it.
const TOO_MUCH: &[&[u8]] = &[b"*11\r\n", b"*2\r\n$4\r\nAUTH\r\n$16385\r\n"];

#[test]
fn the_password_is_asked_for_in_the_servers_words() {
    if is_direct() {
        return;
    }
    for kind in Kind::ALL {
        let differences = differences_before_the_password(kind);
        assert!(differences.is_empty(), "{}:\n{}", kind.name(), differences.join("\n"));
    }
}

/// A proxy with a password before a server without one, against a server with that password.
fn differences_before_the_password(kind: Kind) -> Vec<String> {
    let servers = [Server::start(kind), Server::start_with(kind, &["--requirepass", "secret"])];
    let password = SecretFile::with("secret\n");
    let proxy = Proxy::start(&servers[0], |flags| {
        flags.arg("--password-file").arg(&password.path);
    });
    let both = || [proxy.connect(), servers[1].connect()];
    let mut differences = Vec::new();
    let mut compare = |what: String, [proxied, direct]: [Vec<u8>; 2]| {
        if proxied != direct {
            differences.push(format!(
                "{what}\n    proxied {}\n    direct  {}",
                proxied.escape_ascii(),
                direct.escape_ascii()
            ));
        }
    };
    for conversation in CONVERSATIONS {
        for pipelined in [true, false] {
            let replies = both().map(|client| talk(client, conversation, pipelined));
            compare(format!("{conversation} (pipelined: {pipelined})"), replies);
        }
    }
    for input in TOO_MUCH {
        let replies = both().map(|mut client| {
            client.send(input);
            client.rest().expect("an orderly end")
        });
        compare(input.escape_ascii().to_string(), replies);
    }
    differences
}

#[test]
fn unix_sockets_serve_beside_tcp() {
    if is_direct() {
        return;
    }
    let server = Server::start(Kind::Redis70);
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let address = format!("unix:{}", directory.path().join("socket").display());
    let proxy = Proxy::start(&server, |flags| {
        flags.args(["--listen", "127.0.0.1:0", "--listen", &address, "--listen", "[::1]:0"]);
    });
    assert!(proxy.addresses().contains(&address), "listening on {:?}", proxy.addresses());
    for (number, address) in proxy.addresses().iter().enumerate() {
        let mut client = Client::connect(address);
        assert_eq!(client.ask(&format!("SET k{number} v")), b"+OK\r\n");
        assert_eq!(client.ask(&format!("GET k{number}")), b"$1\r\nv\r\n");
        client.finish_sending();
        assert_eq!(client.rest().expect("an orderly end"), b"");
    }
}

#[test]
fn a_listener_for_everyone_must_be_asked_for() {
    if is_direct() {
        return;
    }
    let server = Server::start(Kind::Redis70);
    let everyone = |flags: &mut Command| {
        flags.args(["--listen", "0.0.0.0:0"]);
    };
    let refusal =
        Proxy::try_start(&server, everyone).err().expect("a listener off loopback without a password is refused");
    assert!(!refusal.status.success(), "it ended with {}", refusal.status);
    assert!(refusal.log.contains("--insecure-listen"), "it says nothing of --insecure-listen:\n{}", refusal.log);
    let password = SecretFile::with("secret");
    for with in [vec!["--insecure-listen"], vec!["--password-file", password.path.to_str().expect("a path in UTF-8")]] {
        let proxy = Proxy::start(&server, |flags| {
            everyone(flags);
            flags.args(&with);
        });
        let port = proxy.address().rsplit(':').next().expect("an address has a port");
        let mut client = Client::connect(&format!("127.0.0.1:{port}"));
        assert_eq!(client.ask("AUTH secret"), b"+OK\r\n", "with {with:?}");
    }
}

/// A file with a password, removed when dropped.
struct SecretFile {
    path: PathBuf,
    _directory: TempDir,
}

impl SecretFile {
    fn with(text: &str) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let path = directory.path().join("password");
        fs::write(&path, text).expect("the file can be written");
        Self { path, _directory: directory }
    }
}
