//! What becomes of requests that this connection does not answer: which are asked again and which never, what keeps a write
//! from running late, and how often the server is dialled meanwhile.

use super::{
    assert_indeterminate, assert_served, assert_unavailable, clients_on_one_line, clients_on_the_line, fillings, large,
    nil, proxy_before, proxy_with, shown,
};
use crate::support::{
    Client, Figures, Line, Mood, Over, PATIENCE, Scripted, bulk, command, is_direct, wait_until, words,
};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// What a server that cannot serve says. It has not run the command then.
const CANNOT_SERVE: [&str; 4] = [
    "-LOADING Redis is loading the dataset in memory\r\n",
    "-MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.\r\n",
    "-CLUSTERDOWN The cluster is down\r\n",
    "-BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.\r\n",
];

/// Errors that are answers, though some begin like those.
const ANSWERS: [&str; 4] = [
    "-BUSYGROUP Consumer Group name already exists\r\n",
    "-BUSYKEY Target key name already exists.\r\n",
    "-LOADINGS are another matter\r\n",
    "-ERR LOADING comes second here\r\n",
];

const READONLY: &str = "-READONLY You can't write against a read only replica.\r\n";

const NOPERM: &str = "-NOPERM this user has no permissions to run the 'client|kill' command\r\n";

/// How long nothing is seen to happen.
const WATCHED: Duration = Duration::from_secs(3);

/// The longest that an answer may take that waits for nobody, on a busy machine.
const AT_ONCE: Duration = Duration::from_millis(500);

/// Three dials take longer than this: no more than two begin in any second. Half is for the time until one is noticed; the
/// exact rule is shown in virtual time, and by the packets of two hundred sidecars.
const THREE_DIALS: Duration = Duration::from_millis(500);

#[test]
fn a_lost_read_is_asked_again_once_and_gets_its_reply() {
    if is_direct() {
        return;
    }
    for protocol in [2, 3] {
        let mut upstream = Scripted::start();
        let proxy = proxy_before(&upstream);
        let ([mut client, mut other], mut line) = clients_on_one_line(&mut upstream, &proxy, protocol);
        client.send(&[words("GET a"), words("ECHO local"), words("GET b")].concat());
        line.expect("GET a");
        line.expect("GET b");
        other.send(&words("GET c"));
        line.expect("GET c");
        drop(line);
        let mut second = upstream.line(protocol);
        // One client after the other, whichever is the first.
        let asked: [_; 3] = std::array::from_fn(|_| {
            let request = second.request();
            second.say(&bulk(&request[1]));
            String::from_utf8(request.concat()).expect("text")
        });
        assert!(
            matches!(&asked.each_ref().map(String::as_str), ["GETa", "GETb", "GETc"] | ["GETc", "GETa", "GETb"]),
            "{asked:?}"
        );
        assert_eq!(shown(&client.reply()), "$1\\r\\na\\r\\n");
        assert_eq!(shown(&client.reply()), "$5\\r\\nlocal\\r\\n");
        assert_eq!(shown(&client.reply()), "$1\\r\\nb\\r\\n");
        assert_eq!(shown(&other.reply()), "$1\\r\\nc\\r\\n");
        client.send(&words("GET d"));
        second.expect_next("GET d");
    }
}

/// More than a new connection is given at first: were they spread over connections, or the rest failed meanwhile, replies
/// would come out of order.
#[test]
fn a_long_pipeline_that_is_lost_stays_together() {
    const READS: usize = 40;
    if is_direct() {
        return;
    }
    let mut upstream = Scripted::start();
    let proxy = proxy_before(&upstream);
    let ([mut client], mut line) = clients_on_one_line(&mut upstream, &proxy, 2);
    let keys: Vec<String> = (0..READS).map(|number| format!("key{number}")).collect();
    let pipeline: Vec<Vec<u8>> = keys.iter().map(|key| words(&format!("GET {key}"))).collect();
    client.send(&pipeline.concat());
    keys.iter().for_each(|key| line.expect(&format!("GET {key}")));
    drop(line);
    let mut second = upstream.line(2);
    // All of them come before any is answered.
    keys.iter().for_each(|key| second.expect_next(&format!("GET {key}")));
    keys.iter().for_each(|key| second.say(&bulk(key.as_bytes())));
    for key in &keys {
        assert_eq!(shown(&client.reply()), format!("${}\\r\\n{key}\\r\\n", key.len()));
    }
}

