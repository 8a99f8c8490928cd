//! What a peer does with TCP streams: connects where UDP leads nowhere, lets one carry its packets, closes what it does not use.
//!
//! A stream that carries is left as a relay is: some time after the kernel was pointed elsewhere.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use tracing::debug;

use super::Peer;
use crate::candidate::Candidate;
use crate::ice::Ice;
use crate::io::Output;
use crate::mesh::context::Context;
use crate::mesh::negotiation::{LINGER, Negotiation};
use crate::relay::RelayOrder;
use crate::settings::Policy;
use crate::tcp::attempts::{Attempt, Attempts};
use crate::tcp::candidates::is_passive;
use crate::tcp::{Stream, TcpOrder};

/// A stream that carries the peer's packets, or did so until a moment ago.
#[derive(Debug)]
pub(in crate::mesh) struct Bearer {
    stream: Stream,
    /// Where WireGuard reaches it, once that is known.
    endpoint: Option<SocketAddr>,
    /// The kernel sends another way; until then late packets are delivered.
    left: Option<Instant>,
}

/// After a pair was selected, streams that do not carry are kept for this long: the other side may select one of them.
pub(super) const TIDY: Duration = Duration::from_secs(10);

impl Peer {
    /// Begins to try TCP beside UDP in a session that was just paired. A stream that carries packets already is checked first.
    pub(super) fn begin_streams(&mut self, cx: &mut Context<'_>) {
        let Some(negotiation) = &mut self.negotiation else {
            return;
        };
        negotiation.attempts = Attempts::default();
        if !cx.tcp || cx.policy == Policy::Relay {
            return;
        }
        negotiation.attempts.set(cx.locals, &negotiation.remotes);
        let bearing = (negotiation.bearers.iter()).filter(|it| it.left.is_none());
        for stream in bearing.map(|it| it.stream) {
            if let Some(ice) = &mut negotiation.ice
                && let Some(candidate) = passive(&negotiation.remotes, stream)
            {
                ice.add_stream(stream, candidate);
            }
        }
        (negotiation.attempts).begin(cx.udp_blocked, cx.now.instant);
    }

    /// Follows the candidates of both sides.
    pub(super) fn update_streams(&mut self, cx: &mut Context<'_>) {
        let Some(negotiation) = &mut self.negotiation else {
            return;
        };
        negotiation.attempts.set(cx.locals, &negotiation.remotes);
        if cx.udp_blocked && negotiation.ice.is_some() && cx.tcp {
            negotiation.attempts.hurry(cx.now.instant);
        }
        let gone = |stream: &Stream| !cx.locals.iter().any(|it| it.base.ip() == stream.local.ip());
        let lost: Vec<Stream> = (negotiation.checks())
            .flat_map(|ice| ice.streams().collect::<Vec<_>>())
            .filter(gone)
            .collect();
        for stream in lost {
            cx.outputs.push_back(Output::Tcp(TcpOrder::Close(stream)));
            self.stream_closed(stream, cx);
        }
    }

    /// Connects where that is due, closes what is not needed any more.
    pub(super) fn stream_timers(&mut self, cx: &mut Context<'_>) {
        let now = cx.now.instant;
        let id = self.id;
        let Some(negotiation) = &mut self.negotiation else {
            return;
        };
        while let Some(Attempt { base, remote }) = negotiation.attempts.take(now) {
            debug!(interface = cx.interface, peer = %id.key, %base, %remote, "tries TCP");
            cx.outputs.push_back(Output::Tcp(TcpOrder::Connect {
                interface: id.interface,
                peer: id.key,
                base,
                remote,
                fwmark: cx.fwmark,
            }));
        }
        if negotiation.tidy_at.is_some_and(|at| at <= now) {
            negotiation.tidy_at = None;
            let unused: Vec<Stream> = (negotiation.ice.iter())
                .flat_map(Ice::streams)
                .filter(|stream| !negotiation.bears(*stream))
                .collect();
            for stream in unused {
                negotiation.close_stream(stream, cx);
            }
        }
        let over = |it: &Bearer| it.left.is_some_and(|at| at <= now);
        let left: Vec<Stream> = (negotiation.bearers.iter())
            .filter(|it| over(it))
            .map(|it| it.stream)
            .collect();
        for stream in left {
            negotiation.close_stream(stream, cx);
        }
    }

