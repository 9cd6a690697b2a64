//! Clients that subscribe, unsubscribe and leave at random while others publish without a pause.
//!
//! Each message carries its number in its channel, so that a client knows what it may not miss: everything from the first
//! message that was published after its acknowledgement up to the last that the publisher knew to be published when the
//! client asked to stop; and nothing after that was acknowledged.

use super::{shown, wait_for_subscribers};
use crate::support::{Client, Figures, Frame, Kind, Over, Proxy, Server, command, words};
use fastrand::Rng;
use std::collections::BTreeMap;
use std::env;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

const CHANNELS: usize = 6;
const CLIENTS: usize = 24;
const LENGTH: Duration = Duration::from_secs(4);

/// How far each channel has come.
#[derive(Default)]
struct Progress {
    /// The number last sent to the server, and the last whose reply came.
    sent: AtomicU64,
    published: AtomicU64,
}

#[test]
fn nothing_is_missed_and_nothing_comes_after_the_end() {
    let seed = env::var("OUTRIGGER_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("seed {seed}");
    let server = Server::start(Kind::Valkey91);
    let proxy = Proxy::start(&server, |flags| {
        flags.args(["--workers", "2"]);
    });
    let progress: Vec<Progress> = (0..CHANNELS).map(|_| Progress::default()).collect();
    let (owner, over) = Over::flag();
    let heard: u64 = thread::scope(|scope| {
        for half in 0..2 {
            let (progress, over, publisher) = (&progress, &over, proxy.connect());
            scope.spawn(move || publish_until(over, publisher, progress, half));
        }
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let (progress, proxy) = (&progress, &proxy);
                scope.spawn(move || {
                    let mut rng = Rng::with_seed(seed ^ number as u64);
                    let (start, mut heard) = (Instant::now(), 0);
                    while start.elapsed() < LENGTH {
                        heard += Churner::new(proxy.connect(), number % 2 == 1, progress).live(&mut rng);
                    }
                    heard
                })
            })
            .collect();
        let heard = clients.into_iter().map(|client| client.join().expect("nothing was missed")).sum();
        drop(owner);
        heard
    });
    let mut figures = Figures::of("subscribers that come and go");
    figures.add("messages_heard", heard);
    figures.add("published", progress.iter().map(|channel| channel.published.load(SeqCst)).sum::<u64>());
    (0..CHANNELS).for_each(|channel| wait_for_subscribers(&server, &format!("c{channel}"), 0));
}

/// Publishes on every other channel, one message after the other.
fn publish_until(over: &AtomicBool, mut publisher: Client, progress: &[Progress], half: usize) {
    while !over.load(SeqCst) {
        for (number, channel) in progress.iter().enumerate().filter(|(number, _)| number % 2 == half) {
            let next = channel.sent.fetch_add(1, SeqCst) + 1;
            let reply = publisher.call(&[b"PUBLISH", format!("c{number}").as_bytes(), next.to_string().as_bytes()]);
            assert_eq!(reply[0], b':', "{}", shown(&reply));
            channel.published.store(next, SeqCst);
        }
    }
}

/// One life of a client.
struct Churner<'test> {
    client: Client,
    progress: &'test [Progress],
    /// By channel: the number that may be missed at most, and what was heard last.
    hears: BTreeMap<usize, Heard>,
    heard: u64,
}

struct Heard {
    sent_before: u64,
    last: Option<u64>,
}

impl<'test> Churner<'test> {
    fn new(mut client: Client, resp3: bool, progress: &'test [Progress]) -> Self {
        if resp3 {
            client.hello3();
        }
        Self { client, progress, hears: BTreeMap::new(), heard: 0 }
    }

