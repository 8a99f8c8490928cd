//! Requests to WireGuard, carried out beside the main loop: an interface that does not answer delays nothing else.
//!
//! Each interface's requests are carried out in the order in which they came. Must not know why they are made.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tracing::{debug, info, warn};
use wice_core::device::Device;
use wice_core::key::PublicKey;

use crate::kernel::{Kernel, KernelError};
use crate::logging::causes;
use crate::net;

/// All requests under way, one runner for each interface.
pub(super) struct Errands {
    kernel: Arc<Kernel>,
    runners: BTreeMap<String, Runner>,
    sender: mpsc::UnboundedSender<Done>,
    done: mpsc::UnboundedReceiver<Done>,
}

/// What came back.
#[derive(Debug)]
pub(super) enum News {
    /// A dump that is newer than every write before it.
    Device(Device),
    /// There is no WireGuard interface of this name.
    Gone(String),
}

/// An interface that failed is left alone for this long.
const REST: Duration = Duration::from_secs(5);

struct Runner {
    requests: mpsc::UnboundedSender<Request>,
    task: AbortHandle,
    /// Endpoints that were to be written so far.
    writes: u64,
    /// How many of them came before the dump that is awaited.
    awaited: Option<u64>,
}

enum Request {
    Dump {
        writes: u64,
    },
    SetEndpoint {
        peer: PublicKey,
        endpoint: SocketAddr,
    },
    Nudge {
        address: IpAddr,
    },
}

/// A dump that has ended.
struct Done {
    interface: String,
    writes: u64,
    outcome: Outcome,
}

enum Outcome {
    Device(Device),
    Gone,
    Failed,
}

impl Errands {
    pub(super) fn new(kernel: Arc<Kernel>) -> Self {
        let (sender, done) = mpsc::unbounded_channel();
        Self {
            kernel,
            runners: BTreeMap::new(),
            sender,
            done,
        }
    }

    /// Asks for a dump; one that is awaited already will do, unless an endpoint was to be written since.
    pub(super) fn dump(&mut self, interface: &str) {
        let runner = self.runner(interface);
        if runner.awaited != Some(runner.writes) {
            runner.awaited = Some(runner.writes);
            runner.ask(Request::Dump {
                writes: runner.writes,
            });
        }
    }

    /// Asks for an endpoint to be written.
    pub(super) fn set_endpoint(&mut self, interface: &str, peer: PublicKey, endpoint: SocketAddr) {
        let runner = self.runner(interface);
        runner.writes += 1;
        runner.ask(Request::SetEndpoint { peer, endpoint });
    }

    /// Sends a packet into the tunnel, after the endpoints that were to be written before.
    pub(super) fn nudge(&mut self, interface: &str, address: IpAddr) {
        self.runner(interface).ask(Request::Nudge { address });
    }

    /// Drops what was asked of an interface that is gone.
    pub(super) fn forget(&mut self, interface: &str) {
        self.runners.remove(interface);
    }

    /// Tells whether a dump is awaited.
    pub(super) fn is_busy(&self) -> bool {
        self.runners.values().any(|runner| runner.awaited.is_some())
    }

    /// Waits for the next dump; cancel-safe.
    pub(super) async fn next(&mut self) -> News {
        loop {
            let Some(done) = self.done.recv().await else {
                // The sender is a field of this very struct.
                return std::future::pending().await;
            };
            let Some(runner) = self.runners.get_mut(&done.interface) else {
                continue;
            };
            if runner.awaited == Some(done.writes) {
                runner.awaited = None;
            }
            match done.outcome {
                // Whoever takes it would believe that somebody undid the write.
                Outcome::Device(_) if done.writes < runner.writes => self.dump(&done.interface),
                Outcome::Device(device) => return News::Device(device),
                Outcome::Gone => return News::Gone(done.interface),
                Outcome::Failed => {}
            }
        }
    }

    fn runner(&mut self, interface: &str) -> &mut Runner {
        self.runners
            .entry(interface.to_owned())
            .or_insert_with(|| Runner::start(interface, &self.kernel, &self.sender))
    }
}

impl Runner {
    fn start(interface: &str, kernel: &Arc<Kernel>, done: &mpsc::UnboundedSender<Done>) -> Self {
        let (requests, received) = mpsc::unbounded_channel();
        let run = run(
            interface.to_owned(),
            Arc::clone(kernel),
            received,
            done.clone(),
        );
        Self {
            requests,
            task: tokio::spawn(run).abort_handle(),
            writes: 0,
            awaited: None,
        }
    }

    fn ask(&self, request: Request) {
        // Fails only after a panic of the task, which a later dump cannot mend either.
        let _ = self.requests.send(request);
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(
    interface: String,
    kernel: Arc<Kernel>,
    mut requests: mpsc::UnboundedReceiver<Request>,
    done: mpsc::UnboundedSender<Done>,
) {
    let mut health = Health::default();
    while let Some(request) = requests.recv().await {
        match request {
            Request::Dump { writes } => {
                let outcome = match kernel.dump(&interface).await {
                    Ok(device) => {
                        health.answered(&interface);
                        device.map_or(Outcome::Gone, Outcome::Device)
                    }
                    Err(error) => {
                        health.failed(&error).await;
                        Outcome::Failed
                    }
                };
                let interface = interface.clone();
                // Nobody waits any more when the agent leaves.
                let _ = done.send(Done {
                    interface,
                    writes,
                    outcome,
                });
            }
            Request::SetEndpoint { peer, endpoint } => {
                match kernel.set_endpoint(&interface, &peer, endpoint).await {
                    Ok(()) => debug!(interface, %peer, %endpoint, "set the endpoint"),
                    // The next dump tells.
                    Err(
                        error @ (KernelError::PeerGone { .. } | KernelError::InterfaceGone { .. }),
                    ) => debug!("cannot set an endpoint: {error}"),
                    Err(error) => health.failed(&error).await,
                }
            }
            Request::Nudge { address } => {
                if let Err(error) = net::nudge(&interface, address) {
                    debug!(interface, %address, "cannot nudge the tunnel: {error}");
                }
            }
        }
    }
}

/// Whether an interface answers; said when it changes, not at every request.
#[derive(Default)]
struct Health {
    failing: bool,
}

impl Health {
    fn answered(&mut self, interface: &str) {
        if std::mem::take(&mut self.failing) {
            info!("interface {interface} answers again");
        }
    }

    async fn failed(&mut self, error: &KernelError) {
        let text = causes(error);
        if std::mem::replace(&mut self.failing, true) {
            debug!("{text}");
        } else {
            warn!(
                "{text}; tries again every {} s, and goes on with everything else",
                REST.as_secs()
            );
        }
        tokio::time::sleep(REST).await;
    }
}
