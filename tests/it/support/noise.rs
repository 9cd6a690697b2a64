//! What the machine adds to every answer: other guests of the same host may have its processors when we want them.
//!
//! An exchange with nobody in between is measured beside the others, so that a limit of a few milliseconds judges the
//! proxy and not the machine. Each counts from when it was due: a pause of the machine that comes between two exchanges
//! counts as well, as it does for those who ask at other moments.

use super::{Over, Spread};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::Ordering::Relaxed;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Between two exchanges.
const PACE: Duration = Duration::from_millis(2);

/// A client and a server that only echo, in threads of their own.
pub struct Noise {
    client: JoinHandle<Vec<Duration>>,
    over: Over,
}

impl Noise {
    pub fn listen() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("the client comes");
            stream.set_nodelay(true).expect("an option can be set");
            let mut byte = [0];
            while stream.read_exact(&mut byte).and_then(|()| stream.write_all(&byte)).is_ok() {}
        });
        let (over, is_over) = Over::flag();
        let mut stream = TcpStream::connect(address).expect("the server listens");
        stream.set_nodelay(true).expect("an option can be set");
        let client = thread::spawn(move || {
            let (mut seen, mut due) = (Vec::new(), Instant::now());
            while !is_over.load(Relaxed) {
                let mut byte = [0];
                stream.write_all(&byte).and_then(|()| stream.read_exact(&mut byte)).expect("the server echoes");
                seen.push(due.elapsed());
                due += PACE;
                thread::sleep(due.saturating_duration_since(Instant::now()));
            }
            seen
        });
        Self { client, over }
    }

    /// How long the exchanges took until now.
    pub fn heard(self) -> Spread {
        drop(self.over);
        self.client.join().expect("the server echoed").into_iter().collect()
    }
}
