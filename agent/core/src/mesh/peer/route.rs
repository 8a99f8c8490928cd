//! How a peer's packets get onto the selected pair and from one pair to the next: by the kernel alone, or by a route outside
//! of it.
//!
//! A route is opened before the kernel is pointed at it, and closed some time after it was pointed elsewhere.

use std::net::SocketAddr;

use rand::RngExt;
use tracing::{info, warn};

use super::Peer;
use super::streams::{TIDY, loopback};
use crate::candidate::Kind;
use crate::ice::{Ice, Means, SelectedPair};
use crate::io::Output;
use crate::mesh::context::Context;
use crate::mesh::negotiation::{Carrier, HOLD, LINGER};
use crate::offer::Role;
use crate::path::Verdict;
use crate::relay::RelayOrder;
use crate::settings::Policy;
use crate::status::{PathKind, Reason, State};

impl Peer {
    /// A pair of the present checks or of those before was nominated.
    pub(super) fn nominated(&mut self, pair: &SelectedPair, present: bool, cx: &mut Context<'_>) {
        let now = cx.now.instant;
        let Some(negotiation) = &mut self.negotiation else {
            return;
        };
        if present {
            negotiation.give_up = None;
            negotiation.retry_at = None;
            if !pair.needs_route() {
                negotiation.retry.reset();
            }
            negotiation.tidy_at = Some(now + TIDY);
            if pair.means() == Means::Udp {
                negotiation.attempts.stop();
            }
            if negotiation.is_better_before(pair, now) {
                negotiation.hold.get_or_insert(now + HOLD);
                return;
            }
            negotiation.hold = None;
            negotiation.drop_carrying(cx);
        } else if negotiation.hold.is_none()
            && (negotiation.ice.as_ref()).is_some_and(|ice| ice.selected_pair().is_some())
        {
            return;
        }
        self.follow(pair, cx);
    }

    /// Follows the present checks' relay where nothing direct came in time, or what they replace is gone.
    pub(super) fn end_hold(&mut self, cx: &mut Context<'_>) {
        let Some(negotiation) = &mut self.negotiation else {
            return;
        };
        let over = negotiation.hold.is_some_and(|at| at <= cx.now.instant);
        if !over && (negotiation.hold.is_none() || negotiation.carrying.is_some()) {
            return;
        }
        negotiation.hold = None;
        let pair = negotiation.ice.as_ref().and_then(Ice::selected_pair);
        if let Some(pair) = pair {
            negotiation.drop_carrying(cx);
            self.follow(&pair, cx);
        }
    }

    /// Sends packets by this pair from now on.
    fn follow(&mut self, pair: &SelectedPair, cx: &mut Context<'_>) {
        let now = cx.now.instant;
        let id = self.id;
        let Some(negotiation) = &mut self.negotiation else {
            return;
        };
        let before = std::mem::replace(&mut negotiation.way, pair.path());
        let former = negotiation.path.wanted();
        // A new session that goes by the same relay as the one before disturbs nothing.
        let moves = (before, pair.path()) != (PathKind::Relay, PathKind::Relay);
        self.dirty |= moves || self.kernel.endpoint.is_none();
        if let Some(stream) = pair.stream {
            self.follow_stream(stream, cx);
        } else if let Some(route) = pair.route {
            let carrier =
                (negotiation.carrier.as_ref()).filter(|it| it.route == route && it.left.is_none());
            match carrier.map(|it| it.endpoint) {
                Some(Some(endpoint)) => self.aim(endpoint, None, moves, cx),
                Some(None) => {}
                None => {
                    negotiation.carrier = Some(Carrier {
                        route,
                        endpoint: None,
                        left: None,
                    });
                    cx.outputs.push_back(Output::Relay(RelayOrder::Open {
                        interface: id.interface,
                        peer: id.key,
                        route,
                        port: cx.listen_port,
                    }));
                }
            }
        } else {
            if let Some(carrier) = negotiation.carrier.as_mut().filter(|it| it.left.is_none()) {
                carrier.left = Some(now + LINGER);
                cx.outputs.push_back(Output::Relay(RelayOrder::HandOver {
                    interface: id.interface,
                    peer: id.key,
                    endpoint: pair.remote.address,
                    base: pair.base,
                }));
            }
            self.leave_streams(None, pair.remote.address, pair.base, cx);
            self.aim(pair.remote.address, Some(pair.base), moves, cx);
        }
        self.moved(before, former, pair, cx);
    }

    /// Tells of a change between relayed and direct, and plans the next one.
    fn moved(
        &mut self,
        before: PathKind,
        former: Option<SocketAddr>,
        pair: &SelectedPair,
        cx: &mut Context<'_>,
    ) {
        let now = cx.now.instant;
        let (interface, peer, name) = (cx.interface, self.id.key, cx.name);
        let Some(negotiation) = &mut self.negotiation else {
            return;
        };
        let connected = self.state == State::Connected;
        match (before, pair.path()) {
            (PathKind::Relay, PathKind::Direct) => {
                if let Some(former) = former {
                    negotiation.path.hand_over(former, now);
                }
                if connected {
                    info!(%interface, %peer, name, "found a direct path: {} to {}",
                        pair.local.address, pair.remote.address);
                    self.enter(State::Connected, Reason::PairNominated, cx);
                }
            }
            (PathKind::Direct, PathKind::Relay) if connected => {
                info!(%interface, %peer, name,
                    "the direct path stopped answering; goes by the relay: {} {} to {} {}",
                    pair.local.kind.as_str(), pair.local.address,
                    pair.remote.kind.as_str(), pair.remote.address);
                self.enter(State::Connected, Reason::DirectPathLost, cx);
            }
            _ => {}
        }
        self.plan(pair, cx);
    }

