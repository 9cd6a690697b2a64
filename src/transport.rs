//! A connected socket of whichever kind: the one seam behind which TCP and unix sockets (and later TLS) look alike.
//!
//! Reading is polled by the task that owns the socket. Writing is possible from any task of the same worker: the task
//! that has replies at hand writes them at once, and only what the socket does not take waits for the owner.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BufMut;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_util::io::poll_read_buf;

/// True if an address cannot be had because the machine has no IPv6.
pub(crate) fn lacks_ipv6(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}

/// A connected, non-blocking stream socket, registered with the runtime of the worker that owns it.
#[derive(Debug)]
pub(crate) enum Transport {
    /// TCP, with `TCP_NODELAY` set.
    Tcp(TcpStream),
    /// A unix domain socket.
    Unix(UnixStream),
}

/// An accepted socket on its way to a worker, not registered with any runtime.
#[derive(Debug)]
pub(crate) enum Accepted {
    /// From a TCP listener.
    Tcp(std::net::TcpStream),
    /// From a unix socket listener.
    Unix(std::os::unix::net::UnixStream),
}

impl Accepted {
    /// Registers the socket with the current runtime.
    ///
    /// # Errors
    /// Those of `epoll_ctl(2)`.
    pub(crate) fn register(self) -> io::Result<Transport> {
        Ok(match self {
            Self::Tcp(stream) => Transport::Tcp(TcpStream::from_std(stream)?),
            Self::Unix(stream) => Transport::Unix(UnixStream::from_std(stream)?),
        })
    }
}

impl Transport {
    /// Reads into `buffer` and returns the count; 0 is the end of the stream. A read that does not fill the buffer has
    /// emptied the socket, so the next call does not ask the kernel again.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(buffer);
        let polled = match self {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, &mut buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, &mut buffer),
        };
        polled.map_ok(|()| buffer.filled().len())
    }

    /// Reads into the spare capacity of `buffer`; otherwise as [`Transport::poll_read`].
    pub(crate) fn poll_read_buf(&mut self, cx: &mut Context<'_>, buffer: &mut impl BufMut) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(stream) => poll_read_buf(Pin::new(stream), cx, buffer),
            Self::Unix(stream) => poll_read_buf(Pin::new(stream), cx, buffer),
        }
    }

    /// Waits until the socket can be written to.
    pub(crate) fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_write_ready(cx),
            Self::Unix(stream) => stream.poll_write_ready(cx),
        }
    }

    /// Writes what the socket takes now.
    ///
    /// # Errors
    /// `WouldBlock` if it takes nothing, else those of `send(2)`.
    pub(crate) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write(bytes),
            Self::Unix(stream) => stream.try_write(bytes),
        }
    }

    /// Writes what the socket takes now of several slices.
    ///
    /// # Errors
    /// As [`Transport::try_write`].
    pub(crate) fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write_vectored(slices),
            Self::Unix(stream) => stream.try_write_vectored(slices),
        }
    }

    /// Makes closing the socket throw away what was written and not sent: the peer gets a reset.
    pub(crate) fn abort(&self) {
        if let Self::Tcp(stream) = self {
            // If the kernel refuses, closing sends what is left, as it would have done before.
            drop(SockRef::from(stream).set_linger(Some(Duration::ZERO)));
        }
    }

    /// Shuts down the writing side: the peer reads the end of the stream after what was written.
    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    /// The peer's address as CLIENT INFO shows it.
    pub(crate) fn peer(&self) -> String {
        match self {
            Self::Tcp(stream) => stream.peer_addr().map_or_else(|_| "?:0".to_owned(), |addr| addr.to_string()),
            Self::Unix(_) => self.local(),
        }
    }

    /// Our own address as CLIENT INFO shows it; `path:0` for a unix socket, as Redis has it.
    pub(crate) fn local(&self) -> String {
        match self {
            Self::Tcp(stream) => stream.local_addr().map_or_else(|_| "?:0".to_owned(), |addr| addr.to_string()),
            Self::Unix(stream) => {
                let path =
                    stream.local_addr().ok().and_then(|addr| addr.as_pathname().map(|p| p.display().to_string()));
                format!("{}:0", path.unwrap_or_default())
            }
        }
    }
}
