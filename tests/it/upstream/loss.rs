//! Connections that end with requests in flight, and clients that do.

use super::replies::PUSH;
use super::{
    FILLINGS, assert_indeterminate, assert_served, assert_unavailable, clients_on_one_line, clients_on_the_line,
    fillings, large as large_request, proxy_before, proxy_with, shown,
};
use crate::support::{Client, PATIENCE, Proxy, Scripted, bulk, command, is_direct, wait_until, words};
use std::fs;
use std::thread;

#[test]
fn what_was_written_may_have_run_and_what_was_not_has_not() {
    if is_direct() {
        return;
    }
    let mut upstream = Scripted::start();
    let mut proxy = proxy_before(&upstream);
    let ([mut small, mut large, mut idle], mut line) = clients_on_one_line(&mut upstream, &proxy, 2);
    small.send(&words("INCR a"));
    line.expect("INCR a");
    let requests = [words("INCR b"), fillings(), large_request(b"large"), words("GET behind")].concat();
    thread::scope(|scope| {
        scope.spawn(|| large.send(&requests));
        line.expect("INCR b");
        line.expect_start(b"*3\r\n$3\r\nSET\r\n$7\r\nfilling\r\n");
    });
    large.wait_until_read();
    upstream.echo();
    line.reset();
    assert_indeterminate(&small.reply());
    assert_indeterminate(&large.reply());
    let mut replies: Vec<_> = (0..=FILLINGS).map(|_| large.reply()).collect();
    let last = replies.pop().expect("there are several");
    assert_unavailable(&last);
    let unwritten = replies.iter().position(|reply| reply.starts_with(b"-UNAVAILABLE ")).unwrap_or(FILLINGS);
    replies[..unwritten].iter().for_each(|reply| assert_indeterminate(reply));
    replies[unwritten..].iter().for_each(|reply| assert_unavailable(reply));
    // There was no room for it behind the large ones, so it was not tied to that connection.
    assert_eq!(shown(&large.reply()), "$6\\r\\nbehind\\r\\n");
    assert_served([&mut idle, &mut small, &mut large]);
    proxy.assert_running();
}

#[test]
fn whatever_arrived_is_told_that_it_may_have_run() {
    if is_direct() {
        return;
    }
    const REQUESTS: usize = 300;
    let mut upstream = Scripted::start();
    let proxy = proxy_before(&upstream);
    let ([mut client, mut idle], mut line) = clients_on_one_line(&mut upstream, &proxy, 2);
    let value = [vec![b'v'; 60_000], b"value".to_vec()].concat();
    let requests = command(&[b"SET".as_slice(), b"k", &value]).repeat(REQUESTS);
    let (written, replies) = thread::scope(|scope| {
        let writer = scope.spawn(|| {
            client.send(&requests);
            (0..REQUESTS).map(|_| client.reply()).collect::<Vec<_>>()
        });
        line.request();
        upstream.echo();
        (1 + line.end_and_drain().len(), writer.join().expect("all requests are answered"))
    });
    let count = |start: &str| replies.iter().filter(|reply| reply.starts_with(start.as_bytes())).count();
    let (indeterminate, unavailable, served) = (count("-INDETERMINATE "), count("-UNAVAILABLE "), count("$60005\r\n"));
    // What the kernel had not sent yet is thrown away, so that it does not run when nobody waits for it; nobody but the
    // server knows of which requests.
    let thrown_away = indeterminate.checked_sub(written).expect("what arrived may have run");
    assert!(thrown_away * value.len() <= most_in_a_send_buffer(), "{thrown_away} besides {written}");
    assert_eq!(indeterminate + unavailable + served, REQUESTS);
    for reply in &replies[..written] {
        assert_indeterminate(reply);
    }
    assert_served([&mut idle, &mut client]);
}

/// The most that the kernel keeps of what was written to a socket, in bytes.
fn most_in_a_send_buffer() -> usize {
    let limits = fs::read_to_string("/proc/sys/net/ipv4/tcp_wmem").expect("the system tells its limits");
    limits.split_whitespace().last().and_then(|most| most.parse().ok()).expect("the largest is the last")
}

