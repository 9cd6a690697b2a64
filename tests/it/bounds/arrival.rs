//! Many clients at once.

use crate::support::{Figures, Kind, Noise, Proxy, Server, Spread, allow_files, alone};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// How many clients arrive.
const CLIENTS: usize = 4_000;

#[test]
fn alone_four_thousand_connections_opened_at_once_are_all_served() {
    let _alone = alone();
    allow_files(2 * CLIENTS as u64);
    let server = Server::start(Kind::Redis70);
    let proxy = Proxy::before(&server);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be built");
    let (noise, start) = (Noise::listen(), Instant::now());
    let waits: Spread = runtime.block_on(all_arrive(proxy.address())).into_iter().collect();
    let (elapsed, noise) = (start.elapsed(), noise.heard());
    let mut figures = Figures::of("4 000 connections");
    figures.add("seconds", format!("{:.2}", elapsed.as_secs_f64()));
    figures.add("per_second", (CLIENTS as f64 / elapsed.as_secs_f64()).round());
    figures.add("waits", waits.shown());
    figures.add("noise", noise.shown());
    assert!(waits.count() == CLIENTS, "{} clients were served", waits.count());
    // The proxy's own work delays an echo too, so that not all of it excuses.
    let limit = Duration::from_secs(1) + noise.worst().min(Duration::from_millis(500));
    assert!(waits.worst() < limit, "clients waited: {}; an echo: {}", waits.shown(), noise.shown());
}

/// Every client connects, says PING, and stays; returns how long each waited for its reply since it began to connect.
async fn all_arrive(address: &str) -> Vec<Duration> {
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        clients.spawn(arrive(address.to_owned()));
    }
    let arrived = clients.join_all().await;
    arrived.into_iter().map(|(_stream, wait)| wait).collect()
}

async fn arrive(address: String) -> (TcpStream, Duration) {
    let start = Instant::now();
    let mut stream = TcpStream::connect(address).await.expect("the connection is accepted");
    stream.write_all(b"*1\r\n$4\r\nPING\r\n").await.expect("the connection is open");
    let mut reply = [0; 7];
    stream.read_exact(&mut reply).await.expect("the client is answered");
    assert_eq!(&reply, b"+PONG\r\n");
    (stream, start.elapsed())
}
