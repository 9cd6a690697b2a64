//! What one worker counts on the path of every request.
//!
//! Each cell has one writer, its worker, so that counting is a load, an addition and a store, without a lock (but for the
//! names of clients that Redis has not answered) and without an atomic instruction. Whoever reads (a scrape, ten times a
//! second at most) sees each cell as it was a moment ago, and no two of them at the same moment.
//!
//! Times are in microseconds since the process began; durations are put into buckets as they are counted.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::names::Names;
use crate::command::table::{self, Kind};

/// Upper bounds of the buckets of durations, in microseconds. Redis answers within a fraction of a millisecond, for which
/// the usual ones, which begin at 5 ms, say nothing.
pub const BOUNDS: [u64; 17] = [
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000,
];

/// Names of commands that are told apart; the last stands for those that the table does not know.
const COMMANDS: usize = table::COUNT + 1;

/// A number that only its worker changes.
#[derive(Debug, Default)]
pub struct Cell(AtomicU64);

impl Cell {
    /// Adds to it.
    #[inline(always)] // Several times for each request: a call costs more than what it does.
    pub fn add(&self, count: u64) {
        // One writer: nothing can come between.
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
    }

    /// Sets it.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// What it was a moment ago.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How often durations fell into which bucket, and what they sum up to.
#[derive(Debug, Default)]
pub struct Durations {
    /// The last is for those above all bounds.
    buckets: [Cell; BOUNDS.len() + 1],
    micros: Cell,
}

impl Durations {
    /// Counts one.
    #[inline(always)] // For each request: a call costs more than what it does.
    pub fn observe(&self, micros: u64) {
        self.observe_many(micros, 1);
    }

    /// Counts so many of the same length.
    #[inline(always)] // For each request: a call costs more than what it does.
    pub fn observe_many(&self, micros: u64, count: u64) {
        let bucket = bucket(micros);
        self.buckets.get(bucket).into_iter().for_each(|bucket| bucket.add(count));
        self.micros.add(micros * count);
    }

    /// Adds these to `sum`.
    pub fn add_to(&self, sum: &mut Sample) {
        for (into, bucket) in sum.buckets.iter_mut().zip(&self.buckets) {
            *into += bucket.get();
        }
        sum.micros += self.micros.get();
    }
}

/// By the number of bits of a duration, the first bucket that it may fall into.
static FIRST: [u8; 65] = first_buckets();

const fn first_buckets() -> [u8; 65] {
    let mut first = [0; 65];
    let mut bits = 1;
    while bits < first.len() {
        let least = 1 << (bits - 1);
        let mut bucket = 0;
        while bucket < BOUNDS.len() && BOUNDS[bucket] < least {
            bucket += 1;
        }
        first[bits] = bucket as u8;
        bits += 1;
    }
    first
}

/// Which bucket a duration falls into: two looks at most, since no two numbers of as many bits are more than two bounds apart.
#[inline(always)] // Several times for each request: a call costs more than what it does.
fn bucket(micros: u64) -> usize {
    let bits = u64::BITS - micros.leading_zeros();
    let mut bucket = usize::from(FIRST[bits as usize]);
    while BOUNDS.get(bucket).is_some_and(|bound| micros > *bound) {
        bucket += 1;
    }
    bucket
}

/// Durations as they were at one moment, of any number of workers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sample {
    /// How many fell into each bucket of [`BOUNDS`], and how many above.
    pub buckets: [u64; BOUNDS.len() + 1],
    /// Their sum, in microseconds.
    pub micros: u64,
}

impl Sample {
    /// Adds those of another.
    pub fn add(&mut self, other: &Self) {
        self.buckets.iter_mut().zip(other.buckets).for_each(|(into, from)| *into += from);
        self.micros += other.micros;
    }

