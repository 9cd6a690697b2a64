//! Clients that send without reading, and values too big for any buffer.

use crate::support::{Client, Figures, Kind, Over, Proxy, Server, is_direct, wait_until, words};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

/// How many requests a client sends before it reads the first reply.
const REQUESTS: usize = 200_000;

#[test]
fn a_whole_pipeline_may_be_written_before_any_reply_is_read() {
    let server = Server::start(Kind::Redis70);
    let proxy = Proxy::patient(&server, |flags| {
        flags.args(["--client-output-limit", &(1_u64 << 30).to_string()]);
    });
    let (replies, longest) = write_all_then_read(&proxy);
    assert_eq!(replies, REQUESTS);
    assert!(longest < Duration::from_secs(2), "a neighbour waited {longest:?}");
}

#[test]
fn a_pipeline_over_the_limit_ends_with_all_replies_or_a_disconnect() {
    let server = Server::start(Kind::Redis70);
    let proxy = Proxy::patient(&server, |_| {});
    let (replies, longest) = write_all_then_read(&proxy);
    assert!(replies <= REQUESTS);
    assert!(longest < Duration::from_secs(2), "a neighbour waited {longest:?}");
}

/// Sends 200 000 GETs of 1 KiB, then reads: how many right replies came, and how long a neighbour had to wait meanwhile.
fn write_all_then_read(proxy: &Proxy) -> (usize, Duration) {
    let start = Instant::now();
    let value = vec![b'v'; 1024];
    let mut client = proxy.connect();
    assert_eq!(client.call(&[b"SET", b"k", &value]), b"+OK\r\n");
    client.set_patience(Duration::from_secs(60)).expect("a time limit can be set");
    let due = [b"$1024\r\n".as_slice(), &value, b"\r\n"].concat();
    let (replies, longest) = beside_a_neighbour(proxy, || {
        let written = client.try_send(&words("GET k").repeat(REQUESTS));
        let mut replies = 0;
        while replies < REQUESTS {
            match client.try_reply() {
                Ok(Some(reply)) => assert!(reply == due, "reply {replies} is wrong"),
                Err(error) if is_timeout(&error) => panic!("stuck after {replies} replies, written: {written:?}"),
                Ok(None) | Err(_) => break,
            }
            replies += 1;
        }
        replies
    });
    let mut figures = Figures::of("200 000 GETs of 1 KiB written before reading");
    figures.add("replies", replies);
    figures.add("seconds", format!("{:.1}", start.elapsed().as_secs_f64()));
    figures.add("neighbour_waited_ms", longest.as_millis());
    (replies, longest)
}

#[test]
fn a_client_that_never_reads_is_disconnected_and_others_go_on() {
    if is_direct() {
        return;
    }
    let server = Server::start(Kind::Redis70);
    let mut proxy = Proxy::patient(&server, |flags| {
        flags.args(["--client-output-limit", &(8 << 20).to_string()]);
    });
    let mut greedy = proxy.connect();
    assert_eq!(greedy.call(&[b"SET", b"big", &vec![b'b'; 1_000_000]]), b"+OK\r\n");
    let ((), longest) = beside_a_neighbour(&proxy, || {
        greedy.send(&words("GET big").repeat(200));
        wait_until("the client that never reads is disconnected", Duration::from_secs(10), || {
            greedy.try_send(&words("PING")).is_err()
        });
    });
    let received = greedy.rest_however_closed().unwrap_or_default();
    assert!(received.len() < 100_000_000, "{} bytes were kept for a client that did not read", received.len());
    Figures::of("never reads").add("neighbour_waited_ms", longest.as_millis());
    assert!(longest < Duration::from_secs(2), "a neighbour waited {longest:?}");
    proxy.assert_running();
}

#[test]
fn values_around_a_megabyte_arrive_intact() {
    let server = Server::start(Kind::Redis70);
    let proxy = Proxy::patient(&server, |_| {});
    for (size, resp3) in [(1_000_000, false), ((1 << 20) - 40, false), (1 << 20, true), ((1 << 20) + 1, false)] {
        there_and_back(&proxy, size, resp3);
    }
}

#[test]
fn a_value_of_100_mb_arrives_intact() {
    let server = Server::start(Kind::Redis70);
    there_and_back(&Proxy::patient(&server, |_| {}), 100_000_000, true);
}

/// Apart from the one above: here the limit on unread replies cannot matter, only the way that the bytes take.
#[test]
fn a_value_of_100_mb_arrives_intact_far_from_the_output_limit() {
    let server = Server::start(Kind::Redis70);
    let proxy = Proxy::patient(&server, |flags| {
        flags.args(["--client-output-limit", &(256 << 20).to_string()]);
    });
    there_and_back(&proxy, 100_000_000, false);
}

/// Sets a value of `size` random bytes and gets it again.
fn there_and_back(proxy: &Proxy, size: usize, resp3: bool) {
    let start = Instant::now();
    let mut client = proxy.connect();
    client.set_patience(Duration::from_secs(60)).expect("a time limit can be set");
    if resp3 {
        client.hello3();
    }
    let mut rng = fastrand::Rng::with_seed(size as u64);
    let words = std::iter::repeat_with(|| rng.u64(..).to_le_bytes());
    let value: Vec<u8> = words.take(size / 8 + 1).flatten().take(size).collect();
    assert_eq!(client.call(&[b"SET", b"k", &value]), b"+OK\r\n", "SET of {size} bytes");
    let got = client.call(&[b"GET", b"k"]);
    let header = format!("${size}\r\n").into_bytes();
    assert!(got.starts_with(&header) && got.ends_with(b"\r\n"), "GET of {size} bytes");
    assert!(got[header.len()..got.len() - 2] == value, "{size} bytes came back changed");
    assert_eq!(client.ask("ECHO after"), b"$5\r\nafter\r\n");
    Figures::of(&format!("{size} bytes there and back")).add("ms", start.elapsed().as_millis());
}

/// Runs `story` while another client does small things; returns how long the slowest of those took.
fn beside_a_neighbour<T>(proxy: &Proxy, story: impl FnOnce() -> T) -> (T, Duration) {
    thread::scope(|scope| {
        let (owner, over) = Over::flag();
        let neighbour = scope.spawn(move || slowest_small_thing(proxy.connect(), &over));
        let outcome = story();
        drop(owner);
        (outcome, neighbour.join().expect("the neighbour is served"))
    })
}

fn slowest_small_thing(mut client: Client, over: &AtomicBool) -> Duration {
    let mut slowest = Duration::ZERO;
    while !over.load(Relaxed) {
        let start = Instant::now();
        assert_eq!(client.ask("SET neighbour v"), b"+OK\r\n");
        slowest = slowest.max(start.elapsed());
    }
    slowest
}

fn is_timeout(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
}
