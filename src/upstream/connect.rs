//! Making an upstream connection: dial, then the handshake, one step at a time.
//!
//! The handshake is strictly alone on the connection and each step waits for its reply (Redis drops replies when AUTH is
//! pipelined behind other commands, redis#15640). Each reply must be of the kind that answers its step: one too many would
//! shift all that follow, and the first client would get the reply to our last question. Only a connection that has
//! answered PING is handed over, so a server that is still loading its data is not used. This is the slow path: here
//! replies are decoded into trees.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use redis_protocol::resp3::decode::complete::decode;
use redis_protocol::resp3::types::{OwnedFrame, Resp3Frame};
use secrecy::{ExposeSecret, SecretString};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, timeout};

use super::error::{Error, cannot_serve};
use super::resolve::Resolver;
use super::supervisor::DialFailure;
use crate::resp::inline;
use crate::resp::reply::{Advance, ReplyScanner};
use crate::secret::Secret;
use crate::transport::Transport;

/// Largest handshake reply, in bytes; a server that says more is not Redis.
const MAX_REPLY: usize = 1024 * 1024;

/// A server that says it cannot serve yet is asked again on the same connection after so long; dialling anew would cost it
/// more.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// An id that no connection will ever have: killing it shows whether we may kill at all.
const NO_SUCH_ID: &[u8] = b"9223372036854775807";

/// What Redis says of an EXEC that it does not run, before the reason.
pub(super) const ABORTED_BECAUSE: &str = "EXECABORT Transaction discarded because of: ";

/// Where Redis is and who we are there.
#[derive(Debug, Clone)]
pub struct Target {
    /// The address to dial.
    pub address: Address,
    /// The ACL user; `None` is the server's default user.
    pub username: Option<String>,
    /// The password, never printed.
    pub password: Option<Secret>,
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
    /// All of this was asked of the server that is there now, as far as we know.
    certain: AtomicBool,
    /// The server lets us use CLIENT KILL.
    may_kill: AtomicBool,
    /// The server's error line, if it refuses us MULTI or EXEC.
    no_blocks: Mutex<Option<Arc<str>>>,
    /// Whether there is one, to be looked at without the lock.
    refuses_blocks: AtomicBool,
    /// The kind and version of the server, packed, to be looked at without the lock; 0 before the first contact.
    release: AtomicU64,
}

/// The kind and version of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Release {
    /// It says that it is Valkey.
    pub(crate) is_valkey: bool,
    /// Major and minor version.
    pub(crate) version: (u32, u32),
}

impl Release {
    /// Beside the version, so that an unknown server is none of the known ones.
    const KNOWN: u64 = 1 << 33;
    const VALKEY: u64 = 1 << 32;

    fn pack(self) -> u64 {
        let (major, minor) = self.version;
        let valkey = if self.is_valkey { Self::VALKEY } else { 0 };
        Self::KNOWN | valkey | u64::from(major.min(0xffff) << 16 | minor.min(0xffff))
    }

    fn unpack(packed: u64) -> Option<Self> {
        let part = |shift: u32| u32::try_from(packed >> shift & 0xffff).unwrap_or_default();
        let is_valkey = packed & Self::VALKEY != 0;
        (packed & Self::KNOWN != 0).then(|| Self { is_valkey, version: (part(16), part(0)) })
    }
}

/// The server's replies to HELLO, as it sent them.
#[derive(Debug)]
pub(crate) struct Greeting {
    /// Names and values of HELLO 2, each a whole frame.
    pub(crate) resp2: Vec<(Vec<u8>, Vec<u8>)>,
    /// Names and values of HELLO 3, each a whole frame.
    pub(crate) resp3: Vec<(Vec<u8>, Vec<u8>)>,
    /// What the server is, and its version in full.
    release: Release,
    pub(crate) version_text: String,
}