#[test]
fn a_reset_answers_everybody_who_waits() {
    if is_direct() {
        return;
    }
    let mut upstream = Scripted::start();
    let proxy = proxy_before(&upstream);
    let (mut clients, mut line) = clients_on_one_line::<8>(&mut upstream, &proxy, 3);
    for client in &mut clients {
        client.send(&[words("INCR n"), words("ECHO local"), words("INCR n")].concat());
        line.expect("INCR n");
        line.expect("INCR n");
    }
    upstream.echo();
    line.reset();
    for client in &mut clients {
        assert_indeterminate(&client.reply());
        assert_eq!(shown(&client.reply()), "$5\\r\\nlocal\\r\\n");
        assert_indeterminate(&client.reply());
    }
    assert_served(&mut clients);
}

#[test]
fn half_a_small_reply_is_none() {
    if is_direct() {
        return;
    }
    let whole = bulk(&[b'v'; 60_000]);
    for length in [1, 5, 8, 9, 30_000, whole.len() - 1] {
        let mut upstream = Scripted::start();
        let proxy = proxy_before(&upstream);
        let ([mut asking, mut behind, mut writing], mut line) = clients_on_one_line(&mut upstream, &proxy, 2);
        asking.send(&words("GET a"));
        line.expect("GET a");
        behind.send(&words("GET b"));
        line.expect("GET b");
        writing.send(&words("INCR c"));
        line.expect("INCR c");
        line.say_in_pieces([&whole[..length]]);
        upstream.echo();
        drop(line);
        // Nothing of it was passed on, so the read is asked again, and its client never knows.
        assert_eq!(shown(&asking.reply()), "$1\\r\\na\\r\\n");
        assert_eq!(shown(&behind.reply()), "$1\\r\\nb\\r\\n");
        assert_indeterminate(&writing.reply());
        assert_served([&mut asking, &mut behind, &mut writing]);
    }
}

#[test]
fn half_a_small_reply_to_a_write_becomes_an_error() {
    if is_direct() {
        return;
    }
    let whole = b":1234567\r\n";
    for length in [1, 4, 8, 9] {
        let mut upstream = Scripted::start();
        let proxy = proxy_before(&upstream);
        let ([mut writing, mut behind], mut line) = clients_on_one_line(&mut upstream, &proxy, 2);
        writing.send(&words("INCR a"));
        line.expect("INCR a");
        behind.send(&words("INCR b"));
        line.expect("INCR b");
        line.say_in_pieces([&whole[..length]]);
        upstream.echo();
        drop(line);
        assert_indeterminate(&writing.reply());
        assert_indeterminate(&behind.reply());
        assert_served([&mut writing, &mut behind]);
    }
}

#[test]
fn half_a_large_reply_ends_the_client_that_has_it_and_no_other() {
    if is_direct() {
        return;
    }
    let whole = bulk(&[b'v'; 1_000_000]);
    let mut upstream = Scripted::start();
    let mut proxy = proxy_before(&upstream);
    let ([mut asking, mut behind, mut writing, mut idle], mut line) = clients_on_one_line(&mut upstream, &proxy, 2);
    asking.send(&[words("GET large"), words("GET next")].concat());
    line.expect("GET large");
    line.expect("GET next");
    behind.send(&words("GET b"));
    line.expect("GET b");
    writing.send(&words("INCR c"));
    line.expect("INCR c");
    line.say_in_pieces([&whole[..300_000]]);
    upstream.echo();
    drop(line);
    let received = asking.rest_however_closed().expect("the client is disconnected");
    assert!(whole[..300_000].starts_with(&received), "the client got something else: {} bytes", received.len());
    assert!(!received.is_empty(), "nothing of the reply was passed on");
    assert_eq!(shown(&behind.reply()), "$1\\r\\nb\\r\\n");
    assert_indeterminate(&writing.reply());
    assert_served([&mut idle, &mut behind, &mut writing, &mut proxy.connect()]);
    proxy.assert_running();
}