    /// Those that came after `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let mut since = self.clone();
        since.buckets.iter_mut().zip(before.buckets).for_each(|(into, from)| *into = into.saturating_sub(from));
        since.micros = since.micros.saturating_sub(before.micros);
        since
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The duration that the share `quantile` (0 to 1) of them does not exceed, in microseconds, as far as buckets can tell:
    /// within a bucket it is taken to rise evenly, and above the highest bound nothing is known but that. None if there are
    /// none.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a count of 2^53 is out of reach")]
    pub fn quantile(&self, quantile: f64) -> Option<f64> {
        let count = self.count();
        let rank = quantile.clamp(0.0, 1.0) * count as f64;
        let (mut below, mut lower) = (0, 0.0);
        for (bound, bucket) in BOUNDS.iter().map(|bound| *bound as f64).zip(&self.buckets) {
            let within = below + bucket;
            if *bucket > 0 && within as f64 >= rank {
                return Some(lower + (bound - lower) * (rank - below as f64).max(0.0) / *bucket as f64);
            }
            (below, lower) = (within, bound);
        }
        (count > 0).then_some(lower)
    }
}

/// Codes of error replies that are told apart; the last stands for all others.
pub const ERROR_CODES: [&str; 18] = [
    "ERR",
    "WRONGTYPE",
    "NOAUTH",
    "WRONGPASS",
    "NOPERM",
    "OOM",
    "READONLY",
    "LOADING",
    "MASTERDOWN",
    "CLUSTERDOWN",
    "BUSY",
    "BUSYGROUP",
    "NOSCRIPT",
    "NOREPLICAS",
    "MISCONF",
    "EXECABORT",
    "MOVED",
    "other",
];

/// Which command a request is, and when it came: travels with it until it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tag {
    /// When it was read, in microseconds since the process began.
    pub arrived: u64,
    /// The command's index in the table.
    pub command: u16,
}

impl Tag {
    /// Of what no client has asked for: it is not counted.
    pub const NONE: Self = Self { arrived: 0, command: u16::MAX };

    /// A request with this name that was read then.
    #[must_use]
    pub fn new(command: Option<&table::Command>, arrived: u64) -> Self {
        let index = command.map_or(COMMANDS - 1, table::Command::index);
        Self { arrived, command: u16::try_from(index).unwrap_or(u16::MAX) }
    }
}

impl Default for Tag {
    fn default() -> Self {
        Self::NONE
    }
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Redis has answered it.
    Ok,
    /// Redis has answered it with an error.
    ErrorReply,
    /// It was answered as an empty Redis would have.
    Degraded,
    /// Its client was told that it was not run.
    Unavailable,
    /// Its client was told that nobody knows whether it ran.
    Indeterminate,
    /// It was answered here: as it always is, as a command of a transaction is until EXEC, or since nobody had to be asked.
    Local,
}

impl Outcome {
    /// Each, in the order in which they are declared.
    pub const ALL: [Self; 6] =
        [Self::Ok, Self::ErrorReply, Self::Degraded, Self::Unavailable, Self::Indeterminate, Self::Local];

    /// As a label's value.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::ErrorReply => "error_reply",
            Self::Degraded => "degraded",
            Self::Unavailable => "unavailable",
            Self::Indeterminate => "indeterminate",
            Self::Local => "local",
        }
    }
}

/// What a client was given in place of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Given {
    /// What an empty Redis would say.
    Empty,
    /// `OK`, for a write that was dropped.
    DroppedWrite,
    /// An error: it was not run.
    Unavailable,
    /// An error: nobody knows whether it ran.
    Indeterminate,
}

impl Given {
    /// As values of a label, in the order in which they are counted.
    pub const NAMES: [&'static str; 3] = ["empty", "dropped_write", "error"];

    /// What became of a request that was answered so.
    #[must_use]
    pub fn outcome(self) -> Outcome {
        match self {
            Self::Empty | Self::DroppedWrite => Outcome::Degraded,
            Self::Unavailable => Outcome::Unavailable,
            Self::Indeterminate => Outcome::Indeterminate,
        }
    }

    fn index(self) -> usize {
        match self {
            Self::Empty => 0,
            Self::DroppedWrite => 1,
            Self::Unavailable | Self::Indeterminate => 2,
        }
    }
}

/// Commands whose durations are counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Reads data.
    Read,
    /// Changes data.
    Write,
    /// Runs code of the user.
    Script,
    /// Waits for what others do.
    Blocking,
    /// Everything else: about the server, connections, transactions, subscriptions, and what is unknown.
    Admin,
    /// Answered here, whatever it is.
    Local,
}

