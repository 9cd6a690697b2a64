//! Making an upstream connection: dial, then the handshake, one step at a time.
//!
//! The handshake is strictly alone on the connection and each step waits for its reply (Redis drops replies when AUTH is
//! pipelined behind other commands, redis#15640). Only a connection that has answered PING is handed over, so a server
//! that is still loading its data is not used. This is the slow path: here replies are decoded into trees.

use std::future::poll_fn;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redis_protocol::resp3::decode::complete::decode;
use redis_protocol::resp3::types::{OwnedFrame, Resp3Frame};
use secrecy::{ExposeSecret, SecretString};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::time::timeout;

use super::error::Error;
use crate::resp::inline;
use crate::resp::reply::{Advance, ReplyScanner};
use crate::transport::Transport;

/// Largest handshake reply, in bytes; a server that says more is not Redis.
const MAX_REPLY: usize = 1024 * 1024;

/// First words of errors that concern the server and not the request.
const CANNOT_SERVE: [&str; 4] = ["LOADING ", "BUSY ", "MASTERDOWN ", "CLUSTERDOWN "];

/// Where Redis is and who we are there.
#[derive(Debug, Clone)]
pub struct Target {
    /// The address to dial.
    pub address: Address,
    /// The ACL user; `None` is the server's default user.
    pub username: Option<String>,
    /// The password, never printed.
    pub password: Option<SecretString>,
    /// The database a client is in before it says SELECT.
    pub database: u32,
}

/// An address to dial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// Host name or IP address, and port.
    Tcp(String, u16),
    /// The path of a unix socket.
    Unix(PathBuf),
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The version of RESP a connection speaks. Replies differ command by command, so nothing is ever converted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Protocol {
    /// RESP2, what a connection speaks before HELLO 3.
    Resp2,
    /// RESP3.
    Resp3,
}

/// What the connections of one lane have in common; the identity is the process' own and the same for all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct LaneKey {
    /// The database number.
    pub(crate) database: u32,
    /// The version of RESP.
    pub(crate) protocol: Protocol,
}

/// What the server says of itself, shared by all workers; nothing before the first contact.
#[derive(Debug, Default)]
pub struct Identity {
    greeting: Mutex<Option<Arc<Greeting>>>,
    /// The greeting may be that of another server than is there now.
    stale: AtomicBool,
}

/// The server's replies to HELLO, as it sent them.
#[derive(Debug)]
pub(crate) struct Greeting {
    /// Names and values of HELLO 2, each a whole frame.
    pub(crate) resp2: Vec<(Vec<u8>, Vec<u8>)>,
    /// Names and values of HELLO 3, each a whole frame.
    pub(crate) resp3: Vec<(Vec<u8>, Vec<u8>)>,
    /// Major and minor version of Redis that the server is like.
    pub(crate) version: (u32, u32),
}

impl Identity {
    /// The greeting of the server reached last.
    pub(crate) fn greeting(&self) -> Option<Arc<Greeting>> {
        self.greeting.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// True if the server reached last is like a Redis before this version.
    pub(crate) fn is_before(&self, major: u32, minor: u32) -> bool {
        self.greeting().is_some_and(|greeting| greeting.version < (major, minor))
    }

    /// A connection was lost: the next may reach another server, which is to be asked again.
    pub(crate) fn doubt(&self) {
        self.stale.store(true, Ordering::Relaxed);
    }

    fn is_certain(&self) -> bool {
        !self.stale.load(Ordering::Relaxed) && self.greeting().is_some()
    }

    fn learn(&self, greeting: Greeting) {
        *self.greeting.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(greeting));
        self.stale.store(false, Ordering::Relaxed);
    }
}

impl Greeting {
    /// Made of the replies to HELLO 2 and HELLO 3; nothing if they are not of the form expected.
    fn new(resp2: &[u8], resp3: &[u8]) -> Option<Self> {
        let (resp2, resp3) = (pairs(resp2)?, pairs(resp3)?);
        let version = resp3.iter().find(|(name, _)| name == b"$7\r\nversion\r\n").map(|(_, value)| value);
        let text = String::from_utf8_lossy(version?).into_owned();
        let mut numbers = text.lines().nth(1)?.split('.').map(|number| number.parse().unwrap_or(0));
        let version = (numbers.next()?, numbers.next().unwrap_or(0));
        Some(Self { resp2, resp3, version })
    }
}

