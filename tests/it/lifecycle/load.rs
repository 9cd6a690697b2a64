//! SIGTERM under load: what was answered has run, what has run was answered, nothing is lost that was handed out, and every
//! connection ends in an orderly way.

use super::stop;
use crate::support::{Client, Kind, PATIENCE, Proxy, Server, is_direct, wait_until, words};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

const WRITERS: usize = 50;
const POPPERS: usize = 10;
const HEARERS: usize = 10;

/// Requests of a writer in one write.
const PIPELINE: usize = 20;

#[test]
fn under_load_everything_that_was_read_is_answered() {
    if is_direct() {
        return;
    }
    for kind in [Kind::Redis70, Kind::Valkey91] {
        let server = Server::start(kind);
        let mut proxy = Proxy::patient(&server, |flags| {
            flags.args(["--max-sigterm-delay", "60s"]);
        });
        let (written, popped, pushed) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
        thread::scope(|scope| {
            let writers: Vec<_> = (0..WRITERS)
                .map(|number| {
                    let (client, written) = (client(&proxy, number), &written);
                    scope.spawn(move || write(client, number, written))
                })
                .collect();
            for number in 0..POPPERS {
                let (client, popped) = (client(&proxy, number), &popped);
                scope.spawn(move || pop(client, popped));
            }
            for number in 0..HEARERS {
                let mut client = client(&proxy, number);
                scope.spawn(move || {
                    client.send(&words("SUBSCRIBE news"));
                    while client.try_reply().expect("the end is an orderly one").is_some() {}
                });
            }
            let pushes = scope.spawn(|| push(&server, &written, &pushed));
            wait_until("they are busy", PATIENCE, || {
                written.load(Ordering::Relaxed) > 20_000 && popped.load(Ordering::Relaxed) > 100
            });
            stop(&proxy);
            assert_eq!(proxy.ended().code(), Some(0));
            for (number, writer) in writers.into_iter().enumerate() {
                let answered = writer.join().expect("no reply is missing or out of order");
                let run = server.connect().frame(&format!("GET c:{number}")).as_text();
                assert_eq!(run, answered.to_string(), "what has run, and what was answered");
            }
            written.store(u64::MAX, Ordering::Relaxed);
            pushes.join().expect("the server takes what is pushed");
        });
        let left: u64 = server.connect().frame("LLEN jobs").as_text().parse().expect("a number");
        assert_eq!(popped.into_inner() + left, pushed.into_inner(), "no element is lost");
        assert_eq!(proxy.logged("cut_off"), 0);
    }
}

fn client(proxy: &Proxy, number: usize) -> Client {
    let mut client = proxy.connect();
    if number % 2 == 1 {
        client.hello3();
    }
    client
}

/// Counts as fast as it can, until the end of the stream; returns how far it was told that it came.
fn write(mut client: Client, number: usize, written: &AtomicU64) -> u64 {
    let requests = words(&format!("INCR c:{number}")).repeat(PIPELINE);
    let mut count = 0;
    loop {
        // Its reading side says what has become of the connection.
        let sent = client.try_send(&requests);
        for _ in 0..PIPELINE {
            let Some(reply) = client.try_reply().expect("the end is an orderly one") else { return count };
            count += 1;
            assert_eq!(reply, format!(":{count}\r\n").into_bytes());
        }
        sent.expect("whose requests are all answered, they were all sent");
        written.fetch_add(PIPELINE as u64, Ordering::Relaxed);
    }
}

/// Takes elements one by one, until the end of the stream.
fn pop(mut client: Client, popped: &AtomicU64) {
    while let Ok(Some(reply)) = client.exchange(&words("BLPOP jobs 0")) {
        assert!(reply.starts_with(b"*2\r\n"), "{}", reply.escape_ascii());
        popped.fetch_add(1, Ordering::Relaxed);
    }
}

/// Adds elements and publishes, until nobody writes any more.
fn push(server: &Server, written: &AtomicU64, pushed: &AtomicU64) {
    let mut client = server.connect();
    while written.load(Ordering::Relaxed) < u64::MAX {
        client.pipeline(&[words("RPUSH jobs 1"), words("PUBLISH news 1")]);
        pushed.fetch_add(1, Ordering::Relaxed);
        thread::yield_now();
    }
}
