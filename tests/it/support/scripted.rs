//! An upstream that does what a test tells it, for faults that no real server produces on demand.
//!
//! It answers the handshake by itself, as its [`Mood`] is, and hands each connection that came through to the test as a
//! [`Line`]. A test then reads as a story: the line expects a request, says bytes, ends. A line that is not read is an
//! upstream that does not read.

use super::{Frame, PATIENCE, frame_length, wait_until};
use socket2::SockRef;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{fs, thread};

/// The kernel's buffer for what was sent to us and we have not read, in bytes: small, so that a sender soon blocks.
const RECEIVE_BUFFER: usize = 64 * 1024;

/// How long a handshake may look unfinished after the proxy gave it up: our thread has yet to read its end.
const GRACE: Duration = Duration::from_millis(300);

/// One request, word by word.
pub type Request = Vec<Vec<u8>>;

/// What becomes of new connections.
#[derive(Clone, Copy, Debug)]
pub enum Mood {
    /// They are answered as a server answers.
    Well,
    /// They are closed as soon as they are accepted.
    HangsUp,
    /// They are told this before they ask anything, and closed.
    Full(&'static str),
    /// They are accepted, and that is all.
    Silent,
    /// Requests that begin with the first are answered with the second as long as this mood lasts; all others well.
    Refuses(&'static str, &'static str),
}

/// The upstream; it stops accepting when dropped.
pub struct Scripted {
    address: SocketAddr,
    shared: Arc<Shared>,
    lines: Receiver<Line>,
    /// Lines that came and were not asked for yet.
    waiting: Vec<Line>,
}

struct Shared {
    mood: Mutex<Mood>,
    /// Takes lines to the test; none once all are echoed.
    test: Mutex<Option<Sender<Line>>>,
    /// When each connection was accepted.
    dials: Mutex<Vec<Instant>>,
    /// The last connection's number.
    id: AtomicU64,
    unfinished: AtomicUsize,
    most_unfinished: AtomicUsize,
    over: AtomicBool,
}

impl Shared {
    /// Waits a moment before one more handshake would be a new record: one of the others may be over already.
    fn wait_for_those_given_up(&self) {
        let start = Instant::now();
        while self.unfinished.load(SeqCst) >= self.most_unfinished.load(SeqCst).max(1) && start.elapsed() < GRACE {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Scripted {
    /// Listens on a free port of 127.0.0.1 and is well.
    pub fn start() -> Self {
        Self::start_in(Mood::Well)
    }

    /// The same in another mood.
    pub fn start_in(mood: Mood) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        SockRef::from(&listener).set_recv_buffer_size(RECEIVE_BUFFER).expect("the buffer can be made small");
        let address = listener.local_addr().expect("it is bound");
        let (sender, lines) = channel();
        let shared = Arc::new(Shared {
            mood: Mutex::new(mood),
            test: Mutex::new(Some(sender)),
            dials: Mutex::default(),
            id: AtomicU64::new(0),
            unfinished: AtomicUsize::new(0),
            most_unfinished: AtomicUsize::new(0),
            over: AtomicBool::new(false),
        });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || accept(&listener, &accepting));
        Self { address, shared, lines, waiting: Vec::new() }
    }

    /// `127.0.0.1:PORT`
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Changes what becomes of new connections; those that are silent stay so.
    pub fn turn(&self, mood: Mood) {
        *locked(&self.shared.mood) = mood;
    }

    /// The next connection that speaks this version of RESP and has its handshake behind it.
    pub fn line(&mut self, protocol: u8) -> Line {
        let start = Instant::now();
        loop {
            assert!(start.elapsed() < PATIENCE, "nobody dialled and asked for RESP{protocol}, only for the other");
            if let Some(found) = self.waiting.iter().position(|line| line.protocol == protocol) {
                return self.waiting.remove(found);
            }
            let line = self.lines.recv_timeout(PATIENCE);
            self.waiting.push(line.unwrap_or_else(|_| panic!("nobody dialled and asked for RESP{protocol}")));
        }
    }

    /// From now on every connection that the test did not take answers each request with its last word.
    pub fn echo(&mut self) {
        *locked(&self.shared.test) = None;
        let untaken = self.waiting.drain(..).chain(self.lines.iter());
        untaken.for_each(Line::echo_on);
    }

    /// Connections accepted so far.
    pub fn dials(&self) -> usize {
        locked(&self.shared.dials).len()
    }

    /// When each of them was.
    pub fn dialled(&self) -> Vec<Instant> {
        locked(&self.shared.dials).clone()
    }

    /// The most connections that were in their handshake at once.
    pub fn most_unfinished(&self) -> usize {
        self.shared.most_unfinished.load(SeqCst)
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.shared.over.store(true, SeqCst);
        // Wakes the thread that accepts, so that it sees the flag.
        drop(TcpStream::connect(self.address));
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        let Ok(stream) = stream else { return };
        if shared.over.load(SeqCst) {
            return;
        }
        locked(&shared.dials).push(Instant::now());
        shared.wait_for_those_given_up();
        let unfinished = shared.unfinished.fetch_add(1, SeqCst) + 1;
        shared.most_unfinished.fetch_max(unfinished, SeqCst);
        let shared = Arc::clone(shared);
        thread::spawn(move || {
            let id = shared.id.fetch_add(1, SeqCst) + 1;
            let came_through = Line::over(stream, id).and_then(|line| line.shake_hands(&shared.mood));
            shared.unfinished.fetch_sub(1, SeqCst);
            let Ok(Some(mut line)) = came_through else { return };
            let test = locked(&shared.test);
            match &*test {
                // Without a receiver the test is over, and the line ends.
                Some(test) => drop(test.send(line)),
                None => {
                    drop(test);
                    line.echo();
                }
            }
        });
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One connection from the proxy; closed when dropped.
pub struct Line {
    stream: TcpStream,
    /// Read and not taken.
    unread: Vec<u8>,
    protocol: u8,
    database: u32,
    /// What CLIENT INFO tells the proxy of it.
    id: u64,
    peer: SocketAddr,
}

impl Line {
    fn over(stream: TcpStream, id: u64) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let peer = stream.peer_addr()?;
        Ok(Self { stream, unread: Vec::new(), protocol: 2, database: 0, id, peer })
    }

    /// The request that ends this connection and no other, by what CLIENT INFO told of it.
    pub fn end_of_it(&self) -> String {
        format!("CLIENT KILL ID {} ADDR {}", self.id, self.peer)
    }

    /// The database that the proxy selected.
    pub fn database(&self) -> u32 {
        self.database
    }

    /// The next request of a client; what the proxy asks for itself is answered on the way.
    pub fn request(&mut self) -> Request {
        let start = Instant::now();
        loop {
            let request = self.next().unwrap_or_else(|| panic!("the proxy ended the connection"));
            assert!(start.elapsed() < 2 * PATIENCE, "no client asked anything, only the proxy itself");
            match self.housekeeping(&request) {
                Some(reply) => self.say(&reply),
                None => return request,
            }
        }
    }

    /// The next request, whoever made it; none when the proxy has ended the connection.
    pub fn next(&mut self) -> Option<Request> {
        self.stream.set_read_timeout(Some(PATIENCE)).expect("a limit can be set");
        self.try_next().unwrap_or_else(|error| panic!("no request, but {error}"))
    }

    /// Takes the next request of a client, which must be these words.
    pub fn expect(&mut self, text: &str) {
        assert_eq!(shown(&self.request()), text);
    }

    /// Takes the very next request, whoever made it, which must be these words; only PING is answered on the way.
    pub fn expect_next(&mut self, text: &str) {
        let start = Instant::now();
        let mut request = self.next();
        while request.as_ref().is_some_and(|request| shown(request) == "PING") {
            assert!(start.elapsed() < PATIENCE, "nothing but PING came instead of {text}");
            self.say(b"+PONG\r\n");
            request = self.next();
        }
        assert_eq!(request.as_ref().map_or_else(|| "the end of the connection".to_owned(), shown), text);
    }

    /// Leaves it to itself: it answers each request with its last word, until the proxy ends it.
    pub fn echo_on(mut self) {
        thread::spawn(move || self.echo());
    }

    /// Waits for the first bytes of a request that is not to be read whole.
    pub fn expect_start(&mut self, start: &[u8]) {
        while self.unread.len() < start.len() {
            let mut room = vec![0; start.len() - self.unread.len()];
            self.stream.read_exact(&mut room).expect("the proxy goes on sending");
            self.unread.extend_from_slice(&room);
        }
        assert!(self.unread.starts_with(start), "{} came", self.unread.escape_ascii());
    }

    /// Sends bytes.
    pub fn say(&mut self, bytes: &[u8]) {
        self.try_say(bytes).unwrap_or_else(|error| panic!("the proxy takes no reply: {error}"));
    }

    /// The same, where the proxy may have ended the connection.
    pub fn try_say(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends pieces, each once the proxy has read the one before, so that it never finds two in one read.
    pub fn say_in_pieces<'bytes>(&mut self, pieces: impl IntoIterator<Item = &'bytes [u8]>) {
        for piece in pieces {
            self.say(piece);
            wait_until("the proxy has read the piece", PATIENCE, || is_taken(&self.stream));
        }
    }

    /// Waits until the proxy has ended the connection; what it still sent is thrown away.
    pub fn wait_for_end(&mut self) {
        self.stream.set_read_timeout(Some(PATIENCE)).expect("a limit can be set");
        match io::copy(&mut self.stream, &mut io::sink()) {
            Err(error) if error.kind() != ErrorKind::ConnectionReset => panic!("it was not ended: {error}"),
            Ok(_) | Err(_) => {}
        }
    }

    /// Says that nothing more comes, and goes on reading: the whole requests that the proxy had handed to the kernel.
    pub fn end_and_drain(mut self) -> Vec<Request> {
        self.stream.shutdown(Shutdown::Write).expect("the connection is open");
        std::iter::from_fn(|| self.next()).collect()
    }

    /// Ends the connection by a reset.
    pub fn reset(self) {
        SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).expect("lingering can be switched off");
    }

    /// Answers each request with its last word, until the proxy ends the connection.
    fn echo(&mut self) {
        while let Ok(Some(request)) = self.try_next() {
            let reply = self.housekeeping(&request).unwrap_or_else(|| bulk(request.last().map_or(b"", Vec::as_slice)));
            if self.stream.write_all(&reply).is_err() {
                return;
            }
        }
    }

    /// Answers until the proxy's handshake is over, but for a SELECT; none if it does not come so far.
    ///
    /// CLIENT INFO ends it; where the proxy asks for HELLO twice, because it does not know this server yet, it also tries a
    /// block of nothing, and then the CLIENT KILL of nobody ends it, to learn whether it may use these.
    fn shake_hands(mut self, mood: &Mutex<Mood>) -> io::Result<Option<Self>> {
        let at_first = *locked(mood);
        match at_first {
            Mood::Well | Mood::Refuses(..) => {}
            Mood::HangsUp => return Ok(None),
            Mood::Full(words) => {
                self.stream.write_all(words.as_bytes())?;
                return Ok(None);
            }
            Mood::Silent => {
                io::copy(&mut self.stream, &mut io::sink())?;
                return Ok(None);
            }
        }
        let mut greetings = 0;
        while let Some(request) = self.try_next()? {
            let words = shown(&request);
            let block = match words.as_str() {
                "MULTI" => Some(b"+OK\r\n".to_vec()),
                "EXEC" => Some(b"*0\r\n".to_vec()),
                _ => None,
            };
            let Some(mut reply) = block.or_else(|| self.housekeeping(&request)) else { return Ok(None) };
            let now = *locked(mood);
            if let Mood::Refuses(refused, refusal) = now
                && words.starts_with(refused)
            {
                reply = refusal.into();
            }
            self.stream.write_all(&reply)?;
            greetings += usize::from(words.starts_with("HELLO"));
            let last = if greetings > 1 { "CLIENT KILL" } else { "CLIENT INFO" };
            if words.starts_with(last) {
                return Ok(Some(self));
            }
        }
        Ok(None)
    }

    /// What a server says to the commands by which the proxy prepares a connection and keeps it; none to others.
    fn housekeeping(&mut self, request: &Request) -> Option<Vec<u8>> {
        let words: Vec<_> = request.iter().map(|word| String::from_utf8_lossy(word)).collect();
        match words.iter().map(AsRef::as_ref).collect::<Vec<_>>().as_slice() {
            ["HELLO", version, ..] => {
                self.protocol = version.parse().expect("a version is a number");
                Some(greeting(self.protocol))
            }
            ["SELECT", database] => {
                self.database = database.parse().expect("a database is a number");
                Some(b"+OK\r\n".to_vec())
            }
            ["AUTH", ..] | ["CLIENT", "SETNAME", _] => Some(b"+OK\r\n".to_vec()),
            ["PING"] => Some(b"+PONG\r\n".to_vec()),
            ["CLIENT", "INFO"] => {
                let text = format!(
                    "id={} addr={} laddr={} fd=8 name= db=0",
                    self.id,
                    self.peer,
                    self.stream.local_addr().ok()?
                );
                Some(if self.protocol == 3 { verbatim(&text) } else { bulk(text.as_bytes()) })
            }
            ["CLIENT", "KILL", "ID", ..] => Some(b":0\r\n".to_vec()),
            _ => None,
        }
    }

    fn try_next(&mut self) -> io::Result<Option<Request>> {
        let mut room = vec![0; RECEIVE_BUFFER];
        loop {
            if let Some(length) = (!self.unread.is_empty()).then(|| frame_length(&self.unread)).flatten() {
                let request = Frame::whole(&self.unread[..length]);
                self.unread.drain(..length);
                return Ok(Some(request.items.into_iter().map(|word| word.text).collect()));
            }
            match self.stream.read(&mut room) {
                Ok(0) => return Ok(None),
                Ok(count) => self.unread.extend_from_slice(&room[..count]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Whether the other side has read all that was sent: nothing waits in the kernel at either end.
pub(super) fn is_taken(stream: &TcpStream) -> bool {
    let (Ok(ours), Ok(theirs)) = (stream.local_addr(), stream.peer_addr()) else { return true };
    let table = fs::read_to_string("/proc/net/tcp").expect("the system lists its connections");
    let rows: Vec<Vec<_>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    // `sent and not acknowledged:received and not read`; a connection that is gone has nothing waiting.
    let queues = |from: SocketAddr, to: SocketAddr| {
        let (from, to) = (format!(":{:04X}", from.port()), format!(":{:04X}", to.port()));
        let row = rows.iter().find(|row| row.len() > 4 && row[1].ends_with(&from) && row[2].ends_with(&to));
        row.map_or("00000000:00000000", |row| row[4])
    };
    queues(ours, theirs).starts_with("00000000:") && queues(theirs, ours).ends_with(":00000000")
}

/// `word` as a bulk string.
pub fn bulk(word: &[u8]) -> Vec<u8> {
    [format!("${}\r\n", word.len()).as_bytes(), word, b"\r\n"].concat()
}

fn verbatim(text: &str) -> Vec<u8> {
    format!("={}\r\ntxt:{text}\r\n", text.len() + 4).into_bytes()
}

/// The words of a request, fit for a message.
fn shown(request: &Request) -> String {
    request.iter().map(|word| String::from_utf8_lossy(word)).collect::<Vec<_>>().join(" ")
}

/// What a server says to HELLO.
fn greeting(protocol: u8) -> Vec<u8> {
    let head = if protocol == 3 { "%7" } else { "*14" };
    let texts = [("server", "redis"), ("version", "7.0.15"), ("mode", "standalone"), ("role", "master")];
    let mut reply = format!("{head}\r\n").into_bytes();
    for (name, text) in texts {
        reply.extend([bulk(name.as_bytes()), bulk(text.as_bytes())].concat());
    }
    reply.extend(format!("$5\r\nproto\r\n:{protocol}\r\n$2\r\nid\r\n:1\r\n$7\r\nmodules\r\n*0\r\n").bytes());
    reply
}
