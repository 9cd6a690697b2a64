//! A cluster of one node, as far as networks go: each pod has a network namespace of its own, and a cable to the node, which is
//! the network that the test itself runs in.
//!
//! Names are found in `/etc/hosts`, which stands for the cluster's DNS; the address of the pod stands for that of its Service.

use std::fs;
use std::net::Ipv4Addr;
use std::process::Command;

/// Where this end of all cables is, in the network of each.
const NODE: u8 = 1;
const POD: u8 = 2;

/// The network of one pod.
pub(super) struct Network {
    name: String,
    number: u8,
}

/// Makes the test's own network, in which it must run, that of a node. `services` are the names of networks to come, in order.
pub(super) fn arrange(services: &[&str]) -> Vec<Network> {
    // Ours alone: namespaces have their names here.
    run("mount -t tmpfs tmpfs /run");
    fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("the network is ours to set");
    let networks: Vec<_> =
        (1..).zip(services).map(|(number, name)| Network { name: (*name).to_owned(), number }).collect();
    let lines = networks.iter().map(|network| format!("{} {}\n", network.address(), network.name));
    let hosts: String = std::iter::once("127.0.0.1 localhost\n::1 localhost\n".to_owned()).chain(lines).collect();
    fs::write("/run/hosts", hosts).expect("it can be written");
    run("mount --bind /run/hosts /etc/hosts");
    networks.iter().for_each(Network::lay);
    networks
}

impl Network {
    fn address_of(&self, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, self.number, host)
    }

    /// The address of the pod.
    pub(super) fn address(&self) -> Ipv4Addr {
        self.address_of(POD)
    }

    fn lay(&self) {
        let (name, cable, node) = (&self.name, self.cable(), self.address_of(NODE));
        run(&format!("ip netns add {name}"));
        run(&format!("ip link add {cable} type veth peer name eth0 netns {name}"));
        run(&format!("ip address add {node}/24 dev {cable}"));
        run(&format!("ip link set {cable} up"));
        run(&format!("ip -n {name} address add {}/24 dev eth0", self.address()));
        run(&format!("ip -n {name} link set eth0 up"));
        run(&format!("ip -n {name} link set lo up"));
        run(&format!("ip -n {name} route add default via {node}"));
    }

    fn cable(&self) -> String {
        format!("to-{}", self.name)
    }

    /// A program that will run there; it takes the place of what takes it there, so that it is the child.
    pub(super) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    /// Packets to the pod are lost from now on, and nobody is told.
    pub(super) fn lose_packets(&self) {
        run(&format!("ip route add blackhole {}/32", self.address()));
    }

    /// Undoes that.
    pub(super) fn find_packets(&self) {
        run(&format!("ip route del blackhole {}/32", self.address()));
    }

    /// Pulls the cable out: the node knows that there is no way to the pod, and says so.
    pub(super) fn unplug(&self) {
        run(&format!("ip link set {} down", self.cable()));
    }

    /// Undoes that.
    pub(super) fn plug(&self) {
        run(&format!("ip link set {} up", self.cable()));
    }
}

fn run(line: &str) {
    let mut words = line.split(' ');
    let output = Command::new(words.next().expect("there is a program")).args(words).output().expect("it can be run");
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}
