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
use crate::offer::Offer;
use crate::relay::RelayOrder;
use crate::settings::Policy;
use crate::status::{PathKind, Reason, State};
use crate::tcp::TcpOrder;

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
        let quiet = self.is_quiet();
        self.stream_timers(cx);
        let Some(negotiation) = &mut self.negotiation else {
            return;
        };
        for ice in negotiation.checks() {
            if ice.poll_timeout().is_none_or(|at| at <= now) {
                ice.handle_timeout(now);
            }
        }
        if negotiation.give_up.is_some_and(|at| at <= now) {
            if quiet {
                negotiation.give_up = None;
                let delay = negotiation.retry.next_delay(cx.random);
                negotiation.retry_at = Some(now + delay);
            } else {
                self.fail(cx);
            }
        } else if negotiation.retry_at.is_some_and(|at| at <= now) {
            if quiet {
                self.look_for_direct(cx);
            } else {
                self.restart(Reason::NoPairWorks, cx);
            }
        } else if negotiation.direct_at.is_some_and(|at| at <= now) {
            self.look_for_direct(cx);
        }
    }

    pub(super) fn react(&mut self, event: IceEvent, present: bool, cx: &mut Context<'_>) {
        let Some(negotiation) = &mut self.negotiation else {
            return;
        };
        match event {
            IceEvent::Transmit {
                source,
                relayed,
                destination,
                payload,
            } => {
                cx.routes.sent(&payload, self.id, cx.now.instant);
                cx.outputs.push_back(if relayed {
                    Output::Relay(RelayOrder::Transmit {
                        interface: self.id.interface,
                        relayed: source,
                        destination,
                        payload,
                    })
                } else {
                    Output::Transmit(Transmit {
                        source,
                        destination,
                        fwmark: cx.fwmark,
                        payload,
                    })
                });
            }
            IceEvent::Stream { stream, payload } => {
                cx.routes.sent(&payload, self.id, cx.now.instant);
                cx.outputs
                    .push_back(Output::Tcp(TcpOrder::Transmit { stream, payload }));
            }
            IceEvent::Selected(pair) => self.nominated(&pair, present, cx),
            IceEvent::Withdrawn if present && negotiation.carrier.is_none() => {
                negotiation.way = PathKind::None;
                info!(interface = cx.interface, peer = %self.id.key, name = cx.name,
                    "the TCP stream has ended; negotiates anew");
                self.restart(Reason::ConsentLost, cx);
            }
            IceEvent::Withdrawn if present => {
                info!(interface = cx.interface, peer = %self.id.key, name = cx.name,
                    "the relay is gone; looks for another path");
                self.lose_relay(cx);
            }
            IceEvent::Disconnected | IceEvent::Withdrawn if !present => {
                let relayed = self.is_quiet();
                if let Some(negotiation) = &mut self.negotiation {
                    negotiation.drop_carrying(cx);
                    let replaced = negotiation.selected().is_some();
                    if relayed && !replaced {
                        self.lose_relay(cx);
                    }
                }
            }
            IceEvent::Disconnected if negotiation.was_selected() => {
                negotiation.way = PathKind::None;
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
            IceEvent::Disconnected | IceEvent::Withdrawn => {}
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
            && negotiation.is_followed(&pair)
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
        ice.set_locals(cx.locals, cx.now.instant);
        ice.set_remote(&offer.credentials);
        let direct_only = cx.policy == Policy::Direct;
        ice.set_remotes(&offer.candidates, direct_only, cx.now.instant);
        ice.handle_timeout(cx.now.instant);
        negotiation.ice = Some(ice);
        negotiation.remotes = offer.candidates.clone();
        negotiation.retry_at = None;
        negotiation.give_up = Some(cx.now.instant + GIVE_UP);
        self.begin_streams(cx);
        if self.is_quiet() {
            return;
        }
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
