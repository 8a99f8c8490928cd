//! A real TURN server beside the rendezvous server: coturn, as its package ships it. It knows the server's options and its
//! log, not who uses it.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};

use crate::certificate::Certificate;
use crate::namespace::Namespace;
use crate::process::Process;
use crate::topology::{Lab, Seat};
use crate::wait::until;

/// How a client talks to a TURN server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// `turn:…?transport=udp`.
    Udp,
    /// `turn:…?transport=tcp`.
    Tcp,
    /// `turns:…`, over TCP.
    Tls,
}

/// One TURN server as an agent is configured with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relay {
    /// The URI (RFC 7065).
    pub url: String,
    /// The user's name.
    pub username: String,
    /// The password.
    pub credential: String,
}

/// How users prove who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Login {
    /// One user with a password (`lt-cred-mech`).
    User,
    /// Names that expire, with passwords derived from a shared secret (`use-auth-secret`).
    Secret,
}

/// A running coturn.
#[derive(Debug)]
pub struct Coturn {
    machine: Namespace,
    addresses: Vec<IpAddr>,
    login: Login,
    process: Process,
}

/// The port for UDP and TCP, and the one for TLS, which passes everywhere.
const PORTS: (u16, u16) = (3478, 443);
/// Every allocation takes one: enough for every case, and few enough to be seen.
const RELAYED: (u16, u16) = (50_000, 50_099);
const USER: &str = "lab";
/// The user's password, and the shared secret: words that are easily found where they do not belong.
pub const PASSWORD: &str = "aTurnPasswordOfTheLab";
const SECRET: &str = "aTurnSecretOfTheLab";
const CONFIGURATION: &str = "/run/lab/turnserver.conf";

impl Coturn {
    /// Starts the server at the second address of every family of the WAN, and waits until it accepts connections. `more` are
    /// lines of its configuration.
    pub fn start(
        lab: &Lab,
        login: Login,
        certificate: Option<&Certificate>,
        more: &str,
    ) -> Result<Self> {
        Self::at(
            lab,
            lab.server_addresses(Seat::Second),
            login,
            certificate,
            more,
        )
    }

    /// Starts the server at two addresses of its own of the lab's (first) family: it tells clients what their NAT does
    /// (RFC 5780), and relays for its one user.
    pub fn discovering(lab: &Lab) -> Result<Self> {
        Self::at(lab, lab.more_server_addresses()?, Login::User, None, "")
    }

    fn at(
        lab: &Lab,
        addresses: Vec<IpAddr>,
        login: Login,
        certificate: Option<&Certificate>,
        more: &str,
    ) -> Result<Self> {
        let machine = lab.wan().clone();
        machine.write(
            CONFIGURATION,
            &configuration(&addresses, login, certificate, more),
        )?;
        let process = launch(&machine, &addresses)?;
        Ok(Self {
            machine,
            addresses,
            login,
            process,
        })
    }

    /// Returns what an agent needs to use the server at its first address.
    pub fn relay(&self, transport: Transport) -> Result<Relay> {
        self.relay_at(self.addresses[0], transport)
    }

    /// Returns the URL by which the server is asked for STUN, at its first address.
    pub fn stun(&self) -> String {
        format!("stun:{}", SocketAddr::new(self.addresses[0], PORTS.0))
    }

    /// Returns what an agent of the given address's family needs.
    pub fn relay_for(&self, host: IpAddr, transport: Transport) -> Result<Relay> {
        let own = self
            .addresses
            .iter()
            .find(|one| one.is_ipv4() == host.is_ipv4());
        self.relay_at(
            *own.context("the server has no address of that family")?,
            transport,
        )
    }

    fn relay_at(&self, address: IpAddr, transport: Transport) -> Result<Relay> {
        let address = SocketAddr::new(address, transport.port());
        let url = match transport {
            Transport::Udp => format!("turn:{address}?transport=udp"),
            Transport::Tcp => format!("turn:{address}?transport=tcp"),
            Transport::Tls => format!("turns:{address}"),
        };
        let (username, credential) = match self.login {
            Login::User => (USER.to_owned(), PASSWORD.to_owned()),
            Login::Secret => self.temporary(3600)?,
        };
        Ok(Relay {
            url,
            username,
            credential,
        })
    }

