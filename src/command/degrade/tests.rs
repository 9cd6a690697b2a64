//! What is decided for requests, right and wrong ones. That the answers are those of an empty server is tested against one.

use super::*;

fn with(words: &str, policy: &Policy) -> Degraded {
    let args: Vec<&[u8]> = words.split_ascii_whitespace().map(str::as_bytes).collect();
    degrade(args.iter().copied(), false, false, policy)
}

fn of(words: &str) -> Degraded {
    with(words, &Policy::default())
}

fn dropping() -> Policy {
    Policy { writes: Writes::Drop, ..Policy::default() }
}

#[test]
fn reads_are_answered_in_the_shape_of_their_arguments() {
    for (words, empty) in [
        ("GET k", Empty::Nil),
        ("get k", Empty::Nil),
        ("MGET a b c", Empty::Nils(3)),
        ("HMGET k a b", Empty::Nils(2)),
        ("GEOPOS k", Empty::NilArrays(0)),
        ("LPOS k count", Empty::Nil),
        ("LPOS k a RANK 1 COUNT 0", Empty::Array),
        ("BITPOS k 1", Empty::Integer(-1)),
        ("BITFIELD_RO k GET u8 0 OVERFLOW SAT GET u8 1", Empty::Integers { each: 0, count: 2 }),
        ("HTTL k FIELDS 2 a b", Empty::Integers { each: -2, count: 2 }),
        ("LCS len idx", Empty::Text),
        ("LCS a b IDX", Empty::Matches),
        ("STRALGO LCS LEN KEYS a b", Empty::Integer(0)),
        ("ZRANK k m WITHSCORE", Empty::NilArray),
        ("OBJECT ENCODING k", Empty::Nil),
        // None of our servers has these.
        ("DIGEST k", Empty::Nil),
        ("SDIFFCARD 2 a b LIMIT 3", Empty::Integer(0)),
        ("SUNIONCARD 2 a b APPROX", Empty::Integer(0)),
        ("ARCOUNT k", Empty::Integer(0)),
        ("ARGET k 1", Empty::Nil),
        ("ARGREP k - + EXACT x", Empty::Array),
        ("ARLASTITEMS k 2 REV", Empty::Array),
        ("ARLEN k", Empty::Integer(0)),
        ("ARMGET k 1 2 3", Empty::Nils(3)),
        ("ARNEXT k", Empty::Integer(0)),
        ("AROP k 0 9 SUM", Empty::Nil),
        ("AROP k 0 9 MATCH x", Empty::Integer(0)),
        ("AROP k 0 9 USED", Empty::Integer(0)),
        ("ARSCAN k 0 9 LIMIT 1", Empty::Array),
    ] {
        assert_eq!(of(words), Degraded::Empty(empty), "{words}");
    }
}

/// Never a quick nil for EXEC, which would mean that a watched key has changed.
#[test]
fn transactions_get_the_error_whatever_is_in_them() {
    for policy in [Policy::default(), dropping(), Policy { reads: Reads::Values, ..dropping() }] {
        for words in ["EXEC", "MULTI", "DISCARD"] {
            assert_eq!(with(words, &policy), Degraded::Refused, "{words}");
        }
        // A block begins with MULTI, and what follows is not looked at.
        let block = b"*1\r\n$5\r\nMULTI\r\n*2\r\n$3\r\nGET\r\n$1\r\nk\r\n*1\r\n$4\r\nEXEC\r\n";
        for sent in [false, true] {
            assert_eq!(degrade(crate::resp::request::Args::new(block), sent, false, &policy), Degraded::Refused);
        }
    }
}

#[test]
fn commands_that_may_write_are_answered_while_they_only_read() {
    for (words, empty) in [
        ("GETEX k", Empty::Nil),
        ("HGETEX k FIELDS 1 f", Empty::Nils(1)),
        ("SORT k BY w_* GET STORE", Empty::Array),
        ("GEORADIUS k 1 2 3 km COUNT 2", Empty::Array),
        ("BITFIELD k GET u8 0", Empty::Integers { each: 0, count: 1 }),
    ] {
        assert_eq!(of(words), Degraded::Empty(empty), "{words}");
    }
    for words in [
        "GETEX k PERSIST",
        "HGETEX k EX 9 FIELDS 1 f",
        "SORT k STORE d",
        "SORT k LIMIT 0 1 store d",
        "GEORADIUS k 1 2 3 km STORE d",
        "GEORADIUSBYMEMBER k m 3 km STOREDIST d",
        "BITFIELD k GET u8 0 SET u8 0 1",
    ] {
        assert_eq!(of(words), Degraded::Refused, "{words}");
    }
}

#[test]
fn everything_else_is_refused() {
    for words in [
        "",
        "NOSUCH k",
        "SET k v",
        "INCR k",
        "GETDEL k",
        "BLPOP k 0",
        "XREAD BLOCK 0 STREAMS k $",
        "EVAL_RO x 0",
        "FCALL_RO f 0",
        "TIME",
        "CONFIG GET x",
        "PUBLISH c m",
        "SUBSCRIBE c",
        "MULTI",
        "EXEC",
        "WATCH k",
        "SCRIPT EXISTS x",
        "COMMAND DOCS",
        "XINFO STREAM k",
        "XPENDING k g",
        "JSON.GET k",
        "ARINFO k",
        "ARGETRANGE k 0 18446744073709551614",
        "CLIENT",
        "CLIENT NOSUCH",
        "object|encoding k",
    ] {
        assert_eq!(of(words), Degraded::Refused, "{words}");
    }
}

