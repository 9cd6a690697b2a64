//! Few connections, whatever the number of subscribers, and what the server sees of it.

use super::{assert_quiet, message, publish, push, shown, subscribe, wait_for_subscribers};
use crate::support::{Client, Kind, PATIENCE, Proxy, Server, is_direct, others, wait_until};
use std::time::Duration;

/// A subscription connection that nobody needs any more is closed after 10 s.
const RETIRED: Duration = Duration::from_secs(20);

/// The lines of CLIENT LIST of connections that are subscribed.
fn subscribed(admin: &mut Client) -> Vec<String> {
    let counts = |line: &String| {
        ["sub=", "psub=", "ssub="].iter().any(|name| {
            let value = line.split(' ').find_map(|field| field.strip_prefix(name));
            value.is_some_and(|value| value != "0")
        })
    };
    others(admin).into_iter().filter(counts).collect()
}

#[test]
fn any_number_of_subscribers_is_one_connection_of_each_worker() {
    if is_direct() {
        return;
    }
    let server = Server::start(Kind::Redis70);
    let proxy = Proxy::start(&server, |flags| {
        flags.args(["--workers", "2"]);
    });
    let mut admin = server.connect();
    let mut clients: Vec<Client> = (0..100).map(|_| proxy.connect()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        if number % 2 == 0 {
            client.hello3();
        }
        client.ask(&format!("SUBSCRIBE all own-{number}"));
        client.reply();
        client.ask(&format!("PSUBSCRIBE pattern-{}*", number % 5));
        client.ask("SSUBSCRIBE shard");
    }
    let lines = subscribed(&mut admin);
    assert_eq!(lines.len(), 2, "{lines:#?}");
    assert!(lines.iter().all(|line| line.contains(":subscription ")), "{lines:#?}");
    assert_eq!(admin.ask("PUBSUB NUMSUB all"), b"*2\r\n$3\r\nall\r\n:2\r\n");
    publish(&mut admin, "all", "hello");
    for (number, client) in clients.iter_mut().enumerate() {
        let array = message("all", "hello");
        let expected = if number % 2 == 0 { push(array) } else { array };
        assert_eq!(shown(&client.reply()), shown(&expected));
    }
    // They leave in every way there is.
    for (number, mut client) in clients.into_iter().enumerate() {
        match number % 4 {
            0 => client.reset(),
            1 => assert_eq!(client.ask("RESET"), b"+RESET\r\n"),
            2 => assert_eq!(client.ask("QUIT"), b"+OK\r\n"),
            _ => drop(client),
        }
    }
    wait_for_subscribers(&server, "all", 0);
    let quiet = |admin: &mut Client| {
        ["PUBSUB CHANNELS", "PUBSUB SHARDCHANNELS"].iter().all(|text| admin.ask(text) == b"*0\r\n")
            && admin.ask("PUBSUB NUMPAT") == b":0\r\n"
    };
    wait_until("nothing is subscribed to", PATIENCE, || quiet(&mut admin));
    wait_until("the connections are closed", RETIRED, || {
        others(&mut admin).iter().all(|line| !line.contains(":subscription "))
    });
    // Who comes then is subscribed over new ones.
    let mut late: Vec<Client> = (0..4).map(|_| proxy.connect()).collect();
    late.iter_mut().for_each(|client| subscribe(client, "all"));
    publish(&mut admin, "all", "again");
    late.iter_mut().for_each(|client| assert_eq!(shown(&client.reply()), shown(&message("all", "again"))));
    assert_eq!(proxy.logged("lost the subscription connection"), 0);
}

#[test]
fn the_last_unsubscribe_is_acknowledged_when_the_server_has_done_it() {
    let server = Server::start(Kind::Valkey91);
    let proxy = Proxy::before(&server);
    let (mut admin, mut client) = (server.connect(), proxy.connect());
    for round in 0..50 {
        subscribe(&mut client, "c");
        assert_eq!(admin.ask("PUBSUB NUMSUB c"), b"*2\r\n$1\r\nc\r\n:1\r\n", "round {round}");
        client.ask("UNSUBSCRIBE c");
        assert_eq!(admin.ask("PUBSUB NUMSUB c"), b"*2\r\n$1\r\nc\r\n:0\r\n", "round {round}");
    }
}

