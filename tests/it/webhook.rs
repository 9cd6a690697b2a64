//! `outrigger webhook`, called as the API server calls it: over HTTPS, with AdmissionReviews of the shapes that it sends.
//!
//! `webhook/reviews` holds these. A patch is applied by an implementation that is not ours, and gives what `inject` gives.

mod caller;
mod certificate;
mod end;
mod limits;
mod manifests;
mod reviews;

use crate::support::{PATIENCE, wait_until};
use caller::Connection;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

/// The image that sidecars get here.
const IMAGE: &str = "registry.example/outrigger:1";

/// A certificate for `localhost`, its own issuer, and its key, in PEM.
struct Identity {
    certificate: String,
    key: String,
    der: Vec<u8>,
}

impl Identity {
    fn new() -> Self {
        Self::with_key(&KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key can be made"))
    }

    fn of_ed25519() -> Self {
        Self::with_key(&KeyPair::generate_for(&PKCS_ED25519).expect("a key can be made"))
    }

    fn with_key(key: &KeyPair) -> Self {
        let params = CertificateParams::new(["localhost".to_owned()]).expect("the name is right");
        let certificate = params.self_signed(key).expect("it can be signed");
        Self { certificate: certificate.pem(), key: key.serialize_pem(), der: certificate.der().to_vec() }
    }
}

/// A running webhook; ended when dropped.
struct Webhook {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    address: String,
    identity: Identity,
    folder: tempfile::TempDir,
}

fn binary() -> String {
    std::env::var("OUTRIGGER_BIN")
        .ok()
        .filter(|named| named != "direct")
        .unwrap_or_else(|| env!("CARGO_BIN_EXE_outrigger").to_owned())
}

impl Webhook {
    fn start() -> Self {
        Self::with(Identity::new(), |_| {})
    }

    fn with(identity: Identity, options: impl FnOnce(&mut Command)) -> Self {
        let folder = tempfile::tempdir().expect("a temporary directory can be made");
        let mut command = Command::new(binary());
        write(folder.path(), &identity);
        let [certificate, key] = paths(folder.path());
        // Flags among the options are stronger.
        command.env("OUTRIGGER_LISTEN", "127.0.0.1:0").env("OUTRIGGER_IMAGE", IMAGE);
        command.env("OUTRIGGER_TLS_CERT_FILE", certificate).env("OUTRIGGER_TLS_KEY_FILE", key);
        command.args(["webhook", "--log-format", "json"]);
        options(&mut command);
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the program can be run");
        let log = Arc::<Mutex<Vec<String>>>::default();
        let stderr = child.stderr.take().expect("stderr is piped");
        let kept = Arc::clone(&log);
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                kept.lock().expect("no holder panics").push(line);
            }
        });
        let mut webhook = Self { child, log, address: String::new(), identity, folder };
        webhook.wait_for("webhook listening");
        webhook.address = webhook.line("webhook listening")["address"].as_str().expect("it says where").to_owned();
        webhook
    }

    /// A connection over TLS.
    fn connect(&self) -> Connection {
        Connection::open(&self.address, &[&self.identity])
    }

    /// How a review is answered.
    fn ask(&self, review: &serde_json::Value) -> serde_json::Value {
        let answer = self.connect().post("/mutate?timeout=5s", &review.to_string());
        assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")), "{answer:?}");
        answer.json()
    }

    fn lines(&self) -> Vec<String> {
        self.log.lock().expect("no holder panics").clone()
    }

    /// How many lines of the log contain this.
    fn logged(&self, text: &str) -> usize {
        self.lines().iter().filter(|line| line.contains(text)).count()
    }

    /// The last line of the log that contains this.
    fn line(&self, text: &str) -> serde_json::Value {
        let lines = self.lines();
        let line = lines.iter().rfind(|line| line.contains(text)).unwrap_or_else(|| panic!("nothing says {text}"));
        serde_json::from_str(line).unwrap_or_else(|error| panic!("no JSON ({error}): {line}"))
    }

    fn wait_for(&self, text: &str) {
        self.wait_for_lines(text, 1);
    }

    fn wait_for_lines(&self, text: &str, count: usize) {
        wait_until(&format!("the log says {text:?}"), PATIENCE, || self.logged(text) >= count);
    }

    fn tell(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it is ours");
    }

    fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        wait_until("it ends", PATIENCE, || {
            status = self.child.try_wait().expect("it can be waited for");
            status.is_some()
        });
        status.expect("it has ended")
    }
}

impl Drop for Webhook {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("the webhook's log:\n{}", self.lines().join("\n"));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The files of certificate and key.
fn paths(folder: &Path) -> [PathBuf; 2] {
    ["tls.crt", "tls.key"].map(|name| folder.join(name))
}

fn write(folder: &Path, identity: &Identity) {
    let [certificate, key] = paths(folder);
    fs::write(certificate, &identity.certificate).expect("it can be written");
    fs::write(key, &identity.key).expect("it can be written");
}

/// One of the reviews.
fn review(name: &str) -> serde_json::Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/webhook/reviews").join(format!("{name}.json"));
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).expect("it is JSON")
}
