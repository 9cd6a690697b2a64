//! The end: what was asked is answered, and nobody holds it up.

use super::caller::{Connection, JSON, head};
use super::{Identity, Webhook, review};
use crate::support::is_direct;
use rustix::process::Signal;
use std::time::{Duration, Instant};

/// A webhook that goes on for so long after SIGTERM, and ends after so long at the latest.
fn leaving(min: &str, max: &str) -> Webhook {
    Webhook::with(Identity::new(), |command| {
        command.args(["--min-sigterm-delay", min, "--max-sigterm-delay", max]);
    })
}

#[test]
fn it_goes_on_for_a_while_and_answers_what_it_has_begun() {
    if is_direct() {
        return;
    }
    let mut webhook = leaving("4s", "20s");
    let body = review("replicaset").to_string();
    let (one, other) = body.split_at(body.len() / 2);
    let mut idle = webhook.connect();
    assert_eq!(idle.probe(), 200);
    webhook.tell(Signal::TERM);
    webhook.wait_for("\"draining\"");
    let told = Instant::now();
    let mut kept = webhook.connect();
    let answer = kept.post("/mutate", &body);
    assert_eq!(answer.status, 200, "the API server does not know yet");
    assert_eq!(answer.header("connection"), Some("close"), "what it would ask over it later is asked elsewhere");
    assert_eq!(kept.rest(), "");
    let mut begun = webhook.connect();
    begun.send(head("POST", "/mutate", JSON, body.len()).as_bytes()).expect("it is taken");
    begun.send(one.as_bytes()).expect("it is taken");
    assert_eq!(idle.rest(), "", "who has asked nothing is closed");
    assert!(told.elapsed() > Duration::from_secs(1), "not before its time");
    begun.send(other.as_bytes()).expect("it is taken");
    let answer = begun.answer();
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")), "{answer:?}");
    assert_eq!(webhook.ended().code(), Some(0));
    webhook.wait_for("drained");
}

#[test]
fn nobody_holds_it_up() {
    if is_direct() {
        return;
    }
    let mut webhook = leaving("0s", "2s");
    let mut slow = webhook.connect();
    slow.send(b"POST /mutate HTTP/1.1\r\n").expect("it is taken");
    let _half: Vec<_> = (0..100).map(|_| std::net::TcpStream::connect(&webhook.address)).collect();
    assert_eq!(webhook.connect().probe(), 200);
    webhook.tell(Signal::TERM);
    assert_eq!(webhook.ended().code(), Some(0));
}

#[test]
fn told_twice_it_ends_at_once() {
    if is_direct() {
        return;
    }
    let mut webhook = leaving("15s", "20s");
    webhook.tell(Signal::INT);
    webhook.wait_for("\"draining\"");
    webhook.tell(Signal::TERM);
    assert_eq!(webhook.ended().code(), Some(143));
}

#[test]
fn everywhere_is_ipv4_and_ipv6() {
    if is_direct() {
        return;
    }
    let webhook = Webhook::with(Identity::new(), |command| {
        command.args(["--listen", "[::]:0"]);
    });
    let port = webhook.address.rsplit(':').next().expect("it has a port");
    for host in ["127.0.0.1", "[::1]"] {
        assert_eq!(Connection::open(&format!("{host}:{port}"), &[&webhook.identity]).probe(), 200, "{host}");
    }
}