    /// Subscribes and unsubscribes for a while, then leaves in some way; how much it heard.
    fn live(mut self, rng: &mut Rng) -> u64 {
        for _ in 0..rng.usize(1..20) {
            let channel = rng.usize(..CHANNELS);
            match rng.u8(..4) {
                0 | 1 => self.subscribe(channel),
                2 => self.unsubscribe(channel),
                _ => self.listen(rng.usize(..50)),
            }
        }
        let heard = self.heard;
        match rng.u8(..4) {
            0 => self.client.reset(),
            1 => self.reset_by_command(),
            2 => self.unsubscribe_from_all(),
            _ => {}
        }
        heard
    }

    fn subscribe(&mut self, channel: usize) {
        self.client.send(&words(&format!("SUBSCRIBE c{channel}")));
        self.take_until("subscribe", channel);
        let sent_before = self.progress[channel].sent.load(SeqCst);
        self.hears.entry(channel).or_insert(Heard { sent_before, last: None });
    }

    fn unsubscribe(&mut self, channel: usize) {
        let published = self.progress[channel].published.load(SeqCst);
        self.client.send(&words(&format!("UNSUBSCRIBE c{channel}")));
        self.take_until("unsubscribe", channel);
        if let Some(heard) = self.hears.remove(&channel) {
            heard.check_end(published, channel);
        }
    }

    /// Hears some messages, if there is anything to hear.
    fn listen(&mut self, count: usize) {
        for _ in 0..if self.hears.is_empty() { 0 } else { count } {
            let frame = Frame::whole(&self.client.reply());
            self.hear(&frame);
        }
    }

    fn reset_by_command(mut self) {
        let published: Vec<u64> = self.progress.iter().map(|channel| channel.published.load(SeqCst)).collect();
        self.client.send(&[words("RESET"), command(&["ECHO", "end"])].concat());
        loop {
            let reply = self.client.reply();
            if reply == b"+RESET\r\n" {
                break;
            }
            self.hear(&Frame::whole(&reply));
        }
        for (channel, heard) in self.hears {
            heard.check_end(published[channel], channel);
        }
        assert_eq!(shown(&self.client.reply()), "$3\\r\\nend\\r\\n", "nothing comes after RESET");
    }

    fn unsubscribe_from_all(&mut self) {
        let channels: Vec<usize> = self.hears.keys().copied().collect();
        channels.into_iter().for_each(|channel| self.unsubscribe(channel));
        assert_eq!(shown(&self.client.ask("PING")), "+PONG\\r\\n", "nothing comes after the last acknowledgement");
    }

    /// Hears messages until this acknowledgement.
    fn take_until(&mut self, verb: &str, channel: usize) {
        loop {
            let frame = Frame::whole(&self.client.reply());
            if frame.items[0].as_text() == verb {
                assert_eq!(frame.items[1].as_text(), format!("c{channel}"));
                return;
            }
            self.hear(&frame);
        }
    }

    /// A message must be the next of its channel.
    fn hear(&mut self, frame: &Frame) {
        let texts: Vec<String> = frame.items.iter().map(Frame::as_text).collect();
        let [kind, channel, number] = texts.as_slice() else { panic!("no message: {frame:?}") };
        let (channel, number) = (channel[1..].parse().expect("a channel"), number.parse().expect("a number"));
        assert_eq!(kind, "message");
        self.heard += 1;
        // Between the acknowledgement and our noting it there is none: this runs when the frame is read.
        let heard =
            self.hears.get_mut(&channel).unwrap_or_else(|| panic!("c{channel} is not subscribed to: {frame:?}"));
        match heard.last {
            Some(last) => assert_eq!(number, last + 1, "c{channel}: one is missing or comes twice"),
            None => {
                assert!(number <= heard.sent_before + 1, "c{channel}: {number}, but {} was sent", heard.sent_before);
            }
        }
        heard.last = Some(number);
    }
}

impl Heard {
    /// What was published before the client asked to stop must have come.
    fn check_end(&self, published: u64, channel: usize) {
        match self.last {
            Some(last) => assert!(last >= published, "c{channel}: {published} was published, {last} came last"),
            None => assert!(published <= self.sent_before, "c{channel}: {published} was published, nothing came"),
        }
    }
}
