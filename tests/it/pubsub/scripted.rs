//! A subscription connection that misbehaves, is slow, or is lost at a bad moment.
//!
//! Clients that speak RESP3 have a lane of their own in RESP3, so that the connection in RESP2 is that of subscriptions.

use super::{ack, message, push, shown};
use crate::support::{Client, Line, Mood, PATIENCE, Proxy, Scripted, bulk, is_direct, wait_until, words};
use std::time::{Duration, Instant};

/// A proxy of one worker, and a client in RESP3.
fn stage(upstream: &Scripted, flags: &[&str]) -> (Proxy, Client) {
    let proxy = Proxy::toward(&upstream.address(), |command| {
        command.args(["--workers", "1"]).args(flags);
    });
    let mut client = proxy.connect();
    client.hello3();
    (proxy, client)
}

/// Subscribes a client in RESP3 as the only one; returns the subscription connection if it is new.
fn subscribe_first(upstream: &mut Scripted, client: &mut Client, channel: &str) -> Line {
    client.send(&words(&format!("SUBSCRIBE {channel}")));
    let mut line = upstream.line(2);
    grant(&mut line, client, channel);
    line
}

fn grant(line: &mut Line, client: &mut Client, channel: &str) {
    line.expect(&format!("SUBSCRIBE {channel}"));
    line.say(ack("subscribe", channel, 1).as_bytes());
    let acknowledged = push(ack("subscribe", channel, 1).into_bytes());
    assert_eq!(shown(&client.reply()), shown(&acknowledged));
}

/// Fails unless the connection ends, and all that it still brings is this.
fn assert_ends(client: &mut Client, rest: &str) {
    let got = client.rest_however_closed().expect("it is closed");
    assert_eq!(shown(&got), rest);
}

#[test]
fn what_is_no_acknowledgement_that_is_due_ends_the_connection() {
    if is_direct() {
        return;
    }
    let right = ack("subscribe", "c", 1);
    for (what, said) in [
        ("of another channel", ack("subscribe", "d", 1)),
        ("of another kind", ack("psubscribe", "c", 1)),
        ("of an end", ack("unsubscribe", "c", 0)),
        ("one too many", format!("{right}{right}")),
        ("an end nobody asked for", format!("{right}{}", ack("unsubscribe", "c", 0))),
        ("a pong nobody asked for", format!("{right}+PONG\r\n")),
        ("an error nobody asked for", format!("{right}-ERR what\r\n")),
        ("an ordinary reply", format!("{right}:1\r\n")),
        ("a push", format!("{right}>3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nx\r\n")),
        ("no RESP", format!("{right}hello\r\n")),
    ] {
        let mut upstream = Scripted::start();
        let (mut proxy, mut client) = stage(&upstream, &[]);
        let mut other = proxy.connect();
        other.hello3();
        client.send(&words("SUBSCRIBE c"));
        let mut line = upstream.line(2);
        line.expect("SUBSCRIBE c");
        line.say(said.as_bytes());
        line.wait_for_end();
        let got = client.reply();
        if said.starts_with(&right) {
            assert_eq!(shown(&got), shown(&push(right.clone().into_bytes())), "{what}");
            assert_ends(&mut client, "");
        } else {
            assert!(
                got.starts_with(b"-UNAVAILABLE ") && got.ends_with(b", command not run\r\n"),
                "{what}: {}",
                shown(&got)
            );
        }
        // Nobody else has noticed, and the next subscriber gets a fresh connection.
        other.send(&words("SUBSCRIBE c"));
        let mut fresh = upstream.line(2);
        grant(&mut fresh, &mut other, "c");
        fresh.say(&message("c", "hello"));
        assert_eq!(shown(&other.reply()), shown(&push(message("c", "hello"))), "{what}");
        proxy.assert_running();
    }
}