#[test]
fn a_read_that_is_lost_twice_is_not_asked_a_third_time() {
    if is_direct() {
        return;
    }
    for protocol in [2, 3] {
        let mut upstream = Scripted::start();
        let proxy = proxy_before(&upstream);
        let ([mut client], mut line) = clients_on_one_line(&mut upstream, &proxy, protocol);
        client.send(&words("GET a"));
        line.expect("GET a");
        drop(line);
        let mut second = upstream.line(protocol);
        second.expect_next("GET a");
        drop(second);
        assert_eq!(shown(&client.reply()), nil(protocol));
        client.send(&words("GET b"));
        let mut third = upstream.line(protocol);
        third.expect_next("GET b");
        third.say(b"+b\r\n");
        assert_eq!(shown(&client.reply()), "+b\\r\\n");
    }
}

#[test]
fn a_read_beside_a_write_that_may_have_run_is_not_asked_again() {
    if is_direct() {
        return;
    }
    let requests = ["GET a", "INCR n"];
    for order in [[0, 1], [1, 0]] {
        let mut upstream = Scripted::start();
        let proxy = proxy_before(&upstream);
        let ([mut client], mut line) = clients_on_one_line(&mut upstream, &proxy, 2);
        client.send(&order.map(|at| words(requests[at])).concat());
        order.iter().for_each(|at| line.expect(requests[*at]));
        let fence = line.end_of_it();
        drop(line);
        for at in order {
            match at {
                0 => assert_eq!(shown(&client.reply()), nil(2)),
                _ => assert_indeterminate(&client.reply()),
            }
        }
        client.send(&words("GET next"));
        let mut second = upstream.line(2);
        second.expect_next(&fence);
        second.expect_next("GET next");
        second.say(b":0\r\n+next\r\n");
        assert_eq!(shown(&client.reply()), "+next\\r\\n");
    }
}

#[test]
fn reads_before_a_write_that_was_not_sent_are_asked_again_with_it_in_their_order() {
    if is_direct() {
        return;
    }
    let mut upstream = Scripted::start();
    let proxy = proxy_before(&upstream);
    let ([mut client, mut other], mut line) = clients_on_one_line(&mut upstream, &proxy, 2);
    let value = vec![b'v'; 1_000_000];
    client.send(&[words("GET a"), words("GET b")].concat());
    line.expect("GET a");
    line.expect("GET b");
    // What the other one writes leaves no room for all of the write.
    other.send(&fillings());
    other.wait_until_read();
    client.send(&large(b"k"));
    client.wait_until_read();
    line.reset();
    let mut second = upstream.line(2);
    let (mut seen, mut next) = (Vec::new(), second.next().expect("something comes"));
    loop {
        let is_last = next.last() == Some(&value);
        match next[0].as_slice() {
            b"GET" => seen.push(next[1].clone()),
            b"SET" if is_last => seen.push(next[1].clone()),
            _ => {}
        }
        let reply = match (next[0].as_slice(), is_last) {
            (b"GET", _) => [b"+", next[1].as_slice(), b"\r\n"].concat(),
            (b"CLIENT", _) => b":0\r\n".to_vec(),
            _ => b"+OK\r\n".to_vec(),
        };
        second.say(&reply);
        if is_last {
            break;
        }
        next = second.next().expect("it was not sent before");
    }
    assert_eq!(seen, [b"a", b"b", b"k"], "in their order");
    for due in ["+a\\r\\n", "+b\\r\\n", "+OK\\r\\n"] {
        assert_eq!(shown(&client.reply()), due);
    }
    client.send(&words("GET c"));
    second.expect_next("GET c");
}

