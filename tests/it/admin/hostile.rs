//! What strangers may send, and hold open, without anybody else noticing.

use super::Setting;
use crate::support::http;
use crate::support::{Over, PATIENCE, wait_until};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Connections that a stranger opens; three times as many as there are places.
const CROWD: usize = 200;

fn crowd(setting: &Setting, beginning: &[u8]) -> Vec<TcpStream> {
    let mut crowd = Vec::new();
    for _ in 0..CROWD {
        let mut stream = http::connect(&setting.http).expect("the kernel takes it");
        // It may have been closed already, in favour of a later one.
        let _ = stream.write_all(beginning);
        crowd.push(stream);
    }
    crowd
}

#[test]
fn a_crowd_that_holds_connections_open_keeps_nobody_out() {
    let setting = Setting::new(|_| {});
    let (over, flag) = Over::flag();
    let served = AtomicU64::new(0);
    thread::scope(|scope| {
        let mut client = setting.client();
        let served = &served;
        scope.spawn(move || {
            while !flag.load(Ordering::Relaxed) {
                assert_eq!(client.ask("SET k v"), b"+OK\r\n");
                served.fetch_add(1, Ordering::Relaxed);
            }
        });
        // Ended with the test, whatever becomes of it.
        let _over = over;
        for beginning in [
            &b""[..],
            b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Slow: ",
            b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n",
            b"POST /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n",
        ] {
            let mut crowd = crowd(&setting, beginning);
            for round in 0..20 {
                // One byte at a time, for as long as it is let.
                crowd.iter_mut().for_each(|stream| drop(stream.write_all(b"a")));
                for path in ["/livez", "/readyz", "/health", "/metrics"] {
                    assert_eq!(setting.status(path), 200, "{path} in round {round} of {}", beginning.escape_ascii());
                }
            }
        }
        let before = served.load(Ordering::Relaxed);
        wait_until("Redis traffic goes on", PATIENCE, || served.load(Ordering::Relaxed) > before + 100);
    });
}

#[test]
fn a_crowd_that_guesses_tokens_keeps_nobody_out() {
    let setting = Setting::new(|_| {});
    let (over, flag) = Over::flag();
    thread::scope(|scope| {
        for number in 0..CROWD {
            let (flag, address) = (&flag, &setting.http);
            scope.spawn(move || {
                let guess = format!("GET /health/detailed HTTP/1.0\r\nAuthorization: Bearer {number}\r\n\r\n");
                while !flag.load(Ordering::Relaxed) {
                    // Whoever has taken a place and not asked yet may lose it to the next: then there is no answer.
                    let answer = http::raw(address, guess.as_bytes()).unwrap_or_default();
                    assert!(answer.is_empty() || answer.starts_with("HTTP/1.0 401"), "{answer}");
                }
            });
        }
        let _over = over;
        wait_until("all are at it", PATIENCE, || setting.metric("outrigger_http_refused_tokens_total") > 400);
        for path in ["/livez", "/readyz", "/health", "/metrics"] {
            assert_eq!(setting.status(path), 200, "{path}");
        }
    });
}

#[test]
fn alone_who_sends_slowly_is_cut_off() {
    let _alone = crate::support::alone();
    let setting = Setting::new(|_| {});
    for beginning in [
        &b""[..],
        b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ",
        b"POST /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n",
    ] {
        let mut stream = http::connect(&setting.http).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_millis(200))).expect("a limit can be set");
        stream.write_all(beginning).expect("it is taken");
        let start = Instant::now();
        wait_until("it is cut off", PATIENCE, || {
            let is_over = match stream.read(&mut [0; 4096]) {
                Ok(read) => read == 0,
                Err(error) => !matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut),
            };
            is_over || (!beginning.is_empty() && stream.write_all(b"a").is_err())
        });
        let took = start.elapsed();
        assert!(took < Duration::from_secs(12), "{} was let go on for {took:?}", beginning.escape_ascii());
    }
}