impl Class {
    /// Each, in the order in which they are declared.
    pub const ALL: [Self; 6] = [Self::Read, Self::Write, Self::Script, Self::Blocking, Self::Admin, Self::Local];

    /// As a label's value.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Script => "script",
            Self::Blocking => "blocking",
            Self::Admin => "admin",
            Self::Local => "local",
        }
    }

    const fn of(kind: Kind) -> Self {
        match kind {
            Kind::Read => Self::Read,
            Kind::Write => Self::Write,
            Kind::Script => Self::Script,
            Kind::Blocking => Self::Blocking,
            Kind::Admin | Kind::Connection | Kind::PubSub | Kind::Transaction => Self::Admin,
        }
    }
}

/// How the reply to a command tells whether the cache had what was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lookup {
    /// It does not.
    None,
    /// Nil or not.
    One,
    /// An array of which each element is nil or not.
    Each,
}

/// What a read found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Something was there.
    Hit,
    /// Nothing was there.
    Miss,
    /// Redis could not be asked, and the answer was empty.
    Degraded,
}

impl Found {
    /// Each, in the order in which they are declared.
    pub const ALL: [Self; 3] = [Self::Hit, Self::Miss, Self::Degraded];

    /// As a label's value.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Degraded => "degraded",
        }
    }
}

/// What is counted of one command depends on this.
#[derive(Debug, Clone, Copy)]
struct Profile {
    class: Class,
    lookup: Lookup,
}

static PROFILES: std::sync::LazyLock<Vec<Profile>> = std::sync::LazyLock::new(|| {
    let profile = |command: &table::Command| Profile {
        class: Class::of(command.kind),
        lookup: match command.name {
            "get" | "hget" | "getex" | "json.get" => Lookup::One,
            "mget" | "hmget" => Lookup::Each,
            _ => Lookup::None,
        },
    };
    let unknown = Profile { class: Class::Admin, lookup: Lookup::None };
    table::all().iter().map(profile).chain([unknown]).collect()
});

/// The counts of one worker.
#[derive(Debug)]
pub struct Cells {
    /// Nobody will read them, so nothing is counted with every request but the answers given without Redis, of which the log
    /// tells.
    off: bool,
    origin: Instant,
    /// Requests that take so many microseconds or more are slow.
    slow_from: u64,
    commands: Vec<[Cell; Outcome::ALL.len()]>,
    durations: [Durations; Class::ALL.len()],
    found: [Cell; Found::ALL.len()],
    given: [Cell; Given::NAMES.len()],
    /// Error replies by [`ERROR_CODES`].
    pub errors: [Cell; ERROR_CODES.len()],
    /// From a request's arrival until its last byte was handed to the kernel.
    pub queue: Durations,
    /// From there until its reply had come.
    pub upstream: Durations,
    /// The part of that in which the replies to requests before it, of other clients mostly, were still due.
    pub head_of_line: Durations,
    /// How long replies waited for a client that did not take them; only those that had to.
    pub flush: Durations,
    /// How long clients waited for a connection of their own.
    pub lease_wait: Durations,
    /// Bytes from clients, and to them.
    pub received: Cell,
    /// Bytes to clients.
    pub sent: Cell,
    /// Bytes from the server.
    pub upstream_received: Cell,
    /// Bytes to the server.
    pub upstream_sent: Cell,
    /// Clients that were given something in place of a reply.
    pub degraded_clients: Names,
    /// Requests that the open breaker did not let through.
    pub rejected: Cell,
    /// Replies that came when nobody waited for them any more.
    pub tombstones: Cell,
    /// How long answers to PINGs of our own took.
    pub checks: Durations,
    /// When the last of them came, in microseconds since the process began; 0 for never.
    pub checked: Cell,
    /// PINGs that were answered by an error.
    pub failed_checks: Cell,
    /// Requests in flight, as of the last tick.
    pub in_flight: Cell,
    /// Connections with something in flight, at rest, held by one client, and being made, as of the last tick.
    pub connections: [Cell; 4],
}

