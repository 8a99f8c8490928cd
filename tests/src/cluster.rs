//! A genuine Kubernetes API server in the middle of the WAN, by tests/kubernetes/cluster: RBAC on, and what the project ships
//! applied.

use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::namespace::Namespace;
use crate::process::Process;
use crate::topology::{Host, Lab};
use crate::wait::until;

/// Where agents of the lab find a kubeconfig, if there is one.
pub const KUBECONFIG: &str = "/run/lab/kubeconfig";

const TOOL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/kubernetes/cluster");
const FOLDER: &str = "/run/lab/cluster";
/// Building it takes minutes; starting it, seconds.
const PATIENCE: Duration = Duration::from_secs(90);

/// A running cluster; gone when dropped.
#[derive(Debug)]
pub struct Cluster {
    machine: Namespace,
    _process: Process,
}

impl Cluster {
    /// Starts one and waits until it answers.
    pub fn start(lab: &Lab) -> Result<Self> {
        let machine = lab.wan().clone();
        let mut command = machine.command(TOOL);
        let address = lab.server_address().to_string();
        command
            .args(["run", "--address", &address, FOLDER])
            .args(["sleep", "infinity"]);
        let process = Process::start(&machine, "cluster", &mut command)?;
        until("the API server to be ready", PATIENCE, || {
            Ok(machine.has(&format!("{FOLDER}/ready")).then_some(()))
        })?;
        Ok(Self {
            machine,
            _process: process,
        })
    }

    /// Gives a host the kubeconfig whose current context is the agent's.
    pub fn admit(&self, host: &Host) -> Result<()> {
        let kubeconfig = self.machine.read(&format!("{FOLDER}/kubeconfig"))?;
        host.machine.write(KUBECONFIG, &kubeconfig)
    }

    /// Kills the API server, and keeps it down.
    pub fn kill(&self) -> Result<()> {
        self.tool("kill", "").map(drop)
    }

    /// Starts it again and waits until it is ready.
    pub fn resume(&self) -> Result<()> {
        self.tool("resume", "").map(drop)
    }

    /// Applies a document as the administrator.
    pub fn apply(&self, document: &str) -> Result<()> {
        let file = "/run/lab/document.yaml";
        self.machine.write(file, document)?;
        self.tool("apply", file).map(drop)
    }

    /// Asks the API server as the administrator.
    pub fn ask(&self, method: &str, path: &str) -> Result<serde_json::Value> {
        let answer = self.tool("api", &format!("{method} {path}"))?;
        serde_json::from_str(&answer).with_context(|| format!("not JSON: {answer}"))
    }

    fn tool(&self, command: &str, arguments: &str) -> Result<String> {
        self.machine
            .run(&format!("{TOOL} {command} {FOLDER} {arguments}"))
    }
}
