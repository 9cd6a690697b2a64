//! Many clients at once, each with keys of its own, who write down what they asked and what they heard.

use super::checker::{Complaint, Held, check};
use super::history::{Asked, COUNT_SPACING, Event, Heard, History};
use crate::support::{Client, Figures, Over, Server, command, frame_length, wait_until, words};
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// The longest that a client thinks before it asks again. Without a pause it would only measure how fast refusals are.
const THINKING: Duration = Duration::from_millis(8);

/// The most requests of one pipeline.
const PIPELINE: usize = 16;

/// Length of the text that [`Habit::ReadsLarge`] reads, in bytes.
const LARGE: usize = 300_000;

/// From so much of a reply on, in bytes, its connection may end without a complaint: no more is held back, and what was
/// passed on cannot be taken back.
const PASSED_ON: usize = 64 * 1024;

/// What a client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Habit {
    /// Reads, one by one.
    Reads,
    /// Reads one text that is too large to be held back.
    ReadsLarge,
    /// Mostly writes, one by one.
    Writes,
    /// Everything, many at a time.
    Pipelines,
    /// Writes of every kind together, in a transaction, and reads.
    Transacts,
}

/// Some of each habit, in both protocols.
pub const EVERYBODY: [Habit; 12] = {
    use Habit::{Pipelines, Reads, Writes};
    [Writes, Writes, Reads, Reads, Pipelines, Pipelines, Writes, Writes, Reads, Reads, Pipelines, Pipelines]
};

/// The same, and some who make transactions.
pub const WITH_TRANSACTIONS: [Habit; 16] = {
    use Habit::{Pipelines, Reads, Transacts, Writes};
    [
        Writes, Writes, Reads, Reads, Pipelines, Pipelines, Writes, Writes, Reads, Reads, Pipelines, Pipelines,
        Transacts, Transacts, Transacts, Transacts,
    ]
};

/// Clients that go on until they are told to [finish](Crowd::finish).
pub struct Crowd {
    start: Instant,
    over: Over,
    members: Vec<JoinHandle<History>>,
    served: Vec<Arc<Served>>,
}

/// When a client sent the last request that Redis itself answered, in microseconds since the start.
type Served = AtomicU64;

impl Crowd {
    /// Writes at `server` what clients find at first, and sends clients of these habits to `address`. Every other one
    /// speaks RESP3.
    pub fn start(server: &Server, address: &str, habits: &[Habit], seed: u64) -> Self {
        let (over, is_over) = Over::flag();
        let mut crowd = Self { start: Instant::now(), over, members: Vec::new(), served: Vec::new() };
        let mut direct = server.connect();
        for (number, habit) in (1..).zip(habits) {
            let served = Arc::new(Served::new(0));
            let length = if *habit == Habit::ReadsLarge { LARGE } else { 0 };
            let member = Member {
                number,
                habit: *habit,
                resp3: number % 2 == 1,
                address: address.to_owned(),
                fixed: format!("{number}:{}", "x".repeat(length)),
                rng: fastrand::Rng::with_seed(seed + number),
                last_id: 0,
                start: crowd.start,
                served: Arc::clone(&served),
                is_over: Arc::clone(&is_over),
                events: Vec::new(),
            };
            member.prepare(&mut direct);
            crowd.members.push(thread::spawn(move || member.live()));
            crowd.served.push(served);
        }
        crowd
    }

    /// Waits until Redis has answered everybody a request sent since `moment`; how long after it that was.
    pub fn wait_until_served_since(&self, moment: Instant, limit: Duration) -> Duration {
        let since = micros(moment - self.start);
        wait_until("Redis serves everybody", limit, || {
            assert!(!self.members.iter().any(JoinHandle::is_finished), "a client could not go on");
            self.served.iter().all(|last| last.load(Relaxed) > since)
        });
        moment.elapsed()
    }

    /// Everybody asks once more, now that Redis is known to be well, and leaves.
    pub fn finish(self) -> Vec<History> {
        drop(self.over);
        let ended = self.members.into_iter().map(JoinHandle::join);
        ended.map(|history| history.unwrap_or_else(|_| panic!("a client could not go on"))).collect()
    }
}