#[test]
fn errors_of_a_server_that_cannot_serve_are_not_passed_on() {
    if is_direct() {
        return;
    }
    for (protocol, error) in [2, 3].into_iter().flat_map(|protocol| CANNOT_SERVE.map(|error| (protocol, error))) {
        let mut upstream = Scripted::start();
        let proxy = proxy_before(&upstream);
        let ([mut client], mut line) = clients_on_one_line(&mut upstream, &proxy, protocol);
        client.send(&[words("GET a"), words("INCR n"), words("GET b")].concat());
        line.expect("GET a");
        line.expect("INCR n");
        line.expect("GET b");
        line.say(&[error, error, "+b\r\n"].concat().into_bytes());
        assert_eq!(shown(&client.reply()), nil(protocol), "{error}");
        let reply = client.reply();
        let is_so = reply.starts_with(b"-UNAVAILABLE ") && reply.ends_with(b", command not run\r\n");
        assert!(is_so, "{} for {error}", shown(&reply));
        assert_eq!(shown(&client.reply()), "+b\\r\\n");
        // Nothing is sent a second time, and the connection stays in use.
        client.send(&words("GET c"));
        line.expect_next("GET c");
        line.say(b"+c\r\n");
        assert_eq!(shown(&client.reply()), "+c\\r\\n");
    }
}

#[test]
fn errors_that_are_answers_are_passed_on() {
    if is_direct() {
        return;
    }
    let mut upstream = Scripted::start();
    let proxy = proxy_before(&upstream);
    let ([mut client], mut line) = clients_on_one_line(&mut upstream, &proxy, 2);
    for error in ANSWERS {
        client.send(&[words("GET a"), words("INCR n")].concat());
        line.expect("GET a");
        line.expect("INCR n");
        line.say(&error.repeat(2).into_bytes());
        assert_eq!(shown(&client.reply()), shown(error.as_bytes()));
        assert_eq!(shown(&client.reply()), shown(error.as_bytes()));
    }
    // A script may have changed something before it met its error.
    let errors = [CANNOT_SERVE.as_slice(), &[READONLY]].concat();
    client.send(&command(&["EVAL", "return redis.call('INCR', 'n')", "0"]).repeat(errors.len()));
    for error in errors {
        assert_eq!(line.request()[0], b"EVAL");
        line.say(error.as_bytes());
        assert_eq!(shown(&client.reply()), shown(error.as_bytes()));
    }
}

#[test]
fn a_write_that_a_replica_refuses_is_asked_again_on_a_fresh_connection() {
    if is_direct() {
        return;
    }
    let mut upstream = Scripted::start();
    let proxy = proxy_before(&upstream);
    let ([mut client, mut other], mut line) = clients_on_one_line(&mut upstream, &proxy, 2);
    other.send(&words("GET a"));
    line.expect("GET a");
    line.say(b"+a\r\n");
    assert_eq!(shown(&other.reply()), "+a\\r\\n");
    client.send(&words("INCR n"));
    line.expect("INCR n");
    line.say(READONLY.as_bytes());
    line.wait_for_end();
    let mut second = upstream.line(2);
    second.expect_next("INCR n");
    second.say(b":1\r\n");
    assert_eq!(shown(&client.reply()), ":1\\r\\n");
    other.send(&words("GET b"));
    second.expect_next("GET b");
    second.say(b"+b\r\n");
    assert_eq!(shown(&other.reply()), "+b\\r\\n");
    let repeats = |reason: &str| proxy.metric(&format!("outrigger_retries_total{{reason=\"{reason}\",result=\"ok\"}}"));
    assert_eq!((repeats("refused"), repeats("not_sent")), (Some(1.0), Some(0.0)));
}

#[test]
fn a_replica_that_stays_one_is_passed_on_and_not_dialled_again() {
    if is_direct() {
        return;
    }
    let mut upstream = Scripted::start();
    let proxy = proxy_before(&upstream);
    let ([mut client], mut line) = clients_on_one_line(&mut upstream, &proxy, 2);
    client.send(&words("INCR n"));
    line.expect("INCR n");
    line.say(READONLY.as_bytes());
    let mut second = upstream.line(2);
    second.expect_next("INCR n");
    second.say(READONLY.as_bytes());
    assert_eq!(shown(&client.reply()), shown(READONLY.as_bytes()));
    let (dials, since) = (upstream.dials(), Instant::now());
    wait_until("the time to watch is over", PATIENCE, || {
        client.send(&words("INCR n"));
        second.expect("INCR n");
        second.say(READONLY.as_bytes());
        assert_eq!(shown(&client.reply()), shown(READONLY.as_bytes()));
        since.elapsed() > WATCHED
    });
    assert_eq!(upstream.dials(), dials);
}

