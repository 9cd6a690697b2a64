//! `outrigger check`: is the configuration right, can the upstream be reached, and what about it will hurt?

use std::process::ExitCode;

use redis_protocol::resp3::types::OwnedFrame;
use tokio::runtime::Builder;

use crate::admin::{self, caller};
use crate::client::ListenAddress;
use crate::client::listener::bind_all;
use crate::config::Config;
use crate::secret;
use crate::upstream::connect::{Wire, open};
use crate::upstream::{Error, LaneKey, Protocol};

/// A server that closes idle connections sooner than this, in seconds, closes ours between two health checks, should the
/// machine stand still for a moment.
const SHORT_TIMEOUT: u64 = 15;

/// No server has given a connection this id.
const NOBODY: &[u8] = b"9223372036854775807";

/// Dials once and prints what was found. The exit code is 0 if the upstream can serve, else 1; warnings do not change it.
#[must_use]
#[expect(clippy::print_stdout, reason = "this is what the command is for")]
pub fn run(config: &Config) -> ExitCode {
    let runtime = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            println!("FAIL  cannot begin: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(report(config));
    // A file that does not answer keeps nobody.
    runtime.shutdown_background();
    code
}

#[expect(clippy::print_stdout, reason = "this is what the command is for")]
async fn report(config: &Config) -> ExitCode {
    if let Err(problem) = secret::read_all(config.secrets()).await {
        println!("FAIL  {problem}");
        return ExitCode::FAILURE;
    }
    let (workers, pool) = (config.workers, config.upstream.pool_size);
    println!("ok    configuration: workers {workers}, pool of {pool} upstream connections");
    examine_addresses(config).await.iter().for_each(|finding| println!("{finding}"));
    match examine(config).await {
        Ok(findings) => {
            findings.iter().for_each(|finding| println!("{finding}"));
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("FAIL  upstream {}: {error}", config.upstream.target.address);
            ExitCode::FAILURE
        }
    }
}

/// Addresses that could not be listened on, unless that is because a proxy is there. Sockets with a path are left alone: to try
/// one is to replace it.
async fn examine_addresses(config: &Config) -> Vec<String> {
    if let Some(http) = config.http.as_ref().map(|config| caller::reachable(config.address))
        && caller::is_alive(http).await
    {
        return vec![format!("ok    a proxy is alive at {http}: its addresses are not tried")];
    }
    let clients = &config.clients;
    let tcp = |addresses: &[ListenAddress]| -> Vec<_> {
        addresses.iter().filter(|address| matches!(address, ListenAddress::Tcp(_))).cloned().collect()
    };
    let listen = [
        bind_all(&tcp(&clients.listen), "--listen (OUTRIGGER_LISTEN)").err(),
        bind_all(&tcp(&clients.listen_strict), "--listen-strict (OUTRIGGER_LISTEN_STRICT)").err(),
    ];
    let http = config.http.as_ref().and_then(|config| admin::bind(config).err()).map(|error| error.to_string());
    let problems = listen.into_iter().flatten().chain(http);
    problems.map(|problem| format!("WARN  {problem}")).collect()
}

async fn examine(config: &Config) -> Result<Vec<String>, Error> {
    let upstream = &config.upstream;
    let lane = LaneKey { database: upstream.target.database, protocol: Protocol::Resp3 };
    let name = format!("outrigger:{}:check", upstream.host);
    let mut wire = open(&upstream.target, lane, &name, upstream.connect_timeout).await?;
    let mut findings = Vec::new();
    let address = upstream.target.address.to_string();
    match wire.ask(&[b"INFO"]).await? {
        OwnedFrame::SimpleError { data, .. } => {
            findings.push(format!("ok    upstream {address}: it answers"));
            findings.push(format!("WARN  the server refuses INFO, so its version and role are not known: `{data}`"));
        }
        info => examine_info(&text(&info), &address, &mut findings),
    }
    examine_settings(&mut wire, upstream.pool_size, &mut findings).await?;
    examine_rights(&mut wire, &mut findings).await?;
    Ok(findings)
}

fn examine_info(info: &str, address: &str, findings: &mut Vec<String>) {
    let field = |name: &str| {
        let value = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.unwrap_or("unknown").trim().to_owned()
    };
    let server = match field("valkey_version") {
        unknown if unknown == "unknown" => format!("Redis {}", field("redis_version")),
        version => format!("Valkey {version}"),
    };
    findings.push(format!("ok    upstream {address}: {server}, role {}", field("role")));
    if field("cluster_enabled") == "1" {
        findings
            .push("WARN  cluster mode is on: keys of other nodes are answered with MOVED, which is passed on".into());
    }
    if field("role") == "slave" {
        findings.push("WARN  this is a replica: it answers writes with READONLY".into());
    }
}

async fn examine_settings(wire: &mut Wire, pool_size: usize, findings: &mut Vec<String>) -> Result<(), Error> {
    let idle = match setting(wire, "timeout").await? {
        Ok(idle) => idle,
        Err(refusal) => {
            findings.push(format!(
                "WARN  the server refuses CONFIG GET, so it is not known whether it closes idle connections (`timeout`), nor \
                 how many clients it takes (`maxclients`): `{refusal}`"
            ));
            return Ok(());
        }
    };
    findings.extend(idle.filter(|seconds| *seconds > 0).map(of_timeout));
    if let Some(clients) = setting(wire, "maxclients").await?.unwrap_or_default() {
        let sidecars = clients / pool_size.max(1) as u64;
        findings.push(format!(
            "ok    the server takes {clients} clients (`maxclients`): {sidecars} sidecars with this pool"
        ));
    }
    Ok(())
}

/// What the server's `timeout` of so many seconds does to us.
fn of_timeout(seconds: u64) -> String {
    let hurts = if seconds < SHORT_TIMEOUT {
        "too soon for the PING that keeps ours, every 10 s: connections will be lost and made again all the time. Set it to 0"
    } else {
        "those shared are kept by a PING every 10 s, but one that a client has for itself may be lost while that client is \
         silent. Better set it to 0"
    };
    format!("WARN  the server closes connections idle for {seconds} s (`timeout`): {hurts}")
}

/// A number out of CONFIG GET, if it is one; or why the command is not allowed, as with managed servers.
async fn setting(wire: &mut Wire, name: &str) -> Result<Result<Option<u64>, String>, Error> {
    Ok(match wire.ask(&[b"CONFIG", b"GET", name.as_bytes()]).await? {
        OwnedFrame::SimpleError { data, .. } => Err(data.to_string()),
        OwnedFrame::Map { data, .. } => Ok(data.values().next().and_then(|value| text(value).parse().ok())),
        _ => Ok(None),
    })
}

/// Commands that the proxy itself needs, and that an ACL may deny.
async fn examine_rights(wire: &mut Wire, findings: &mut Vec<String>) -> Result<(), Error> {
    let late = "a write whose time ran out may still run later, after a newer one";
    let needed: [(&str, &[&[u8]], &str); 3] = [
        ("CLIENT INFO", &[b"CLIENT", b"INFO"], late),
        ("CLIENT KILL", &[b"CLIENT", b"KILL", b"ID", NOBODY], late),
        (
            "CLIENT UNBLOCK",
            &[b"CLIENT", b"UNBLOCK", NOBODY],
            "clients that block cannot take turns on few connections, and one that leaves may take an element with it",
        ),
    ];
    for (name, words, consequence) in needed {
        if let OwnedFrame::SimpleError { data, .. } = wire.ask(words).await? {
            findings.push(format!("WARN  the server refuses {name}, so {consequence}: `{data}`"));
        }
    }
    if let Some(refusal) = wire.refusal_of_blocks().await? {
        findings.push(format!("WARN  the server refuses MULTI or EXEC, so no transaction will run: `{refusal}`"));
    }
    Ok(())
}

fn text(frame: &OwnedFrame) -> String {
    match frame {
        OwnedFrame::BlobString { data, .. }
        | OwnedFrame::SimpleString { data, .. }
        | OwnedFrame::VerbatimString { data, .. } => String::from_utf8_lossy(data).into_owned(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_timeout_does_depends_on_its_size() {
        assert!(of_timeout(5).starts_with("WARN  the server closes connections idle for 5 s (`timeout`): too soon"));
        assert!(of_timeout(300).contains("300 s (`timeout`): those shared are kept"));
    }
}