/// Cuts a flat array or a map into pairs of frames.
fn pairs(reply: &[u8]) -> Option<Vec<(Vec<u8>, Vec<u8>)>> {
    let header = reply.iter().position(|&byte| byte == b'\n')? + 1;
    let mut rest = reply.get(header..)?;
    let mut frame = || {
        let Ok(Advance::Complete { taken, .. }) = ReplyScanner::default().advance(rest) else { return None };
        let (frame, others) = rest.split_at_checked(taken)?;
        rest = others;
        Some(frame.to_vec())
    };
    let mut pairs = Vec::new();
    while let Some(name) = frame() {
        pairs.push((name, frame()?));
    }
    Some(pairs)
}

/// Dials, shakes hands and returns a connection at rest in the state of `lane`.
///
/// # Errors
/// Why it could not be had; [`Error::Timeout`] after `limit` in all.
pub(crate) async fn connect(
    target: &Target,
    lane: LaneKey,
    name: &str,
    identity: &Identity,
    limit: Duration,
) -> Result<Transport, Error> {
    open(target, lane, name, identity, limit).await.map(|wire| wire.transport)
}

/// As [`connect`], for whoever wants to go on asking.
///
/// # Errors
/// As [`connect`].
pub(crate) async fn open(
    target: &Target,
    lane: LaneKey,
    name: &str,
    identity: &Identity,
    limit: Duration,
) -> Result<Wire, Error> {
    let steps = async {
        let mut wire = Wire { transport: dial(&target.address).await? };
        wire.greet(target, lane.protocol, identity).await?;
        // Older servers and strict ACLs refuse the name; it only helps whoever reads CLIENT LIST.
        wire.ask(&[b"CLIENT", b"SETNAME", name.as_bytes()]).await?;
        if lane.database != 0 {
            wire.select(lane.database).await?;
        }
        wire.expect("PING", &[b"PING"]).await?;
        Ok(wire)
    };
    timeout(limit, steps).await.unwrap_or(Err(Error::Timeout))
}

/// Turns a connection at rest in the state of `from` into one of `to`.
///
/// # Errors
/// As [`connect`]; the connection is closed then.
pub(crate) async fn switch(
    transport: Transport,
    from: LaneKey,
    to: LaneKey,
    limit: Duration,
) -> Result<Transport, Error> {
    let steps = async {
        let mut wire = Wire { transport };
        if from.protocol != to.protocol {
            let version: &[u8] = if to.protocol == Protocol::Resp3 { b"3" } else { b"2" };
            wire.expect("HELLO", &[b"HELLO", version]).await?;
        }
        if from.database != to.database {
            wire.select(to.database).await?;
        }
        Ok(wire.transport)
    };
    timeout(limit, steps).await.unwrap_or(Err(Error::Timeout))
}

/// Resolves the name and tries every address in turn.
async fn dial(address: &Address) -> Result<Transport, Error> {
    let (host, port) = match address {
        Address::Tcp(host, port) => (host.as_str(), *port),
        Address::Unix(path) => {
            let stream = UnixStream::connect(path).await;
            return stream.map(Transport::Unix).map_err(|error| Error::Connect(format!("{address}: {error}")));
        }
    };
    let addresses = lookup_host((host, port)).await.map_err(|error| Error::Resolve(format!("`{host}`: {error}")))?;
    let mut last = Error::Resolve(format!("`{host}` has no address"));
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                prepare(&stream)?;
                return Ok(Transport::Tcp(stream));
            }
            Err(error) => last = Error::Connect(format!("{address}: {error}")),
        }
    }
    Err(last)
}

/// Socket options of an upstream connection: no Nagle delay, and keepalive probes that notice a silent peer in 45 s.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive =
        TcpKeepalive::new().with_time(Duration::from_secs(30)).with_interval(Duration::from_secs(5)).with_retries(3);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

/// A connection that is asked one question at a time.
pub(crate) struct Wire {
    transport: Transport,
}

impl Wire {
    /// HELLO and AUTH. The first contact asks in both versions, to learn what the server says of itself in each.
    async fn greet(&mut self, target: &Target, protocol: Protocol, identity: &Identity) -> Result<(), Error> {
        let (other, own) = if protocol == Protocol::Resp3 { (b"2", b"3") } else { (b"3", b"2") };
        let mut learnt = None;
        if !identity.is_certain() {
            learnt = Some(self.hello(target, other).await?);
        }
        let reply = self.hello(target, own).await?;
        match decoded(&reply)? {
            // Before Redis 6 there is no HELLO: fine for a RESP2 lane.
            refusal if is_unknown_command(&refusal) && protocol == Protocol::Resp2 => {
                return self.authenticate(target).await;
            }
            OwnedFrame::Map { .. } | OwnedFrame::Array { .. } => {}
            refusal => return Err(refused("HELLO", &refusal)),
        }
        if let Some(other) = learnt {
            let (resp2, resp3) = if protocol == Protocol::Resp3 { (&other, &reply) } else { (&reply, &other) };
            Greeting::new(resp2, resp3).into_iter().for_each(|greeting| identity.learn(greeting));
        }
        Ok(())
    }

