//! The HTTP port, asked as orchestrators, people and strangers ask it.

mod callers;
mod drill;
mod health;
mod hostile;
mod paths;
mod probes;
mod token;

use crate::support::{Client, Kind, PATIENCE, Proxy, Server, http, wait_until};
use std::fs;
use std::process::Command;
use tempfile::TempDir;

/// What opens everything. No output may ever hold it.
const TOKEN: &str = "open-sesame-3f9d";

/// A server, and a proxy before it whose HTTP port knows the token.
struct Setting {
    server: Server,
    proxy: Proxy,
    http: String,
    folder: TempDir,
}

impl Setting {
    fn new(options: impl FnOnce(&mut Command)) -> Self {
        let folder = tempfile::tempdir().expect("a temporary directory can be made");
        let file = folder.path().join("token");
        fs::write(&file, format!("{TOKEN}\n")).expect("the token can be written");
        let server = Server::start(Kind::Redis70);
        let proxy = Proxy::start(&server, |flags| {
            flags.arg("--admin-token-file").arg(&file);
            options(flags);
        });
        let http = proxy.http();
        wait_until("it serves", PATIENCE, || http::get(&http, "/readyz").status == 200);
        Self { server, proxy, http, folder }
    }

    /// Writes another token.
    fn write_token(&self, text: &str) {
        fs::write(self.folder.path().join("token"), text).expect("the token can be written");
    }

    fn get(&self, path: &str) -> http::Answer {
        http::get(&self.http, path)
    }

    /// The same as whoever has the token.
    fn get_as_operator(&self, path: &str) -> http::Answer {
        self.as_operator("GET", path)
    }

    fn post_as_operator(&self, path: &str) -> http::Answer {
        self.as_operator("POST", path)
    }

    fn as_operator(&self, method: &str, path: &str) -> http::Answer {
        http::request(&self.http, method, path, &[&format!("Authorization: Bearer {TOKEN}")])
    }

    fn status(&self, path: &str) -> u16 {
        self.get(path).status
    }

    fn client(&self) -> Client {
        self.proxy.connect()
    }

    /// One number out of the metrics; 0 if it is not there.
    fn metric(&self, name: &str) -> u64 {
        let metrics = self.get("/metrics").body;
        let line =
            metrics.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{'])));
        line.and_then(|line| line.rsplit(' ').next()).map_or(0, |value| value.parse().expect("a whole number"))
    }
}
