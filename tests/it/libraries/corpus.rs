//! The commands that every library sends in its own way, and the comparison of what it made of the replies.

use std::fmt::Write as _;

/// What of a reply is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// All of it.
    Exact,
    /// Its members in any order: the order follows the hash seed, which each server process draws anew.
    Unordered,
    /// Only that there was one and no error: clocks, ids, times to live.
    Any,
}

use Shape::{Any, Exact, Unordered};

/// Commands as words separated by spaces.
pub const COMMANDS: &[(Shape, &str)] = &[
    // Strings.
    (Exact, "SET s value"),
    (Exact, "GET s"),
    (Exact, "GET missing"),
    (Exact, "SET s other NX"),
    (Exact, "SET s other XX GET"),
    (Exact, "APPEND s -more"),
    (Exact, "GETRANGE s 1 -2"),
    (Exact, "GETDEL s"),
    (Exact, "INCR n"),
    (Exact, "INCRBYFLOAT f 10.5"),
    (Exact, "MSET a 1 b 2 c ünïcode"),
    (Exact, "MGET a b c missing"),
    (Exact, "MSETNX a 2 d 2"),
    (Exact, "STRLEN c"),
    // Keys.
    (Exact, "EXISTS a b missing a"),
    (Exact, "TYPE a"),
    (Exact, "EXPIRE a 1000"),
    (Any, "TTL a"),
    (Exact, "EXPIREAT a 4102444800"),
    (Exact, "PERSIST a"),
    (Exact, "COPY a a2"),
    (Exact, "RENAME a2 a3"),
    (Exact, "DUMP a3"),
    (Exact, "UNLINK a3 missing"),
    (Exact, "OBJECT ENCODING n"),
    (Unordered, "KEYS *"),
    (Exact, "DBSIZE"),
    (Exact, "MOVE a 5"),
    // Hashes.
    (Exact, "HSET h one 1 two zwei"),
    (Exact, "HGET h two"),
    (Exact, "HGETALL h"),
    (Exact, "HGETALL missing"),
    (Exact, "HMGET h one missing"),
    (Exact, "HINCRBYFLOAT h one 0.25"),
    (Unordered, "HRANDFIELD h 10"),
    (Exact, "HDEL h one missing"),
    // Lists.
    (Exact, "RPUSH l a b c d"),
    (Exact, "LRANGE l 0 -1"),
    (Exact, "LPOS l c"),
    (Exact, "LINSERT l BEFORE b ab"),
    (Exact, "LPOP l 2"),
    (Exact, "LPOP missing"),
    (Exact, "LMOVE l l2 LEFT RIGHT"),
    (Exact, "RPUSH unsorted 3 1 2"),
    (Exact, "SORT unsorted DESC"),
    (Exact, "SORT unsorted STORE sorted"),
    // Sets.
    (Exact, "SADD t a b c"),
    (Exact, "SADD u b c d"),
    (Unordered, "SMEMBERS t"),
    (Exact, "SISMEMBER t a"),
    (Exact, "SMISMEMBER t a d"),
    (Unordered, "SINTER t u"),
    (Unordered, "SUNION t u"),
    (Unordered, "SPOP t 10"),
    // Sorted sets.
    (Exact, "ZADD z 1 a 2.5 b inf c"),
    (Exact, "ZADD z INCR 1.5 a"),
    (Exact, "ZSCORE z a"),
    (Exact, "ZMSCORE z a missing"),
    (Exact, "ZRANGE z 0 -1 WITHSCORES"),
    (Exact, "ZRANGE z (2 +inf BYSCORE LIMIT 0 2"),
    (Exact, "ZRANK z b"),
    (Exact, "ZRANK z missing"),
    (Exact, "ZPOPMIN z"),
    // Streams.
    (Exact, "XADD x 1-1 f v"),
    (Exact, "XADD x 1-1 f v"),
    (Any, "XADD clocked * f v"),
    (Exact, "XRANGE x - +"),
    (Exact, "XREAD COUNT 10 STREAMS x missing 0 0"),
    (Exact, "XREAD STREAMS x $"),
    (Exact, "XGROUP CREATE x g 0"),
    (Exact, "XREADGROUP GROUP g me STREAMS x >"),
    (Exact, "XPENDING x g"),
    (Exact, "XACK x g 1-1"),
    (Exact, "XINFO STREAM x"),
    // Bits, counters and places.
    (Exact, "SETBIT bits 7 1"),
    (Exact, "BITCOUNT bits"),
    (Exact, "BITOP NOT inverse bits"),
    (Exact, "GET inverse"),
    (Exact, "BITFIELD bits GET u4 0 OVERFLOW FAIL INCRBY u8 0 255"),
    (Exact, "PFADD hll a b c"),
    (Exact, "PFCOUNT hll"),
    (Exact, "GEOADD geo 13.361389 38.115556 Palermo 15.087269 37.502669 Catania"),
    (Exact, "GEODIST geo Palermo Catania km"),
    (Exact, "GEOPOS geo Palermo missing"),
    (Exact, "GEOSEARCH geo FROMLONLAT 15 37 BYRADIUS 200 km ASC WITHDIST WITHCOORD"),
    // Errors.
    (Exact, "SET string v"),
    (Exact, "LPUSH string v"),
    (Exact, "HGETALL string"),
    (Exact, "INCR string"),
    (Exact, "GETRANGE string"),
    (Exact, "SET k v NONSENSE"),
    (Exact, "OBJECT NONSENSE"),
    (Exact, "RENAME missing m"),
    (Exact, "EVALSHA 0000000000000000000000000000000000000000 0"),
    (Exact, "EVAL return(redis.error_reply('CUSTOM-wrong')) 0"),
    (Exact, "EVAL return(redis.call('LPUSH',KEYS[1],'v')) 1 string"),
    // The server and the connection.
    (Exact, "PING"),
    (Exact, "PING text"),
    (Exact, "ECHO text"),
    (Any, "TIME"),
    (Unordered, "CONFIG GET maxmemory"),
    (Exact, "COMMAND COUNT"),
    (Exact, "COMMAND GETKEYS MSET a 1 b 2"),
    (Exact, "ACL WHOAMI"),
    (Exact, "CLIENT SETNAME renamed"),
    (Exact, "CLIENT GETNAME"),
    (Exact, "EVAL return{1,'two',false,{KEYS[1],ARGV[1]}} 1 k v"),
    (Exact, "SCRIPT LOAD return(1)"),
    (Exact, "SCRIPT EXISTS 0000000000000000000000000000000000000000"),
    (Exact, "SCRIPT FLUSH"),
    (Exact, "SWAPDB 0 6"),
    (Exact, "DBSIZE"),
    (Exact, "FLUSHDB"),
];

/// What a library handed out on one side, one line per reply.
#[derive(Default)]
pub struct Transcript(Vec<String>);

impl Transcript {
    /// Notes one reply, as text that shows its type.
    pub fn record(&mut self, label: &str, reply: &str) {
        self.0.push(format!("{label} -> {reply}"));
    }

    /// Fails with every line that differs.
    pub fn assert_equal(&self, through: &Self, what: &str) {
        let longest = self.0.len().max(through.0.len());
        let mut difference = String::new();
        for at in 0..longest {
            let (left, right) = (self.0.get(at), through.0.get(at));
            if left != right {
                let _ = writeln!(difference, "- {}\n+ {}", cut(left), cut(right));
            }
        }
        assert!(difference.is_empty(), "{what}: direct (-) and through the proxy (+) differ:\n{difference}");
        println!("ok {what} ({longest} replies)");
    }
}

/// The line, short enough to read.
fn cut(line: Option<&String>) -> String {
    line.map_or_else(|| "(nothing)".to_owned(), |line| line.chars().take(400).collect())
}
