//! Configuration: what was typed ([`Args`]) and what is meant ([`Config`], checked, with all defaults filled in).
//!
//! Every flag has a twin in the environment (`--pool-size`, `OUTRIGGER_POOL_SIZE`); the flag wins. Errors name both, and
//! say what to do. Each part of the program owns its own settings; this file sits above them and fills them in.

mod degrade;
mod deny;
mod http;
mod inject;
mod lifecycle;
mod logging;
mod outage;
mod shown;
#[cfg(test)]
mod tests;
mod webhook;

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::builder::BoolishValueParser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use percent_encoding::percent_decode_str;
use secrecy::SecretString;
use url::{Host, Url};

pub use degrade::{Degrade, DegradeReads, DegradeWrites};
pub use deny::Deny;
pub use http::{Healthcheck, Http, HttpAddress, Wait};
pub use inject::{Flag, Inject, Manifests, Sidecar, flags, try_flags};
pub use lifecycle::Stopping;
pub use logging::Logging;
pub use outage::{BreakerMode, Outage};
pub use shown::Shown;
pub use webhook::{Webhook, WebhookConfig};

use crate::admin;
use crate::client::{self, ListenAddress};
use crate::lifecycle::drain::Schedule;
use crate::observe::log::Format as LogFormat;
use crate::secret::Secret;
use crate::upstream::{self, Address, OnLoss, Target};

/// Where Redis listens unless the URL says otherwise.
const REDIS_PORT: u16 = 6379;

/// A Redis sidecar: point REDIS_URL at it, and it holds a few connections to the real Redis for all clients.
#[derive(Debug, Parser)]
#[command(name = "outrigger", version = crate::version::WHOLE, max_term_width = 100, args_conflicts_with_subcommands = true)]
pub struct Args {
    /// What to do instead of serving.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Settings, the same for serving and for `check`.
    #[command(flatten)]
    pub settings: Settings,
}

impl Args {
    /// Reads the command line and the environment.
    ///
    /// # Errors
    /// What clap has to say, which includes help and version, and a hint where a value may have come from the
    /// environment.
    pub fn read() -> Result<Self, (clap::Error, Option<String>)> {
        let command = Self::command().mut_args(|arg| arg.hide_env_values(true));
        let parsed = command.clone().try_get_matches().and_then(|matches| {
            let mut args = Self::from_arg_matches(&matches)?;
            args.settings.shown = shown::values(&command, &matches);
            Ok(args)
        });
        parsed.map_err(|error| {
            let hint = match error.get(ContextKind::InvalidArg) {
                Some(ContextValue::String(arg)) if error.kind() == ErrorKind::ValueValidation => {
                    let flag = arg.strip_prefix("--").and_then(|arg| arg.split(' ').next());
                    let variable = flag.map(variable).filter(|variable| is_read(&command, variable));
                    variable.map(|variable| format!("The value may also come from the environment: {variable}"))
                }
                _ => None,
            };
            (error, hint)
        })
    }
}

/// The environment twin of a flag.
fn variable(flag: &str) -> String {
    format!("OUTRIGGER_{}", flag.replace('-', "_").to_uppercase())
}

/// Whether there is such a variable: not every flag of the subcommands has a twin.
fn is_read(command: &clap::Command, variable: &str) -> bool {
    let reads =
        |command: &clap::Command| command.get_arguments().any(|arg| arg.get_env().is_some_and(|twin| twin == variable));
    reads(command) || command.get_subcommands().any(reads)
}

