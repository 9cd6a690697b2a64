//! A resolver that knows what the test tells it, and remembers what it was asked and when.

use crate::support::Over;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// The record type that holds an IPv4 address.
const A: u16 = 1;
/// Where the question begins in a message.
const HEADER: usize = 12;

struct Asked {
    name: String,
    /// The number that tells questions apart. The C library gives a new one to each resolution, and sends it again with the
    /// question when it got no answer in time (RFC 1035 §4.1.1).
    id: [u8; 2],
    at: Instant,
}

/// Listens on port 53 of 127.0.0.1, which is where programs look in a network of the test's own; ends when dropped.
pub struct Resolver {
    zone: Arc<Mutex<Zone>>,
    _over: Over,
}

#[derive(Default)]
struct Zone {
    addresses: BTreeMap<String, Vec<Ipv4Addr>>,
    /// Only questions for IPv4 addresses: whoever resolves a name asks for both kinds together.
    asked: Vec<Asked>,
    is_silent: bool,
}

impl Resolver {
    /// Knows no name yet, and says so.
    pub fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:53").expect("in a network of the test's own port 53 is free");
        socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a time limit can be set");
        let zone = Arc::new(Mutex::new(Zone::default()));
        let (over, is_over) = Over::flag();
        let served = Arc::clone(&zone);
        thread::spawn(move || serve(&socket, &served, &is_over));
        Self { zone, _over: over }
    }

    /// From now on `name` has these addresses; it does not exist if there are none.
    pub fn set(&self, name: &str, addresses: &[Ipv4Addr]) {
        let mut zone = locked(&self.zone);
        zone.addresses.insert(name.to_owned(), addresses.to_vec());
        zone.addresses.retain(|_, addresses| !addresses.is_empty());
    }

    /// Whether questions are noted, but not answered.
    pub fn set_silent(&self, is_silent: bool) {
        locked(&self.zone).is_silent = is_silent;
    }

    /// When `name` was asked for: once for each resolution, which asks for IPv4 and IPv6 together, and sends its question
    /// again when the answer is lost or late, as on a busy machine.
    pub fn asked(&self, name: &str) -> Vec<Instant> {
        let zone = locked(&self.zone);
        zone.asked.iter().filter(|asked| asked.name == name).map(|asked| asked.at).collect()
    }
}

fn locked(zone: &Mutex<Zone>) -> MutexGuard<'_, Zone> {
    zone.lock().unwrap_or_else(PoisonError::into_inner)
}

fn serve(socket: &UdpSocket, zone: &Mutex<Zone>, is_over: &AtomicBool) {
    let mut message = [0; 512];
    while !is_over.load(Ordering::Relaxed) {
        let Ok((length, peer)) = socket.recv_from(&mut message) else { continue };
        let Some((name, kind, end)) = question(&message[..length]) else { continue };
        let mut zone = locked(zone);
        let id = [message[0], message[1]];
        let is_new = || !zone.asked.iter().any(|asked| asked.id == id && asked.name == name);
        if kind == A && is_new() {
            zone.asked.push(Asked { name: name.clone(), id, at: Instant::now() });
        }
        if !zone.is_silent {
            let answer = answer(&message[..end], zone.addresses.get(&name), kind);
            // Whoever asked may have gone.
            let _ = socket.send_to(&answer, peer);
        }
    }
}

/// The name that a message asks for, the type of record, and where the question ends.
fn question(message: &[u8]) -> Option<(String, u16, usize)> {
    let mut labels = Vec::new();
    let mut at = HEADER;
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(message.get(at..at + length)?).to_lowercase());
        at += length;
    }
    let kind = message.get(at..at + 2)?;
    (message.len() >= at + 4).then(|| (labels.join("."), u16::from_be_bytes([kind[0], kind[1]]), at + 4))
}

/// The answer to `question`, the head of the message that asked, where the name has these addresses or does not exist.
fn answer(question: &[u8], addresses: Option<&Vec<Ipv4Addr>>, kind: u16) -> Vec<u8> {
    let found = addresses.filter(|_| kind == A).map_or(&[][..], Vec::as_slice);
    let code = if addresses.is_some() { 0 } else { 3 };
    let mut message = question.to_vec();
    // An authoritative answer, recursion available, and how it went; then the counts of the four sections.
    message[2..4].copy_from_slice(&[0x85, 0x80 | code]);
    let count = u8::try_from(found.len()).expect("a test has few addresses");
    message[4..HEADER].copy_from_slice(&[0, 1, 0, count, 0, 0, 0, 0]);
    for address in found {
        // The name of the question, type A, class IN, to be kept for no time, four bytes.
        message.extend([0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
        message.extend(address.octets());
    }
    message
}
