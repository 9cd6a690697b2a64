//! Rules one by one, then the property that matters: through one shared connection every client hears what it would hear
//! over a connection of its own.

use std::collections::BTreeMap;

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::resp::request::Args;

const EVERYTHING: u64 = u64::MAX;

fn client(number: u32) -> ClientKey {
    ClientKey { slot: number, generation: 1 }
}

fn subscribe(register: &mut Register, number: u32, names: &[&str]) {
    register.subscribe(client(number), Sort::Channel, names.iter().map(|name| name.as_bytes()), 10, 50);
}

fn unsubscribe(register: &mut Register, number: u32, names: &[&str]) -> String {
    let (names, mut out) = (names.iter().map(|name| Name::from(name.as_bytes())).collect(), Vec::new());
    register.unsubscribe(client(number), Sort::Channel, names, 50, &mut out);
    words(&out)
}

fn undo(register: &mut Register) -> String {
    let mut out = Vec::new();
    register.undo(&mut out);
    words(&out)
}

fn words(request: &[u8]) -> String {
    let words: Vec<_> = Args::new(request).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
    words.join(" ")
}

fn on(name: &str) -> Notice<'_> {
    Notice::Subscribed(Sort::Channel, name.as_bytes())
}

fn off(name: &str) -> Notice<'_> {
    Notice::Unsubscribed(Sort::Channel, name.as_bytes())
}

/// Takes answers, all of which fit; returns whose requests were settled, and with what.
fn take<'a>(register: &mut Register, notices: &[Notice<'a>]) -> Vec<(ClientKey, Option<&'a [u8]>)> {
    let settled = notices.iter().filter_map(|notice| register.answer(*notice, EVERYTHING).expect("it is due"));
    settled.map(|settled| (settled.client, settled.refusal)).collect()
}

fn hearers(register: &Register, name: &str) -> Vec<u32> {
    let hearers = register.hearers(Sort::Channel, name.as_bytes()).into_iter().flatten();
    hearers.map(|client| client.slot).collect()
}

#[test]
fn a_request_takes_effect_with_the_last_of_its_acknowledgements() {
    let mut register = Register::default();
    subscribe(&mut register, 1, &["a", "b", "a"]);
    assert_eq!(take(&mut register, &[on("a"), on("b")]), []);
    assert!(hearers(&register, "a").is_empty());
    assert_eq!(take(&mut register, &[on("a")]), [(client(1), None)]);
    assert_eq!((hearers(&register, "a"), hearers(&register, "b")), (vec![1], vec![1]));
}

#[test]
fn the_last_hearer_takes_the_subscription_along() {
    let mut register = Register::default();
    subscribe(&mut register, 1, &["a", "b"]);
    subscribe(&mut register, 2, &["a"]);
    take(&mut register, &[on("a"), on("b"), on("a")]);
    assert_eq!(unsubscribe(&mut register, 1, &["a", "b"]), "unsubscribe b");
    assert_eq!(unsubscribe(&mut register, 2, &["a"]), "unsubscribe a", "the other is about to leave");
    assert_eq!((hearers(&register, "a"), hearers(&register, "b")), (vec![1, 2], vec![1]), "not yet");
    assert_eq!(take(&mut register, &[off("b"), off("a")]), [(client(1), None), (client(2), None)]);
    assert_eq!((register.count(), register.due()), (0, 0));
}

#[test]
fn whoever_leaves_others_behind_asks_the_server_nothing_but_the_time() {
    let mut register = Register::default();
    subscribe(&mut register, 1, &["a"]);
    subscribe(&mut register, 2, &["a"]);
    take(&mut register, &[on("a"), on("a")]);
    assert_eq!(unsubscribe(&mut register, 1, &["a"]), "PING");
    assert_eq!(take(&mut register, &[Notice::Pong]), [(client(1), None)]);
    assert_eq!(hearers(&register, "a"), [2]);
}