/// What to do instead of serving.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Check the configuration and the upstream: dial once, say what was found, and what will hurt.
    Check(Box<Settings>),
    /// Say of one command where it goes, what it is answered while Redis cannot be asked, and whether it is repeated.
    Explain(Explain),
    /// Add the sidecar to workloads: manifests in, manifests out.
    ///
    /// The variable that holds the URL of Redis moves to the sidecar, and the application gets the sidecar's address. Nothing
    /// else is changed, comments and order included; what happened to each workload is said on the standard error. If any
    /// workload must be refused, nothing is written, and the exit code is 1. Annotations outrigger.dev/… on a workload or
    /// its pod template say what the flags say, and more: see the README.
    Inject(Box<Inject>),
    /// Take the sidecar out of workloads again: what `inject` wrote in, what it read out.
    Uninject(Manifests),
    /// Add the sidecar to pods as a cluster makes them: a mutating admission webhook.
    ///
    /// It does what `inject` does, by the same rules, for every pod that the API server asks about over HTTPS. It never keeps a
    /// pod from being made: one that cannot have a sidecar starts without, and the log and a warning say why. It asks the API
    /// server nothing, and keeps nothing. Manifests are in deploy/kubernetes/webhook.
    Webhook(Box<Webhook>),
    /// Wait until another Outrigger on this machine has started.
    Wait(Wait),
    /// Ask another Outrigger on this machine whether it is well: for images without a shell.
    Healthcheck(Healthcheck),
}

/// What to explain.
#[derive(Debug, clap::Args)]
pub struct Explain {
    /// The settings that decide about it.
    #[command(flatten)]
    pub degrade: Degrade,
    /// What is refused.
    #[command(flatten)]
    pub deny: Deny,
    /// The command and its arguments, as typed into redis-cli: `explain SET key value NX`.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    pub words: Vec<OsString>,
}

/// Settings as typed.
#[derive(Debug, clap::Args)]
pub struct Settings {
    /// The real Redis: redis://user:password@host:port/database, of which only the host is needed, or
    /// unix:///path/to/socket?db=N.
    #[arg(long, env = "OUTRIGGER_UPSTREAM", value_name = "URL", hide_env_values = true)]
    pub upstream: Option<String>,

    /// File that holds the upstream's password; wins over the one in the URL.
    #[arg(long, env = "OUTRIGGER_UPSTREAM_PASSWORD_FILE", value_name = "FILE")]
    pub upstream_password_file: Option<PathBuf>,

