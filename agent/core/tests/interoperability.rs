//! Our checks against webrtc-ice, an independent implementation of RFC 8445, over sockets on loopback.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::time::timeout;
use webrtc_ice::agent::Agent;
use webrtc_ice::agent::agent_config::AgentConfig;
use webrtc_ice::candidate::candidate_base::unmarshal_candidate;
use webrtc_ice::mdns::MulticastDnsMode;
use webrtc_ice::network_type::NetworkType;
use webrtc_util::Conn;
use wice_core::candidate::{Candidate, Kind, Network};
use wice_core::ice::{Ice, IceEvent, LocalCandidate};
use wice_core::io::Packet;
use wice_core::offer::{Credentials, Password, Role};

const DEADLINE: Duration = Duration::from_secs(20);

/// Our side: one socket, one set of checks.
struct Ours {
    socket: UdpSocket,
    address: SocketAddr,
    ice: Ice,
    credentials: Credentials,
}

impl Ours {
    async fn new(role: Role, generation: &str) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
        let address = socket.local_addr().expect("an address");
        let (ice, credentials) = checks(role, generation, address);
        Self {
            socket,
            address,
            ice,
            credentials,
        }
    }

    fn restart(&mut self, role: Role, generation: &str) {
        (self.ice, self.credentials) = checks(role, generation, self.address);
    }

    /// The candidate in the form of SDP that webrtc-ice reads.
    fn candidate(&self) -> String {
        format!(
            "1 1 udp 2130706431 127.0.0.1 {} typ host",
            self.address.port()
        )
    }

    fn set_remote(&mut self, theirs: &Theirs) {
        self.ice.set_remote(&theirs.credentials);
        let candidate = Candidate {
            kind: Kind::Host,
            foundation: "1".into(),
            component: 1,
            network: Network::Udp4,
            priority: 2_130_706_431,
            address: Ipv4Addr::LOCALHOST.into(),
            port: theirs.port,
            related_address: None,
            related_port: None,
            tcp_type: None,
        };
        self.ice.set_remotes(&[candidate], false, Instant::now());
        self.ice.handle_timeout(Instant::now());
    }

    /// Moves packets until a pair is selected, and `extra` longer.
    async fn run(&mut self, extra: Duration) -> Option<SocketAddr> {
        let mut buffer = [0; 2048];
        let mut selected = None;
        let mut end = Instant::now() + DEADLINE;
        while Instant::now() < end {
            while let Some(event) = self.ice.poll() {
                match event {
                    IceEvent::Transmit {
                        destination,
                        payload,
                        ..
                    } => {
                        self.socket
                            .send_to(&payload, destination)
                            .await
                            .expect("sent");
                    }
                    IceEvent::Selected(pair) => {
                        if selected.replace(pair.remote.address).is_none() {
                            end = Instant::now() + extra;
                        }
                    }
                    IceEvent::Disconnected | IceEvent::Withdrawn => return None,
                    IceEvent::Stream { .. } => {}
                }
            }
            let wake = self.ice.poll_timeout().unwrap_or(end).min(end);
            match timeout_at(wake, self.socket.recv_from(&mut buffer)).await {
                Some(Ok((length, source))) => {
                    let packet = Packet {
                        source,
                        destination: self.address,
                        payload: buffer[..length].to_vec(),
                    };
                    self.ice.handle_packet(&packet, Instant::now());
                }
                _ => self.ice.handle_timeout(Instant::now()),
            }
        }
        selected
    }
}

fn checks(role: Role, generation: &str, address: SocketAddr) -> (Ice, Credentials) {
    let credentials = Credentials {
        ufrag: format!("ours{generation}"),
        pwd: Password::new(format!("password-of-ours-{generation}-{generation}").replace('-', "+")),
    };
    let mut ice = Ice::new(&credentials, role, 7);
    let local = LocalCandidate {
        kind: Kind::Host,
        address,
        base: address,
    };
    ice.set_locals(&[local], Instant::now());
    (ice, credentials)
}

/// The other side.
struct Theirs {
    agent: Arc<Agent>,
    credentials: Credentials,
    port: u16,
}

