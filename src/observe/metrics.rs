//! The metrics: every name, its type and its meaning; and how the counts of the workers are gathered.
//!
//! What happens with every request is counted in each worker's [`Cells`]; what is rare (dials, trips, time-outs) in the
//! counters here, which are the library's. Gauges that can be read off the parts themselves are added by whoever is asked
//! for the metrics (`admin/metrics.rs`).
//!
//! Cardinality: about 400 series from the start, and at most what `deploy/METRICS.md` adds up to: of commands the first 100
//! seen have a series for each of 6 outcomes.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Encoder, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry, TextEncoder};
use tokio::time::Instant;

use super::cells::{BOUNDS, Cell, Cells, Class, Durations, ERROR_CODES, Found, Given, Outcome, Sample, command_name};
use super::names::Names;
use super::slowlog::SlowLog;
use super::timeline::{Change, Timeline};

/// Before every name.
const PREFIX: &str = "outrigger_";

/// Commands that have series of their own; the others that are used are counted together.
const MOST_COMMANDS: usize = 100;

/// What they are counted under.
const OTHER: &str = "other";

/// Everything that is counted.
pub struct Metrics {
    workers: Vec<Arc<Cells>>,
    /// When counting began.
    origin: Instant,
    /// Commands in the order in which they were first seen.
    seen: Mutex<Vec<&'static str>>,
    /// How long the breaker has refused everything, and since when it does again.
    open: Mutex<(Duration, Option<Instant>)>,
    /// The slow requests.
    pub slow: SlowLog,
    /// The breaker's last hour.
    pub timeline: Timeline,
    registry: Registry,
    /// Clients that were accepted, by listener.
    pub accepted: IntCounterVec,
    /// Clients that were turned away, by reason: `max_clients`; `auth`: a wrong password, each time.
    pub rejected: IntCounterVec,
    /// Clients that are gone, by reason: see `client/session.rs`.
    pub departed: IntCounterVec,
    /// Requests that were sent once more, by reason (`not_sent` or `refused`: it cannot have run; `read`: it only reads) and
    /// result.
    pub retries: IntCounterVec,
    /// Requests that were not, because too many had been.
    pub retries_denied: IntCounter,
    /// Requests whose deadline passed, by stage: `dial` (no connection yet), `queue` (not written yet), `reply`.
    pub timeouts: IntCounterVec,
    /// Dials, by result.
    pub connects: IntCounterVec,
    /// How long dials took, handshake included, by result.
    pub connect_time: HistogramVec,
    /// Dials while there was no connection, though there had been one, by result.
    pub reconnects: IntCounterVec,
    /// Connections that are gone, by reason.
    pub disconnects: IntCounterVec,
    /// Leases given, by cause.
    pub leases: IntCounterVec,
    /// Leases refused, by reason: `queue_full`, `checkout_timeout`.
    pub lease_rejections: IntCounterVec,
    /// Connections that must be known to be dead at the server before anything else is sent.
    pub fences: IntCounter,
    /// PINGs of ours that were not answered in time, see [`Cells::checks`].
    pub silent_checks: IntCounter,
    /// Changes of the breaker, `from`, `to`.
    pub transitions: IntCounterVec,
    /// Why it opened.
    pub trips: IntCounterVec,
    /// How often it closed again.
    pub recoveries: IntCounter,
    /// What counted against Redis, by reason.
    pub failures: IntCounterVec,
    /// Secrets that were read again, by secret and result.
    pub secret_reloads: IntCounterVec,
}

