//! A client that knows nothing but bytes: it sends what it is told and reads exactly one reply at a time.

use super::frame::{self, Frame};
use super::scripted::is_taken;
use super::{PATIENCE, wait_until};
use socket2::SockRef;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Room to read into at first.
const FIRST_ROOM: usize = 16 * 1024;

/// One connection.
pub struct Client {
    stream: Stream,
    /// Room to read into; what was received and not taken yet is at `unread`.
    buffer: Vec<u8>,
    unread: Range<usize>,
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Client {
    /// Connects to `127.0.0.1:PORT` or `unix:/path`.
    pub fn connect(address: &str) -> Self {
        Self::try_connect(address).unwrap_or_else(|error| panic!("cannot connect to {address}: {error}"))
    }

    /// The same, for addresses where nobody may be listening.
    pub fn try_connect(address: &str) -> io::Result<Self> {
        let stream = match address.strip_prefix("unix:") {
            Some(path) => Stream::Unix(UnixStream::connect(path)?),
            None => {
                let stream = TcpStream::connect(address)?;
                stream.set_nodelay(true)?;
                Stream::Tcp(stream)
            }
        };
        let client = Self { stream, buffer: vec![0; FIRST_ROOM], unread: 0..0 };
        client.set_patience(PATIENCE)?;
        Ok(client)
    }

    /// How long reads and writes may take before they fail.
    pub fn set_patience(&self, limit: Duration) -> io::Result<()> {
        match &self.stream {
            Stream::Tcp(stream) => {
                stream.set_read_timeout(Some(limit)).and_then(|()| stream.set_write_timeout(Some(limit)))
            }
            Stream::Unix(stream) => {
                stream.set_read_timeout(Some(limit)).and_then(|()| stream.set_write_timeout(Some(limit)))
            }
        }
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).unwrap_or_else(|error| panic!("cannot send: {error}"));
    }