#[test]
fn a_subscription_that_is_not_acknowledged_fails_in_time() {
    if is_direct() {
        return;
    }
    let mut upstream = Scripted::start();
    let (proxy, mut client) = stage(&upstream, &["--request-timeout", "1s"]);
    let mut line = subscribe_first(&mut upstream, &mut client, "c");
    let mut late = proxy.connect();
    late.hello3();
    let start = Instant::now();
    late.send(&[words("SUBSCRIBE d"), words("PING")].concat());
    line.expect("SUBSCRIBE d");
    let got = late.reply();
    assert!(got.starts_with(b"-UNAVAILABLE no reply before the deadline, command not run"), "{}", shown(&got));
    let took = start.elapsed();
    assert!(took > Duration::from_millis(800) && took < Duration::from_secs(3), "{took:?}");
    assert_eq!(shown(&late.reply()), "+PONG\\r\\n");
    let counted = |outcome: &str| {
        proxy.metric(&format!("outrigger_commands_total{{command=\"subscribe\",outcome=\"{outcome}\"}}"))
    };
    assert_eq!([counted("ok"), counted("unavailable"), counted("local")], [Some(1.0), Some(1.0), None]);
    // It may still be granted; then nobody wants it any more.
    line.say(ack("subscribe", "d", 2).as_bytes());
    line.expect("unsubscribe d");
    line.say(ack("unsubscribe", "d", 1).as_bytes());
    line.say(&message("c", "hello"));
    assert_eq!(shown(&client.reply()), shown(&push(message("c", "hello"))));
}

#[test]
fn a_silent_connection_is_given_up() {
    if is_direct() {
        return;
    }
    let mut upstream = Scripted::start();
    let (_proxy, mut client) = stage(&upstream, &["--request-timeout", "1s"]);
    let mut line = subscribe_first(&mut upstream, &mut client, "c");
    // A PING after ten seconds, which nobody answers.
    let start = Instant::now();
    let asked = line.next().expect("a PING");
    assert_eq!(asked, [b"PING".to_vec()]);
    line.wait_for_end();
    assert_ends(&mut client, "");
    let took = start.elapsed();
    assert!(took < Duration::from_secs(18), "{took:?}");
}

#[test]
fn errors_are_passed_on_to_whoever_asked() {
    if is_direct() {
        return;
    }
    let mut upstream = Scripted::start();
    let (proxy, mut client) = stage(&upstream, &[]);
    let mut line = subscribe_first(&mut upstream, &mut client, "c");
    let mut other = proxy.connect();
    other.hello3();
    for (error, told) in [
        ("-MOVED 866 10.0.0.1:6379\r\n", "-MOVED 866 10.0.0.1:6379\r\n"),
        ("-NOPERM no\r\n", "-NOPERM no\r\n"),
        ("-BUSY a script\r\n", "-UNAVAILABLE upstream cannot serve now, command not run\r\n"),
    ] {
        other.send(&words("SSUBSCRIBE s t"));
        line.expect("SSUBSCRIBE s t");
        line.say(error.as_bytes());
        assert_eq!(shown(&other.reply()), shown(told.as_bytes()));
    }
    line.say(&message("c", "hello"));
    assert_eq!(shown(&client.reply()), shown(&push(message("c", "hello"))));
    // Whoever wants to stop always can; the server is asked again later.
    client.send(&[words("SUBSCRIBE d"), words("RESET")].concat());
    grant_second(&mut line, &mut client, "d");
    line.request();
    line.say(b"-BUSY a script\r\n");
    line.say(&message("c", "again"));
    assert_eq!(shown(&client.reply()), "+RESET\\r\\n");
    assert_eq!(shown(&client.ask("PING")), "+PONG\\r\\n");
    let asked_again = line.request();
    assert_eq!((&asked_again[0][..], asked_again.len()), (&b"unsubscribe"[..], 3));
}

