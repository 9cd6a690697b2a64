//! Ten thousand sidecars lose one Redis in the same moment and want it back: how hard do they knock, and who gets in when?
//!
//! A simulation in virtual time, the same each time, with the breaker and the supervisor that the proxy runs. Beside
//! them stand other ways to reconnect. Prints tables; fails if ours dials more than a tenth as often as dialling at each
//! request does while dials are refused.
//!
//! `cargo bench --bench herd` takes well under a minute. With `-- --quick`, or run as a test, it is a tenth of the size.
//!
//! - [`simulation`]: the events and the server. [`sidecar`]: ways to reconnect. [`tally`]: what is counted.

mod sidecar;
mod simulation;
mod tally;

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use sidecar::Kind;
use simulation::{Fault, Outage, Outcome};

/// What a new connection costs the server's one core: accept, HELLO, CLIENT commands.
const PLAIN: Duration = Duration::from_micros(50);

/// The same with TLS.
const TLS: Duration = Duration::from_millis(1);

/// How Redis is gone, and for how many seconds.
const OUTAGES: [(&str, Fault, u64); 6] = [
    ("Connections are cut, but Redis is there", Fault::Refuses, 0),
    ("Dials are refused for 3 s", Fault::Refuses, 3),
    ("Dials are refused for 30 s", Fault::Refuses, 30),
    ("Dials are refused for 300 s", Fault::Refuses, 300),
    ("Packets are lost for 30 s", Fault::Silent, 30),
    ("Packets are lost for 300 s", Fault::Silent, 300),
];

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let is = |flag: &str| arguments.iter().any(|argument| argument == flag);
    // `cargo bench` says `--bench`, `cargo test` does not.
    let sidecars = if is("--bench") && !is("--quick") { 10_000 } else { 1000 };
    match compare(sidecars) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) | Err(_) => ExitCode::FAILURE,
    }
}

/// Prints everything; false if ours knocks too hard.
fn compare(sidecars: u32) -> io::Result<bool> {
    let mut out = io::stdout().lock();
    let mut is_gentle = true;
    writeln!(
        out,
        "{sidecars} sidecars, one Redis. A handshake costs it {PLAIN:?}, with TLS {TLS:?}. Times are seconds from its \
         return until half / 99 % / all of the sidecars serve."
    )?;
    for (title, fault, seconds) in OUTAGES {
        let outage = Outage { sidecars, fault, length: Duration::from_secs(seconds) };
        writeln!(out, "\n{title}:\n")?;
        is_gentle &= table(&mut out, &outage)?;
    }
    if !is_gentle {
        writeln!(out, "\nOutrigger dials more than a tenth as often as dialling at each request.")?;
    }
    Ok(is_gentle)
}

/// One outage: a row for each way to reconnect. False if ours knocks too hard.
fn table(out: &mut impl Write, outage: &Outage) -> io::Result<bool> {
    writeln!(
        out,
        "| reconnecting | most dials in 1 s | in 0.1 s | after the return: in 1 s | in 0.1 s | plain: connected in the \
         first second | serve after | TLS: connected in the first second | serve after |"
    )?;
    writeln!(out, "|---|---:|---:|---:|---:|---:|---:|---:|---:|")?;
    let (mut ours, mut at_each_request) = (0, 0);
    for way in sidecar::WAYS {
        let (plain, tls) = (way.run(outage, PLAIN), way.run(outage, TLS));
        row(out, way.name, &plain, &tls)?;
        let most = plain.dials.most_in_a_second(0);
        match way.kind {
            Kind::EachRequest => at_each_request = most,
            Kind::Outrigger => ours = most,
            Kind::Fixed | Kind::Doubling { .. } => {}
        }
    }
    // Where nothing is refused, one dial at a time is all that each can do in any way.
    let is_judged = outage.fault == Fault::Refuses && !outage.length.is_zero();
    Ok(!is_judged || ours <= at_each_request / 10)
}

fn row(out: &mut impl Write, name: &str, plain: &Outcome, tls: &Outcome) -> io::Result<()> {
    let most = |count: &dyn Fn(&Outcome) -> u32| count(plain).max(count(tls));
    writeln!(
        out,
        "| {name} | {} | {} | {} | {} | {} | {} | {} | {} |",
        most(&|outcome| outcome.dials.most_in_a_second(0)),
        most(&|outcome| outcome.dials.most_in_a_tenth(0)),
        most(&|outcome| outcome.dials.most_in_a_second(outcome.returned)),
        most(&|outcome| outcome.dials.most_in_a_tenth(outcome.returned)),
        plain.first_second,
        times(plain),
        tls.first_second,
        times(tls),
    )
}

/// When half, 99 % and all of the sidecars served again.
fn times(outcome: &Outcome) -> String {
    let time = |part| {
        let time = outcome.served_after(part);
        time.map_or_else(|| "never".to_owned(), |time| format!("{:.1}", time.as_secs_f64()))
    };
    [0.5, 0.99, 1.0].map(time).join(" / ")
}
