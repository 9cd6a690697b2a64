//! What is typed means what it says, and what is wrong is said with the flag, the variable and the fix.

use secrecy::ExposeSecret;

use super::*;

fn resolve(words: &[&str]) -> Result<Config, Error> {
    let args = Args::try_parse_from([&["outrigger"], words].concat()).expect("clap accepts it");
    args.settings.resolve()
}

fn upstream(url: &str) -> Target {
    resolve(&["--upstream", url]).expect("a right URL").upstream.target
}

fn complaint(words: &[&str]) -> String {
    resolve(words).expect_err("it is wrong").to_string()
}

#[test]
fn urls_of_every_form_are_understood() {
    let plain = upstream("redis://cache.example");
    assert_eq!(plain.address, Address::Tcp("cache.example".into(), 6379));
    assert!((plain.username.is_none(), plain.password.is_none(), plain.database) == (true, true, 0));

    let full = upstream("redis://us%40er:p%3Aw%20d@10.0.0.1:7000/5");
    assert_eq!(full.address, Address::Tcp("10.0.0.1".into(), 7000));
    assert_eq!(full.username.as_deref(), Some("us@er"));
    assert_eq!(full.password.expect("one is given").current().expose_secret(), "p:w d");
    assert_eq!(full.database, 5);

    assert_eq!(upstream("redis://h?db=4&socket_timeout=5").database, 4);
    assert_eq!(upstream("redis://:pw@[::1]:6380/").address, Address::Tcp("::1".into(), 6380));
    let unix = upstream("unix:///run/redis.sock?db=3");
    assert_eq!((unix.address, unix.database), (Address::Unix("/run/redis.sock".into()), 3));
}

#[test]
fn wrong_urls_are_explained_without_repeating_the_password() {
    for url in ["", "localhost:6379", "redis://", "redis://h:port", "http://h", "rediss://h", "redis://:secret@h/db"] {
        let complaint = complaint(&["--upstream", url]);
        assert!(complaint.starts_with("--upstream (OUTRIGGER_UPSTREAM): "), "{complaint}");
        assert!(complaint.contains("redis://") && !complaint.contains("secret"), "{complaint}");
    }
}

#[test]
fn what_would_be_needed_behind_the_question_mark_is_not_ignored() {
    for query in ["password=secret", "db=1&Username=me", "ssl=true", "tls=1"] {
        let complaint = complaint(&["--upstream", &format!("redis://h/0?{query}")]);
        assert!(complaint.starts_with("--upstream (OUTRIGGER_UPSTREAM): "), "{complaint}");
        assert!(complaint.contains("before the host") || complaint.contains("TLS"), "{complaint}");
        assert!(!complaint.contains("secret"), "{complaint}");
    }
}

fn read_secrets(config: &Config) -> Result<(), String> {
    config.secrets().try_for_each(|secret| secret.read().map(drop))
}

#[test]
fn listening_to_strangers_has_to_be_meant() {
    let open = ["--upstream", "redis://h", "--listen", "0.0.0.0:6379"];
    assert!(complaint(&open).contains("--insecure-listen"));
    assert!(resolve(&[&open[..], &["--insecure-listen"]].concat()).is_ok());
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    fs::write(file.path(), "pass\n").expect("it can be written");
    let path = file.path().to_str().expect("a plain path");
    let config = resolve(&[&open[..], &["--password-file", path]].concat()).expect("a password is enough");
    read_secrets(&config).expect("it can be read");
    assert_eq!(config.clients.password.expect("it is set").current().expose_secret(), "pass");
}

#[test]
fn addresses_are_of_either_kind() {
    let config = resolve(&["--upstream", "redis://h", "--listen", "unix:/tmp/x,127.0.0.1:1", "--listen", "[::1]:2"]);
    let listen: Vec<_> = config.expect("right").clients.listen.iter().map(ToString::to_string).collect();
    assert_eq!(listen, ["unix:/tmp/x", "127.0.0.1:1", "[::1]:2"]);
    assert!(complaint(&["--upstream", "redis://h", "--listen", "localhost"]).contains("127.0.0.1:6379"));
}

