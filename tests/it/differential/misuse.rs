//! Every data command with keys of every type and with arguments of many sorts, most of them wrong.

use super::corpus;
use crate::support::words;
use std::collections::BTreeSet;

/// Keys of every type, each with one member so that nothing depends on chance, made anew before every attempt.
const KEYS: [(&str, &str); 6] = [
    ("str", "SET str 5"),
    ("list", "RPUSH list m"),
    ("hash", "HSET hash m 1"),
    ("set", "SADD set m"),
    ("zset", "ZADD zset 1 m"),
    ("stream", "XADD stream 1-1 m 1"),
];

/// What follows the key.
const TAILS: [&str; 12] =
    ["", "0", "m", "-1", "99999999999999999999", "0 -1", "m 1", "1 m", "list str", "0 m 1", "m 0 x", "1 x 2 m"];

/// Not tried: without a key they do something to the server or the whole database, or their reply depends on chance
/// (as that to a cursor of a hash table does).
const LEFT_OUT: [&str; 11] = [
    "SSCAN",
    "FLUSHALL",
    "FLUSHDB",
    "SWAPDB",
    "RANDOMKEY",
    "DBSIZE",
    "PFSELFTEST",
    "PFDEBUG",
    "MIGRATE",
    "SCAN",
    "MEMORY",
];

/// The data commands of the corpus that the server knows.
pub fn commands(known: &BTreeSet<String>) -> BTreeSet<String> {
    let names = corpus::data_lines().into_iter().map(|line| line.words().swap_remove(0));
    names.filter(|name| known.contains(name) && !LEFT_OUT.contains(&name.as_str())).collect()
}

/// All attempts with one command: what to call them, and the requests of each.
pub fn attempts(name: &str) -> Vec<(String, Vec<Vec<u8>>)> {
    TAILS.iter().map(|tail| (format!("{name} <key> {tail}"), attempt(name, tail))).collect()
}

fn attempt(name: &str, tail: &str) -> Vec<Vec<u8>> {
    let mut requests = vec![words("FLUSHDB"), words(name)];
    for (key, make) in KEYS {
        requests.extend([words("FLUSHDB"), words(make)]);
        requests.push(words(&format!("{name} {key} {tail}")));
    }
    requests
}
