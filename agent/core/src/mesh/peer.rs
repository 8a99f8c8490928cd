//! One peer of one interface: its session, its checks, its path, and what the agent shows of it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use rand::Rng;
use tracing::{debug, warn};

use super::context::{Context, Obstacle};
use super::negotiation::Negotiation;
use super::routes::PeerId;
use crate::candidate::{Candidate, Kind};
use crate::device;
use crate::ice::Ice;
use crate::io::{Now, Output};
use crate::mailbox::{Recipient, Sealed};
use crate::offer::{Offer, Rejection, Role};
use crate::path::Verdict;
use crate::seal::PairSecrets;
use crate::session::{Reaction, Session};
use crate::settings::Policy;
use crate::status::{PathKind, Reason, State};

mod checks;
mod explain;
mod route;
mod shown;
mod streams;
mod traffic;

use traffic::Traffic;

pub(super) use streams::Bearer;

/// A peer as the mesh keeps it.
#[derive(Debug)]
pub(super) struct Peer {
    id: PeerId,
    kernel: device::Peer,
    alive: Option<Instant>,
    traffic: Traffic,
    /// Until when the path is watched closely, though no data flows.
    vigil: Option<Instant>,
    /// Where the peer may be, as the relays were told.
    reach: BTreeSet<IpAddr>,
    moved_from: Option<BTreeSet<IpAddr>>,
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
/// How long a path is watched closely after the machine has slept: a radio needs some seconds to find its network again.
const VIGIL: Duration = Duration::from_secs(20);

impl Peer {
    pub(super) fn new(id: PeerId, kernel: device::Peer, now: Now) -> Self {
        Self {
            id,
            kernel,
            alive: None,
            traffic: Traffic::default(),
            vigil: None,
            reach: BTreeSet::new(),
            moved_from: None,
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
        cx.outputs.push_back(Output::Subscribe {
            mailbox: secrets.incoming(),
            recipient: Recipient::of(&own),
        });
        let session = Session::start(
            own,
            self.id.key,
            cx.candidates.to_vec(),
            cx.end_of_candidates,
            cx.now.unix,
            cx.random,
        );
        self.negotiation = Some(Box::new(Negotiation::new(secrets, session)));
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
        if negotiation.carrier.is_some() {
            self.send_close(cx);
        }
        self.drop_streams(&negotiation, cx);
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
        self.traffic.observe(kernel, cx.now.instant);
        if *kernel != self.kernel {
            self.kernel = kernel.clone();
            self.dirty = true;
        }
        let alive = self.is_alive(cx.now.instant);
        self.vigil.take_if(|until| *until <= cx.now.instant);
        self.pace(cx);
        if let Some(negotiation) = &mut self.negotiation {
            if negotiation.selected().is_none() && !alive {
                // Nothing speaks for that endpoint any more; who sets another one knows better.
                negotiation.path.release();
            }
            if let Verdict::Set(endpoint) = negotiation.path.compare(kernel, cx.now.instant) {
                debug!(interface = cx.interface, peer = %self.id.key, %endpoint, "puts the endpoint back");
                self.set_endpoint(endpoint, cx);
            }
        }
        // Silence changes what is shown though nothing else happens.
        self.dirty |= self.path(cx.now.instant) != self.shown_path;
    }

    /// Checks the path at once and closely for a while: what it was before the machine slept need not be true any more.
    pub(super) fn resumed(&mut self, cx: &Context<'_>) {
        if self.negotiation.is_some() {
            self.vigil = Some(cx.now.instant + VIGIL);
            self.pace(cx);
        }
    }

    /// Sets how often pairs are checked.
    fn pace(&mut self, cx: &Context<'_>) {
        let pace = cx.pace.filter(|_| self.is_busy());
        if let Some(negotiation) = &mut self.negotiation {
            for ice in negotiation.checks() {
                ice.set_pace(pace, cx.now.instant);
            }
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
        let mut news = false;
        let remotes = negotiation.remotes.clone();
        for ice in negotiation.checks() {
            news |= ice.set_locals(cx.locals, cx.now.instant);
        }
        if let Some(ice) = &mut negotiation.ice {
            ice.set_remotes(&remotes, cx.policy == Policy::Direct, cx.now.instant);
        }
        self.update_streams(cx);
        if news {
            self.look_soon(cx);
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
                let news = direct(&negotiation.remotes) != direct(&offer.candidates);
                negotiation.remotes = offer.candidates;
                if let Some(ice) = &mut negotiation.ice {
                    let direct_only = cx.policy == Policy::Direct;
                    ice.set_remotes(&negotiation.remotes, direct_only, cx.now.instant);
                }
                self.update_streams(cx);
                // What was prflx so far may have a kind now.
                self.dirty |= self.path(cx.now.instant) != self.shown_path;
                if news {
                    self.look_soon(cx);
                }
            }
            Reaction::Paired => self.check(&offer, cx),
            Reaction::Restarted => {
                negotiation.retire(cx);
                if !self.is_quiet() {
                    self.restarted(Reason::PeerRestarted, cx);
                }
                self.check(&offer, cx);
            }
            Reaction::Unpaired => {
                negotiation.retire(cx);
                if !self.is_quiet() {
                    self.wait(Reason::PeerRestarted, cx);
                }
            }
            Reaction::Renewed { paired } => {
                negotiation.retire(cx);
                self.restarted(Reason::PeerRestarted, cx);
                if paired {
                    self.check(&offer, cx);
                } else if !self.is_quiet() {
                    self.wait(Reason::NoOffer, cx);
                }
            }
        }
        Ok(())
    }

    /// Starts a new session beside the path that is in use.
    pub(super) fn restart(&mut self, reason: Reason, cx: &mut Context<'_>) {
        let Some(negotiation) = &mut self.negotiation else {
            return;
        };
        negotiation.session.restart(cx.now.unix, cx.random);
        negotiation.retire(cx);
        self.restarted(reason, cx);
        self.wait(reason, cx);
    }

    fn restarted(&mut self, reason: Reason, cx: &mut Context<'_>) {
        self.restarts += 1;
        *cx.restarts.entry(reason).or_default() += 1;
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
        self.end_hold(cx);
        self.close_route(cx);
        self.confirm(cx);
        // Nobody asks where there is no relay; when one comes, the candidates change.
        if self.negotiation.is_none() || cx.locals.iter().any(|it| it.kind == Kind::Relay) {
            let reach = self.negotiation.as_ref().map(|it| it.addresses());
            self.moves(reach.unwrap_or_default());
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
                        recipient: Recipient::of(&self.id.key),
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
            negotiation.hold,
            negotiation.direct_at,
            negotiation.streams_due(),
            negotiation.carrier.as_ref().and_then(|it| it.left),
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
                .is_some_and(|negotiation| negotiation.path.is_unsettled())
    }

    /// Tells whether the peer may yet be told of our server-reflexive addresses.
    pub(super) fn needs_candidates(&self) -> bool {
        self.state != State::Connected && self.negotiation.is_some() || self.is_quiet()
    }

    /// Tells whether a relay of the session before carries packets while a new one looks for a direct path.
    fn is_quiet(&self) -> bool {
        let negotiation = self.negotiation.as_ref();
        self.state == State::Connected && negotiation.is_some_and(|it| it.is_relayed_before())
    }

    /// Tells whether the peer is negotiated with.
    pub(super) const fn negotiates(&self) -> bool {
        self.negotiation.is_some()
    }

    /// Tells whether the path is watched closely: WireGuard moves more than keepalives, or the machine has just slept.
    pub(super) const fn is_busy(&self) -> bool {
        self.traffic.is_busy() || self.vigil.is_some()
    }

    /// Tells whether WireGuard moved no data of it for so long that none is expected in the next seconds.
    pub(super) const fn is_resting(&self) -> bool {
        self.traffic.is_resting() && self.vigil.is_none()
    }

    /// Where the peer may be.
    pub(super) const fn reach(&self) -> &BTreeSet<IpAddr> {
        &self.reach
    }

    /// Where it could be before, if that is something else.
    pub(super) fn take_moved(&mut self) -> Option<BTreeSet<IpAddr>> {
        self.moved_from.take()
    }

    fn moves(&mut self, reach: BTreeSet<IpAddr>) {
        if reach != self.reach {
            let old = std::mem::replace(&mut self.reach, reach);
            self.moved_from.get_or_insert(old);
        }
    }

    fn wait(&mut self, reason: Reason, cx: &Context<'_>) {
        let reason = match reason {
            Reason::NoOffer if !cx.backend_up => Reason::NoBackend,
            other => other,
        };
        self.enter(State::Waiting, reason, cx);
    }
}

/// The addresses of the candidates that are no relay's, without ports: a NAT may change those with each session.
fn direct(candidates: &[Candidate]) -> BTreeSet<IpAddr> {
    let direct = candidates.iter().filter(|it| it.kind != Kind::Relay);
    direct.map(|it| it.address).collect()
}

/// An address that WireGuard routes to the peer; of a default route, one that is reserved for examples (RFC 5737).
fn tunnel_address(peer: &device::Peer) -> Option<IpAddr> {
    let routed = peer
        .allowed_ips
        .iter()
        .max_by_key(|allowed| (allowed.prefix, allowed.address.is_ipv4()))?;
    let example: IpAddr = match routed.address {
        IpAddr::V4(_) => std::net::Ipv4Addr::new(192, 0, 2, 1).into(),
        IpAddr::V6(_) => std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
    };
    Some(if routed.prefix == 0 {
        example
    } else {
        routed.address
    })
}
