//! Two hundred sidecars lose the same Redis and find it again: how hard do they knock?
//!
//! Each sidecar knows Redis by a name of its own, which stands for an address of its own; Redis listens on all of them.
//! So each dial and each question for a name tells whose it is.

use super::dials::{Dials, Packet, Step};
use super::network::in_own_network;
use super::polls::{End, Readers, Reading};
use super::resolver::Resolver;
use crate::support::{Figures, Kind, Proxy, Server, allow_files, alone, is_direct, wait_until};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

const SIDECARS: u8 = 200;
/// How often each client reads.
const PACE: Duration = Duration::from_millis(100);
/// How long a server must have been back before an outage is a new one to the sidecars, counted in reads.
const HEALTH: usize = 120;

const SECOND: Duration = Duration::from_secs(1);
/// Taken off every span in which something may happen only so often: between the proxy's look at the clock and the packet
/// a busy machine may do something else.
const INEXACT: Duration = Duration::from_millis(50);
/// Dials that a sidecar may make in any second.
const MOST_DIALS: usize = 2;
/// Connections that a sidecar may open in the first second after the server's return.
const MOST_CONNECTIONS: usize = 1;
/// How soon after the return nearly all must be served.
const SERVED: Duration = Duration::from_secs(2);
/// How many in a hundred these are.
const NEARLY_ALL: usize = 99;
/// A name may be asked for once in this time.
const BETWEEN_QUESTIONS: Duration = Duration::from_secs(5);

#[test]
fn alone_two_hundred_sidecars_make_no_storm() {
    if is_direct() {
        return;
    }
    let _alone = alone();
    allow_files(20 * u64::from(SIDECARS));
    in_own_network(|| {
        let mut fleet = Fleet::start();
        let mut wrong = fleet.lose_the_server("restart at once", 0);
        fleet.readers.await_answers(HEALTH);
        wrong.extend(fleet.lose_the_server("outage of 10 s", 100));
        wrong.extend(fleet.questions());
        // Before the judgement: a failing test would show two hundred logs.
        drop(fleet);
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    });
}

/// The sidecars, each with a client, and everything around them.
struct Fleet {
    server: Server,
    dials: Dials,
    resolver: Resolver,
    readers: Readers,
    _sidecars: Vec<Proxy>,
}

/// One sidecar: its number is the last part of its address.
fn address_of(sidecar: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 1, 0, sidecar)
}

fn name_of(sidecar: u8) -> String {
    format!("redis-{sidecar}.storm.test")
}

impl Fleet {
    /// All are served.
    fn start() -> Self {
        let server = Server::start_with(Kind::Redis70, &["--bind", "0.0.0.0", "--maxclients", "10000"]);
        let mut admin = server.connect();
        assert_eq!(admin.ask("SET k value"), b"+OK\r\n");
        // What is saved is there from the first moment of the next start, so that a served read shows itself.
        assert_eq!(admin.ask("SAVE"), b"+OK\r\n");
        let port = server.address().rsplit(':').next().and_then(|port| port.parse().ok()).expect("it has a port");
        let dials = Dials::watch(port);
        let resolver = Resolver::start();
        let sidecar = |number| {
            resolver.set(&name_of(number), &[address_of(number)]);
            Proxy::toward(&format!("{}:{port}", name_of(number)), |flags| {
                flags.args(["--workers", "1", "--pool-size", "4"]);
            })
        };
        let sidecars: Vec<_> = (1..=SIDECARS).map(sidecar).collect();
        let addresses = sidecars.iter().map(|sidecar| sidecar.address().to_owned()).collect();
        let readers = Readers::start(addresses, ("k", "value"), PACE);
        readers.await_values(Instant::now());
        Self { server, dials, resolver, readers, _sidecars: sidecars }
    }

