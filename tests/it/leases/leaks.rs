//! After any fault all leases can be had again, and the server has no more connections than an idle proxy keeps.

use super::{PATIENCE, assert_none_is_lost, named, one_worker};
use crate::support::{Client, Kind, Proxy, Server, is_direct, others, wait_until, words};
use std::thread;
use std::time::Duration;

/// What an idle proxy keeps: a connection for each protocol's lane, one for what is slow, one ready for the next lease.
const IDLE: usize = 4;

/// Clients that hold leases for every reason, in the middle of what they do.
fn holders(proxy: &Proxy, server: &Server) -> Vec<Client> {
    let mut holders = Vec::new();
    let mut hold = |requests: &[&str]| {
        let mut client = proxy.connect();
        for request in requests {
            client.send(&words(request));
        }
        holders.push(client);
    };
    for _ in 0..3 {
        hold(&["WATCH w"]);
        hold(&["WATCH w", "MULTI", "SET w 1"]);
    }
    for _ in 0..3 {
        hold(&["BLPOP never 0"]);
        hold(&["GET k", "BLPOP never 0", "GET k"]);
    }
    hold(&["MONITOR"]);
    hold(&["HELLO 3", "CLIENT TRACKING ON", "GET k"]);
    hold(&["SET k v", "WAIT 3 0"]);
    hold(&["MULTI", "SELECT 2", "SET k v"]);
    hold(&["DEBUG NOSUCH", "GET k"]);
    let mut uploader = proxy.connect();
    uploader.send(b"*3\r\n$3\r\nSET\r\n$5\r\nlarge\r\n$3000000\r\nand no more");
    holders.push(uploader);
    wait_until("those who block are blocked, with who waits for replicas", PATIENCE, || super::blocked(server) == 7);
    holders
}

/// `fault` is done to the server while everything is held; then all clients leave.
fn after(fault: impl Fn(&mut Server)) {
    if is_direct() {
        return;
    }
    for clients_leave_first in [false, true] {
        let mut server = Server::start(Kind::Redis70);
        let proxy = one_worker(&server);
        let mut holders = holders(&proxy, &server);
        let some = holders.split_off(holders.len() / 2);
        if clients_leave_first {
            some.into_iter().for_each(Client::reset);
            fault(&mut server);
        } else {
            fault(&mut server);
            drop(some);
        }
        let mut client = proxy.connect();
        wait_until("transactions are served", PATIENCE, || client.ask("WATCH k") == b"+OK\r\n");
        drop((holders, client));
        wait_until("nobody is blocked", PATIENCE, || super::blocked(&server) == 0);
        assert_none_is_lost(&proxy, &server);
        wait_until("the rest is closed", PATIENCE, || named(&server, "outrigger:").len() <= IDLE);
    }
}

#[test]
fn the_server_is_killed_and_started_again() {
    after(Server::start_again);
}

#[test]
fn the_server_ends_all_connections() {
    after(|server| {
        let mut admin = server.connect();
        for line in others(&mut admin) {
            let id = line.split_ascii_whitespace().find_map(|field| field.strip_prefix("id=")).expect("it has an id");
            admin.ask(&format!("CLIENT KILL ID {id}"));
        }
    });
}

#[test]
fn the_server_stands_still() {
    after(|server| {
        server.freeze();
        // Longer than a request may take.
        thread::sleep(Duration::from_secs(6));
        server.thaw();
    });
}

#[test]
fn nothing_happens_but_that_clients_leave() {
    after(|_| {});
}
