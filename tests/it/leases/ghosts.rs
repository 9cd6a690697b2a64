//! Consumers that are killed while they wait: what they take with them, beside what they take without the proxy.
//!
//! Two lists, one of direct consumers and one of consumers behind the proxy, on one server, in one run: a producer fills
//! both, and consumers of both are killed at random and replaced. An element that was popped for a consumer that is gone
//! by then is lost; that happens without any proxy too. `OUTRIGGER_ITEMS` sets how many elements there are for each (30 000).

use super::{assert_none_is_lost, one_worker};
use crate::support::{Client, Kind, Server, is_direct, words};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;
use std::{array, env};

/// Consumers of each list.
const CONSUMERS: usize = 10;
/// Elements that are pushed at once.
const BATCH: usize = 10;

/// One list and what became of its elements.
#[derive(Default)]
struct Side {
    list: String,
    received: AtomicUsize,
    killed: AtomicUsize,
}

#[test]
fn killed_consumers_take_one_element_with_them_at_most() {
    if is_direct() {
        return;
    }
    let items = env::var("OUTRIGGER_ITEMS").map_or(30_000, |text| text.parse().expect("OUTRIGGER_ITEMS is a number"));
    let server = Server::start(Kind::Redis70);
    let proxy = one_worker(&server);
    let sides: [Side; 2] = array::from_fn(|side| Side { list: format!("jobs-{side}"), ..Side::default() });
    let addresses = [server.address(), proxy.address().to_owned()];
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        for (side, address) in sides.iter().zip(&addresses) {
            for number in 0..CONSUMERS {
                let over = &over;
                scope.spawn(move || consume(side, address, number, over));
            }
        }
        let mut producer = server.connect();
        let mut random = fastrand::Rng::with_seed(1);
        for item in (0..items).step_by(BATCH) {
            for side in &sides {
                producer.send(&words(&format!("RPUSH {} {}", side.list, [item.to_string().as_str(); BATCH].join(" "))));
            }
            sides.iter().for_each(|_| drop(producer.reply()));
            // The lists run empty between, so that consumers wait, and die at moments that have nothing to do with a push.
            while sides.iter().any(|side| length(&mut producer, side) > 0) {}
            thread::sleep(Duration::from_micros(random.u64(0..4_000)));
        }
        over.store(true, Ordering::Relaxed);
        for side in &sides {
            producer.ask(&format!("RPUSH {} {}", side.list, ["stop"; 4 * CONSUMERS].join(" ")));
        }
    });
    let lost = sides.each_ref().map(|side| items - side.received.load(Ordering::Relaxed));
    let killed = sides.each_ref().map(|side| side.killed.load(Ordering::Relaxed));
    println!(
        "of {items} elements {} were lost directly and {} behind the proxy; killed consumers: {killed:?}",
        lost[0], lost[1]
    );
    assert!(killed.iter().all(|killed| *killed > 0));
    assert_none_is_lost(&proxy, &server);
    // How many it is, is chance: an element is on its way for a moment, and for a longer one through the proxy. But none is
    // lost without a consumer, and one at most with each.
    for side in 0..2 {
        assert!(lost[side] <= killed[side], "{} elements were lost with {} consumers", lost[side], killed[side]);
    }
}

fn length(client: &mut Client, side: &Side) -> usize {
    client.frame(&format!("LLEN {}", side.list)).as_text().parse().expect("a length")
}

/// Pops until told to stop; every now and then dies while it waits and is replaced.
fn consume(side: &Side, address: &str, number: usize, over: &AtomicBool) {
    let mut random = fastrand::Rng::with_seed(number as u64);
    while !over.load(Ordering::Relaxed) {
        let mut client = Client::connect(address);
        let life = random.usize(1..20);
        for _ in 0..life {
            let Some(taken) = client.frame(&format!("BLPOP {} 0", side.list)).items.pop() else { continue };
            if taken.text == b"stop" {
                return;
            }
            side.received.fetch_add(1, Ordering::Relaxed);
        }
        client.send(&words(&format!("BLPOP {} 0", side.list)));
        client.set_patience(Duration::from_micros(random.u64(1..2_000))).expect("a time limit can be set");
        match client.try_reply() {
            Ok(Some(reply)) => {
                let is_job = !reply.ends_with(b"\r\nstop\r\n");
                side.received.fetch_add(usize::from(is_job), Ordering::Relaxed);
            }
            // It is killed while it waits.
            _ => {
                side.killed.fetch_add(1, Ordering::Relaxed);
                if random.bool() {
                    client.reset();
                }
            }
        }
    }
}
