//! Each difference is levelled, and what is next to it is not.

use super::super::script::{Script, Step};
use super::super::side::Heard;
use super::{Context, counts_receivers, is_seen, same};
use crate::support::{bulk, frame_length};
use std::collections::BTreeMap;

/// Whether clients that hear this in a step read the same.
fn same_in(step: &str, one: &str, other: &str) -> bool {
    let ids = |id: &str| BTreeMap::from([(id.to_owned(), "id of client 1 in life 1".to_owned())]);
    let (ours, theirs) = (ids("1001"), ids("2002"));
    let step = Script::read(step).steps.remove(0);
    same((&heard(one), &context(&ours, &step)), (&heard(other), &context(&theirs, &step)))
}

fn context<'a>(ids: &'a BTreeMap<String, String>, step: &'a Step) -> Context<'a> {
    Context { ids, step, counts_receivers: step.commands.iter().any(|command| counts_receivers(command)) }
}

/// Frames out of text in which words separated by blanks are lines.
fn heard(text: &str) -> Vec<Heard> {
    let bytes = text.split(' ').flat_map(|line| [line.as_bytes(), b"\r\n"].concat()).collect::<Vec<_>>();
    let (mut rest, mut frames) = (&bytes[..], Vec::new());
    while let Some(length) = (!rest.is_empty()).then(|| frame_length(rest)).flatten() {
        frames.push(Heard::Frame(rest[..length].to_vec()));
        rest = &rest[length..];
    }
    assert!(rest.is_empty(), "no frames: {text}");
    frames
}

#[test]
fn ids_are_those_of_the_same_client() {
    assert!(same_in("1: CLIENT ID", ":1001", ":2002"));
    assert!(same_in("1: HELLO", "*2 $2 id :1001", "*2 $2 id :2002"));
    assert!(!same_in("1: CLIENT ID", ":1001", ":2003"));
    assert!(!same_in("1: CLIENT ID", ":1001", "$4 2002"));
}

#[test]
fn lines_of_clients_differ_in_what_is_about_sockets() {
    let line = |fields: &str| vec![Heard::Frame(bulk(format!("{fields}\n").as_bytes()))];
    let step = Script::read("1: CLIENT INFO").steps.remove(0);
    let (ours, theirs) =
        (BTreeMap::from([("7".to_owned(), "me".to_owned())]), BTreeMap::from([("8".to_owned(), "me".to_owned())]));
    let same =
        |one: &str, other: &str| same((&line(one), &context(&ours, &step)), (&line(other), &context(&theirs, &step)));
    assert!(same("id=7 addr=/s:0 age=1 flags=U db=0 redir=7", "id=8 addr=127.0.0.1:1 age=0 flags=N db=0 redir=8"));
    assert!(!same("id=7 addr=/s:0 flags=U db=0", "id=8 addr=127.0.0.1:1 flags=N db=1"));
    assert!(!same("id=7 flags=Ux", "id=8 flags=N"));
    assert!(!same("id=7 name=ann", "id=8"));
    assert!(!same("id=7", "id=9"));
}

#[test]
fn one_message_may_come_by_its_patterns_in_any_order() {
    let by = |pattern: &str, text: &str| format!("*4 $8 pmessage $1 {pattern} $1 c $1 {text}");
    let both = |one: String, other: String| format!("{one} {other}");
    assert!(same_in("2: PUBLISH c x", &both(by("*", "x"), by("c", "x")), &both(by("c", "x"), by("*", "x"))));
    assert!(!same_in("2: PUBLISH c x", &both(by("*", "x"), by("*", "y")), &both(by("*", "y"), by("*", "x"))));
    assert!(!same_in("2: PUBLISH c x", &both(by("*", "x"), by("c", "x")), &both(by("*", "x"), by("*", "x"))));
}

#[test]
fn channels_left_all_at_once_come_in_any_order() {
    let left =
        |names: [&str; 2]| format!("*3 $11 unsubscribe $1 {} :1 *3 $11 unsubscribe $1 {} :0", names[0], names[1]);
    assert!(same_in("1: UNSUBSCRIBE", &left(["a", "b"]), &left(["b", "a"])));
    assert!(!same_in("1: UNSUBSCRIBE a b", &left(["a", "b"]), &left(["b", "a"])));
    assert!(!same_in("1: UNSUBSCRIBE", &left(["a", "b"]), &left(["a", "a"])));
    assert!(!same_in("1: UNSUBSCRIBE", &left(["a", "b"]), &left(["a", "b"]).replace(":1", ":2")));
}

#[test]
fn messages_pass_replies_only_and_only_in_resp3() {
    let (message, other) = (">3 $7 message $1 c $1 x", ">3 $7 message $1 c $1 y");
    let joined = |parts: &[&str]| parts.join(" ");
    assert!(same_in("1: PUBLISH c x", &joined(&[message, ":1"]), &joined(&[":1", message])));
    assert!(!same_in("1: PUBLISH c x", &joined(&[message, other]), &joined(&[other, message])));
    assert!(!same_in("1: PUBLISH c x", &joined(&[message, ":1", "+OK"]), &joined(&[message, "+OK", ":1"])));
    let joins = ">3 $9 subscribe $1 c :1";
    assert!(!same_in("1: SUBSCRIBE c", &joined(&[joins, message]), &joined(&[message, joins])));
    let old = message.replace('>', "*");
    assert!(!same_in("1: PUBLISH c x", &joined(&[&old, ":1"]), &joined(&[":1", &old])));
}

#[test]
fn monitor_shows_what_is_done_to_data() {
    let line = |text: &str| vec![Heard::Frame(format!("+{text}\r\n").into_bytes())];
    let (ids, step) = (BTreeMap::new(), Script::read("1: GET s1").steps.remove(0));
    let same =
        |one: &str, other: &str| same((&line(one), &context(&ids, &step)), (&line(other), &context(&ids, &step)));
    assert!(same("1.5 [0 127.0.0.1:1] \"GET\" \"s1\"", "2.5 [0 unix:/s] \"GET\" \"s1\""));
    assert!(!same("1.5 [0 127.0.0.1:1] \"GET\" \"s1\"", "2.5 [1 unix:/s] \"GET\" \"s1\""));
    assert!(!same("1.5 [0 lua] \"GET\" \"s1\"", "2.5 [0 unix:/s] \"GET\" \"s1\""));
    assert!(is_seen(b"+1.5 [0 lua] \"get\" \"s1\"\r\n") && is_seen(b"+OK\r\n") && is_seen(b"+1 fine\r\n"));
    assert!(!is_seen(b"+1.5 [0 127.0.0.1:1] \"DEBUG\" \"DIGEST\"\r\n"));
}

#[test]
fn some_hear_a_message_or_none() {
    assert!(same_in("1: PUBLISH c x", ":3", ":1"));
    assert!(!same_in("1: PUBLISH c x", ":3", ":0"));
    assert!(!same_in("1: INCR c1; PUBLISH c x", ":3 :3", ":1 :1"));
    assert!(same_in("1: INCR c1; PUBLISH c x", ":3 :3", ":3 :1"));
    assert!(same_in("1: MULTI; PUBLISH c x; EXEC", "+OK +QUEUED *1 :3", "+OK +QUEUED *1 :2"));
    assert!(!same_in("1: MULTI; INCR c1; EXEC", "+OK +QUEUED *1 :3", "+OK +QUEUED *1 :2"));
}