impl Identity {
    /// The greeting of the server reached last.
    pub(crate) fn greeting(&self) -> Option<Arc<Greeting>> {
        self.greeting.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// True if the server reached last is like a Redis before this version.
    pub(crate) fn is_before(&self, major: u32, minor: u32) -> bool {
        self.release().is_some_and(|release| release.version < (major, minor))
    }

    /// What the server reached last is; none before the first contact.
    pub(crate) fn release(&self) -> Option<Release> {
        Release::unpack(self.release.load(Ordering::Relaxed))
    }

    /// The server's error line if it refuses us MULTI or EXEC. Asked before a connection is used, so that whoever has one
    /// knows.
    pub(crate) fn refusal_of_blocks(&self) -> Option<Arc<str>> {
        let refuses = self.refuses_blocks.load(Ordering::Acquire);
        refuses.then(|| self.no_blocks.lock().unwrap_or_else(PoisonError::into_inner).clone()).flatten()
    }

    /// True if the server lets us use CLIENT KILL, as far as we know.
    pub(crate) fn may_kill(&self) -> bool {
        self.may_kill.load(Ordering::Relaxed)
    }

    /// A connection was lost: the next may reach another server, which is to be asked again.
    pub(crate) fn doubt(&self) {
        self.certain.store(false, Ordering::Relaxed);
    }

    fn is_certain(&self) -> bool {
        self.certain.load(Ordering::Acquire)
    }

    fn learn(&self, greeting: Greeting) {
        self.release.store(greeting.release.pack(), Ordering::Relaxed);
        *self.greeting.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(greeting));
    }

    fn learn_refusal_of_blocks(&self, refusal: Option<String>) {
        let refuses = refusal.is_some();
        *self.no_blocks.lock().unwrap_or_else(PoisonError::into_inner) = refusal.map(Arc::from);
        self.refuses_blocks.store(refuses, Ordering::Release);
    }
}

impl Greeting {
    /// Made of the replies to HELLO 2 and HELLO 3; nothing if they are not of the form expected.
    fn new(resp2: &[u8], resp3: &[u8]) -> Option<Self> {
        let (resp2, resp3) = (pairs(resp2)?, pairs(resp3)?);
        let version = resp3.iter().find(|(name, _)| name == b"$7\r\nversion\r\n").map(|(_, value)| value);
        let text = String::from_utf8_lossy(version?).into_owned();
        let version_text = text.lines().nth(1)?.to_owned();
        let mut numbers = version_text.split('.').map(|number| number.parse().unwrap_or(0));
        let version = (numbers.next()?, numbers.next().unwrap_or(0));
        let is_valkey = resp3.iter().any(|(name, value)| name == b"$6\r\nserver\r\n" && value == b"$6\r\nvalkey\r\n");
        Some(Self { resp2, resp3, release: Release { is_valkey, version }, version_text })
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

/// Our end of a connection as the server knows it: its CLIENT ID there, and our address as it sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) id: u64,
    pub(crate) address: String,
}

/// How to get a connection.
pub(crate) struct Attempt<'a> {
    /// Where, and who we are there.
    pub(crate) target: &'a Target,
    /// The state it is to be in.
    pub(crate) lane: LaneKey,
    /// What CLIENT LIST is to show.
    pub(crate) name: &'a str,
    /// What is known of the server, and learnt of it.
    pub(crate) identity: &'a Identity,
    /// The addresses of its name.
    pub(crate) resolver: &'a Arc<Resolver>,
    /// Called when it is about to leave, after the name was resolved; false if it must not.
    pub(crate) leaves: &'a (dyn Fn() -> bool + Sync),
    /// Called when it has left, which may be later than it was meant to on a busy machine.
    pub(crate) has_left: &'a (dyn Fn() + Sync),
    /// How long all addresses together may take to be connected.
    pub(crate) limit: Duration,
    /// What was sent and is not acknowledged for so long ends the connection.
    pub(crate) user_timeout: Duration,
    /// How far it has come.
    pub(crate) progress: &'a Progress,
}

/// How far an attempt has come, for those who wait for it.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    state: RefCell<(bool, Option<Error>)>,
    news: Notify,
}

