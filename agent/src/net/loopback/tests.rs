//! A real WireGuard behind a loopback address: the kernel's where there is one, elsewhere wireguard-go.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep, timeout};

use super::{Batch, End, Train};
use crate::net::nudge;
use crate::net::tests::{add_ipv6, in_namespace, ip};

const DEADLINE: Duration = Duration::from_secs(60);

/// One end of a tunnel.
struct Tunnel {
    name: String,
    port: u16,
    key: String,
    userspace: Option<Child>,
}

impl Tunnel {
    /// Makes an interface, or says that there is no WireGuard.
    fn new(letter: char, port: u16) -> Option<Self> {
        let name = format!("wice{letter}{}", std::process::id() % 100_000);
        let kernel = Command::new("ip")
            .args(["link", "add", &name, "type", "wireguard"])
            .output();
        let userspace = if kernel.is_ok_and(|output| output.status.success()) {
            None
        } else {
            let child = Command::new("setpriv")
                .args(["--pdeathsig", "KILL", "wireguard-go", &name])
                .env("WG_PROCESS_FOREGROUND", "1")
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn();
            let Ok(child) = child else {
                eprintln!("skipped: neither a kernel with WireGuard nor wireguard-go");
                return None;
            };
            Some(child)
        };
        let mut tunnel = Self {
            name,
            port,
            key: run("wg", &["genkey"], ""),
            userspace,
        };
        let until = std::time::Instant::now() + DEADLINE;
        while !tunnel.is_present() {
            assert!(
                std::time::Instant::now() < until,
                "wireguard-go does not start"
            );
            if let Some(child) = &mut tunnel.userspace
                && child.try_wait().is_ok_and(|ended| ended.is_some())
            {
                eprintln!("skipped: wireguard-go does not run here");
                return None;
            }
        }
        let port = port.to_string();
        let key = tunnel.key.clone();
        tunnel.set(&["listen-port", &port, "private-key", "/dev/stdin"], &key);
        Some(tunnel)
    }

    fn is_present(&self) -> bool {
        let shown = Command::new("wg").args(["show", &self.name]).output();
        shown.is_ok_and(|output| output.status.success())
    }

    fn public(&self) -> String {
        run("wg", &["pubkey"], &self.key)
    }

    fn set(&self, arguments: &[&str], input: &str) {
        run("wg", &[&["set", &self.name], arguments].concat(), input);
    }

    /// Has the other one as its peer, and an address of its own.
    fn join(&self, other: &Self, endpoint: SocketAddr, own: &str) {
        let (key, endpoint) = (other.public(), endpoint.to_string());
        self.set(
            &[
                "peer",
                &key,
                "allowed-ips",
                "10.9.0.0/24",
                "endpoint",
                &endpoint,
            ],
            "",
        );
        ip(&format!("address add {own}/32 dev {}", self.name));
        ip(&format!("link set {} up", self.name));
        ip(&format!(
            "route replace 10.9.0.0/24 dev {} table {}",
            self.name, self.port
        ));
    }

    fn endpoint(&self) -> String {
        let shown = run("wg", &["show", &self.name, "endpoints"], "");
        shown
            .split_whitespace()
            .nth(1)
            .unwrap_or_default()
            .to_owned()
    }

    fn received(&self) -> u64 {
        let shown = run("wg", &["show", &self.name, "transfer"], "");
        let received = shown.split_whitespace().nth(1);
        received
            .and_then(|text| text.parse().ok())
            .expect("a counter")
    }

    fn nudge(&self, address: &str) {
        let address: IpAddr = address.parse().expect("an address");
        // A tunnel that cannot carry yet is asked again.
        let _ = nudge(&self.name, address);
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        if let Some(child) = &mut self.userspace {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn run(program: &str, arguments: &[&str], input: &str) -> String {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("wireguard-tools is installed");
    if let Some(mut stdin) = child.stdin.take() {
        // Whoever wants no input may have left already.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{program} {arguments:?}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Two tunnels; what `far` sends reaches `near` through a loopback address, and back.
struct Scene {
    near: Tunnel,
    far: Tunnel,
    end: End,
    /// In the relay's place.
    relay: UdpSocket,
    batch: Batch,
}

impl Scene {
    async fn new() -> Option<Self> {
        let (near, far) = (Tunnel::new('n', 51820)?, Tunnel::new('f', 51821)?);
        let relay = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
        let end = End::open(near.port).expect("a loopback address");
        near.join(&far, end.address(), "10.9.0.1");
        far.join(&near, relay.local_addr().expect("it is bound"), "10.9.0.2");
        let batch = Batch::default();
        Some(Self {
            near,
            far,
            end,
            relay,
            batch,
        })
    }

    /// Carries packets both ways until the near side has received more of them, with a nudge now and then.
    async fn carry(&self) {
        let before = self.near.received();
        let until = Instant::now() + DEADLINE;
        let mut buffer = [0; 2048];
        while self.near.received() == before {
            assert!(Instant::now() < until, "nothing arrives");
            self.far.nudge("10.9.0.1");
            let turn = async {
                loop {
                    tokio::select! {
                        received = self.relay.recv_from(&mut buffer) => {
                            let (length, _) = received.expect("the socket works");
                            let mut train = Train::default();
                            train.push(&[&buffer[..length]]);
                            self.end.deliver(&train).expect("it is delivered");
                        }
                        ready = self.end.readable() => {
                            ready.expect("the socket works");
                            let far = SocketAddr::from(([127, 0, 0, 1], self.far.port));
                            let _ = self.end.receive(&self.batch, |packet| {
                                let _ = self.relay.try_send_to(packet, far);
                            });
                        }
                    }
                }
            };
            let _ = timeout(Duration::from_millis(200), turn).await;
        }
    }
}

#[test]
fn wireguard_follows_the_loopback_address_and_stays_on_the_direct_path_after_a_hand_over() {
    in_namespace(async || {
        ip("address add 192.0.2.1/24 dev lo");
        add_ipv6("2001:db8::1", 64, "lo");
        let Some(scene) = Scene::new().await else {
            return;
        };
        let kind = if scene.near.userspace.is_some() {
            "wireguard-go"
        } else {
            "the kernel"
        };
        scene.carry().await;
        let own = scene.end.address().to_string();
        assert_eq!(scene.near.endpoint(), own);

        let peer = scene.far.public();
        for (direct, base) in [
            ("192.0.2.2:7000", "192.0.2.1:51820"),
            ("[2001:db8::2]:7000", "[2001:db8::1]:51820"),
        ] {
            // Without it, the endpoint roams back with the first late packet.
            scene.end.hand_over(None).expect("nothing to open");
            scene.near.set(&["peer", &peer, "endpoint", direct], "");
            scene.carry().await;
            eventually(|| scene.near.endpoint() == own).await;

            let to = (
                direct.parse().expect("an address"),
                base.parse().expect("an address"),
            );
            scene
                .end
                .hand_over(Some(to))
                .expect("root opens raw sockets");
            scene.near.set(&["peer", &peer, "endpoint", direct], "");
            for _ in 0..3 {
                scene.carry().await;
            }
            assert_eq!(
                scene.near.endpoint(),
                direct,
                "{kind} took a late packet for a sign"
            );
        }
        eprintln!("a hand-over holds with {kind}");
    });
}

async fn eventually(condition: impl Fn() -> bool) {
    let until = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < until, "it never happens");
        sleep(Duration::from_millis(20)).await;
    }
}
