//! One peer of one interface: its session, its checks, its path, and what the agent shows of it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use rand::{Rng, RngExt};
use tracing::{debug, info, warn};

use super::routes::{PeerId, Routes};
use crate::backoff::Backoff;
use crate::candidate::{Candidate, Kind};
use crate::device;
use crate::ice::{Ice, IceEvent, LocalCandidate};
use crate::io::{Change, Now, Output, Packet, Transmit};
use crate::key::PrivateKey;
use crate::mailbox::Sealed;
use crate::offer::{Offer, Rejection, Role};
use crate::path::{Path, Verdict};
use crate::seal::PairSecrets;
use crate::session::{Random, Reaction, Session};
use crate::status::{CandidateStatus, PathKind, PeerStatus, Reason, State};

mod explain;

/// A peer as the mesh keeps it.
#[derive(Debug)]
pub(super) struct Peer {
    id: PeerId,
    kernel: device::Peer,
    alive: Option<Instant>,
    state: State,
    reason: Reason,
    since: Duration,
    restarts: u32,
    negotiation: Option<Box<Negotiation>>,
    warned: Option<Instant>,
    dirty: bool,
    transitions: Vec<(State, State, Reason)>,
    shown_path: PathKind,
}

/// After a message that was refused, the next ones are only counted for this long (protocol §2).
const WARNING_INTERVAL: Duration = Duration::from_secs(60);
/// WireGuard answers data within KEEPALIVE_TIMEOUT (10 s), so twice that without a packet is silence.
const ALIVE: Duration = Duration::from_secs(20);

/// What the agent does for a managed peer.
#[derive(Debug)]
struct Negotiation {
    secrets: PairSecrets,
    session: Session,
    /// Checks of the present session; none before it is paired.
    ice: Option<Ice>,
    remotes: Vec<Candidate>,
    /// Checks of the session before, whose pair carries packets until the present one has nominated another.
    carrying: Option<Ice>,
    path: Path,
    give_up: Option<Instant>,
    retry: Backoff,
    retry_at: Option<Instant>,
}

/// Checks that nominated nothing for this long have failed: by then `is` has retransmitted each of them nine times.
const GIVE_UP: Duration = Duration::from_secs(15);
/// Sessions after a failure.
const RETRY_FIRST: Duration = Duration::from_secs(10);
const RETRY_LAST: Duration = Duration::from_secs(300);

/// What a peer needs of its surroundings while it acts.
pub(super) struct Context<'a> {
    pub(super) now: Now,
    pub(super) random: &'a mut Random,
    pub(super) outputs: &'a mut VecDeque<Output>,
    pub(super) routes: &'a mut Routes,
    pub(super) interface: &'a str,
    pub(super) key: Option<&'a PrivateKey>,
    pub(super) fwmark: u32,
    pub(super) candidates: &'a [Candidate],
    pub(super) locals: &'a [LocalCandidate],
    pub(super) end_of_candidates: bool,
    pub(super) name: &'a str,
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

impl Peer {
    pub(super) fn new(id: PeerId, kernel: device::Peer, now: Now) -> Self {
        Self {
            id,
            kernel,
            alive: None,
            state: State::Unknown,
            reason: Reason::PeerAdded,
            since: now.unix,
            restarts: 0,
            negotiation: None,
            warned: None,
            dirty: true,
            transitions: Vec::new(),
            shown_path: PathKind::None,
        }
    }

    /// Asks to be shown anew, though nothing of the peer itself changed.
    pub(super) fn show_again(&mut self) {
        self.dirty = true;
    }

    /// Starts to negotiate, unless something is in the way or it does already.
    pub(super) fn manage(&mut self, obstacle: Option<Obstacle>, cx: &mut Context<'_>) {
        let key = match (obstacle, cx.key) {
            (None, Some(key)) => key,
            (Some(Obstacle::Unmanaged), _) => {
                self.leave(cx);
                return self.enter(State::Unmanaged, Reason::Configuration, cx);
            }
            (Some(Obstacle::NoListenPort), _) => {
                self.leave(cx);
                return self.enter(State::Failed, Reason::NoListenPort, cx);
            }
            (Some(Obstacle::NoPrivateKey), _) | (None, None) => {
                self.leave(cx);
                return self.enter(State::Failed, Reason::NoPrivateKey, cx);
            }
        };
        if self.negotiation.is_some() {
            return;
        }
        let own = key.public();
        let secrets = PairSecrets::derive(key, &self.id.key)
            .filter(|_| own != self.id.key)
            .filter(|secrets| cx.routes.add_mailbox(secrets.incoming(), self.id));
        let Some(secrets) = secrets else {
            return self.enter(State::Failed, Reason::InvalidKey, cx);
        };
        cx.outputs.push_back(Output::Subscribe(secrets.incoming()));
        let session = Session::start(
            own,
            self.id.key,
            cx.candidates.to_vec(),
            cx.end_of_candidates,
            cx.now.unix,
            cx.random,
        );
        self.negotiation = Some(Box::new(Negotiation {
            secrets,
            session,
            ice: None,
            remotes: Vec::new(),
            carrying: None,
            path: Path::default(),
            give_up: None,
            retry: Backoff::new(RETRY_FIRST, RETRY_LAST),
            retry_at: None,
        }));
        self.wait(Reason::NoOffer, cx);
    }