    /// Plans the next attempt to leave a relay; the controlling side makes it.
    fn plan(&mut self, pair: &SelectedPair, cx: &mut Context<'_>) {
        let Some(negotiation) = &mut self.negotiation else {
            return;
        };
        if pair.path() != PathKind::Relay && pair.stream.is_none() {
            negotiation.direct_at = None;
            negotiation.direct.reset();
            return;
        }
        let possible = cx.policy == Policy::All
            && negotiation.session.role() == Role::Controlling
            && negotiation.remotes.iter().any(|it| it.kind != Kind::Relay);
        if possible && negotiation.direct_at.is_none() {
            let delay = negotiation.direct.next_delay(cx.random);
            negotiation.direct_at = Some(cx.now.instant + delay);
        }
    }

    /// Wishes for an endpoint, and for a sign of life if packets move to another way.
    pub(super) fn aim(
        &mut self,
        endpoint: SocketAddr,
        base: Option<SocketAddr>,
        moves: bool,
        cx: &mut Context<'_>,
    ) {
        let now = cx.now.instant;
        let Some(negotiation) = &mut self.negotiation else {
            return;
        };
        let path = &mut negotiation.path;
        let moved = base.is_some_and(|base| path.leaves_from(base.ip()));
        let present = [path.wanted(), self.kernel.endpoint];
        if !moves && !moved && present == [Some(endpoint); 2] {
            return;
        }
        let controlling = negotiation.session.role() == Role::Controlling;
        match path.want(endpoint, &self.kernel, controlling, now) {
            Verdict::Set(endpoint) => self.set_endpoint(endpoint, cx),
            Verdict::Leave if moved && self.kernel.endpoint == Some(endpoint) => {
                self.set_endpoint(endpoint, cx);
            }
            Verdict::Leave => {}
        }
    }

    /// The route is open, or cannot be.
    pub(in crate::mesh) fn routed(&mut self, endpoint: Option<SocketAddr>, cx: &mut Context<'_>) {
        let Some(negotiation) = &mut self.negotiation else {
            return;
        };
        let Some(carrier) = &mut negotiation.carrier else {
            return;
        };
        let in_use = carrier.left.is_none();
        carrier.endpoint = endpoint;
        match endpoint {
            Some(endpoint) if in_use => {
                negotiation.retry.reset();
                let base = loopback(endpoint, cx.listen_port);
                self.leave_streams(None, endpoint, base, cx);
                self.aim(endpoint, None, true, cx);
            }
            Some(_) => {}
            None => {
                negotiation.carrier = None;
                if in_use {
                    warn!(interface = cx.interface, peer = %self.id.key, name = cx.name,
                        "the relay cannot carry this peer's packets; tries again");
                    self.lose_relay(cx);
                    self.fail(cx);
                }
            }
        }
    }

    /// Nothing carries packets until other checks succeed.
    pub(super) fn lose_relay(&mut self, cx: &mut Context<'_>) {
        if let Some(negotiation) = &mut self.negotiation {
            negotiation.way = PathKind::None;
            negotiation.give_up = Some(cx.now.instant + crate::mesh::negotiation::GIVE_UP);
            self.enter(State::Checking, Reason::RelayLost, cx);
        }
    }

    /// Gives up for a while.
    pub(super) fn fail(&mut self, cx: &mut Context<'_>) {
        if let Some(negotiation) = &mut self.negotiation {
            negotiation.give_up = None;
            let delay = negotiation.retry.next_delay(cx.random);
            negotiation.retry_at = Some(cx.now.instant + delay);
            self.enter(State::Failed, Reason::NoPairWorks, cx);
        }
    }

    /// Closes the route when nothing comes late any more, or when its relay is gone.
    pub(super) fn close_route(&mut self, cx: &mut Context<'_>) {
        let Some(negotiation) = &mut self.negotiation else {
            return;
        };
        let over = |carrier: &Carrier| {
            let present = (cx.locals.iter())
                .any(|it| it.kind == Kind::Relay && it.base == carrier.route.relayed);
            !present || carrier.left.is_some_and(|at| at <= cx.now.instant)
        };
        if negotiation.carrier.take_if(|it| over(it)).is_some() {
            self.send_close(cx);
        }
    }

    pub(super) fn send_close(&self, cx: &mut Context<'_>) {
        cx.outputs.push_back(Output::Relay(RelayOrder::Close {
            interface: self.id.interface,
            peer: self.id.key,
        }));
    }

    /// Starts a new session that looks for a direct path, while the relay goes on carrying. Users see nothing of it.
    pub(super) fn look_for_direct(&mut self, cx: &mut Context<'_>) {
        if let Some(negotiation) = &mut self.negotiation {
            negotiation.direct_at = None;
            negotiation.session.restart(cx.now.unix, cx.random);
            negotiation.retire(cx);
        }
    }

    /// Something about the addresses changed: a direct path may be possible now.
    pub(super) fn look_soon(&mut self, cx: &mut Context<'_>) {
        let Some(negotiation) = &mut self.negotiation else {
            return;
        };
        if negotiation.direct_at.is_some() {
            negotiation.direct.reset();
            let jitter = cx.random.random_range(1.0..=1.5);
            negotiation.direct_at = Some(cx.now.instant + LOOK_SOON.mul_f64(jitter));
        }
    }
}

/// The checks of the present session try what is new; this long after, another one tries what had failed before.
const LOOK_SOON: std::time::Duration = std::time::Duration::from_secs(2);