#[test]
fn subscribers_share_the_pool_with_everybody_else() {
    let server = Server::start(Kind::Redis70);
    let proxy = Proxy::start(&server, |flags| {
        flags.args(["--workers", "1", "--pool-size", "4"]);
    });
    // Lanes of both protocols and of two databases hold all there is.
    let mut elsewhere = [proxy.connect(), proxy.connect()];
    let (mut resp2, mut resp3) = (proxy.connect(), proxy.connect());
    elsewhere[1].hello3();
    resp3.hello3();
    for client in &mut elsewhere {
        client.select(1);
        assert_eq!(client.ask("SET k v"), b"+OK\r\n");
    }
    assert_eq!(resp2.ask("SET k v"), b"+OK\r\n");
    assert_eq!(resp3.ask("GET k"), b"$1\r\nv\r\n");
    let mut subscriber = proxy.connect();
    subscribe(&mut subscriber, "c");
    for round in 0..20 {
        let text = format!("round-{round}");
        assert_eq!(resp2.ask(&format!("SET k {text}")), b"+OK\r\n");
        assert_eq!(resp3.frame("GET k").as_text(), text);
        assert_eq!(resp3.ask(&format!("PUBLISH c {text}")), b":1\r\n");
        assert_eq!(shown(&subscriber.reply()), shown(&message("c", &text)));
    }
    let connections = others(&mut server.connect()).len();
    assert!(connections <= 4 || is_direct(), "{connections} connections");
}

#[test]
fn keyspace_notifications_arrive() {
    for kind in Kind::ALL {
        let server = Server::start_with(kind, &["--notify-keyspace-events", "KEA"]);
        let proxy = Proxy::before(&server);
        let (mut resp2, mut resp3, mut writer) = (proxy.connect(), proxy.connect(), proxy.connect());
        resp3.hello3();
        resp2.ask("PSUBSCRIBE __keyevent@0__:*");
        resp3.ask("SUBSCRIBE __keyspace@0__:k");
        assert_eq!(writer.ask("SET k v"), b"+OK\r\n");
        assert_eq!(writer.ask("DEL k"), b":1\r\n");
        for event in ["set", "del"] {
            let texts: Vec<_> = Frame(&mut resp2).texts();
            assert_eq!(texts, ["pmessage", "__keyevent@0__:*", &format!("__keyevent@0__:{event}"), "k"]);
            assert_eq!(Frame(&mut resp3).texts(), ["message", "__keyspace@0__:k", event]);
        }
        assert_quiet(&mut resp2);
    }
}

/// The next frame of a client.
struct Frame<'client>(&'client mut Client);

impl Frame<'_> {
    fn texts(self) -> Vec<String> {
        let frame = crate::support::Frame::whole(&self.0.reply());
        frame.items.iter().map(crate::support::Frame::as_text).collect()
    }
}

#[test]
fn a_client_is_told_what_it_is_subscribed_to() {
    let server = Server::start(Kind::Redis70);
    let proxy = Proxy::before(&server);
    let mut client = proxy.connect();
    client.hello3();
    let tells = |client: &mut Client, text: &str| {
        let info = client.frame("CLIENT INFO").as_text();
        assert!(info.contains(text), "{text} is not in {info}");
    };
    tells(&mut client, " flags=N ");
    tells(&mut client, " sub=0 psub=0 ssub=0 ");
    client.pipeline(&["SUBSCRIBE a", "PSUBSCRIBE b", "PSUBSCRIBE c", "SSUBSCRIBE d"].map(crate::support::words));
    tells(&mut client, " flags=P ");
    tells(&mut client, " sub=1 psub=2 ssub=1 ");
}

#[test]
fn who_was_killed_is_not_counted_any_more() {
    let server = Server::start(Kind::Redis70);
    let proxy = Proxy::start(&server, |flags| {
        flags.args(["--workers", "1"]);
    });
    let mut publisher = proxy.connect();
    for round in 0..500 {
        let mut client = proxy.connect();
        let id = client.frame("CLIENT ID").as_text();
        subscribe(&mut client, "c");
        assert_eq!(publisher.ask(&format!("CLIENT KILL ID {id}")), b":1\r\n");
        assert_eq!(publisher.ask("PUBLISH c text"), b":0\r\n", "round {round}");
    }
}