    /// Stops to negotiate; the kernel's endpoint stays as it is.
    pub(super) fn leave(&mut self, cx: &mut Context<'_>) {
        let Some(negotiation) = self.negotiation.take() else {
            return;
        };
        for ice in [&negotiation.ice, &negotiation.carrying]
            .into_iter()
            .flatten()
        {
            cx.routes.remove_ufrag(ice.ufrag());
        }
        cx.routes.remove_mailbox(&negotiation.secrets.incoming());
        cx.outputs
            .push_back(Output::Unsubscribe(negotiation.secrets.incoming()));
        cx.outputs
            .push_back(Output::Withdraw(negotiation.secrets.outgoing()));
        self.dirty = true;
    }

    /// Takes what a dump says of the peer.
    pub(super) fn observe(&mut self, kernel: &device::Peer, cx: &mut Context<'_>) {
        if kernel.rx_bytes > self.kernel.rx_bytes {
            self.alive = Some(cx.now.instant);
        }
        if *kernel != self.kernel {
            self.kernel = kernel.clone();
            self.dirty = true;
        }
        if let Some(negotiation) = &mut self.negotiation
            && let Verdict::Set(endpoint) = negotiation.path.compare(kernel, cx.now.instant)
        {
            debug!(interface = cx.interface, peer = %self.id.key, %endpoint, "puts the endpoint back");
            self.set_endpoint(endpoint, cx);
        }
    }

    /// Takes the candidates of the interface as they are now.
    pub(super) fn gathered(&mut self, cx: &mut Context<'_>) {
        let Some(negotiation) = &mut self.negotiation else {
            return;
        };
        negotiation
            .session
            .gathered(cx.candidates, cx.end_of_candidates);
        for ice in [&mut negotiation.ice, &mut negotiation.carrying]
            .into_iter()
            .flatten()
        {
            ice.set_locals(cx.locals);
        }
    }

    /// Takes a message from the peer's mailbox.
    ///
    /// # Errors
    /// [`Rejection`] when it does not verify; it then changed nothing.
    pub(super) fn receive(
        &mut self,
        sealed: &Sealed,
        cx: &mut Context<'_>,
    ) -> Result<(), Rejection> {
        let (Some(negotiation), Some(key)) = (&mut self.negotiation, cx.key) else {
            return Ok(());
        };
        let opened = Offer::open(
            sealed,
            &key.public(),
            &self.id.key,
            &negotiation.secrets,
            cx.allow_loopback,
        );
        let offer = match opened {
            Ok(offer) => offer,
            Err(rejection) => {
                let now = cx.now.instant;
                if self.warned.is_none_or(|at| now >= at + WARNING_INTERVAL) {
                    self.warned = Some(now);
                    warn!(interface = cx.interface, peer = %self.id.key,
                        "ignored a message that claims to be from this peer: {rejection}");
                }
                return Err(rejection);
            }
        };
        let reaction = negotiation
            .session
            .receive(&offer, cx.now.instant, cx.now.unix, cx.random);
        debug!(interface = cx.interface, peer = %self.id.key, id = offer.id, epoch = offer.epoch,
            rid = offer.rid, candidates = offer.candidates.len(), ?reaction, "received an offer");
        match reaction {
            Reaction::None => {}
            Reaction::Candidates => {
                negotiation.remotes = offer.candidates;
                if let Some(ice) = &mut negotiation.ice {
                    ice.set_remotes(&negotiation.remotes);
                }
            }
            Reaction::Paired => self.check(&offer, cx),
            Reaction::Restarted => {
                self.restarts += 1;
                negotiation.retire(cx);
                self.check(&offer, cx);
            }
            Reaction::Unpaired => {
                negotiation.retire(cx);
                self.wait(Reason::PeerRestarted, cx);
            }
            Reaction::Renewed { paired } => {
                self.restarts += 1;
                negotiation.retire(cx);
                if paired {
                    self.check(&offer, cx);
                } else {
                    self.wait(Reason::NoOffer, cx);
                }
            }
        }
        Ok(())
    }

