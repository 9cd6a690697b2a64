//! Subscribers whose upstream is killed, restarted, frozen, or ends their connection, with both settings of what is to
//! become of them.

use super::{message, publish, shown, subscribe, wait_for_subscribers};
use crate::support::{Client, Kind, Over, PATIENCE, Proxy, Server, is_direct, wait_until};
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

fn proxy_with(address: &str, on_loss: &str) -> Proxy {
    Proxy::toward(address, |flags| {
        flags.args(["--workers", "2", "--request-timeout", "1s", "--pubsub-on-loss", on_loss]);
    })
}

/// Some subscribers, in both protocols and on both workers, and a client that is none.
fn crowd(proxy: &Proxy) -> (Vec<Client>, Client) {
    let mut subscribers: Vec<Client> = (0..6).map(|_| proxy.connect()).collect();
    for (number, client) in subscribers.iter_mut().enumerate() {
        if number % 2 == 0 {
            client.hello3();
        }
        client.ask("SUBSCRIBE c");
    }
    let mut other = proxy.connect();
    assert_eq!(other.ask("SET k v"), b"+OK\r\n");
    (subscribers, other)
}

fn assert_all_end(subscribers: Vec<Client>) {
    for mut client in subscribers {
        let rest = client.rest_however_closed().expect("it is disconnected");
        assert_eq!(shown(&rest), "", "nothing else comes");
    }
}

/// Whoever is subscribed hears this; RESP3 shows in the first byte.
fn assert_all_hear(subscribers: &mut [Client], text: &str) {
    let expected = message("c", text);
    for client in subscribers {
        assert_eq!(shown(&client.reply()[1..]), shown(&expected[1..]));
    }
}

#[test]
fn alone_subscribers_are_disconnected_when_redis_is_killed_and_served_when_it_is_back() {
    if is_direct() {
        return;
    }
    let mut server = Server::start(Kind::Redis70);
    let proxy = proxy_with(&server.address(), "close");
    let (mut subscribers, mut other) = crowd(&proxy);
    publish(&mut server.connect(), "c", "before");
    assert_all_hear(&mut subscribers, "before");
    server.kill();
    assert_all_end(subscribers);
    assert_eq!(other.ask("GET k"), b"$-1\r\n", "who is no subscriber stays, and is answered");
    // There is nothing to hear, and it is said at once.
    let start = Instant::now();
    let got = other.ask("SUBSCRIBE c");
    assert!(got.starts_with(b"-UNAVAILABLE ") && got.ends_with(b", command not sent\r\n"), "{}", shown(&got));
    assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
    assert_eq!(shown(&other.ask("UNSUBSCRIBE c")), shown(super::ack("unsubscribe", "c", 0).as_bytes()));
    assert_eq!(other.ask("PING"), b"+PONG\r\n");
    server.start_again();
    wait_until("a subscription is granted", PATIENCE, || proxy.connect().ask("SUBSCRIBE c").starts_with(b"*3"));
    subscribe(&mut other, "c");
    publish(&mut server.connect(), "c", "after");
    assert_eq!(shown(&other.reply()), shown(&message("c", "after")));
}

#[test]
fn subscribers_are_subscribed_again_when_redis_is_back() {
    if is_direct() {
        return;
    }
    let mut server = Server::start(Kind::Redis70);
    let proxy = proxy_with(&server.address(), "resubscribe");
    let (mut subscribers, mut other) = crowd(&proxy);
    other.ask("SUBSCRIBE d");
    for round in 1..=2 {
        server.kill();
        server.start_again();
        wait_for_subscribers(&server, "c", 2);
        publish(&mut server.connect(), "c", "after");
        assert_all_hear(&mut subscribers, "after");
        wait_until("the gaps are told", PATIENCE, || proxy.logged("subscribed again") == 2 * round);
    }
    // They are ordinary subscribers, who can stop.
    for client in &mut subscribers {
        client.ask("UNSUBSCRIBE");
    }
    wait_for_subscribers(&server, "c", 0);
    publish(&mut server.connect(), "d", "still");
    assert_eq!(shown(&other.reply()), shown(&message("d", "still")));
}

#[test]
fn the_server_ends_the_connection_of_subscribers() {
    if is_direct() {
        return;
    }
    for kind in [Kind::Redis62, Kind::Valkey91] {
        let server = Server::start(kind);
        let (closing, keeping) = (proxy_with(&server.address(), "close"), proxy_with(&server.address(), "resubscribe"));
        let (closed, mut other) = crowd(&closing);
        let (mut kept, _) = crowd(&keeping);
        let mut admin = server.connect();
        let killed = admin.frame("CLIENT KILL TYPE pubsub");
        assert_eq!(killed.as_text(), "4", "two proxies of two workers");
        assert_all_end(closed);
        wait_for_subscribers(&server, "c", 2);
        publish(&mut admin, "c", "after");
        assert_all_hear(&mut kept, "after");
        // Ordinary requests were never disturbed.
        assert_eq!(other.ask("GET k"), b"$1\r\nv\r\n");
        assert_eq!(closing.logged("breaker") + keeping.logged("breaker"), 2, "only the first contacts");
    }
}

#[test]
fn a_frozen_redis_is_noticed_by_subscribers_too() {
    if is_direct() {
        return;
    }
    for on_loss in ["close", "resubscribe"] {
        let server = Server::start(Kind::Redis70);
        let proxy = proxy_with(&server.address(), on_loss);
        let (mut subscribers, mut other) = crowd(&proxy);
        server.freeze();
        let start = Instant::now();
        let (owner, over) = Over::flag();
        thread::scope(|scope| {
            // Somebody asks for something now and then, so that it is noticed soon that nothing answers.
            scope.spawn(|| {
                while !over.load(Relaxed) {
                    other.ask("INCR n");
                }
            });
            wait_until("the loss is noticed", PATIENCE, || proxy.logged("lost the subscription connection") == 2);
            drop(owner);
        });
        let took = start.elapsed();
        assert!(took < Duration::from_secs(8), "{took:?}");
        if on_loss == "close" {
            assert_all_end(subscribers);
            server.thaw();
        } else {
            server.thaw();
            wait_until("they are subscribed again", PATIENCE, || proxy.logged("subscribed again") == 2);
            wait_for_subscribers(&server, "c", 2);
            publish(&mut server.connect(), "c", "after");
            assert_all_hear(&mut subscribers, "after");
        }
    }
}