#[test]
fn a_subscription_behind_the_end_of_one_is_asked_for_again() {
    let mut register = Register::default();
    subscribe(&mut register, 1, &["a"]);
    take(&mut register, &[on("a")]);
    assert_eq!(unsubscribe(&mut register, 1, &["a"]), "unsubscribe a");
    subscribe(&mut register, 2, &["a"]);
    assert_eq!(take(&mut register, &[off("a")]), [(client(1), None)]);
    assert!(hearers(&register, "a").is_empty());
    assert_eq!(take(&mut register, &[on("a")]), [(client(2), None)]);
    assert_eq!(hearers(&register, "a"), [2]);
}

#[test]
fn whoever_is_gone_is_forgotten_at_once() {
    let mut register = Register::default();
    subscribe(&mut register, 1, &["a"]);
    take(&mut register, &[on("a")]);
    subscribe(&mut register, 1, &["b"]);
    register.forget(client(1), Sort::Channel, &[Name::from(&b"a"[..])]);
    assert_eq!(undo(&mut register), "unsubscribe a");
    assert_eq!(take(&mut register, &[on("b"), off("a")]), [(ClientKey::NOBODY, None), (ClientKey::NOBODY, None)]);
    assert!(hearers(&register, "b").is_empty());
    assert_eq!(undo(&mut register), "unsubscribe b", "nobody wanted it any more when it came");
    take(&mut register, &[off("b")]);
    assert!(!register.is_wanted());
}

#[test]
fn a_refusal_is_of_whoever_asked() {
    let mut register = Register::default();
    subscribe(&mut register, 1, &["a"]);
    take(&mut register, &[on("a")]);
    subscribe(&mut register, 2, &["a", "secret"]);
    let no = b"NOPERM no".as_slice();
    assert_eq!(take(&mut register, &[Notice::Error(no)]), [(client(2), Some(no))]);
    assert_eq!(hearers(&register, "a"), [1]);
    assert_eq!(register.count(), 1);
}

#[test]
fn what_the_server_will_not_end_goes_on() {
    let mut register = Register::default();
    subscribe(&mut register, 1, &["a"]);
    take(&mut register, &[on("a")]);
    unsubscribe(&mut register, 1, &["a"]);
    let busy = b"BUSY a script runs".as_slice();
    assert_eq!(take(&mut register, &[Notice::Error(busy)]), [(client(1), None)], "it hears no more all the same");
    assert!(hearers(&register, "a").is_empty());
    for _ in 0..2 {
        assert_eq!(undo(&mut register), "", "not at once");
        register.retry();
        assert_eq!(undo(&mut register), "unsubscribe a");
        take(&mut register, &[Notice::Error(busy)]);
    }
    subscribe(&mut register, 2, &["a"]);
    take(&mut register, &[on("a")]);
    register.retry();
    assert_eq!(undo(&mut register), "", "it is wanted again");
    assert_eq!(unsubscribe(&mut register, 2, &["a"]), "unsubscribe a");
    take(&mut register, &[off("a")]);
    assert!(!register.is_wanted());
}

#[test]
fn anything_but_the_answer_that_is_due_puts_the_connection_in_doubt() {
    let busy = Notice::Error(b"BUSY");
    let begun = |notices: &[Notice<'static>]| {
        let mut register = Register::default();
        subscribe(&mut register, 1, &["a", "b"]);
        take(&mut register, notices);
        register
    };
    for (before, wrong) in [
        (vec![], on("b")),
        (vec![], off("a")),
        (vec![], Notice::Pong),
        (vec![], Notice::Subscribed(Sort::Pattern, b"a")),
        (vec![on("a")], on("a")),
        (vec![on("a")], busy),
        (vec![on("a"), on("b")], on("b")),
        (vec![on("a"), on("b")], busy),
        (vec![on("a"), on("b")], Notice::Pong),
    ] {
        assert!(begun(&before).answer(wrong, EVERYTHING).is_err(), "{wrong:?} after {before:?}");
    }
    assert!(begun(&[]).answer(on("a"), 9).is_err(), "it was not sent entirely");
    assert!(begun(&[]).answer(on("a"), 10).is_ok());
}