impl Cells {
    /// Nothing counted yet. With `off` nothing ever is. Requests that take `slow_from` or more are slow.
    #[must_use]
    pub fn new(origin: Instant, slow_from: Duration, off: bool) -> Self {
        Self {
            off,
            origin,
            slow_from: u64::try_from(slow_from.as_micros()).unwrap_or(u64::MAX),
            commands: std::iter::repeat_with(Default::default).take(COMMANDS).collect(),
            durations: Default::default(),
            found: Default::default(),
            given: Default::default(),
            errors: Default::default(),
            queue: Durations::default(),
            upstream: Durations::default(),
            head_of_line: Durations::default(),
            flush: Durations::default(),
            lease_wait: Durations::default(),
            received: Cell::default(),
            sent: Cell::default(),
            upstream_received: Cell::default(),
            upstream_sent: Cell::default(),
            degraded_clients: Names::default(),
            rejected: Cell::default(),
            tombstones: Cell::default(),
            checks: Durations::default(),
            checked: Cell::default(),
            failed_checks: Cell::default(),
            in_flight: Cell::default(),
            connections: Default::default(),
        }
    }

    /// How long a request may take without being slow, in microseconds.
    #[must_use]
    pub fn slow_from(&self) -> u64 {
        self.slow_from
    }

    /// True if nothing is counted.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.off
    }

    /// An instant as tags have it.
    #[must_use]
    pub fn micros(&self, instant: Instant) -> u64 {
        let since = instant.saturating_duration_since(self.origin);
        since.as_secs() * 1_000_000 + u64::from(since.subsec_micros())
    }

    /// The time, as tags have it; no time if nothing is counted.
    #[must_use]
    pub fn now(&self) -> u64 {
        if self.off { 0 } else { self.micros(Instant::now()) }
    }

    /// Counts a request that Redis has answered with `reply`, as far as that is at hand (its beginning is).
    #[inline(always)] // Once for each request: a call costs as much as what it does.
    pub fn answered(&self, tag: Tag, reply: &[u8], now: u64) {
        if self.off {
            return;
        }
        let Some(profile) = PROFILES.get(usize::from(tag.command)).copied() else { return };
        let is_error = reply.first() == Some(&b'-');
        self.count(tag, if is_error { Outcome::ErrorReply } else { Outcome::Ok });
        self.took(profile.class, now.saturating_sub(tag.arrived));
        if is_error {
            self.note_error(reply.get(1..).unwrap_or_default());
        } else if profile.lookup != Lookup::None {
            self.look_into(profile.lookup, reply);
        }
    }

    /// Counts a request that was answered otherwise.
    pub fn settled(&self, tag: Tag, outcome: Outcome, now: u64) {
        if let Some(class) = self.settle(tag, outcome) {
            self.took(class, now.saturating_sub(tag.arrived));
        }
    }

    /// The same without its time; returns the class that it belongs to.
    fn settle(&self, tag: Tag, outcome: Outcome) -> Option<Class> {
        let profile = PROFILES.get(usize::from(tag.command)).filter(|_| !self.off)?;
        self.count(tag, outcome);
        if profile.lookup != Lookup::None && outcome == Outcome::Degraded {
            self.find(Found::Degraded, 1);
        }
        Some(if outcome == Outcome::Local { Class::Local } else { profile.class })
    }

    /// Counts a request that Redis has not answered. `tried`: it was not refused at once, which would take no time, and make
    /// an outage look fast.
    pub fn gave(&self, tag: Tag, given: Given, tried: bool, now: u64) {
        // The log tells of them whether or not anybody looks at the metrics.
        self.given.get(given.index()).into_iter().for_each(|cell| cell.add(1));
        match tried {
            true => self.settled(tag, given.outcome(), now),
            false => drop(self.settle(tag, given.outcome())),
        }
    }

    fn count(&self, tag: Tag, outcome: Outcome) {
        let cells = self.commands.get(usize::from(tag.command));
        cells.and_then(|cells| cells.get(outcome as usize)).into_iter().for_each(|cell| cell.add(1));
    }

    /// Counts an error reply by its code: its line, without the `-`.
    pub fn note_error(&self, line: &[u8]) {
        let code = line.split(|byte| !byte.is_ascii_uppercase()).next().unwrap_or_default();
        let known = ERROR_CODES.iter().position(|known| known.as_bytes() == code);
        self.errors.get(known.unwrap_or(ERROR_CODES.len() - 1)).into_iter().for_each(|cell| cell.add(1));
    }

    fn took(&self, class: Class, micros: u64) {
        self.durations.get(class as usize).into_iter().for_each(|durations| durations.observe(micros));
    }

    fn find(&self, found: Found, count: u64) {
        self.found.get(found as usize).into_iter().for_each(|cell| cell.add(count));
    }

    /// Counts what a read has found. Of an array that has not come whole nothing is counted.
    fn look_into(&self, lookup: Lookup, reply: &[u8]) {
        let is_nil = |reply: &[u8]| reply.starts_with(b"$-1") || reply.starts_with(b"_") || reply.starts_with(b"*-1");
        if lookup == Lookup::One {
            return self.find(if is_nil(reply) { Found::Miss } else { Found::Hit }, 1);
        }
        let Some((count, hits)) = nils(reply) else { return };
        self.find(Found::Hit, hits);
        self.find(Found::Miss, count - hits);
    }

    /// How often each command had each outcome, by the command's index; the last is for those that are unknown.
    pub fn commands(&self) -> impl Iterator<Item = [u64; Outcome::ALL.len()]> + '_ {
        self.commands.iter().map(|cells| {
            let mut counts = [0; Outcome::ALL.len()];
            counts.iter_mut().zip(cells).for_each(|(count, cell)| *count = cell.get());
            counts
        })
    }

    /// How long requests of this class took, from their arrival until their answer was at hand.
    #[must_use]
    pub fn durations(&self, class: Class) -> Option<&Durations> {
        self.durations.get(class as usize)
    }

    /// How often clients were given each of [`Given::NAMES`].
    #[must_use]
    pub fn given(&self) -> [u64; Given::NAMES.len()] {
        [self.given[0].get(), self.given[1].get(), self.given[2].get()]
    }

    /// How often reads found that.
    #[must_use]
    pub fn found(&self, found: Found) -> u64 {
        self.found.get(found as usize).map_or(0, Cell::get)
    }
}

