//! The status page, and the data behind it: what it says of a real run, to whom, and how soon.

use crate::outage::network::in_own_network;
use crate::support::http::{self, Answer};
use crate::support::{Kind, Noise, Over, PATIENCE, Proxy, Server, alone, dependency, is_direct, wait_until};
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

const TOKEN: &str = "correct-horse-battery";

/// A folder with the token, and one with a password, each in a file of its name.
fn secrets() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::write(folder.path().join("token"), format!("{TOKEN}\n")).expect("it can be written");
    folder
}

fn with_token(address: &str, path: &str, token: &str) -> Answer {
    http::request(address, "GET", path, &[&format!("Authorization: Bearer {token}")])
}

fn status(proxy: &Proxy) -> Value {
    http::get(&proxy.http(), "/status.json").json()
}

fn wait_for_state(proxy: &Proxy, state: &str) {
    wait_until(&format!("it is {state}"), PATIENCE, || status(proxy)["state"] == state);
}

/// The counts of a command among `commands`.
fn counts<'a>(commands: &'a Value, name: &str) -> Option<&'a Value> {
    commands.as_array().expect("a list").iter().find(|command| command["command"] == name)
}

#[test]
fn the_status_tells_what_happened() {
    if is_direct() {
        return;
    }
    let server = Server::start(Kind::Redis70);
    let proxy = Proxy::patient(&server, |flags| {
        flags.args(["--slowlog-threshold", "50ms"]);
    });
    let mut client = proxy.connect();
    for text in ["CLIENT SETNAME <b>shop</b>", "SET a 1", "GET a", "GET b", "GET b", "LPUSH a x"] {
        client.ask(text);
    }
    client.call(&[
        b"EVAL",
        b"local function now() local t = redis.call('time') return t[1] * 1000000 + t[2] end \
          local start = now() while now() - start < 100000 do end return redis.call('mget', KEYS[1], KEYS[2])",
        b"2",
        b"a",
        b"b",
    ]);
    wait_for_state(&proxy, "serving");
    let told = status(&proxy);
    assert_eq!(counts(&told["commands"], "get").expect("it was asked")["ok"], 3, "{told}");
    assert_eq!(counts(&told["commands"], "lpush").expect("it was asked")["error_reply"], 1, "{told}");
    assert_eq!((&told["reads"]["hit"], &told["reads"]["miss"]), (&1.into(), &2.into()), "{told}");
    assert_eq!((&told["clients"], &told["redis"]["server"]["kind"]), (&1.into(), &"redis".into()), "{told}");
    let slow = &told["slow"][0];
    assert_eq!((&slow["command"], &slow["keys"], &slow["client"]), (&"eval".into(), &2.into(), &"<b>shop</b>".into()));
    let part = |name: &str| slow[name].as_f64().expect("a number");
    assert!(part("upstream") >= 0.1 && (part("queue") + part("upstream") + part("flush") - part("took")).abs() < 1e-6);
    assert!(part("request_bytes") > 200.0 && part("reply_bytes") > 10.0, "{slow}");
    assert_eq!(told["degraded"]["clients"], Value::Array(vec![]), "{told}");
    wait_until("five seconds have become a point", PATIENCE, || {
        status(&proxy)["history"].as_array().expect("a list").iter().any(|point| point["requests"] != 0.0)
    });
}