#[test]
fn what_is_not_answered_in_time_is_nobodys() {
    let mut register = Register::default();
    subscribe(&mut register, 1, &["a"]);
    subscribe(&mut register, 2, &["a"]);
    take(&mut register, &[on("a"), on("a")]);
    unsubscribe(&mut register, 1, &["a"]);
    subscribe(&mut register, 2, &["b"]);
    assert_eq!(register.take_overdue(49), []);
    let unanswered = [(1, false), (2, true)].map(|(number, failed)| Unanswered { client: client(number), failed });
    assert_eq!(register.take_overdue(50), unanswered);
    assert_eq!(register.take_overdue(50), []);
    assert_eq!(hearers(&register, "a"), [2], "nothing is handed on to whoever wanted to leave");
    assert_eq!(take(&mut register, &[Notice::Pong, on("b")]), [(ClientKey::NOBODY, None); 2]);
    assert_eq!(undo(&mut register), "unsubscribe b");
}

#[test]
fn a_new_connection_is_asked_for_everything_that_is_heard() {
    let mut register = Register::default();
    subscribe(&mut register, 1, &["a", "b"]);
    take(&mut register, &[on("a"), on("b")]);
    unsubscribe(&mut register, 1, &["b"]);
    subscribe(&mut register, 2, &["c"]);
    let unanswered = [(1, false), (2, true)].map(|(number, failed)| Unanswered { client: client(number), failed });
    assert_eq!(register.lose(), unanswered);
    assert_eq!((register.count(), register.due()), (1, 0));
    let mut out = Vec::new();
    register.resume(&mut out);
    assert_eq!(words(&out), "subscribe a");
    subscribe(&mut register, 2, &["a"]);
    assert_eq!(take(&mut register, &[on("a"), on("a")]), [(ClientKey::NOBODY, None), (client(2), None)]);
    assert_eq!(hearers(&register, "a"), [1, 2]);
}

#[test]
fn whoever_heard_what_is_refused_now_is_told() {
    let mut register = Register::default();
    subscribe(&mut register, 1, &["a"]);
    take(&mut register, &[on("a")]);
    register.lose();
    register.resume(&mut Vec::new());
    let settled = register.answer(Notice::Error(b"NOPERM"), EVERYTHING).expect("it is due").expect("all of it");
    assert_eq!(settled.orphans, BTreeSet::from([client(1)]));
    assert!(!register.is_wanted());
}

/// What happens, in any order.
#[derive(Debug, Clone)]
enum Step {
    Subscribe(usize, Vec<usize>),
    Unsubscribe(usize, Vec<usize>),
    Ping(usize),
    Leave(usize),
    Publish(usize),
    /// The server takes its next command, or refuses it.
    Serve {
        refuse: bool,
    },
    /// We take what the server said next.
    Hear,
}

const CLIENTS: usize = 4;
const TOPICS: [&str; 3] = ["a", "b", "c"];

fn anything() -> impl Strategy<Value = Step> {
    let some = || vec(0..TOPICS.len(), 1..4);
    prop_oneof![
        4 => (0..CLIENTS, some()).prop_map(|(client, topics)| Step::Subscribe(client, topics)),
        4 => (0..CLIENTS, some()).prop_map(|(client, topics)| Step::Unsubscribe(client, topics)),
        1 => (0..CLIENTS).prop_map(Step::Ping),
        1 => (0..CLIENTS).prop_map(Step::Leave),
        6 => (0..TOPICS.len()).prop_map(Step::Publish),
        8 => (0..8u8).prop_map(|chance| Step::Serve { refuse: chance == 0 }),
        10 => Just(Step::Hear),
    ]
}

