//! Real NATS servers on loopback, alone or as a cluster.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use wice_signal::{BucketName, NatsAuth, NatsOptions};

use super::free_port;

/// A NATS server with JetStream. Killed, and its files gone, when dropped.
pub struct Node {
    pub port: u16,
    command: Vec<String>,
    folder: PathBuf,
    child: Option<Child>,
}

impl Node {
    /// Starts one alone.
    pub fn start() -> Self {
        Self::with(free_port(), &[])
    }

    /// Starts three that are one cluster.
    pub fn cluster() -> Vec<Self> {
        let ports: Vec<u16> = (0..6).map(|_| free_port()).collect();
        let routes: Vec<String> = ports[3..]
            .iter()
            .map(|port| format!("nats://127.0.0.1:{port}"))
            .collect();
        (0..3)
            .map(|number| {
                let cluster = format!("nats://127.0.0.1:{}", ports[3 + number]);
                Self::with(
                    ports[number],
                    &[
                        "--server_name",
                        &format!("node{number}"),
                        "--cluster_name",
                        "wice",
                        "--cluster",
                        &cluster,
                        "--routes",
                        &routes.join(","),
                    ],
                )
            })
            .collect()
    }

    /// Starts one alone with more arguments.
    pub fn start_with(arguments: &[&str]) -> Self {
        Self::with(free_port(), arguments)
    }

    fn with(port: u16, arguments: &[&str]) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        // Modules that are compiled into one program each count for themselves.
        let name = format!("wice-nats-{}-{port}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir(&folder).expect("a new folder");
        let mut command: Vec<String> = vec!["-a".into(), "127.0.0.1".into(), "-p".into()];
        command.push(port.to_string());
        command.extend(["-js".into(), "-sd".into()]);
        command.push(folder.display().to_string());
        command.extend(["-l".into(), folder.join("log").display().to_string()]);
        command.extend(arguments.iter().map(ToString::to_string));
        let mut node = Self {
            port,
            command,
            folder,
            child: None,
        };
        node.run();
        node
    }

    /// Starts the server again, with what it kept.
    pub fn run(&mut self) {
        let mut command = Command::new("nats-server");
        command
            .args(&self.command)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        self.child = Some(command.spawn().expect("nats-server is installed"));
    }

    /// Kills it without a word.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// What a server is told of these nodes.
pub fn options(nodes: &[&Node]) -> NatsOptions {
    let ports: Vec<u16> = nodes.iter().map(|node| node.port).collect();
    options_at(&ports, nodes.len())
}

/// What a server is told of NATS at these ports of loopback.
pub fn options_at(ports: &[u16], replicas: usize) -> NatsOptions {
    let hosts: Vec<String> = ports
        .iter()
        .map(|port| format!("127.0.0.1:{port}"))
        .collect();
    NatsOptions {
        servers: format!("nats://{}", hosts.join(","))
            .parse()
            .expect("addresses"),
        bucket: BucketName::default(),
        replicas,
        auth: NatsAuth::None,
        authority: None,
    }
}
