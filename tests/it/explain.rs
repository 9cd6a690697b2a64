//! `outrigger explain`: what a person reads who asks about one command.

use crate::program::run_to_end;
use crate::support::is_direct;
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(20);

#[test]
fn needs_no_upstream_and_says_all_there_is_to_know() {
    let page = explain(&["MGET", "user:1", "user:2"]);
    for line in [
        "command   MGET user:1 user:2",
        "keys      user:1 user:2",
        "route     over a connection that other clients use too",
        "deadline  ordinary: --request-timeout",
        "repeated  yes, once",
        r"RESP2     *2\r\n$-1\r\n$-1\r\n",
        r"RESP3     *2\r\n_\r\n_\r\n",
    ] {
        assert!(page.contains(line), "`{line}` is not in:\n{page}");
    }
}

#[test]
fn takes_commands_as_they_are_typed() {
    assert_eq!(explain(&["GET k"]), explain(&["GET", "k"]), "a whole request in one word");
    let page = explain(&["LPOS", "list", "a", "RANK", "-1"]);
    assert!(page.contains("command   LPOS list a RANK -1"), "arguments may look like flags:\n{page}");
    assert!(explain(&["SET", "k", "two words"]).contains("keys      k\n"));
}

#[test]
fn the_settings_count() {
    let refused = "answer    -UNAVAILABLE";
    assert!(explain(&["--degrade-reads", "values", "EXISTS", "k"]).contains(refused));
    assert!(explain(&["--degrade-reads", "error", "GET", "k"]).contains(refused));
    assert!(explain(&["--strict-prefix", "lock:", "--strict-prefix", "q:", "GET", "q:1"]).contains(refused));
    assert!(explain(&["--deny-commands", "@dangerous", "FLUSHALL"]).contains("route     refused with -NOPERM"));
    let dropped = explain(&["--degrade-writes", "drop", "SET", "k", "v"]);
    assert!(dropped.contains(r"RESP2     +OK\r\n"), "{dropped}");
}

#[test]
fn mistakes_are_called_so() {
    assert!(explain(&["GTE", "k"]).contains("UNKNOWN: GTE is no command that outrigger knows"));
    assert!(explain(&["OBJECT", "SIZE", "k"]).contains("SIZE is no subcommand"));
    assert!(explain(&["GET"]).contains("WRONG: GET wants exactly 2 words, this has 1."));
    let (status, usage) = run_to_end(&mut command(&[]), LIMIT);
    assert_eq!(status.code(), Some(64), "{usage}");
    assert!(usage.contains("COMMAND"), "{usage}");
}

/// What a client is answered while Redis cannot be asked, in RESP2 and RESP3, escaped; none if it is the error.
pub fn answers(words: &[&str]) -> Option<[String; 2]> {
    let page = explain(words);
    let line = |topic: &str| page.lines().find_map(|line| line.strip_prefix(topic)).map(|text| text.trim().to_owned());
    let answers = line("RESP2 ").zip(line("RESP3 ")).map(<[String; 2]>::from);
    assert!(answers.is_some() || line("answer ").is_some_and(|text| text.starts_with("-UNAVAILABLE")), "{page}");
    answers
}

fn explain(words: &[&str]) -> String {
    let (status, page) = run_to_end(&mut command(words), LIMIT);
    assert!(status.success(), "explain {words:?}, {status}:\n{page}");
    page
}

fn command(words: &[&str]) -> Command {
    let named = std::env::var("OUTRIGGER_BIN").ok().filter(|_| !is_direct());
    let mut command = Command::new(named.unwrap_or_else(|| env!("CARGO_BIN_EXE_outrigger").to_owned()));
    command.arg("explain").args(words).env_clear();
    command
}