    /// A connection that this peer ordered is there.
    pub(in crate::mesh) fn stream_connected(&mut self, stream: Stream, cx: &mut Context<'_>) {
        let taken = self.negotiation.as_mut().is_some_and(|negotiation| {
            let candidate = passive(&negotiation.remotes, stream).cloned();
            match (&mut negotiation.ice, candidate) {
                (Some(ice), Some(candidate)) if ice.wants_streams() => {
                    ice.add_stream(stream, &candidate)
                }
                _ => false,
            }
        });
        if taken {
            cx.routes.add_stream(stream, self.id);
        } else {
            cx.outputs.push_back(Output::Tcp(TcpOrder::Close(stream)));
        }
    }

    /// Takes STUN that is addressed to this peer's session from a stream.
    pub(in crate::mesh) fn stream_packet(
        &mut self,
        stream: Stream,
        payload: &[u8],
        cx: &mut Context<'_>,
    ) {
        let now = cx.now.instant;
        let Some(negotiation) = &mut self.negotiation else {
            return;
        };
        let verified = (negotiation.checks()).any(|ice| ice.handle_stream(stream, payload, now));
        if verified && cx.routes.add_stream(stream, self.id) {
            cx.outputs.push_back(Output::Tcp(TcpOrder::Keep(stream)));
        }
    }

    /// A stream has ended.
    pub(in crate::mesh) fn stream_closed(&mut self, stream: Stream, cx: &mut Context<'_>) {
        cx.routes.remove_stream(&stream);
        if let Some(negotiation) = &mut self.negotiation {
            negotiation.bearers.retain(|it| it.stream != stream);
            for ice in negotiation.checks() {
                ice.remove_stream(stream, cx.now.instant);
            }
        }
    }

    /// WireGuard reaches the stream now, or cannot.
    pub(in crate::mesh) fn stream_carries(
        &mut self,
        stream: Stream,
        endpoint: Option<SocketAddr>,
        cx: &mut Context<'_>,
    ) {
        let Some(negotiation) = &mut self.negotiation else {
            return;
        };
        let bearer = negotiation
            .bearers
            .iter_mut()
            .find(|it| it.stream == stream);
        let Some(bearer) = bearer else {
            return;
        };
        bearer.endpoint = endpoint;
        if bearer.left.is_some() {
            return;
        }
        match endpoint {
            Some(endpoint) => self.board(stream, endpoint, cx),
            None => {
                cx.outputs.push_back(Output::Tcp(TcpOrder::Close(stream)));
                self.stream_closed(stream, cx);
            }
        }
    }

    /// Lets a stream carry packets from now on.
    pub(super) fn follow_stream(&mut self, stream: Stream, cx: &mut Context<'_>) {
        let Some(negotiation) = &mut self.negotiation else {
            return;
        };
        let bearer = (negotiation.bearers.iter()).find(|it| it.stream == stream);
        match bearer.map(|it| (it.left, it.endpoint)) {
            Some((None, Some(endpoint))) => self.board(stream, endpoint, cx),
            Some((None, None)) => {}
            // What was handed over cannot carry again.
            Some((Some(_), _)) | None => {
                negotiation.bearers.retain(|it| it.stream != stream);
                negotiation.bearers.push(Bearer {
                    stream,
                    endpoint: None,
                    left: None,
                });
                cx.outputs.push_back(Output::Tcp(TcpOrder::Carry {
                    stream,
                    port: cx.listen_port,
                }));
            }
        }
    }

    /// Points WireGuard at a stream, and leaves whatever carried before.
    fn board(&mut self, stream: Stream, endpoint: SocketAddr, cx: &mut Context<'_>) {
        let base = loopback(endpoint, cx.listen_port);
        self.leave_streams(Some(stream), endpoint, base, cx);
        self.leave_relay(endpoint, base, cx);
        let Some(negotiation) = &mut self.negotiation else {
            return;
        };
        negotiation.retry.reset();
        let moves = negotiation.path.wanted() != Some(endpoint);
        self.aim(endpoint, None, moves, cx);
    }

