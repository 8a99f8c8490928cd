//! Why a pair of addresses failed, as far as its counts and its addresses tell.

use std::net::IpAddr;

use wice_bus::{Pair, PairState};

/// What became of the checks of a pair that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// The peer's checks arrive, ours are not answered.
    NotAnswered,
    /// Nothing came from an address that means something in its own network only.
    PrivateAddress,
    /// Nothing came.
    NothingCame,
}

/// The cause; `None` for a pair that did not fail.
pub(super) fn cause(pair: &Pair) -> Option<Cause> {
    if pair.state != PairState::Failed {
        return None;
    }
    Some(if pair.received > 0 {
        Cause::NotAnswered
    } else if pair.remote.kind == "host" && pair.remote.address.parse().is_ok_and(is_private) {
        Cause::PrivateAddress
    } else {
        Cause::NothingCame
    })
}

impl Cause {
    /// The word in JSON.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::NotAnswered => "not-answered",
            Self::PrivateAddress => "private-address",
            Self::NothingCame => "nothing-came",
        }
    }

    /// Half a sentence.
    pub(super) const fn sentence(self) -> &'static str {
        match self {
            Self::NotAnswered => "the peer's checks arrive, but none of ours is answered",
            Self::PrivateAddress => {
                "nothing came back; a private address leads nowhere outside its own network"
            }
            Self::NothingCame => "nothing came back",
        }
    }
}

/// RFC 1918, RFC 6598, RFC 4193 and link-local addresses.
fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let [first, second, ..] = address.octets();
            address.is_private() || address.is_link_local() || (first, second & 0xc0) == (100, 64)
        }
        IpAddr::V6(address) => address.is_unique_local() || address.is_unicast_link_local(),
    }
}
