//! What comes and goes over an HTTP port: bodies in, within limits, and answers out.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Bytes};
use hyper::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::{Request, Response, StatusCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// A body that is longer needs room, of which there is little.
const LARGE: usize = 64 * 1024;

/// So many of these are held at once; the next ones are not read on meanwhile.
const LARGE_AT_ONCE: usize = 8;

/// An answer, whole.
pub type Answer = Response<Full<Bytes>>;

/// Limits of a request's body.
#[derive(Debug, Clone, Copy)]
pub struct BodyLimits {
    /// Longest that is looked at, in bytes.
    pub longest: usize,
    /// Longest that is read to its end so that its sender reads the refusal, in bytes.
    pub discarded: usize,
    /// How long it may take.
    pub within: Duration,
}

/// A body that was read to its end, and the room that it takes.
#[derive(Debug, Default)]
pub struct Whole {
    /// It.
    pub bytes: Vec<u8>,
    _room: Option<OwnedSemaphorePermit>,
}

/// Room for large bodies, of all connections together.
#[derive(Clone)]
pub(super) struct Room(Arc<Semaphore>);

impl Room {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(LARGE_AT_ONCE)))
    }

    /// Reads a request to its end; returns its head, and its body or how to refuse it.
    pub(super) async fn read<B: Body<Data = Bytes>>(
        &self,
        request: Request<B>,
        limits: BodyLimits,
    ) -> (Request<()>, Result<Whole, StatusCode>) {
        let (head, body) = request.into_parts();
        let read = timeout(limits.within, self.read_body(body, limits));
        let read = read.await.unwrap_or(Err(StatusCode::REQUEST_TIMEOUT));
        (Request::from_parts(head, ()), read)
    }

    async fn read_body<B: Body<Data = Bytes>>(&self, body: B, limits: BodyLimits) -> Result<Whole, StatusCode> {
        if body.size_hint().lower() > limits.discarded as u64 {
            return Err(StatusCode::PAYLOAD_TOO_LARGE);
        }
        let mut body = Box::pin(body);
        let (mut whole, mut length) = (Whole::default(), 0);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| StatusCode::BAD_REQUEST)?;
            let Some(data) = frame.data_ref() else { continue };
            length += data.len();
            if length > limits.longest {
                whole = Whole::default();
            } else {
                if length > LARGE && whole._room.is_none() {
                    whole._room = Arc::clone(&self.0).acquire_owned().await.ok();
                }
                whole.bytes.extend_from_slice(data);
            }
            if length > limits.discarded {
                break;
            }
        }
        if length > limits.longest { Err(StatusCode::PAYLOAD_TOO_LARGE) } else { Ok(whole) }
    }
}

/// An answer that nobody keeps.
pub fn answer(status: StatusCode, content_type: HeaderValue, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    let answer = with(answer, CONTENT_TYPE, content_type);
    let answer = with(answer, X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    with(answer, CACHE_CONTROL, HeaderValue::from_static("no-store"))
}

/// The same with one more header.
pub fn with(mut answer: Answer, name: HeaderName, value: HeaderValue) -> Answer {
    answer.headers_mut().insert(name, value);
    answer
}

/// The same, and the end of the connection.
pub fn closing(answer: Answer) -> Answer {
    with(answer, CONNECTION, HeaderValue::from_static("close"))
}

/// A line for people.
pub fn text(status: StatusCode, words: &str) -> Answer {
    answer(status, TEXT, format!("{words}\n"))
}
