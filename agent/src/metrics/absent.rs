//! In the place of metrics in a build without them.

use std::convert::Infallible;
use std::net::SocketAddr;

use wice_core::key::PublicKey;
use wice_core::status::State;

use super::Figures;

/// No metrics.
#[derive(Debug)]
pub(crate) struct Metrics;

/// What nobody asks for.
#[derive(Debug)]
pub(crate) struct Scrape(Infallible);

impl Metrics {
    pub(crate) const fn new() -> Self {
        Self
    }

    pub(crate) fn listen(&mut self, _: Option<SocketAddr>) {}

    pub(crate) fn state_changed(&mut self, _: &str, _: &PublicKey, _: State) {}

    pub(crate) fn peer_gone(&mut self, _: &str, _: &PublicKey) {}

    pub(crate) fn interface_gone(&mut self, _: &str) {}

    pub(crate) async fn next(&mut self) -> Scrape {
        std::future::pending().await
    }
}

impl Scrape {
    pub(crate) fn answer(self, _: &Figures) {
        match self.0 {}
    }
}
