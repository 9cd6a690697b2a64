//! All parts of a test of outages: a crowd before a proxy before a proxy with faults before a real server.

use super::checker::{Complaint, Wrong};
use super::crowd::{Crowd, EVERYBODY, Habit, complaints, tell};
use super::history::{Event, Heard, History};
use crate::support::{Fault, FaultProxy, Figures, Kind, Proxy, Server};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeMap;
use std::env;
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

/// The longest that full service may take to return, once nothing stands in its way.
pub const RECOVERY: Duration = Duration::from_secs(10);

/// How much later than the request's time limit an answer may come: turns of loops on both sides, and other tests beside.
const LATENESS: Duration = Duration::from_secs(1);

/// How many complaints a failing test shows.
const SHOWN: usize = 20;

/// The parts but for the server, which may be killed and replaced meanwhile.
pub struct Stage {
    /// Between the proxy and its server.
    pub fault: FaultProxy,
    /// The clients.
    pub crowd: Crowd,
    proxy: Proxy,
    request_timeout: Duration,
    /// How long service took to return, by what had stood in its way.
    recoveries: BTreeMap<String, Vec<Duration>>,
    /// How many connections it took at first.
    first_dials: usize,
    seed: u64,
}

impl Stage {
    /// Everything before `server`, with this time limit for each request and clients of these habits; served already.
    pub fn before(server: &Server, request_timeout: Duration, habits: &[Habit]) -> Self {
        let seed = seed();
        let fault = FaultProxy::before(server);
        let proxy = Proxy::toward(&fault.address(), |flags| {
            flags.args(["--workers", "1", "--request-timeout", &format!("{}ms", request_timeout.as_millis())]);
        });
        let crowd = Crowd::start(server, proxy.address(), habits, seed);
        crowd.wait_until_served_since(Instant::now(), RECOVERY);
        let first_dials = fault.dials().len();
        Self { first_dials, fault, crowd, proxy, request_timeout, recoveries: BTreeMap::new(), seed }
    }

    /// The same with [`EVERYBODY`].
    pub fn with_everybody(server: &Server, request_timeout: Duration) -> Self {
        Self::before(server, request_timeout, &EVERYBODY)
    }

    /// An address for clients.
    pub fn address(&self) -> &str {
        self.proxy.address()
    }

    /// Waits until everybody is served again after `what`; how long that took.
    pub fn recover(&mut self, what: &str, limit: Duration) -> Duration {
        let took = self.crowd.wait_until_served_since(Instant::now(), limit);
        self.recoveries.entry(what.to_lowercase().replace(' ', "_")).or_default().push(took);
        took
    }

    /// Ends the fault, and does the same.
    pub fn end_fault(&mut self, what: &str, limit: Duration) -> Duration {
        self.fault.switch(Fault::Pass);
        self.recover(what, limit)
    }

    /// Lets everybody leave; what they heard must be true, in time, and all that they had asked, given what `server` holds.
    pub fn judge(self, name: &str, server: &Server) -> Vec<History> {
        let (seed, limit) = (self.seed, self.request_timeout + LATENESS);
        let (histories, complaints) = self.close(name, server);
        let shown: Vec<_> = complaints.iter().take(SHOWN).map(ToString::to_string).collect();
        assert!(complaints.is_empty(), "{name}, seed {seed}, {} complaints:\n{}", complaints.len(), shown.join("\n"));
        let late = told(&histories, &|event| event.took > limit);
        assert!(late.is_empty(), "{name}, seed {seed}: answers came after more than {limit:?}:\n{late}");
        let ended = told(&histories, &|event| matches!(event.heard, Heard::Closed(_)));
        assert!(ended.is_empty(), "{name}, seed {seed}: connections ended instead of answers:\n{ended}");
        histories
    }

    /// Lets everybody leave; what they heard, and what of it cannot be true given what `server` holds.
    pub fn close(mut self, name: &str, server: &Server) -> (Vec<History>, Vec<Complaint>) {
        self.proxy.assert_running();
        let histories = self.crowd.finish();
        let complaints = complaints(&histories, server);
        let mut figures = Figures::of(name);
        figures.add("seed", self.seed);
        tell(&histories, &mut figures);
        for wrong in [Wrong::Excess, Wrong::Lost, Wrong::Order, Wrong::Foreign, Wrong::Strange] {
            let count = complaints.iter().filter(|complaint| complaint.wrong == wrong).count();
            figures.add(&format!("{wrong:?}").to_lowercase(), count);
        }
        for (what, times) in &mut self.recoveries {
            times.sort();
            figures.add(&format!("back_after_{what}_median_ms"), times[times.len() / 2].as_millis());
            figures.add("worst_ms", times[times.len() - 1].as_millis());
        }
        let dials = self.fault.dials().split_off(self.first_dials);
        figures.add("strikes", self.fault.strikes());
        figures.add("dials", dials.len());
        figures.add("most_dials_a_second", most_in_a_second(&dials));
        figures.add("connected", self.fault.connected());
        (histories, complaints)
    }
}

/// The first events that are like this, each with its client.
fn told(histories: &[History], is: &dyn Fn(&Event) -> bool) -> String {
    let of = |history: &History| history.events.iter().filter(|event| is(event)).cloned().collect::<Vec<_>>();
    let all = histories.iter().flat_map(|history| of(history).into_iter().map(|event| (history.client, event)));
    let lines = all.take(SHOWN).map(|(client, event)| {
        format!("client {client}: {:?} heard {:?} after {:?}\n", event.asked, event.heard, event.took)
    });
    lines.collect()
}

/// The most of these moments, which are in order, that lie within one second.
fn most_in_a_second(moments: &[Instant]) -> usize {
    let within =
        |from: usize| moments[from..].partition_point(|moment| *moment < moments[from] + Duration::from_secs(1));
    (0..moments.len()).map(within).max().unwrap_or_default()
}

/// Lets a fault last for this long.
pub fn last(time: Duration) {
    thread::sleep(time);
}

/// A server whose acknowledged writes outlive it: they are with the kernel before they are acknowledged.
pub fn durable_server(kind: Kind) -> Server {
    Server::start_with(kind, &["--appendonly", "yes", "--appendfsync", "no"])
}

/// A server that is stopped as by SIGSTOP; it goes on when this is dropped.
pub struct Frozen(Pid);

impl Frozen {
    /// Stops the server.
    pub fn stop(server: &Server) -> Self {
        let pid = server.info_number("server", "process_id");
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process has a number");
        kill_process(pid, Signal::STOP).expect("the server is ours to stop");
        Self(pid)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        kill_process(self.0, Signal::CONT).expect("the server is there");
    }
}

/// What all random choices of this process begin with: `OUTRIGGER_SEED`, or any number.
pub fn seed() -> u64 {
    static SEED: OnceLock<u64> = OnceLock::new();
    *SEED.get_or_init(|| number("OUTRIGGER_SEED").unwrap_or_else(|| fastrand::u64(..1 << 32)))
}

/// A number out of the environment.
pub fn number(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is no number: {text}")))
}