impl Metrics {
    /// Nothing counted yet, for so many workers. With `off` nobody will look, and workers count nothing.
    ///
    /// # Errors
    /// Two metrics have one name, which a test would have found.
    pub fn new(workers: usize, slow_from: Duration, off: bool) -> prometheus::Result<Self> {
        let origin = Instant::now();
        let registry = Registry::new();
        registry.register(Box::new(ProcessCollector::for_self()))?;
        let new = Maker(&registry);
        Ok(Self {
            workers: (0..workers).map(|_| Arc::new(Cells::new(origin, slow_from, off))).collect(),
            origin,
            seen: Mutex::default(),
            open: Mutex::default(),
            slow: SlowLog::default(),
            timeline: Timeline::default(),
            accepted: new.counters("downstream_connections_total", ACCEPTED, &[("listener", &["ordinary", "strict"])])?,
            rejected: new.counters(
                "downstream_connections_rejected_total",
                "Clients that were turned away. max_clients: too many were there; auth: a wrong password, each time.",
                &[("reason", &["max_clients", "auth"])],
            )?,
            departed: new.counters("downstream_disconnects_total", DEPARTURES, &[("reason", &DEPARTURE_REASONS)])?,
            retries: new.counters(
                "retries_total",
                "Requests that were sent once more. not_sent: the first time it was not sent; refused: Redis refused it \
                 before it ran; read: it only reads.",
                &[("reason", &["not_sent", "refused", "read"]), ("result", &["ok", "failed"])],
            )?,
            retries_denied: new.counter("retry_budget_exhausted_total", "Clients whose requests were not repeated because too many had been.")?,
            timeouts: new.counters(
                "request_timeouts_total",
                "Requests whose deadline passed. dial: while a connection was being made; queue: before they were written; \
                 reply: before their reply came.",
                &[("stage", &["dial", "queue", "reply"])],
            )?,
            connects: new.counters("upstream_connects_total", "Dials, by result.", &[("result", &CONNECT_RESULTS)])?,
            connect_time: new.durations("upstream_connect_duration_seconds", "How long dials took, handshake included.", "result", &["ok", "failed"])?,
            reconnects: new.counters(
                "reconnects_total",
                "Dials while there was no connection, though there had been one.",
                &[("result", &["ok", "failed"])],
            )?,
            disconnects: new.counters("upstream_disconnects_total", DISCONNECTS, &[("reason", &DISCONNECT_REASONS)])?,
            leases: new.counters("leases_total", "Connections given to one client for a while, by cause.", &[("cause", &LEASE_CAUSES)])?,
            lease_rejections: new.counters(
                "pool_rejections_total",
                "Clients that got no connection of their own.",
                &[("reason", &["queue_full", "checkout_timeout"])],
            )?,
            fences: new.counter("fences_total", "Connections that had to be known dead at the server before anything else was sent.")?,
            silent_checks: IntCounter::new("silent_checks", "exported as a part of health_checks_total")?,
            transitions: new.counters("circuit_breaker_transitions_total", "Changes of the breaker.", &[("from", &[]), ("to", &[])])?,
            trips: new.counters("circuit_breaker_trips_total", "Why the breaker opened.", &[("reason", &TRIP_REASONS)])?,
            recoveries: new.counter("circuit_breaker_recoveries_total", "How often the breaker closed again.")?,
            failures: new.counters("circuit_breaker_failures_total", FAILURES, &[("reason", &FAILURE_REASONS)])?,
            secret_reloads: new.counters(
                "secret_reloads_total",
                "Secrets that were read again.",
                &[("secret", &["upstream-password-file", "password-file", "admin-token-file"]), ("result", &["ok", "failed"])],
            )?,
            registry,
        })
    }

    /// Counts a dial: `ok`, or why it failed.
    pub fn dialled(&self, result: &'static str, took: Duration) {
        let result = if CONNECT_RESULTS.contains(&result) { result } else { "other" };
        self.connects.with_label_values(&[result]).inc();
        let result = if result == "ok" { result } else { "failed" };
        self.connect_time.with_label_values(&[result]).observe(took.as_secs_f64());
    }

