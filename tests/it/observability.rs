//! What `deploy` offers to whoever watches the proxy (the table of metrics, the alerts, the dashboard), held against what a
//! running proxy exports, by Prometheus' own tools.

mod alerts;
mod dashboard;
pub(crate) mod prometheus;
mod scraped;
mod table;

use crate::program::run_to_end;
use crate::support::{Client, Kind, Proxy, Server, dependency, http};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// The longest that a run of promtool may take; most take a moment.
const LIMIT: Duration = Duration::from_mins(1);

/// How the names of our metrics begin, and of those that the system's view of the process has.
const PREFIXES: [&str; 2] = ["outrigger_", "process_"];

/// What is added to the name of a histogram for its series.
const SUFFIXES: [&str; 3] = ["_bucket", "_sum", "_count"];

/// A file or a folder of `deploy`.
fn deployed(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(path)
}

fn read(path: &str) -> String {
    let path = deployed(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{} cannot be read: {error}", path.display()))
}

/// Runs promtool to its end; fails the test with all that it wrote unless it is content. Returns what it wrote.
fn promtool(setup: impl FnOnce(&mut Command)) -> String {
    let mut command = Command::new(dependency("PROMTOOL"));
    setup(&mut command);
    let (status, written) = run_to_end(&mut command, LIMIT);
    assert!(status.success(), "{command:?} ended with {status}:\n{written}");
    written
}

/// The metrics that a text names, whatever it is written in; a histogram by its own name.
fn names_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    let ours = words.filter(|word| PREFIXES.iter().any(|prefix| word.len() > prefix.len() && word.starts_with(prefix)));
    ours.map(|word| SUFFIXES.iter().find_map(|suffix| word.strip_suffix(suffix)).unwrap_or(word).to_owned()).collect()
}

/// A server and a proxy before it that has lived a little, so that nearly everything has been counted once.
struct Watched {
    server: Server,
    proxy: Proxy,
    client: Client,
    http: String,
    _folder: TempDir,
}

impl Watched {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary directory can be made");
        let secret = |name: &str| {
            let path = folder.path().join(name);
            fs::write(&path, "correct-horse-7c1e\n").expect("the secret can be written");
            path
        };
        let server = Server::start_with(Kind::Redis70, &["--requirepass", "correct-horse-7c1e"]);
        let proxy = Proxy::patient(&server, |flags| {
            flags.arg("--upstream-password-file").arg(secret("password"));
            flags.arg("--admin-token-file").arg(secret("token"));
        });
        let http = proxy.http();
        let mut watched = Self { client: proxy.connect(), server, proxy, http, _folder: folder };
        watched.live();
        watched
    }

    /// Hits, misses, an error, a lease, a local answer, a probe.
    fn live(&mut self) {
        for request in ["SET watched:text x", "GET watched:text", "GET watched:none", "RPUSH watched:list a", "PING"] {
            let reply = self.client.ask(request);
            assert!(!reply.starts_with(b"-"), "{request} was answered {:?}", String::from_utf8_lossy(&reply));
        }
        assert!(self.client.ask("INCR watched:text").starts_with(b"-ERR"), "that is no number");
        assert!(self.client.ask("BLPOP watched:list 20").starts_with(b"*2\r\n"), "there was one");
        assert_eq!(http::get(&self.http, "/livez").status, 200);
    }

    fn exported(&self) -> Exported {
        let answer = http::get(&self.http, "/metrics");
        assert_eq!(answer.status, 200, "{}", answer.body);
        Exported::parse(&answer.body)
    }
}

/// What was exported at one moment.
struct Exported {
    text: String,
    /// Names and types.
    families: BTreeMap<String, String>,
    series: Vec<Series>,
}

struct Series {
    /// Its name and labels, as they were exported.
    key: String,
    /// Its name, but for what is added to that of a histogram.
    family: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

impl Exported {
    fn parse(text: &str) -> Self {
        let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
        let families: BTreeMap<_, _> = types.map(|(name, kind)| (name.to_owned(), kind.to_owned())).collect();
        let series = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let series = series.map(|line| Series::parse(line, &families)).collect();
        Self { text: text.to_owned(), families, series }
    }
}

impl Series {
    fn parse(line: &str, families: &BTreeMap<String, String>) -> Self {
        let (key, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no value: {line}"));
        let value = value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
        let (name, labels) = key.split_once('{').unwrap_or((key, ""));
        let base = SUFFIXES.iter().find_map(|suffix| name.strip_suffix(suffix));
        let is_histogram = |base: &&str| families.get(*base).is_some_and(|kind| kind == "histogram");
        let family = base.filter(is_histogram).unwrap_or(name);
        assert!(families.contains_key(family), "{family} has no type");
        // No value of ours holds a quotation mark or a comma.
        let labels = labels.trim_end_matches('}').split(',').filter_map(|label| label.split_once('='));
        let labels = labels.map(|(name, value)| (name.to_owned(), value.trim_matches('"').to_owned()));
        let labels = labels.filter(|(name, _)| name != "le").collect();
        Self { key: key.to_owned(), family: family.to_owned(), labels, value }
    }
}

#[test]
fn names_are_found_wherever_they_stand() {
    let text =
        r#"sum(rate(outrigger_a_total{pod=~"$pod"}[5m])) by (outrigger) / process_b + outrigger_c_seconds_bucket"#;
    assert_eq!(names_in(text), ["outrigger_a_total", "outrigger_c_seconds", "process_b"].map(str::to_owned).into());
}
