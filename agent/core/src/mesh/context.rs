//! What a peer is given while it acts: the present, its interface and the places where its wishes go.
//!
//! Holds no state of its own.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::routes::Routes;
use crate::candidate::Candidate;
use crate::ice::LocalCandidate;
use crate::io::{Now, Output};
use crate::key::PrivateKey;
use crate::session::Random;
use crate::settings::Policy;
use crate::status::Reason;

/// What a peer needs of its surroundings while it acts.
pub(super) struct Context<'a> {
    pub(super) now: Now,
    pub(super) random: &'a mut Random,
    pub(super) outputs: &'a mut VecDeque<Output>,
    pub(super) restarts: &'a mut BTreeMap<Reason, u64>,
    pub(super) routes: &'a mut Routes,
    pub(super) interface: &'a str,
    pub(super) key: Option<&'a PrivateKey>,
    pub(super) fwmark: u32,
    pub(super) candidates: &'a [Candidate],
    pub(super) locals: &'a [LocalCandidate],
    pub(super) end_of_candidates: bool,
    pub(super) name: &'a str,
    pub(super) listen_port: u16,
    pub(super) policy: Policy,
    /// Whether TCP may be used.
    pub(super) tcp: bool,
    /// STUN servers were asked, and none answered.
    pub(super) udp_blocked: bool,
    /// Between checks of a peer whose WireGuard moves bytes; `None` for no more often than others.
    pub(super) pace: Option<Duration>,
    pub(super) allow_loopback: bool,
    pub(super) backend_up: bool,
}

/// Why a peer is not negotiated with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Obstacle {
    /// The configuration says so.
    Unmanaged,
    /// The interface has no private key.
    NoPrivateKey,
    /// The interface has no port.
    NoListenPort,
}