    /// How long the breaker has refused everything.
    #[must_use]
    pub fn open_time(&self) -> Duration {
        let (before, since) = *self.open.lock().unwrap_or_else(PoisonError::into_inner);
        before + since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// The breaker refuses everything from the start.
    pub fn begins_open(&self) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).1 = Some(Instant::now());
    }

    /// Counts a change of the breaker, of states and the reason it opened or last had, as labels have them; `why` it changed.
    pub fn breaker_changed(&self, (from, to): (&'static str, &'static str), reason: &'static str, why: &'static str) {
        self.timeline.add(Change { at: SystemTime::now(), from, to, why });
        self.transitions.with_label_values(&[from, to]).inc();
        let (before, since) = &mut *self.open.lock().unwrap_or_else(PoisonError::into_inner);
        *before += since.take().map_or(Duration::ZERO, |since| since.elapsed());
        *since = matches!(to, "open" | "isolated").then(Instant::now);
        match to {
            // What was released is not opened by anything that happened.
            "open" if from == "isolated" => {}
            "open" | "isolated" => self.trips.with_label_values(&[reason]).inc(),
            "closed" => self.recoveries.inc_by(u64::from(from == "half_open")),
            _ => {}
        }
    }

    /// The cells of a worker; of one that does not exist, some that nobody reads.
    #[must_use]
    pub fn worker(&self, index: usize) -> Arc<Cells> {
        let cells = self.workers.get(index).map(Arc::clone);
        cells.unwrap_or_else(|| Arc::new(Cells::new(Instant::now(), Duration::MAX, true)))
    }

    /// The cells of all workers.
    #[must_use]
    pub fn workers(&self) -> &[Arc<Cells>] {
        &self.workers
    }

    /// Clients that were given something in place of a reply, by their names: how often.
    #[must_use]
    pub fn degraded_clients(&self) -> Vec<(String, u64)> {
        Names::sum(self.workers.iter().map(|cells| &cells.degraded_clients))
    }

    /// These durations of all workers.
    #[must_use]
    pub fn sample(&self, of: impl Fn(&Cells) -> Option<&Durations>) -> Sample {
        let mut sample = Sample::default();
        self.workers.iter().filter_map(|cells| of(cells)).for_each(|durations| durations.add_to(&mut sample));
        sample
    }

    /// How long answers to PINGs of ours took.
    fn checks(&self) -> Sample {
        self.sample(|cells| Some(&cells.checks))
    }

    /// When a PING of ours was last answered; none if none ever was.
    #[must_use]
    pub fn last_check(&self) -> Option<Instant> {
        let last = self.workers.iter().map(|cells| cells.checked.get()).max().filter(|last| *last > 0)?;
        Some(self.origin + Duration::from_micros(last))
    }

    /// A count of all workers.
    #[must_use]
    pub fn sum(&self, of: impl Fn(&Cells) -> u64) -> u64 {
        self.workers.iter().map(|cells| of(cells)).sum()
    }

    /// How often each command that was used had each outcome, in the order in which they were first seen.
    #[must_use]
    pub fn commands(&self) -> Vec<(&'static str, [u64; Outcome::ALL.len()])> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let mut counts: Vec<_> = seen.iter().map(|name| (*name, [0; Outcome::ALL.len()])).collect();
        let add = |into: &mut [u64; Outcome::ALL.len()], from: [u64; Outcome::ALL.len()]| {
            into.iter_mut().zip(from).for_each(|(into, from)| *into += from);
        };
        for cells in &self.workers {
            for (index, outcomes) in cells.commands().enumerate().filter(|(_, counts)| counts.iter().any(|n| *n > 0)) {
                let name = command_name(index);
                let name = if seen.len() >= MOST_COMMANDS && !seen.contains(&name) { OTHER } else { name };
                match counts.iter_mut().find(|(known, _)| *known == name) {
                    Some((_, counts)) => add(counts, outcomes),
                    None => {
                        seen.push(name);
                        counts.push((name, outcomes));
                    }
                }
            }
        }
        counts
    }

    /// Everything in Prometheus' text format, and `more`.
    ///
    /// # Errors
    /// Those of the library, for metrics that contradict each other.
    pub fn text(&self, more: Vec<MetricFamily>) -> prometheus::Result<String> {
        let mut families = self.registry.gather();
        families.extend(self.of_requests());
        families.extend(self.of_traffic());
        families.extend(self.of_time());
        families.extend(more);
        // A family of which nothing was counted yet cannot be written.
        families.retain(|family| !family.get_metric().is_empty());
        families.sort_by(|a, b| a.name().cmp(b.name()));
        let mut text = Vec::new();
        TextEncoder::new().encode(&families, &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// What became of requests, as the workers have counted it.
    fn of_requests(&self) -> Vec<MetricFamily> {
        let mut commands = Vec::new();
        for (name, counts) in self.commands() {
            for (outcome, count) in Outcome::ALL.into_iter().zip(counts).filter(|(_, count)| *count > 0) {
                commands.push((vec![("command", name), ("outcome", outcome.name())], count));
            }
        }
        let found = Found::ALL.map(|found| (vec![("result", found.name())], self.sum(|cells| cells.found(found))));
        let given = Given::NAMES.into_iter().enumerate().map(|(at, name)| {
            (vec![("kind", name)], self.sum(|cells| cells.given().get(at).copied().unwrap_or_default()))
        });
        let codes = ERROR_CODES
            .into_iter()
            .enumerate()
            .map(|(at, code)| (vec![("code", code)], self.sum(|cells| cells.errors.get(at).map_or(0, Cell::get))));
        let total = |of: fn(&Cells) -> &Cell| [(vec![], self.sum(|cells| of(cells).get()))];
        vec![
            counters("commands_total", "Requests by command and what became of them.", commands),
            counters("read_results_total", "What GET, HGET, MGET and the like found: the hit rate.", found),
            counters("degraded_replies_total", "Answers given without Redis.", given),
            counters("upstream_error_replies_total", "Error replies of Redis to clients' requests, by code.", codes),
            counters(
                "circuit_breaker_rejected_total",
                "Requests that the open breaker did not let through.",
                total(|cells| &cells.rejected),
            ),
            counters(
                "tombstones_total",
                "Replies that came when nobody waited for them any more.",
                total(|cells| &cells.tombstones),
            ),
            counters("slow_requests_total", "Requests over --slowlog-threshold.", [(vec![], self.slow.count())]),
        ]
    }

    /// What went over connections.
    fn of_traffic(&self) -> Vec<MetricFamily> {
        let sum = |of: fn(&Cells) -> &Cell| self.sum(|cells| of(cells).get());
        let directions =
            |received, sent| [(vec![("direction", "rx")], sum(received)), (vec![("direction", "tx")], sum(sent))];
        vec![
            counters(
                "downstream_bytes_total",
                "Bytes from clients (rx) and to them (tx).",
                directions(|cells| &cells.received, |cells| &cells.sent),
            ),
            counters(
                "upstream_bytes_total",
                "Bytes from Redis (rx) and to it (tx).",
                directions(|cells| &cells.upstream_received, |cells| &cells.upstream_sent),
            ),
            counters(
                "health_checks_total",
                "PINGs of the proxy's own. fail: answered by an error; timeout: not answered in time.",
                [
                    (vec![("result", "ok")], self.checks().count()),
                    (vec![("result", "fail")], sum(|cells| &cells.failed_checks)),
                    (vec![("result", "timeout")], self.silent_checks.get()),
                ],
            ),
            gauges(
                "commands_in_flight",
                "Requests whose replies are due, as of the last tenth of a second.",
                [(vec![], as_float(sum(|cells| &cells.in_flight)))],
            ),
        ]
    }

    /// How long it took.
    fn of_time(&self) -> Vec<MetricFamily> {
        let classes =
            Class::ALL.map(|class| (vec![("class", class.name())], self.sample(|cells| cells.durations(class))));
        let one = |name, help, of: fn(&Cells) -> &Durations| {
            histogram(name, help, [(vec![], self.sample(|cells| Some(of(cells))))])
        };
        vec![
            histogram("command_duration_seconds", "From a request's arrival until its reply is at hand.", classes),
            one("request_queue_duration_seconds", "From a request's arrival until it is written to Redis.", |cells| {
                &cells.queue
            }),
            one(
                "upstream_request_duration_seconds",
                "From there until its reply has come, on shared connections.",
                |cells| &cells.upstream,
            ),
            one(
                "head_of_line_wait_seconds",
                "The part of that in which replies to requests before it were still due.",
                |cells| &cells.head_of_line,
            ),
            one(
                "flush_wait_seconds",
                "How long replies waited for clients that did not take them; only where they had to.",
                |cells| &cells.flush,
            ),
            histogram("health_check_duration_seconds", "How long answers to PINGs took.", [(vec![], self.checks())]),
            one("pool_wait_duration_seconds", "How long clients waited for a connection of their own.", |cells| {
                &cells.lease_wait
            }),
        ]
    }
}

/// Results of dials.
pub const CONNECT_RESULTS: [&str; 9] = ["ok", "refused", "timeout", "dns", "auth", "eof", "reset", "protocol", "other"];

/// What counts against Redis, and the reasons.
const FAILURES: &str = "Failures of Redis, by reason; while the breaker is open it takes no account of them.";
const FAILURE_REASONS: [&str; 6] =
    ["connect", "timeout", "disconnect", "protocol", "unavailable_reply", "health_check"];

const ACCEPTED: &str = "Clients that were accepted. strict: over --listen-strict.";

/// For which reasons clients are gone, and what these mean.
const DEPARTURE_REASONS: [&str; 7] =
    ["client", "protocol", "cross_protocol", "output_limit", "upstream_lost", "drain", "killed"];
const DEPARTURES: &str = "Clients that are gone. client: it left; protocol: it sent what is no request; cross_protocol: it \
                          spoke HTTP; output_limit: it did not take its replies; upstream_lost: what it had on its own connection was lost, or half a \
                          reply; drain: the proxy stops; killed: CLIENT KILL.";

/// What those mean for which upstream connections are gone.
const DISCONNECTS: &str = "Upstream connections that are gone. timeout: requests were not answered in time; health: \
                           only a PING of ours was not; protocol: the server said something that nobody asked for; \
                           idle: nobody needed it; lease: its client was done with it, or gone; readonly: the server \
                           became a replica.";

/// Why upstream connections end.
pub const DISCONNECT_REASONS: [&str; 9] =
    ["eof", "reset", "timeout", "health", "protocol", "readonly", "idle", "lease", "other"];

/// What leases are for.
pub const LEASE_CAUSES: [&str; 8] =
    ["big", "blocking", "client_state", "monitor", "session", "transaction", "unknown", "watch"];

/// Why the breaker opens.
pub const TRIP_REASONS: [&str; 9] =
    ["startup", "consecutive", "ratio", "health_check", "hang", "connect", "trial", "no_verdict", "manual"];

/// Makes metrics and registers them.
struct Maker<'a>(&'a Registry);