#[test]
fn a_write_past_its_deadline_is_fenced_off_and_its_late_reply_reaches_nobody() {
    if is_direct() {
        return;
    }
    let mut upstream = Scripted::start();
    let proxy = proxy_with(&upstream, &["--request-timeout", "2s"]);
    let ([mut client, mut other], mut line) = clients_on_one_line(&mut upstream, &proxy, 2);
    let sent = Instant::now();
    client.send(&words("INCR a"));
    line.expect("INCR a");
    // The connection is not lost, but another takes its place, whose PINGs are answered all the time.
    let mut second = upstream.line(2);
    let waited = thread::scope(|scope| {
        let waits = scope.spawn(|| {
            assert_indeterminate(&client.reply());
            let waited = sent.elapsed();
            client.send(&words("INCR b"));
            waited
        });
        // There the late write is ended first.
        second.expect_next(&line.end_of_it());
        waits.join().expect("it was answered")
    });
    assert!(
        waited > Duration::from_millis(1_700) && waited < Duration::from_millis(2_600),
        "answered after {waited:?}"
    );
    // Answered before anything else, since a PING may come behind it.
    second.say(b":1\r\n");
    second.expect_next("INCR b");
    second.say(b":2\r\n");
    assert_eq!(shown(&client.reply()), ":2\\r\\n");
    // That it was answered was heard: it is not sent again.
    other.send(&words("INCR c"));
    second.expect_next("INCR c");
    second.say(b":3\r\n");
    assert_eq!(shown(&other.reply()), ":3\\r\\n");
    // The reply that is late is nobody's, and the connection, which was to be ended, is used no more.
    line.say(b":1\r\n");
    line.wait_for_end();
    for (client, key) in [(&mut client, "d"), (&mut other, "e")] {
        client.send(&words(&format!("GET {key}")));
        second.expect_next(&format!("GET {key}"));
        second.say(&bulk(key.as_bytes()));
        assert_eq!(shown(&client.reply()), shown(&bulk(key.as_bytes())));
    }
}

#[test]
fn the_late_reply_to_a_read_reaches_nobody_and_its_connection_is_used_again() {
    if is_direct() {
        return;
    }
    let mut upstream = Scripted::start();
    let proxy = proxy_with(&upstream, &["--request-timeout", "2s"]);
    let ([mut client, mut other], mut line) = clients_on_one_line(&mut upstream, &proxy, 2);
    client.send(&words("GET a"));
    line.expect("GET a");
    drop(line);
    // This is its second connection, so it waits here until its deadline.
    let mut late = upstream.line(2);
    late.expect_next("GET a");
    assert_eq!(shown(&client.reply()), nil(2));
    let mut fresh = upstream.line(2);
    client.send(&words("GET b"));
    fresh.expect_next("GET b");
    fresh.say(b"+b\r\n");
    assert_eq!(shown(&client.reply()), "+b\\r\\n");
    late.say_in_pieces([b"+a\r\n".as_slice()]);
    pass_a_turn(&mut other);
    // Nothing is due on this one; once it is gone, there is only the one that has caught up.
    assert_eq!(fresh.end_and_drain().len(), 0);
    let dials = upstream.dials();
    for (client, key) in [(&mut client, "c"), (&mut other, "d")] {
        client.send(&words(&format!("GET {key}")));
        late.expect_next(&format!("GET {key}"));
        late.say(&bulk(key.as_bytes()));
        assert_eq!(shown(&client.reply()), shown(&bulk(key.as_bytes())));
    }
    assert_eq!(upstream.dials(), dials);
}

#[test]
fn a_write_that_cannot_be_fenced_off_may_still_run() {
    if is_direct() {
        return;
    }
    let mut upstream = Scripted::start_in(Mood::Refuses("CLIENT KILL", NOPERM));
    let proxy = proxy_with(&upstream, &["--request-timeout", "2s"]);
    let ([mut client, mut other], mut line) = clients_on_one_line(&mut upstream, &proxy, 2);
    client.send(&words("INCR a"));
    line.expect("INCR a");
    answered_after(&mut client, assert_pending);
    client.send(&words("INCR b"));
    let mut second = upstream.line(2);
    second.expect_next("INCR b");
    drop(second);
    assert_pending(&client.reply());
    other.send(&words("INCR c"));
    upstream.line(2).expect_next("INCR c");
}

