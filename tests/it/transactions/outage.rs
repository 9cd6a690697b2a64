//! Without Redis a transaction can be begun and queued, and EXEC says what became of it: never nil, which would mean that a
//! watched key has changed. And a WATCH that nobody keeps keeps its transaction from running.

use super::{EXECABORT, shown, transact};
use crate::support::{Client, Kind, PATIENCE, Proxy, Server, is_direct, wait_until, words};

fn is_unavailable(reply: &[u8]) -> bool {
    reply.starts_with(b"-UNAVAILABLE ") && reply.ends_with(b", command not sent\r\n")
}

#[test]
fn queueing_goes_on_and_exec_says_that_nothing_was_sent() {
    if is_direct() {
        return;
    }
    for settings in [&[][..], &["--degrade-writes", "drop"], &["--degrade-reads", "error"]] {
        let mut server = Server::start(Kind::Redis70);
        let proxy = Proxy::start(&server, |flags| {
            flags.args(settings);
        });
        let mut client = proxy.connect();
        assert_eq!(transact(&mut client, &["SET k v"]), b"*1\r\n+OK\r\n");
        // One is open when Redis goes, and is over after its EXEC.
        assert_eq!(client.pipeline(&["MULTI", "SET k x"].map(words)).concat(), b"+OK\r\n+QUEUED\r\n");
        server.kill();
        let reply = client.ask("EXEC");
        assert!(is_unavailable(&reply), "{settings:?}: {}", shown(&reply));
        assert_eq!(client.ask("EXEC"), b"-ERR EXEC without MULTI\r\n");
        for commands in [&["GET k"][..], &["SET k x"], &["GET k", "INCR n"], &[]] {
            let reply = transact(&mut client, commands);
            assert!(is_unavailable(&reply), "{settings:?}, {commands:?}: {}", shown(&reply));
        }
        let spoilt = client.pipeline(&["MULTI", "GET", "EXEC"].map(words));
        assert_eq!(shown(&spoilt[2]), shown(EXECABORT), "what is known here is said here");
        assert_eq!(client.pipeline(&["MULTI", "GET k", "DISCARD"].map(words))[2], b"+OK\r\n");
        server.start_again();
        wait_until("transactions run again", PATIENCE, || transact(&mut client, &["INCR n"]) == b"*1\r\n:1\r\n");
    }
}

#[test]
fn before_the_first_contact_it_is_no_different() {
    if is_direct() {
        return;
    }
    let mut server = Server::start(Kind::Redis70);
    server.kill();
    let proxy = Proxy::before(&server);
    let mut client = proxy.connect();
    let reply = transact(&mut client, &["SET k v", "OBJECT ENCODING k"]);
    assert!(is_unavailable(&reply), "{}", shown(&reply));
    server.start_again();
    wait_until("transactions run", PATIENCE, || transact(&mut client, &["INCR n"]) == b"*1\r\n:1\r\n");
}

/// The client meant its transaction to run only if nobody else had changed the key.
#[test]
fn what_was_to_be_watched_and_is_not_does_not_run() {
    if is_direct() {
        return;
    }
    let server = Server::start(Kind::Redis70);
    let proxy = Proxy::start(&server, |flags| {
        flags.args(["--workers", "1", "--pool-size", "4"]);
    });
    // All connections for such as these are taken.
    let mut holders: Vec<Client> = (0..2).map(|_| proxy.connect()).collect();
    holders.iter_mut().for_each(|holder| assert_eq!(holder.ask("WATCH k"), b"+OK\r\n"));
    let mut refused: Vec<Client> = (0..13).map(|_| proxy.connect()).collect();
    refused.iter_mut().for_each(|client| client.send(&words("WATCH k")));
    refused.iter_mut().for_each(|client| {
        let reply = client.reply();
        assert!(is_unavailable(&reply), "{}", shown(&reply));
    });
    let mut refused_watch = || refused.pop().expect("there are enough");
    let exec = |client: &mut Client| transact(client, &["INCR n"]);
    let mut client = refused_watch();
    assert_eq!(shown(&exec(&mut client)), shown(EXECABORT));
    assert_eq!(exec(&mut client), b"*1\r\n:1\r\n", "EXEC forgets it");
    for (number, ends) in ["UNWATCH", "EXEC x", "RESET", "MULTI;DISCARD", "MULTI;GET;EXEC"].iter().enumerate() {
        let mut client = refused_watch();
        ends.split(';').for_each(|request| drop(client.ask(request)));
        assert_eq!(exec(&mut client), format!("*1\r\n:{}\r\n", number + 2).into_bytes(), "{ends} forgets it");
    }
    for keeps in ["EXEC", "DISCARD", "MULTI x", "DISCARD x", "UNWATCH x", "GET k"] {
        let mut client = refused_watch();
        client.ask(keeps);
        assert_eq!(shown(&exec(&mut client)), shown(EXECABORT), "{keeps} does not forget it");
    }
    let mut client = refused_watch();
    let replies = client.pipeline(&["MULTI", "UNWATCH", "INCR n", "EXEC"].map(words));
    assert_eq!(shown(&replies[3]), shown(EXECABORT), "what is queued has not happened yet");
    assert_eq!(server.connect().ask("GET n"), b"$1\r\n6\r\n");
    drop(holders);
}
