//! Many subscribers and a publisher at full speed; one that does not read.

use super::{message, publish, push, shown, subscribe, wait_for_subscribers};
use crate::support::{
    Client, Figures, Kind, Over, PATIENCE, Proxy, Server, command, is_direct, peak_resident_bytes, wait_until, words,
};
use std::io;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

/// Subscribers that hear a channel of all and one of their own, in turns in RESP2 and RESP3.
const CROWD: usize = 60;

/// Messages to all; each of them also brings one to some subscriber's own channel.
const MESSAGES: usize = 20_000;

/// Messages that the publisher sends before it reads the replies.
const WINDOW: usize = 200;

#[test]
fn everybody_gets_every_message_once_and_in_order() {
    let server = Server::start(Kind::Redis70);
    let proxy = Proxy::start(&server, |flags| {
        flags.args(["--workers", "2"]);
    });
    let mut crowd: Vec<Client> = (0..CROWD).map(|_| proxy.connect()).collect();
    for (number, client) in crowd.iter_mut().enumerate() {
        if number % 2 == 1 {
            client.hello3();
        }
        client.ask(&format!("SUBSCRIBE all own-{number}"));
        client.reply();
    }
    let start = Instant::now();
    thread::scope(|scope| {
        for (number, client) in crowd.iter_mut().enumerate() {
            scope.spawn(move || hear_everything(number, client));
        }
        scope.spawn(|| publish_everything(proxy.connect()));
    });
    let mut figures = Figures::of("fan-out");
    let heard = CROWD * MESSAGES + MESSAGES;
    figures.add("subscribers", CROWD);
    figures.add("messages_heard", heard);
    figures.add("per_second", (heard as f64 / start.elapsed().as_secs_f64()).round());
    drop(crowd);
    wait_for_subscribers(&server, "all", 0);
}

fn text(number: usize) -> String {
    format!("message-{number}-{}", "x".repeat(number % 97))
}

fn publish_everything(mut publisher: Client) {
    let mut requests = Vec::new();
    for number in 0..MESSAGES {
        requests.push(command(&["PUBLISH", "all", &text(number)]));
        requests.push(command(&["PUBLISH", &format!("own-{}", number % CROWD), &text(number)]));
        if requests.len() >= WINDOW {
            let replies = publisher.pipeline(&requests);
            assert!(replies.iter().all(|reply| reply[0] == b':'), "{}", shown(&replies.concat()));
            requests.clear();
        }
    }
    publisher.pipeline(&requests);
}

fn hear_everything(number: usize, client: &mut Client) {
    let as_sent = |array: Vec<u8>| if number % 2 == 1 { push(array) } else { array };
    for next in 0..MESSAGES {
        assert_eq!(shown(&client.reply()), shown(&as_sent(message("all", &text(next)))));
        if next % CROWD == number {
            assert_eq!(shown(&client.reply()), shown(&as_sent(message(&format!("own-{number}"), &text(next)))));
        }
    }
    // Nothing more: a pong comes behind all messages.
    let pong = client.ask("PING");
    assert!(pong == b"+PONG\r\n" || pong == b"*2\r\n$4\r\npong\r\n$0\r\n\r\n", "{}", shown(&pong));
}

/// What each message holds, in bytes, in the test of a subscriber that does not read.
const LARGE: usize = 4 * 1024;

/// What it may leave unread.
const OUTPUT_LIMIT: usize = 4 * 1024 * 1024;

#[test]
fn alone_one_that_does_not_read_is_disconnected_and_costs_nobody_else() {
    if is_direct() {
        return;
    }
    let server = Server::start(Kind::Redis70);
    let proxy = Proxy::start(&server, |flags| {
        flags.args(["--workers", "1", "--client-output-limit", &OUTPUT_LIMIT.to_string()]);
    });
    let (mut slow, mut slow3, mut quick) = (proxy.connect(), proxy.connect(), proxy.connect());
    slow3.hello3();
    [&mut slow, &mut quick].into_iter().for_each(|client| subscribe(client, "c"));
    slow3.ask("SUBSCRIBE c");
    let mut publisher = server.connect();
    // Not a miss, which would also be what is answered without Redis.
    assert_eq!(publisher.ask("SET k v"), b"+OK\r\n");
    let text = "x".repeat(LARGE);
    let (owner, over) = Over::flag();
    let (asked, slowest) = thread::scope(|scope| {
        let asker = scope.spawn(|| {
            let (mut client, mut asked, mut slowest) = (proxy.connect(), 0, Duration::ZERO);
            while !over.load(Relaxed) {
                let start = Instant::now();
                assert_eq!(client.ask("GET k"), b"$1\r\nv\r\n");
                (asked, slowest) = (asked + 1, slowest.max(start.elapsed()));
            }
            (asked, slowest)
        });
        let start = Instant::now();
        let mut published = 0;
        while proxy.logged("more unread replies than --client-output-limit") < 2 {
            assert!(start.elapsed() < PATIENCE, "nobody was disconnected after {published} messages");
            publish(&mut publisher, "c", &text);
            assert_eq!(quick.reply(), message("c", &text));
            published += 1;
        }
        // One more shows that it goes on.
        publish(&mut publisher, "c", "last");
        assert_eq!(shown(&quick.reply()), shown(&message("c", "last")));
        drop(owner);
        asker.join().expect("it is answered")
    });
    for client in [&mut slow, &mut slow3] {
        assert!(ends(client), "it is disconnected");
    }
    wait_for_subscribers(&server, "c", 1);
    let peak = proxy.pid().map(peak_resident_bytes).expect("there is a proxy");
    let mut figures = Figures::of("subscribers that do not read");
    figures.add("peak_mib", peak >> 20);
    figures.add("asked_meanwhile", asked);
    figures.add("slowest_ms", slowest.as_millis());
    assert!(peak < 64 << 20, "{} MiB", peak >> 20);
    assert!(slowest < Duration::from_secs(1), "somebody waited {slowest:?}");
}

