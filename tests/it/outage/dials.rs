//! Sees every dial on the test's own network, those refused too: it looks at the packets that open TCP connections.
//!
//! When a packet was sent is told by the timestamp that TCP puts into it, in milliseconds; when we get to see it depends on
//! how busy the machine is.
//!
//! A packet that the kernel sends again is no new dial. It does so after a second where it was lost, and after 8 ms where
//! what is left of an old connection between the same ports has answered it (RFC 5961, section 4).

use crate::support::Over;
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use std::collections::HashSet;
use std::fs;
use std::io::Read;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// The number of IPv4 among the protocols of a link.
const IPV4: u16 = 0x0800;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
/// The number of the option that holds a timestamp.
const TIMESTAMP: u8 = 8;
/// Makes TCP's timestamps the time of one clock; by default each pair of hosts has an offset of its own.
const ONE_CLOCK: (&str, &str) = ("/proc/sys/net/ipv4/tcp_timestamps", "2");

/// For the kernel, in its instructions (code, steps to go on if so, if not, operand): keep what is TCP and has SYN set, drop
/// the rest before it gets here.
const OPENS_A_CONNECTION: [SockFilter; 7] = [
    SockFilter::new(0x30, 0, 0, 9),    // load the protocol
    SockFilter::new(0x15, 0, 4, 6),    // unless it is TCP, drop
    SockFilter::new(0xb1, 0, 0, 0),    // measure the IP header
    SockFilter::new(0x50, 0, 0, 13),   // load the flags behind it
    SockFilter::new(0x45, 0, 1, 0x02), // unless SYN is among them, drop
    SockFilter::new(0x06, 0, 0, 128),  // keep the headers
    SockFilter::new(0x06, 0, 0, 0),    // drop
];

/// One packet that opens a connection.
#[derive(Clone, Copy, Debug)]
pub struct Packet {
    /// When it was sent.
    pub at: Instant,
    /// The address that was dialled.
    pub host: Ipv4Addr,
    pub step: Step,
}

/// What it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Somebody dials.
    Dial,
    /// Somebody listens: the dial is a connection.
    Accept,
}

/// Notes all packets that open connections to one port; ends when dropped.
pub struct Dials {
    seen: Arc<Mutex<Vec<Packet>>>,
    _over: Over,
}

impl Dials {
    /// Sees only the test's own network.
    pub fn watch(port: u16) -> Self {
        fs::write(ONE_CLOCK.0, ONE_CLOCK.1).expect("the network is ours to set");
        let protocol = Protocol::from(i32::from(IPV4.to_be()));
        let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(protocol)).expect("packets may be looked at");
        socket.attach_filter(&OPENS_A_CONNECTION).expect("a filter can be attached");
        socket.set_recv_buffer_size(1 << 20).expect("the buffer can be enlarged");
        socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a time limit can be set");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (over, is_over) = Over::flag();
        let noted = Arc::clone(&seen);
        thread::spawn(move || note(socket, port, &noted, &is_over));
        Self { seen, _over: over }
    }

    /// What was seen so far, in order.
    pub fn seen(&self) -> Vec<Packet> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn note(mut socket: Socket, port: u16, seen: &Mutex<Vec<Packet>>, is_over: &AtomicBool) {
    let mut bytes = [0; 128];
    let mut first = None;
    let mut known = HashSet::new();
    while !is_over.load(Ordering::Relaxed) {
        let Ok(length) = socket.read(&mut bytes) else { continue };
        let Some((host, step, sent)) = opening(&bytes[..length], port) else { continue };
        if !known.insert(identity(&bytes[..length])) {
            continue;
        }
        let (begin, sent_first) = *first.get_or_insert_with(|| (Instant::now(), sent));
        let at = begin + Duration::from_millis(sent.wrapping_sub(sent_first).into());
        seen.lock().unwrap_or_else(PoisonError::into_inner).push(Packet { at, host, step });
    }
}

/// Which host is dialled on `port` by an IP packet, or accepts; and its timestamp.
fn opening(packet: &[u8], port: u16) -> Option<(Ipv4Addr, Step, u32)> {
    let (source, destination) = (Ipv4Addr::from(four(packet, 12)?), Ipv4Addr::from(four(packet, 16)?));
    let tcp = packet.get(usize::from(packet[0] & 0x0f) * 4..)?;
    let is_port = |at: usize| tcp.get(at..at + 2) == Some(&port.to_be_bytes());
    let (host, step) = match tcp.get(13)? & (SYN | ACK) {
        SYN if is_port(2) => (destination, Step::Dial),
        flags if flags == SYN | ACK && is_port(0) => (source, Step::Accept),
        _ => return None,
    };
    Some((host, step, timestamp(tcp.get(20..)?).expect("TCP has timestamps")))
}

/// What a packet that is sent again has in common with the first: addresses, ports, and the initial sequence number.
fn identity(packet: &[u8]) -> Option<[[u8; 4]; 4]> {
    let ports = usize::from(packet[0] & 0x0f) * 4;
    Some([four(packet, 12)?, four(packet, 16)?, four(packet, ports)?, four(packet, ports + 4)?])
}

/// The timestamp among the options of TCP.
fn timestamp(options: &[u8]) -> Option<u32> {
    let mut at = 0;
    loop {
        match *options.get(at)? {
            0 => return None,
            1 => at += 1,
            TIMESTAMP => return four(options, at + 2).map(u32::from_be_bytes),
            _ => at += usize::from(*options.get(at + 1)?).max(2),
        }
    }
}

fn four(bytes: &[u8], at: usize) -> Option<[u8; 4]> {
    bytes.get(at..at + 4)?.try_into().ok()
}
