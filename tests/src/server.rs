//! The project's rendezvous server in the middle of the WAN.

use std::env;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::namespace::Namespace;
use crate::process::Process;
use crate::topology::Lab;
use crate::wait::until;

/// A running `wice-signal`, with STUN.
#[derive(Debug)]
pub struct Server {
    machine: Namespace,
    listen: SocketAddr,
    stun: SocketAddr,
    process: Process,
}

impl Server {
    /// Starts the server and waits until it accepts connections.
    pub fn start(lab: &Lab) -> Result<Self> {
        let listen = (lab.server_address(), 8080).into();
        let stun = (lab.server_address(), 3478).into();
        let process = launch(lab.wan(), listen, stun)?;
        Ok(Self {
            machine: lab.wan().clone(),
            listen,
            stun,
            process,
        })
    }

    /// Returns the URL that an agent names as its backend, by WebSocket.
    pub fn websocket(&self) -> String {
        format!("ws://{}", self.listen)
    }

    /// Returns the URL that an agent names as its backend, by plain requests.
    pub fn http(&self) -> String {
        format!("http://{}", self.listen)
    }

    /// Returns the URL of the STUN server.
    pub fn stun(&self) -> String {
        format!("stun:{}", self.stun)
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

    /// Starts the server again at the same addresses.
    pub fn restart(&mut self) -> Result<()> {
        self.process = launch(&self.machine, self.listen, self.stun)?;
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

fn launch(machine: &Namespace, listen: SocketAddr, stun: SocketAddr) -> Result<Process> {
    let mut command = machine.command(program("wice-signal")?);
    command
        .arg("--listen")
        .arg(listen.to_string())
        .arg("--stun")
        .arg(stun.to_string());
    let process = Process::start(machine, "wice-signal", &mut command)?;
    until(
        "wice-signal to accept connections",
        Duration::from_secs(10),
        || machine.enter(|| Ok(TcpStream::connect(listen).ok().map(drop))),
    )?;
    Ok(process)
}
