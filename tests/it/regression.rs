//! One test for each fault that was found by trying to break the proxy, so that it stays mended.

use crate::support::{Client, Kind, Over, Proxy, Server, command, is_direct, resident_bytes, wait_until, words};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use std::{array, thread};

/// Longer than anything here may take on a busy machine, and far less than for ever.
const PATIENCE: Duration = Duration::from_secs(20);

/// Redis reads option words as C strings. What it takes for `off`, `on` or `BLOCK` must not pass for nonsense here and
/// travel to the shared connection as such: one client's CLIENT REPLY would take the replies of all others away.
#[test]
fn options_that_end_at_a_nul_do_not_reach_a_shared_connection() {
    if is_direct() {
        return;
    }
    for kind in Kind::ALL {
        let server = Server::start(kind);
        let proxy = Proxy::before(&server);
        let mut neighbour = proxy.connect();
        assert_eq!(neighbour.ask("SET mine neighbour"), b"+OK\r\n");
        let requests: [&[&[u8]]; 2] = [&[b"CLIENT", b"REPLY", b"skip\0"], &[b"CLIENT", b"REPLY", b"off\0x"]];
        let states: [&[&[u8]]; 2] = [&[b"CLIENT", b"NO-EVICT", b"on\0"], &[b"CLIENT", b"NO-TOUCH", b"on\0"]];
        // Kept until the end: what these wait for never comes.
        let mut blocked: Vec<Client> = Vec::new();
        let waits: [&[&[u8]]; 2] = [
            &[b"XREAD", b"block\0", b"0", b"STREAMS", b"s", b"$"],
            &[b"XREAD", b"COUNT\0", b"1", b"block", b"0", b"STREAMS", b"s", b"$"],
        ];
        for request in requests {
            let mut client = proxy.connect();
            client.send(&command(request));
            client.send(&words("CLIENT REPLY ON"));
            // Whether the request itself was answered depends on what it was; the next one was.
            wait_until("the client is answered", PATIENCE, || client.reply() == b"+OK\r\n");
            assert_eq!(neighbour.ask("GET mine"), b"$9\r\nneighbour\r\n", "after {request:?} on {}", kind.name());
            assert_eq!(client.ask("GET none"), b"$-1\r\n");
        }
        for request in states {
            let mut client = proxy.connect();
            let reply = client.call(request);
            assert_eq!(reply.last(), Some(&b'\n'), "older servers know nothing of it");
            assert_eq!(client.ask("GET none"), b"$-1\r\n");
        }
        for request in waits {
            let mut client = proxy.connect();
            client.send(&command(request));
            blocked.push(client);
            wait_until("it blocks", PATIENCE, || {
                server.info_number("clients", "blocked_clients") == blocked.len() as u64
            });
            assert_eq!(neighbour.ask("GET mine"), b"$9\r\nneighbour\r\n", "after {request:?} on {}", kind.name());
        }
        let listed = server.connect().ask("CLIENT LIST");
        let listed = String::from_utf8_lossy(&listed);
        let is_lane = |line: &&str| line.contains("name=outrigger") && line.contains(":lane ");
        let flags = listed.lines().filter(is_lane).collect::<Vec<_>>();
        assert!(!flags.is_empty() && flags.iter().all(|line| line.contains("flags=N")), "{listed}");
    }
}