impl Progress {
    /// True once something took our connection: it may answer yet, however late.
    pub(crate) fn is_connected(&self) -> bool {
        self.state.borrow().0
    }

    /// Waits until the server says that it cannot serve now. The attempt goes on meanwhile.
    pub(crate) async fn refusal(&self) -> Error {
        loop {
            if let Some(error) = self.state.borrow().1.clone() {
                return error;
            }
            self.news.notified().await;
        }
    }
}

/// Dials, shakes hands and returns a connection at rest in the state asked for, with what the server calls it, and when the
/// last question was asked that the server answered. Goes on as long as the server is silent or says that it cannot serve yet: the caller sets the limit.
///
/// # Errors
/// Why it could not be had.
pub(crate) async fn connect(attempt: &Attempt<'_>) -> Result<(Transport, Option<Peer>, Instant), Error> {
    let mut wire = Wire { transport: attempt.dial().await? };
    attempt.progress.state.borrow_mut().0 = true;
    let uncertain = !attempt.identity.is_certain();
    wire.greet(attempt.target, attempt.lane.protocol, attempt.identity, uncertain).await?;
    while let Err(error) = wire.expect("PING", &[b"PING"], is_pong).await {
        if !error.is_for_now() {
            return Err(error);
        }
        attempt.progress.state.borrow_mut().1 = Some(error);
        attempt.progress.news.notify_waiters();
        sleep(ASK_AGAIN).await;
    }
    // Older servers and strict ACLs refuse the name; it only helps whoever reads CLIENT LIST.
    answered("CLIENT SETNAME", wire.ask(&[b"CLIENT", b"SETNAME", attempt.name.as_bytes()]).await?, is_ok)?;
    let asked = Instant::now();
    let peer = wire.peer().await?;
    if uncertain {
        attempt.identity.learn_refusal_of_blocks(wire.refusal_of_blocks().await?);
        let killed = wire.ask(&[b"CLIENT", b"KILL", b"ID", NO_SUCH_ID]).await?;
        let killed = answered("CLIENT KILL", killed, |reply| matches!(reply, OwnedFrame::Number { .. }))?;
        attempt.identity.may_kill.store(matches!(killed, OwnedFrame::Number { .. }), Ordering::Relaxed);
        attempt.identity.certain.store(true, Ordering::Release);
    }
    if attempt.lane.database != 0 {
        wire.select(attempt.lane.database).await?;
    }
    Ok((wire.transport, peer, asked))
}

/// A connection to a server that may be able to answer nothing but HELLO and AUTH.
///
/// # Errors
/// As [`connect`].
pub(crate) async fn introduce(attempt: &Attempt<'_>) -> Result<Wire, Error> {
    let mut wire = Wire { transport: attempt.dial().await? };
    wire.greet(attempt.target, attempt.lane.protocol, attempt.identity, false).await?;
    Ok(wire)
}

/// A connection for whoever wants to ask a few things: dial, HELLO, PING.
///
/// # Errors
/// Why it could not be had; [`Error::Timeout`] after `limit` in all.
pub(crate) async fn open(target: &Target, lane: LaneKey, name: &str, limit: Duration) -> Result<Wire, Error> {
    let (identity, resolver, progress) = (Identity::default(), Arc::<Resolver>::default(), Progress::default());
    let (identity, resolver, progress) = (&identity, &resolver, &progress);
    let attempt = Attempt {
        target,
        lane,
        name,
        identity,
        resolver,
        leaves: &|| true,
        has_left: &|| (),
        limit,
        user_timeout: limit,
        progress,
    };
    let steps = async {
        let mut wire = Wire { transport: attempt.dial().await? };
        wire.greet(target, lane.protocol, identity, true).await?;
        wire.expect("PING", &[b"PING"], is_pong).await?;
        wire.ask(&[b"CLIENT", b"SETNAME", name.as_bytes()]).await?;
        if lane.database != 0 {
            wire.select(lane.database).await?;
        }
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
            wire.expect("HELLO", &[b"HELLO", version], is_greeting).await?;
        }
        if from.database != to.database {
            wire.select(to.database).await?;
        }
        Ok(wire.transport)
    };
    timeout(limit, steps).await.unwrap_or(Err(Error::Timeout))
}

