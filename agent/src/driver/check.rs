//! A check of the network, when somebody on the bus asks for one: with the servers that the agent uses, beside everything else.

use std::time::Duration;

use tokio::sync::oneshot;
use wice_bus::{Backend, NetCheck};

use super::Driver;
use super::show::shown;
use crate::net::check::{self, Question};

impl Driver {
    /// Begins a check, unless one is under way.
    pub(super) fn check_network(
        &mut self,
        patience: Duration,
        reply: oneshot::Sender<Option<NetCheck>>,
    ) {
        if (self.check.as_ref()).is_some_and(|running| !running.is_finished()) {
            // Whoever asked may have gone.
            let _ = reply.send(None);
            return;
        }
        let backends = self.signaling.statuses().into_iter();
        let backends = backends.map(|status| Backend {
            url: status.url,
            state: shown(status.state),
            error: status.error.unwrap_or_default(),
        });
        let result = check::start(Question {
            servers: self.known_servers(),
            fwmark: self.fwmark(),
            patience,
            backends: backends.collect(),
        });
        let answer = async move {
            if let Ok(check) = result.await {
                let _ = reply.send(Some(check));
            }
        };
        self.check = Some(tokio::spawn(answer).abort_handle());
    }

    /// The mark by which packets of WireGuard's are kept out of the tunnel: without it, a tunnel that takes everything would be
    /// checked from inside.
    fn fwmark(&self) -> u32 {
        let marks = (self.names.values())
            .filter_map(|name| self.mesh.interface(name))
            .map(|interface| interface.fwmark);
        marks.max().unwrap_or_default()
    }
}