/// A request as its client knows it.
#[derive(Debug, Clone)]
enum Request {
    Subscribe(Vec<Name>),
    Unsubscribe(Vec<Name>),
    Ping,
}

/// A client's request, or none where we asked ourselves.
type Asked = Option<(ClientKey, Request)>;

/// The server, with the one connection to it and, for comparison, one of each client's own.
#[derive(Default)]
struct World {
    register: Register,
    /// Commands on their way, and whose request each stands for.
    inbox: VecDeque<(Vec<u8>, Asked)>,
    /// Frames on their way.
    outbox: VecDeque<Vec<u8>>,
    subscribed: BTreeSet<Name>,
    own: BTreeMap<ClientKey, BTreeSet<Name>>,
    published: u32,
    /// What each client hears, and would hear.
    heard: BTreeMap<ClientKey, Vec<Vec<u8>>>,
    due: BTreeMap<ClientKey, Vec<Vec<u8>>>,
    /// What each client knows of itself: what it is subscribed to, and what is pending.
    settled: BTreeMap<ClientKey, BTreeSet<Name>>,
    pending: BTreeMap<ClientKey, VecDeque<Request>>,
    generations: [u32; CLIENTS],
}

impl World {
    fn client(&self, number: usize) -> ClientKey {
        ClientKey { slot: number as u32, generation: self.generations[number] }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Subscribe(number, topics) => {
                let (client, mut frame) = (self.client(number), Vec::new());
                let words = ["subscribe"].into_iter().chain(topics.iter().map(|topic| TOPICS[*topic]));
                inline::encode(words.collect::<Vec<_>>().iter(), &mut frame);
                let names = Args::new(&frame).skip(1);
                let names = self.register.subscribe(client, Sort::Channel, names, frame.len(), 9);
                self.ask(client, Request::Subscribe(names), frame);
            }
            Step::Unsubscribe(number, topics) => {
                let client = self.client(number);
                let known = self.settled.entry(client).or_default();
                let named: BTreeSet<Name> = topics.iter().map(|topic| Name::from(TOPICS[*topic].as_bytes())).collect();
                let names: Vec<Name> = named.intersection(known).cloned().collect();
                if names.is_empty() || self.pending.get(&client).is_some_and(|pending| !pending.is_empty()) {
                    return;
                }
                let mut frame = Vec::new();
                self.register.unsubscribe(client, Sort::Channel, names.clone(), 9, &mut frame);
                self.ask(client, Request::Unsubscribe(names), frame);
            }
            Step::Ping(number) => {
                let (client, mut frame) = (self.client(number), Vec::new());
                self.register.ping(client, 9, &mut frame);
                self.ask(client, Request::Ping, frame);
            }
            Step::Leave(number) => self.leave(number),
            Step::Publish(topic) => self.publish(TOPICS[topic].as_bytes()),
            Step::Serve { refuse } => self.serve(refuse),
            Step::Hear => self.hear(),
        }
    }

    fn ask(&mut self, client: ClientKey, request: Request, frame: Vec<u8>) {
        self.pending.entry(client).or_default().push_back(request.clone());
        self.inbox.push_back((frame, Some((client, request))));
    }

    fn leave(&mut self, number: usize) {
        let client = self.client(number);
        self.generations[number] += 1;
        let names: Vec<Name> = self.settled.remove(&client).unwrap_or_default().into_iter().collect();
        self.register.forget(client, Sort::Channel, &names);
        self.pending.remove(&client);
        self.own.remove(&client);
        for (_, request) in &mut self.inbox {
            *request = request.take().filter(|(of, _)| *of != client);
        }
        // What it had not heard yet it never will.
        let heard = self.heard.get(&client).map_or(0, Vec::len);
        self.due.entry(client).or_default().truncate(heard);
        self.undo();
    }

    fn undo(&mut self) {
        let mut out = Vec::new();
        self.register.undo(&mut out);
        if !out.is_empty() {
            self.inbox.push_back((out, None));
        }
    }

    fn publish(&mut self, topic: &[u8]) {
        self.published += 1;
        let mut message = Vec::new();
        let number = self.published.to_string();
        inline::encode([b"message".as_slice(), topic, number.as_bytes()].into_iter(), &mut message);
        if self.subscribed.contains(topic) {
            self.outbox.push_back(message.clone());
        }
        for (client, topics) in &self.own {
            if topics.contains(topic) {
                self.due.entry(*client).or_default().push(message.clone());
            }
        }
    }

    fn serve(&mut self, refuse: bool) {
        let Some((command, request)) = self.inbox.pop_front() else { return };
        let mut words = Args::new(&command).map(Name::from);
        let verb = words.next().expect("a command");
        if refuse {
            self.outbox.push_back(b"-BUSY not now\r\n".to_vec());
        } else if *verb == *b"PING" {
            self.outbox.push_back(b"+PONG\r\n".to_vec());
        } else {
            for name in words {
                let mut ack = Vec::new();
                inline::encode([&*verb, &*name, b"1"].into_iter(), &mut ack);
                self.outbox.push_back(ack);
                if *verb == *b"subscribe" {
                    self.subscribed.insert(name)
                } else {
                    self.subscribed.remove(&name)
                };
            }
        }
        // Who leaves has left, whatever the server says.
        let Some((client, request)) = request.filter(|_| !refuse || *verb != *b"subscribe") else { return };
        apply(self.own.entry(client).or_default(), &request);
    }

    fn hear(&mut self) {
        let Some(frame) = self.outbox.pop_front() else { return };
        match Notice::read(&frame).expect("a frame of a server") {
            Notice::Message(sort, topic) => {
                for client in self.register.hearers(sort, topic).into_iter().flatten() {
                    self.heard.entry(*client).or_default().push(frame.clone());
                }
            }
            answer => {
                let settled = self.register.answer(answer, EVERYTHING).expect("it is due");
                if let Some(Settled { client, refusal, orphans }) = settled {
                    assert!(orphans.is_empty());
                    let request = self.pending.get_mut(&client).and_then(VecDeque::pop_front);
                    if let Some(request) = request.filter(|_| refusal.is_none()) {
                        apply(self.settled.entry(client).or_default(), &request);
                    }
                }
                self.undo();
            }
        }
    }

    fn settle(&mut self) {
        while !(self.inbox.is_empty() && self.outbox.is_empty()) {
            self.serve(false);
            self.hear();
        }
    }
}