/// Everything that cannot be true in these histories, given what `server` holds now.
pub fn complaints(histories: &[History], server: &Server) -> Vec<Complaint> {
    let mut direct = server.connect();
    histories.iter().flat_map(|history| check(history, &held(&mut direct, history.client))).collect()
}

/// Adds to `figures` what these clients heard.
pub fn tell(histories: &[History], figures: &mut Figures) {
    let heard =
        |is: &dyn Fn(&Event) -> bool| histories.iter().flat_map(|story| &story.events).filter(|e| is(e)).count();
    figures.add("requests", heard(&|_| true));
    figures.add("served", heard(&|event| event.heard.is_served()));
    figures.add("empty", heard(&|event| event.heard == Heard::Nothing));
    figures.add("unavailable", heard(&|event| event.heard == Heard::Unavailable));
    figures.add("indeterminate", heard(&|event| event.heard == Heard::Indeterminate));
    figures.add("closed", heard(&|event| matches!(event.heard, Heard::Closed(_))));
    figures.add("cut", heard(&|event| event.heard == Heard::Cut));
    let times = histories.iter().flat_map(|history| &history.events).map(|event| event.took);
    figures.add("slowest_ms", times.max().unwrap_or_default().as_millis());
}

/// What the server holds for one client.
fn held(direct: &mut Client, client: u64) -> Held {
    let list = direct.frame(&format!("LRANGE list:{client} 0 -1")).items.iter().map(|entry| entry.as_text()).collect();
    let count = direct.frame(&format!("GET count:{client}")).as_text();
    let text = direct.frame(&format!("GET text:{client}")).as_text();
    Held { list, count: count.parse().expect("it began as a number"), text }
}

/// One client.
struct Member {
    number: u64,
    habit: Habit,
    resp3: bool,
    address: String,
    /// What is never changed.
    fixed: String,
    rng: fastrand::Rng,
    /// The last id given to an entry or a text.
    last_id: u64,
    start: Instant,
    served: Arc<Served>,
    is_over: Arc<AtomicBool>,
    events: Vec<Event>,
}

impl Member {
    /// Writes what it finds at first.
    fn prepare(&self, direct: &mut Client) {
        let number = self.number;
        let held = Held::at_first(number);
        assert_eq!(held.count, number * COUNT_SPACING);
        direct.ask(&format!("RPUSH list:{number} {}", held.list[0]));
        direct.ask(&format!("SET text:{number} {}", held.text));
        direct.ask(&format!("SET count:{number} {}", held.count));
        direct.send(&command(&["SET", &format!("fixed:{number}"), &self.fixed]));
        assert_eq!(direct.reply(), b"+OK\r\n");
    }

    fn live(mut self) -> History {
        let mut client = self.connect();
        while !self.is_over.load(Relaxed) {
            let requests = self.think_of_something();
            self.ask(&mut client, &requests, false);
            // Thinking, not waiting: nothing is to happen meanwhile.
            thread::sleep(THINKING.mul_f32(self.rng.f32()));
        }
        for requests in self.everything() {
            self.ask(&mut client, &requests, true);
        }
        History { client: self.number, events: self.events, is_whole: self.habit == Habit::Transacts }
    }

    fn connect(&self) -> Client {
        let mut client = match Client::try_connect(&self.address) {
            Ok(client) => client,
            // Whoever waits for this thread says so, once for all of them.
            Err(error) => resume_unwind(Box::new(error)),
        };
        if self.resp3 {
            // It may end at once as well, which the next request notices.
            drop(client.exchange(&command(&["HELLO", "3"])));
        }
        client
    }

    /// What to ask next, together.
    fn think_of_something(&mut self) -> Vec<Asked> {
        if self.habit == Habit::Transacts && self.rng.u8(..3) > 0 {
            return self.one_of_each_write().to_vec();
        }
        let count = if self.habit == Habit::Pipelines { self.rng.usize(2..=PIPELINE) } else { 1 };
        (0..count).map(|_| self.any()).collect()
    }

