//! A network of the test's own: nobody else is on it, the test is its resolver, and may look at every packet.
//!
//! It has only a loopback device, but all of 127.0.0.0/8 on it, so that each host of a test can have an address.

use crate::support::dependency;
use std::any;
use std::env;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// Set in the process that runs a test inside.
const INSIDE: &str = "OUTRIGGER_TEST_INSIDE";

/// The resolver is the test's; the domain is where names that are not found are looked for as well.
const RESOLV_CONF: &str = "nameserver 127.0.0.1\ndomain elsewhere.test\noptions timeout:1 attempts:2\n";

/// Switches the loopback device on: SIOCSIFFLAGS with IFF_UP.
const LOOPBACK_UP: &str = r#"
import fcntl, socket, struct
fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sh22x", b"lo", 1))
"#;

/// Runs the body of a test in a network of its own: this test alone, in a process of its own that may arrange network and
/// mounts as it likes. Needs root, or a kernel that lets everybody make namespaces; fails where neither is so.
pub fn in_own_network<Body: FnOnce()>(body: Body) {
    if env::var_os(INSIDE).is_some() {
        arrange();
        body();
        return;
    }
    let name = test_of::<Body>();
    let output = Command::new("unshare")
        .args(namespaces())
        .arg(env::current_exe().expect("this program is a file"))
        .args([&name, "--exact", "--nocapture"])
        .env(INSIDE, "yes")
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .expect("unshare can be run");
    let told = String::from_utf8_lossy(&output.stdout);
    told.lines().filter(|line| line.starts_with("figures ")).for_each(|line| println!("{line}"));
    assert!(output.status.success(), "{name} failed inside its network:\n{told}");
    assert!(told.contains("test result: ok. 1 passed"), "{name} is not the name of one test:\n{told}");
}

/// The name of the test that has this closure.
fn test_of<Body>() -> String {
    let path = any::type_name::<Body>();
    let name = path.split_once("::").map_or(path, |(_, inside)| inside);
    name.trim_end_matches("::{{closure}}").to_owned()
}

/// What `unshare` may do here.
fn namespaces() -> &'static [&'static str] {
    const OF_ROOT: &[&str] = &["--mount", "--net"];
    const OF_ANYBODY: &[&str] = &["--mount", "--net", "--map-root-user"];
    let works = |flags: &[&str]| {
        let tried = Command::new("unshare").args(flags).arg("true").stderr(Stdio::null()).status();
        tried.is_ok_and(|status| status.success())
    };
    [OF_ROOT, OF_ANYBODY]
        .into_iter()
        .find(|flags| works(flags))
        .expect("this test needs a network of its own: run it as root, or allow user namespaces")
}

/// Makes the network usable, and our resolver the one that programs ask.
fn arrange() {
    run(Command::new(dependency("PYTHON")).args(["-c", LOOPBACK_UP]));
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    for (place, text) in [("/etc/resolv.conf", RESOLV_CONF), ("/etc/nsswitch.conf", "hosts: files dns\n")] {
        if Path::new(place).exists() {
            let file = folder.path().join(place.replace('/', "-"));
            fs::write(&file, text).expect("a temporary file can be written");
            // The file stays as long as it is mounted, also when its folder is gone.
            run(Command::new("mount").arg("--bind").arg(&file).arg(place));
        }
    }
}

fn run(command: &mut Command) {
    let status = command.status();
    assert!(status.as_ref().is_ok_and(|status| status.success()), "{command:?}: {status:?}");
}