impl Attempt<'_> {
    /// Resolves the name and tries every address in turn, each for its share of the time.
    async fn dial(&self) -> Result<Transport, Error> {
        let address = &self.target.address;
        let (host, port) = match address {
            Address::Tcp(host, port) => (host.as_str(), *port),
            Address::Unix(path) => {
                let stream = UnixStream::connect(path).await;
                return stream.map(Transport::Unix).map_err(|error| Error::Connect(format!("{address}: {error}")));
            }
        };
        let addresses = self.resolver.addresses(host, port).await?;
        if !(self.leaves)() {
            return Err(Error::Withheld);
        }
        let share = self.limit / u32::try_from(addresses.len().max(1)).unwrap_or(u32::MAX);
        let mut last = Error::Resolve(format!("`{host}` has no address"));
        for address in addresses {
            match timeout(share, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    prepare(&stream, self.user_timeout)?;
                    return Ok(Transport::Tcp(stream));
                }
                Ok(Err(error)) => last = Error::Connect(format!("{address}: {error}")),
                Err(_) => last = Error::Timeout,
            }
            (self.has_left)();
        }
        Err(last)
    }
}

/// Socket options of an upstream connection: no Nagle delay, keepalive probes that notice a silent peer in 45 s, and
/// TCP_USER_TIMEOUT (RFC 5482), without which the kernel goes on for a quarter of an hour to send to a peer that is gone.
fn prepare(stream: &TcpStream, user_timeout: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_user_timeout(Some(user_timeout))?;
    let keepalive =
        TcpKeepalive::new().with_time(Duration::from_secs(30)).with_interval(Duration::from_secs(5)).with_retries(3);
    socket.set_tcp_keepalive(&keepalive)
}

/// Who we are at the server.
#[derive(Clone, Copy)]
struct User<'a> {
    /// The server's default user without one.
    name: Option<&'a str>,
    password: Option<&'a SecretString>,
}

/// Reads a secret's file; true if it holds another one than before. A disk may take its time, which others have no part in.
async fn read_again(secret: &Secret) -> bool {
    let secret = secret.clone();
    // Why it could not be read is told by whoever reads it from time to time.
    spawn_blocking(move || secret.read()).await.is_ok_and(|read| read.is_ok_and(|changed| changed))
}

/// A connection that is asked one question at a time.
pub(crate) struct Wire {
    transport: Transport,
}

impl Wire {
    /// HELLO and AUTH. A server that refuses our password may have got another meanwhile, or may be about to: the file is
    /// read again, and if it says nothing new, the password before is tried, once.
    async fn greet(
        &mut self,
        target: &Target,
        protocol: Protocol,
        identity: &Identity,
        uncertain: bool,
    ) -> Result<(), Error> {
        let password = target.password.as_ref().map(Secret::current);
        let user = User { name: target.username.as_deref(), password: password.as_ref() };
        let refusal = match self.greet_as(user, protocol, identity, uncertain).await {
            Err(error) if error.dial_failure() == DialFailure::Password && !error.is_of_lane() => error,
            other => return other,
        };
        let Some(secret) = &target.password else { return Err(refusal) };
        let other = if read_again(secret).await { Some(secret.current()) } else { secret.previous() };
        if other.is_none() {
            return Err(refusal);
        }
        let user = User { password: other.as_ref(), ..user };
        self.greet_as(user, protocol, identity, uncertain).await
    }

