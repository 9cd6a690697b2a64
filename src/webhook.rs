//! `outrigger webhook`: a mutating admission webhook, which adds the sidecar to pods as a cluster makes them.
//!
//! ```text
//!  API server ─ HTTPS ─▶ http: places, limits ─▶ Desk: paths ─▶ review: AdmissionReview ─▶ inject: edits ─▶ JSON patch
//!                          ▲
//!          certificate ────┘ read again when it changes
//! ```
//!
//! It asks nobody and keeps nothing, so it has no credentials, and as many of it may run as are wanted. It never keeps a pod
//! from being made.

mod certificate;
mod review;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::{Request, StatusCode};
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::{self, AlertDescription};
use tokio_rustls::server::TlsStream;

use crate::config::WebhookConfig;
use crate::http::{self, Answer, BodyLimits, Limits, Whole, answer, closing, text, with};
use crate::inject::Defaults;
use crate::lifecycle::signals::{Signals, Told};
use crate::version;
use certificate::{Certificate, Pair};
use review::{Outcome, Reviewed, review};

/// Limits of the port.
static LIMITS: Limits = Limits {
    // An API server asks 200 times at once at the most, each time over another connection; mostly there are three of them.
    places: 640,
    // The API server gives up sooner.
    first: Duration::from_secs(10),
    // Go's clients, of which the API server is one, keep connections for 90 s: if we were the first to close one, a question
    // that is on its way over it would be lost.
    idle: Duration::from_secs(120),
    answer: Duration::from_secs(10),
    // The API server itself takes no request over 3 MiB, and what it keeps is smaller; around it there is little.
    body: BodyLimits { longest: 3 << 20, discarded: 4 << 20, within: Duration::from_secs(5) },
};

/// It is said this often that the certificate is refused.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Why the webhook could not start.
#[derive(Debug)]
pub enum Error {
    /// The certificate cannot be used: what is wrong, and how to mend it.
    Certificate(String),
    /// The address cannot be listened on.
    Bind(SocketAddr, io::Error),
    /// The library does not speak TLS so.
    Tls(String),
    /// The system has no signal handler or epoll instance to give.
    System(io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Certificate(problem) => f.write_str(problem),
            Self::Bind(address, error) => write!(
                f,
                "cannot listen on `{address}`: {error}; choose another address with {}",
                WebhookConfig::listen_setting()
            ),
            Self::Tls(problem) => write!(f, "cannot speak TLS: {problem}"),
            Self::System(error) => write!(f, "cannot start: {error}"),
        }
    }
}

impl std::error::Error for Error {}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

/// Answers the API server until it is told to stop. Returns the exit code: 0, or that of the signal that did not let it finish.
///
/// # Errors
/// Why it could not start.
pub fn run(config: &WebhookConfig) -> Result<u8, Error> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(serve(config));
    // A file that is still being read, from a disk that does not answer, must not hold up the end.
    runtime.shutdown_background();
    ended
}

async fn serve(config: &WebhookConfig) -> Result<u8, Error> {
    // First of all, so that none of them ends us half-way.
    let mut signals = Signals::listen()?;
    let pair = Pair { certificate: config.certificate.clone(), key: config.key.clone() };
    let certificate = Certificate::read(pair).map_err(Error::Certificate)?;
    let tls = certificate.config().map_err(|error| Error::Tls(error.to_string()))?;
    let listener = http::listen(config.listen).map_err(|error| Error::Bind(config.listen, error))?;
    let address = listener.local_addr()?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let desk = Arc::new(Desk {
        tls: TlsAcceptor::from(Arc::new(tls)),
        defaults: Defaults::new(config.image.clone(), &config.sidecar),
        opt_in: config.opt_in,
        parting: AtomicBool::new(false),
        complained: Mutex::default(),
    });
    let (ending, told_to_end) = watch::channel(false);
    let mut serving = tokio::spawn(http::run(listener, Arc::clone(&desk), &LIMITS, told_to_end));
    let reload = Arc::new(Notify::new());
    tokio::spawn(certificate.watch(Arc::clone(&reload)));
    tracing::info!(%address, image = config.image, version = version::VERSION, "webhook listening");
    let asked_by = told_to_stop(&mut signals, &reload).await;
    let begun = Instant::now();
    tracing::info!(asked_by = asked_by.name(), "draining");
    // What is asked over a connection when it is closed would be lost, so each is closed with the next answer.
    desk.parting.store(true, Ordering::Relaxed);
    let drain = async {
        sleep(config.drain.parting).await;
        ending.send_replace(true);
        // An answer that is still due by then is nobody's any more.
        drop(timeout(config.drain.end.saturating_sub(config.drain.parting), &mut serving).await);
    };
    tokio::select! {
        () = drain => {}
        told = told_to_stop(&mut signals, &reload) => {
            tracing::warn!(signal = told.name(), "told twice to stop: ending at once");
            return Ok(told.code());
        }
    }
    tracing::info!(seconds = begun.elapsed().as_secs_f64(), "drained");
    Ok(0)
}

