//! Pairs over TCP (RFC 6544): the library checks them like any other, once there is a stream.
//!
//! A stream that we connected is a local candidate of its own, paired with the peer's passive one. To the side that took the
//! connection, the listener is the local candidate, and the peer's end a peer-reflexive one.

use std::net::SocketAddr;
use std::time::Instant;

use is::Protocol;
use is::stun::StunMessage;

use super::{Ice, Means};
use crate::candidate::{Candidate, Kind};
use crate::tcp::Stream;

/// Streams of one session: a session connects a few times, and the peer's as often.
const MAX_STREAMS: usize = 16;

impl Ice {
    /// Checks this stream, too, which was connected to `candidate` of the peer's; false when it cannot be told from UDP, or when
    /// there are enough.
    pub fn add_stream(&mut self, stream: Stream, candidate: &Candidate) -> bool {
        if self.streams.contains_key(&stream) {
            return true;
        }
        if !self.admits(stream) {
            return false;
        }
        if !self.passive.contains(&stream.remote) {
            // The library would take it for the real one of what it learned by a check over UDP.
            let early = (self.agent.remote_candidates()).any(|it| {
                it.kind() == is::CandidateKind::PeerReflexive && it.addr() == stream.remote
            });
            if early {
                return false;
            }
            self.passive.insert(stream.remote);
            self.agent.add_remote_candidate(is::Candidate::from_parts(
                candidate.foundation.clone(),
                candidate.component,
                Protocol::Tcp,
                candidate.priority,
                stream.remote,
                is::CandidateKind::Host,
                None,
                None,
                None,
            ));
        }
        self.streams.insert(stream, Some(candidate.kind));
        self.add_local_end(stream);
        true
    }

    /// Takes a STUN message from a stream, which is checked from then on if the message verifies. False when it is not for this
    /// session.
    pub fn handle_stream(&mut self, stream: Stream, payload: &[u8], now: Instant) -> bool {
        let Ok(message) = StunMessage::parse(payload) else {
            return false;
        };
        if !self.streams.contains_key(&stream) {
            if !message.is_binding_request()
                || !self.agent.accepts_message(&message)
                || !self.admits(stream)
            {
                return false;
            }
            self.streams.insert(stream, None);
            self.add_local_end(stream);
        }
        self.take(Protocol::Tcp, stream.remote, stream.local, payload, now)
    }

    /// The stream has ended: another pair takes over, or nothing carries packets. False when it was none of this session's.
    pub fn remove_stream(&mut self, stream: Stream, now: Instant) -> bool {
        let Some(candidate) = self.streams.remove(&stream) else {
            return false;
        };
        if candidate.is_some() {
            if let Some(local) = local_end(stream) {
                self.agent.invalidate_candidate(&local);
            }
        } else {
            self.invalidate_remote_end(stream);
        }
        self.heard.remove(&(stream.local, stream.remote));
        if self.selected == Some((stream.local, stream.remote)) {
            self.withdraw(now);
        }
        true
    }

    /// The streams of this session.
    pub fn streams(&self) -> impl Iterator<Item = Stream> {
        self.streams.keys().copied()
    }

    /// Tells whether a stream could be of use: UDP does not lead to the peer.
    pub fn wants_streams(&self) -> bool {
        self.selected_pair()
            .is_none_or(|pair| pair.means() < Means::Udp)
    }

    /// Lets the pair of a stream prove itself anew.
    pub(super) fn renew_stream(&mut self, stream: Stream) {
        if self.streams.get(&stream).is_some_and(Option::is_some) {
            if let Some(local) = local_end(stream) {
                self.agent.invalidate_candidate(&local);
            }
            self.add_local_end(stream);
        } else {
            for remote in self.invalidate_remote_end(stream) {
                self.agent
                    .add_remote_candidate(super::consent::peer_reflexive(&remote));
            }
        }
    }

    /// The stream that connects these two ends, if it is none of UDP.
    pub(super) fn stream(&self, (local, remote): (SocketAddr, SocketAddr)) -> Option<Stream> {
        let stream = Stream { local, remote };
        self.streams.contains_key(&stream).then_some(stream)
    }

    /// What the peer calls its end.
    pub(super) fn remote_kind(&self, stream: Stream) -> Kind {
        let candidate = self.streams.get(&stream).copied().flatten();
        candidate.unwrap_or(Kind::Prflx)
    }

    fn admits(&self, stream: Stream) -> bool {
        let is_udp = self.remotes.contains_key(&stream.remote)
            && self.locals.iter().any(|local| local.base == stream.local);
        !is_udp && self.streams.len() < MAX_STREAMS
    }

    fn add_local_end(&mut self, stream: Stream) {
        let present = (self.agent.local_candidates())
            .any(|it| it.proto() == Protocol::Tcp && it.addr() == stream.local);
        if !present && let Some(local) = local_end(stream) {
            self.agent.add_local_candidate(local);
        }
    }

    fn invalidate_remote_end(&mut self, stream: Stream) -> Vec<is::Candidate> {
        let ends: Vec<_> = (self.agent.remote_candidates())
            .filter(|it| it.proto() == Protocol::Tcp && it.addr() == stream.remote)
            .collect();
        for end in &ends {
            self.agent.invalidate_candidate(end);
        }
        ends
    }
}

fn local_end(stream: Stream) -> Option<is::Candidate> {
    is::Candidate::host(stream.local, Protocol::Tcp).ok()
}
