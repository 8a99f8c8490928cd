//! What a TURN server answers, and what follows from it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use stun_types::attribute::{AlternateServer, ErrorCode};
use stun_types::message::{Message, MessageClass};
use turn_types::attribute::{Data, Lifetime, XorPeerAddress, XorRelayedAddress};

use super::failure::{Failure, Refusal};
use super::request::{Request, Transaction};
use super::{AGAIN, Client, Event, LIFETIME, REFRESH, State, TRIES};

impl Client {
    /// Takes what a peer sent outside of a channel.
    pub(super) fn data(&mut self, message: &Message<'_>) {
        let (Ok(peer), Ok(data)) = (
            message.attribute::<XorPeerAddress>(),
            message.attribute::<Data<'_>>(),
        ) else {
            return;
        };
        let peer = peer.addr(message.transaction_id());
        // A permission that is not wanted any more lives on for minutes on the server.
        if self.permissions.is_granted(peer.ip()) {
            self.events.push_back(Event::Data {
                peer,
                payload: data.data().to_vec(),
            });
        }
    }

    /// Takes an answer to a request of ours.
    pub(super) fn response(&mut self, message: &Message<'_>, now: Instant) {
        let id = message.transaction_id().into();
        let success = message.has_class(MessageClass::Success);
        // A refusal need not be signed: a server that does not know us cannot. What a success says, it must.
        if success && !self.auth.verifies(message) {
            return;
        }
        let Some(Transaction { request, tries, .. }) = self.transactions.remove(&id) else {
            return;
        };
        if success {
            self.success(request, message, now);
            return;
        }
        let refusal = (message.attribute::<ErrorCode>())
            .map_or_else(|_| Refusal::unexplained(), |code| Refusal::new(&code));
        let challenged = matches!(
            refusal.code,
            ErrorCode::UNAUTHORIZED | ErrorCode::STALE_NONCE
        );
        if challenged && tries < TRIES && self.auth.challenge(message, refusal.code) {
            self.request(request, tries + 1, now);
        } else {
            self.refused(request, tries, refusal, message, now);
        }
    }

    fn success(&mut self, request: Request, message: &Message<'_>, now: Instant) {
        match request {
            Request::Allocate(_) => self.allocated(message, now),
            Request::Refresh => {
                let lifetime = lifetime(message);
                if let State::Allocated {
                    refresh,
                    refreshing,
                    expires,
                    ..
                } = &mut self.state
                {
                    *refreshing = false;
                    *refresh = now + REFRESH.min(lifetime / 2);
                    *expires = now + lifetime;
                }
            }
            Request::Permit(peers) => {
                self.permissions.granted(&peers, now);
                for (peer, payload) in std::mem::take(&mut self.held) {
                    self.send(peer, &payload);
                }
            }
            Request::Bind { peer, number } => {
                let known = self.channels.number(peer).is_some();
                if self.channels.bound(peer, now) && !known {
                    self.events.push_back(Event::Bound { peer, number });
                }
            }
            Request::Release => {}
        }
    }

    fn allocated(&mut self, message: &Message<'_>, now: Instant) {
        let mut relayed: Vec<SocketAddr> = (0..)
            .map_while(|n| message.nth_attribute::<XorRelayedAddress>(n).ok())
            .map(|relayed| relayed.addr(message.transaction_id()))
            // What coturn says of a family that it does not have.
            .filter(|relayed| !relayed.ip().is_unspecified() && relayed.port() != 0)
            .collect();
        relayed.sort_unstable();
        relayed.dedup_by_key(|address| address.is_ipv4());
        if relayed.is_empty() {
            return self.fail(Failure::Refused(Refusal::unexplained()));
        }
        let lifetime = lifetime(message);
        self.state = State::Allocated {
            relayed: relayed.clone(),
            refresh: now + REFRESH.min(lifetime / 2),
            refreshing: false,
            expires: now + lifetime,
        };
        self.events.push_back(Event::Allocated(relayed));
        self.ask(now);
    }

    fn refused(
        &mut self,
        request: Request,
        tries: u8,
        refusal: Refusal,
        message: &Message<'_>,
        now: Instant,
    ) {
        if refusal.code == ErrorCode::ALLOCATION_MISMATCH {
            return self.fail(Failure::Gone);
        }
        match request {
            Request::Allocate(families) => {
                if refusal.code == ErrorCode::TRY_ALTERNATE
                    && let Ok(alternate) = message.attribute::<AlternateServer>()
                {
                    return self.fail(Failure::Alternate(alternate.server()));
                }
                let next = families.fewer().filter(|_| refusal.is_of_families());
                match next.filter(|_| tries < TRIES) {
                    Some(families) => self.request(Request::Allocate(families), tries + 1, now),
                    None => self.fail(Failure::Refused(refusal)),
                }
            }
            Request::Refresh => {
                if let State::Allocated {
                    refresh,
                    refreshing,
                    ..
                } = &mut self.state
                {
                    *refreshing = false;
                    *refresh = now + AGAIN;
                }
                self.events.push_back(Event::NotProlonged(refusal));
            }
            // One address that the server does not relay to fails them all.
            Request::Permit(peers) if peers.len() > 1 => {
                for peer in peers {
                    self.request(Request::Permit(vec![peer]), 0, now);
                }
            }
            Request::Permit(peers) => {
                for peer in peers {
                    self.permissions.refused(peer);
                    let refusal = refusal.clone();
                    self.events.push_back(Event::NotPermitted { peer, refusal });
                }
            }
            Request::Bind { peer, number } => {
                if self.channels.refused(peer, now) {
                    self.events.push_back(Event::Unbound { peer, number });
                }
            }
            Request::Release => {}
        }
    }
}

fn lifetime(message: &Message<'_>) -> Duration {
    message
        .attribute::<Lifetime>()
        .map_or(LIFETIME, |lifetime| {
            Duration::from_secs(lifetime.seconds().into())
        })
}
