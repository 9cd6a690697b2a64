//! Probes, made as the kubelet makes them: from outside the pod, or by a command within; each in its time.

use super::cluster::Network;
use crate::program::run_to_end;
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

/// One probe of a container, with the defaults of Kubernetes for what it does not say.
#[derive(Debug, Clone)]
pub(super) struct Probe {
    way: Way,
    pub(super) delay: Duration,
    pub(super) period: Duration,
    timeout: Duration,
    /// How many failures in a row count as one.
    pub(super) failures: u64,
}

#[derive(Debug, Clone)]
enum Way {
    Get { path: String, port: u16 },
    Connect { port: u16 },
    Run { command: Vec<String> },
}

impl Probe {
    /// The probe of this name, if the container has it.
    pub(super) fn of(container: &Value, name: &str) -> Option<Self> {
        let probe = container.get(name)?;
        let number = |field: &str, usual| probe[field].as_u64().unwrap_or(usual);
        let way = if let Some(get) = probe.get("httpGet") {
            Way::Get { path: get["path"].as_str().unwrap_or("/").to_owned(), port: port_of(container, &get["port"]) }
        } else if let Some(socket) = probe.get("tcpSocket") {
            Way::Connect { port: port_of(container, &socket["port"]) }
        } else {
            let words = probe["exec"]["command"].as_array().unwrap_or_else(|| panic!("what is this? {probe}"));
            Way::Run { command: words.iter().map(|word| word.as_str().expect("it is text").to_owned()).collect() }
        };
        Some(Self {
            way,
            delay: Duration::from_secs(number("initialDelaySeconds", 0)),
            period: Duration::from_secs(number("periodSeconds", 10)),
            timeout: Duration::from_secs(number("timeoutSeconds", 1)),
            failures: number("failureThreshold", 3),
        })
    }

    /// Makes it once.
    pub(super) fn ask(&self, network: &Network) -> Result<(), String> {
        match &self.way {
            Way::Get { path, port } => {
                self.get((network.address(), *port).into(), path).map_err(|error| format!("{path}: {error}"))
            }
            Way::Connect { port } => {
                let address = (network.address(), *port).into();
                TcpStream::connect_timeout(&address, self.timeout).map(drop).map_err(|error| error.to_string())
            }
            Way::Run { command } => {
                let mut program: Command = network.command(&command[0]);
                let (status, written) = run_to_end(program.args(&command[1..]), self.timeout);
                if status.success() { Ok(()) } else { Err(format!("{status}: {written}")) }
            }
        }
    }

    fn get(&self, address: SocketAddr, path: &str) -> Result<(), String> {
        let deadline = Instant::now() + self.timeout;
        let say = |error: std::io::Error| error.to_string();
        let mut stream = TcpStream::connect_timeout(&address, self.timeout).map_err(say)?;
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: kube-probe/1.37\r\nAccept: */*\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).map_err(say)?;
        let mut answer = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(format!("no whole answer within {:?}", self.timeout));
            }
            stream.set_read_timeout(Some(left)).map_err(say)?;
            let mut chunk = [0; 4096];
            match stream.read(&mut chunk).map_err(say)? {
                0 => break,
                read => answer.extend_from_slice(&chunk[..read]),
            }
        }
        let answer = String::from_utf8_lossy(&answer);
        let status = answer.split(' ').nth(1).and_then(|status| status.parse::<u16>().ok());
        if status.is_some_and(|status| (200..400).contains(&status)) { Ok(()) } else { Err(answer.into_owned()) }
    }
}

/// A port by its number, or by the name that the container has for it.
fn port_of(container: &Value, port: &Value) -> u16 {
    let named = |port: &&Value| {
        let ports = container["ports"].as_array()?;
        ports.iter().find(|one| one["name"] == **port)?["containerPort"].as_u64()
    };
    let number = port.as_u64().or_else(|| named(&port)).unwrap_or_else(|| panic!("there is no port {port}"));
    number.try_into().expect("ports are small")
}
