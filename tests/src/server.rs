//! The project's rendezvous server in the middle of the WAN.

use std::env;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::certificate::Certificate;
use crate::namespace::Namespace;
use crate::process::Process;
use crate::topology::{Lab, Seat};
use crate::wait::until;

/// A running `wice-signal`, with STUN.
#[derive(Debug)]
pub struct Server {
    machine: Namespace,
    listen: Vec<SocketAddr>,
    stun: Vec<SocketAddr>,
    secure: bool,
    arguments: Vec<String>,
    process: Process,
}

impl Server {
    /// Starts the server and waits until it accepts connections.
    pub fn start(lab: &Lab) -> Result<Self> {
        Self::start_with(lab, None, false)
    }

    /// As [`Server::start`]; with a certificate all of it by TLS, on port 443. It relays at the second address of each family
    /// where `relays` says so.
    pub fn start_with(lab: &Lab, certificate: Option<&Certificate>, relays: bool) -> Result<Self> {
        let at = |seat, port| -> Vec<SocketAddr> {
            let addresses = lab.server_addresses(seat).into_iter();
            addresses.map(|address| (address, port).into()).collect()
        };
        let option = |name: &str, addresses: &[SocketAddr]| -> Vec<String> {
            let words = addresses.iter().map(SocketAddr::to_string);
            words
                .flat_map(|address| [name.to_owned(), address])
                .collect()
        };
        let port = if certificate.is_some() { 443 } else { 8080 };
        let (listen, stun) = (at(Seat::First, port), at(Seat::First, 3478));
        let mut arguments = option("--listen", &listen);
        arguments.extend(option("--stun", &stun));
        if let Some(files) = certificate {
            let files = ["--tls-cert", files.certificate, "--tls-key", files.key];
            arguments.extend(files.map(str::to_owned));
        }
        if relays {
            arguments.extend(match certificate {
                Some(_) => option("--turn-tls", &at(Seat::Second, 443)),
                None => option("--turn", &at(Seat::Second, 3478)),
            });
            // Everybody in the lab has an address that is private or for documentation.
            arguments.push("--turn-allow-private".to_owned());
        }
        let process = launch(lab.wan(), &arguments, listen[0])?;
        Ok(Self {
            machine: lab.wan().clone(),
            listen,
            stun,
            secure: certificate.is_some(),
            arguments,
            process,
        })
    }

    /// Returns the URL that an agent names as its backend, by WebSocket.
    pub fn websocket(&self) -> String {
        self.url("ws", self.listen[0])
    }

    /// As [`Server::websocket`], at the address of the same family as `host`.
    pub fn websocket_for(&self, host: IpAddr) -> Result<String> {
        let same = |address: &&SocketAddr| address.is_ipv4() == host.is_ipv4();
        let address = self.listen.iter().find(same);
        let address = address.context("the server has no address of that family")?;
        Ok(self.url("ws", *address))
    }

    /// Returns the URL that an agent names as its backend, by plain requests.
    pub fn http(&self) -> String {
        self.url("http", self.listen[0])
    }

    fn url(&self, scheme: &str, address: SocketAddr) -> String {
        let secure = if self.secure { "s" } else { "" };
        format!("{scheme}{secure}://{address}")
    }

    /// Returns the URL of the STUN server.
    pub fn stun(&self) -> String {
        format!("stun:{}", self.stun[0])
    }

    /// Returns the process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Kills the server with SIGKILL.
    pub fn crash(&mut self) -> Result<()> {
        self.process.crash()
    }

    /// Returns the process id.
    pub fn process(&self) -> u32 {
        self.process.id()
    }

    /// Stops the server.
    pub fn stop(&mut self) -> Result<()> {
        let status = self.process.stop()?;
        ensure!(
            status.success(),
            "wice-signal did not stop cleanly: {status}\n{}",
            self.process.tail(20)
        );
        Ok(())
    }

    /// Starts the server again, as it was started.
    pub fn restart(&mut self) -> Result<()> {
        self.process = launch(&self.machine, &self.arguments, self.listen[0])?;
        Ok(())
    }
}

/// Returns the path of one of the project's programs: in `WICE_BIN_DIR`, else beside the running one.
pub fn program(name: &str) -> Result<PathBuf> {
    let directory = match env::var_os("WICE_BIN_DIR") {
        Some(directory) => PathBuf::from(directory),
        None => env::current_exe()?
            .parent()
            .context("this program lies in no directory")?
            .to_owned(),
    };
    let path = directory.join(name);
    ensure!(
        path.is_file(),
        "{} is not built: `make demo` and `make test` build it",
        path.display()
    );
    Ok(path)
}

fn launch(machine: &Namespace, arguments: &[String], listen: SocketAddr) -> Result<Process> {
    let mut command = machine.command(program("wice-signal")?);
    command.args(arguments);
    let process = Process::start(machine, "wice-signal", &mut command)?;
    until(
        "wice-signal to accept connections",
        Duration::from_secs(10),
        || machine.enter(|| Ok(TcpStream::connect(listen).ok().map(drop))),
    )?;
    Ok(process)
}