    /// Takes a STUN packet that is addressed to this peer's session.
    pub(super) fn packet(&mut self, packet: &Packet, now: Instant) {
        if let Some(negotiation) = &mut self.negotiation {
            let _ = [&mut negotiation.ice, &mut negotiation.carrying]
                .into_iter()
                .flatten()
                .any(|ice| ice.handle_packet(packet, now));
        }
    }

    /// Starts a new session beside the path that is in use.
    pub(super) fn restart(&mut self, reason: Reason, cx: &mut Context<'_>) {
        let Some(negotiation) = &mut self.negotiation else {
            return;
        };
        self.restarts += 1;
        negotiation.session.restart(cx.now.unix, cx.random);
        negotiation.retire(cx);
        self.wait(reason, cx);
    }

    /// Tells waiting peers apart by whether any backend could bring an offer.
    pub(super) fn backend_changed(&mut self, cx: &mut Context<'_>) {
        if self.state == State::Waiting
            && matches!(self.reason, Reason::NoOffer | Reason::NoBackend)
        {
            self.wait(Reason::NoOffer, cx);
        }
    }

    /// Does everything that is due, and says what changed.
    pub(super) fn settle(&mut self, cx: &mut Context<'_>) {
        self.timers(cx);
        if self.state == State::Gathering
            && !cx.candidates.is_empty()
            && (self.negotiation.as_ref()).is_some_and(|it| !it.remotes.is_empty())
        {
            self.enter(State::Checking, Reason::OfferReceived, cx);
        }
        while let Some((event, present)) = self.negotiation.as_mut().and_then(|it| it.poll()) {
            self.react(event, present, cx);
        }
        if let (Some(negotiation), Some(key)) = (&mut self.negotiation, cx.key) {
            while let Some(offer) = negotiation.session.poll_offer(cx.now.instant, cx.random) {
                let mut z = [0; 64];
                cx.random.fill_bytes(&mut z);
                if let Some(sealed) = offer.seal(key, &negotiation.secrets, &z) {
                    debug!(interface = cx.interface, peer = %self.id.key, id = offer.id, epoch = offer.epoch,
                        rid = offer.rid, candidates = offer.candidates.len(), eoc = offer.eoc, "publishes an offer");
                    cx.outputs.push_back(Output::Publish {
                        mailbox: negotiation.secrets.outgoing(),
                        sealed,
                    });
                }
            }
            let controlling = negotiation.session.role() == Role::Controlling;
            if negotiation.path.take_nudge(controlling, cx.now.instant)
                && let Some(address) = tunnel_address(&self.kernel)
            {
                cx.outputs.push_back(Output::Nudge {
                    interface: cx.interface.to_owned(),
                    address,
                });
            }
        }
        self.report(cx);
    }