    fn any(&mut self) -> Asked {
        match (self.habit, self.rng.u8(..8)) {
            (Habit::ReadsLarge, _) | (Habit::Reads, 0..3) => Asked::ReadFixed,
            (Habit::Reads | Habit::Transacts, 3..5) | (_, 0) => Asked::ReadList,
            (Habit::Reads | Habit::Transacts, 5) | (_, 1) => Asked::ReadCount,
            (Habit::Reads | Habit::Transacts, _) | (_, 2) => Asked::ReadText,
            (Habit::Writes | Habit::Pipelines, 3) => Asked::Put(self.next_id()),
            (Habit::Writes | Habit::Pipelines, 4..6) => Asked::Count,
            (Habit::Writes | Habit::Pipelines, _) => Asked::Append(self.next_id()),
        }
    }

    /// One of each, so that the last effects are seen.
    fn everything(&mut self) -> Vec<Vec<Asked>> {
        let mut all = match self.habit {
            Habit::Reads | Habit::ReadsLarge => Vec::new(),
            Habit::Writes | Habit::Pipelines => self.one_of_each_write().map(|asked| vec![asked]).to_vec(),
            Habit::Transacts => vec![self.one_of_each_write().to_vec()],
        };
        let reads = [Asked::ReadFixed, Asked::ReadList, Asked::ReadCount, Asked::ReadText];
        all.extend(reads.map(|asked| vec![asked]));
        all
    }

    const fn one_of_each_write(&mut self) -> [Asked; 3] {
        [Asked::Count, Asked::Append(self.next_id()), Asked::Put(self.next_id())]
    }

    const fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// Sends these requests at once and writes down what comes back; a new connection if this one ends.
    fn ask(&mut self, client: &mut Client, requests: &[Asked], is_calm: bool) {
        let is_transaction = self.habit == Habit::Transacts && requests.len() > 1;
        let mut bytes: Vec<_> = requests.iter().map(|asked| asked.request(self.number)).collect();
        if is_transaction {
            bytes.insert(0, words("MULTI"));
            bytes.push(words("EXEC"));
        }
        let start = Instant::now();
        // What ends here has an end to be read, too.
        drop(client.try_send(&bytes.concat()));
        let mut together = is_transaction.then(|| self.hear_transaction(client, requests).into_iter());
        let mut ended = false;
        for asked in requests {
            let heard = match together.as_mut().and_then(Iterator::next) {
                Some(heard) => heard,
                None if ended => Heard::Closed(0),
                None => self.hear(client, *asked),
            };
            ended |= matches!(heard, Heard::Closed(_) | Heard::Cut);
            if heard.is_served() {
                self.served.fetch_max(micros(start - self.start), Relaxed);
            }
            self.events.push(Event { asked: *asked, heard, took: start.elapsed(), is_calm });
        }
        if ended {
            *client = self.connect();
        }
    }

    /// What a transaction of these requests hears, for each of them.
    fn hear_transaction(&self, client: &mut Client, requests: &[Asked]) -> Vec<Heard> {
        let all = |heard: Heard| vec![heard; requests.len()];
        let mut reply = Vec::new();
        for number in 0..requests.len() + 2 {
            let Ok(Some(next)) = client.try_reply() else { return all(Heard::Closed(0)) };
            let due: &[u8] = if number == 0 { b"+OK\r\n" } else { b"+QUEUED\r\n" };
            if number <= requests.len() && next != due {
                return all(Heard::Strange(next.escape_ascii().to_string()));
            }
            reply = next;
        }
        let head = format!("*{}\r\n", requests.len());
        let Some(mut rest) = reply.strip_prefix(head.as_bytes()) else {
            return all(Heard::of(requests[0], &reply, self.resp3, &self.fixed));
        };
        let hear = |asked: &Asked| {
            let (own, others) = rest.split_at(frame_length(rest).expect("the reply is whole"));
            rest = others;
            Heard::of(*asked, own, self.resp3, &self.fixed)
        };
        requests.iter().map(hear).collect()
    }

    fn hear(&self, client: &mut Client, asked: Asked) -> Heard {
        match client.try_reply() {
            Ok(Some(reply)) => Heard::of(asked, &reply, self.resp3, &self.fixed),
            Ok(None) | Err(_) => {
                let passed_on = client.rest_however_closed().map_or(0, |rest| rest.len());
                if passed_on >= PASSED_ON { Heard::Cut } else { Heard::Closed(passed_on) }
            }
        }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).expect("a test is no millennium")
}
