//! Passwords that are replaced while they are in use, on either side; and what the log shows.

use crate::support::{Client, Kind, PATIENCE, Proxy, Server, is_direct, wait_until};
use rustix::process::Signal;
use std::fs;
use std::path::PathBuf;
use tempfile::TempDir;

/// A file whose content is replaced as a mounted secret's is: by another behind a symbolic link.
struct Mounted {
    folder: TempDir,
    versions: usize,
}

impl Mounted {
    fn with(secret: &str) -> Self {
        let mut mounted = Self { folder: tempfile::tempdir().expect("a temporary folder"), versions: 0 };
        mounted.replace(secret);
        mounted
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("secret")
    }

    fn replace(&mut self, secret: &str) {
        self.versions += 1;
        let version = self.folder.path().join(self.versions.to_string());
        fs::write(&version, secret).expect("it can be written");
        let link = self.folder.path().join("link");
        std::os::unix::fs::symlink(version, &link).expect("it can be linked");
        fs::rename(link, self.path()).expect("it can be replaced");
    }
}

/// Has the proxy read its files, and waits until it has.
fn reload(proxy: &Proxy, times: usize) {
    proxy.tell(Signal::HUP);
    wait_until("the files are read", PATIENCE, || proxy.logged("read the files again") == times);
}

/// Ends all connections of the proxy, so that it makes new ones.
fn part(admin: &mut Client) {
    admin.ask("CLIENT KILL TYPE normal SKIPME yes");
}

#[test]
fn redis_gets_the_password_that_is_valid_there() {
    if is_direct() {
        return;
    }
    for kind in Kind::ALL {
        let server = Server::start_with(kind, &["--requirepass", "one"]);
        let mut admin = server.connect();
        admin.ask("AUTH one");
        let mut secret = Mounted::with("one\n");
        let proxy = Proxy::patient(&server, |flags| {
            flags.arg("--upstream-password-file").arg(secret.path());
        });
        let mut client = proxy.connect();
        let mut serves = |what: &str| wait_until(what, PATIENCE, || client.ask("SET k v") == b"+OK\r\n");
        serves("it is served with the first password");

        // The server and the file are changed, and nobody says so: the refusal does.
        admin.ask("CONFIG SET requirepass two");
        secret.replace("two\n");
        serves("who is connected stays so");
        part(&mut admin);
        serves("the file is read when the password is refused");
        reload(&proxy, 1);
        assert_eq!(proxy.logged("another secret was read"), 1, "that which a dial has read is told too");

        // The file is changed first: until the server is, the password before goes on to work.
        secret.replace("three\n");
        reload(&proxy, 2);
        assert_eq!(proxy.logged("another secret was read"), 2);
        part(&mut admin);
        serves("the password before is tried");
        admin.ask("CONFIG SET requirepass three");
        part(&mut admin);
        serves("the new one is used as soon as it works");
    }
}

#[test]
fn a_new_password_is_tried_at_once_where_the_old_one_was_refused() {
    if is_direct() {
        return;
    }
    let server = Server::start_with(Kind::Redis70, &["--requirepass", "right"]);
    let mut secret = Mounted::with("wrong");
    let proxy = Proxy::start(&server, |flags| {
        flags.arg("--upstream-password-file").arg(secret.path());
    });
    let mut client = proxy.connect();
    wait_until("it is refused", PATIENCE, || proxy.logged("WRONGPASS") > 0);
    secret.replace("right");
    reload(&proxy, 1);
    // Without being told, the next try is half a minute after the last.
    wait_until("it is served", PATIENCE, || client.ask("SET k v") == b"+OK\r\n");
}

#[test]
fn clients_must_give_the_new_password_and_who_is_in_stays_in() {
    if is_direct() {
        return;
    }
    let server = Server::start(Kind::Redis70);
    let mut secret = Mounted::with("secret-1");
    let proxy = Proxy::patient(&server, |flags| {
        flags.arg("--password-file").arg(secret.path());
    });
    let mut early = proxy.connect();
    assert_eq!(early.ask("AUTH secret-1"), b"+OK\r\n");
    secret.replace("secret-2");
    reload(&proxy, 1);
    assert_eq!(early.ask("SET k v"), b"+OK\r\n");
    let mut late = proxy.connect();
    assert!(late.ask("AUTH secret-1").starts_with(b"-WRONGPASS"));
    assert_eq!(late.ask("AUTH secret-2"), b"+OK\r\n");

    secret.replace("\n");
    proxy.tell(Signal::HUP);
    wait_until("that is complained of", PATIENCE, || proxy.logged("all stays as it was") == 1);
    assert_eq!(proxy.connect().ask("AUTH secret-2"), b"+OK\r\n");
    assert_eq!(proxy.logged("secret-"), 0, "no secret is logged");
}

#[test]
fn the_log_shows_what_the_file_says() {
    if is_direct() {
        return;
    }
    let server = Server::start(Kind::Redis70);
    let mut directives = Mounted::with("info\n");
    let proxy = Proxy::patient(&server, |flags| {
        flags.arg("--log-level-file").arg(directives.path());
    });
    assert_eq!(proxy.logged(r#""level":"DEBUG""#), 0);
    directives.replace("outrigger=debug");
    reload(&proxy, 1);
    let mut admin = server.connect();
    wait_until("there are details", PATIENCE, || {
        part(&mut admin);
        proxy.logged(r#""level":"DEBUG""#) > 0
    });
    directives.replace("outrigger=nonsense");
    proxy.tell(Signal::HUP);
    wait_until("that is complained of", PATIENCE, || proxy.logged("is nothing to log") == 1);
    assert_eq!(proxy.logged("--log-level-file (OUTRIGGER_LOG_LEVEL_FILE): `outrigger=nonsense`"), 1);
}
