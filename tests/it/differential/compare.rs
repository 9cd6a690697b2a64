//! When two replies are the same. Byte for byte, but for a list of commands whose replies cannot be, each with its reason.

use crate::support::Frame;

/// How two replies are compared. Errors are always compared byte for byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The same bytes.
    Exact,
    /// The same members in any order, at every level; pairs of a map stay together.
    Sorted,
    /// The same but for numbers, and for digits in texts.
    Digits,
    /// Numbers: equal, or both positive. Arrays of them: one by one.
    Clock,
    /// The same type and the same number of members or bytes.
    Size,
    /// The same type.
    Type,
    /// Text of `name:value` lines with the same names; those of counters by command or by error are left out.
    Names,
}

/// Replies that are random, or depend on time or memory by nature: the commands (as a line of the corpus begins), how they
/// are compared instead, and why. The first that fits holds.
const BY_NATURE: &[(&str, Rule, &str)] = &[
    ("SMEMBERS words", Rule::Sorted, "a hash table's order is seeded per process"),
    ("SMEMBERS many", Rule::Sorted, "a hash table's order is seeded per process"),
    ("SSCAN many", Rule::Sorted, "a hash table's order is seeded per process"),
    ("SUNION words", Rule::Sorted, "a hash table's order is seeded per process"),
    ("SINTER words", Rule::Sorted, "a hash table's order is seeded per process"),
    ("SDIFF more", Rule::Sorted, "a hash table's order is seeded per process"),
    ("SRANDMEMBER many 5", Rule::Sorted, "random order of all members"),
    ("SRANDMEMBER many", Rule::Size, "random members, all of one length"),
    ("SPOP once 10", Rule::Size, "what the random SPOP before left over"),
    ("SPOP once", Rule::Size, "a random member, all of one length"),
    ("SPOP big", Rule::Type, "a random member"),
    ("HRANDFIELD many", Rule::Size, "random fields, all of one length"),
    ("HSCAN many", Rule::Sorted, "order is not promised"),
    ("ZRANDMEMBER many", Rule::Size, "random members, all of one length"),
    ("KEYS", Rule::Sorted, "a hash table's order is seeded per process"),
    ("COMMAND LIST", Rule::Sorted, "a hash table's order is seeded per process"),
    ("COMMAND DOCS", Rule::Sorted, "subcommands come in the order of a seeded hash table"),
    ("COMMAND INFO", Rule::Sorted, "subcommands come in the order of a seeded hash table"),
    ("COMMAND COUNT", Rule::Exact, ""),
    ("COMMAND GETKEYS", Rule::Exact, ""),
    ("COMMAND HELP", Rule::Exact, ""),
    ("COMMAND", Rule::Sorted, "a hash table's order is seeded per process"),
    ("SCAN 0 COUNT 1000", Rule::Sorted, "a hash table's order is seeded per process"),
    ("CONFIG GET hash-max", Rule::Sorted, "matches come in the order of a seeded hash table"),
    ("CONFIG GET save appendonly", Rule::Sorted, "matches come in the order of a seeded hash table"),
    ("ACL CAT", Rule::Sorted, "commands come in the order of a seeded hash table"),
    ("FUNCTION LIST", Rule::Sorted, "functions of a library come in the order of a seeded hash table"),
    ("FUNCTION DUMP", Rule::Size, "libraries come in the order of a seeded hash table"),
    ("RANDOMKEY", Rule::Type, "a random key"),
    ("TTL", Rule::Clock, "time passes"),
    ("PTTL", Rule::Clock, "time passes"),
    ("HTTL", Rule::Clock, "time passes"),
    ("HPTTL", Rule::Clock, "time passes"),
    ("OBJECT IDLETIME", Rule::Digits, "time passes"),
    ("XADD auto", Rule::Digits, "the id is the time"),
    ("XINFO STREAM", Rule::Digits, "idle times, and a radix tree's figures"),
    ("XINFO CONSUMERS", Rule::Digits, "idle times"),
    ("XPENDING", Rule::Digits, "idle times"),
    ("XAUTOCLAIM", Rule::Exact, ""),
    ("MEMORY USAGE", Rule::Digits, "depends on the allocator's state"),
    ("MEMORY STATS", Rule::Digits, "depends on the allocator's state and on the connections"),
    ("MEMORY MALLOC-STATS", Rule::Type, "text of the allocator"),
    ("MEMORY DOCTOR", Rule::Type, "text that depends on the allocator's state"),
    ("LATENCY HISTOGRAM", Rule::Type, "durations"),
    ("LATENCY LATEST", Rule::Type, "events are recorded when the machine is slow"),
    ("LATENCY HISTORY command", Rule::Type, "events are recorded when the machine is slow"),
    ("LATENCY DOCTOR", Rule::Type, "text that depends on what was slow"),
    ("LATENCY RESET", Rule::Type, "counts events that are recorded when the machine is slow"),
    ("INFO", Rule::Names, "figures of the process"),
    ("TIME", Rule::Digits, "the time"),
    ("LASTSAVE", Rule::Digits, "the time"),
    ("LOLWUT", Rule::Type, "a random picture"),
    ("ACL GENPASS", Rule::Size, "a random password"),
    ("CLUSTER MYID", Rule::Size, "a random name"),
    ("BGSAVE", Rule::Type, "depends on whether another child has ended"),
    ("BGREWRITEAOF", Rule::Type, "depends on whether another child has ended"),
];

