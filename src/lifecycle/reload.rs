//! What is read again while the process runs: secrets, and what to log.
//!
//! A mounted secret of Kubernetes is replaced by another behind a symbolic link, of which no event tells; so the files are
//! read every ten seconds, and at once upon SIGHUP. What cannot be read, or not be understood, leaves everything as it was.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::observe::log::Log;
use crate::observe::metrics::Metrics;
use crate::secret::Secret;

/// The files are read this often.
pub const EVERY: Duration = Duration::from_secs(10);

/// What may be read again.
pub struct Reload {
    /// With the count of that which was last told: a dial may have read another one before us.
    secrets: Vec<(Secret, u64)>,
    metrics: Arc<Metrics>,
    /// The log; and the file that says what to log, with how the operator knows it.
    log: Log,
    log_file: Option<(String, PathBuf)>,
    /// What was last complained of, so that it is said once.
    complaints: Vec<String>,
}

impl Reload {
    /// These secrets, and this log if a file says what to log.
    #[must_use]
    pub fn new(secrets: Vec<Secret>, metrics: Arc<Metrics>, log: Log, log_file: Option<(String, PathBuf)>) -> Self {
        // What was first read is no news.
        let secrets = secrets.into_iter().map(|secret| (secret, 1)).collect();
        Self { secrets, metrics, log, log_file, complaints: Vec::new() }
    }

    /// Reads everything every [`EVERY`], and when `asked`; calls `changed` when a secret is another one. Ends only if it
    /// cannot go on. A disk may take its time, which clients have no part in.
    pub async fn watch(mut self, asked: &Notify, changed: impl Fn()) {
        loop {
            let told = timeout(EVERY, asked.notified()).await.is_ok();
            let read = spawn_blocking(move || {
                let is_new = self.read(told);
                (self, is_new)
            });
            let Ok((reload, is_new)) = read.await else { return };
            self = reload;
            if is_new {
                changed();
            }
        }
    }

    /// Reads everything once; true if a secret is another one. `told`: somebody waits to hear what came of it.
    fn read(&mut self, told: bool) -> bool {
        if told {
            self.complaints.clear();
        }
        let (mut changed, mut complaints) = (false, Vec::new());
        for (secret, told) in &mut self.secrets {
            // The flag alone, of `--flag (VARIABLE)`.
            let flag =
                secret.setting().unwrap_or_default().trim_start_matches('-').split(' ').next().unwrap_or_default();
            let count = |result, by| self.metrics.secret_reloads.with_label_values(&[flag, result]).inc_by(by);
            if let Err(problem) = secret.read() {
                if !self.complaints.contains(&problem) {
                    count("failed", 1);
                }
                complaints.push(problem);
            }
            let now = secret.count();
            if now > *told {
                count("ok", now - *told);
                *told = now;
                changed = true;
                tracing::info!(secret = secret.setting(), "another secret was read: it is used from now on");
            }
        }
        if let Some((setting, file)) = &self.log_file {
            let read = fs::read_to_string(file).map_err(|error| format!("cannot read `{}`: {error}", file.display()));
            let set = read.and_then(|what| self.log.set(what.trim()));
            complaints.extend(set.err().map(|problem| format!("{setting}: {problem}")));
        }
        for complaint in complaints.iter().filter(|complaint| !self.complaints.contains(*complaint)) {
            tracing::warn!(problem = complaint, "what was read again is not used: all stays as it was");
        }
        if told && complaints.is_empty() {
            tracing::info!("read the files again");
        }
        self.complaints = complaints;
        changed
    }
}
