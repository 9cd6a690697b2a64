//! Many clients that read at an even pace and note how each read ended. One thread drives them all.

use crate::support::{Over, PATIENCE, frame_length, wait_until, words};
use std::io::{self, ErrorKind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How a read ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With what the server holds.
    Value,
    /// As an empty server would answer.
    Nothing,
    /// With an error reply, or something else that is no answer.
    Error,
    /// The connection was closed, or there was no reply for very long.
    Closed,
}

/// One read.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    pub asked: Instant,
    pub answered: Instant,
    pub end: End,
}

/// The clients; they leave when this is dropped.
pub struct Readers {
    /// The readings of each client.
    taken: Taken,
    _over: Over,
}

type Taken = Arc<Mutex<Vec<Vec<Reading>>>>;

impl Readers {
    /// One client for each address, which reads `key` once per `pace` and expects `value`.
    pub fn start(addresses: Vec<String>, (key, value): (&str, &str), pace: Duration) -> Self {
        let taken: Taken = Arc::new(Mutex::new(vec![Vec::new(); addresses.len()]));
        let (over, is_over) = Over::flag();
        let habit = Arc::new(Habit {
            request: words(&format!("GET {key}")),
            due: format!("${}\r\n{value}\r\n", value.len()).into_bytes(),
            pace,
            is_over,
        });
        let noted = Arc::clone(&taken);
        thread::spawn(move || drive(addresses, &habit, &noted));
        Self { taken, _over: over }
    }

    /// What each client has read so far.
    pub fn taken(&self) -> Vec<Vec<Reading>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until every client was answered `count` times more.
    pub fn await_answers(&self, count: usize) {
        let due: Vec<_> = self.taken().iter().map(|readings| readings.len() + count).collect();
        self.wait("every client was answered some times more", |client, readings| readings.len() >= due[client]);
    }

    /// Waits until the last read of every client brought the value, and those after `since` have.
    pub fn await_values(&self, since: Instant) {
        self.wait("every client reads the value", |_, readings| {
            readings.last().is_some_and(|last| last.end == End::Value && last.asked > since)
        });
    }

    fn wait(&self, what: &str, mut is_so: impl FnMut(usize, &[Reading]) -> bool) {
        wait_until(what, 2 * PATIENCE, || {
            let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
            taken.iter().enumerate().all(|(client, readings)| is_so(client, readings))
        });
    }
}

/// What all clients do.
struct Habit {
    request: Vec<u8>,
    due: Vec<u8>,
    pace: Duration,
    is_over: Arc<AtomicBool>,
}

/// Runs until the readers are dropped.
fn drive(addresses: Vec<String>, habit: &Arc<Habit>, taken: &Taken) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
    runtime.block_on(async {
        let mut clients = Vec::new();
        for (number, address) in addresses.into_iter().enumerate() {
            clients.push(tokio::spawn(read_on(number, address, Arc::clone(habit), Arc::clone(taken))));
        }
        for client in clients {
            client.await.expect("no client panics");
        }
    });
}

/// One client: it reads, and connects again when it was disconnected.
async fn read_on(number: usize, address: String, habit: Arc<Habit>, taken: Taken) {
    let mut stream = None;
    let mut turns = tokio::time::interval(habit.pace);
    while !habit.is_over.load(Ordering::Relaxed) {
        turns.tick().await;
        let asked = Instant::now();
        let end = match read_once(&mut stream, &address, &habit).await {
            Ok(end) => end,
            Err(_) => {
                stream = None;
                End::Closed
            }
        };
        let reading = Reading { asked, answered: Instant::now(), end };
        taken.lock().unwrap_or_else(PoisonError::into_inner)[number].push(reading);
    }
}

async fn read_once(stream: &mut Option<TcpStream>, address: &str, habit: &Habit) -> io::Result<End> {
    if stream.is_none() {
        *stream = Some(TcpStream::connect(address).await?);
    }
    let stream = stream.as_mut().expect("there is one now");
    stream.write_all(&habit.request).await?;
    let reply = tokio::time::timeout(PATIENCE, reply(stream)).await.map_err(|_| ErrorKind::TimedOut)??;
    Ok(match reply.as_slice() {
        reply if reply == habit.due => End::Value,
        b"$-1\r\n" => End::Nothing,
        _ => End::Error,
    })
}

async fn reply(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut reply = Vec::new();
    while frame_length(&reply).is_none() {
        if stream.read_buf(&mut reply).await? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(reply)
}