impl Theirs {
    async fn new() -> Self {
        let loopback = |address: IpAddr| address == IpAddr::V4(Ipv4Addr::LOCALHOST);
        let agent = Agent::new(AgentConfig {
            network_types: vec![NetworkType::Udp4],
            multicast_dns_mode: MulticastDnsMode::Disabled,
            include_loopback: true,
            ip_filter: Arc::new(Some(Box::new(loopback))),
            prflx_acceptance_min_wait: Some(Duration::ZERO),
            ..AgentConfig::default()
        });
        let agent = Arc::new(agent.await.expect("an agent"));
        let (credentials, port) = gather(&agent).await;
        Self {
            agent,
            credentials,
            port,
        }
    }

    async fn restart(&mut self) {
        let restarted = self.agent.restart(String::new(), String::new()).await;
        restarted.expect("restarted");
        (self.credentials, self.port) = gather(&self.agent).await;
    }

    fn add(&self, candidate: &str) {
        let candidate = unmarshal_candidate(candidate).expect("a candidate");
        let candidate: Arc<dyn webrtc_ice::candidate::Candidate + Send + Sync> =
            Arc::new(candidate);
        self.agent.add_remote_candidate(&candidate).expect("added");
    }

    /// Starts to check; the connection comes out of the channel.
    fn connect(&self, ours: &Ours, role: Role) -> mpsc::Receiver<Arc<dyn Conn + Send + Sync>> {
        let (sender, receiver) = mpsc::channel(1);
        let agent = self.agent.clone();
        let ufrag = ours.credentials.ufrag.clone();
        let pwd = ours.credentials.pwd.expose().to_owned();
        tokio::spawn(async move {
            let (_keep, cancel) = mpsc::channel(1);
            let connection: Arc<dyn Conn + Send + Sync> = match role {
                Role::Controlling => agent.dial(cancel, ufrag, pwd).await.expect("connected"),
                Role::Controlled => agent.accept(cancel, ufrag, pwd).await.expect("connected"),
            };
            let _ = sender.send(connection).await;
        });
        receiver
    }
}

async fn gather(agent: &Arc<Agent>) -> (Credentials, u16) {
    let (sender, mut found) = mpsc::channel(8);
    agent.on_candidate(Box::new(move |candidate| {
        let sender = sender.clone();
        Box::pin(async move {
            if let Some(candidate) = candidate {
                let _ = sender.send(candidate.port()).await;
            }
        })
    }));
    agent.gather_candidates().expect("gathers");
    let port = timeout(DEADLINE, found.recv())
        .await
        .expect("in time")
        .expect("a candidate");
    let (ufrag, pwd) = agent.get_local_user_credentials().await;
    let credentials = Credentials {
        ufrag,
        pwd: Password::new(pwd),
    };
    (credentials, port)
}

async fn timeout_at<T>(at: Instant, future: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout_at(at.into(), future).await.ok()
}

/// Connects, restarts both sides and connects again.
async fn connects(ours_role: Role, theirs_role: Role) {
    let mut ours = Ours::new(ours_role, "one").await;
    let mut theirs = Theirs::new().await;
    theirs.add(&ours.candidate());
    let mut connection = theirs.connect(&ours, theirs_role);
    ours.set_remote(&theirs);
    let selected = ours.run(Duration::from_millis(500)).await;
    assert_eq!(selected.map(|address| address.port()), Some(theirs.port));
    timeout(DEADLINE, connection.recv())
        .await
        .expect("in time")
        .expect("they are connected");

    ours.restart(ours_role, "two");
    theirs.restart().await;
    let (ufrag, pwd) = (
        ours.credentials.ufrag.clone(),
        ours.credentials.pwd.expose().to_owned(),
    );
    theirs
        .agent
        .set_remote_credentials(ufrag, pwd)
        .await
        .expect("set");
    theirs.add(&ours.candidate());
    ours.set_remote(&theirs);
    let selected = ours.run(Duration::from_secs(1)).await;
    assert_eq!(
        selected.map(|address| address.port()),
        Some(theirs.port),
        "after the restart"
    );
    let pair = theirs
        .agent
        .get_selected_candidate_pair()
        .expect("they selected one as well");
    assert!(
        pair.to_string().contains(&ours.address.port().to_string()),
        "{pair}"
    );
    theirs.agent.close().await.expect("closed");
}

#[tokio::test]
async fn we_control_and_webrtc_ice_follows_and_both_restart() {
    connects(Role::Controlling, Role::Controlled).await;
}

#[tokio::test]
async fn webrtc_ice_controls_and_we_follow_and_both_restart() {
    connects(Role::Controlled, Role::Controlling).await;
}
