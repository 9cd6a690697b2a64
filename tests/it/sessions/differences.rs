//! What a client may hear differently although nothing is wrong, and nothing else.

mod tests;

use super::script::{Step, begins_with};
use super::side::Heard;
use crate::support::Frame;
use std::collections::BTreeMap;

/// Differences that cannot be avoided: what is made equal before a comparison, and why. In this order.
pub const DIFFERENCES: &[Difference] = &[
    Difference {
        name: "ids",
        reason: "each side gives its clients ids of its own; which client is meant is compared (but for one that hears \
                 __redis__:invalidate, which speaks to the server itself and hears its ids: the author avoids that)",
        level: |told, context| each_frame(told, |frame| name_id(frame, context)),
    },
    Difference {
        name: "lines of CLIENT INFO and CLIENT LIST",
        reason: "addresses, descriptors, times, sizes of buffers, and that a client came by a unix socket; ids as above; \
                 Valkey counts no commands, rather than nothing, in the MULTI of a client that has used one before",
        level: |told, context| each_frame(told, |frame| level_line(frame, context)),
    },
    Difference {
        name: "order of channels left all at once",
        reason: "UNSUBSCRIBE without channels goes through a hash table with a seed of its own",
        level: level_farewells,
    },
    Difference {
        name: "order of messages and replies in RESP3",
        reason: "messages come to the proxy by another connection than replies; each for itself keeps its order, and an \
                 acknowledged subscription comes before its messages (the author avoids what its own message would have \
                 to come before)",
        level: |told, _| messages_first(told),
    },
    Difference {
        name: "order of patterns",
        reason: "a message that fits several patterns of a client comes in the order of a hash table with a seed of its own",
        level: |told, _| sort_runs(told, is_pattern_message, same_message),
    },
    Difference {
        name: "how many hear a message",
        reason: "all clients that subscribe through one worker of the proxy are one subscriber for the server; none stays \
                 none, and some stay some",
        level: level_receivers,
    },
    Difference {
        name: "MONITOR's times, addresses, and commands about connections",
        reason: "the clock; and connections are the proxy's own, who asks and answers much itself (such lines are not even \
                 counted: see is_seen)",
        level: |told, _| told.iter_mut().for_each(Told::level_monitor),
    },
];

/// One difference.
pub struct Difference {
    /// What differs.
    pub name: &'static str,
    /// Why.
    pub reason: &'static str,
    level: fn(&mut [Told], &Context<'_>),
}

/// What is known beside what was heard.
pub struct Context<'a> {
    /// Who was told which id on this side: the names by which they are shown.
    pub ids: &'a BTreeMap<String, String>,
    /// What the client did last.
    pub step: &'a Step,
    /// It has asked, at some time in the script, how many hear a message.
    pub counts_receivers: bool,
}

/// What a client heard, as a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    Frame(Frame),
    /// What is no whole reply.
    Bytes(Vec<u8>),
    End,
}

/// Fields of CLIENT INFO that say what the client has done or is; only they are compared.
const FIELDS: [&str; 14] = [
    "name", "flags", "db", "sub", "psub", "ssub", "multi", "watch", "cmd", "user", "resp", "lib-name", "lib-ver",
    "redir",
];

/// Commands that MONITOR shows and nobody compares: what is answered by the proxy, what it does to its own connections, and
/// what this test asks.
const UNSEEN: [&str; 15] = [
    "auth", "client", "cluster", "command", "config", "debug", "echo", "hello", "info", "monitor", "ping", "pubsub",
    "reset", "select", "quit",
];

/// Whether a client hears the same on both sides, apart from [`DIFFERENCES`].
pub fn same(one: (&[Heard], &Context<'_>), other: (&[Heard], &Context<'_>)) -> bool {
    one.0 == other.0 || level(one.0, one.1) == level(other.0, other.1)
}

