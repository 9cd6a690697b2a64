//! The HTTP port as curl sees it: one request on one connection, and the whole answer.

use super::PATIENCE;
use std::io::{self, Read, Write};
use std::net::TcpStream;

/// An answer, in full.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Names in lower case, and values.
    pub headers: Vec<(String, String)>,
    /// Its body.
    pub body: String,
}

impl Answer {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }

    /// Out of everything that was received.
    pub fn parse(text: &str) -> Option<Self> {
        let (head, body) = text.split_once("\r\n\r\n")?;
        let mut lines = head.lines();
        let status = lines.next()?.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
        let headers = lines.filter_map(|line| line.split_once(": "));
        let headers = headers.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect();
        Some(Self { status, headers, body: body.to_owned() })
    }
}

/// Asks with GET.
pub fn get(address: &str, path: &str) -> Answer {
    request(address, "GET", path, &[])
}

/// Asks by any method, with more headers, each `Name: value`.
pub fn request(address: &str, method: &str, path: &str, headers: &[&str]) -> Answer {
    let extra: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{extra}\r\n");
    let text = raw(address, head.as_bytes()).unwrap_or_else(|error| panic!("{method} {path}: {error}"));
    Answer::parse(&text).unwrap_or_else(|| panic!("{method} {path} was answered {text:?}"))
}

/// Sends bytes as they are, and reads until the other side closes.
pub fn raw(address: &str, bytes: &[u8]) -> io::Result<String> {
    let mut stream = connect(address)?;
    stream.write_all(bytes)?;
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        // What comes before a reset counts: a server that closes while more is on its way causes one.
        Err(error) if answer.is_empty() => Err(error),
        _ => Ok(String::from_utf8_lossy(&answer).into_owned()),
    }
}

/// A connection that waits only so long.
pub fn connect(address: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// The value of a series of metrics, which is named as in the text: `outrigger_x_total{a="b"}`; labels are in alphabetical
/// order.
pub fn value(text: &str, series: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))?;
    Some(line.parse().expect("a number"))
}
