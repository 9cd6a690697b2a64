//! The example's pods, rendered and run through their lives: without Redis, with it, through outages, to their end.

use super::cluster::{Network, arrange};
use super::kubelet::{Ended, Pod};
use super::{documents, list, name_of, pod_of, root};
use crate::outage::network::in_own_network;
use crate::support::{Client, Figures, PATIENCE, http, is_direct, wait_until};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Visitors at once, and what each rests between two visits.
const VISITORS: usize = 3;
const REST: Duration = Duration::from_millis(10);

/// How long a pod that ends is still routed to: less than its application waits.
const ROUTED: Duration = Duration::from_secs(1);

/// Outages are over when a first request is served; names, dials and backoff have this much.
const RECOVERED: Duration = Duration::from_secs(30);

/// One visit of the page.
#[derive(Debug, Clone)]
struct Visit {
    began: Instant,
    took: Duration,
    /// What the page says, or why there is none.
    page: Result<Value, String>,
}

impl Visit {
    fn make(address: &str) -> Self {
        let began = Instant::now();
        let request = format!("GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        let answer = http::raw(address, request.as_bytes()).map_err(|error| error.to_string());
        let page = answer.and_then(|answer| match answer.split_once("\r\n\r\n") {
            Some((head, body)) if head.starts_with("HTTP/1.0 200") => {
                serde_json::from_str(body).map_err(|error| format!("{error}: {body}"))
            }
            _ => Err(format!("answered {answer:?}")),
        });
        Self { began, took: began.elapsed(), page }
    }

    /// Whether Redis has served it.
    fn is_served(&self) -> bool {
        self.page.as_ref().is_ok_and(|page| page["cache"] != "off" && page["visits"].is_u64())
    }

    /// Whether it was answered as an outage is.
    fn is_degraded(&self) -> bool {
        self.page.as_ref().is_ok_and(|page| page["cache"] == "off" && page["visits"].is_null())
    }
}

/// Visitors that come again and again, until they are told when to stop.
struct Visitors {
    visits: Arc<Mutex<Vec<Visit>>>,
    until: Arc<Mutex<Option<Instant>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Visitors {
    fn come(network: &Network) -> Self {
        let (visits, until) = (Arc::<Mutex<Vec<Visit>>>::default(), Arc::<Mutex<Option<Instant>>>::default());
        let address = format!("{}:8080", network.address());
        let one = || {
            let (visits, until, address) = (Arc::clone(&visits), Arc::clone(&until), address.clone());
            thread::spawn(move || {
                while until.lock().expect("no holder panics").is_none_or(|until| Instant::now() < until) {
                    let visit = Visit::make(&address);
                    visits.lock().expect("no holder panics").push(visit);
                    thread::sleep(REST);
                }
            })
        };
        let threads = (0..VISITORS).map(|_| one()).collect();
        Self { visits, until, threads }
    }

    /// Waits until a visit that begins from now on is so; returns how long that took.
    fn wait_for(&self, what: &str, limit: Duration, is_so: impl Fn(&Visit) -> bool) -> Duration {
        let begin = Instant::now();
        wait_until(what, limit, || {
            let visits = self.visits.lock().expect("no holder panics");
            visits.iter().rev().take_while(|visit| visit.began >= begin).any(&is_so)
        });
        begin.elapsed()
    }

    /// How many visits Redis has counted.
    fn counted(&self) -> u64 {
        let visits = self.visits.lock().expect("no holder panics");
        visits.iter().rev().find_map(|visit| visit.page.as_ref().ok()?["visits"].as_u64()).unwrap_or_default()
    }

    fn stop_at(&self, until: Instant) {
        *self.until.lock().expect("no holder panics") = Some(until);
    }

    /// All visits, when all have gone.
    fn gone(&mut self) -> Vec<Visit> {
        self.threads.drain(..).for_each(|thread| thread.join().expect("visitors do not panic"));
        self.visits.lock().expect("no holder panics").clone()
    }
}

impl Drop for Visitors {
    fn drop(&mut self) {
        self.stop_at(Instant::now());
    }
}

/// The rendered example, in a network of the test's own.
struct Example {
    documents: Vec<Value>,
    web: Arc<Network>,
    redis: Arc<Network>,
}

impl Example {
    fn render(variant: &str) -> Self {
        let documents = documents(&root().join("deploy/kubernetes/example").join(variant));
        let mut networks = arrange(&["web", "redis"]).into_iter().map(Arc::new);
        let mut next = || networks.next().expect("there are two");
        Self { documents, web: next(), redis: next() }
    }

