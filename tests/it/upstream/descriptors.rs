//! The proxy runs out of file descriptors.

use super::{assert_served, proxy_before};
use crate::support::{Client, Figures, PATIENCE, Scripted, alone, is_direct, wait_until, words};
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

/// How many files the proxy may open.
const FILES: usize = 40;

/// How many clients come.
const CLIENTS: usize = 100;

/// What the log says when it begins and when it is over.
const PAUSING: &str = "cannot accept clients, pausing";
const AGAIN: &str = "accepting clients again";

/// How long the proxy's use of the processor is measured.
const WATCHED: Duration = Duration::from_secs(1);

#[test]
fn alone_without_descriptors_the_proxy_waits_and_those_inside_are_served() {
    if is_direct() {
        return;
    }
    let _alone = alone();
    let mut upstream = Scripted::start();
    upstream.echo();
    let mut proxy = proxy_before(&upstream);
    let pid = proxy.pid().expect("there is a proxy");
    // Its upstream connection is there before descriptors run out.
    assert_served([&mut proxy.connect()]);
    limit_files(pid);
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| proxy.connect()).collect();
    wait_until("the proxy runs out of descriptors", PATIENCE, || proxy.logged(PAUSING) > 0);
    let (busy, since) = (processor_time(pid), Instant::now());
    wait_until("the time to watch is over", PATIENCE, || since.elapsed() >= WATCHED);
    let busy = processor_time(pid) - busy;
    Figures::of("out of descriptors").add("busy_ms", busy.as_millis());
    assert!(busy < Duration::from_millis(200), "busy for {busy:?} in {WATCHED:?}");
    assert_eq!(proxy.logged(PAUSING), 1, "the log says it once");
    // All wait in the order of their coming, so the first are inside.
    let inside = 10;
    assert_served(&mut clients[..inside]);
    for client in &mut clients {
        client.send(&words("GET waiting"));
    }
    let mut served = 0;
    while let Some(mut first) = (!clients.is_empty()).then(|| clients.remove(0)) {
        assert_eq!(first.reply(), b"$7\r\nwaiting\r\n", "client {served}");
        served += 1;
        drop::<Client>(first);
    }
    assert_served([&mut proxy.connect()]);
    wait_until("the log says that it is over", PATIENCE, || proxy.logged(AGAIN) > 0);
    proxy.assert_running();
}

fn limit_files(pid: u32) {
    let limited =
        Command::new("prlimit").args(["--pid", &pid.to_string(), &format!("--nofile={FILES}:{FILES}")]).status();
    assert!(limited.is_ok_and(|status| status.success()), "the limit of open files can be lowered");
}

/// Processor time that a process has used so far, in user and kernel mode.
fn processor_time(pid: u32) -> Duration {
    /// Clock ticks are hundredths of a second on Linux.
    const TICK: Duration = Duration::from_millis(10);
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process is running");
    let (_, fields) = stat.rsplit_once(')').expect("the name is in brackets");
    let ticks = fields.split_whitespace().skip(11).take(2).map(|field| field.parse::<u32>().expect("a number"));
    TICK * ticks.sum::<u32>()
}