/// A client that uploads a large value and stops, or does not read large replies, is the one to go when memory is short.
/// Everybody else is served meanwhile.
#[test]
fn alone_a_shortage_of_memory_ends_whoever_causes_it_and_stops_nobody_else() {
    if is_direct() {
        return;
    }
    let server = Server::start(Kind::Redis70);
    let proxy = Proxy::patient(&server, |flags| {
        flags.args(["--memory-limit", "32MiB", "--client-output-limit", "64MiB"]);
    });
    let mut neighbour = proxy.connect();
    assert_eq!(neighbour.ask("SET k v"), b"+OK\r\n");

    let mut uploader = proxy.connect();
    uploader.send(b"*3\r\n$3\r\nSET\r\n$3\r\nbig\r\n$500000000\r\n");
    let megabyte = vec![b'x'; 1 << 20];
    let uploaded = (0..60).take_while(|_| uploader.try_send(&megabyte).is_ok()).count();
    served_until(&mut neighbour, "the uploader is cut", || proxy.logged("buffer memory is short") > 0);
    assert!(uploaded >= 16, "cut after {uploaded} MiB of 32");

    let value = vec![b'y'; 1 << 20];
    assert_eq!(neighbour.call(&[b"SET", b"large", &value]), b"+OK\r\n");
    let mut idlers: [Client; 3] = array::from_fn(|_| proxy.connect());
    for idler in &mut idlers {
        idler.send(&words("GET large").repeat(20));
    }
    served_until(&mut neighbour, "an idler is cut", || proxy.logged("buffer memory is short") > 1);
    assert_eq!(proxy.connect().ask("GET k"), b"$1\r\nv\r\n", "new clients are served too");
}

/// Waits for `end` while a neighbour asks on and on: it must never wait long.
fn served_until(neighbour: &mut Client, what: &str, mut end: impl FnMut() -> bool) {
    let mut longest = Duration::ZERO;
    wait_until(what, PATIENCE, || {
        let start = Instant::now();
        assert_eq!(neighbour.ask("GET k"), b"$1\r\nv\r\n");
        longest = longest.max(start.elapsed());
        end()
    });
    assert!(longest < Duration::from_secs(2), "a neighbour waited {longest:?}");
}

/// A new connection is given few requests at first, so the ninth of a pipeline waits a moment. That it did must not count
/// against the request behind it, of which only the beginning has come: its time begins when it is whole.
#[test]
fn a_request_that_arrives_slowly_does_not_age_with_those_before_it() {
    if is_direct() {
        return;
    }
    let limit = Duration::from_millis(500);
    let server = Server::start(Kind::Redis70);
    assert_eq!(server.connect().ask("SET k v"), b"+OK\r\n");
    let proxy = Proxy::start(&server, |flags| {
        flags.args(["--request-timeout", "500ms"]);
    });
    let mut client = proxy.connect();
    let (begin, rest) = (b"*2\r\n$3\r\nGET\r\n$1".as_slice(), b"\r\nk\r\n".as_slice());
    client.send(&[words("GET k").repeat(20), begin.to_vec()].concat());
    assert!((0..20).all(|_| client.reply() == b"$1\r\nv\r\n"));
    let since = Instant::now();
    wait_until("longer than the limit has passed", PATIENCE, || since.elapsed() > 2 * limit);
    client.send(rest);
    assert_eq!(client.reply(), b"$1\r\nv\r\n");
}

/// A lane that waited for a connection when all others were lost has nobody to take one from: it must dial.
#[test]
fn a_lane_that_waits_for_a_connection_outlives_an_outage() {
    if is_direct() {
        return;
    }
    let mut server = Server::start(Kind::Redis70);
    let proxy = Proxy::start(&server, |flags| {
        flags.args(["--pool-size", "4"]);
    });
    let mut holders: Vec<_> = (0..4).map(|_| proxy.connect()).collect();
    for (database, client) in holders.iter_mut().enumerate() {
        client.select(u32::try_from(database).expect("small"));
        assert_eq!(client.ask("SET k v"), b"+OK\r\n");
    }
    // A script that does not end keeps one connection busy, and the server from answering the others.
    holders[0].send(&command(&["EVAL", "while true do end", "0"]));
    server.wait_until_busy();
    let mut waiting = proxy.connect();
    waiting.send(&[words("SELECT 7"), words("SET k v")].concat());
    for client in &mut holders[1..] {
        client.send(&words("GET k"));
    }
    server.kill();
    let [script, readers @ ..] = holders.as_mut_slice() else { panic!("there are four") };
    let reply = script.reply();
    assert!(reply.starts_with(b"-INDETERMINATE "), "{}", reply.escape_ascii());
    for client in readers {
        assert_eq!(client.reply(), b"$-1\r\n");
    }
    server.start_again();
    // Its first answers depend on when the server went; it is served in the end, and nobody else is there to help.
    let _ = (waiting.reply(), waiting.reply());
    wait_until("the waiting client is served", PATIENCE, || waiting.ask("SET k v") == b"+OK\r\n");
}