    /// Address for clients: IP:PORT or unix:/path. May be given several times.
    #[arg(
        long,
        env = "OUTRIGGER_LISTEN",
        value_name = "ADDR",
        value_delimiter = ',',
        default_values = ["127.0.0.1:6379", "[::1]:6379"]
    )]
    pub listen: Vec<String>,

    /// Address for clients that get the error while Redis cannot be asked, never an empty answer: for queues, sessions and
    /// locks. May be given several times.
    #[arg(long, env = "OUTRIGGER_LISTEN_STRICT", value_name = "ADDR", value_delimiter = ',')]
    pub listen_strict: Vec<String>,

    /// Listen on addresses that other machines can reach although no password is set.
    #[arg(long, env = "OUTRIGGER_INSECURE_LISTEN", value_parser = BoolishValueParser::new())]
    pub insecure_listen: bool,

    /// File that holds the password clients must give; without one, any is accepted.
    #[arg(long, env = "OUTRIGGER_PASSWORD_FILE", value_name = "FILE")]
    pub password_file: Option<PathBuf>,

    /// Most upstream connections of the whole process.
    #[arg(long, env = "OUTRIGGER_POOL_SIZE", value_name = "N", default_value_t = 20, value_parser = number::<usize>)]
    pub pool_size: usize,

    /// How clients use these: multiplex (they share a few, and have one for themselves only while they need it) or session
    /// (each has one for its life, and the pool must be large enough).
    #[arg(long, env = "OUTRIGGER_MODE", value_name = "MODE", default_value = "multiplex")]
    pub mode: Mode,

    /// Worker threads. [default: 1, or 2 where the CPU quota is 2 or more]
    #[arg(long, env = "OUTRIGGER_WORKERS", value_name = "N", value_parser = number::<usize>)]
    pub workers: Option<usize>,

    /// Most clients; the next gets an error.
    #[arg(long, env = "OUTRIGGER_MAX_CLIENTS", value_name = "N", default_value_t = 10_000, value_parser = number::<usize>)]
    pub max_clients: usize,

    /// Time for dialling the upstream and its handshake together: 500ms, 2s.
    #[arg(long, env = "OUTRIGGER_CONNECT_TIMEOUT", value_name = "TIME", default_value = "2s", value_parser = duration)]
    pub connect_timeout: Duration,

    /// How long requests may take, and when Redis counts as gone.
    #[command(flatten)]
    pub outage: Outage,

    /// Unread replies a client may have before it is disconnected: 64MiB, 1048576.
    #[arg(long, env = "OUTRIGGER_CLIENT_OUTPUT_LIMIT", value_name = "BYTES", default_value = "64MiB", value_parser = size)]
    pub client_output_limit: usize,

    /// What becomes of subscribers whose connection to Redis is lost: close (they know that they may have missed messages), or
    /// resubscribe (they never know).
    #[arg(long, env = "OUTRIGGER_PUBSUB_ON_LOSS", value_name = "WHAT", default_value = "close")]
    pub pubsub_on_loss: PubsubOnLoss,

    /// Memory for buffers of all clients and upstream connections together. [default: half the cgroup's limit, else 256MiB]
    #[arg(long, env = "OUTRIGGER_MEMORY_LIMIT", value_name = "BYTES", value_parser = size)]
    pub memory_limit: Option<usize>,

    /// Databases that SELECT accepts unseen while the upstream cannot be asked.
    #[arg(long, env = "OUTRIGGER_DATABASES", value_name = "N", default_value_t = 16, value_parser = number::<u32>)]
    pub databases: u32,

    /// What clients are answered while Redis cannot be asked.
    #[command(flatten)]
    pub degrade: Degrade,

    /// What is refused, whoever asks.
    #[command(flatten)]
    pub deny: Deny,

    /// How long stopping may take.
    #[command(flatten)]
    pub stopping: Stopping,

    /// The HTTP port.
    #[command(flatten)]
    pub http: Http,

    /// Requests that take so long or longer are kept in the slow log; those that block on purpose, such as BLPOP, are left out.
    #[arg(long, env = "OUTRIGGER_SLOWLOG_THRESHOLD", value_name = "TIME", default_value = "100ms", value_parser = duration)]
    pub slowlog_threshold: Duration,

    /// The log.
    #[command(flatten)]
    pub logging: Logging,

    /// File that holds the same, read again upon SIGHUP and when it changes; wins over the flag `log`.
    #[arg(long, env = "OUTRIGGER_LOG_LEVEL_FILE", value_name = "FILE")]
    pub log_level_file: Option<PathBuf>,

    /// All of these as they may be shown.
    #[arg(skip)]
    pub shown: Shown,
}

/// How clients use upstream connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// They share a few.
    Multiplex,
    /// Each has one for itself, for its life.
    Session,
}

/// What becomes of subscribers whose connection to Redis is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PubsubOnLoss {
    /// They are disconnected.
    Close,
    /// They are subscribed again; what was published meanwhile is lost.
    Resubscribe,
}

/// Everything the program needs to know, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// The clients' side.
    pub clients: client::Config,
    /// The upstream side.
    pub upstream: upstream::Config,
    /// The HTTP port, unless it is switched off.
    pub http: Option<admin::Config>,
    /// Worker threads.
    pub workers: usize,
    /// Budget for buffers, in bytes.
    pub memory_limit: usize,
    /// Requests that take so long are slow.
    pub slow_from: Duration,
    /// When each step of stopping begins.
    pub drain: Schedule,
    /// Form of the log.
    pub log_format: LogFormat,
    /// What to log.
    pub log: String,
    /// The file that says so instead.
    pub log_file: Option<PathBuf>,
    /// The flags in force, without credentials.
    pub shown: Shown,
}