    /// The same, where the other side may have closed.
    pub fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.stream {
            Stream::Tcp(stream) => stream.write_all(bytes),
            Stream::Unix(stream) => stream.write_all(bytes),
        }
    }

    /// Waits until the other side has read all that was sent.
    pub fn wait_until_read(&self) {
        if let Stream::Tcp(stream) = &self.stream {
            wait_until("all is read", PATIENCE, || is_taken(stream));
        }
    }

    /// The next reply, as it arrived.
    pub fn reply(&mut self) -> Vec<u8> {
        match self.try_reply() {
            Ok(Some(reply)) => reply,
            Ok(None) => panic!("closed instead of a reply; received {}", self.unread_shown()),
            Err(error) => panic!("no reply: {error}; received {}", self.unread_shown()),
        }
    }

    /// The next reply, or `None` if the other side closed before it began.
    pub fn try_reply(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(reply) = self.received() {
                return Ok(Some(reply));
            }
            if self.fill()? == 0 {
                return Ok(None);
            }
        }
    }

    /// The next reply, if all of it has been received.
    pub fn received(&mut self) -> Option<Vec<u8>> {
        let length = frame::length(self.unread())?;
        let reply = self.unread()[..length].to_vec();
        self.unread.start += length;
        Some(reply)
    }

    /// Sends bytes and reads one reply, where either may fail.
    pub fn exchange(&mut self, bytes: &[u8]) -> io::Result<Option<Vec<u8>>> {
        self.try_send(bytes)?;
        self.try_reply()
    }

    /// Sends one command, reads its reply.
    pub fn call(&mut self, arguments: &[&[u8]]) -> Vec<u8> {
        self.send(&command(arguments));
        self.reply()
    }

    /// Sends one command of plain words separated by spaces, reads its reply.
    pub fn ask(&mut self, text: &str) -> Vec<u8> {
        self.send(&words(text));
        self.reply()
    }

    /// The same, as a tree.
    pub fn frame(&mut self, text: &str) -> Frame {
        Frame::whole(&self.ask(text))
    }

    /// Sends all commands in one write, then reads as many replies.
    pub fn pipeline(&mut self, commands: &[Vec<u8>]) -> Vec<Vec<u8>> {
        self.send(&commands.concat());
        commands.iter().map(|_| self.reply()).collect()
    }

    /// Turns to RESP3.
    pub fn hello3(&mut self) {
        let reply = self.frame("HELLO 3");
        assert_eq!(reply.kind, b'%', "HELLO 3 was answered {reply:?}");
    }

    /// Turns to another database.
    pub fn select(&mut self, database: u32) {
        assert_eq!(self.ask(&format!("SELECT {database}")), b"+OK\r\n");
    }

    /// Says that nothing more will be sent.
    pub fn finish_sending(&self) {
        let done = match &self.stream {
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Stream::Unix(stream) => stream.shutdown(Shutdown::Write),
        };
        done.expect("the writing side can be shut down");
    }

    /// Leaves without an orderly end: what is on its way is lost, and the other side is told so.
    pub fn reset(self) {
        let socket = match &self.stream {
            Stream::Tcp(stream) => SockRef::from(stream),
            Stream::Unix(stream) => SockRef::from(stream),
        };
        socket.set_linger(Some(Duration::ZERO)).expect("lingering can be switched off");
    }

    /// Everything until the other side closes; the error if it does not close in an orderly way.
    pub fn rest(&mut self) -> io::Result<Vec<u8>> {
        while self.fill()? > 0 {}
        Ok(self.take_unread())
    }

    /// The same, where a reset counts as an end: a server that closes while more is on its way causes one.
    pub fn rest_however_closed(&mut self) -> io::Result<Vec<u8>> {
        match self.rest() {
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(self.take_unread()),
            other => other,
        }
    }

    /// Reads what has arrived, if anything; 0 at the end of the stream.
    pub fn fill_at_once(&mut self) -> io::Result<usize> {
        self.set_nonblocking(true)?;
        let read = self.fill();
        self.set_nonblocking(false)?;
        read
    }

    fn set_nonblocking(&self, is_so: bool) -> io::Result<()> {
        match &self.stream {
            Stream::Tcp(stream) => stream.set_nonblocking(is_so),
            Stream::Unix(stream) => stream.set_nonblocking(is_so),
        }
    }

    /// Reads once; 0 at the end of the stream.
    pub fn fill(&mut self) -> io::Result<usize> {
        if self.unread.end == self.buffer.len() {
            self.make_room();
        }
        let room = &mut self.buffer[self.unread.end..];
        loop {
            let read = match &mut self.stream {
                Stream::Tcp(stream) => stream.read(room),
                Stream::Unix(stream) => stream.read(room),
            };
            match read {
                // A process that was stopped for a while is told so, if its reads have a limit.
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
                Ok(read) => {
                    self.unread.end += read;
                    return Ok(read);
                }
            }
        }
    }

    fn make_room(&mut self) {
        self.buffer.copy_within(self.unread.clone(), 0);
        self.unread = 0..self.unread.len();
        if self.unread.end > self.buffer.len() / 2 {
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
    }

    fn unread(&self) -> &[u8] {
        &self.buffer[self.unread.clone()]
    }

    fn take_unread(&mut self) -> Vec<u8> {
        let taken = self.unread().to_vec();
        self.unread = 0..0;
        taken
    }

    /// What was received and not taken as a reply: how much, and its end, fit for a message.
    pub fn unread_shown(&self) -> String {
        let unread = self.unread();
        format!("{} bytes, …{}", unread.len(), unread[unread.len().saturating_sub(200)..].escape_ascii())
    }
}

/// A request as clients send it: an array of bulk strings.
pub fn command(arguments: &[impl AsRef<[u8]>]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", arguments.len()).into_bytes();
    for argument in arguments {
        let argument = argument.as_ref();
        bytes.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
        bytes.extend_from_slice(argument);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// A request out of words separated by spaces.
pub fn words(text: &str) -> Vec<u8> {
    command(&text.split_whitespace().collect::<Vec<_>>())
}