impl Maker<'_> {
    fn register<M: Collector + Clone + 'static>(&self, metric: M) -> prometheus::Result<M> {
        self.0.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn counter(&self, name: &str, help: &str) -> prometheus::Result<IntCounter> {
        self.register(IntCounter::new(format!("{PREFIX}{name}"), help)?)
    }

    /// With all values of labels that are known beforehand, so that each begins at 0.
    fn counters(&self, name: &str, help: &str, labels: &[(&str, &[&str])]) -> prometheus::Result<IntCounterVec> {
        let names: Vec<&str> = labels.iter().map(|(name, _)| *name).collect();
        let counters = self.register(IntCounterVec::new(Opts::new(format!("{PREFIX}{name}"), help), &names)?)?;
        let mut known: Vec<Vec<&str>> = vec![vec![]];
        for (_, values) in labels {
            known = known
                .iter()
                .flat_map(|before| values.iter().map(|value| [before.as_slice(), &[*value]].concat()))
                .collect();
        }
        known.iter().for_each(|values| drop(counters.with_label_values(values)));
        Ok(counters)
    }

    fn durations(&self, name: &str, help: &str, label: &str, values: &[&str]) -> prometheus::Result<HistogramVec> {
        let bounds = BOUNDS.iter().map(|bound| seconds(*bound)).collect();
        let opts = HistogramOpts::new(format!("{PREFIX}{name}"), help).buckets(bounds);
        let histograms = self.register(HistogramVec::new(opts, &[label])?)?;
        values.iter().for_each(|value| drop(histograms.with_label_values(&[value])));
        Ok(histograms)
    }
}