    /// The same as this user. Where the server is not known it is asked in both versions, to learn what it says of itself in
    /// each.
    async fn greet_as(
        &mut self,
        user: User<'_>,
        protocol: Protocol,
        identity: &Identity,
        uncertain: bool,
    ) -> Result<(), Error> {
        let (other, own) = if protocol == Protocol::Resp3 { (b"2", b"3") } else { (b"3", b"2") };
        let mut learnt = None;
        if uncertain {
            let reply = self.hello(user, other).await?;
            answered("HELLO", decoded(&reply)?, is_greeting)?;
            learnt = Some(reply);
        }
        let reply = self.hello(user, own).await?;
        match answered("HELLO", decoded(&reply)?, is_greeting)? {
            // Before Redis 6 there is no HELLO: fine for a RESP2 lane.
            refusal if is_unknown_command(&refusal) && protocol == Protocol::Resp2 => {
                return self.authenticate(user).await;
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
    async fn hello(&mut self, user: User<'_>, version: &[u8]) -> Result<Vec<u8>, Error> {
        let name = user.name.unwrap_or("default").as_bytes();
        match user.password {
            Some(password) => {
                let password = password.expose_secret().as_bytes();
                self.ask_raw(&[b"HELLO", version, b"AUTH", name, password]).await
            }
            None => self.ask_raw(&[b"HELLO", version]).await,
        }
    }

    /// What the server calls this connection; unknown where it does not say (before Redis 6.2, or by ACL).
    async fn peer(&mut self) -> Result<Option<Peer>, Error> {
        let is_text =
            |reply: &OwnedFrame| matches!(reply, OwnedFrame::BlobString { .. } | OwnedFrame::VerbatimString { .. });
        let reply = answered("CLIENT INFO", self.ask(&[b"CLIENT", b"INFO"]).await?, is_text)?;
        let (OwnedFrame::BlobString { data, .. } | OwnedFrame::VerbatimString { data, .. }) = reply else {
            return Ok(None);
        };
        let text = String::from_utf8_lossy(&data);
        let field = |name: &str| text.split_ascii_whitespace().find_map(|field| field.strip_prefix(name));
        let id = field("id=").and_then(|id| id.parse().ok());
        Ok(id.zip(field("addr=")).map(|(id, address)| Peer { id, address: address.to_owned() }))
    }

    async fn authenticate(&mut self, user: User<'_>) -> Result<(), Error> {
        let Some(password) = user.password else { return Ok(()) };
        let password = password.expose_secret().as_bytes();
        match user.name {
            Some(name) => self.expect("AUTH", &[b"AUTH", name.as_bytes(), password], is_ok).await,
            None => self.expect("AUTH", &[b"AUTH", password], is_ok).await,
        }
    }

    /// The server's error line if it refuses MULTI or EXEC; found out by a block of nothing. A MULTI that was refused would
    /// let the commands behind it run bare.
    pub(crate) async fn refusal_of_blocks(&mut self) -> Result<Option<String>, Error> {
        let lasting = |step, reply: String| match cannot_serve(reply.as_bytes()) {
            true => Err(Error::Refused { step, reply }),
            false => Ok(Some(reply)),
        };
        if let OwnedFrame::SimpleError { data, .. } = answered("MULTI", self.ask(&[b"MULTI"]).await?, is_ok)? {
            return lasting("MULTI", data);
        }
        let is_empty = |reply: &OwnedFrame| matches!(reply, OwnedFrame::Array { data, .. } if data.is_empty());
        match answered("EXEC", self.ask(&[b"EXEC"]).await?, is_empty)? {
            OwnedFrame::SimpleError { data, .. } => match data.strip_prefix(ABORTED_BECAUSE) {
                Some(reason) => lasting("EXEC", reason.to_owned()),
                None => {
                    // Before Redis 6.2 a refused EXEC leaves the block open.
                    self.expect("DISCARD", &[b"DISCARD"], is_ok).await?;
                    lasting("EXEC", data)
                }
            },
            _ => Ok(None),
        }
    }

    async fn select(&mut self, database: u32) -> Result<(), Error> {
        let reply = self.ask(&[b"SELECT", database.to_string().as_bytes()]).await?;
        match answered("SELECT", reply, is_ok)? {
            // It cannot serve now, whatever the database.
            OwnedFrame::SimpleError { data, .. } if cannot_serve(data.as_bytes()) => {
                Err(Error::Refused { step: "SELECT", reply: data })
            }
            OwnedFrame::SimpleError { data, .. } => Err(Error::Database(data)),
            _ => Ok(()),
        }
    }

    /// Asks, and accepts such an answer but no error.
    async fn expect(
        &mut self,
        step: &'static str,
        words: &[&[u8]],
        is_answer: impl FnOnce(&OwnedFrame) -> bool,
    ) -> Result<(), Error> {
        match answered(step, self.ask(words).await?, is_answer)? {
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

    /// The same, with the reply as it came.
    ///
    /// # Errors
    /// As [`Wire::ask`].
    pub(crate) async fn ask_raw(&mut self, words: &[&[u8]]) -> Result<Vec<u8>, Error> {
        let mut surplus = [0; 64];
        match poll_fn(|cx| Poll::Ready(self.transport.poll_read(cx, &mut surplus))).await {
            Poll::Pending => {}
            Poll::Ready(Ok(0)) => return Err(Error::Closed),
            Poll::Ready(Ok(_)) => return Err(Error::Protocol("a reply that nobody waits for".to_owned())),
            Poll::Ready(Err(error)) => return Err(error.into()),
        }
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

/// The reply to a step, which must be of that kind, or an error.
fn answered(
    step: &'static str,
    reply: OwnedFrame,
    is_answer: impl FnOnce(&OwnedFrame) -> bool,
) -> Result<OwnedFrame, Error> {
    let is_error = matches!(reply, OwnedFrame::SimpleError { .. } | OwnedFrame::BlobError { .. });
    if is_error || is_answer(&reply) {
        Ok(reply)
    } else {
        Err(Error::Protocol(format!("{step} was answered by a {:?}", Resp3Frame::kind(&reply))))
    }
}

fn is_greeting(reply: &OwnedFrame) -> bool {
    matches!(reply, OwnedFrame::Map { .. } | OwnedFrame::Array { .. })
}

fn is_pong(reply: &OwnedFrame) -> bool {
    matches!(reply, OwnedFrame::SimpleString { data, .. } if data == b"PONG")
}

fn is_ok(reply: &OwnedFrame) -> bool {
    matches!(reply, OwnedFrame::SimpleString { .. })
}

/// The server's refusal, as an error that names the step.
fn refused(step: &'static str, reply: &OwnedFrame) -> Error {
    let reply = match reply {
        OwnedFrame::SimpleError { data, .. } => data.clone(),
        OwnedFrame::BlobError { data, .. } => String::from_utf8_lossy(data).into_owned(),
        other => format!("an unexpected {:?}", Resp3Frame::kind(other)),
    };
    Error::Refused { step, reply: without_echo(reply) }
}

/// An error line without what the server repeats of the request: that may be a password.
fn without_echo(mut line: String) -> String {
    if let Some(at) = line.find("with args") {
        line.truncate(at);
        line.truncate(line.trim_end_matches([' ', ',']).len());
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_repeats_of_a_password_is_not_told() {
        let told = |line: &str| without_echo(line.to_owned());
        let echo = "ERR unknown command `HELLO`, with args beginning with: `3`, `AUTH`, `default`, `hunter2`,";
        assert_eq!(told(echo), "ERR unknown command `HELLO`");
        assert_eq!(
            told("NOPERM this user may not run the 'hello' command"),
            "NOPERM this user may not run the 'hello' command"
        );
        assert_eq!(told("WRONGPASS invalid username-password pair"), "WRONGPASS invalid username-password pair");
    }

    #[test]
    fn a_release_fits_into_a_number() {
        assert_eq!(Release::unpack(0), None);
        for is_valkey in [false, true] {
            for version in [(0, 0), (6, 2), (7, 4), (9, 1), (255, 65_535)] {
                let release = Release { is_valkey, version };
                assert_eq!(Release::unpack(release.pack()), Some(release));
            }
        }
    }
}
