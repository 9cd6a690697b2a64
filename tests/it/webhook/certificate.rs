//! The certificate: how TLS is spoken with it, how it is replaced, and what keeps the webhook from starting.

use super::caller::Connection;
use super::{IMAGE, Identity, Webhook, binary, paths, write};
use crate::program::run_to_end;
use crate::support::{PATIENCE, is_direct, wait_until};
use rustix::process::Signal;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use tokio_rustls::rustls::{ProtocolVersion, version};

#[test]
fn tls_is_spoken_as_the_api_server_does() {
    if is_direct() {
        return;
    }
    for identity in [Identity::new(), Identity::of_ed25519()] {
        let webhook = Webhook::with(identity, |_| {});
        for (version, agreed) in
            [(&version::TLS13, ProtocolVersion::TLSv1_3), (&version::TLS12, ProtocolVersion::TLSv1_2)]
        {
            let opened = Connection::try_open(&webhook.address, &[&webhook.identity], &[version]);
            let mut connection = opened.expect("it is understood");
            assert_eq!(connection.agreed(), (Some(agreed), Some(&b"http/1.1"[..])));
            assert_eq!(connection.probe(), 200);
        }
        let stranger = Identity::new();
        let opened = Connection::try_open(&webhook.address, &[&stranger], &[&version::TLS13]);
        assert!(opened.is_err(), "who does not trust it does not connect");
        assert_eq!(webhook.connect().probe(), 200);
    }
}

/// The certificate that a new connection is shown.
fn shown(webhook: &Webhook, trusted: &[&Identity]) -> Vec<u8> {
    Connection::open(&webhook.address, trusted).certificate()
}

#[test]
fn who_refuses_the_certificate_is_told_of() {
    if is_direct() {
        return;
    }
    let webhook = Webhook::start();
    for version in [&version::TLS13, &version::TLS12] {
        let refused = Connection::try_open(&webhook.address, &[&Identity::new()], &[version]);
        assert!(refused.is_err_and(|error| error.to_string().contains("certificate")), "it is not the one trusted");
    }
    webhook.wait_for_lines("a caller refuses the certificate", 1);
}

#[test]
fn another_pair_is_used_from_when_it_is_there() {
    if is_direct() {
        return;
    }
    let webhook = Webhook::start();
    let (first, next) = (&webhook.identity, Identity::new());
    let mut before = webhook.connect();
    assert_eq!(before.probe(), 200);
    write(webhook.folder.path(), &next);
    // Nobody tells it: it looks.
    wait_until("the next certificate is shown", PATIENCE, || shown(&webhook, &[first, &next]) == next.der);
    webhook.wait_for("another certificate was read: it is used from now on");
    assert_eq!(before.probe(), 200, "who is there stays");
    assert_eq!(before.certificate(), first.der);
}

#[test]
fn a_pair_that_cannot_be_used_changes_nothing() {
    if is_direct() {
        return;
    }
    let webhook = Webhook::start();
    let (first, next) = (&webhook.identity, Identity::new());
    let [certificate, key] = paths(webhook.folder.path());
    let complaint = "what was read again is not used: all stays as it was";
    let breaks: [(&str, &dyn Fn()); 4] = [
        ("is not the key of the certificate", &(|| fs::write(&key, &next.key).expect("it can be written"))),
        ("holds no private key in PEM", &(|| fs::write(&key, "nonsense").expect("it can be written"))),
        ("holds no certificates in PEM", &(|| fs::write(&certificate, "").expect("it can be written"))),
        ("cannot read", &(|| fs::remove_file(&certificate).expect("it is there"))),
    ];
    for (problem, break_it) in breaks {
        let said = webhook.logged(complaint);
        break_it();
        webhook.tell(Signal::HUP);
        wait_until(problem, PATIENCE, || {
            webhook.lines().iter().skip_while(|line| !line.contains(complaint)).any(|line| line.contains(problem))
        });
        webhook.wait_for_lines(complaint, said + 1);
        assert_eq!(shown(&webhook, &[first]), first.der, "{problem}");
    }
    write(webhook.folder.path(), &next);
    webhook.tell(Signal::HUP);
    webhook.wait_for("another certificate was read: it is used from now on");
    assert_eq!(shown(&webhook, &[&next]), next.der);
    webhook.wait_for("read the files again");
    webhook.tell(Signal::HUP);
    webhook.wait_for_lines("read the files again", 2);
    assert_eq!(webhook.logged("another certificate was read"), 1, "the same is no other");
}

