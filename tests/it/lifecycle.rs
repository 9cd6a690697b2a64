//! From the first component to the last client: how the process starts, is told things, and stops.

mod drain;
mod load;
mod secrets;
mod start;

use crate::support::{Client, PATIENCE, Proxy, wait_until};
use rustix::process::Signal;

/// Tells a proxy to stop, and waits until it has heard it.
fn stop(proxy: &Proxy) {
    proxy.tell(Signal::TERM);
    wait_until("it begins to drain", PATIENCE, || proxy.logged(r#""message":"draining""#) > 0);
}

/// Everything that still comes, up to an orderly end.
fn last_words(client: &mut Client) -> String {
    let rest = client.rest().expect("the end is an orderly one");
    rest.escape_ascii().to_string()
}
