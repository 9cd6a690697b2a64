//! The replies of an empty server, as bytes: what reads are answered while no server can be asked.
//!
//! Which of them a request gets is decided in [`crate::command::degrade`].

use crate::command::degrade::Empty;
use crate::resp::build;

/// The version that `INFO` tells of before the first contact with a server, as `HELLO` does.
pub(crate) const UNSEEN_VERSION: &str = "7.4.0";

/// Appends the reply that `empty` stands for, in RESP3 or RESP2.
pub(crate) fn write(empty: Empty, resp3: bool, out: &mut Vec<u8>) {
    match empty {
        Empty::Array => build::aggregate(b'*', 0, out),
        Empty::Integer(value) => build::signed(value.into(), out),
        Empty::Integers { each, count } => array(count, out, |out| build::signed(each.into(), out)),
        Empty::Map => build::aggregate(if resp3 { b'%' } else { b'*' }, 0, out),
        Empty::Matches => matches(resp3, out),
        Empty::Nil => build::nil(resp3, out),
        Empty::NilArray => build::nil_array(resp3, out),
        Empty::NilArrays(count) => array(count, out, |out| build::nil_array(resp3, out)),
        Empty::Nils(count) => array(count, out, |out| build::nil(resp3, out)),
        Empty::Scanned => {
            build::aggregate(b'*', 2, out);
            build::bulk(b"0", out);
            build::aggregate(b'*', 0, out);
        }
        Empty::Set => build::aggregate(if resp3 { b'~' } else { b'*' }, 0, out),
        Empty::Text => build::bulk(b"", out),
        Empty::TypeNone => build::simple("none", out),
    }
}

/// Appends what `INFO` is answered: no more than clients look for before they begin, and a section of our own. `version` is
/// the one last seen, or [`UNSEEN_VERSION`].
pub(crate) fn info(version: &str, section: impl FnOnce(&mut String), resp3: bool, out: &mut Vec<u8>) {
    let mut text = format!(
        "# Server\r\nredis_version:{version}\r\nredis_mode:standalone\r\n\r\n\
         # Persistence\r\nloading:0\r\n\r\n\
         # Replication\r\nrole:master\r\nconnected_slaves:0\r\n\r\n\
         # Cluster\r\ncluster_enabled:0\r\n\r\n\
         # Keyspace\r\n\r\n"
    );
    section(&mut text);
    match resp3 {
        true => build::verbatim(text.as_bytes(), out),
        false => build::bulk(text.as_bytes(), out),
    }
}

/// Appends an array of `count` equal elements.
fn array(count: usize, out: &mut Vec<u8>, element: impl Fn(&mut Vec<u8>)) {
    build::aggregate(b'*', count, out);
    for _ in 0..count {
        element(out);
    }
}

/// Appends what `LCS … IDX` finds: nothing.
fn matches(resp3: bool, out: &mut Vec<u8>) {
    match resp3 {
        true => build::aggregate(b'%', 2, out),
        false => build::aggregate(b'*', 4, out),
    }
    build::bulk(b"matches", out);
    build::aggregate(b'*', 0, out);
    build::bulk(b"len", out);
    build::integer(0, out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::section;

    fn written(empty: Empty) -> (String, String) {
        let text = |resp3| {
            let mut out = Vec::new();
            write(empty, resp3, &mut out);
            String::from_utf8(out).expect("text")
        };
        (text(false), text(true))
    }

    /// Those of one shape in both protocols, and those of two; that they are the server's is tested against one.
    #[test]
    fn replies_are_those_of_the_protocol() {
        let same = |text: &str| (text.to_owned(), text.to_owned());
        assert_eq!(written(Empty::Array), same("*0\r\n"));
        assert_eq!(written(Empty::Integer(-2)), same(":-2\r\n"));
        assert_eq!(written(Empty::Integers { each: -2, count: 2 }), same("*2\r\n:-2\r\n:-2\r\n"));
        assert_eq!(written(Empty::Scanned), same("*2\r\n$1\r\n0\r\n*0\r\n"));
        assert_eq!(written(Empty::Text), same("$0\r\n\r\n"));
        assert_eq!(written(Empty::TypeNone), same("+none\r\n"));
        let differ = |resp2: &str, resp3: &str| (resp2.to_owned(), resp3.to_owned());
        assert_eq!(written(Empty::Nil), differ("$-1\r\n", "_\r\n"));
        assert_eq!(written(Empty::NilArray), differ("*-1\r\n", "_\r\n"));
        assert_eq!(written(Empty::Nils(1)), differ("*1\r\n$-1\r\n", "*1\r\n_\r\n"));
        assert_eq!(written(Empty::NilArrays(1)), differ("*1\r\n*-1\r\n", "*1\r\n_\r\n"));
        assert_eq!(written(Empty::Map), differ("*0\r\n", "%0\r\n"));
        assert_eq!(written(Empty::Set), differ("*0\r\n", "~0\r\n"));
        let matches = "$7\r\nmatches\r\n*0\r\n$3\r\nlen\r\n:0\r\n";
        assert_eq!(written(Empty::Matches), differ(&format!("*4\r\n{matches}"), &format!("%2\r\n{matches}")));
    }

    #[test]
    fn info_says_what_clients_wait_for() {
        for (resp3, start) in [(false, "$"), (true, "=")] {
            let mut out = Vec::new();
            info("7.0.15", section::write_unknown, resp3, &mut out);
            let text = String::from_utf8(out).expect("text");
            assert!(text.starts_with(start), "{text}");
            for line in ["redis_version:7.0.15", "loading:0", "role:master", "# Outrigger", "outrigger_degraded:1"] {
                assert!(text.contains(&format!("\n{line}\r\n")), "{line} is not in {text}");
            }
            let (_, body) = text.split_once("\r\n").expect("a header");
            assert_eq!(text, format!("{start}{}\r\n{body}", body.len() - 2), "its length is right");
        }
    }
}