#[test]
fn what_the_server_would_refuse_is_refused_where_that_costs_nothing() {
    for words in [
        "GET",
        "GET a b",
        "MGET",
        "BITPOS k 2",
        "BITFIELD_RO k GET u8",
        "BITFIELD_RO k SET u8 0 1",
        "HTTL k FIELDS 2 a",
        "HTTL k FIELDS 1 a b",
        "LCS a b LEN IDX",
        "LCS a b NOSUCH",
        "LPOS k a COUNT",
        "LPOS k a NOSUCH 1",
        "SINTERCARD 3 a b",
        "ZUNION 0 a",
        "XREAD STREAMS a b 0",
        "STRALGO LCS STRINGS a b",
    ] {
        assert_eq!(of(words), Degraded::Refused, "{words}");
    }
}

#[test]
fn info_and_command_are_answered_whatever_the_policy() {
    let policy = Policy { reads: Reads::Error, strict_prefixes: vec![b"".as_slice().into()], ..Policy::default() };
    for strict in [false, true] {
        for (words, expected) in
            [("INFO", Degraded::Info), ("info server", Degraded::Info), ("COMMAND", Degraded::CommandList)]
        {
            let args = words.split(' ').map(str::as_bytes);
            assert_eq!(degrade(args, false, strict, &policy), expected, "{words}");
        }
        assert_eq!(degrade([b"GET".as_slice(), b"k"].into_iter(), false, strict, &policy), Degraded::Refused);
    }
}

#[test]
fn reads_can_be_limited_to_values_or_forbidden() {
    let values = Policy { reads: Reads::Values, ..Policy::default() };
    for words in ["GET k", "MGET a b", "HGET k f", "HMGET k f"] {
        assert!(matches!(with(words, &values), Degraded::Empty(_)), "{words}");
    }
    let none = Policy { reads: Reads::Error, ..Policy::default() };
    for words in ["EXISTS k", "LRANGE k 0 1", "GETEX k", "SCAN 0"] {
        assert_eq!(with(words, &values), Degraded::Refused, "{words}");
    }
    for words in ["GET k", "EXISTS k"] {
        assert_eq!(with(words, &none), Degraded::Refused, "{words}");
    }
}

#[test]
fn plain_writes_are_dropped_if_wanted_and_not_sent() {
    for words in [
        "SET k v",
        "SET k v EX 10",
        "SET k v px 10",
        "SET k v EXAT 99",
        "SET k v PXAT 99",
        "SET k v KEEPTTL",
        "SETEX k 9 v",
        "PSETEX k 9 v",
        "MSET a 1 b 2",
    ] {
        assert_eq!(with(words, &dropping()), Degraded::Dropped, "{words}");
        assert_eq!(of(words), Degraded::Refused, "{words}");
        let args = words.split(' ').map(str::as_bytes);
        assert_eq!(degrade(args.clone(), true, false, &dropping()), Degraded::Refused, "sent: {words}");
        assert_eq!(degrade(args, false, true, &dropping()), Degraded::Refused, "strict: {words}");
    }
    for words in [
        "SET k v NX",
        "SET k v XX",
        "SET k v GET",
        "SET k v IFEQ w",
        "SET k v EX 10 NX",
        "SET k v EX 0",
        "SET k v EX",
        "SET k v EX x",
        "SET k v NOSUCH",
        "SETEX k 0 v",
        "MSET a 1 b",
        "MSETNX a 1",
        "SETNX k v",
        "GETSET k v",
        "HSET k f v",
        "DEL k",
        "EXPIRE k 9",
        "INCR k",
    ] {
        assert_eq!(with(words, &dropping()), Degraded::Refused, "{words}");
    }
}

#[test]
fn strict_keys_are_always_refused_and_so_is_the_keyspace() {
    let strict =
        Policy { strict_prefixes: vec![b"lock:".as_slice().into(), b"session:".as_slice().into()], ..dropping() };
    for words in [
        "GET session:1",
        "MGET a lock:b",
        "SINTERCARD 2 a lock:b",
        "XREAD STREAMS a lock:b 0 0",
        "OBJECT ENCODING lock:x",
        "SET lock:a v",
        "MSET a 1 lock:b 2",
        "KEYS *",
        "SCAN 0",
        "DBSIZE",
        "RANDOMKEY",
    ] {
        assert_eq!(with(words, &strict), Degraded::Refused, "{words}");
    }
    assert_eq!(with("GET sessions", &strict), Degraded::Empty(Empty::Nil));
    assert_eq!(with("HGET k session:1", &strict), Degraded::Empty(Empty::Nil));
    assert_eq!(with("MSET a lock:1", &strict), Degraded::Dropped);
    assert_eq!(with("SCAN 0", &dropping()), Degraded::Empty(Empty::Scanned));
}

/// Whatever is sent, nothing panics and nothing that must not is answered.
#[test]
fn any_arguments_can_be_judged() {
    let words: [&[u8]; 12] = [
        b"",
        b"\0",
        b"\xff\xfe",
        b"k",
        b"0",
        b"1",
        b"18446744073709551615",
        b"99999999999999999999",
        b"-1",
        b"GET",
        b"fields",
        b"STREAMS",
    ];
    for command in table::all() {
        for count in 0..9 {
            for shift in 0..words.len() {
                let name = command.name.split('|').map(str::as_bytes);
                let args = name.chain(words.iter().copied().cycle().skip(shift * 5).take(count));
                let degraded = degrade(args, false, false, &dropping());
                if matches!(degraded, Degraded::Empty(_)) {
                    assert!(command.kind == Kind::Read || command.empty != table::Shape::Error, "{}", command.name);
                }
            }
        }
    }
}