#[test]
fn heads_and_bodies_have_limits() {
    let setting = Setting::new(|_| {});
    let long = format!("X: {}", "a".repeat(40_000));
    let head = http::raw(&setting.http, format!("GET /livez HTTP/1.1\r\nHost: x\r\n{long}\r\n\r\n").as_bytes());
    assert!(head.as_ref().is_ok_and(|answer| answer.starts_with("HTTP/1.1 431")), "{head:?}");
    let many = "X: y\r\n".repeat(1000);
    let head = http::raw(&setting.http, format!("GET /livez HTTP/1.1\r\nHost: x\r\n{many}\r\n").as_bytes());
    assert!(head.as_ref().is_ok_and(|answer| answer.starts_with("HTTP/1.1 431")), "{head:?}");
    let path = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(100_000));
    let head = http::raw(&setting.http, path.as_bytes());
    assert!(head.as_ref().is_ok_and(|answer| answer.starts_with("HTTP/1.1 4")), "{head:?}");
    let head = http::raw(&setting.http, b"\x16\x03\x01 is how TLS begins\r\n\r\n");
    assert!(head.as_ref().is_ok_and(|answer| answer.starts_with("HTTP/1.1 400")), "{head:?}");
    let refused = |code: u16| {
        let series = format!("outrigger_http_requests_total{{code=\"{code}\",path=\"other\"}}");
        setting.proxy.metric(&series)
    };
    wait_until("they are counted", PATIENCE, || refused(431) == Some(3.0) && refused(400) == Some(1.0));

    for length in [8 * 1024 + 1, 100_000, 1_000_000, 10_000_000_000] {
        let mut request = format!("GET /livez HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n").into_bytes();
        request.resize(request.len() + length.min(100_000), b'a');
        let answer = http::raw(&setting.http, &request);
        assert!(answer.as_ref().is_ok_and(|answer| answer.starts_with("HTTP/1.1 413")), "{length}: {answer:?}");
    }
    let chunk = format!("2000\r\n{}\r\n", "a".repeat(0x2000));
    let chunked =
        format!("POST /quitquitquit HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}{chunk}0\r\n\r\n");
    let answer = http::raw(&setting.http, chunked.as_bytes());
    assert!(answer.as_ref().is_ok_and(|answer| answer.starts_with("HTTP/1.1 413")), "{answer:?}");
    let small = b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 8192\r\n\r\n";
    let answer = http::raw(&setting.http, &[&small[..], &[b'a'; 8192]].concat());
    assert!(answer.as_ref().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200")), "{answer:?}");
}

#[test]
fn garbage_is_refused_and_forgotten() {
    let mut setting = Setting::new(|_| {});
    let garbage: [&[u8]; 9] = [
        b"\0\0\0\0",
        b"*1\r\n$4\r\nPING\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
        b"GET /livez HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"GET http://[::1 HTTP/1.1\r\n\r\n",
    ];
    for bytes in garbage {
        // Closed with a refusal or without: who knows what speaks there.
        let answer = http::raw(&setting.http, bytes).unwrap_or_default();
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{}: {answer}", bytes.escape_ascii());
    }
    let mut random = fastrand::Rng::with_seed(5);
    for _ in 0..200 {
        let bytes: Vec<u8> = (0..random.usize(1..300)).map(|_| random.u8(..)).collect();
        let mut stream = http::connect(&setting.http).expect("it listens");
        let _ = stream.write_all(&bytes);
    }
    setting.proxy.assert_running();
    assert_eq!(setting.status("/livez"), 200);
    assert_eq!(setting.client().ask("PING"), b"+PONG\r\n");
}

#[test]
fn several_requests_on_one_connection_are_answered_in_order() {
    let setting = Setting::new(|_| {});
    let pipeline = "GET /livez HTTP/1.1\r\nHost: x\r\n\r\nGET /nothing HTTP/1.1\r\nHost: x\r\n\r\n\
                    GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let answers = http::raw(&setting.http, pipeline.as_bytes()).expect("they are answered");
    let statuses: Vec<_> = answers.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect();
    assert_eq!(statuses, ["200", "404", "200"]);
}
