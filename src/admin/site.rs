//! Which path is answered by what, and who may ask.
//!
//! What needs the token is not there without one (404), and refused slowly to whoever has a wrong one. What changes
//! something is a POST; a browser that was led astray cannot add the token to one. With `--quitquitquit` no token is needed
//! to end the process from this machine: there, only the headers that a browser adds by itself tell that it was led astray.

use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use hyper::header::{
    ALLOW, AUTHORIZATION, CONTENT_SECURITY_POLICY, FORWARDED as FORWARDED_BY, HOST, HeaderName, HeaderValue, ORIGIN,
    VIA, WWW_AUTHENTICATE,
};
use hyper::{Method, Request, StatusCode};
use serde::Serialize;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use super::condition::{Condition, Standing};
use super::drill::{self, Drill};
use super::health::{Health, Pulse};
use super::probes::{Probes, Word};
use super::report::{Detailed, Redis, Services};
use super::status::{Brief, Own, Status};
use super::tally::Tally;
use super::{Config, Sources, page};
use crate::http::{self, Answer, Whole, answer, closing, text, with};
use crate::observe::history::{History, STEP, Totals};

/// A wrong token is refused after so long: guessing is slow, and nobody else waits for it.
const REFUSE_AFTER: Duration = Duration::from_millis(100);

/// Who asks for the end is answered before it comes.
const STOP_AFTER: Duration = Duration::from_millis(100);

const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const METRICS: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// It is looked this often how the process is, so that it can be told since when it is so.
const LOOK: Duration = Duration::from_millis(100);

/// The page brings all it needs, asks nobody but us, and is shown in no other page.
const PAGE_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'; \
     form-action 'none'; frame-ancestors 'none'",
);

/// Browsers add it to what they send on behalf of a page.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// What there is to ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Path {
    Live,
    Ready,
    Startup,
    Health,
    Detailed,
    Redis,
    Services,
    Metrics,
    Page,
    Status,
    Isolate,
    Release,
    Quit,
}

impl Path {
    fn of(path: &str) -> Option<Self> {
        Some(match path {
            "/livez" | "/liveness" => Self::Live,
            "/readyz" | "/readiness" => Self::Ready,
            "/startupz" | "/startup" => Self::Startup,
            "/health" => Self::Health,
            "/health/detailed" => Self::Detailed,
            "/health/redis" => Self::Redis,
            "/health/services" => Self::Services,
            "/metrics" => Self::Metrics,
            "/" => Self::Page,
            "/status.json" => Self::Status,
            "/breaker/isolate" => Self::Isolate,
            "/breaker/release" => Self::Release,
            "/quitquitquit" => Self::Quit,
            _ => return None,
        })
    }

    /// What it is called in the metrics.
    fn name(self) -> &'static str {
        match self {
            Self::Live => "/livez",
            Self::Ready => "/readyz",
            Self::Startup => "/startupz",
            Self::Health => "/health",
            Self::Detailed => "/health/detailed",
            Self::Redis => "/health/redis",
            Self::Services => "/health/services",
            Self::Metrics => "/metrics",
            Self::Page => "/",
            Self::Status => "/status.json",
            Self::Isolate => "/breaker/isolate",
            Self::Release => "/breaker/release",
            Self::Quit => "/quitquitquit",
        }
    }

    /// Whether it changes something.
    fn acts(self) -> bool {
        matches!(self, Self::Isolate | Self::Release | Self::Quit)
    }

    /// Whether it is for who has the token.
    fn is_guarded(self) -> bool {
        self.acts() || matches!(self, Self::Detailed | Self::Redis | Self::Services)
    }
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Caller {
    /// Who has the token.
    Operator,
    /// Somebody on this machine, which in a pod is anybody in it.
    Neighbour,
    Stranger,
}

/// Everything that can be asked for.
pub(super) struct Site {
    config: Config,
    tally: Arc<Tally>,
    sources: Sources,
    pulse: Pulse,
    probes: Probes,
    drill: Arc<Drill>,
    since: Instant,
    started: SystemTime,
    standing: Standing,
    history: Mutex<History>,
}

impl Site {
    pub(super) fn new(config: Config, tally: Arc<Tally>, sources: Sources) -> Arc<Self> {
        Arc::new(Self {
            tally,
            pulse: Pulse::new(Arc::clone(&sources.upstream)),
            probes: Probes::new(&config),
            drill: Drill::new(Arc::clone(&sources.upstream)),
            since: Instant::now(),
            started: SystemTime::now(),
            standing: Standing::new(Condition::of(&sources)),
            history: Mutex::default(),
            config,
            sources,
        })
    }

