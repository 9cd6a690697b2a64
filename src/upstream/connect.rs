//! Making an upstream connection: dial, then the handshake, one step at a time.
//!
//! The handshake is strictly alone on the connection and each step waits for its reply (Redis drops replies when AUTH is
//! pipelined behind other commands, redis#15640). Only a connection that has answered PING is handed over, so a server
//! that is still loading its data is not used. This is the slow path: here replies are decoded into trees.

use std::future::poll_fn;
use std::io;
use std::path::PathBuf;
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

/// What the server says of itself in reply to HELLO 3, shared by all workers; `None` before the first contact.
#[derive(Debug, Default)]
pub struct Identity {
    fields: Mutex<Option<Arc<Greeting>>>,
}

/// The fields of a HELLO reply, in the server's order.
pub(crate) type Greeting = Vec<(OwnedFrame, OwnedFrame)>;

impl Identity {
    /// The last greeting seen.
    pub(crate) fn greeting(&self) -> Option<Arc<Greeting>> {
        self.fields.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn learn(&self, greeting: Greeting) {
        *self.fields.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(greeting));
    }
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
    /// HELLO and AUTH. The first contact asks in RESP3, whatever the lane, because only that reply says all.
    async fn greet(&mut self, target: &Target, protocol: Protocol, identity: &Identity) -> Result<(), Error> {
        if protocol == Protocol::Resp3 || identity.greeting().is_none() {
            match self.hello(target, b"3").await? {
                OwnedFrame::Map { data, .. } => identity.learn(data.into_iter().collect()),
                // Before Redis 6 there is no HELLO: fine for a RESP2 lane.
                refusal if is_unknown_command(&refusal) && protocol == Protocol::Resp2 => {
                    return self.authenticate(target).await;
                }
                other => return Err(refused("HELLO 3", &other)),
            }
            if protocol == Protocol::Resp3 {
                return Ok(());
            }
        }
        match self.hello(target, b"2").await? {
            OwnedFrame::Array { .. } => Ok(()),
            refusal if is_unknown_command(&refusal) => self.authenticate(target).await,
            other => Err(refused("HELLO 2", &other)),
        }
    }

    async fn hello(&mut self, target: &Target, version: &[u8]) -> Result<OwnedFrame, Error> {
        let user = target.username.as_deref().unwrap_or("default").as_bytes();
        match &target.password {
            Some(password) => {
                let password = password.expose_secret().as_bytes();
                self.ask(&[b"HELLO", version, b"AUTH", user, password]).await
            }
            None => self.ask(&[b"HELLO", version]).await,
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
    async fn answer(&mut self) -> Result<OwnedFrame, Error> {
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
                Advance::Complete { taken, .. } if taken == count => break,
                Advance::Complete { .. } => return Err(Error::Protocol("surplus bytes in the handshake".to_owned())),
                Advance::More if reply.len() > MAX_REPLY => {
                    return Err(Error::Protocol("oversized handshake reply".to_owned()));
                }
                Advance::More => {}
            }
        }
        match decode(&reply) {
            Ok(Some((frame, _))) => Ok(frame),
            Ok(None) => Err(Error::Protocol("incomplete handshake reply".to_owned())),
            Err(error) => Err(Error::Protocol(error.to_string())),
        }
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
