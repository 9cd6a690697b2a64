//! The other end of the line: `outrigger wait` and `outrigger healthcheck`, for images without a shell.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::time::{Instant, sleep, timeout};

/// One question and its answer; `/health` itself takes two seconds at most.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// How often one who waits asks.
const ASK_EVERY: Duration = Duration::from_millis(100);

/// What one that lives says to that question.
pub(super) const ALIVE: &str = "alive";

/// Longest answer that is read.
const MAX_ANSWER: usize = 64 * 1024;

/// What is asked of a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// Does Redis answer it?
    Health,
    /// May it get traffic?
    Ready,
    /// Does it live?
    Live,
}

impl Question {
    fn path(self) -> &'static str {
        match self {
            Self::Health => "/health",
            Self::Ready => "/readyz",
            Self::Live => "/livez",
        }
    }
}

/// Waits until the proxy at `address` has started. Exit code 0, or 1 if it has not in time.
#[must_use]
#[expect(clippy::print_stdout, clippy::print_stderr, reason = "this is what the command is for")]
pub fn wait(address: SocketAddr, limit: Duration) -> ExitCode {
    let waited = run(async {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match ask(address, "/startupz", left.min(ANSWER_WITHIN)).await {
                Ok(words) => return Ok(words),
                Err(problem) if deadline <= Instant::now() + ASK_EVERY => return Err(problem),
                Err(_) => sleep(ASK_EVERY).await,
            }
        }
    });
    match waited {
        Ok(words) => {
            println!("{words}");
            ExitCode::SUCCESS
        }
        Err(problem) => {
            eprintln!("outrigger wait: not started within {}: {problem}", humantime::format_duration(limit));
            ExitCode::FAILURE
        }
    }
}

/// Asks the proxy at `address` once. Exit code 0 if it is well, else 1.
#[must_use]
#[expect(clippy::print_stdout, clippy::print_stderr, reason = "this is what the command is for")]
pub fn healthcheck(address: SocketAddr, question: Question) -> ExitCode {
    match run(ask(address, question.path(), ANSWER_WITHIN)) {
        Ok(words) => {
            println!("{words}");
            ExitCode::SUCCESS
        }
        Err(problem) => {
            eprintln!("outrigger healthcheck: {problem}");
            ExitCode::FAILURE
        }
    }
}

/// Where to ask a proxy that listens at `address`: one that listens everywhere listens on the loopback too, and at `[::]` on that
/// of IPv4, which is always there.
#[must_use]
pub fn reachable(address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() { (Ipv4Addr::LOCALHOST, address.port()).into() } else { address }
}

/// True if a proxy at `address` says that it lives.
pub async fn is_alive(address: SocketAddr) -> bool {
    ask(address, Question::Live.path(), ANSWER_WITHIN).await.is_ok_and(|words| words == ALIVE)
}

fn run(asking: impl Future<Output = Result<String, String>>) -> Result<String, String> {
    let runtime = Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
    runtime.block_on(asking)
}

/// What is said at a path, in one line. An error if that is not well, or nobody says anything.
async fn ask(address: SocketAddr, path: &str, limit: Duration) -> Result<String, String> {
    let asking = async {
        let stream =
            TcpStream::connect(address).await.map_err(|error| format!("cannot connect to {address}: {error}"))?;
        let failed = |error: hyper::Error| format!("no answer from {address}{path}: {error}");
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
        // It ends with the runtime, and what happens to it shows in the answer.
        tokio::spawn(connection);
        let request = Request::get(path).header(HOST, address.to_string()).body(Empty::<Bytes>::new());
        let request = request.map_err(|error| error.to_string())?;
        let answer = sender.send_request(request).await.map_err(failed)?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await.map_err(|error| error.to_string())?;
        let words = String::from_utf8_lossy(&body.to_bytes()).split_whitespace().collect::<Vec<_>>().join(" ");
        if status == StatusCode::OK { Ok(words) } else { Err(format!("{address}{path} answers {status}: {words}")) }
    };
    timeout(limit, asking).await.unwrap_or_else(|_| Err(format!("no answer from {address}{path} in time")))
}