    /// Looks after what has to be looked after, for as long as the process lives.
    pub(super) async fn watch(self: Arc<Self>) {
        tokio::join!(self.probes.watch(&self.sources.upstream), self.take_notes());
    }

    /// Notes how the process is, and how much it does.
    async fn take_notes(&self) {
        let mut sampled = Instant::now();
        loop {
            self.standing.since(Condition::of(&self.sources));
            let took = sampled.elapsed();
            if took >= STEP {
                sampled += took;
                self.history(|history| {
                    history.add(SystemTime::now(), took, Totals::of(self.sources.upstream.metrics()));
                });
            }
            sleep(LOOK).await;
        }
    }

    fn history<R>(&self, with: impl FnOnce(&mut History) -> R) -> R {
        // Nothing that runs under the lock can panic half-way, so a poisoned one still guards good data.
        with(&mut self.history.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn answer_head(&self, is_near: bool, path: Option<Path>, request: &Request<()>) -> Answer {
        let caller = self.caller(is_near, request);
        let Some(path) = path.filter(|path| self.is_there(*path, caller)) else {
            return text(StatusCode::NOT_FOUND, "there is nothing here");
        };
        let allowed = if path.acts() { "POST" } else { "GET, HEAD" };
        let is_allowed = match *request.method() {
            Method::GET | Method::HEAD => !path.acts(),
            Method::POST => path.acts(),
            _ => false,
        };
        if !is_allowed {
            let answer = text(StatusCode::METHOD_NOT_ALLOWED, &format!("only {allowed}"));
            return with(answer, ALLOW, HeaderValue::from_static(allowed));
        }
        match path {
            Path::Quit if caller == Caller::Neighbour && self.config.quitquitquit => self.quit(),
            _ if path.is_guarded() && caller != Caller::Operator => self.refuse().await,
            // A page is asked for by people, who are told when their token is wrong.
            Path::Page | Path::Status
                if caller != Caller::Operator && request.headers().contains_key(AUTHORIZATION) =>
            {
                self.refuse().await
            }
            _ => self.answer_path(path, caller, request.uri().query()).await,
        }
    }

    async fn answer_path(&self, path: Path, caller: Caller, query: Option<&str>) -> Answer {
        let sources = &self.sources;
        match path {
            Path::Live => word(self.probes.live()),
            Path::Ready => word(self.probes.ready(&sources.lifecycle, &self.pulse).await),
            Path::Startup => word(self.probes.startup(&sources.lifecycle, &sources.upstream)),
            Path::Health => {
                let health = self.pulse.health().await;
                json(status_of(&health), &health)
            }
            Path::Detailed => {
                let health = self.pulse.health().await.in_full(&sources.upstream);
                let drill = self.drill.left().map(|left| left.as_secs_f64());
                json(status_of(&health), &Detailed::new(sources, health, self.since, drill))
            }
            Path::Redis => {
                let health = self.pulse.health().await.in_full(&sources.upstream);
                json(status_of(&health), &Redis::new(sources, health))
            }
            Path::Services => json(StatusCode::OK, &Services::new(&sources.lifecycle)),
            Path::Metrics => {
                let is_ready = self.probes.is_ready(&sources.lifecycle, &sources.upstream);
                answer(StatusCode::OK, METRICS, super::metrics::text(sources, &self.tally, is_ready))
            }
            Path::Page => {
                let condition = Condition::of(sources);
                let why = (caller != Caller::Stranger).then(|| condition.why(sources, self.drill.left()));
                let page = page::html(condition, why.as_deref());
                with(answer(StatusCode::OK, HTML, page), CONTENT_SECURITY_POLICY, PAGE_POLICY)
            }
            Path::Status => self.status(caller),
            Path::Isolate => self.isolate(query),
            Path::Release if query.is_some_and(|query| !query.is_empty()) => {
                text(StatusCode::BAD_REQUEST, "there are no parameters: /breaker/release")
            }
            Path::Release if self.drill.end() => text(StatusCode::OK, "released: Redis is asked again"),
            Path::Release => text(StatusCode::CONFLICT, "it is not isolated"),
            Path::Quit => self.quit(),
        }
    }

    fn status(&self, caller: Caller) -> Answer {
        let condition = Condition::of(&self.sources);
        if caller == Caller::Stranger {
            return json(StatusCode::OK, &Brief { state: condition.word() });
        }
        let since = self.standing.since(condition);
        let (started, drill) = (self.started, self.drill.left());
        self.history(|history| {
            let own = Own { started, since, drill, history };
            json(StatusCode::OK, &Status::new(&self.sources, condition, &own))
        })
    }

    /// Whether it is there at all: what only the token opens is not, without one.
    fn is_there(&self, path: Path, caller: Caller) -> bool {
        let may_quit = self.config.quitquitquit && caller == Caller::Neighbour;
        !path.is_guarded() || self.config.token.is_some() || (path == Path::Quit && may_quit)
    }

    fn caller(&self, is_near: bool, request: &Request<()>) -> Caller {
        let given = request.headers().get(AUTHORIZATION).map(HeaderValue::as_bytes);
        let given = given.and_then(|value| value.split_at_checked(BEARER.len()));
        let token = given.filter(|(scheme, _)| scheme.eq_ignore_ascii_case(BEARER)).map(|(_, token)| token);
        if let (Some(expected), Some(token)) = (&self.config.token, token)
            && expected.is(token.trim_ascii())
        {
            return Caller::Operator;
        }
        if is_near && !is_led_astray(request) { Caller::Neighbour } else { Caller::Stranger }
    }

    async fn refuse(&self) -> Answer {
        self.tally.refused_token();
        sleep(REFUSE_AFTER).await;
        let answer = text(StatusCode::UNAUTHORIZED, "this needs the token: Authorization: Bearer …");
        with(answer, WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"outrigger\""))
    }

    fn isolate(&self, query: Option<&str>) -> Answer {
        let length = match query.filter(|query| !query.is_empty()) {
            None => Some(drill::USUAL),
            Some(query) => match query.strip_prefix("for=").filter(|text| !text.contains('&')) {
                None => {
                    let problem = "the only parameter is `for`, in small letters and once: /breaker/isolate?for=30s";
                    return text(StatusCode::BAD_REQUEST, problem);
                }
                Some(text) => humantime::parse_duration(text).ok().filter(|length| !length.is_zero()),
            },
        };
        let Some(length) = length.filter(|length| *length <= drill::LONGEST) else {
            return text(StatusCode::BAD_REQUEST, "give a time with its unit, 1h at most: /breaker/isolate?for=30s");
        };
        if self.drill.begin(length) {
            let length = humantime::format_duration(length);
            text(StatusCode::OK, &format!("isolated from Redis for {length}, or until POST /breaker/release"))
        } else {
            text(StatusCode::CONFLICT, "it is isolated already, and for good: POST /breaker/release first")
        }
    }

    fn quit(&self) -> Answer {
        tracing::info!("asked to stop over HTTP");
        let lifecycle = Arc::clone(&self.sources.lifecycle);
        tokio::spawn(async move {
            sleep(STOP_AFTER).await;
            lifecycle.ask_to_stop();
        });
        text(StatusCode::OK, "stopping")
    }
}

impl http::Site for Site {
    type Stream = TcpStream;

