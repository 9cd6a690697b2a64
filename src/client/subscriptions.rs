//! What one client is subscribed to, and the acknowledgements it gets. Pure.
//!
//! An acknowledgement carries a count: channels and patterns share one, shard channels have their own. In RESP2 it is an
//! array, in RESP3 a push.

use std::collections::HashMap;

use crate::command::route::Subscription;
use crate::resp::build;
use crate::upstream::{Name, Sort};

/// What a topic costs besides its name, in bytes, here and where the hearers of each are listed.
const OVERHEAD: usize = 320;

/// The topics of one client.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    /// Each with a number that grows with every subscription: Redis lists patterns in their order.
    channels: HashMap<Name, u64>,
    patterns: HashMap<Name, u64>,
    shards: HashMap<Name, u64>,
    next: u64,
    bytes: usize,
}

/// What a command does: what it is about, and whether it subscribes.
pub(super) fn meaning(command: Subscription) -> (Sort, bool) {
    match command {
        Subscription::Subscribe => (Sort::Channel, true),
        Subscription::Unsubscribe => (Sort::Channel, false),
        Subscription::Psubscribe => (Sort::Pattern, true),
        Subscription::Punsubscribe => (Sort::Pattern, false),
        Subscription::Ssubscribe => (Sort::Shard, true),
        Subscription::Sunsubscribe => (Sort::Shard, false),
    }
}

impl Subscriptions {
    /// Subscribes, and appends the acknowledgements.
    pub(super) fn add(&mut self, sort: Sort, names: Vec<Name>, resp3: bool, out: &mut Vec<u8>) {
        for name in names {
            let number = self.next;
            let bytes = name.len() + OVERHEAD;
            let before = self.topics(sort).len();
            acknowledge_start(sort.subscribe(), Some(&name), resp3, out);
            self.topics_mut(sort).entry(name).or_insert(number);
            if self.topics(sort).len() > before {
                (self.next, self.bytes) = (number + 1, self.bytes + bytes);
            }
            build::integer(self.count(sort), out);
        }
    }

    /// Ends subscriptions, whether there are such or not, and appends the acknowledgements. Without names it is none, and
    /// there is one acknowledgement all the same.
    pub(super) fn remove<N: AsRef<[u8]>>(&mut self, sort: Sort, names: &[N], resp3: bool, out: &mut Vec<u8>) {
        for name in names {
            let name = name.as_ref();
            if self.topics_mut(sort).remove(name).is_some() {
                self.bytes -= name.len() + OVERHEAD;
            }
            acknowledge_start(sort.unsubscribe(), Some(name), resp3, out);
            build::integer(self.count(sort), out);
        }
        if names.is_empty() {
            acknowledge_start(sort.unsubscribe(), None, resp3, out);
            build::integer(self.count(sort), out);
        }
    }

    /// The topic of this name, if there is one.
    pub(super) fn find(&self, sort: Sort, name: &[u8]) -> Option<&Name> {
        self.topics(sort).get_key_value(name).map(|(name, _)| name)
    }

    /// All topics of a sort, in the order they were subscribed to.
    pub(super) fn all(&self, sort: Sort) -> Vec<Name> {
        let mut topics: Vec<_> = self.topics(sort).iter().collect();
        topics.sort_by_key(|(_, number)| **number);
        topics.into_iter().map(|(name, _)| Name::clone(name)).collect()
    }

    /// True without any.
    pub(super) fn is_empty(&self) -> bool {
        self.counts() == [0; 3]
    }

    /// How many channels, patterns and shard channels there are.
    pub(super) fn counts(&self) -> [usize; 3] {
        [self.channels.len(), self.patterns.len(), self.shards.len()]
    }

    /// Memory that they take, in bytes, about.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The count of an acknowledgement.
    fn count(&self, sort: Sort) -> u64 {
        let [channels, patterns, shards] = self.counts();
        let count = match sort {
            Sort::Channel | Sort::Pattern => channels + patterns,
            Sort::Shard => shards,
        };
        count as u64
    }

    fn topics(&self, sort: Sort) -> &HashMap<Name, u64> {
        match sort {
            Sort::Channel => &self.channels,
            Sort::Pattern => &self.patterns,
            Sort::Shard => &self.shards,
        }
    }

    fn topics_mut(&mut self, sort: Sort) -> &mut HashMap<Name, u64> {
        match sort {
            Sort::Channel => &mut self.channels,
            Sort::Pattern => &mut self.patterns,
            Sort::Shard => &mut self.shards,
        }
    }
}

/// Appends an acknowledgement up to its count.
fn acknowledge_start(verb: &str, name: Option<&[u8]>, resp3: bool, out: &mut Vec<u8>) {
    build::aggregate(if resp3 { b'>' } else { b'*' }, 3, out);
    build::bulk(verb.as_bytes(), out);
    match name {
        Some(name) => build::bulk(name, out),
        None => build::nil(resp3, out),
    }
}