/// Two workers share a small pool: the one that is busy with many databases gives the other its share.
#[test]
fn a_busy_worker_leaves_the_other_its_share_of_the_pool() {
    const DATABASES: u32 = 30;
    let server = Server::start_with(Kind::Redis70, &["--databases", "64"]);
    let proxy = Proxy::start(&server, |flags| {
        flags.args(["--pool-size", "6", "--workers", "2"]);
    });
    // Clients go to the emptiest worker, so every other one is on the first.
    let pairs: Vec<_> = (0..DATABASES).map(|_| (proxy.connect(), proxy.connect())).collect();
    let (busy, mut quiet): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
    let (over, ended) = Over::flag();
    thread::scope(|scope| {
        for (database, mut client) in (0..).zip(busy) {
            let ended = &ended;
            scope.spawn(move || {
                client.select(database);
                while !ended.load(Ordering::Relaxed) {
                    assert_eq!(client.pipeline(&[words("SET k v"), words("GET k")])[1], b"$1\r\nv\r\n");
                }
            });
        }
        let end = over;
        for (database, client) in (30..).zip(&mut quiet) {
            let start = Instant::now();
            client.select(database);
            assert_eq!(client.ask("SET k v"), b"+OK\r\n");
            assert!(start.elapsed() < Duration::from_secs(5), "served after {:?}", start.elapsed());
        }
        drop(end);
    });
}

/// Asking for databases that do not exist costs the server few connections and other clients nothing.
#[test]
fn databases_that_do_not_exist_are_asked_for_slowly_and_lock_nobody_out() {
    const ASKED: u32 = 12;
    let server = Server::start(Kind::Redis70);
    let proxy = Proxy::before(&server);
    let mut client = proxy.connect();
    let mut neighbour = proxy.connect();
    assert_eq!(neighbour.ask("SET k v"), b"+OK\r\n");
    let before = server.info_number("stats", "total_connections_received");
    for number in 0..ASKED {
        // Ever lower, so that none is known to be out of range from those before.
        let reply = client.ask(&format!("SELECT {}", 100_000 - number));
        assert_eq!(reply, b"-ERR DB index is out of range\r\n");
    }
    assert_eq!(client.ask("SELECT 200000"), b"-ERR DB index is out of range\r\n");
    assert_eq!(client.ask("GET k"), b"$1\r\nv\r\n", "it is where it was");
    for database in 1..16 {
        neighbour.select(database);
        assert_eq!(neighbour.ask("SET k v"), b"+OK\r\n");
    }
    let dialled = server.info_number("stats", "total_connections_received") - before;
    assert!(dialled <= u64::from(ASKED) + 20, "{dialled} connections");
}