#[test]
fn what_waits_on_a_stuck_connection_is_asked_elsewhere_if_it_reads() {
    if is_direct() {
        return;
    }
    let mut upstream = Scripted::start();
    let proxy = proxy_with(&upstream, &[]);
    let ([mut reading, mut writing, mut both, mut new], mut line) = clients_on_one_line(&mut upstream, &proxy, 2);
    upstream.echo();
    let start = Instant::now();
    reading.send(&words("GET a"));
    writing.send(&words("INCR b"));
    both.send(&[words("GET c"), words("INCR d")].concat());
    ["GET a", "INCR b", "GET c", "INCR d"].iter().for_each(|request| line.expect(request));
    // Two fifths of the 4 s that a request has.
    assert_eq!(shown(&reading.reply()), "$1\\r\\na\\r\\n");
    let waited = start.elapsed();
    assert!(waited > Duration::from_millis(1_300) && waited < Duration::from_millis(2_500), "asked after {waited:?}");
    assert_served([&mut new, &mut reading]);
    assert_eq!(shown(&both.reply()), nil(2));
    assert_indeterminate(&both.reply());
    assert_indeterminate(&writing.reply());
    let waited = start.elapsed();
    assert!(
        waited > Duration::from_millis(3_700) && waited < Duration::from_millis(4_700),
        "given up after {waited:?}"
    );
    line.say(b"+late a\r\n+late b\r\n+late c\r\n+late d\r\n");
    assert_served([&mut reading, &mut writing, &mut both, &mut new]);
    assert_eq!(shown_of(line), [""; 0], "a stuck connection takes nothing new");
}

#[test]
fn while_nobody_knows_whether_the_server_is_there_one_dial_finds_out() {
    if is_direct() {
        return;
    }
    let upstream = Scripted::start_in(Mood::Silent);
    let proxy = proxy_with(&upstream, &["--connect-timeout", "1s"]);
    let mut clients: Vec<_> = (0..16).map(|_| proxy.connect()).collect();
    for (database, client) in clients.iter_mut().enumerate() {
        client.send(&[words(&format!("SELECT {database}")), words("GET k"), words("INCR n")].concat());
    }
    for client in &mut clients {
        assert_eq!(shown(&client.reply()), "+OK\\r\\n");
        assert_eq!(shown(&client.reply()), nil(2));
        assert_unavailable(&client.reply());
    }
    // The next is due some time after the first has failed.
    let second = upstream.dialled().get(1).map(|second| *second - upstream.dialled()[0]);
    assert!(second.is_none_or(|second| second > Duration::from_millis(900)), "one finds out for all, not {second:?}");
    let start = Instant::now();
    for client in &mut clients {
        assert_eq!(shown(&client.ask("GET k")), nil(2));
        assert_unavailable(&client.ask("INCR n"));
    }
    assert!(start.elapsed() < AT_ONCE, "all know it after {:?}", start.elapsed());
}