/// The rule for a line of the corpus.
pub fn rule_for(text: &str) -> Rule {
    let fits = |start: &&(&str, Rule, &str)| {
        text.strip_prefix(start.0).is_some_and(|rest| !rest.starts_with(|next: char| next.is_ascii_uppercase()))
    };
    BY_NATURE.iter().find(fits).map_or(Rule::Exact, |(_, rule, _)| *rule)
}

impl Rule {
    /// Whether two replies are the same under this rule.
    pub fn same(self, one: &[u8], other: &[u8]) -> bool {
        if one == other {
            return true;
        }
        if self == Self::Exact {
            return false;
        }
        let (one, other) = (Frame::whole(one), Frame::whole(other));
        !one.is_error() && !other.is_error() && self.same_frames(one, other)
    }

    fn same_frames(self, one: Frame, other: Frame) -> bool {
        match self {
            Self::Exact => one == other,
            Self::Sorted => sorted(one) == sorted(other),
            Self::Digits => without_digits(one) == without_digits(other),
            Self::Clock => same_clock(&one, &other),
            Self::Size => sizes(one) == sizes(other),
            Self::Type => one.kind == other.kind,
            Self::Names => one.kind == other.kind && names(&one) == names(&other),
        }
    }
}

/// Both replies around the first byte that differs, fit for a message.
pub fn where_they_part(one: &[u8], other: &[u8]) -> (String, String) {
    let common = one.iter().zip(other).take_while(|(one, other)| one == other).count();
    let around = |bytes: &[u8]| {
        let start = common.saturating_sub(60).min(bytes.len());
        let end = (common + 160).min(bytes.len());
        format!("({} bytes, from {start}) {}", bytes.len(), bytes[start..end].escape_ascii())
    };
    (around(one), around(other))
}

fn sorted(frame: Frame) -> Frame {
    let mut items: Vec<_> = frame.items.into_iter().map(sorted).collect();
    if matches!(frame.kind, b'%' | b'|') {
        let mut pairs: Vec<_> = items.chunks(2).map(<[Frame]>::to_vec).collect();
        pairs.sort();
        items = pairs.concat();
    } else {
        items.sort();
    }
    Frame { items, ..frame }
}

fn without_digits(frame: Frame) -> Frame {
    let is_number = matches!(frame.kind, b':' | b',');
    let text = frame.text.into_iter().filter(|byte| !is_number && !byte.is_ascii_digit() && *byte != b'.').collect();
    let items = frame.items.into_iter().map(without_digits).collect();
    Frame { kind: frame.kind, text, items }
}

fn same_clock(one: &Frame, other: &Frame) -> bool {
    let positive = |frame: &Frame| frame.as_text().parse::<i64>().is_ok_and(|number| number > 0);
    one.kind == other.kind
        && (one.text == other.text || positive(one) && positive(other))
        && one.items.len() == other.items.len()
        && one.items.iter().zip(&other.items).all(|(one, other)| same_clock(one, other))
}

/// The same tree with the lengths of the texts in their place.
fn sizes(frame: Frame) -> Frame {
    let text = frame.text.len().to_string().into_bytes();
    let items = frame.items.into_iter().map(sizes).collect();
    Frame { kind: frame.kind, text, items }
}

fn names(frame: &Frame) -> Vec<String> {
    const COUNTERS: [&str; 3] = ["cmdstat_", "errorstat_", "latency_percentiles_"];
    let text = frame.as_text();
    // What the proxy adds to INFO comes last.
    let text = text.split("\r\n# Outrigger\r\n").next().unwrap_or_default().trim_end();
    let names = text.lines().map(|line| line.split(':').next().unwrap_or_default().to_owned());
    names.filter(|name| !COUNTERS.iter().any(|counter| name.starts_with(counter))).collect()
}