impl Config {
    /// All secrets.
    pub fn secrets(&self) -> impl Iterator<Item = &Secret> {
        let token = self.http.as_ref().and_then(|http| http.token.as_ref());
        [self.upstream.target.password.as_ref(), self.clients.password.as_ref(), token].into_iter().flatten()
    }

    /// How the operator knows what says what to log.
    #[must_use]
    pub fn log_setting(&self) -> String {
        setting(if self.log_file.is_some() { "log-level-file" } else { "log" })
    }

    /// What to log: what the file says, if there is one.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn what_to_log(&self) -> Result<String, String> {
        let Some(file) = &self.log_file else { return Ok(self.log.clone()) };
        let read = fs::read_to_string(file).map(|what| what.trim().to_owned());
        read.map_err(|error| {
            let problem = format!("cannot read `{}`: {error}; name a file that this user can read", file.display());
            wrong("log-level-file", problem).to_string()
        })
    }
}

/// What is wrong with the configuration, and how to mend it.
#[derive(Debug, PartialEq, Eq)]
pub struct Error {
    flag: &'static str,
    problem: String,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", setting(self.flag), self.problem)
    }
}

impl std::error::Error for Error {}

fn wrong(flag: &'static str, problem: impl Into<String>) -> Error {
    Error { flag, problem: problem.into() }
}

impl Settings {
    /// Makes sense of what was typed.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn resolve(&self) -> Result<Config, Error> {
        let url = self.upstream.as_deref().filter(|url| !url.is_empty());
        let mut target = target(url.ok_or_else(|| wrong("upstream", format!("missing: {URL_FORM}")))?)?;
        if let Some(file) = &self.upstream_password_file {
            target.password = Some(secret("upstream-password-file", file));
        }
        let password = self.password_file.as_deref().map(|file| secret("password-file", file));
        let workers = self.workers.unwrap_or_else(default_workers);
        if !(1..=256).contains(&workers) {
            return Err(wrong("workers", format!("`{workers}` is not between 1 and 256")));
        }
        self.check_pool(workers)?;
        if self.outage.slow_request_timeout < self.outage.request_timeout {
            return Err(wrong("slow-request-timeout", "it is less than --request-timeout: give at least as much"));
        }
        if self.max_clients == 0 {
            return Err(wrong("max-clients", "`0` would refuse everybody: give at least 1"));
        }
        let memory_limit = self.memory_limit.unwrap_or_else(default_memory);
        Ok(Config {
            clients: client::Config {
                listen: self.addresses("listen", &self.listen, password.is_some())?,
                listen_strict: self.addresses("listen-strict", &self.listen_strict, password.is_some())?,
                max_clients: self.max_clients,
                password,
                output_limit: self.client_output_limit,
                degrade: self.degrade.policy(),
                dedicated: self.mode == Mode::Session,
                denied: self.deny.denied()?,
            },
            upstream: upstream::Config {
                target,
                pool_size: self.pool_size,
                connect_timeout: self.connect_timeout,
                request_timeout: self.outage.request_timeout,
                slow_request_timeout: self.outage.slow_request_timeout,
                breaker: self.outage.breaker(),
                databases: self.databases,
                workers,
                host: host_name(),
                on_loss: match self.pubsub_on_loss {
                    PubsubOnLoss::Close => OnLoss::Close,
                    PubsubOnLoss::Resubscribe => OnLoss::Resubscribe,
                },
                longest_message: self.client_output_limit,
            },
            http: self.http.resolve()?,
            workers,
            memory_limit,
            slow_from: self.slowlog_threshold,
            drain: self.stopping.schedule(self.outage.request_timeout)?,
            log_format: self.logging.format(),
            log: self.logging.log.clone(),
            log_file: self.log_level_file.clone(),
            shown: self.shown(workers, memory_limit),
        })
    }

    /// What may be shown, with what was found out here.
    fn shown(&self, workers: usize, memory_limit: usize) -> Shown {
        let mut shown = self.shown.clone();
        shown.insert("workers".to_owned(), workers.to_string());
        shown.insert("memory-limit".to_owned(), memory_limit.to_string());
        shown
    }

    /// Whether the pool is large enough for everything to work.
    fn check_pool(&self, workers: usize) -> Result<(), Error> {
        if self.pool_size < least_pool(workers) {
            let problem = format!(
                "`{}` is too small for --workers {workers}, which need 2 each, and one for a client that blocks and one for \
                 a transaction: give at least {}",
                self.pool_size,
                least_pool(workers)
            );
            return Err(wrong("pool-size", problem));
        }
        let dedicated = self.max_clients.saturating_add(2 * workers);
        if self.mode == Mode::Session && self.pool_size < dedicated {
            let problem = format!(
                "`{}` is too small for --mode session, which gives each of --max-clients {} a connection of its own, and each \
                 of --workers {workers} two: give at least {dedicated}, or fewer --max-clients",
                self.pool_size, self.max_clients
            );
            return Err(wrong("pool-size", problem));
        }
        Ok(())
    }

    /// The addresses to listen on, none of which may be open to strangers by accident.
    fn addresses(&self, flag: &'static str, texts: &[String], has_password: bool) -> Result<Vec<ListenAddress>, Error> {
        let parse = |text: &String| {
            let address = if let Some(path) = text.strip_prefix("unix:") {
                ListenAddress::Unix(path.into())
            } else {
                let problem = || {
                    wrong(
                        flag,
                        format!("`{text}` is neither IP:PORT, such as 127.0.0.1:6379 or [::1]:6379, nor unix:/path"),
                    )
                };
                ListenAddress::Tcp(text.parse().map_err(|_| problem())?)
            };
            if address.is_local() || has_password || self.insecure_listen {
                return Ok(address);
            }
            Err(wrong(
                flag,
                format!(
                    "`{text}` can be reached from other machines, and no password is set: set one with --password-file \
                     (OUTRIGGER_PASSWORD_FILE), listen on 127.0.0.1, or accept the risk with --insecure-listen \
                     (OUTRIGGER_INSECURE_LISTEN=true)"
                ),
            ))
        };
        texts.iter().map(parse).collect()
    }
}

