//! A client of HTTPS that does one thing after the other, and can stop half-way.

use super::Identity;
use crate::support::{PATIENCE, http};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::{
    ClientConfig, ClientConnection, ProtocolVersion, RootCertStore, StreamOwned, SupportedProtocolVersion, version,
};

/// A connection over TLS that reads and writes within limits.
pub struct Connection(StreamOwned<ClientConnection, TcpStream>);

impl Connection {
    /// Trusts these, and offers what the API server offers.
    pub fn open(address: &str, trusted: &[&Identity]) -> Self {
        Self::try_open(address, trusted, &[&version::TLS13, &version::TLS12])
            .unwrap_or_else(|error| panic!("no TLS: {error}"))
    }

    /// The same with some versions of TLS.
    pub fn try_open(
        address: &str,
        trusted: &[&Identity],
        versions: &[&'static SupportedProtocolVersion],
    ) -> io::Result<Self> {
        let mut roots = RootCertStore::empty();
        for identity in trusted {
            roots.add(CertificateDer::from(identity.der.clone())).expect("it is a certificate");
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_protocol_versions(versions).expect("there are such versions");
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let name = "localhost".try_into().expect("it is a name");
        let mut session = ClientConnection::new(Arc::new(config), name).expect("it can begin");
        let mut stream = http::connect(address)?;
        while session.is_handshaking() {
            session.complete_io(&mut stream)?;
        }
        Ok(Self(StreamOwned::new(session, stream)))
    }

    /// The certificate that was shown.
    pub fn certificate(&self) -> Vec<u8> {
        self.0.conn.peer_certificates().expect("there is one")[0].to_vec()
    }

    /// What is spoken.
    pub fn agreed(&self) -> (Option<ProtocolVersion>, Option<&[u8]>) {
        (self.0.conn.protocol_version(), self.0.conn.alpn_protocol())
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)?;
        self.0.flush()
    }

    /// Everything until the other side closes.
    pub fn rest(&mut self) -> String {
        let mut bytes = Vec::new();
        // What came before an end without farewell counts; having waited in vain does not.
        if let Err(error) = self.0.read_to_end(&mut bytes) {
            assert!(
                !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut),
                "nothing more came for {PATIENCE:?}, after {:?}",
                String::from_utf8_lossy(&bytes)
            );
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// One answer, after which the connection stays.
    pub fn answer(&mut self) -> http::Answer {
        let mut text = Vec::new();
        loop {
            let mut byte = [0];
            self.0.read_exact(&mut byte).expect("an answer comes");
            text.push(byte[0]);
            if text.ends_with(b"\r\n\r\n") {
                break;
            }
        }
        let head = http::Answer::parse(&String::from_utf8_lossy(&text)).expect("it is an answer");
        let length = head.header("content-length").and_then(|length| length.parse().ok()).expect("it has a length");
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).expect("it comes whole");
        http::Answer { body: String::from_utf8_lossy(&body).into_owned(), ..head }
    }

    /// Asks, and goes on.
    pub fn request(&mut self, method: &str, path: &str, headers: &str, body: &str) -> http::Answer {
        self.send(head(method, path, headers, body.len()).as_bytes()).expect("it is taken");
        self.send(body.as_bytes()).expect("it is taken");
        self.answer()
    }

    /// Asks as the API server does.
    pub fn post(&mut self, path: &str, body: &str) -> http::Answer {
        self.request("POST", path, JSON, body)
    }

    /// Asks as the kubelet does.
    pub fn probe(&mut self) -> u16 {
        self.request("GET", "/healthz", "", "").status
    }
}

/// The header of JSON.
pub const JSON: &str = "Content-Type: application/json\r\n";

/// The head of a request whose body has a length.
pub fn head(method: &str, path: &str, headers: &str, length: usize) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Length: {length}\r\n\r\n")
}