    /// When [`Peer::settle`] is due.
    pub(super) fn poll_timeout(&mut self, now: Instant) -> Option<Instant> {
        let negotiation = self.negotiation.as_mut()?;
        let ice = [&mut negotiation.ice, &mut negotiation.carrying]
            .into_iter()
            .flatten()
            .filter_map(Ice::poll_timeout)
            .min();
        [
            ice,
            negotiation.session.poll_timeout(now),
            negotiation.path.poll_timeout(),
            negotiation.give_up,
            negotiation.retry_at,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Tells whether the kernel should be asked often: something is about to change in it.
    pub(super) fn is_unsettled(&self) -> bool {
        matches!(self.state, State::Gathering | State::Checking)
            || self
                .negotiation
                .as_ref()
                .is_some_and(|negotiation| negotiation.path.awaits_handshake())
    }

    /// Tells whether the peer may yet be told of our server-reflexive addresses.
    pub(super) fn needs_candidates(&self) -> bool {
        self.negotiation.is_some() && self.state != State::Connected
    }

    /// The peer as it is shown.
    pub(super) fn status(&self, name: String, now: Instant) -> PeerStatus {
        let pair = self.negotiation.as_ref().and_then(|it| it.selected());
        PeerStatus {
            public_key: self.id.key,
            name,
            state: self.state,
            reason: self.reason,
            path: self.path(now),
            endpoint: self.kernel.endpoint,
            local_candidate: pair.map(|(local, _, _)| local),
            remote_candidate: pair.map(|(_, remote, _)| remote),
            round_trip_time: pair.and_then(|(_, _, time)| time),
            latest_handshake: self.kernel.latest_handshake,
            allowed_ips: self.kernel.allowed_ips.clone(),
            rx_bytes: self.kernel.rx_bytes,
            tx_bytes: self.kernel.tx_bytes,
            since: self.since,
            restarts: self.restarts,
        }
    }

    fn path(&self, now: Instant) -> PathKind {
        let Some(negotiation) = &self.negotiation else {
            return PathKind::None;
        };
        match negotiation.selected() {
            Some((_, remote, _)) if remote.kind == Kind::Relay => PathKind::Relay,
            Some(_) => PathKind::Direct,
            None if negotiation.path.wanted().is_some() && self.is_alive(now) => PathKind::Direct,
            None => PathKind::None,
        }
    }

    fn is_alive(&self, now: Instant) -> bool {
        self.alive.is_some_and(|at| now < at + ALIVE)
    }

    fn timers(&mut self, cx: &mut Context<'_>) {
        let now = cx.now.instant;
        let Some(negotiation) = &mut self.negotiation else {
            return;
        };
        for ice in [&mut negotiation.ice, &mut negotiation.carrying]
            .into_iter()
            .flatten()
        {
            if ice.poll_timeout().is_none_or(|at| at <= now) {
                ice.handle_timeout(now);
            }
        }
        if negotiation.give_up.is_some_and(|at| at <= now) {
            negotiation.give_up = None;
            negotiation.retry_at = Some(now + negotiation.retry.next_delay(cx.random));
            self.enter(State::Failed, Reason::NoPairWorks, cx);
        } else if negotiation.retry_at.is_some_and(|at| at <= now) {
            self.restart(Reason::NoPairWorks, cx);
        }
    }

    fn react(&mut self, event: IceEvent, present: bool, cx: &mut Context<'_>) {
        let Some(negotiation) = &mut self.negotiation else {
            return;
        };
        match event {
            IceEvent::Transmit {
                source,
                destination,
                payload,
            } => {
                cx.routes.sent(&payload, self.id, cx.now.instant);
                cx.outputs.push_back(Output::Transmit(Transmit {
                    source,
                    destination,
                    fwmark: cx.fwmark,
                    payload,
                }));
            }
            IceEvent::Selected(pair) => {
                if present {
                    negotiation.give_up = None;
                    negotiation.retry_at = None;
                    negotiation.retry.reset();
                    negotiation.drop_carrying(cx);
                }
                let controlling = negotiation.session.role() == Role::Controlling;
                let verdict = negotiation.path.want(
                    pair.remote.address,
                    &self.kernel,
                    controlling,
                    cx.now.instant,
                );
                self.dirty = true;
                if let Verdict::Set(endpoint) = verdict {
                    self.set_endpoint(endpoint, cx);
                }
                if present {
                    if self.state != State::Connected {
                        info!(interface = cx.interface, peer = %self.id.key, name = cx.name,
                            "connected: {} {} to {} {}", pair.local.kind.as_str(), pair.local.address,
                            pair.remote.kind.as_str(), pair.remote.address);
                    }
                    self.enter(State::Connected, Reason::PairNominated, cx);
                }
            }
            IceEvent::Disconnected if !present => negotiation.drop_carrying(cx),
            IceEvent::Disconnected if self.state == State::Connected => {
                let reason = if self.is_alive(cx.now.instant) {
                    Reason::KernelAlive
                } else {
                    Reason::ConsentLost
                };
                info!(interface = cx.interface, peer = %self.id.key, name = cx.name,
                    "the pair stopped answering; negotiates anew");
                self.restart(reason, cx);
            }
            // Nothing was nominated yet: more candidates may come, and `give_up` ends the wait.
            IceEvent::Disconnected => {}
        }
    }

    /// Starts checks with the session that ours is paired with now.
    fn check(&mut self, offer: &Offer, cx: &mut Context<'_>) {
        let Some(negotiation) = &mut self.negotiation else {
            return;
        };
        negotiation.retire(cx);
        let mut ice = Ice::new(
            negotiation.session.credentials(),
            negotiation.session.role(),
            cx.random.random(),
        );
        cx.routes.add_ufrag(ice.ufrag(), self.id);
        ice.set_locals(cx.locals);
        ice.set_remote(&offer.credentials);
        ice.set_remotes(&offer.candidates);
        ice.handle_timeout(cx.now.instant);
        negotiation.ice = Some(ice);
        negotiation.remotes = offer.candidates.clone();
        negotiation.retry_at = None;
        negotiation.give_up = Some(cx.now.instant + GIVE_UP);
        let known = !cx.candidates.is_empty() && !offer.candidates.is_empty();
        let state = if known {
            State::Checking
        } else {
            State::Gathering
        };
        self.enter(state, Reason::OfferReceived, cx);
    }

    fn wait(&mut self, reason: Reason, cx: &Context<'_>) {
        let reason = match reason {
            Reason::NoOffer if !cx.backend_up => Reason::NoBackend,
            other => other,
        };
        self.enter(State::Waiting, reason, cx);
    }

    fn set_endpoint(&mut self, endpoint: std::net::SocketAddr, cx: &mut Context<'_>) {
        cx.outputs.push_back(Output::SetEndpoint {
            interface: cx.interface.to_owned(),
            peer: self.id.key,
            endpoint,
        });
    }

    fn enter(&mut self, state: State, reason: Reason, cx: &Context<'_>) {
        if (state, reason) == (self.state, self.reason) {
            return;
        }
        self.dirty = true;
        self.reason = reason;
        if state != self.state {
            self.transitions.push((self.state, state, reason));
            self.state = state;
            self.since = cx.now.unix;
        }
    }

    fn report(&mut self, cx: &mut Context<'_>) {
        if !std::mem::take(&mut self.dirty) {
            return;
        }
        let interface = || cx.interface.to_owned();
        let peer = self.id.key;
        let new = self.path(cx.now.instant);
        let old = std::mem::replace(&mut self.shown_path, new);
        cx.outputs.push_back(Output::Changed(Change::Peer {
            interface: interface(),
            peer,
        }));
        for (old, new, reason) in self.transitions.drain(..) {
            cx.outputs.push_back(Output::Changed(Change::State {
                interface: interface(),
                peer,
                old,
                new,
                reason,
            }));
        }
        if old != new {
            cx.outputs.push_back(Output::Changed(Change::Path {
                interface: interface(),
                peer,
                old,
                new,
            }));
        }
    }
}

impl Negotiation {
    /// The next event, and whether it is of the present session.
    fn poll(&mut self) -> Option<(IceEvent, bool)> {
        if let Some(event) = self.ice.as_mut().and_then(Ice::poll) {
            return Some((event, true));
        }
        self.carrying
            .as_mut()
            .and_then(Ice::poll)
            .map(|event| (event, false))
    }

    /// Ends the present checks; a pair that they selected goes on carrying packets (make before break).
    fn retire(&mut self, cx: &mut Context<'_>) {
        self.give_up = None;
        self.retry_at = None;
        self.remotes.clear();
        let Some(ice) = self.ice.take() else {
            return;
        };
        if ice.selected_pair().is_some() {
            self.drop_carrying(cx);
            self.carrying = Some(ice);
        } else {
            self.forget(ice.ufrag(), cx);
        }
    }

    fn drop_carrying(&mut self, cx: &mut Context<'_>) {
        if let Some(ice) = self.carrying.take() {
            self.forget(ice.ufrag(), cx);
        }
    }

    /// Ends the route of a fragment, unless other checks go by the same: a session may be paired anew.
    fn forget(&self, ufrag: &str, cx: &mut Context<'_>) {
        let in_use = [&self.ice, &self.carrying]
            .into_iter()
            .flatten()
            .any(|ice| ice.ufrag() == ufrag);
        if !in_use {
            cx.routes.remove_ufrag(ufrag);
        }
    }

    /// Both ends and the round-trip time of the pair that carries packets.
    fn selected(&self) -> Option<(CandidateStatus, CandidateStatus, Option<Duration>)> {
        [&self.ice, &self.carrying]
            .into_iter()
            .flatten()
            .find_map(|ice| {
                let pair = ice.selected_pair()?;
                Some((pair.local, pair.remote, ice.round_trip_time()))
            })
    }
}

/// An address that WireGuard routes to the peer; of a default route, one that is reserved for examples (RFC 5737).
fn tunnel_address(peer: &device::Peer) -> Option<std::net::IpAddr> {
    let routed = peer
        .allowed_ips
        .iter()
        .max_by_key(|allowed| (allowed.prefix, allowed.address.is_ipv4()))?;
    let example: std::net::IpAddr = match routed.address {
        std::net::IpAddr::V4(_) => std::net::Ipv4Addr::new(192, 0, 2, 1).into(),
        std::net::IpAddr::V6(_) => std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
    };
    Some(if routed.prefix == 0 {
        example
    } else {
        routed.address
    })
}
