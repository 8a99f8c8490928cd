//! A real TURN server on the loopback of this thread's network namespace, ended with its value.

use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::yield_now;
use std::time::Instant;

use wice_core::server::{Credential, IceServer};

use super::DEADLINE;

/// Where it listens; nothing else does in a namespace of its own.
pub(super) const PORT: u16 = 3478;
pub(super) const TLS_PORT: u16 = 5349;
pub(super) const USER: &str = "alice";
pub(super) const PASSWORD: &str = "wonderland";

/// The running server.
pub(super) struct Coturn {
    child: Child,
    home: Home,
    ip: IpAddr,
}

/// A directory of its own, and what is in it.
pub(super) struct Home(PathBuf);

static NEXT: AtomicU32 = AtomicU32::new(0);

impl Coturn {
    /// Starts it with these lines in its configuration, or says that it is not installed.
    pub(super) fn start(extra: &str) -> Option<Self> {
        Self::start_at(
            "127.0.0.1",
            &format!("listening-ip=::1\nrelay-ip=::1\n{extra}"),
        )
    }

    /// Starts one that listens there.
    pub(super) fn start_at(ip: &str, extra: &str) -> Option<Self> {
        let home = Home::new();
        home.make_certificate();
        let configuration = format!(
            "listening-ip={ip}\nrelay-ip={ip}\nlistening-port={PORT}\ntls-listening-port={TLS_PORT}\nmin-port=49152\nmax-port=50999\n\
             allow-loopback-peers\nlt-cred-mech\nrealm=example.org\nuser={USER}:{PASSWORD}\nfingerprint\n\
             no-cli\nno-dtls\nno-rfc5780\nsimple-log\nlog-file={log}\npidfile={pid}\ncert={cert}\npkey={key}\n{extra}\n",
            log = home.path("log"),
            pid = home.path("pid"),
            cert = home.path("cert.pem"),
            key = home.path("key.pem"),
        );
        std::fs::write(home.0.join("turnserver.conf"), configuration).expect("a file is written");
        let child = spawn(&home)?;
        let ip = ip.parse().expect("an address");
        let mut server = Self { child, home, ip };
        server.await_port();
        Some(server)
    }

    /// What a client needs to know of it.
    pub(super) fn server(url: &str) -> IceServer {
        server(url, USER, PASSWORD)
    }

    /// Kills it without a word to anybody.
    pub(super) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again, after [`Coturn::kill`].
    pub(super) fn restart(&mut self) {
        self.child = spawn(&self.home).expect("it was there before");
        self.await_port();
    }

    fn await_port(&mut self) {
        let until = Instant::now() + DEADLINE;
        let address = SocketAddr::new(self.ip, PORT);
        while TcpStream::connect(address).is_err() {
            let ended = self.child.try_wait().expect("its state can be asked for");
            let log = std::fs::read_to_string(self.home.path("log")).unwrap_or_default();
            assert!(ended.is_none(), "coturn ended: {log}");
            assert!(Instant::now() < until, "coturn does not listen: {log}");
            yield_now();
        }
    }
}

impl Drop for Coturn {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Home {
    pub(super) fn new() -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("wice-coturn-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).expect("a directory is made");
        Self(path)
    }

    pub(super) fn path(&self, name: &str) -> String {
        self.0.join(name).to_string_lossy().into_owned()
    }

    /// Makes a certificate for this machine, `cert.pem`, that nobody trusts by nature, and its key, `key.pem`.
    pub(super) fn make_certificate(&self) {
        let made = Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
            ])
            .args(["-nodes", "-days", "2", "-subj", "/CN=localhost"])
            .args(["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"])
            .args(["-addext", "basicConstraints=critical,CA:FALSE"])
            .args([
                "-keyout",
                &self.path("key.pem"),
                "-out",
                &self.path("cert.pem"),
            ])
            .output()
            .expect("openssl is installed");
        assert!(made.status.success(), "{made:?}");
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A server that is known by its URL and opened by a password.
pub(super) fn server(url: &str, username: &str, password: &str) -> IceServer {
    IceServer {
        url: url.parse().expect("a URL"),
        username: username.into(),
        credential: Some(Credential::new(password.into())),
    }
}

fn spawn(home: &Home) -> Option<Child> {
    let log = std::fs::File::options()
        .create(true)
        .append(true)
        .open(home.path("log"))
        .expect("a log file");
    let spawned = Command::new("turnserver")
        .args(["-c", &home.path("turnserver.conf")])
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a second handle"))
        .stderr(log)
        .spawn();
    match spawned {
        Ok(child) => Some(child),
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "skipped: coturn does not start: {error}");
            None
        }
    }
}