    /// Kills the server, starts it again after that many reads of every client, and waits until all are served. Returns
    /// what was not as it must be.
    fn lose_the_server(&mut self, name: &str, reads: usize) -> Vec<String> {
        let killed = Instant::now();
        self.server.kill();
        let dead = Instant::now();
        self.readers.await_answers(reads);
        self.server.start_again();
        let restarted = Instant::now();
        self.readers.await_values(restarted);
        wait_until("the first seconds are over", 4 * SERVED, || restarted.elapsed() > 2 * SERVED);
        let of_this = |packet: &Packet| packet.at >= killed;
        let packets: Vec<_> = self.dials.seen().into_iter().filter(of_this).collect();
        let outage = Outage::new([killed, dead], &packets, self.readers.taken());
        let mut figures = Figures::of(&format!("storm, {SIDECARS} sidecars, {name}"));
        let wrong = [outage.dials(&mut figures), outage.first_second(&mut figures), outage.readers(&mut figures)];
        wrong.concat().into_iter().map(|wrong| format!("{name}: {wrong}")).collect()
    }

    /// How often names were asked for, from the start on.
    fn questions(&self) -> Vec<String> {
        let asked: Vec<_> = (1..=SIDECARS).map(|sidecar| self.resolver.asked(&name_of(sidecar))).collect();
        let all: Vec<_> = asked.concat();
        let gaps = asked.iter().flat_map(|times| times.windows(2).map(|pair| pair[1] - pair[0]));
        let least = gaps.min().unwrap_or(Duration::MAX);
        let mut figures = Figures::of("storm, questions for names");
        figures.add("all", all.len());
        figures.add("most_of_one_sidecar", asked.iter().map(Vec::len).max().unwrap_or_default());
        figures.add("most_in_a_second", most_within(SECOND, all));
        figures.add("least_gap_of_one_sidecar_ms", least.as_millis());
        let too_often = least + INEXACT < BETWEEN_QUESTIONS;
        too_often.then(|| format!("a name was asked for again after {least:?}")).into_iter().collect()
    }
}

/// All that was seen of one outage.
struct Outage {
    killed: Instant,
    /// When the first dial of anybody was accepted again.
    back: Instant,
    /// What each sidecar dialled, and what was accepted of it.
    dialled: Vec<Vec<Instant>>,
    accepted: Vec<Vec<Instant>>,
    readings: Vec<Vec<Reading>>,
}

impl Outage {
    /// Out of the packets since the server was killed; it may have gone on for a moment, until it was dead.
    fn new([killed, dead]: [Instant; 2], packets: &[Packet], mut readings: Vec<Vec<Reading>>) -> Self {
        let is_return = |packet: &&Packet| packet.step == Step::Accept && packet.at > dead;
        let back = packets.iter().find(is_return).expect("somebody was accepted again").at;
        let of = |step: Step| {
            let times = |sidecar| {
                let host = address_of(sidecar);
                packets
                    .iter()
                    .filter(|packet| packet.step == step && packet.host == host)
                    .map(|packet| packet.at)
                    .collect()
            };
            (1..=SIDECARS).map(times).collect::<Vec<Vec<_>>>()
        };
        readings.iter_mut().for_each(|readings| readings.retain(|reading| reading.answered >= killed));
        let mut accepted = of(Step::Accept);
        accepted.iter_mut().for_each(|times| times.retain(|at| *at >= back));
        Self { killed, back, dialled: of(Step::Dial), accepted, readings }
    }

    /// How often the server's door was knocked at, open or not.
    fn dials(&self, figures: &mut Figures) -> Vec<String> {
        let all = self.dialled.concat();
        let most: Vec<_> = self.dialled.iter().map(|times| most_within(SECOND - INEXACT, times.clone())).collect();
        figures.add("outage_ms", (self.back - self.killed).as_millis());
        figures.add("dials", all.len());
        figures.add("peak_in_100_ms", most_within(SECOND / 10, all.clone()));
        figures.add("peak_in_a_second", most_within(SECOND, all));
        figures.add("most_of_one_in_a_second", most.iter().max().copied().unwrap_or_default());
        let eager = most.iter().filter(|most| **most > MOST_DIALS).count();
        let eagerest = self.dialled.iter().zip(&most).filter(|(_, most)| **most > MOST_DIALS).map(|(times, _)| times);
        for times in eagerest {
            let times: Vec<_> = times.iter().map(|at| (*at - self.killed).as_millis()).collect();
            println!("a sidecar dialled at {times:?} ms after the kill");
        }
        report(eager, &format!("sidecars dialled more than {MOST_DIALS} times within a second"))
    }

