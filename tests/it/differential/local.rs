//! What the proxy answers itself reads as the server's own answer, with arguments right and wrong.

use super::compare::where_they_part;
use crate::support::{Client, Frame, Kind, Proxy, Server, words};

/// Conversations, each on a connection of its own; requests are separated by `;`.
const CONVERSATIONS: &[&str] = &[
    "PING",
    "PING message; PING; ping",
    "PING a b",
    "ECHO text; echo text",
    "ECHO; ECHO a b",
    "SELECT 0; SET k zero; SELECT 15; GET k; SET k fifteen; SELECT 0; GET k; SELECT 15; GET k",
    "SELECT abc; PING",
    "SELECT 16; SELECT 99999; SELECT -1; SELECT 99999999999999999999",
    "SELECT; SELECT 1 2; SELECT 1.5",
    "SELECT 3; SET k three; SELECT 16; GET k",
    "AUTH; AUTH a b c",
    "CLIENT SETNAME name; CLIENT GETNAME",
    "CLIENT GETNAME",
    "CLIENT SETNAME a\tb; CLIENT GETNAME",
    "CLIENT SETNAME; CLIENT SETNAME a b; CLIENT GETNAME x",
    "CLIENT REPLY foo; PING; CLIENT REPLY; CLIENT REPLY ON",
    "CLIENT REPLY SKIP; PING; PING after",
    "CLIENT REPLY SKIP; RESET; PING",
    "CLIENT REPLY OFF; RESET; PING",
    "CLIENT REPLY OFF; PING; SET k silent; GET k; CLIENT REPLY ON; GET k",
    "CLIENT NOSUCH; CLIENT NOSUCH a b",
    "CLIENT; CLIENT HELP",
    "CLIENT ID x; CLIENT INFO x",
    "CLIENT NO-EVICT OFF; CLIENT NO-EVICT; CLIENT NO-EVICT bad",
    "CLIENT NO-TOUCH OFF; CLIENT NO-TOUCH; CLIENT NO-TOUCH bad",
    "CLIENT SETINFO LIB-NAME lib; CLIENT SETINFO LIB-VER 1.0",
    "CLIENT SETINFO; CLIENT SETINFO NOSUCH x; CLIENT SETINFO LIB-NAME",
    "CLIENT MAINT_NOTIFICATIONS ON; CLIENT MAINT_NOTIFICATIONS",
    "HELLO; PING",
    "HELLO 2; GET missing",
    "HELLO 3; GET missing; HELLO 2; GET missing; HELLO 3; HGETALL missing",
    "HELLO 4; GET missing",
    "HELLO 1; HELLO 0; HELLO -1",
    "HELLO abc; HELLO 99999999999999999999",
    "HELLO 3 BADOPT; GET missing",
    "HELLO 3 AUTH x; HELLO 3 AUTH; GET missing",
    "HELLO 3 SETNAME; HELLO 3 SETNAME a b; CLIENT GETNAME; GET missing",
    "HELLO 3 SETNAME me; CLIENT GETNAME; GET missing",
    "HELLO 2 SETNAME me; CLIENT GETNAME",
    "HELLO 3 SETNAME a\tb; CLIENT GETNAME; GET missing",
    "RESET; PING",
    "HELLO 3; SELECT 5; SET k five; CLIENT SETNAME me; RESET; GET k; CLIENT GETNAME; HELLO 3; GET missing",
    "RESET x",
    "QUIT; PING",
    "SET k v; GET k; QUIT",
    "quit now",
];

/// Conversations whose words differ on these servers by intent: the proxy knows a subcommand that they do not.
const NEWER_THAN: &[(&str, Kind)] = &[
    ("CLIENT SETINFO LIB-NAME lib", Kind::Redis70),
    ("CLIENT NO-TOUCH OFF", Kind::Redis70),
    ("CLIENT NO-EVICT OFF", Kind::Redis62),
];

#[test]
fn local_answers_are_the_servers_own_on_redis_6_2() {
    compare_all(Kind::Redis62);
}

#[test]
fn local_answers_are_the_servers_own_on_redis_7_0() {
    compare_all(Kind::Redis70);
}

#[test]
fn local_answers_are_the_servers_own_on_valkey_9_1() {
    compare_all(Kind::Valkey91);
}