    /// Returns the reply's bytes.
    async fn hello(&mut self, target: &Target, version: &[u8]) -> Result<Vec<u8>, Error> {
        let user = target.username.as_deref().unwrap_or("default").as_bytes();
        match &target.password {
            Some(password) => {
                let password = password.expose_secret().as_bytes();
                self.ask_raw(&[b"HELLO", version, b"AUTH", user, password]).await
            }
            None => self.ask_raw(&[b"HELLO", version]).await,
        }
    }

    async fn authenticate(&mut self, target: &Target) -> Result<(), Error> {
        let Some(password) = &target.password else { return Ok(()) };
        let password = password.expose_secret().as_bytes();
        match &target.username {
            Some(user) => self.expect("AUTH", &[b"AUTH", user.as_bytes(), password]).await,
            None => self.expect("AUTH", &[b"AUTH", password]).await,
        }
    }

    async fn select(&mut self, database: u32) -> Result<(), Error> {
        match self.ask(&[b"SELECT", database.to_string().as_bytes()]).await? {
            // These say that the server cannot serve now, whatever the database.
            OwnedFrame::SimpleError { data, .. } if CANNOT_SERVE.iter().any(|code| data.starts_with(code)) => {
                Err(Error::Refused { step: "SELECT", reply: data })
            }
            OwnedFrame::SimpleError { data, .. } => Err(Error::Database(data)),
            _ => Ok(()),
        }
    }

    /// Asks and accepts any answer but an error.
    async fn expect(&mut self, step: &'static str, words: &[&[u8]]) -> Result<(), Error> {
        match self.ask(words).await? {
            refusal @ (OwnedFrame::SimpleError { .. } | OwnedFrame::BlobError { .. }) => Err(refused(step, &refusal)),
            _ => Ok(()),
        }
    }

    /// Sends one command and returns its reply.
    ///
    /// # Errors
    /// Why there is none; an error reply is a reply.
    pub(crate) async fn ask(&mut self, words: &[&[u8]]) -> Result<OwnedFrame, Error> {
        decoded(&self.ask_raw(words).await?)
    }

    async fn ask_raw(&mut self, words: &[&[u8]]) -> Result<Vec<u8>, Error> {
        let mut request = Vec::new();
        inline::encode(words.iter().copied(), &mut request);
        let mut rest = request.as_slice();
        while !rest.is_empty() {
            poll_fn(|cx| self.transport.poll_write_ready(cx)).await?;
            match self.transport.try_write(rest) {
                Ok(count) => rest = rest.get(count..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.answer().await
    }

    /// Reads exactly one reply: bytes beyond it mean that the server and we do not count alike.
    async fn answer(&mut self) -> Result<Vec<u8>, Error> {
        let mut scanner = ReplyScanner::default();
        let mut reply = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            let count = poll_fn(|cx| self.transport.poll_read(cx, &mut buffer)).await?;
            let bytes = buffer.get(..count).unwrap_or_default();
            if bytes.is_empty() {
                return Err(Error::Closed);
            }
            reply.extend_from_slice(bytes);
            match scanner.advance(bytes).map_err(|error| Error::Protocol(error.to_string()))? {
                Advance::Complete { taken, .. } if taken == count => return Ok(reply),
                Advance::Complete { .. } => return Err(Error::Protocol("surplus bytes in the handshake".to_owned())),
                Advance::More if reply.len() > MAX_REPLY => {
                    return Err(Error::Protocol("oversized handshake reply".to_owned()));
                }
                Advance::More => {}
            }
        }
    }
}

fn decoded(reply: &[u8]) -> Result<OwnedFrame, Error> {
    match decode(reply) {
        Ok(Some((frame, _))) => Ok(frame),
        Ok(None) => Err(Error::Protocol("incomplete handshake reply".to_owned())),
        Err(error) => Err(Error::Protocol(error.to_string())),
    }
}

fn is_unknown_command(reply: &OwnedFrame) -> bool {
    matches!(reply, OwnedFrame::SimpleError { data, .. } if data.starts_with("ERR unknown command"))
}

/// The server's refusal, as an error that names the step.
fn refused(step: &'static str, reply: &OwnedFrame) -> Error {
    let reply = match reply {
        OwnedFrame::SimpleError { data, .. } => data.clone(),
        OwnedFrame::BlobError { data, .. } => String::from_utf8_lossy(data).into_owned(),
        other => format!("an unexpected {:?}", Resp3Frame::kind(other)),
    };
    Error::Refused { step, reply }
}