/// The smallest pool with which everything works.
fn least_pool(workers: usize) -> usize {
    2 * workers + 2
}

const URL_FORM: &str =
    "give redis://host:6379, redis://user:password@host:port/database or unix:///path/to/socket?db=N";

/// The upstream's URL taken apart.
fn target(text: &str) -> Result<Target, Error> {
    // The URL may hold a password, so the error must not repeat it.
    let url = Url::parse(text).map_err(|error| wrong("upstream", format!("not a URL ({error}): {URL_FORM}")))?;
    let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    // What follows `?` is mostly about the client that the URL was made for. This is not.
    for (name, _) in url.query_pairs() {
        match name.to_ascii_lowercase().as_str() {
            "password" | "username" => {
                return Err(wrong("upstream", format!("put the {name} before the host, not behind `?`: {URL_FORM}")));
            }
            "ssl" | "tls" => return Err(wrong("upstream", format!("TLS (`?{name}=`) is not supported yet"))),
            _ => {}
        }
    }
    let query = url.query_pairs().find(|(name, _)| name == "db").map(|(_, value)| value.into_owned());
    let (address, database) = match url.scheme() {
        "redis" => {
            let host = match url.host() {
                Some(Host::Domain(name)) if !name.is_empty() => decode(name),
                Some(Host::Ipv4(address)) => address.to_string(),
                Some(Host::Ipv6(address)) => address.to_string(),
                Some(Host::Domain(_)) | None => {
                    return Err(wrong("upstream", format!("no host in the URL: {URL_FORM}")));
                }
            };
            let path = || url.path().trim_matches('/').to_owned();
            let address = Address::Tcp(ip_or_name(&host), url.port().unwrap_or(REDIS_PORT));
            // As redis-py has it, which knows both.
            (address, query.unwrap_or_else(path))
        }
        "unix" | "redis+unix" => (Address::Unix(decode(url.path()).into()), query.unwrap_or_default()),
        "rediss" => return Err(wrong("upstream", "TLS (rediss://) is not supported yet: use redis:// or unix://")),
        other => return Err(wrong("upstream", format!("unknown scheme `{other}`: {URL_FORM}"))),
    };
    let database = match database.as_str() {
        "" => 0,
        number => number
            .parse()
            .map_err(|_| wrong("upstream", format!("what follows the address is not a database number: {URL_FORM}")))?,
    };
    let username = Some(decode(url.username())).filter(|name| !name.is_empty());
    let password = url.password().map(|password| Secret::fixed(SecretString::from(decode(password))));
    Ok(Target { address, username, password, database })
}

