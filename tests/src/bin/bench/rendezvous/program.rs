//! The programs that are measured, on free ports of loopback; killed when dropped.

use std::env;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use wice_tests::server::program;
use wice_tests::wait::until;

/// How long a program may take until it accepts connections.
const STARTED: Duration = Duration::from_secs(20);

/// A child that does not outlive its owner.
#[derive(Debug)]
pub(crate) struct Running(pub(crate) Child);

impl Running {
    fn start(command: &mut Command) -> Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        Ok(Self(child.with_context(|| format!("cannot start {name}"))?))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Fails when it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The rendezvous server.
#[derive(Debug)]
pub(crate) struct Server {
    process: Running,
    address: SocketAddr,
}

impl Server {
    /// Starts it with limits that are no limit here.
    pub(crate) fn start(arguments: &[String]) -> Result<Self> {
        let address = free_address()?;
        let mut command = Command::new(program("wice-signal")?);
        command.args(["--listen", &address.to_string(), "--log-level", "warn"]);
        command.args([
            "--requests-per-minute",
            &u32::MAX.to_string(),
            "--connections",
            "100000",
        ]);
        command.args(["--mailboxes", "200000"]).args(arguments);
        let process = Running::start(&mut command)?;
        accepts(address)?;
        Ok(Self { process, address })
    }

    /// Waits until it has reached its store.
    pub(crate) fn ready(&self) -> Result<()> {
        until("wice-signal to be ready", STARTED, || {
            let mut stream = TcpStream::connect(self.address)?;
            stream
                .write_all(b"GET /readyz HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n")?;
            let mut status = String::new();
            BufReader::new(stream).read_line(&mut status)?;
            Ok(status.contains(" 200 ").then_some(()))
        })
    }

    /// Where it listens.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self.process.0.id()
    }
}

/// This program as an echo server, so that what it uses can be told.
#[derive(Debug)]
pub(crate) struct Echo {
    process: Running,
    address: SocketAddr,
}

impl Echo {
    /// Starts it.
    pub(crate) fn start() -> Result<Self> {
        let address = free_address()?;
        let mut command = Command::new(env::current_exe()?);
        let process = Running::start(command.args(["--echo", &address.to_string()]))?;
        accepts(address)?;
        Ok(Self { process, address })
    }

    /// Where it listens.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self.process.0.id()
    }
}

/// A NATS server with JetStream, and its files.
#[derive(Debug)]
pub(crate) struct Nats {
    _process: Running,
    address: SocketAddr,
    _files: Folder,
}

impl Nats {
    /// Starts it, where it is installed.
    pub(crate) fn start() -> Result<Option<Self>> {
        let Some(installed) = installed("nats-server") else {
            return Ok(None);
        };
        let (address, files) = (free_address()?, Folder::new("nats")?);
        let mut command = Command::new(installed);
        command.args([
            "-a",
            "127.0.0.1",
            "-p",
            &address.port().to_string(),
            "-js",
            "-sd",
        ]);
        let process = Running::start(command.arg(&files.0).stderr(Stdio::null()))?;
        accepts(address)?;
        Ok(Some(Self {
            _process: process,
            address,
            _files: files,
        }))
    }

    /// What a server is told.
    pub(crate) fn url(&self) -> String {
        format!("nats://{}", self.address)
    }
}

/// nginx with one worker and a file.
#[derive(Debug)]
pub(crate) struct Nginx {
    _process: Running,
    address: SocketAddr,
    _files: Folder,
}

impl Nginx {
    /// Starts it with a file of `bytes` at `/file`, where it is installed.
    pub(crate) fn start(bytes: usize) -> Result<Option<Self>> {
        let Some(installed) = installed("nginx") else {
            return Ok(None);
        };
        let (address, files) = (free_address()?, Folder::new("nginx")?);
        let home = files.0.display();
        fs::write(files.0.join("file"), "x".repeat(bytes))?;
        let configuration = files.0.join("nginx.conf");
        fs::write(
            &configuration,
            format!(
                "daemon off;\nmaster_process off;\nworker_processes 1;\npid {home}/pid;\nerror_log {home}/error.log;\n\
                 events {{ worker_connections 1024; }}\nhttp {{ access_log off; sendfile on; tcp_nopush on; keepalive_requests 100000000;\n\
                 client_body_temp_path {home}/1; proxy_temp_path {home}/2; fastcgi_temp_path {home}/3; uwsgi_temp_path {home}/4; scgi_temp_path {home}/5;\n\
                 server {{ listen {address}; root {home}; }} }}\n"
            ),
        )?;
        let mut command = Command::new(installed);
        command.args(["-e", "stderr", "-c"]).arg(&configuration);
        let process = Running::start(command.stderr(Stdio::null()))?;
        accepts(address)?;
        Ok(Some(Self {
            _process: process,
            address,
            _files: files,
        }))
    }

    /// Where it listens.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self._process.0.id()
    }
}

/// A folder that is gone with its owner.
#[derive(Debug)]
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Result<Self> {
        let name = format!("wice-bench-{name}-{}", std::process::id());
        let path = env::temp_dir().join(name);
        fs::create_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What stays behind is in the folder for temporary files.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The program's path, if it is installed.
pub(crate) fn installed(name: &str) -> Option<PathBuf> {
    ["/usr/bin", "/usr/sbin", "/usr/local/bin"]
        .iter()
        .map(|folder| PathBuf::from(folder).join(name))
        .find(|path| path.is_file())
}

fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

fn accepts(address: SocketAddr) -> Result<()> {
    until("a program to accept connections", STARTED, || {
        Ok(TcpStream::connect(address).ok().map(drop))
    })
}