    /// The pod that a workload describes.
    fn pod(&self, kind: &str, name: &str) -> &Value {
        let is_it = |document: &&Value| document["kind"] == kind && name_of(document) == name;
        pod_of(self.documents.iter().find(is_it).unwrap_or_else(|| panic!("there is no {kind}/{name}")))
    }

    fn start_web(&self) -> Pod {
        let pod = Pod::start(&self.web, self.pod("Deployment", "web"), &self.documents);
        wait_until("the pod is ready", PATIENCE, || pod.is_ready());
        pod
    }

    fn start_redis(&self) -> Pod {
        let pod = Pod::start(&self.redis, self.pod("StatefulSet", "redis"), &self.documents);
        wait_until("Redis is ready", PATIENCE, || pod.is_ready());
        pod
    }

    /// A connection to Redis itself, as somebody who may everything.
    fn admin(&self) -> Client {
        let mut client = Client::connect(&format!("{}:6379", self.redis.address()));
        assert_eq!(client.ask("AUTH admin change-me-too"), b"+OK\r\n");
        client
    }

    /// What Redis holds at a key.
    fn stored(&self, key: &str) -> String {
        self.admin().frame(&format!("GET {key}")).as_text()
    }
}

#[test]
fn a_pod_lives_through_outages_and_ends_in_order() {
    if is_direct() {
        return;
    }
    in_own_network(|| {
        let example = Example::render("native");
        let mut figures = Figures::of("life of the pod");
        let begin = Instant::now();
        let mut web = example.start_web();
        figures.add("ready_without_redis_ms", begin.elapsed().as_millis());
        let visitors = Visitors::come(&example.web);
        visitors.wait_for("the page is made without Redis", PATIENCE, Visit::is_degraded);
        web.assert_well();

        let mut redis = example.start_redis();
        let took = visitors.wait_for("Redis is found", RECOVERED, Visit::is_served);
        figures.add("served_after_redis_was_ready_ms", took.as_millis());
        wait_until("visits are counted", PATIENCE, || visitors.counted() > 50);
        web.assert_well();

        redis.crash("redis");
        visitors.wait_for("the crash is noticed", PATIENCE, Visit::is_degraded);
        web.assert_well();
        redis.start_again("redis");
        let took = visitors.wait_for("Redis serves again", RECOVERED, Visit::is_served);
        figures.add("served_after_restart_ms", took.as_millis());
        assert!(visitors.counted() > 25, "the volume has not kept the count: {}", visitors.counted());

        for (name, cut, mend) in [
            ("lost_packets", Network::lose_packets as fn(&Network), Network::find_packets as fn(&Network)),
            ("cable", Network::unplug, Network::plug),
        ] {
            cut(&example.redis);
            let took = visitors.wait_for("the cut is noticed", PATIENCE, Visit::is_degraded);
            figures.add(&format!("{name}_noticed_after_ms"), took.as_millis());
            web.assert_well();
            mend(&example.redis);
            let took = visitors.wait_for("it serves again", RECOVERED, Visit::is_served);
            figures.add(&format!("{name}_served_again_after_ms"), took.as_millis());
            web.assert_well();
        }
        figures.add("probes", web.probes());
        let ended = end_under_visitors(&example, &mut web, visitors, &mut figures);
        assert_eq!(ended.iter().map(|ended| ended.name.as_str()).collect::<Vec<_>>(), ["web", "outrigger"]);
    });
}

#[test]
fn a_classic_sidecar_serves_until_the_application_has_ended() {
    if is_direct() {
        return;
    }
    in_own_network(|| {
        let example = Example::render("classic");
        let mut figures = Figures::of("end of a classic pod");
        let _redis = example.start_redis();
        let mut web = example.start_web();
        let visitors = Visitors::come(&example.web);
        visitors.wait_for("Redis serves", RECOVERED, Visit::is_served);
        web.assert_well();
        // Both are told in the same moment.
        end_under_visitors(&example, &mut web, visitors, &mut figures);
    });
}

/// Ends the pod while visitors still come for a while: every visit of the pod's life was answered, those since the end by Redis,
/// and the application's last word reached it.
fn end_under_visitors(example: &Example, web: &mut Pod, mut visitors: Visitors, figures: &mut Figures) -> Vec<Ended> {
    visitors.wait_for("the sidecar serves", RECOVERED, Visit::is_served);
    web.assert_well();
    let begin = Instant::now();
    visitors.stop_at(begin + ROUTED);
    let ended = web.terminate();
    let visits = visitors.gone();
    let failed: Vec<_> = visits.iter().filter(|visit| visit.page.is_err()).collect();
    assert!(failed.is_empty(), "{} of {} visits failed, the first so: {:?}", failed.len(), visits.len(), failed[0]);
    let last: Vec<_> = visits.iter().filter(|visit| visit.began > begin).collect();
    assert!(!last.is_empty(), "nobody has come since the end began");
    assert!(last.iter().all(|visit| visit.is_served()), "Redis was not there to the end: {last:?}");
    for ended in &ended {
        ended.assert_well(&web.log(&ended.name));
        figures.add(&format!("{}_ended_after_ms", ended.name), ended.after.as_millis());
    }
    assert_eq!(example.stored("stops"), "1", "the application's last word was lost");
    let log = web.log("outrigger");
    // Otherwise it says that it drained "but for" some.
    assert!(
        log.lines().last().is_some_and(|line| line.contains(r#""message":"drained""#)),
        "it ends otherwise:\n{log}"
    );
    figures.add("visits", visits.len());
    figures.add("visits_at_the_end", last.len());
    figures.add("slowest_ms", visits.iter().map(|visit| visit.took.as_millis()).max().unwrap_or_default());
    ended
}

#[test]
fn a_job_completes_and_its_sidecar_is_ended() {
    if is_direct() {
        return;
    }
    in_own_network(|| {
        let example = Example::render("native");
        let mut redis = example.start_redis();
        let mut spec = example.pod("CronJob", "report").clone();
        // One more, as a Job that prepares something has it: it finds the sidecar too, which is started before it.
        let mut prepare = list(&spec["containers"])[0].clone();
        prepare["name"] = json!("prepare");
        spec["initContainers"].as_array_mut().expect("there is the sidecar").push(prepare);
        let begin = Instant::now();
        let mut pod = Pod::start(&example.web, &spec, &example.documents);
        assert!(pod.log("prepare").contains("reported 0 visits"), "{}", pod.log("prepare"));
        let report = pod.wait_for_end("report", begin);
        report.assert_well(&pod.log("report"));
        assert!(example.stored("report").contains("\"visits\": 0"), "{}", example.stored("report"));
        for ended in pod.terminate().into_iter().chain(redis.terminate()) {
            ended.assert_well(&format!("{}{}", pod.log(&ended.name), redis.log(&ended.name)));
        }
    });
}

#[test]
fn a_password_is_changed_while_the_pods_run() {
    if is_direct() {
        return;
    }
    in_own_network(|| {
        let example = Example::render("native");
        let mut redis = example.start_redis();
        let mut web = example.start_web();
        let mut visitors = Visitors::come(&example.web);
        visitors.wait_for("Redis serves", RECOVERED, Visit::is_served);
        web.change_secret("outrigger-upstream", |text| text.replace("change-me", "new"));
        redis.change_secret("redis-users", |text| text.replace("app on >change-me ", "app on >new "));
        assert_eq!(example.admin().ask("ACL LOAD"), b"+OK\r\n");
        // Some versions have ended all connections by that, others keep those that are there: new ones are wanted.
        example.admin().ask("CLIENT KILL USER app");
        let refused = Client::connect(&format!("{}:6379", example.redis.address())).ask("AUTH app change-me");
        assert!(refused.starts_with(b"-WRONGPASS"), "{}", String::from_utf8_lossy(&refused));
        visitors.wait_for("the new password is used", RECOVERED, Visit::is_served);
        web.assert_well();
        visitors.stop_at(Instant::now());
        let failed: Vec<_> = visitors.gone().into_iter().filter(|visit| visit.page.is_err()).collect();
        assert!(failed.is_empty(), "{failed:?}");
    });
}

#[test]
fn a_job_without_redis_fails_and_says_so() {
    if is_direct() {
        return;
    }
    in_own_network(|| {
        let example = Example::render("native");
        let mut pod = Pod::start(&example.web, example.pod("CronJob", "report"), &example.documents);
        let report = pod.wait_for_end("report", Instant::now());
        assert_eq!(report.status.code(), Some(1), "{}", pod.log("report"));
        assert!(pod.log("report").contains("UNAVAILABLE"), "{}", pod.log("report"));
        let ended = pod.terminate();
        ended.iter().find(|ended| ended.name == "outrigger").expect("it was ended").assert_well(&pod.log("outrigger"));
    });
}