#[test]
fn the_status_tells_of_an_outage_and_whom_it_concerns() {
    if is_direct() {
        return;
    }
    let mut server = Server::start(Kind::Redis70);
    let proxy = Proxy::patient(&server, |flags| {
        flags.args(["--connect-timeout", "1s"]);
    });
    let mut client = proxy.connect();
    client.ask("CLIENT SETNAME <b>shop</b>");
    client.ask("GET a");
    server.kill();
    wait_for_state(&proxy, "degraded");
    assert_eq!(client.ask("GET a"), b"$-1\r\n");
    assert!(client.ask("SET a 2").starts_with(b"-UNAVAILABLE"));
    let told = status(&proxy);
    assert_eq!(counts(&told["degraded"]["commands"], "get").expect("it was degraded")["degraded"], 1, "{told}");
    assert_eq!(counts(&told["degraded"]["commands"], "set").expect("it was refused")["unavailable"], 1, "{told}");
    let client = &told["degraded"]["clients"][0];
    assert_eq!((&client["name"], &client["count"]), (&"<b>shop</b>".into(), &2.into()), "{told}");
    let why = told["why"].as_str().expect("words");
    assert!(why.contains("Reads are answered as if the cache were empty"), "{why}");
    let exact = format!("cannot connect: {}: Connection refused", server.address());
    wait_until("it says exactly what failed", PATIENCE, || {
        status(&proxy)["why"].as_str().is_some_and(|why| why.contains(&exact))
    });
    let general = http::get(&proxy.http(), "/health").json()["reason"].to_string();
    assert!(general.contains("the last dial failed") && !general.contains(&server.address()), "{general}");
    wait_until("the breaker's opening is on the timeline, and in the log", PATIENCE, || {
        let told = status(&proxy);
        let has = |list: &str, is: &dyn Fn(&Value) -> bool| told[list].as_array().expect("a list").iter().any(is);
        has("timeline", &|change| change["to"] == "open" && change["from"] == "closed")
            && has("log", &|line| line["level"] == "warn" && line["message"] == "breaker")
    });
    let text = http::get(&proxy.http(), "/metrics").body;
    assert!(text.contains("outrigger_log_messages_total{level=\"warn\"}"), "{text}");
}

#[test]
fn the_details_hold_the_slow_log_and_the_counts() {
    if is_direct() {
        return;
    }
    let (server, folder) = (Server::start(Kind::Valkey91), secrets());
    let proxy = Proxy::patient(&server, |flags| {
        flags.arg("--admin-token-file").arg(folder.path().join("token")).args(["--slowlog-threshold", "1us"]);
    });
    proxy.connect().ask("HSET h f 1");
    let told = with_token(&proxy.http(), "/health/detailed", TOKEN).json();
    assert_eq!(counts(&told["requests"], "hset").expect("it was asked")["ok"], 1, "{told}");
    assert_eq!((&told["slow"][0]["command"], &told["slow"][0]["keys"]), (&"hset".into(), &1.into()), "{told}");
}

/// Neither what is asked for, nor what opens doors, is to be seen by anybody.
#[test]
fn secrets_keys_and_values_are_never_shown() {
    if is_direct() {
        return;
    }
    let (server, folder) = (Server::start_with(Kind::Redis70, &["--requirepass", "sesame-upstream"]), secrets());
    fs::write(folder.path().join("password"), "sesame-clients\n").expect("it can be written");
    fs::write(folder.path().join("upstream"), "sesame-upstream\n").expect("it can be written");
    let proxy = Proxy::patient(&server, |flags| {
        flags.arg("--admin-token-file").arg(folder.path().join("token"));
        flags.arg("--password-file").arg(folder.path().join("password"));
        flags.arg("--upstream-password-file").arg(folder.path().join("upstream"));
        flags.args(["--slowlog-threshold", "1us"]);
    });
    let mut client = proxy.connect();
    client.ask("AUTH sesame-guess");
    client.ask("AUTH sesame-clients");
    assert_eq!(client.ask("SET sesame-key sesame-value"), b"+OK\r\n");
    client.ask("NOSUCH sesame-key");
    wait_until("it was slow", PATIENCE, || status(&proxy)["slow"].as_array().is_some_and(|slow| !slow.is_empty()));
    for path in ["/", "/status.json", "/metrics"] {
        let body = http::get(&proxy.http(), path).body;
        assert!(!body.contains("sesame-") && !body.contains(TOKEN), "{path}: {body}");
    }
    let body = with_token(&proxy.http(), "/health/detailed", TOKEN).body;
    assert!(body.contains("configuration") && !body.contains("sesame-") && !body.contains(TOKEN), "{body}");
}

#[test]
fn the_page_shows_the_state_without_scripts_and_loads_nothing() {
    if is_direct() {
        return;
    }
    let server = Server::start(Kind::Redis70);
    let proxy = Proxy::patient(&server, |flags| {
        flags.args(["--breaker", "isolated"]);
    });
    wait_for_state(&proxy, "isolated");
    let page = http::get(&proxy.http(), "/");
    assert!(page.body.contains("<h1 id=\"state\">isolated</h1>"), "{}", page.body);
    assert!(page.body.contains("until POST /breaker/release"), "why: {}", page.body);
    let policy = page.header("content-security-policy").expect("there is one");
    assert!(policy.starts_with("default-src 'none';") && policy.contains("connect-src 'self'"), "{policy}");
}

