//! Keys and blocking of requests, right and wrong ones. That the right ones agree with real servers is tested against them.

use super::super::table::{self, Command};
use super::*;

fn command(words: &[&[u8]]) -> &'static Command {
    let command = table::find(words[0]).expect("a known command");
    words.get(1).and_then(|word| table::find_sub(command, word)).unwrap_or(command)
}

fn keys_of(request: &str) -> Vec<String> {
    let words: Vec<&[u8]> = request.split(' ').map(|word| if word == "''" { b"" } else { word.as_bytes() }).collect();
    let mut found = Vec::new();
    keys(command(&words), words.iter().copied(), |key| found.push(String::from_utf8_lossy(key).into_owned()));
    found
}

fn blocks(request: &str) -> bool {
    let words: Vec<&[u8]> = request.split(' ').map(str::as_bytes).collect();
    asks_to_block(command(&words), words.iter().copied())
}

#[test]
fn keys_are_found_where_the_command_has_them() {
    for (request, keys) in [
        ("ping", ""),
        ("get a", "a"),
        ("MSET a 1 b 2", "a b"),
        ("blpop a b 0", "a b"),
        ("bitop and d a b", "d a b"),
        ("object encoding a", "a"),
        ("xinfo stream a full", "a"),
        ("object a", ""),
        ("msetex 2 a 1 b 2 ex 9", "a b"),
        ("evalsha 0123 2 a b c", "a b"),
        ("eval s 0 a", ""),
        ("lmpop 2 a b left", "a b"),
        ("zunionstore d 2 a b weights 1 2", "d a b"),
        ("sort a by w_* limit 0 store get # store d", "a d"),
        ("sort a get store store d store e", "a e"),
        ("sort a store", "a"),
        ("sort_ro a", "a"),
        ("georadius a 1 2 3 km store d", "a d"),
        ("georadiusbymember a store 3 km StoreDist d asc", "a d"),
        ("georadius_ro a 1 2 3 km", "a"),
        ("migrate h 1 a 0 9 copy", "a"),
        ("migrate h 1 '' 0 9 auth keys keys a b", "a b"),
        ("migrate h 1 a 0 9 keys b", ""),
        ("xread count 2 block 0 streams a b 0 0", "a b"),
        ("xreadgroup group streams block streams streams >", "streams"),
        ("xread streams a b 0", ""),
        ("stralgo lcs len keys a b", "a b"),
        ("spublish channel message", ""),
        ("json.mget a b $", "a b"),
        ("json.mset a $ 1 b $ 2", "a b"),
        ("ts.nrange 2 a b - +", "a b"),
    ] {
        assert_eq!(keys_of(request).join(" "), keys, "{request}");
    }
}

#[test]
fn a_wrong_count_yields_no_keys() {
    for count in ["3", "-1", "x", "''", "18446744073709551615", "99999999999999999999", "1.5"] {
        assert!(keys_of(&format!("lmpop {count} a left")).is_empty() || count == "''", "{count}");
        assert!(keys_of(&format!("eval s {count} a b")).is_empty(), "{count}");
    }
}

#[test]
fn only_the_option_blocks() {
    for (request, expected) in [
        ("blpop a 0", true),
        ("wait 1 0", true),
        ("get block", false),
        ("xread block 0 streams a 0", true),
        ("xread COUNT 1 BLOCK 0 streams a 0", true),
        ("xread streams block 0", false),
        ("xread count 1 streams a block 0 block", false),
        ("xreadgroup group block block streams a >", false),
        ("xreadgroup group g c block 0 streams a >", true),
        ("xreadgroup group g c claim 9 block 0 streams a >", true),
        ("ts.read block 0", false),
        ("ts.read a 0 max_count 9 block 0 1", true),
        ("xread", false),
    ] {
        assert_eq!(blocks(request), expected, "{request}");
    }
}

#[test]
fn no_number_of_arguments_panics() {
    let words: [&[u8]; 9] =
        [b"2", b"", b"store", b"keys", b"streams", b"block", b"group", b"-1", b"99999999999999999999"];
    for command in table::all() {
        for length in 0..12 {
            for offset in 0..words.len() {
                let args = words.iter().cycle().skip(offset).take(length).copied();
                let mut count = 0;
                keys(command, args.clone(), |_| count += 1);
                assert!(count <= length, "{}", command.name);
                let _ = asks_to_block(command, args);
            }
        }
    }
}

/// The server reads option words up to a NUL: what it takes for BLOCK must not pass for anything else here.
#[test]
fn words_end_at_a_nul_as_in_the_server() {
    for request in [
        "xread block\0 0 streams s $",
        "xread BLOCK\0x 0 streams s $",
        "xread count\0 1 block 0 streams s $",
        "xreadgroup group\0 streams c block 0 streams s >",
    ] {
        assert!(blocks(request), "{request:?}");
    }
    assert!(!blocks("xread streams\0 block 0"), "a key of that name, behind the option");
}
