//! Replies that nobody asked for, that are none, and that come in pieces.

use super::{
    FILLINGS, assert_indeterminate, assert_served, clients_on_one_line, fillings, large as large_request, proxy_before,
    shown,
};
use crate::support::{Scripted, bulk, is_direct, words};

/// What is no reply, or none that can be forwarded.
const GARBAGE: [&[u8]; 10] = [
    b"hello\r\n",
    b"\r\n",
    b"*?\r\n",
    b"$?\r\n",
    b"%?\r\n",
    b"~?\r\n",
    b"$-2\r\n",
    b"$x\r\n",
    b"$1\r\nabc",
    b"*99999999999999999999\r\n",
];

/// One reply of each kind, nested ones too.
const MIXTURE: [&[u8]; 20] = [
    b"+OK\r\n",
    b"-ERR no\r\n",
    b":-42\r\n",
    b"$0\r\n\r\n",
    b"$-1\r\n",
    b"$8\r\n\r\n+no\r\n1\r\n",
    b"_\r\n",
    b"#t\r\n",
    b",-1.5e10\r\n",
    b",inf\r\n",
    b"(3492890328409238509324850943850943825024385\r\n",
    b"=7\r\ntxt:abc\r\n",
    b"!5\r\nERR x\r\n",
    b"*0\r\n",
    b"*-1\r\n",
    b"*3\r\n:1\r\n*2\r\n$1\r\na\r\n_\r\n+b\r\n",
    b"%2\r\n+a\r\n:1\r\n$1\r\nb\r\n*1\r\n#f\r\n",
    b"~2\r\n,3\r\n$1\r\nc\r\n",
    b"|1\r\n+ttl\r\n:3\r\n$5\r\nvalue\r\n",
    b"$3\r\nend\r\n",
];

/// A message that a server pushes.
pub(super) const PUSH: &[u8] = b">3\r\n$7\r\nmessage\r\n+channel\r\n$5\r\nhello\r\n";

#[test]
fn a_surplus_reply_ends_the_connection_and_reaches_nobody() {
    if is_direct() {
        return;
    }
    for (protocol, apart) in [(2, false), (2, true), (3, false), (3, true)] {
        let mut upstream = Scripted::start();
        let mut proxy = proxy_before(&upstream);
        let ([mut asking, mut other], mut line) = clients_on_one_line(&mut upstream, &proxy, protocol);
        asking.send(&words("GET a"));
        line.expect("GET a");
        if apart {
            line.say_in_pieces([b"+a\r\n".as_slice(), b"+surplus\r\n"]);
        } else {
            line.say(b"+a\r\n+surplus\r\n");
        }
        assert_eq!(shown(&asking.reply()), "+a\\r\\n");
        line.wait_for_end();
        let dials = upstream.dials();
        upstream.echo();
        assert_served([&mut other, &mut asking]);
        assert_eq!(upstream.dials(), dials + 1, "one fresh connection, RESP{protocol}");
        proxy.assert_running();
    }
}

#[test]
fn half_a_surplus_reply_ends_the_connection_before_anybody_gets_the_rest() {
    if is_direct() {
        return;
    }
    let mut upstream = Scripted::start();
    let proxy = proxy_before(&upstream);
    let ([mut asking, mut other], mut line) = clients_on_one_line(&mut upstream, &proxy, 2);
    asking.send(&words("GET a"));
    line.expect("GET a");
    line.say_in_pieces([b"+a\r\n$8\r\nsur".as_slice()]);
    assert_eq!(shown(&asking.reply()), "+a\\r\\n");
    upstream.echo();
    other.send(&words("GET mine"));
    // Whether the request went over the old connection first or not, the rest of the surplus must not answer it.
    drop(line.try_say(b"plus!\r\n"));
    assert_eq!(shown(&other.reply()), "$4\\r\\nmine\\r\\n");
    line.wait_for_end();
    assert_served([&mut asking, &mut other]);
}

#[test]
fn a_surplus_reply_does_not_answer_a_request_that_is_not_written_yet() {
    if is_direct() {
        return;
    }
    let mut upstream = Scripted::start();
    let proxy = proxy_before(&upstream);
    let ([mut small, mut large, mut idle], mut line) = clients_on_one_line(&mut upstream, &proxy, 2);
    // Together more than the kernel takes while we do not read.
    large.send(&fillings());
    large.wait_until_read();
    small.send(&large_request(b"k"));
    small.wait_until_read();
    line.say(&[b"+OK\r\n".repeat(FILLINGS), b"+surplus\r\n".to_vec()].concat());
    (0..FILLINGS).for_each(|_| assert_eq!(large.reply(), b"+OK\r\n"));
    upstream.echo();
    // It was not sent, so it is sent now.
    assert!(small.reply() == bulk(&[b'v'; 1_000_000]), "it is not answered by its own reply");
    line.wait_for_end();
    assert_served([&mut idle, &mut small, &mut large]);
}