    /// Returns a name that is good for `seconds` from now, or expired that long ago, and its password.
    pub fn temporary(&self, seconds: i64) -> Result<(String, String)> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let expiry = i64::try_from(now)? + seconds;
        let username = format!("{expiry}:{USER}");
        let mac = format!("openssl dgst -sha1 -hmac {SECRET} -binary");
        // The MAC is bytes, and what a command prints is text: a second command makes it so.
        self.machine.write("/run/lab/username", &username)?;
        let password = self
            .machine
            .run_with_input("bash -s", &format!("{mac} </run/lab/username | base64"))?;
        Ok((username, password.trim().to_owned()))
    }

    /// Returns the server's log so far.
    pub fn log(&self) -> String {
        self.process.output()
    }

    /// Returns the process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Kills the server with SIGKILL: every allocation is gone.
    pub fn crash(&mut self) -> Result<()> {
        self.process.crash()
    }

    /// Starts the server again, with the same configuration, and waits until it accepts connections.
    pub fn restart(&mut self) -> Result<()> {
        ensure!(!self.process.is_running(), "coturn is still running");
        self.process = launch(&self.machine, &self.addresses)?;
        Ok(())
    }

    /// Counts the relayed addresses that the server holds now, as the sockets of its machine show them.
    pub fn allocations(&self) -> Result<usize> {
        let sockets = self.machine.run("ss -Huan")?;
        let port = |line: &str| -> Option<u16> {
            let local = line.split_whitespace().nth(3)?;
            local.rsplit(':').next()?.parse().ok()
        };
        let relayed = sockets.lines().filter_map(port);
        Ok(relayed
            .filter(|port| (RELAYED.0..=RELAYED.1).contains(port))
            .count())
    }
}

impl Transport {
    const fn port(self) -> u16 {
        match self {
            Self::Udp | Self::Tcp => PORTS.0,
            Self::Tls => PORTS.1,
        }
    }
}

fn configuration(
    addresses: &[IpAddr],
    login: Login,
    certificate: Option<&Certificate>,
    more: &str,
) -> String {
    let mut lines: Vec<String> = addresses
        .iter()
        .flat_map(|address| {
            [
                format!("listening-ip={address}"),
                format!("relay-ip={address}"),
            ]
        })
        .collect();
    lines.extend([
        format!("listening-port={}", PORTS.0),
        format!("tls-listening-port={}", PORTS.1),
        format!("min-port={}", RELAYED.0),
        format!("max-port={}", RELAYED.1),
        "realm=lab.wice.test".to_owned(),
        "log-file=stdout\nsimple-log\nverbose".to_owned(),
        "pidfile=/run/lab/turnserver.pid\nuserdb=/run/lab/turn.db".to_owned(),
        "no-cli\nno-dtls\nfingerprint".to_owned(),
    ]);
    lines.push(match login {
        Login::User => format!("lt-cred-mech\nuser={USER}:{PASSWORD}"),
        Login::Secret => format!("use-auth-secret\nstatic-auth-secret={SECRET}"),
    });
    lines.push(match certificate {
        Some(files) => format!("cert={}\npkey={}", files.certificate, files.key),
        None => "no-tls".to_owned(),
    });
    lines.push(more.to_owned());
    lines.join("\n") + "\n"
}

fn launch(machine: &Namespace, addresses: &[IpAddr]) -> Result<Process> {
    let mut command = machine.command("turnserver");
    command.args(["-c", CONFIGURATION]);
    let process = Process::start(machine, "turnserver", &mut command)?;
    let first = SocketAddr::new(addresses[0], PORTS.0);
    until(
        "coturn to accept connections",
        Duration::from_secs(10),
        || machine.enter(|| Ok(TcpStream::connect(first).ok().map(drop))),
    )?;
    Ok(process)
}