#[test]
fn numbers_that_cannot_work_are_refused_with_one_that_can() {
    let base = ["--upstream", "redis://h"];
    assert!(complaint(&[&base[..], &["--pool-size", "3", "--workers", "2"]].concat()).contains("at least 6"));
    let dedicated = [&base[..], &["--mode", "session", "--max-clients", "50", "--workers", "1"]].concat();
    assert!(complaint(&dedicated).contains("at least 52"));
    assert!(complaint(&[&base[..], &["--workers", "0"]].concat()).contains("OUTRIGGER_WORKERS"));
    assert!(complaint(&[&base[..], &["--max-clients", "0"]].concat()).contains("at least 1"));
}

#[test]
fn sizes_and_times_have_units() {
    assert_eq!(size("64MiB"), Ok(64 << 20));
    assert_eq!(size("1048576"), Ok(1 << 20));
    assert_eq!(size("2k"), Ok(2048));
    for wrong in ["", "0", "-1", "1.5MiB", "MiB", "1 parsec", "99999999999999999999", "99999999999GiB"] {
        assert!(size(wrong).is_err(), "{wrong}");
    }
    assert_eq!(duration("1500ms"), Ok(Duration::from_millis(1500)));
    assert!(duration("0s").is_err() && duration("5").is_err() && duration("soon").is_err());
}

#[test]
fn a_secret_that_cannot_be_read_is_named_with_its_setting() {
    let config = resolve(&["--upstream", "redis://h", "--password-file", "/nonexistent"]).expect("it is not read yet");
    let problem = read_secrets(&config).expect_err("there is no such file");
    assert!(problem.starts_with("--password-file (OUTRIGGER_PASSWORD_FILE): cannot read"), "{problem}");
}

#[test]
fn stopping_has_time() {
    let base = ["--upstream", "redis://h", "--min-sigterm-delay"];
    assert!(
        complaint(&[&base[..], &["25s"]].concat()).starts_with("--min-sigterm-delay (OUTRIGGER_MIN_SIGTERM_DELAY)")
    );
    let drain = resolve(&[&base[..], &["0s"]].concat()).expect("right").drain;
    assert_eq!((drain.parting, drain.end), (Duration::ZERO, Duration::from_secs(25)));
}

#[test]
fn every_flag_has_its_twin() {
    let whole = Args::command();
    let webhook = whole.find_subcommand("webhook").expect("there is one");
    let all = whole.get_arguments().chain(webhook.get_arguments());
    for arg in all.filter(|arg| !["help", "version"].contains(&arg.get_id().as_str())) {
        let flag = arg.get_long().expect("long flags only");
        assert_eq!(arg.get_env().and_then(|env| env.to_str()), Some(variable(flag).as_str()));
    }
}

#[test]
fn a_webhook_is_told_what_it_lacks() {
    let complaint = |words: &[&str]| {
        let args = Args::try_parse_from([&["outrigger", "webhook"], words].concat()).expect("clap accepts it");
        let Some(Command::Webhook(webhook)) = args.command else { panic!("it is one") };
        webhook.resolve().map(drop).map_err(|error| error.to_string())
    };
    let files = ["--tls-cert-file", "c", "--tls-key-file", "k"];
    assert!(complaint(&files).is_err_and(|said| said.starts_with("--image (OUTRIGGER_IMAGE): missing")));
    let all = [&files[..], &["--image", "registry.example/outrigger:1"]].concat();
    assert_eq!(complaint(&all), Ok(()));
    for (flag, value) in [("--image", " "), ("--listen", "8443"), ("--max-sigterm-delay", "5s")] {
        let others = all.chunks(2).filter(|pair| pair[0] != flag).flatten().copied();
        let given: Vec<_> = others.chain([flag, value]).collect();
        assert!(complaint(&given).is_err(), "{flag} {value:?}");
    }
}