/// Whether this counts as heard: it is no line of MONITOR about commands that are not meant to be compared.
pub fn is_seen(frame: &[u8]) -> bool {
    // Every other reply is told from a line by its first bytes.
    if !(frame.starts_with(b"+") && frame.get(1).is_some_and(u8::is_ascii_digit)) {
        return true;
    }
    let frame = Frame::whole(frame);
    Monitored::of(&frame).is_none_or(|line| {
        let name = line.command.trim_start_matches('"').split('"').next().unwrap_or_default();
        !UNSEEN.iter().any(|unseen| name.eq_ignore_ascii_case(unseen))
    })
}

/// A line of MONITOR: `1339518083.107412 [0 127.0.0.1:60866] "keys" "*"`.
struct Monitored {
    database: String,
    is_script: bool,
    command: String,
}

impl Monitored {
    fn of(frame: &Frame) -> Option<Self> {
        let text = frame.as_text();
        let (head, command) = text.split_once("] ")?;
        let (time, place) = head.split_once(" [")?;
        let (database, address) = place.split_once(' ')?;
        time.parse::<f64>().ok().filter(|_| frame.kind == b'+')?;
        Some(Self { database: database.to_owned(), is_script: address == "lua", command: command.to_owned() })
    }
}

/// What was heard with all that may differ made equal.
pub fn level(heard: &[Heard], context: &Context<'_>) -> Vec<Told> {
    let mut told: Vec<_> = heard.iter().map(Told::of).collect();
    for difference in DIFFERENCES {
        (difference.level)(&mut told, context);
    }
    told
}

impl Told {
    fn of(heard: &Heard) -> Self {
        match heard {
            Heard::End => Self::End,
            Heard::Frame(bytes) => match Frame::parse(bytes) {
                Some((frame, length)) if length == bytes.len() => Self::Frame(frame),
                Some(_) | None => Self::Bytes(bytes.clone()),
            },
        }
    }

    const fn frame(&mut self) -> Option<&mut Frame> {
        match self {
            Self::Frame(frame) => Some(frame),
            Self::Bytes(_) | Self::End => None,
        }
    }

    /// The word that a message, or the acknowledgement of a subscription, begins with.
    fn word(&self) -> &[u8] {
        match self {
            Self::Frame(frame) if matches!(frame.kind, b'*' | b'>') => {
                frame.items.first().map_or(b"", |word| &word.text)
            }
            Self::Frame(_) | Self::Bytes(_) | Self::End => b"",
        }
    }

    fn is_push(&self) -> bool {
        matches!(self, Self::Frame(frame) if frame.kind == b'>')
    }

    fn level_monitor(&mut self) {
        if let Self::Frame(frame) = self
            && let Some(line) = Monitored::of(frame)
        {
            frame.text =
                format!("{} {}{}", line.database, if line.is_script { "lua " } else { "" }, line.command).into_bytes();
        }
    }
}

/// Does something to every frame, the members of aggregates too.
fn each_frame(told: &mut [Told], mut act: impl FnMut(&mut Frame)) {
    told.iter_mut().filter_map(Told::frame).for_each(|frame| each(frame, &mut act));
}

fn each(frame: &mut Frame, act: &mut impl FnMut(&mut Frame)) {
    act(frame);
    frame.items.iter_mut().for_each(|item| each(item, act));
}

fn name_id(frame: &mut Frame, context: &Context<'_>) {
    if frame.kind == b':'
        && let Some(name) = context.ids.get(&frame.as_text())
    {
        frame.text = name.clone().into_bytes();
    }
}

/// Lines of clients, each in a line of its own and ended by a newline.
fn level_line(frame: &mut Frame, context: &Context<'_>) {
    let text = frame.as_text();
    let (start, text) = text.split_at(if frame.kind == b'=' { 4.min(text.len()) } else { 0 });
    if !text.starts_with("id=") || !text.ends_with('\n') {
        return;
    }
    let lines = text.lines().map(|line| {
        let fields = line.split(' ').filter_map(|field| level_field(field, context));
        fields.collect::<Vec<_>>().join(" ")
    });
    frame.text = format!("{start}{}", lines.collect::<Vec<_>>().join("\n")).into_bytes();
}