fn apply(topics: &mut BTreeSet<Name>, request: &Request) {
    match request {
        Request::Subscribe(names) => topics.extend(names.iter().cloned()),
        Request::Unsubscribe(names) => names.iter().for_each(|name| {
            topics.remove(name);
        }),
        Request::Ping => {}
    }
}

proptest! {
    /// However requests, messages and answers interleave, every client hears each message exactly once and in order, from
    /// its SUBSCRIBE to its UNSUBSCRIBE and no further; and when all have left, nothing is left at the server.
    #[test]
    fn everybody_hears_what_a_connection_of_its_own_would_bring(steps in vec(anything(), 1..200)) {
        let mut world = World::default();
        steps.into_iter().for_each(|step| world.step(step));
        world.settle();
        prop_assert_eq!(&world.heard.into_iter().filter(|(_, heard)| !heard.is_empty()).collect::<BTreeMap<_, _>>(),
            &world.due.into_iter().filter(|(_, due)| !due.is_empty()).collect::<BTreeMap<_, _>>());
        (world.heard, world.due) = Default::default();
        (0..CLIENTS).for_each(|number| world.leave(number));
        world.settle();
        world.register.retry();
        world.undo();
        world.settle();
        prop_assert!(world.subscribed.is_empty(), "the server still has {:?}", world.subscribed);
        prop_assert_eq!((world.register.count(), world.register.due()), (0, 0));
    }
}