/// Whoever comes from elsewhere, or is sent by another page, sees the state and nothing more; with the token everything.
#[test]
fn strangers_see_the_state_only() {
    if is_direct() {
        return;
    }
    in_own_network(|| {
        let added = Command::new("ip").args(["address", "add", "198.51.100.1/32", "dev", "lo"]).status();
        assert!(added.expect("ip can be run").success());
        let (server, folder) = (Server::start(Kind::Redis70), secrets());
        let proxy = Proxy::patient(&server, |flags| {
            flags.args(["--http", "0.0.0.0:0"]).arg("--admin-token-file").arg(folder.path().join("token"));
        });
        let port = proxy.http().rsplit(':').next().expect("a port").to_owned();
        let (here, elsewhere) = (format!("127.0.0.1:{port}"), format!("198.51.100.1:{port}"));
        wait_until("it serves", PATIENCE, || http::get(&here, "/status.json").json()["state"] == "serving");
        let brief: Value = serde_json::from_str(r#"{"state": "serving"}"#).expect("JSON");
        assert_eq!(http::get(&elsewhere, "/status.json").json(), brief);
        let page = http::get(&elsewhere, "/").body;
        assert!(page.contains("<h1 id=\"state\">serving</h1>"), "{page}");
        assert!(page.contains("<p id=\"why\"></p>"), "no reasons: {page}");
        for host in ["Sec-Fetch-Site: cross-site", "Origin: http://elsewhere.test"] {
            assert_eq!(http::request(&here, "GET", "/status.json", &[host]).json(), brief, "{host}");
        }
        let wrong = with_token(&elsewhere, "/status.json", "wrong");
        assert_eq!((wrong.status, wrong.body.contains("serving")), (401, false), "{wrong:?}");
        assert_eq!(with_token(&elsewhere, "/status.json", TOKEN).json()["redis"]["address"], server.address());
    });
}

/// The page in a browser, and the states that it shows, each as soon as it is read there.
struct Browser {
    child: Child,
    states: Receiver<(String, Instant)>,
}

impl Browser {
    fn open(address: &str) -> Self {
        let mut child = Command::new(dependency("NODE"))
            .args(["tests/clients/browser.js", "watch", &format!("http://{address}/")])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .env("CHROMIUM", dependency("CHROMIUM"))
            // It ends when this end of its input does.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("node can be run");
        let (sender, states) = channel();
        let stdout = child.stdout.take().expect("it is piped");
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send((line, Instant::now())).is_err() {
                    return;
                }
            }
        });
        Self { child, states }
    }

    /// When it came to show this.
    fn shows(&self, state: &str) -> Instant {
        loop {
            let (shown, at) = self.states.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("{state} is never shown"));
            if shown == state {
                return at;
            }
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// An application asks all the time; Redis is killed, and comes back; the page says so within two seconds, both times.
#[test]
fn alone_the_page_follows_redis() {
    if is_direct() {
        return;
    }
    let _alone = alone();
    let mut server = Server::start(Kind::Redis70);
    let mut proxy = Proxy::before(&server);
    let browser = Browser::open(&proxy.http());
    browser.shows("serving");
    let noise = Noise::listen();
    let (over, asked_to_end) = Over::flag();
    let mut client = proxy.connect();
    let application = thread::spawn(move || {
        while !asked_to_end.load(Ordering::Relaxed) {
            client.ask("GET a");
        }
    });
    let killed = Instant::now();
    server.kill();
    let gone = browser.shows("degraded") - killed;
    server.start_again();
    let back = Instant::now();
    let returned = browser.shows("serving").saturating_duration_since(back);
    let noise = noise.heard();
    let limit = Duration::from_secs(2) + noise.worst();
    println!(
        "figures: the page showed that Redis was gone after {gone:?}, and that it was back after {returned:?}; an echo: {}",
        noise.shown()
    );
    assert!(gone <= limit, "that it was gone was seen after {gone:?}, not {limit:?}");
    assert!(returned <= limit, "that it was back was seen after {returned:?}, not {limit:?}");
    drop(over);
    application.join().expect("the application was answered all the time");
    // When nobody answers, the page says that too.
    proxy.tell(rustix::process::Signal::KILL);
    proxy.ended();
    browser.shows("no answer");
}
