//! Redis is back: how soon clients are served, after short outages and long ones, refused and lost, and at the start.

use super::{
    AT_ONCE, SIDE_BY_SIDE, TRUE, assert_empty, assert_not_sent, repeat, repeats, served_after_return,
    server_with_value, several,
};
use crate::support::{Figures, Noise, PATIENCE, Proxy, Server, Spread, alone, is_direct, wait_until};
use socket2::{Domain, SockAddr, Socket, Type};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

/// Service must be back this soon after a short outage, usually.
const MEDIAN: Duration = Duration::from_millis(300);
/// So many outages tell it. Waits are spread evenly over half a second, so the median of a few is anything up to
/// [`MEDIAN_OF_FEW`]; virtual time shows how they are spread.
const MANY: usize = 200;
const MEDIAN_OF_FEW: Duration = Duration::from_millis(450);
/// The same, always, besides what the machine adds; and after a long outage where dials were refused.
const WORST: Duration = Duration::from_secs(1);
/// After a long outage where packets were lost.
const WORST_LOST: Duration = Duration::from_secs(7);
/// The longest outage that counts as short.
const SHORT: Duration = Duration::from_secs(10);
/// How many of them a repetition has: of five alone, the median would say little.
const OUTAGES_EACH: usize = 4;
/// The longest of those that are over before much is noticed.
const BLINK: Duration = Duration::from_millis(200);
const LONG: Duration = Duration::from_secs(40);
/// The age of a proxy in an ordinary outage: the dials of its start are no longer among the two in a second.
const SETTLED: Duration = Duration::from_millis(1_100);
/// How long the proxy tries to connect, by default.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Between two requests of a client during an outage.
const PACE: Duration = Duration::from_millis(10);

#[test]
fn alone_service_returns_with_the_server_after_short_outages() {
    if is_direct() {
        return;
    }
    let _alone = alone();
    let (seed, noise) = (fastrand::u64(..), Noise::listen());
    let count = OUTAGES_EACH * repeats();
    let back = several(count, SIDE_BY_SIDE, |number| {
        let random = fastrand::Rng::with_seed(seed.wrapping_add(number as u64)).f64();
        // Of any length, spread evenly; and one that is as short as can be, in the first second of the proxy's life, when
        // the dial of its start is one of the two in a second.
        let length = SHORT.mul_f64((number as f64 + random) / count as f64);
        let busy = number.is_multiple_of(2);
        let usual = after_an_outage(length, busy, Way::Refused, SETTLED);
        (usual, after_an_outage(BLINK.mul_f64(random), busy, Way::Refused, Duration::ZERO))
    });
    let (back, blinks): (Vec<_>, Vec<_>) = back.into_iter().unzip();
    let worst = WORST + noise.heard().worst();
    let (back, blinks): (Spread, Spread) = (back.into_iter().collect(), blinks.into_iter().collect());
    let mut figures = Figures::of("back after up to 10 s");
    figures.add("seed", seed);
    figures.add("served", back.shown());
    figures.add("after_up_to_200_ms", blinks.shown());
    let usually = if count >= MANY { MEDIAN } else { MEDIAN_OF_FEW };
    assert!(back.median() <= usually, "served again: {}, seed {seed}", back.shown());
    assert!(back.worst() <= worst, "served again: {}, seed {seed}", back.shown());
    assert!(blinks.worst() <= worst, "after the shortest outages: {}, seed {seed}", blinks.shown());
}

#[test]
fn alone_service_returns_with_the_server_after_long_outages() {
    if is_direct() {
        return;
    }
    let _alone = alone();
    let noise = Noise::listen();
    let both = repeat(SIDE_BY_SIDE / 2, |number| {
        thread::scope(|scope| {
            let busy = number.is_multiple_of(2);
            let lost = scope.spawn(move || after_an_outage(LONG, busy, Way::Lost, SETTLED));
            (after_an_outage(LONG, busy, Way::Refused, SETTLED), lost.join().expect("service returns"))
        })
    });
    let noise = noise.heard().worst();
    let (refused, lost): (Vec<_>, Vec<_>) = both.into_iter().unzip();
    let (refused, lost): (Spread, Spread) = (refused.into_iter().collect(), lost.into_iter().collect());
    let mut figures = Figures::of("back after 40 s");
    figures.add("refused", refused.shown());
    figures.add("lost", lost.shown());
    assert!(refused.worst() <= WORST + noise, "where dials were refused: {}", refused.shown());
    assert!(lost.worst() <= WORST_LOST + noise, "where packets were lost: {}", lost.shown());
}