/// How many elements an array of bulk strings has, and how many of them are not nil; none if it is another reply, or not
/// whole.
fn nils(reply: &[u8]) -> Option<(u64, u64)> {
    let (mut rest, count) = line(reply.strip_prefix(b"*")?)?;
    let (count, mut hits) = (u64::try_from(count).ok()?, 0);
    for _ in 0..count {
        if let Some(after) = rest.strip_prefix(b"_\r\n") {
            rest = after;
            continue;
        }
        let (after, length) = line(rest.strip_prefix(b"$")?)?;
        rest = match usize::try_from(length) {
            Ok(length) => {
                hits += 1;
                after.get(length.checked_add(2)?..)?
            }
            Err(_) => after,
        };
    }
    Some((count, hits))
}

/// The number up to the end of the line, and what follows.
fn line(bytes: &[u8]) -> Option<(&[u8], i64)> {
    let end = bytes.iter().take(24).position(|byte| *byte == b'\r')?;
    let number = std::str::from_utf8(bytes.get(..end)?).ok()?.parse().ok()?;
    Some((bytes.get(end + 2..)?, number))
}

/// The name of the command of that index: of a subcommand that of its container.
#[must_use]
pub fn command_name(index: usize) -> &'static str {
    let name = table::all().get(index).map_or("unknown", |command| command.name);
    name.split('|').next().unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cells() -> Cells {
        Cells::new(Instant::now(), Duration::from_secs(1), false)
    }

    fn tag(name: &str) -> Tag {
        Tag::new(table::find(name.as_bytes()), 100)
    }

    fn outcomes(cells: &Cells, name: &str) -> Vec<(&'static str, u64)> {
        let index = usize::from(tag(name).command);
        let counts = cells.commands().nth(index).expect("of the table");
        let counts = Outcome::ALL.iter().zip(counts).filter(|(_, count)| *count > 0);
        counts.map(|(outcome, count)| (outcome.name(), count)).collect()
    }

    #[test]
    fn what_became_of_a_request_is_counted_with_its_duration() {
        let cells = cells();
        cells.answered(tag("GET"), b"$1\r\nx\r\n", 140);
        cells.answered(tag("GET"), b"-WRONGTYPE\r\n", 1_000);
        cells.settled(tag("GET"), Outcome::Degraded, 100);
        assert_eq!(outcomes(&cells, "get"), [("ok", 1), ("error_reply", 1), ("degraded", 1)]);
        let mut sample = Sample::default();
        cells.durations(Class::Read).expect("a class").add_to(&mut sample);
        assert_eq!((sample.count(), sample.micros), (3, 940));
        assert_eq!((sample.buckets[0], sample.buckets[4]), (2, 1));
    }

    #[test]
    fn unknown_commands_are_counted_together_and_ours_not_at_all() {
        let cells = cells();
        cells.answered(tag("NOSUCH"), b"-ERR unknown command\r\n", 200);
        cells.answered(Tag::NONE, b"+PONG\r\n", 200);
        assert_eq!(outcomes(&cells, "nosuch"), [("error_reply", 1)]);
        assert_eq!(cells.commands().flatten().sum::<u64>(), 1);
        assert_eq!(command_name(usize::from(tag("nosuch").command)), "unknown");
        assert_eq!(command_name(usize::from(tag("client").command) + 1), "client");
    }

    #[test]
    fn the_hit_rate_is_read_off_replies() {
        let cells = cells();
        let found = || Found::ALL.map(|found| cells.found(found));
        cells.answered(tag("GET"), b"$1\r\nx\r\n", 0);
        cells.answered(tag("GET"), b"$-1\r\n", 0);
        cells.answered(tag("HGET"), b"_\r\n", 0);
        assert_eq!(found(), [1, 2, 0]);
        cells.answered(tag("MGET"), b"*3\r\n$-1\r\n$4\r\n$-1\r\r\n_\r\n", 0);
        assert_eq!(found(), [2, 4, 0]);
        cells.answered(tag("MGET"), b"*3\r\n$-1\r\n$4\r\n$-", 0);
        cells.answered(tag("MGET"), b"-ERR\r\n", 0);
        cells.answered(tag("SET"), b"$-1\r\n", 0);
        assert_eq!(found(), [2, 4, 0], "what is not whole, failed or no read is no hit and no miss");
        cells.settled(tag("GET"), Outcome::Degraded, 0);
        assert_eq!(found(), [2, 4, 1]);
    }

    #[test]
    fn nothing_is_counted_when_nobody_reads() {
        let cells = Cells::new(Instant::now(), Duration::from_secs(1), true);
        cells.answered(tag("GET"), b"$-1\r\n", 5);
        cells.settled(tag("GET"), Outcome::Local, 5);
        assert_eq!((cells.commands().flatten().sum::<u64>(), cells.now()), (0, 0));
    }

    #[test]
    fn quantiles_lie_within_the_bucket() {
        let durations = Durations::default();
        assert_eq!(Sample::default().quantile(0.5), None);
        (0..99).for_each(|_| durations.observe(80));
        durations.observe(20_000_000);
        let mut sample = Sample::default();
        durations.add_to(&mut sample);
        let median = sample.quantile(0.5).expect("there are some");
        assert!((50.0..=100.0).contains(&median), "{median}");
        assert_eq!(sample.quantile(1.0), Some(10_000_000.0), "above the highest bound nothing is known but that");
    }

    #[test]
    fn a_duration_falls_into_the_first_bucket_whose_bound_it_does_not_exceed() {
        let around = |bound: u64| [bound - 1, bound, bound + 1];
        for micros in BOUNDS.into_iter().flat_map(around).chain([0, 1, 1 << 40, u64::MAX]) {
            assert_eq!(bucket(micros), BOUNDS.iter().take_while(|bound| micros > **bound).count(), "{micros}");
        }
    }

    proptest::proptest! {
        /// Whatever a reply looks like, it is looked into without harm, and never more is found than it has elements.
        #[test]
        fn any_bytes_can_be_looked_into(reply: Vec<u8>) {
            if let Some((count, hits)) = nils(&reply) {
                proptest::prop_assert!(hits <= count);
            }
        }
    }
}