/// An IPv6 address keeps its brackets in URLs of schemes that the URL standard does not know.
fn ip_or_name(host: &str) -> String {
    host.trim_start_matches('[').trim_end_matches(']').to_owned()
}

/// The text of a file, which is read when the process starts.
fn secret(flag: &str, file: &Path) -> Secret {
    Secret::of_file(setting(flag), file.to_owned())
}

/// How the operator knows a setting.
fn setting(flag: &str) -> String {
    format!("--{flag} ({})", variable(flag))
}

/// A whole number.
fn number<N: FromStr>(text: &str) -> Result<N, String> {
    text.parse().map_err(|_| "give a whole number that is not too large, such as 20".to_owned())
}

/// `500ms`, `2s`, `1m`.
fn duration(text: &str) -> Result<Duration, String> {
    let parsed = text.parse::<humantime::Duration>().map(Duration::from).ok();
    parsed
        .filter(|time| !time.is_zero())
        .ok_or_else(|| "give a time with its unit, such as 500ms or 2s, longer than nothing".to_owned())
}

/// Bytes, with `KiB`, `MiB` or `GiB` if wanted.
fn size(text: &str) -> Result<usize, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text.get(digits.len()..).unwrap_or_default().to_ascii_lowercase().as_str() {
        "" | "b" => Some(1),
        "k" | "kb" | "kib" => Some(1 << 10),
        "m" | "mb" | "mib" => Some(1 << 20),
        "g" | "gb" | "gib" => Some(1 << 30),
        _ => None,
    };
    let bytes = unit.zip(digits.parse::<usize>().ok()).and_then(|(unit, number)| number.checked_mul(unit));
    bytes
        .filter(|bytes| *bytes > 0)
        .ok_or_else(|| "give a number of bytes, such as 1048576, 512KiB or 64MiB".to_owned())
}

/// One worker, two where the CPU quota allows: a sidecar should not take what the app is paid for.
fn default_workers() -> usize {
    // `available_parallelism` minds the cgroup's quota.
    if std::thread::available_parallelism().is_ok_and(|cores| cores.get() >= 2) && has_cpu_quota() { 2 } else { 1 }
}

/// True if a cgroup limits our CPU time: then the number of cores is what was given to us, not what the machine has.
fn has_cpu_quota() -> bool {
    fs::read_to_string("/sys/fs/cgroup/cpu.max").is_ok_and(|text| !text.starts_with("max"))
        || fs::read_to_string("/sys/fs/cgroup/cpu/cpu.cfs_quota_us").is_ok_and(|text| !text.starts_with('-'))
}

/// Half of the cgroup's memory limit, or 256 MiB where there is none.
fn default_memory() -> usize {
    const UNLIMITED: usize = 256 << 20;
    let files = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let limit = files.iter().find_map(|file| fs::read_to_string(file).ok()?.trim().parse::<usize>().ok());
    // Version 1 writes a number near the largest for "no limit".
    limit.filter(|bytes| *bytes < 1 << 50).map_or(UNLIMITED, |bytes| bytes / 2)
}

/// Our host's name, which in a pod is the pod's; without characters that CLIENT SETNAME refuses.
fn host_name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().chars().filter(|c| c.is_ascii_graphic()).collect()
}