#[test]
fn messages_in_pieces_arrive_whole() {
    if is_direct() {
        return;
    }
    let mut upstream = Scripted::start();
    let (proxy, mut client) = stage(&upstream, &[]);
    let mut line = subscribe_first(&mut upstream, &mut client, "c");
    let mut resp2 = proxy.connect();
    resp2.send(&words("SUBSCRIBE c"));
    line.expect("SUBSCRIBE c");
    line.say(ack("subscribe", "c", 1).as_bytes());
    assert_eq!(shown(&resp2.reply()), shown(ack("subscribe", "c", 1).as_bytes()));
    let (small, large) = (message("c", "hello"), message("c", &"x".repeat(500_000)));
    let unheard = message("d", "for nobody");
    let stream = [&small[..], &unheard, &small, &large, &small, &small].concat();
    let expected = [&small[..], &small, &large, &small, &small];
    let ends: Vec<usize> = (1..40).chain((40..stream.len()).step_by(70_001)).chain([stream.len()]).collect();
    let mut start = 0;
    let pieces = ends.iter().map(|end| &stream[std::mem::replace(&mut start, *end)..*end]);
    line.say_in_pieces(pieces.collect::<Vec<_>>());
    for message in expected {
        assert_eq!(resp2.reply(), message);
        assert_eq!(client.reply(), push(message.to_vec()));
    }
}

#[test]
fn a_message_never_comes_between_the_parts_of_a_reply() {
    if is_direct() {
        return;
    }
    let mut upstream = Scripted::start();
    let (_proxy, mut client) = stage(&upstream, &[]);
    let mut line = subscribe_first(&mut upstream, &mut client, "c");
    client.send(&[words("GET large"), words("GET k")].concat());
    let mut lane = upstream.line(3);
    lane.expect("GET large");
    let reply = bulk(&vec![b'x'; 300_000]);
    // Half of it streams to the client; then a message comes, and another when the reply is complete.
    lane.say_in_pieces([&reply[..150_000]]);
    line.say_in_pieces([message("c", "one").as_slice(), &message("c", "two")]);
    lane.say(&reply[150_000..]);
    lane.expect("GET k");
    lane.say(b"$1\r\nv\r\n");
    assert_eq!(client.reply(), reply);
    let mut rest = vec![client.reply(), client.reply(), client.reply()];
    rest.retain(|frame| frame != b"$1\r\nv\r\n");
    assert_eq!(rest, [push(message("c", "one")), push(message("c", "two"))]);
    line.say(&message("c", "three"));
    assert_eq!(shown(&client.reply()), shown(&push(message("c", "three"))));
}

#[test]
fn what_a_subscriber_waits_for_comes_before_it_is_disconnected() {
    if is_direct() {
        return;
    }
    let mut upstream = Scripted::start();
    let (_proxy, mut client) = stage(&upstream, &[]);
    let mut line = subscribe_first(&mut upstream, &mut client, "c");
    client.send(&[words("GET a"), words("SET b 1")].concat());
    let mut lane = upstream.line(3);
    lane.expect("GET a");
    lane.expect("SET b 1");
    line.say(&message("c", "last"));
    line.reset();
    assert_eq!(shown(&client.reply()), shown(&push(message("c", "last"))));
    lane.say(b"$1\r\na\r\n");
    assert_eq!(shown(&client.reply()), "$1\\r\\na\\r\\n");
    lane.say(b"+OK\r\n");
    assert_ends(&mut client, "+OK\\r\\n");
}

#[test]
fn a_server_that_became_a_replica_is_left() {
    if is_direct() {
        return;
    }
    for resubscribe in [false, true] {
        let mut upstream = Scripted::start();
        let flags = ["--pubsub-on-loss", if resubscribe { "resubscribe" } else { "close" }];
        let (proxy, mut client) = stage(&upstream, &flags);
        let mut line = subscribe_first(&mut upstream, &mut client, "c");
        let mut writer = proxy.connect();
        writer.hello3();
        writer.send(&words("SET k v"));
        let mut lane = upstream.line(3);
        lane.expect("SET k v");
        lane.say(b"-READONLY You can't write against a read only replica.\r\n");
        line.wait_for_end();
        if resubscribe {
            let mut line = upstream.line(2);
            line.expect("subscribe c");
            line.say(ack("subscribe", "c", 1).as_bytes());
            line.say(&message("c", "from the primary"));
            assert_eq!(shown(&client.reply()), shown(&push(message("c", "from the primary"))));
        } else {
            assert_ends(&mut client, "");
        }
        let mut lane = upstream.line(3);
        lane.expect("SET k v");
        lane.say(b"+OK\r\n");
        assert_eq!(shown(&writer.reply()), "+OK\\r\\n");
    }
}