#[test]
fn late_replies_of_a_client_that_left_are_dropped() {
    if is_direct() {
        return;
    }
    let large = bulk(&[b'l'; 1_000_000]);
    // How much of the first reply came before the client left: nothing, some that is held back, some that was passed on.
    for came_before in [0, 1_000, 300_000] {
        let (head, tail) = large.split_at(came_before);
        let mut upstream = Scripted::start();
        let proxy = proxy_with(&upstream, &["--max-clients", "2"]);
        let ([mut neighbour, mut leaving], mut line) = clients_on_the_line(&mut upstream, &proxy, 2);
        leaving.send(&[words("GET l1"), words("ECHO x"), words("GET l2")].concat());
        line.expect("GET l1");
        line.expect("GET l2");
        line.say_in_pieces([head]);
        leaving.reset();
        let mut newcomer = take_its_place(&proxy);
        for client in [&mut newcomer, &mut neighbour] {
            client.send(&[words("ECHO local"), words("GET k")].concat());
            line.expect("GET k");
        }
        line.say(&[tail, b"+late\r\n+newcomer\r\n+neighbour\r\n"].concat());
        for (client, due) in [(&mut newcomer, "+newcomer\\r\\n"), (&mut neighbour, "+neighbour\\r\\n")] {
            assert_eq!(shown(&client.reply()), "$5\\r\\nlocal\\r\\n");
            assert_eq!(shown(&client.reply()), due, "{came_before} bytes came before the client left");
        }
        upstream.echo();
        drop(line);
        assert_served([&mut newcomer, &mut neighbour]);
    }
}

#[test]
fn many_generations_of_clients_in_one_place_get_nothing_of_each_other() {
    if is_direct() {
        return;
    }
    const GENERATIONS: usize = 20;
    let mut upstream = Scripted::start();
    let proxy = proxy_with(&upstream, &["--max-clients", "2", "--request-timeout", "30s"]);
    let ([mut neighbour], mut line) = clients_on_the_line(&mut upstream, &proxy, 2);
    for generation in 0..GENERATIONS {
        let mut leaving = take_its_place(&proxy);
        leaving.send(&words(&format!("GET {generation}")));
        line.expect(&format!("GET {generation}"));
        leaving.reset();
        // A sign of life, so that the connection does not pass for stuck.
        line.say(PUSH);
    }
    let mut last = take_its_place(&proxy);
    for client in [&mut last, &mut neighbour] {
        client.send(&words("GET k"));
        line.expect("GET k");
    }
    for generation in 0..GENERATIONS {
        line.say(&bulk(format!("late {generation}").as_bytes()));
    }
    line.say(b"+last\r\n+neighbour\r\n");
    assert_eq!(shown(&last.reply()), "+last\\r\\n");
    assert_eq!(shown(&neighbour.reply()), "+neighbour\\r\\n");
}

#[test]
fn a_client_that_has_said_all_gets_its_replies_from_a_line_that_lives() {
    if is_direct() {
        return;
    }
    let mut upstream = Scripted::start();
    let proxy = proxy_before(&upstream);
    let ([mut leaving, mut staying], mut line) = clients_on_one_line(&mut upstream, &proxy, 2);
    for client in [&mut leaving, &mut staying] {
        client.send(&words("GET k"));
        line.expect("GET k");
    }
    leaving.finish_sending();
    line.say(b"+one\r\n+two\r\n");
    assert_eq!(shown(&leaving.rest().expect("an orderly end")), "+one\\r\\n");
    assert_eq!(shown(&staying.reply()), "+two\\r\\n");
}

/// A client in the place of one that left: the proxy takes no more than are there, so it has noticed.
fn take_its_place(proxy: &Proxy) -> Client {
    let mut admitted = None;
    wait_until("the proxy notices that the client left", PATIENCE, || {
        let mut client = proxy.connect();
        let is_in = client.exchange(&words("PING")).is_ok_and(|reply| reply.as_deref() == Some(b"+PONG\r\n"));
        admitted = is_in.then_some(client);
        is_in
    });
    admitted.expect("somebody was admitted")
}