/// Waits until a signal asks the process to stop.
async fn told_to_stop(signals: &mut Signals, reload: &Notify) -> Told {
    loop {
        match signals.next().await {
            told @ (Told::Terminate | Told::Interrupt) => return told,
            Told::Reload => reload.notify_one(),
        }
    }
}

/// What is behind the port.
struct Desk {
    tls: TlsAcceptor,
    defaults: Defaults,
    /// Pods have to ask for a sidecar.
    opt_in: bool,
    /// Connections are closed with their next answer.
    parting: AtomicBool,
    /// When it was said last that the certificate is refused.
    complained: Mutex<Option<Instant>>,
}

impl http::Site for Desk {
    type Stream = TlsStream<TcpStream>;

    async fn open(&self, stream: TcpStream) -> io::Result<Self::Stream> {
        self.tls.accept(stream).await
    }

    async fn answer(&self, _is_near: bool, head: &Request<()>, body: Result<Whole, StatusCode>) -> Answer {
        let answer = self.answer_head(head, body);
        if self.parting.load(Ordering::Relaxed) { closing(answer) } else { answer }
    }

    /// A caller that refuses the certificate goes without an answer, and so every pod without its sidecar.
    fn failed(&self, error: &(dyn std::error::Error + 'static)) {
        let Some(alert) = alert_of(error) else { return };
        let mut complained = self.complained.lock().unwrap_or_else(PoisonError::into_inner);
        if complained.is_none_or(|last| last.elapsed() >= COMPLAIN_EVERY) {
            *complained = Some(Instant::now());
            tracing::warn!(alert = ?alert, "a caller refuses the certificate: is it that of the caBundle, and not expired?");
        }
    }
}

/// What the other side of TLS complains of.
fn alert_of(error: &(dyn std::error::Error + 'static)) -> Option<AlertDescription> {
    let mut next = Some(error);
    while let Some(error) = next {
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if let Some(rustls::Error::AlertReceived(alert)) = inner.and_then(|inner| inner.downcast_ref()) {
            return Some(*alert);
        }
        next = error.source();
    }
    None
}

impl Desk {
    fn answer_head(&self, head: &Request<()>, body: Result<Whole, StatusCode>) -> Answer {
        let (path, allowed) = match head.uri().path() {
            "/mutate" => (Path::Mutate, "POST"),
            "/healthz" => (Path::Health, "GET, HEAD"),
            _ => return text(StatusCode::NOT_FOUND, "there is nothing here"),
        };
        if !allowed.split(", ").any(|method| head.method().as_str() == method) {
            let answer = text(StatusCode::METHOD_NOT_ALLOWED, &format!("only {allowed}"));
            return with(answer, ALLOW, HeaderValue::from_static(allowed));
        }
        match (path, body) {
            (Path::Health, Ok(_)) => text(StatusCode::OK, "ok"),
            (Path::Mutate, Ok(body)) => self.mutate(head, &body.bytes),
            (_, Err(refusal)) => closing(refused(refusal, "the body is too long, or too slow")),
        }
    }

    fn mutate(&self, head: &Request<()>, body: &[u8]) -> Answer {
        let kind = head.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        if !kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json")) {
            return refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, "the body is not application/json");
        }
        match review(body, &self.defaults, self.opt_in) {
            Ok(reviewed) => {
                tell(&reviewed);
                answer(StatusCode::OK, JSON, reviewed.answer)
            }
            Err(problem) => refused(StatusCode::BAD_REQUEST, &problem),
        }
    }
}

/// What cannot even be answered. The API server then does as its `failurePolicy` says.
fn refused(status: StatusCode, problem: &str) -> Answer {
    tracing::warn!(status = status.as_u16(), problem, "cannot answer what is no review");
    text(status, problem)
}

#[derive(Clone, Copy)]
enum Path {
    Mutate,
    Health,
}

fn tell(reviewed: &Reviewed) {
    let Reviewed { namespace, pod, dry_run, outcome, .. } = reviewed;
    match outcome {
        Outcome::Injected(what) => tracing::info!(namespace, pod, dry_run, what, "pod injected"),
        Outcome::Left(why) => tracing::info!(namespace, pod, dry_run, why, "pod left alone"),
        Outcome::Failed(why) => {
            tracing::warn!(namespace, pod, dry_run, why, "pod not injected: it starts without a sidecar");
        }
    }
}
