//! Probes do not depend on Redis, unless they are told to.

use super::Setting;
use crate::support::{Kind, PATIENCE, Proxy, Server, http, wait_until};

const PROBES: [&str; 3] = ["/livez", "/readyz", "/startupz"];

#[test]
fn no_outage_shows_in_them() {
    let mut setting = Setting::new(|_| {});
    let well = |setting: &Setting| {
        for path in PROBES {
            let answer = setting.get(path);
            assert_eq!(answer.status, 200, "{path}: {answer:?}");
        }
    };
    setting.server.kill();
    wait_until("it is missed", PATIENCE, || {
        well(&setting);
        setting.client().ask("GET k");
        setting.status("/health") == 503
    });
    well(&setting);
    setting.server.start_again();
    wait_until("it is found", PATIENCE, || {
        well(&setting);
        setting.status("/health") == 200
    });
    setting.server.freeze();
    wait_until("its silence is noticed", PATIENCE, || {
        well(&setting);
        setting.status("/health") == 503
    });
    setting.server.thaw();
    wait_until("it is heard again", PATIENCE, || {
        well(&setting);
        setting.status("/health") == 200
    });
}

#[test]
fn a_start_without_redis_is_a_start() {
    let proxy = Proxy::toward("127.0.0.1:1", |_| {});
    let http = proxy.http();
    for path in PROBES {
        wait_until(path, PATIENCE, || http::get(&http, path).status == 200);
    }
    assert_eq!(http::get(&http, "/health").status, 503);
}

#[test]
fn they_can_be_told_to_wait_for_redis() {
    let mut server = Server::start(Kind::Redis70);
    server.kill();
    let proxy = Proxy::start(&server, |flags| {
        flags.args(["--ready-requires-upstream", "--startup-requires-upstream"]);
    });
    let http = proxy.http();
    let status = |path| http::get(&http, path).status;
    wait_until("it serves", PATIENCE, || http::get(&http, "/startupz").body.contains("Redis was not reached"));
    assert_eq!((status("/livez"), status("/readyz"), status("/startupz")), (200, 503, 503));
    server.start_again();
    wait_until("Redis is found", PATIENCE, || (status("/readyz"), status("/startupz")) == (200, 200));
    server.kill();
    wait_until("Redis is missed", PATIENCE, || status("/readyz") == 503);
    assert_eq!((status("/livez"), status("/startupz")), (200, 200), "what has started has started");
}
