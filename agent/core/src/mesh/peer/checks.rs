//! What a peer does about its connectivity checks: starts them, follows what they nominate, notices when they fail.
//!
//! Knows no offer's form and no backend.

use std::time::Instant;

use rand::RngExt;
use tracing::info;

use super::Peer;
use crate::ice::{Ice, IceEvent};
use crate::io::{Output, Packet, Transmit};
use crate::mesh::context::Context;
use crate::mesh::negotiation::GIVE_UP;
use crate::offer::{Offer, Role};
use crate::path::Verdict;
use crate::status::{Reason, State};

impl Peer {
    /// Takes a STUN packet that is addressed to this peer's session.
    pub(in crate::mesh) fn packet(&mut self, packet: &Packet, now: Instant) {
        if let Some(negotiation) = &mut self.negotiation {
            let _ = [&mut negotiation.ice, &mut negotiation.carrying]
                .into_iter()
                .flatten()
                .any(|ice| ice.handle_packet(packet, now));
        }
    }

    pub(super) fn timers(&mut self, cx: &mut Context<'_>) {
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

    pub(super) fn react(&mut self, event: IceEvent, present: bool, cx: &mut Context<'_>) {
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
                let moved = negotiation.path.leaves_from(pair.base.ip());
                let remote = Some(pair.remote.address);
                self.dirty = true;
                match verdict {
                    Verdict::Set(endpoint) => self.set_endpoint(endpoint, cx),
                    Verdict::Leave if moved && self.kernel.endpoint == remote => {
                        self.set_endpoint(pair.remote.address, cx);
                    }
                    Verdict::Leave => {}
                }
            }
            IceEvent::Disconnected if !present => negotiation.drop_carrying(cx),
            IceEvent::Disconnected if negotiation.was_selected() => {
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

    /// Calls the peer connected once packets travel the nominated way: the kernel has its endpoint.
    pub(super) fn confirm(&mut self, cx: &Context<'_>) {
        let Some(negotiation) = &self.negotiation else {
            return;
        };
        let pair = negotiation.ice.as_ref().and_then(Ice::selected_pair);
        if let Some(pair) = pair
            && self.state != State::Connected
            && negotiation.path.is_in_place(&self.kernel)
        {
            info!(interface = cx.interface, peer = %self.id.key, name = cx.name,
                "connected: {} {} to {} {}", pair.local.kind.as_str(), pair.local.address,
                pair.remote.kind.as_str(), pair.remote.address);
            self.enter(State::Connected, Reason::PairNominated, cx);
        }
    }

    /// Starts checks with the session that ours is paired with now.
    pub(super) fn check(&mut self, offer: &Offer, cx: &mut Context<'_>) {
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

    pub(super) fn set_endpoint(&mut self, endpoint: std::net::SocketAddr, cx: &mut Context<'_>) {
        cx.outputs.push_back(Output::SetEndpoint {
            interface: cx.interface.to_owned(),
            peer: self.id.key,
            endpoint,
        });
        // Whether it is there now, the kernel says.
        cx.outputs.push_back(Output::Dump {
            interface: cx.interface.to_owned(),
        });
    }
}
