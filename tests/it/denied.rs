//! What `--deny-commands` denies, and that the categories are those of the servers.

use crate::support::{Kind, Proxy, Server, is_direct, wait_until, words};
use outrigger::command::category;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What `ACL CAT` of any of the servers lists is in a category, and nothing else.
#[test]
fn categories_are_those_of_the_servers() {
    let [old, new @ ..] = Kind::ALL.map(members);
    let new = new.into_iter().reduce(joined).expect("there are several");
    let is_container = |name: &str| new.values().flatten().any(|member| member.starts_with(&format!("{name}|")));
    let mut all = joined(old, new.clone());
    for (category, listed) in &mut all {
        // Before Redis 7 a container stands for its subcommands.
        listed.retain(|name| new.get(category).is_some_and(|known| known.contains(name)) || !is_container(name));
    }
    all.retain(|category, _| category != "fast" && category != "slow");
    let ours = category::names().map(|name| {
        let category = category::find(name).expect("it is there");
        (name.to_owned(), category.listed().map(str::to_owned).collect())
    });
    assert_eq!(ours.collect::<Members>(), all);
}

/// The members of each category.
type Members = BTreeMap<String, BTreeSet<String>>;

fn members(kind: Kind) -> Members {
    let server = Server::start(kind);
    let mut client = server.connect();
    let mut names =
        |request: &str| client.frame(request).items.iter().map(|name| name.as_text()).collect::<BTreeSet<_>>();
    names("ACL CAT").into_iter().map(|category| (category.clone(), names(&format!("ACL CAT {category}")))).collect()
}

fn joined(mut one: Members, other: Members) -> Members {
    for (category, names) in other {
        one.entry(category).or_default().extend(names);
    }
    one
}

#[test]
fn what_is_denied_is_refused_and_nothing_else() {
    if is_direct() {
        return;
    }
    for kind in Kind::ALL {
        let server = Server::start(kind);
        let proxy = Proxy::patient(&server, |flags| {
            flags.args(["--deny-commands", "FLUSHALL,config|set,@scripting", "--deny-commands", "no.such"]);
        });
        let mut client = proxy.connect();
        for protocol in [2, 3] {
            if protocol == 3 {
                client.hello3();
            }
            assert_eq!(client.ask("SET k v"), b"+OK\r\n");
            for (request, name) in [
                ("flushall async", "flushall"),
                ("CONFIG SET maxmemory 1", "config|set"),
                ("EVAL return 0", "eval"),
                ("Script Flush", "script|flush"),
                ("NO.SUCH x", "no.such"),
            ] {
                let refusal = format!("-NOPERM the '{name}' command is denied by outrigger (--deny-commands)\r\n");
                assert_eq!(client.ask(request), refusal.as_bytes(), "{request}");
            }
            assert_eq!(client.ask("GET k"), b"$1\r\nv\r\n");
            assert_eq!(client.ask("FLUSHDB"), b"+OK\r\n");
            assert!(!client.ask("CONFIG GET maxmemory").starts_with(b"-"));
        }
    }
}

/// As what an ACL denies does, it ends the transaction in which it stands: here, and on a connection of the client's own.
#[test]
fn within_a_transaction_it_ends_all_of_it() {
    if is_direct() {
        return;
    }
    let server = Server::start(Kind::Redis70);
    let proxy = Proxy::patient(&server, |flags| {
        flags.args(["--deny-commands", "flushall"]);
    });
    let mut client = proxy.connect();
    for before in ["PING", "WATCH other"] {
        client.ask(before);
        client.send(&["MULTI", "SET k v", "FLUSHALL", "SET k w", "EXEC", "GET k"].map(words).concat());
        assert_eq!(client.reply(), b"+OK\r\n");
        assert_eq!(client.reply(), b"+QUEUED\r\n");
        assert!(client.reply().starts_with(b"-NOPERM "));
        assert_eq!(client.reply(), b"+QUEUED\r\n");
        assert!(client.reply().starts_with(b"-EXECABORT "), "behind {before}");
        assert_eq!(client.reply(), b"$-1\r\n", "behind {before}");
    }
    wait_until("it is logged", Duration::from_secs(30), || proxy.logged("--deny-commands denies") > 0);
}

#[test]
fn what_is_denied_does_not_overtake_an_acknowledgement() {
    if is_direct() {
        return;
    }
    let server = Server::start(Kind::Redis70);
    let proxy = Proxy::patient(&server, |flags| {
        flags.args(["--deny-commands", "flushall"]);
    });
    for _ in 0..20 {
        let mut client = proxy.connect();
        client.send(&[words("SUBSCRIBE c"), words("FLUSHALL")].concat());
        assert_eq!(client.reply(), b"*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n");
        assert!(client.reply().starts_with(b"-NOPERM "));
    }
}

#[test]
fn what_is_no_command_is_called_so() {
    let server = Server::start(Kind::Redis70);
    for (mistake, words) in [("@nosuch", "@dangerous"), ("config|nosuch", "no subcommand"), ("a b c", "is no command")]
    {
        let Err(refusal) = Proxy::try_start(&server, |flags| {
            flags.args(["--deny-commands", mistake]);
        }) else {
            assert!(is_direct(), "{mistake} was accepted");
            return;
        };
        for word in ["--deny-commands (OUTRIGGER_DENY_COMMANDS): ", words] {
            assert!(refusal.log.contains(word), "{mistake}: {}", refusal.log);
        }
        assert_eq!(refusal.status.code(), Some(64));
    }
}