/// What becomes of dials during the outage.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Refused,
    /// Nothing answers them.
    Lost,
}

/// An outage of this length, of a proxy of this age, with a client that goes on asking or stays silent; how long after the
/// server is back the client is served.
fn after_an_outage(length: Duration, busy: bool, way: Way, age: Duration) -> Duration {
    let mut server = server_with_value();
    let proxy = Proxy::before(&server);
    let mut client = proxy.connect();
    assert_eq!(client.ask("GET k"), TRUE);
    let started = Instant::now();
    wait_until("it is so old", 2 * SETTLED, || client.ask("GET k") == TRUE && started.elapsed() >= age);
    let back = Instant::now() + length;
    server.kill();
    let hole = (way == Way::Lost).then(|| Hole::at(&server));
    while busy && Instant::now() < back {
        assert_empty(&client.ask("GET k"));
        thread::sleep(PACE.min(back.saturating_duration_since(Instant::now())));
    }
    thread::sleep(back.saturating_duration_since(Instant::now()));
    drop(hole);
    served_after_return(&mut server, &mut client)
}

/// A listener that accepts nobody and has no room for those who wait: what is sent to it is lost.
struct Hole {
    _listener: Socket,
    _waiting: Vec<TcpStream>,
}

impl Hole {
    /// Stands where the server, which is down, has stood.
    fn at(server: &Server) -> Self {
        let address: SocketAddr = server.address().parse().expect("an address");
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        listener.set_reuse_address(true).expect("a socket can be set");
        listener.bind(&SockAddr::from(address)).expect("the port is free while the server is down");
        listener.listen(0).expect("it can listen");
        let connect = || TcpStream::connect_timeout(&address, Duration::from_millis(50)).ok();
        let mut waiting = Vec::new();
        wait_until("nobody has room there", PATIENCE, || match connect() {
            Some(stream) => {
                waiting.push(stream);
                false
            }
            None => true,
        });
        Self { _listener: listener, _waiting: waiting }
    }
}

#[test]
fn alone_a_proxy_that_starts_while_dials_are_refused_answers_at_once() {
    if is_direct() {
        return;
    }
    let _alone = alone();
    let noise = Noise::listen();
    let runs = repeat(SIDE_BY_SIDE / 2, |_| started_without_a_server(Way::Refused));
    report_starts("started, dials refused", &runs, AT_ONCE + noise.heard().worst(), WORST);
}

#[test]
fn alone_a_proxy_that_starts_while_packets_are_lost_answers_after_the_connect_timeout() {
    if is_direct() {
        return;
    }
    let _alone = alone();
    let noise = Noise::listen();
    let runs = repeat(SIDE_BY_SIDE / 2, |_| started_without_a_server(Way::Lost));
    report_starts("started, packets lost", &runs, CONNECT_TIMEOUT + AT_ONCE + noise.heard().worst(), WORST_LOST);
}

/// A start without Redis.
struct Start {
    /// How long the first commands took.
    first: [Duration; 2],
    /// How long after Redis came the client was served.
    served: Duration,
}

fn report_starts(name: &str, runs: &[Start], first_within: Duration, served_within: Duration) {
    let first: Spread = runs.iter().flat_map(|run| run.first).collect();
    let served: Spread = runs.iter().map(|run| run.served).collect();
    let mut figures = Figures::of(name);
    figures.add("first", first.shown());
    figures.add("served", served.shown());
    assert!(first.worst() <= first_within, "the first commands took {}", first.shown());
    assert!(served.worst() <= served_within, "served: {}", served.shown());
}

fn started_without_a_server(way: Way) -> Start {
    let mut server = server_with_value();
    server.kill();
    let hole = (way == Way::Lost).then(|| Hole::at(&server));
    let proxy = Proxy::before(&server);
    let (mut reader, mut writer) = (proxy.connect(), proxy.connect());
    let start = Instant::now();
    // Both at once, so that both meet the first dial.
    reader.send(b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n");
    writer.send(b"*2\r\n$4\r\nINCR\r\n$1\r\nn\r\n");
    assert_empty(&reader.reply());
    let read = start.elapsed();
    assert_not_sent(&writer.reply());
    let first = [read, start.elapsed()];
    assert_eq!(writer.ask("PING"), b"+PONG\r\n");
    drop(hole);
    Start { first, served: served_after_return(&mut server, &mut reader) }
}
