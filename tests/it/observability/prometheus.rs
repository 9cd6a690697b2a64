//! A Prometheus of the test's own: scrapes one target every second and answers queries.

use crate::support::{PATIENCE, dependency, http, wait_until};
use serde_json::Value;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// A running Prometheus; ended when dropped.
pub(crate) struct Prometheus {
    address: String,
    child: Child,
    _folder: TempDir,
}

impl Prometheus {
    /// One that scrapes `target`.
    pub(crate) fn scraping(target: &str) -> Self {
        Self::start(target, "")
    }

    /// One that evaluates rules too.
    pub(crate) fn watching(target: &str, rules: &Path) -> Self {
        Self::start(target, &format!("rule_files: ['{}']\n", rules.display()))
    }

    fn start(target: &str, more: &str) -> Self {
        let scrape = format!("[{{targets: ['{target}'], labels: {{namespace: test, pod: proxy-0}}}}]");
        let text = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\n{more}scrape_configs:\n  \
             - {{job_name: outrigger, static_configs: {scrape}}}\n"
        );
        Self::configured(&text)
    }

    /// One with this configuration.
    pub(crate) fn configured(text: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary directory can be made");
        let (config, log) = (folder.path().join("prometheus.yml"), folder.path().join("log"));
        fs::write(&config, text).expect("the configuration can be written");
        let mut command = Command::new(dependency("PROMETHEUS"));
        command.args(["--web.listen-address=127.0.0.1:0", "--storage.tsdb.retention.time=1h"]);
        command.arg(format!("--config.file={}", config.display()));
        command.arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()));
        // A file, unlike a pipe, needs nobody who reads it.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log).expect("the log can be made"));
        let child =
            command.spawn().unwrap_or_else(|error| panic!("Prometheus does not start ({error}): run tests/install"));
        let mut prometheus = Self { address: String::new(), child, _folder: folder };
        wait_until("Prometheus listens", PATIENCE, || {
            let ended = prometheus.child.try_wait().expect("a child can be waited for");
            let log = fs::read_to_string(&log).expect("the log can be read");
            assert!(ended.is_none(), "Prometheus ended:\n{log}");
            let line = log.lines().find(|line| line.contains(r#"msg="Listening on""#));
            let address = line.and_then(|line| line.split("address=").nth(1)?.split(' ').next());
            prometheus.address = address.unwrap_or_default().to_owned();
            !prometheus.address.is_empty()
        });
        prometheus
    }

    /// Whether a query is answered with any series at all.
    pub(crate) fn has(&self, query: &str) -> bool {
        let encoded: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let answer = self.ask(&format!("/api/v1/query?query={encoded}"));
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        answer["data"]["result"].as_array().is_some_and(|series| !series.is_empty())
    }

    /// Waits until a query is answered with any series at all.
    pub(crate) fn wait_for(&self, query: &str, limit: Duration) {
        wait_until(&format!("there is {query}"), limit, || self.has(query));
    }

    /// How the evaluation of each rule went: `ok`, `err`, or `unknown` before the first.
    pub(crate) fn rules(&self) -> Vec<String> {
        let answer = self.ask("/api/v1/rules");
        let groups = answer["data"]["groups"].as_array().into_iter().flatten();
        let rules = groups.flat_map(|group| group["rules"].as_array().into_iter().flatten());
        rules.map(|rule| rule["health"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// What the warnings say that wait or fire.
    pub(crate) fn summaries(&self) -> Vec<String> {
        let answer = self.ask("/api/v1/alerts");
        let alerts = answer["data"]["alerts"].as_array().into_iter().flatten();
        let warnings = alerts.filter(|alert| alert["labels"]["severity"] == "warning");
        warnings.map(|alert| alert["annotations"]["summary"].as_str().unwrap_or_default().to_owned()).collect()
    }

    fn ask(&self, path: &str) -> Value {
        let host = &self.address;
        let mut answer = String::new();
        // It listens before it is ready to answer. HTTP/1.0, so that the answer comes in one piece.
        wait_until("Prometheus answers", PATIENCE, || {
            let request = format!("GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n");
            answer = http::raw(host, request.as_bytes()).expect("Prometheus is there");
            !answer.starts_with("HTTP/1.0 503")
        });
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        serde_json::from_str(body).unwrap_or_else(|error| panic!("{path} was answered ({error}): {answer}"))
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