fn level_field(field: &str, context: &Context<'_>) -> Option<String> {
    let (name, value) = field.split_once('=')?;
    match name {
        "id" | "redir" => Some(format!("{name}={}", context.ids.get(value).map_or(value, String::as_str))),
        "flags" => {
            let flags = value.replace(['U', 'N'], "");
            Some(format!("flags={flags}"))
        }
        "multi" if value == "0" => Some("multi=-1".to_owned()),
        _ => FIELDS.contains(&name).then(|| field.to_owned()),
    }
}

fn is_pattern_message(told: &Told) -> bool {
    told.word() == b"pmessage"
}

/// Two messages of patterns that are one message published.
fn same_message(one: &Told, other: &Told) -> bool {
    matches!((one, other), (Told::Frame(one), Told::Frame(other)) if one.items.get(2..) == other.items.get(2..))
}

/// Sorts neighbours that are of one kind and belong together.
fn sort_runs(told: &mut [Told], is_meant: fn(&Told) -> bool, together: fn(&Told, &Told) -> bool) {
    for run in told.chunk_by_mut(|one, other| is_meant(one) && is_meant(other) && together(one, other)) {
        run.sort_by_key(shown);
    }
}

/// Sorts the channels that are left by a bare UNSUBSCRIBE; the counts stay where they are.
fn level_farewells(told: &mut [Told], context: &Context<'_>) {
    let words = ["UNSUBSCRIBE", "PUNSUBSCRIBE", "SUNSUBSCRIBE"];
    // At EXEC it may be one that was queued.
    if !words.iter().any(|word| context.step.says_only(word)) && !context.step.says("EXEC") {
        return;
    }
    let is_farewell = |told: &Told| words.iter().any(|word| told.word().eq_ignore_ascii_case(word.as_bytes()));
    for run in told.chunk_by_mut(|one, other| is_farewell(one) && one.word() == other.word()) {
        let mut names: Vec<_> = run.iter().filter_map(Told::name).collect();
        names.sort();
        let frames = run.iter_mut().filter_map(Told::frame);
        for (frame, name) in frames.filter(|frame| frame.items.len() > 1).zip(names) {
            frame.items[1] = name;
        }
    }
}

impl Told {
    /// What a subscription is called.
    fn name(&self) -> Option<Frame> {
        if let Self::Frame(frame) = self { frame.items.get(1).cloned() } else { None }
    }
}

/// Puts messages before the replies around them, but not before another push.
fn messages_first(told: &mut [Told]) {
    let is_message = |told: &Told| told.is_push() && told.word().ends_with(b"message");
    for part in told.split_mut(|told| told.is_push() && !is_message(told)) {
        part.sort_by_key(|told| !is_message(told));
    }
}

/// Whether a command tells how many hear a message.
pub fn counts_receivers(command: &str) -> bool {
    ["PUBLISH", "SPUBLISH", "PUBSUB NUMSUB", "PUBSUB SHARDNUMSUB"].iter().any(|start| begins_with(command, start))
        || command.contains("redis.call('publish'")
}

/// Makes all numbers of receivers one. They are told from other numbers by their place among the replies, unless there are
/// fewer or more of these than commands.
fn level_receivers(told: &mut [Told], context: &Context<'_>) {
    let commands = &context.step.commands;
    let in_a_block = |command: &str| context.counts_receivers && begins_with(command, "EXEC");
    let mut replies: Vec<_> = told.iter_mut().filter(|told| !told.is_push() && **told != Told::End).collect();
    let have_places = replies.len() == commands.len();
    for (place, told) in replies.iter_mut().enumerate() {
        let mut meant = commands.iter().enumerate().filter(|(at, _)| !have_places || *at == place);
        if meant.any(|(_, command)| counts_receivers(command) || in_a_block(command)) {
            each_frame(std::slice::from_mut(*told), level_count);
        }
    }
}

fn level_count(frame: &mut Frame) {
    if frame.kind == b':' && frame.as_text().parse::<u64>().is_ok_and(|count| count > 0) {
        frame.text = b"some".to_vec();
    }
}

fn shown(told: &Told) -> String {
    format!("{told:?}")
}
