//! Today's client libraries, unmodified and with their defaults: what they hand out through the proxy is what they hand
//! out directly, and none of them reconnects.
//!
//! Those of other languages are driven by the scripts in `tests/clients`, which take two URLs and compare the two sides
//! themselves; those of Rust by the modules below. What needs more than a shared connection is in `work`.

mod corpus;
mod fred;
mod redis_rs;
mod work;

use crate::program::run_to_end;
use crate::support::{Kind, Proxy, Server, dependency};
use corpus::Transcript;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// An old server and a new one: they greet clients differently (CLIENT SETINFO came with 7.2).
const SERVERS: [Kind; 2] = [Kind::Redis70, Kind::Valkey91];
/// The longest a script may take; a tenth of it is usual.
const SCRIPT_LIMIT: Duration = Duration::from_mins(3);

#[test]
fn redis_py() {
    for kind in SERVERS {
        run_script(kind, "PYTHON", "redis_py.py");
    }
}

#[test]
fn redis_py_pipeline_beyond_the_output_limit() {
    run_script(Kind::Redis70, "PYTHON", "redis_py_huge.py");
}

#[test]
fn ioredis() {
    for kind in SERVERS {
        run_script(kind, "NODE", "ioredis.js");
    }
}

#[test]
fn node_redis() {
    for kind in SERVERS {
        run_script(kind, "NODE", "node_redis.js");
    }
}

/// Runs a script of `tests/clients` between a server and a proxy before another, fresh, server.
fn run_script(kind: Kind, interpreter: &str, script: &str) {
    let (direct, behind) = (Server::start(kind), Server::start(kind));
    let mut proxy = Proxy::patient(&behind, |_| {});
    run_between(&direct.address(), proxy.address(), kind, interpreter, script);
    proxy.assert_running();
}

/// Runs a script of `tests/clients` between two addresses, behind both of which is a server of this kind.
fn run_between(direct: &str, through: &str, kind: Kind, interpreter: &str, script: &str) {
    let mut command = Command::new(dependency(interpreter));
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(script));
    command.args([direct, through].map(|address| format!("redis://{address}")));
    command.env("PYTHONDONTWRITEBYTECODE", "1").env("NODE_PATH", dependency("NODE_PATH"));
    let (status, output) = run_to_end(&mut command, SCRIPT_LIMIT);
    assert!(status.success(), "{script} on {}, {status}:\n{output}", kind.name());
    println!("{script} on {}:\n{output}", kind.name());
}

/// Runs `scenario` with the URL of a server and with that of a proxy before another, fresh, server.
fn compare_sides(library: &str, scenario: impl Fn(&str) -> Transcript) {
    for kind in SERVERS {
        let (direct, behind) = (Server::start(kind), Server::start(kind));
        let mut proxy = Proxy::patient(&behind, |_| {});
        let expected = scenario(&format!("redis://{}", direct.address()));
        let seen = scenario(&format!("redis://{}", proxy.address()));
        expected.assert_equal(&seen, &format!("{library} on {}", kind.name()));
        proxy.assert_running();
    }
}

/// A runtime for the asynchronous libraries.
fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made")
}
