//! TCP beside the WireGuard ports of all interfaces: which addresses are reserved and open, and whose a stream is.
//!
//! Which streams a peer has, and what for, is decided by the peer.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::Mesh;
use super::routes::PeerId;
use crate::candidate::Kind;
use crate::io::{Now, Output};
use crate::settings::Policy;
use crate::tcp::{Stream, TcpInput, TcpOrder};

/// What one interface has ordered, and what came of it.
#[derive(Debug, Default)]
pub(super) struct Doors {
    ordered: Option<Door>,
    /// Addresses that can be offered.
    pub(super) reserved: BTreeSet<SocketAddr>,
    /// Peers that may have use for a stream.
    pub(super) wanting: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Door {
    addresses: BTreeSet<SocketAddr>,
    open: bool,
    fwmark: u32,
}

impl Mesh {
    /// Reserves the interface's addresses, and opens them while a peer that is there has no path over UDP.
    pub(super) fn converge_doors(&mut self, index: u32) {
        let settings = &self.settings;
        let Some(interface) = self.interfaces.get_mut(&index) else {
            return;
        };
        let wanted = interface.is_active()
            && settings.candidates.tcp
            && settings.policy != Policy::Relay
            && interface.peers.values().any(|peer| peer.negotiates());
        let addresses: BTreeSet<SocketAddr> = (interface.locals.iter())
            .filter(|local| wanted && local.kind == Kind::Host)
            .map(|local| local.base)
            .collect();
        let door = (!addresses.is_empty()).then_some(Door {
            addresses,
            open: interface.doors.wanting > 0,
            fwmark: interface.fwmark,
        });
        if interface.doors.ordered == door {
            return;
        }
        interface.doors.ordered.clone_from(&door);
        let door = door.unwrap_or(Door {
            addresses: BTreeSet::new(),
            open: false,
            fwmark: 0,
        });
        (interface.doors.reserved).retain(|address| door.addresses.contains(address));
        self.outputs.push_back(Output::Tcp(TcpOrder::Listen {
            interface: index,
            addresses: door.addresses,
            open: door.open,
            fwmark: door.fwmark,
        }));
    }

    /// Gives back what an interface that is gone had reserved.
    pub(super) fn close_doors(&mut self, index: u32) {
        let ordered = (self.interfaces.get_mut(&index)).and_then(|it| it.doors.ordered.take());
        if ordered.is_some() {
            self.outputs.push_back(Output::Tcp(TcpOrder::Listen {
                interface: index,
                addresses: BTreeSet::new(),
                open: false,
                fwmark: 0,
            }));
        }
    }

    pub(super) fn tcp(&mut self, input: TcpInput, now: Now) {
        match input {
            TcpInput::Reserved {
                interface: index,
                addresses,
            } => {
                let Some(interface) = self.interfaces.get_mut(&index) else {
                    return;
                };
                let ordered = interface.doors.ordered.as_ref();
                let addresses: BTreeSet<SocketAddr> = (addresses.into_iter())
                    .filter(|it| ordered.is_some_and(|door| door.addresses.contains(it)))
                    .collect();
                if interface.doors.reserved != addresses {
                    interface.doors.reserved = addresses;
                    // Until gathering is finished there is another offer to come, which takes it along.
                    if interface.gather.is_finished() {
                        self.gathered(index, now);
                    }
                }
            }
            TcpInput::Connected {
                interface,
                peer,
                stream,
            } => {
                let id = PeerId {
                    interface,
                    key: peer,
                };
                let known = self.with_peer(id, now, |peer, cx| peer.stream_connected(stream, cx));
                if known.is_none() {
                    self.outputs.push_back(Output::Tcp(TcpOrder::Close(stream)));
                }
            }
            // Others are tried, and the next session tries this one again.
            TcpInput::Unreachable { .. } => {}
            TcpInput::Packet { stream, payload } => {
                let owner = self.routes.owner(&stream);
                if let Some(id) = self.routes.addressee(&payload)
                    && owner.is_none_or(|owner| owner == id)
                {
                    self.with_peer(id, now, |peer, cx| peer.stream_packet(stream, &payload, cx));
                }
            }
            TcpInput::Carries { stream, endpoint } => {
                self.with_owner(stream, now, |peer, cx| {
                    peer.stream_carries(stream, endpoint, cx);
                });
            }
            TcpInput::Closed(stream) => {
                self.with_owner(stream, now, |peer, cx| peer.stream_closed(stream, cx));
            }
        }
    }

    fn with_owner(
        &mut self,
        stream: Stream,
        now: Now,
        act: impl FnOnce(&mut super::peer::Peer, &mut super::context::Context<'_>),
    ) {
        if let Some(id) = self.routes.owner(&stream) {
            self.with_peer(id, now, act);
        }
    }
}