/// Whether the connection comes to its end, in whatever way.
fn ends(client: &mut Client) -> bool {
    let rest: io::Result<_> = client.rest_however_closed();
    rest.is_ok()
}

#[test]
fn topics_count_against_the_memory_budget() {
    if is_direct() {
        return;
    }
    let server = Server::start(Kind::Redis70);
    let proxy = Proxy::start(&server, |flags| {
        flags.args(["--workers", "1", "--memory-limit", "16MiB"]);
    });
    let (mut greedy, mut modest) = (proxy.connect(), proxy.connect());
    subscribe(&mut modest, "c");
    let mut topics = 0;
    while proxy.logged("disconnecting the client that holds most of it") == 0 {
        assert!(topics < 1_000_000, "it may subscribe to anything");
        let names: Vec<_> = (topics..topics + 1_000).map(|number| format!("topic-{number}")).collect();
        let request = format!("SUBSCRIBE {}", names.join(" "));
        if greedy.try_send(&words(&request)).is_err()
            || names.iter().any(|_| !matches!(greedy.try_reply(), Ok(Some(_))))
        {
            break;
        }
        topics += names.len();
    }
    assert!(ends(&mut greedy) && topics > 10_000, "{topics} topics");
    let mut admin = server.connect();
    wait_until("its topics are given up", PATIENCE, || admin.ask("PUBSUB CHANNELS") == b"*1\r\n$1\r\nc\r\n");
    publish(&mut admin, "c", "hello");
    assert_eq!(shown(&modest.reply()), shown(&message("c", "hello")));
    let peak = proxy.pid().map(peak_resident_bytes).expect("there is a proxy");
    let mut figures = Figures::of("a greedy subscriber");
    figures.add("topics", topics);
    figures.add("peak_mib", peak >> 20);
    assert!(peak < 48 << 20, "{} MiB", peak >> 20);
}

#[test]
fn a_message_beyond_the_limit_ends_only_those_who_would_hear_it() {
    if is_direct() {
        return;
    }
    let server = Server::start_with(Kind::Valkey91, &["--client-output-buffer-limit", "pubsub 0 0 0"]);
    let proxy = Proxy::start(&server, |flags| {
        flags.args(["--workers", "1", "--client-output-limit", "1MiB"]);
    });
    let (mut hears, mut matches, mut other) = (proxy.connect(), proxy.connect(), proxy.connect());
    subscribe(&mut hears, "large");
    subscribe(&mut other, "small");
    matches.ask("PSUBSCRIBE lar*");
    let mut publisher = server.connect();
    let nearly = "x".repeat(900 * 1024);
    publish(&mut publisher, "large", &nearly);
    assert_eq!(hears.reply(), message("large", &nearly));
    assert_eq!(matches.reply(), command(&["pmessage", "lar*", "large", &nearly]));
    publish(&mut publisher, "large", &"x".repeat(8 << 20));
    publish(&mut publisher, "small", "after");
    assert!(ends(&mut hears) && ends(&mut matches));
    assert_eq!(shown(&other.reply()), shown(&message("small", "after")));
    wait_until("both are logged", PATIENCE, || proxy.logged("a message longer than --client-output-limit") == 2);
    // Who comes back is served.
    let mut again = proxy.connect();
    subscribe(&mut again, "large");
    publish(&mut publisher, "large", "short");
    assert_eq!(shown(&again.reply()), shown(&message("large", "short")));
    assert_eq!(other.pipeline(&[words("PING")]), [b"*2\r\n$4\r\npong\r\n$0\r\n\r\n"]);
}