    async fn open(&self, stream: TcpStream) -> io::Result<TcpStream> {
        Ok(stream)
    }

    /// Nobody needs bodies: only that they are in bounds.
    async fn answer(&self, is_near: bool, head: &Request<()>, body: Result<Whole, StatusCode>) -> Answer {
        let path = Path::of(head.uri().path());
        let answer = match body {
            Ok(_) => self.answer_head(is_near, path, head).await,
            Err(refusal) => closing(text(refusal, "the body is too long, or too slow")),
        };
        self.tally.answered(path.map_or("other", Path::name), answer.status().as_u16());
        answer
    }

    fn refused_unread(&self, status: StatusCode) {
        self.tally.answered("other", status.as_u16());
    }
}

const BEARER: &[u8] = b"Bearer ";

/// Added by what hands requests on for others.
const FORWARDED: [HeaderName; 3] = [FORWARDED_BY, HeaderName::from_static("x-forwarded-for"), VIA];

/// True for what a browser sends on behalf of a page that is not ours, or to a name that is made to mean this machine; and for
/// what something here hands on for somebody elsewhere.
fn is_led_astray(request: &Request<()>) -> bool {
    let headers = request.headers();
    let is_foreign = headers.get(SEC_FETCH_SITE).is_some_and(|site| site != "none" && site != "same-origin");
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = host
        .rsplit_once(':')
        .map_or(host, |(name, port)| if port.bytes().all(|byte| byte.is_ascii_digit()) { name } else { host });
    let is_address = name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
    let is_forwarded = FORWARDED.iter().any(|name| headers.contains_key(name));
    is_foreign
        || is_forwarded
        || headers.contains_key(ORIGIN)
        || !(is_address || name.eq_ignore_ascii_case("localhost"))
}

fn word((words, is_well): Word) -> Answer {
    text(if is_well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, &words)
}

fn json(status: StatusCode, value: &impl Serialize) -> Answer {
    match serde_json::to_string_pretty(value) {
        Ok(body) => answer(status, JSON, body + "\n"),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

fn status_of(health: &Health) -> StatusCode {
    if health.is_well() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}