type Labels<'a> = Vec<(&'a str, &'a str)>;

/// A family of counters.
#[must_use]
pub fn counters<'a>(name: &str, help: &str, values: impl IntoIterator<Item = (Labels<'a>, u64)>) -> MetricFamily {
    family(name, help, MetricType::COUNTER, values, |metric, value| {
        let mut counter = Counter::default();
        counter.set_value(as_float(value));
        metric.set_counter(counter);
    })
}

/// A counter of seconds.
#[must_use]
pub fn seconds_counter(name: &str, help: &str, value: Duration) -> MetricFamily {
    family(name, help, MetricType::COUNTER, [(vec![], value)], |metric, value| {
        let mut counter = Counter::default();
        counter.set_value(value.as_secs_f64());
        metric.set_counter(counter);
    })
}

/// A family of gauges.
#[must_use]
pub fn gauges<'a>(name: &str, help: &str, values: impl IntoIterator<Item = (Labels<'a>, f64)>) -> MetricFamily {
    family(name, help, MetricType::GAUGE, values, |metric, value| {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        metric.set_gauge(gauge);
    })
}

fn histogram<'a>(name: &str, help: &str, values: impl IntoIterator<Item = (Labels<'a>, Sample)>) -> MetricFamily {
    family(name, help, MetricType::HISTOGRAM, values, |metric, sample| {
        let mut cumulative = 0;
        let bucket = |(bound, count): (&u64, &u64)| {
            cumulative += count;
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(seconds(*bound));
            bucket.set_cumulative_count(cumulative);
            bucket
        };
        let mut histogram = Histogram::default();
        histogram.set_bucket(BOUNDS.iter().zip(&sample.buckets).map(bucket).collect());
        histogram.set_sample_count(sample.count());
        histogram.set_sample_sum(seconds(sample.micros));
        metric.set_histogram(histogram);
    })
}

fn family<'a, V>(
    name: &str,
    help: &str,
    kind: MetricType,
    values: impl IntoIterator<Item = (Labels<'a>, V)>,
    set: impl Fn(&mut Metric, V),
) -> MetricFamily {
    let metrics = values.into_iter().map(|(labels, value)| {
        let label = |(name, value): (&str, &str)| {
            let mut label = LabelPair::default();
            label.set_name(name.to_owned());
            label.set_value(value.to_owned());
            label
        };
        let mut metric = Metric::from_label(labels.into_iter().map(label).collect());
        set(&mut metric, value);
        metric
    });
    let mut family = MetricFamily::default();
    family.set_metric(metrics.collect());
    family.set_name(format!("{PREFIX}{name}"));
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family
}

fn seconds(micros: u64) -> f64 {
    as_float(micros) / 1e6
}

/// As Prometheus has all numbers.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "all numbers of Prometheus are floats; 2^53 is out of reach")]
pub fn as_float(number: u64) -> f64 {
    number as f64
}