    /// What was accepted in the first second.
    fn first_second(&self, figures: &mut Figures) -> Vec<String> {
        let is_first = |at: &&Instant| **at < self.back + SECOND - INEXACT;
        let counts: Vec<_> = self.accepted.iter().map(|times| times.iter().filter(is_first).count()).collect();
        let first = self.accepted.iter().filter_map(|times| times.first().map(|at| *at - self.back));
        figures.add("connections_in_first_second", counts.iter().sum::<usize>());
        figures.add("most_of_one", counts.iter().max().copied().unwrap_or_default());
        add_spread(figures, "connected", first.collect());
        let greedy = counts.iter().filter(|count| **count > MOST_CONNECTIONS).count();
        report(greedy, &format!("sidecars opened more than {MOST_CONNECTIONS} connection in the first second"))
    }

    /// What their clients saw.
    fn readers(&self, figures: &mut Figures) -> Vec<String> {
        let served = |readings: &Vec<Reading>| {
            let first = readings.iter().find(|reading| reading.answered >= self.back && reading.end == End::Value);
            first.map_or(Duration::MAX, |reading| reading.answered - self.back)
        };
        let served: Vec<_> = self.readings.iter().map(served).collect();
        let in_time = served.iter().filter(|after| **after <= SERVED).count();
        let last = (0..served.len()).max_by_key(|sidecar| served[*sidecar]).expect("there are sidecars");
        add_spread(figures, "served", served);
        let readings = self.readings.concat();
        let count = |end: End| readings.iter().filter(|reading| reading.end == end).count();
        let slowest = readings.iter().map(|reading| reading.answered - reading.asked).max().unwrap_or_default();
        figures.add("slowest_read_ms", slowest.as_millis());
        for (name, end) in [("empty", End::Nothing), ("errors", End::Error), ("disconnects", End::Closed)] {
            figures.add(name, count(end));
        }
        let mut wrong = report(count(End::Error), "reads were answered with an error");
        wrong.extend(report(count(End::Closed), "times a client was disconnected"));
        if in_time * 100 < NEARLY_ALL * usize::from(SIDECARS) {
            let story = self.story(last);
            wrong
                .push(format!("only {in_time} of {SIDECARS} served within {SERVED:?} of the return; the last {story}"));
        }
        wrong
    }

    /// What one sidecar did around the return.
    fn story(&self, sidecar: usize) -> String {
        let after = |times: &[Instant]| {
            let late = times.iter().filter(|at| **at + SECOND > self.back);
            late.map(|at| (*at + SECOND - self.back).as_millis()).collect::<Vec<_>>()
        };
        let (dialled, accepted) = (after(&self.dialled[sidecar]), after(&self.accepted[sidecar]));
        format!("dialled at {dialled:?} ms and was accepted at {accepted:?} ms; the return was at 1000 ms")
    }
}

fn report(count: usize, what: &str) -> Vec<String> {
    if count == 0 { Vec::new() } else { vec![format!("{count} {what}")] }
}

/// Adds when the first, the one in the middle, nearly all, and the last were there, in milliseconds.
fn add_spread(figures: &mut Figures, name: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let Some(last) = times.len().checked_sub(1) else { return };
    for (which, at) in [("first", 0), ("p50", last / 2), ("p99", last * NEARLY_ALL / 100), ("last", last)] {
        figures.add(&format!("{name}_{which}_ms"), times[at].as_millis());
    }
}

/// The most of these that fall within any span of this length.
fn most_within(span: Duration, mut times: Vec<Instant>) -> usize {
    times.sort_unstable();
    let from = |first: usize| times[first..].iter().take_while(|at| **at - times[first] < span).count();
    (0..times.len()).map(from).max().unwrap_or_default()
}
