//! What clients cost in memory, idle and after a burst.

use crate::support::{
    Client, Figures, Kind, Proxy, Server, allow_files, alone, anonymous_bytes, peak_resident_bytes, resident_bytes,
    words,
};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;
/// How many idle clients are measured.
const CLIENTS: u64 = 4_000;
/// Resident memory that the proxy may have before anyone came.
const AT_REST: u64 = 8 * MIB;
/// How soon memory must have returned after a burst.
const RETURN: Duration = Duration::from_secs(10);
/// Resident memory that an idle client may cost.
const PER_CLIENT: u64 = 3 * 1024;

#[test]
fn alone_idle_clients_cost_little() {
    let _alone = alone();
    allow_files(2 * CLIENTS);
    let server = Server::start(Kind::Redis70);
    let proxy = Proxy::before(&server);
    let Some(pid) = proxy.pid() else { return };
    assert_eq!(proxy.connect().ask("SET k v"), b"+OK\r\n");
    let at_rest = resident_bytes(pid);
    let own = anonymous_bytes(pid) / 1024;
    let clients: Vec<_> = (0..CLIENTS).map(|_| idle_client(proxy.address())).collect();
    let with_clients = resident_bytes(pid);
    let per_client = with_clients.saturating_sub(at_rest) / clients.len() as u64;
    let mut figures = Figures::of("idle clients");
    figures.add("at_rest_kib", at_rest / 1024);
    figures.add("of_which_not_of_files_kib", own);
    figures.add("with_clients_kib", with_clients / 1024);
    figures.add("bytes_per_client", per_client);
    assert!(at_rest <= AT_REST, "{at_rest} bytes at rest");
    assert!(per_client <= PER_CLIENT, "{per_client} bytes per idle client");
}

/// A client that has done one PING and one GET.
fn idle_client(address: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("the proxy accepts");
    for (request, due) in [(words("PING"), b"+PONG\r\n"), (words("GET k"), b"$1\r\nv\r\n")] {
        stream.write_all(&request).expect("the connection is open");
        let mut reply = [0; 7];
        stream.read_exact(&mut reply).expect("the client is answered");
        assert_eq!(&reply, due);
    }
    stream
}

#[test]
fn alone_memory_returns_after_a_burst() {
    const AT_ONCE: usize = 50;
    let _alone = alone();
    let server = Server::start(Kind::Redis70);
    let proxy = Proxy::before(&server);
    let Some(pid) = proxy.pid() else { return };
    let mut clients: Vec<_> = (0..AT_ONCE).map(|_| proxy.connect()).collect();
    clients.iter_mut().for_each(|client| assert_eq!(client.ask("SET k v"), b"+OK\r\n"));
    let before = resident_bytes(pid);
    thread::scope(|scope| {
        for (number, client) in clients.iter_mut().enumerate() {
            scope.spawn(move || twenty_big_values(client, number));
        }
    });
    let bound = before + before / 5 + 8 * MIB;
    let mut figures = Figures::of("burst of 1 000 values of 1 MB");
    figures.add("before_kib", before / 1024);
    figures.add("peak_kib", peak_resident_bytes(pid) / 1024);
    figures.add("at_once_after_kib", resident_bytes(pid) / 1024);
    let start = Instant::now();
    let mut after = resident_bytes(pid);
    while after > bound && start.elapsed() < RETURN {
        thread::sleep(Duration::from_millis(20));
        after = resident_bytes(pid);
    }
    figures.add("returned_to_kib", after / 1024);
    figures.add("within_ms", start.elapsed().as_millis());
    assert!(after <= bound, "{after} bytes are resident {RETURN:?} after the burst, more than {bound}");
}

fn twenty_big_values(client: &mut Client, number: usize) {
    let key = format!("big{number}");
    for fill in b'a'..b'a' + 20 {
        let value = vec![fill; 1_000_000];
        assert_eq!(client.call(&[b"SET", key.as_bytes(), &value]), b"+OK\r\n");
        let got = client.call(&[b"GET", key.as_bytes()]);
        assert!(got.len() == value.len() + 12 && got[10..got.len() - 2] == value, "another value came back");
    }
}