/// Local answers that wait behind a slow reply are bounded, whatever their size.
#[test]
fn local_answers_behind_a_slow_reply_take_little_memory() {
    if is_direct() {
        return;
    }
    let server = Server::start(Kind::Redis70);
    // All that is due may wait for a reader that the machine has no time for.
    let proxy = Proxy::start(&server, |flags| {
        flags.args(["--client-output-limit", "256MiB"]);
    });
    let mut stream = TcpStream::connect(proxy.address()).expect("the proxy accepts");
    let mut writer = stream.try_clone().expect("a second handle");
    // The script ends by itself; until then thousands of answers would have to wait.
    let script = "local t = redis.call('TIME')[1] while redis.call('TIME')[1] - t < 2 do end return 'done'";
    let echo = command(&[b"ECHO".as_slice(), &[b't'; 4000]]);
    let requests = [command(&["EVAL", script, "0"]), echo.repeat(20_000)].concat();
    let due = b"$4\r\ndone\r\n".len() + 20_000 * (4000 + b"$4000\r\n\r\n".len());
    let pid = proxy.pid().expect("a proxy");
    let (before, mut highest) = (resident_bytes(pid), 0);
    thread::scope(|scope| {
        scope.spawn(move || writer.write_all(&requests).expect("all is taken in the end"));
        // What was taken from the client while the script ran.
        stream.set_read_timeout(Some(Duration::from_millis(1))).expect("it is not zero");
        wait_until("the script ends", PATIENCE, || {
            let over = stream.peek(&mut [0]).is_ok();
            if !over {
                highest = highest.max(resident_bytes(pid));
            }
            over
        });
        stream.set_read_timeout(Some(PATIENCE)).expect("it is not zero");
        let mut replies = vec![0; due];
        stream.read_exact(&mut replies).expect("all are answered");
        assert!(replies.starts_with(b"$4\r\ndone\r\n$4000\r\nttt") && replies.ends_with(b"ttt\r\n"));
    });
    // 80 MB of answers were due.
    assert!(highest < before + (16 << 20), "{before} bytes grew to {highest}");
}

/// Clients that hold a megabyte each, no more, can use memory up as well: they have to go too.
#[test]
fn many_clients_that_hold_a_megabyte_each_do_not_keep_memory_for_good() {
    if is_direct() {
        return;
    }
    let server = Server::start(Kind::Redis70);
    let proxy = Proxy::start(&server, |flags| {
        flags.args(["--memory-limit", "8MiB"]);
    });
    let part = vec![b'x'; 1 << 20];
    let mut holders: Vec<_> = (0..20).map(|_| proxy.connect()).collect();
    for client in &mut holders {
        client.send(b"*3\r\n$3\r\nSET\r\n$3\r\nbig\r\n$3000000\r\n");
    }
    for client in &mut holders {
        // Some are cut while others still send.
        let _ = client.try_send(&part);
    }
    let mut honest = proxy.connect();
    let value = vec![b'y'; 2 << 20];
    wait_until("a large value gets through", PATIENCE, || {
        if honest.exchange(&command(&[b"SET".as_slice(), b"k", &value])).is_ok_and(|reply| reply.is_some()) {
            return true;
        }
        honest = proxy.connect();
        false
    });
    assert!(proxy.logged("buffer memory is short") > 0);
}

/// What CLIENT SETINFO and SELECT are given stays here, also where a server would take it.
#[test]
fn odd_settings_do_not_stick_to_a_shared_connection() {
    if is_direct() {
        return;
    }
    let server = Server::start(Kind::Valkey91);
    let proxy = Proxy::before(&server);
    let mut client = proxy.connect();
    assert_eq!(client.ask("SET k v"), b"+OK\r\n");
    let long = vec![b'l'; 5000];
    assert_eq!(client.call(&[b"CLIENT", b"SETINFO", b"LIB-NAME", &long]), b"-ERR LIB-NAME is too long\r\n");
    assert_eq!(client.ask("CLIENT SETINFO LIB-ENV x"), b"-ERR Unrecognized option 'LIB-ENV'\r\n");
    for odd in ["+1", "01", "1x", "0x1"] {
        assert!(client.ask(&format!("SELECT {odd}")).starts_with(b"-ERR "), "{odd}");
        assert_eq!(client.ask("GET k"), b"$1\r\nv\r\n", "after SELECT {odd}");
    }
    let listed = server.connect().ask("CLIENT LIST");
    let listed = String::from_utf8_lossy(&listed);
    let ours = listed.lines().filter(|line| line.contains("name=outrigger")).collect::<Vec<_>>();
    assert!(
        !ours.is_empty() && ours.iter().all(|line| line.contains(" db=0 ") && line.contains("lib-name= ")),
        "{listed}"
    );
}