/// Appends the reply to a PING of a client in RESP2 that is subscribed to something.
pub(super) fn pong(text: &[u8], out: &mut Vec<u8>) {
    build::aggregate(b'*', 2, out);
    build::bulk(b"pong", out);
    build::bulk(text, out);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<Name> {
        text.split_whitespace().map(|name| Name::from(name.as_bytes())).collect()
    }

    fn add(topics: &mut Subscriptions, sort: Sort, text: &str) -> String {
        let mut out = Vec::new();
        topics.add(sort, names(text), false, &mut out);
        shown(&out)
    }

    fn remove(topics: &mut Subscriptions, sort: Sort, text: &str) -> String {
        let mut out = Vec::new();
        topics.remove(sort, &names(text), false, &mut out);
        shown(&out)
    }

    /// Without the lengths: `subscribe a:1 subscribe b:2`.
    fn shown(acks: &[u8]) -> String {
        let text = String::from_utf8_lossy(acks);
        let words: Vec<_> = text.lines().filter(|line| !line.starts_with(['*', '$'])).collect();
        words.join(" ").replace(" :", ":")
    }

    #[test]
    fn counts_are_those_of_redis() {
        let mut topics = Subscriptions::default();
        assert_eq!(add(&mut topics, Sort::Channel, "a b a"), "subscribe a:1 subscribe b:2 subscribe a:2");
        assert_eq!(add(&mut topics, Sort::Pattern, "a"), "psubscribe a:3");
        assert_eq!(add(&mut topics, Sort::Shard, "a"), "ssubscribe a:1");
        assert_eq!(topics.counts(), [2, 1, 1]);
        let gone = "unsubscribe a:2 unsubscribe nosuch:2 unsubscribe a:2";
        assert_eq!(remove(&mut topics, Sort::Channel, "a nosuch a"), gone);
        assert_eq!(remove(&mut topics, Sort::Shard, "a"), "sunsubscribe a:0");
        assert_eq!(remove(&mut topics, Sort::Channel, "b"), "unsubscribe b:1");
        assert_eq!(remove(&mut topics, Sort::Pattern, "a"), "punsubscribe a:0");
        assert!(topics.is_empty() && topics.bytes() == 0);
    }

    #[test]
    fn an_acknowledgement_is_an_array_or_a_push() {
        let mut topics = Subscriptions::default();
        for (resp3, ack, nil) in [
            (false, "*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n", "*3\r\n$12\r\nsunsubscribe\r\n$-1\r\n:0\r\n"),
            (true, ">3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n", ">3\r\n$12\r\nsunsubscribe\r\n_\r\n:0\r\n"),
        ] {
            let mut out = Vec::new();
            topics.add(Sort::Channel, names("a"), resp3, &mut out);
            topics.remove::<Name>(Sort::Shard, &[], resp3, &mut out);
            assert_eq!(String::from_utf8_lossy(&out), format!("{ack}{nil}"));
        }
    }

    #[test]
    fn topics_are_listed_in_the_order_they_were_subscribed_to() {
        let mut topics = Subscriptions::default();
        add(&mut topics, Sort::Pattern, "one two three four");
        remove(&mut topics, Sort::Pattern, "two");
        add(&mut topics, Sort::Pattern, "one two");
        assert_eq!(topics.all(Sort::Pattern), names("one three four two"));
        assert!(topics.all(Sort::Channel).is_empty());
    }

    proptest::proptest! {
        /// Whatever is subscribed to and ended, the count is that of a set, and so is the memory.
        #[test]
        fn counts_are_those_of_a_set(steps in proptest::collection::vec((0..2u8, 0..3usize, 0..6u8), 1..60)) {
            let (mut topics, mut model) = (Subscriptions::default(), std::collections::BTreeSet::new());
            for (add_it, sort, name) in steps {
                let (of, text) = (Sort::ALL[sort], format!("topic-{name}"));
                let told = if add_it == 1 {
                    model.insert((sort, name));
                    add(&mut topics, of, &text)
                } else {
                    model.remove(&(sort, name));
                    remove(&mut topics, of, &text)
                };
                let shared = |other: usize| if sort == 2 { other == 2 } else { other < 2 };
                let count = model.iter().filter(|(other, _)| shared(*other)).count();
                proptest::prop_assert!(told.ends_with(&format!(" {text}:{count}")), "{} is not {}", told, count);
                proptest::prop_assert_eq!(topics.counts().iter().sum::<usize>(), model.len());
                proptest::prop_assert_eq!(topics.bytes(), model.len() * (7 + OVERHEAD));
            }
        }
    }
}
