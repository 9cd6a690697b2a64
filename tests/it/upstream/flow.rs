//! Whoever does not read, upstream or client, holds up nobody else.

use super::{
    FILLINGS, assert_served, clients_on_one_line, clients_on_the_line, fillings, large as large_request, proxy_before,
    shown,
};
use crate::support::{Figures, Scripted, bulk, is_direct, words};
use std::thread;
use std::time::{Duration, Instant};

/// More than all kernel buffers of a connection hold, in bytes.
const LARGE: usize = 32 << 20;

/// The longest that a client may wait for its reply behind another's large one that is not taken.
const LONGEST_WAIT: Duration = Duration::from_secs(3);

#[test]
fn a_blocked_upstream_write_does_not_stop_reading() {
    if is_direct() {
        return;
    }
    let mut upstream = Scripted::start();
    let proxy = proxy_before(&upstream);
    let ([mut small, mut large, mut idle], mut line) = clients_on_one_line(&mut upstream, &proxy, 2);
    small.send(&[words("GET a"), words("GET b")].concat());
    line.expect("GET a");
    line.expect("GET b");
    thread::scope(|scope| {
        scope.spawn(|| large.send(&[fillings(), large_request(b"k")].concat()));
        line.expect_start(b"*3\r\n$3\r\nSET\r\n");
        // From here on nothing is read: the proxy cannot write, and has to read all the same.
        for reply in ["a", "b"] {
            line.say(&bulk(reply.as_bytes()));
            assert_eq!(shown(&small.reply()), shown(&bulk(reply.as_bytes())));
        }
    });
    for _ in 0..FILLINGS {
        assert_eq!(line.request().last().map(Vec::len), Some(975_000));
        line.say(b"+OK\r\n");
        assert_eq!(shown(&large.reply()), "+OK\\r\\n");
    }
    assert_eq!(line.request().last(), Some(&vec![b'v'; 1_000_000]), "the large request arrived damaged");
    line.say(b"+OK\r\n");
    assert_eq!(shown(&large.reply()), "+OK\\r\\n");
    upstream.echo();
    drop(line);
    assert_served([&mut idle, &mut small, &mut large]);
}

#[test]
fn a_client_that_does_not_take_a_large_reply_holds_up_nobody() {
    if is_direct() {
        return;
    }
    let mut upstream = Scripted::start();
    let mut proxy = proxy_before(&upstream);
    let ([mut slow, mut same_lane], mut line) = clients_on_the_line(&mut upstream, &proxy, 2);
    let ([mut other_lane], mut other_line) = clients_on_the_line(&mut upstream, &proxy, 3);
    let reply = bulk(&vec![b'v'; LARGE]);
    slow.send(&words("GET large"));
    line.expect("GET large");
    same_lane.send(&words("GET small"));
    line.expect("GET small");
    let (head, tail) = reply.split_at(reply.len() / 2);
    line.say(head);
    // In the middle of the large reply.
    other_lane.send(&words("GET other"));
    other_line.expect("GET other");
    other_line.say(b"+other\r\n");
    assert_eq!(shown(&other_lane.reply()), "+other\\r\\n");
    // And behind it, while its client has not read a byte.
    let start = Instant::now();
    line.say(tail);
    line.say(b"+small\r\n");
    assert_eq!(shown(&same_lane.reply()), "+small\\r\\n");
    let waited = start.elapsed();
    Figures::of("behind a reply of 32 MiB that is not taken").add("waited_ms", waited.as_millis());
    assert!(waited < LONGEST_WAIT, "the client behind it waited {waited:?}");
    assert!(slow.reply() == reply, "the large reply arrived damaged");
    upstream.echo();
    other_line.echo_on();
    drop(line);
    assert_served([&mut same_lane, &mut other_lane, &mut slow]);
    proxy.assert_running();
}