    /// Leaves every stream but one: what comes late is delivered in the new endpoint's name.
    pub(super) fn leave_streams(
        &mut self,
        present: Option<Stream>,
        endpoint: SocketAddr,
        base: SocketAddr,
        cx: &mut Context<'_>,
    ) {
        let Some(negotiation) = &mut self.negotiation else {
            return;
        };
        let left = (negotiation.bearers.iter_mut())
            .filter(|it| Some(it.stream) != present && it.left.is_none());
        for bearer in left {
            bearer.left = Some(cx.now.instant + LINGER);
            cx.outputs.push_back(Output::Tcp(TcpOrder::HandOver {
                stream: bearer.stream,
                endpoint,
                base,
            }));
        }
    }

    /// Leaves the relay for something that carries as well.
    fn leave_relay(&mut self, endpoint: SocketAddr, base: SocketAddr, cx: &mut Context<'_>) {
        let id = self.id;
        let carrier = self.negotiation.as_mut().and_then(|it| it.carrier.as_mut());
        if let Some(carrier) = carrier.filter(|it| it.left.is_none()) {
            carrier.left = Some(cx.now.instant + LINGER);
            cx.outputs.push_back(Output::Relay(RelayOrder::HandOver {
                interface: id.interface,
                peer: id.key,
                endpoint,
                base,
            }));
        }
    }

    /// Closes every stream of a negotiation that is over.
    pub(super) fn drop_streams(&self, negotiation: &Negotiation, cx: &mut Context<'_>) {
        let checked = [&negotiation.ice, &negotiation.carrying];
        let checked = checked.into_iter().flatten().flat_map(Ice::streams);
        let borne = negotiation.bearers.iter().map(|it| it.stream);
        let streams: BTreeSet<Stream> = checked.chain(borne).collect();
        for stream in streams {
            cx.routes.remove_stream(&stream);
            cx.outputs.push_back(Output::Tcp(TcpOrder::Close(stream)));
        }
    }

    /// Tells whether the peer may have use for a stream: it is there, and UDP does not lead to it.
    pub(in crate::mesh) fn wants_streams(&self) -> bool {
        let ice = self.negotiation.as_ref().and_then(|it| it.ice.as_ref());
        ice.is_some_and(Ice::wants_streams)
    }
}

impl Negotiation {
    /// Tells whether a stream carries packets, or may have some late ones.
    pub(in crate::mesh) fn bears(&self, stream: Stream) -> bool {
        self.bearers.iter().any(|it| it.stream == stream)
    }

    /// Tells whether a stream carries packets and WireGuard can reach it.
    pub(in crate::mesh) fn is_boarded(&self, stream: Stream) -> bool {
        (self.bearers.iter())
            .any(|it| it.stream == stream && it.left.is_none() && it.endpoint.is_some())
    }

    /// When the next stream is to be closed or connected.
    pub(in crate::mesh) fn streams_due(&self) -> Option<Instant> {
        let left = self.bearers.iter().filter_map(|it| it.left);
        left.chain(self.tidy_at)
            .chain(self.attempts.poll_timeout())
            .min()
    }

    /// Closes a stream for good.
    pub(in crate::mesh) fn close_stream(&mut self, stream: Stream, cx: &mut Context<'_>) {
        self.bearers.retain(|it| it.stream != stream);
        for ice in self.checks() {
            ice.remove_stream(stream, cx.now.instant);
        }
        cx.routes.remove_stream(&stream);
        cx.outputs.push_back(Output::Tcp(TcpOrder::Close(stream)));
    }

    /// Closes what only these checks used, which are over.
    pub(in crate::mesh) fn release_streams(&self, ice: &Ice, cx: &mut Context<'_>) {
        for stream in ice.streams() {
            let used = self.bears(stream)
                || [&self.ice, &self.carrying]
                    .into_iter()
                    .flatten()
                    .any(|other| other.streams().any(|it| it == stream));
            if !used {
                cx.routes.remove_stream(&stream);
                cx.outputs.push_back(Output::Tcp(TcpOrder::Close(stream)));
            }
        }
    }
}

/// The candidate of the peer's that a stream was connected to.
fn passive(remotes: &[Candidate], stream: Stream) -> Option<&Candidate> {
    (remotes.iter()).find(|it| is_passive(it) && it.socket_addr() == stream.remote)
}

/// Where WireGuard takes what comes from a loopback address.
pub(super) fn loopback(endpoint: SocketAddr, port: u16) -> SocketAddr {
    let address: IpAddr = if endpoint.is_ipv4() {
        Ipv4Addr::LOCALHOST.into()
    } else {
        Ipv6Addr::LOCALHOST.into()
    };
    SocketAddr::new(address, port)
}