#[test]
fn garbage_ends_the_connection_and_those_who_wait_are_told() {
    if is_direct() {
        return;
    }
    for garbage in GARBAGE {
        let mut upstream = Scripted::start();
        let mut proxy = proxy_before(&upstream);
        let (mut clients, mut line) = clients_on_one_line::<3>(&mut upstream, &proxy, 3);
        for (client, request) in clients.iter_mut().zip(["GET a", "GET b", "INCR c"]) {
            client.send(&words(request));
            line.expect(request);
        }
        line.say(&[b"+a\r\n", garbage].concat());
        let [first, reading, writing] = &mut clients;
        assert_eq!(shown(&first.reply()), "+a\\r\\n", "before {}", shown(garbage));
        line.wait_for_end();
        assert_indeterminate(&writing.reply());
        upstream.echo();
        assert_eq!(shown(&reading.reply()), "$1\\r\\nb\\r\\n", "it is asked again after {}", shown(garbage));
        assert_served(&mut clients);
        let failures =
            |reason: &str| proxy.metric(&format!("outrigger_circuit_breaker_failures_total{{reason=\"{reason}\"}}"));
        assert_eq!((failures("protocol"), failures("disconnect")), (Some(1.0), Some(0.0)), "{}", shown(garbage));
        proxy.assert_running();
    }
}

#[test]
fn garbage_that_answers_nothing_ends_the_connection_too() {
    if is_direct() {
        return;
    }
    let mut upstream = Scripted::start();
    let proxy = proxy_before(&upstream);
    let (mut clients, mut line) = clients_on_one_line::<2>(&mut upstream, &proxy, 2);
    line.say(b"hello\r\n");
    line.wait_for_end();
    upstream.echo();
    assert_served(&mut clients);
}

#[test]
fn pushes_are_dropped_and_the_replies_around_them_stay_paired() {
    if is_direct() {
        return;
    }
    let mut upstream = Scripted::start();
    let proxy = proxy_before(&upstream);
    let (mut clients, mut line) = clients_on_one_line::<2>(&mut upstream, &proxy, 3);
    // Nobody waits for anything.
    line.say_in_pieces([PUSH]);
    for _ in 0..2 {
        for (client, key) in clients.iter_mut().zip(["a", "b"]) {
            client.send(&words(&format!("GET {key}")));
            line.expect(&format!("GET {key}"));
        }
        line.say_in_pieces([PUSH, b"$1\r\na\r\n", PUSH, &PUSH[..9]]);
        line.say(&[&PUSH[9..], b"$1\r\nb\r\n", PUSH].concat());
        for (client, reply) in clients.iter_mut().zip([b"$1\r\na\r\n", b"$1\r\nb\r\n"]) {
            assert_eq!(shown(&client.reply()), shown(reply));
        }
    }
    let dials = upstream.dials();
    for client in &mut clients {
        client.send(&words("GET again"));
        line.expect("GET again");
        line.say(b"+again\r\n");
        assert_eq!(shown(&client.reply()), "+again\\r\\n");
    }
    assert_eq!(upstream.dials(), dials, "the connection stays in use");
}

#[test]
fn replies_arrive_whole_in_whatever_pieces_they_come() {
    if is_direct() {
        return;
    }
    let mut upstream = Scripted::start();
    let proxy = proxy_before(&upstream);
    let (mut clients, mut line) = clients_on_one_line::<2>(&mut upstream, &proxy, 3);
    let mut bystander = proxy.connect();
    let mut arrive_in = |pieces: &mut dyn Iterator<Item = &[u8]>, how: &str| {
        // The clients' requests alternate, and so do their replies.
        for number in 0..MIXTURE.len() {
            clients[number % 2].send(&words(&format!("GET {number}")));
            line.expect(&format!("GET {number}"));
        }
        for piece in pieces {
            line.say(piece);
            // When the one worker has answered the second of these, whatever it found readable before the first has been
            // read. Asking the system instead, as elsewhere, would take too long so many times.
            for _ in 0..2 {
                assert_eq!(shown(&bystander.ask("PING")), "+PONG\\r\\n");
            }
        }
        for (number, due) in MIXTURE.iter().enumerate() {
            assert_eq!(shown(&clients[number % 2].reply()), shown(due), "{how}");
        }
    };
    let replies = MIXTURE.concat();
    arrive_in(&mut replies.chunks(1), "in single bytes");
    for at in 1..replies.len() {
        let (head, tail) = replies.split_at(at);
        arrive_in(&mut [head, tail].into_iter(), &format!("in two pieces, {at} bytes first"));
    }
}
