//! `wicectl ping` in a namespace of its own: a veth stands for the tunnel, the kernel at its other end answers.

use std::process::{Command as Process, Output};
use std::time::Duration;

use wice_core::status::{PathKind, PeerStatus};

use super::fixture::{connected, interface, peers, read, serve};
use super::private_bus::PrivateBus;
use super::wicectl::{WICECTL, fails, output, stdout};

/// The address of the peer in the fixture.
const PEER: &str = "10.213.0.2/32";

#[tokio::test]
async fn ping_says_by_which_path_each_reply_came() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can make a network namespace");
        return;
    }
    let bus = PrivateBus::started().await;
    let (service, _commands) = serve(&bus);
    service.interface(interface("wg0"));
    let relayed = PeerStatus {
        path: PathKind::Relay,
        ..connected(1)
    };
    service.peer("wg0", relayed.clone());
    read(&bus, |s| peers(s) == 1).await;
    let tunnel = Tunnel::new();

    // A kernel that grants ping sockets to nobody: root takes a raw one.
    tunnel.allow_ping("1 0");
    let replies = stdout(&tunnel.wicectl(&bus, &["ping", "laptop", "-c", "1"]).await);
    assert!(
        replies.contains("ping wg0 laptop (10.213.0.2) through wg0"),
        "{replies}"
    );
    assert!(
        replies.contains(" ms, by a relay, 192.0.2.1:2\n"),
        "{replies}"
    );
    assert!(
        replies.contains("1 sent, 1 received, 0 % lost"),
        "{replies}"
    );

    // One that grants them to everybody.
    tunnel.allow_ping("0 2147483647");
    let arguments = ["ping", "laptop", "--until-direct", "--interval", "0.2"];
    let driver = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        service.peer("wg0", connected(1));
    };
    let (output, ()) = tokio::join!(tunnel.wicectl(&bus, &arguments), driver);
    let replies = stdout(&output);
    assert!(replies.contains(", by a relay, "), "{replies}");
    assert_eq!(replies.matches(", direct, ").count(), 1, "{replies}");

    service.peer("wg0", relayed);
    read(&bus, |s| s.interfaces[0].peers[0].packet_path == "relay").await;
    let arguments = [&arguments[..], &["-c", "2"]].concat();
    let relay_only = tunnel.wicectl(&bus, &arguments).await;
    fails(
        &relay_only,
        3,
        "no reply from wg0 laptop came by a direct path",
    );
    let elsewhere = ["ping", "laptop", "--address", "10.213.0.3"];
    fails(
        &tunnel.wicectl(&bus, &elsewhere).await,
        2,
        "10.213.0.3 is not behind wg0 laptop",
    );
    tunnel.set_peer_down();
    let silent = tunnel
        .wicectl(&bus, &["ping", "laptop", "-c", "1", "--interval", "0.3"])
        .await;
    fails(&silent, 3, "no reply from wg0 laptop");
}

#[tokio::test]
async fn ping_that_the_kernel_does_not_permit_says_how_to_permit_it() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can make a network namespace");
        return;
    }
    let bus = PrivateBus::started().await;
    let (service, _commands) = serve(&bus);
    service.interface(interface("wg0"));
    service.peer("wg0", connected(1));
    read(&bus, |s| peers(s) == 1).await;
    let tunnel = Tunnel::new();
    tunnel.allow_ping("1 0");

    let refused = tunnel
        .wicectl_without_rights(&bus, &["ping", "laptop", "-c", "1"])
        .await;

    fails(&refused, 4, "net.ipv4.ping_group_range");
    tunnel.allow_ping("0 2147483647");
    stdout(
        &tunnel
            .wicectl_without_rights(&bus, &["ping", "laptop", "-c", "1"])
            .await,
    );
}

/// Two namespaces, and a link between them that is called wg0 at our end; gone when dropped.
struct Tunnel {
    ours: String,
    theirs: String,
}

impl Tunnel {
    fn new() -> Self {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name = |end: &str| format!("wice-ping-{}-{count}-{end}", std::process::id());
        let tunnel = Self {
            ours: name("a"),
            theirs: name("b"),
        };
        ip(&["netns", "add", &tunnel.ours]);
        ip(&["netns", "add", &tunnel.theirs]);
        ip(&[
            "-n",
            &tunnel.ours,
            "link",
            "add",
            "wg0",
            "type",
            "veth",
            "peer",
            "name",
            "wg0",
            "netns",
            &tunnel.theirs,
        ]);
        for (end, address) in [(&tunnel.ours, "10.213.0.1/32"), (&tunnel.theirs, PEER)] {
            ip(&["-n", end, "address", "add", address, "dev", "wg0"]);
            ip(&["-n", end, "link", "set", "wg0", "up"]);
            ip(&["-n", end, "route", "add", "10.213.0.0/24", "dev", "wg0"]);
        }
        tunnel
    }

    fn set_peer_down(&self) {
        ip(&["-n", &self.theirs, "link", "set", "wg0", "down"]);
    }

    /// Who may have a ping socket: a range of groups.
    fn allow_ping(&self, groups: &str) {
        let write = "echo \"$1\" > /proc/sys/net/ipv4/ping_group_range";
        ip(&["netns", "exec", &self.ours, "sh", "-c", write, "sh", groups]);
    }

    async fn wicectl(&self, bus: &PrivateBus, arguments: &[&str]) -> Output {
        let mut process = Process::new("ip");
        process.args(["netns", "exec", &self.ours]).arg(&*WICECTL);
        process.args(arguments);
        output(bus, process).await
    }

    async fn wicectl_without_rights(&self, bus: &PrivateBus, arguments: &[&str]) -> Output {
        let copy = bus.directory().join("wicectl");
        std::fs::copy(&*WICECTL, &copy).expect("wicectl is copied");
        let mut process = Process::new("ip");
        process.args(["netns", "exec", &self.ours, "setpriv"]);
        process.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        process.arg(&copy).args(arguments);
        output(bus, process).await
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        for end in [&self.ours, &self.theirs] {
            let _ = Process::new("ip").args(["netns", "delete", end]).status();
        }
    }
}

fn ip(arguments: &[&str]) {
    let status = Process::new("ip").args(arguments).status();
    let status = status.expect("ip runs (Debian: apt-get install iproute2)");
    assert!(status.success(), "ip {arguments:?}");
}
