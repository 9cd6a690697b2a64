//! An upstream user who may not use transactions: MULTI would be refused, and what follows it would run bare.

use super::shown;
use crate::program::run_to_end;
use crate::support::{Client, Kind, PATIENCE, Proxy, Server, is_direct, wait_until, words};
use std::process::Command;

/// A server with a user `app` who may do all but this.
fn server_without(kind: Kind, rights: &str) -> Server {
    let server = Server::start(kind);
    let mut admin = server.connect();
    assert_eq!(admin.ask(&format!("ACL SETUSER app on >secret ~* &* +@all {rights}")), b"+OK\r\n");
    server
}

fn address_of(server: &Server) -> String {
    format!("app:secret@{}", server.address())
}

#[test]
fn nothing_runs_bare_where_transactions_are_forbidden() {
    if is_direct() {
        return;
    }
    for kind in Kind::ALL {
        for rights in ["-multi", "-exec", "-exec -discard", "-@transaction"] {
            let server = server_without(kind, rights);
            let proxy = Proxy::toward(&address_of(&server), |_| {});
            let name = if rights.starts_with("-exec") { "exec" } else { "multi" };
            let mut client = proxy.connect();
            assert_eq!(client.ask("SET k before"), b"+OK\r\n");
            let replies =
                client.pipeline(&["MULTI", "SET k v", "INCR n", "EXEC", "GET k", "EXISTS n", "EXEC"].map(words));
            let text = String::from_utf8_lossy(&replies[3]);
            let start = "-EXECABORT Transaction discarded because of: NOPERM ";
            assert!(text.starts_with(start) && text.contains(&format!("'{name}' command")), "{rights}: {text}");
            assert_eq!(replies[..3].concat(), b"+OK\r\n+QUEUED\r\n+QUEUED\r\n");
            assert_eq!(replies[4..].concat(), b"$6\r\nbefore\r\n:0\r\n-ERR EXEC without MULTI\r\n");
        }
    }
}

/// Whoever gives the right later need not start anything anew, but for the connections.
#[test]
fn a_right_that_is_given_or_taken_later_counts() {
    if is_direct() {
        return;
    }
    let server = server_without(Kind::Redis70, "-multi");
    let proxy = Proxy::toward(&address_of(&server), |flags| {
        flags.args(["--workers", "1"]);
    });
    let (mut client, mut admin) = (proxy.connect(), server.connect());
    let exec = |client: &mut Client| client.pipeline(&["MULTI", "INCR n", "EXEC"].map(words)).pop();
    let is_refused = |reply: &Option<Vec<u8>>| reply.as_ref().is_some_and(|reply| reply.starts_with(b"-EXECABORT "));
    assert!(is_refused(&exec(&mut client)));
    assert_eq!(admin.ask("ACL SETUSER app +multi"), b"+OK\r\n");
    admin.ask("CLIENT KILL USER app");
    wait_until("transactions run", PATIENCE, || exec(&mut client).is_some_and(|reply| reply.starts_with(b"*1\r\n")));
    let ran = server.connect().ask("GET n");
    assert_eq!(admin.ask("ACL SETUSER app -multi"), b"+OK\r\n");
    // The server refuses MULTI and runs the rest, so that nobody can know; it happens once.
    let reply = exec(&mut client).expect("EXEC is answered");
    assert!(reply.starts_with(b"-INDETERMINATE "), "{}", shown(&reply));
    let after = server.connect().ask("GET n");
    assert_ne!(after, ran, "this server ran it bare");
    wait_until("it is known", PATIENCE, || is_refused(&exec(&mut client)));
    assert_eq!(server.connect().ask("GET n"), after, "and never again");
}

#[test]
fn check_warns_of_it() {
    if is_direct() {
        return;
    }
    for (rights, name) in [("-multi", "multi"), ("-exec", "exec"), ("-client -multi", "multi")] {
        let server = server_without(Kind::Redis70, rights);
        let findings = check(&address_of(&server));
        let warning = findings.lines().find(|line| line.starts_with("WARN  the server refuses MULTI or EXEC"));
        let warning = warning.unwrap_or_else(|| panic!("{rights}: no warning in\n{findings}"));
        assert!(
            warning.contains(&format!("NOPERM this user has no permissions to run the '{name}' command")),
            "{warning}"
        );
    }
    let server = server_without(Kind::Redis70, "-discard -watch");
    assert!(!check(&address_of(&server)).contains("WARN"), "these are not needed");
}

fn check(address: &str) -> String {
    let binary = std::env::var("OUTRIGGER_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_outrigger").to_owned());
    let mut command = Command::new(binary);
    command.args(["check", "--upstream", &format!("redis://{address}")]);
    let (status, findings) = run_to_end(&mut command, PATIENCE);
    assert!(status.success(), "{findings}");
    findings
}