#[test]
fn a_server_that_is_gone_is_dialled_twice_a_second_at_most_however_many_ask() {
    if is_direct() {
        return;
    }
    for mood in [Mood::HangsUp, Mood::Silent, Mood::Full("-ERR max number of clients reached\r\n")] {
        let mut upstream = Scripted::start();
        let proxy = proxy_with(&upstream, &["--connect-timeout", "300ms"]);
        let ([mut client, mut other], line) = clients_on_the_line(&mut upstream, &proxy, 3);
        // It has been well for a second, so that its loss is a surprise.
        let since = Instant::now();
        wait_until("a second has passed", PATIENCE, || since.elapsed() > Duration::from_secs(1));
        let before = upstream.dials();
        upstream.turn(mood);
        line.reset();
        let (over, ended) = Over::flag();
        let slowest = thread::scope(|scope| {
            let end = over;
            let (first, second) = (&ended, &ended);
            let asking = [scope.spawn(|| ask_until(&mut client, first)), scope.spawn(|| ask_until(&mut other, second))];
            let since = Instant::now();
            wait_until("the time to watch is over", PATIENCE, || since.elapsed() > WATCHED);
            drop(end);
            asking.map(|asking| asking.join().expect("all are answered")).into_iter().max()
        });
        let dials = &upstream.dialled()[before..];
        let closest = dials.windows(3).map(|three| three[2] - three[0]).min();
        let mut figures = Figures::of(&format!("gone: {mood:?}"));
        figures.add("dials", dials.len());
        figures.add("closest_three_ms", closest.map_or(0, |time| time.as_millis()));
        figures.add("slowest_ms", slowest.map_or(0, |time| time.as_millis()));
        assert!(!dials.is_empty(), "somebody looks whether it is back");
        let seconds = usize::try_from(WATCHED.as_secs()).expect("few");
        assert!(dials.len() <= 2 * seconds + 2, "{} dials in {seconds} s", dials.len());
        assert!(closest.is_none_or(|closest| closest > THREE_DIALS), "three dials in {closest:?}");
        assert!(slowest < Some(Duration::from_millis(300) + AT_ONCE), "a read was answered after {slowest:?}");
    }
}

/// Every lane has lost its connection in the same moment, and each had been free to dial a moment before.
#[test]
fn however_many_lanes_lose_their_connections_at_once_two_dials_leave() {
    if is_direct() {
        return;
    }
    let mut upstream = Scripted::start();
    let proxy = proxy_before(&upstream);
    let mut lanes: Vec<_> = (0..6)
        .map(|database| {
            let mut client = proxy.connect();
            client.send(&[words(&format!("SELECT {database}")), words("GET first")].concat());
            let mut line = upstream.line(2);
            line.expect("GET first");
            line.say(b"$-1\r\n");
            assert_eq!([shown(&client.reply()), shown(&client.reply())], ["+OK\\r\\n", nil(2)]);
            client.send(&words("GET second"));
            line.expect("GET second");
            (client, line)
        })
        .collect();
    let since = Instant::now();
    wait_until("a second has passed", PATIENCE, || since.elapsed() > Duration::from_secs(1));
    let before = upstream.dials();
    upstream.turn(Mood::HangsUp);
    let lost = Instant::now();
    let clients: Vec<_> = lanes
        .drain(..)
        .map(|(client, line)| {
            line.reset();
            client
        })
        .collect();
    clients.into_iter().for_each(|mut client| assert_eq!(shown(&client.reply()), nil(2)));
    wait_until("half a second has passed", PATIENCE, || lost.elapsed() > Duration::from_millis(500));
    let dials = upstream.dials() - before;
    assert!((1..=2).contains(&dials), "{dials} dials at the moment of the loss");
}

/// Reads and writes until it is over; returns how long the slowest answer took.
fn ask_until(client: &mut Client, ended: &AtomicBool) -> Duration {
    let mut slowest = Duration::ZERO;
    while !ended.load(Ordering::Relaxed) {
        let start = Instant::now();
        assert_eq!(shown(&client.ask("GET k")), nil(3));
        slowest = slowest.max(start.elapsed());
        assert_unavailable(&client.ask("INCR n"));
    }
    slowest
}

/// How long the client waits for its reply, which is to pass `check`.
fn answered_after(client: &mut Client, check: impl FnOnce(&[u8])) -> Duration {
    let start = Instant::now();
    check(&client.reply());
    start.elapsed()
}

/// It was sent, and nothing keeps it from running later.
fn assert_pending(reply: &[u8]) {
    let is_so =
        reply.starts_with(b"-INDETERMINATE ") && reply.ends_with(b", the command may have run, or may still run\r\n");
    assert!(is_so, "{}", shown(reply));
}

/// When the one worker has answered the second of these, it has dealt with what it found readable before the first.
fn pass_a_turn(bystander: &mut Client) {
    for _ in 0..2 {
        assert_eq!(shown(&bystander.ask("PING")), "+PONG\\r\\n");
    }
}

/// The first word of each request that still comes.
fn shown_of(line: Line) -> Vec<String> {
    line.end_and_drain().iter().map(|request| shown(&request[0])).collect()
}