/// Each conversation in one write, then request by request: pipelined local answers must wait their turn too.
fn compare_all(kind: Kind) {
    let servers = [Server::start(kind), Server::start(kind)];
    let proxy = Proxy::patient(&servers[0], |_| {});
    let mut differences = Vec::new();
    for conversation in CONVERSATIONS.iter().filter(|conversation| is_meant_for(conversation, kind)) {
        for pipelined in [true, false] {
            let proxied = talk(proxy.connect(), conversation, pipelined);
            let direct = talk(servers[1].connect(), conversation, pipelined);
            if proxied != direct {
                let (proxied, direct) = where_they_part(&proxied, &direct);
                differences.push(format!(
                    "{conversation} (pipelined: {pipelined})\n    proxied {proxied}\n    direct  {direct}"
                ));
            }
        }
    }
    assert!(differences.is_empty(), "{}: {} differences:\n{}", kind.name(), differences.len(), differences.join("\n"));
}

fn is_meant_for(conversation: &str, kind: Kind) -> bool {
    !NEWER_THAN.iter().any(|(start, newest_without)| conversation.starts_with(start) && kind <= *newest_without)
}

/// All replies of a conversation (requests separated by `;`), ended by QUIT and the close that it brings. The id that HELLO
/// tells is made zero.
pub fn talk(mut client: Client, conversation: &str, pipelined: bool) -> Vec<u8> {
    let requests: Vec<_> = conversation.split(';').map(|text| request(text.trim_start_matches(' '))).collect();
    let silent = conversation.contains("REPLY SKIP") || conversation.contains("REPLY OFF");
    if pipelined || silent {
        client.send(&[requests.concat(), words("QUIT")].concat());
    } else {
        return one_by_one(client, &requests);
    }
    modulo_id(&client.rest_however_closed().expect("QUIT ends the connection"))
}

fn one_by_one(mut client: Client, requests: &[Vec<u8>]) -> Vec<u8> {
    let mut replies = Vec::new();
    for request in requests {
        match client.exchange(request) {
            Ok(Some(reply)) => replies.extend(reply),
            Ok(None) | Err(_) => break,
        }
    }
    let _ = client.try_send(&words("QUIT"));
    replies.extend(client.rest_however_closed().expect("QUIT ends the connection"));
    modulo_id(&replies)
}

/// Arguments are separated by single spaces, so that a tab can be part of one.
fn request(text: &str) -> Vec<u8> {
    crate::support::command(&text.split(' ').collect::<Vec<_>>())
}

/// The replies with the connection's id, as HELLO tells it, made zero: the only thing in them that must differ.
pub fn modulo_id(mut bytes: &[u8]) -> Vec<u8> {
    let mut replies = Vec::new();
    while let Some((frame, length)) = Frame::parse(bytes) {
        let names_id = |pair: &[Frame]| pair[0].text == b"id" && pair[1].kind == b':';
        if frame.items.chunks_exact(2).any(names_id) {
            replies.extend(format!("{:?}\r\n", without_id(frame)).into_bytes());
        } else {
            replies.extend_from_slice(&bytes[..length]);
        }
        bytes = &bytes[length..];
    }
    replies.extend_from_slice(bytes);
    replies
}

fn without_id(mut frame: Frame) -> Frame {
    let id = frame.items.iter().position(|item| item.text == b"id").expect("checked before");
    frame.items[id + 1].text = b"0".to_vec();
    frame
}

#[test]
fn a_clients_own_id_is_the_same_wherever_it_is_told() {
    let server = Server::start(Kind::Redis70);
    let proxy = Proxy::patient(&server, |_| {});
    let mut client = proxy.connect();
    let id = client.frame("CLIENT ID");
    assert_eq!(id.kind, b':');
    let hello = client.frame("HELLO 3");
    let told = hello.items.chunks_exact(2).find(|pair| pair[0].text == b"id").expect("HELLO tells the id");
    assert_eq!(told[1].text, id.text);
    let info = client.frame("CLIENT INFO").as_text();
    assert!(info.contains(&format!("id={} ", id.as_text())), "CLIENT INFO says {info}");
    assert_ne!(proxy.connect().frame("CLIENT ID").text, id.text);
}