/// As a mounted secret is laid out: all files are behind one link, which is replaced by another.
fn mount(folder: &Path, version: &str, identity: &Identity) {
    let data = folder.join(version);
    fs::create_dir(&data).expect("it can be made");
    write(&data, identity);
    symlink(version, folder.join("..next")).expect("it can be made");
    fs::rename(folder.join("..next"), folder.join("..data")).expect("it can be replaced");
}

#[test]
fn a_mounted_secret_is_replaced_behind_its_link() {
    if is_direct() {
        return;
    }
    let volume = tempfile::tempdir().expect("a temporary directory can be made");
    let (first, next) = (Identity::new(), Identity::new());
    mount(volume.path(), "..1", &first);
    for name in ["tls.crt", "tls.key"] {
        symlink(Path::new("..data").join(name), volume.path().join(name)).expect("it can be made");
    }
    let [certificate, key] = paths(volume.path());
    let webhook = Webhook::with(Identity::new(), |command| {
        command.arg("--tls-cert-file").arg(&certificate).arg("--tls-key-file").arg(&key);
    });
    assert_eq!(shown(&webhook, &[&first]), first.der);
    mount(volume.path(), "..2", &next);
    wait_until("the next certificate is shown", PATIENCE, || shown(&webhook, &[&first, &next]) == next.der);
    assert_eq!(webhook.logged("is not used"), 0, "two files that belong together are read together");
}

/// How it ends where it cannot start, and what it says.
fn refusal(options: impl FnOnce(&mut Command)) -> (Option<i32>, String) {
    let mut command = Command::new(binary());
    command.env("OUTRIGGER_LISTEN", "127.0.0.1:0").args(["webhook", "--log-format", "json"]);
    options(&mut command);
    let (status, said) = run_to_end(&mut command, PATIENCE);
    assert_eq!(said.lines().count(), 1, "{said}");
    (status.code(), said)
}

#[test]
fn what_it_needs_is_named_with_flag_variable_and_remedy() {
    if is_direct() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    write(folder.path(), &Identity::new());
    let [certificate, key] = paths(folder.path());
    let other = folder.path().join("other.key");
    fs::write(&other, Identity::new().key).expect("it can be written");
    let start = |certificate: &Path, key: &Path, more: &[&str]| {
        refusal(|command| {
            command.arg("--tls-cert-file").arg(certificate).arg("--tls-key-file").arg(key).args(more);
        })
    };
    let says = |(code, said): (Option<i32>, String), expected: i32, words: &[&str]| {
        assert_eq!(code, Some(expected), "{said}");
        for word in words {
            assert!(said.contains(word), "`{word}` is not in {said}");
        }
    };
    let image = ["--image", IMAGE];
    says(start(&certificate, &key, &[]), 64, &["--image (OUTRIGGER_IMAGE): missing", "as nodes can pull it"]);
    says(refusal(|command| _ = command.args(image)), 64, &["--tls-cert-file (OUTRIGGER_TLS_CERT_FILE): missing"]);
    let nowhere = folder.path().join("nowhere");
    says(start(&nowhere, &key, &image), 1, &["--tls-cert-file (OUTRIGGER_TLS_CERT_FILE): cannot read", "name a file"]);
    says(start(&key, &key, &image), 1, &["OUTRIGGER_TLS_CERT_FILE): ", "holds no certificates in PEM: write"]);
    says(
        start(&certificate, &certificate, &image),
        1,
        &["--tls-key-file (OUTRIGGER_TLS_KEY_FILE): ", "no private key"],
    );
    says(start(&certificate, &other, &image), 1, &["OUTRIGGER_TLS_KEY_FILE): ", "is not the key of", "name a pair"]);
    let webhook = Webhook::start();
    let taken = ["--image", IMAGE, "--listen", &webhook.address];
    says(start(&certificate, &key, &taken), 1, &["cannot listen on", "--listen (OUTRIGGER_LISTEN)"]);
    says(start(&certificate, &key, &["--image", IMAGE, "--listen", "8443"]), 64, &["--listen (OUTRIGGER_LISTEN)"]);
}