#[test]
fn a_subscription_that_is_refused_when_it_is_resumed_ends_its_clients_only() {
    if is_direct() {
        return;
    }
    let mut upstream = Scripted::start();
    let (proxy, mut client) = stage(&upstream, &["--pubsub-on-loss", "resubscribe"]);
    let mut line = subscribe_first(&mut upstream, &mut client, "c");
    let mut other = proxy.connect();
    other.hello3();
    other.send(&words("SUBSCRIBE d"));
    grant(&mut line, &mut other, "d");
    line.reset();
    let mut line = upstream.line(2);
    for _ in 0..2 {
        let request = line.request();
        assert_eq!(request[0], b"subscribe");
        if request[1] == b"c" {
            line.say(b"-NOPERM not any more\r\n");
        } else {
            line.say(ack("subscribe", "d", 1).as_bytes());
        }
    }
    assert_ends(&mut client, "");
    line.say(&message("d", "hello"));
    assert_eq!(shown(&other.reply()), shown(&push(message("d", "hello"))));
    wait_until("it is logged", PATIENCE, || proxy.logged("subscribed again") == 1);
}

#[test]
fn a_gap_is_counted_and_what_is_asked_meanwhile_is_answered() {
    if is_direct() {
        return;
    }
    let mut upstream = Scripted::start();
    let (proxy, mut client) = stage(&upstream, &["--pubsub-on-loss", "resubscribe"]);
    let mut line = subscribe_first(&mut upstream, &mut client, "c");
    client.send(&words("SUBSCRIBE d"));
    grant_second(&mut line, &mut client, "d");
    upstream.turn(Mood::Silent);
    line.reset();
    wait_until("the loss is noticed", PATIENCE, || proxy.logged("lost the subscription connection") == 1);
    // There is nobody to ask, and nothing to wait for.
    assert_eq!(shown(&client.ask("UNSUBSCRIBE d")), shown(&push(ack("unsubscribe", "d", 1).into_bytes())));
    assert_eq!(shown(&client.ask("PING")), "+PONG\\r\\n");
    let mut fresh = proxy.connect();
    let got = fresh.ask("SUBSCRIBE c");
    assert!(got.starts_with(b"-UNAVAILABLE "), "{}", shown(&got));
    upstream.turn(Mood::Well);
    let mut line = upstream.line(2);
    line.expect("subscribe c");
    line.say(ack("subscribe", "c", 1).as_bytes());
    line.say(&message("c", "hello"));
    assert_eq!(shown(&client.reply()), shown(&push(message("c", "hello"))));
    wait_until("the gap is logged", PATIENCE, || proxy.logged(r#""gaps":1"#) == 1);
    fresh.send(&words("SUBSCRIBE c"));
    line.expect("SUBSCRIBE c");
    line.say(ack("subscribe", "c", 1).as_bytes());
    assert_eq!(shown(&fresh.reply()), shown(ack("subscribe", "c", 1).as_bytes()));
}

fn grant_second(line: &mut Line, client: &mut Client, channel: &str) {
    line.expect(&format!("SUBSCRIBE {channel}"));
    line.say(ack("subscribe", channel, 2).as_bytes());
    assert_eq!(shown(&client.reply()), shown(&push(ack("subscribe", channel, 2).into_bytes())));
}

#[test]
fn ten_thousand_requests_in_one_write_are_answered_in_order() {
    if is_direct() {
        return;
    }
    let mut upstream = Scripted::start();
    let (proxy, _) = stage(&upstream, &[]);
    let mut client = proxy.connect();
    let channels: Vec<String> = (0..10_000).map(|number| format!("c{}", number % 3_000)).collect();
    client.send(&channels.iter().flat_map(|channel| words(&format!("SUBSCRIBE {channel}"))).collect::<Vec<_>>());
    let mut line = upstream.line(2);
    for (number, channel) in channels.iter().enumerate() {
        line.expect(&format!("SUBSCRIBE {channel}"));
        line.say(ack("subscribe", channel, 1).as_bytes());
        let expected = ack("subscribe", channel, (number + 1).min(3_000));
        assert_eq!(shown(&client.reply()), shown(expected.as_bytes()));
    }
}

/// A subscriber, a publisher and a neighbour, all in RESP3, and the connection that the last two share.
fn stage_to_publish(upstream: &mut Scripted) -> (Proxy, [Client; 3], Line) {
    let (proxy, subscriber) = stage(upstream, &[]);
    let [publisher, mut neighbour] = [(); 2].map(|()| {
        let mut client = proxy.connect();
        client.hello3();
        client
    });
    neighbour.send(&words("GET k"));
    let mut lane = upstream.line(3);
    lane.expect("GET k");
    lane.say(b"_\r\n");
    assert_eq!(neighbour.reply(), b"_\r\n");
    (proxy, [subscriber, publisher, neighbour], lane)
}

/// Has one client publish and then another read; fails unless the first is behind the second.
fn publish_too_early(publisher: &mut Client, neighbour: &mut Client, lane: &mut Line) {
    publisher.send(&words("PUBLISH c text"));
    neighbour.send(&words("GET k"));
    lane.expect("GET k");
    lane.say(b"_\r\n");
    assert_eq!(neighbour.reply(), b"_\r\n");
}

fn expect_published(publisher: &mut Client, lane: &mut Line) {
    lane.expect("PUBLISH c text");
    lane.say(b":1\r\n");
    assert_eq!(publisher.reply(), b":1\r\n");
}

#[test]
fn what_is_published_waits_for_who_asked_to_subscribe_before() {
    if is_direct() {
        return;
    }
    let mut upstream = Scripted::start();
    let (_proxy, [mut subscriber, mut publisher, mut neighbour], mut lane) = stage_to_publish(&mut upstream);
    subscriber.send(&words("SUBSCRIBE c"));
    let mut line = upstream.line(2);
    line.expect("SUBSCRIBE c");
    publish_too_early(&mut publisher, &mut neighbour, &mut lane);
    line.say(ack("subscribe", "c", 1).as_bytes());
    assert_eq!(shown(&subscriber.reply()), shown(&push(ack("subscribe", "c", 1).into_bytes())));
    expect_published(&mut publisher, &mut lane);

    // It does not wait for ever, whatever the server does not answer; also in a block.
    subscriber.send(&words("SUBSCRIBE d"));
    line.expect("SUBSCRIBE d");
    publish_too_early(&mut publisher, &mut neighbour, &mut lane);
    expect_published(&mut publisher, &mut lane);
    publisher.send(&[words("MULTI"), words("PUBLISH c text"), words("EXEC")].concat());
    neighbour.send(&words("GET k"));
    for request in ["GET k", "MULTI", "PUBLISH c text", "EXEC"] {
        lane.expect(request);
    }
}

#[test]
fn what_is_published_waits_while_the_connection_for_subscriptions_is_made() {
    if is_direct() {
        return;
    }
    let mut upstream = Scripted::start();
    let (_proxy, [mut subscriber, mut publisher, mut neighbour], mut lane) = stage_to_publish(&mut upstream);
    upstream.turn(Mood::Silent);
    let dials = upstream.dials();
    subscriber.send(&words("SUBSCRIBE c"));
    wait_until("it is being made", PATIENCE, || upstream.dials() > dials);
    publish_too_early(&mut publisher, &mut neighbour, &mut lane);
    expect_published(&mut publisher, &mut lane);
}
