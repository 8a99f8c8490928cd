//! The enumerations of the contract: stable numbers in steps of 10, and a word for each.

/// Declares an enumeration of `u32` numbers with a word each.
///
/// A number between two known ones belongs to a newer agent and reads as the lower one, of which it is a refinement.
macro_rules! numbers {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $number:literal, $word:literal;)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
        #[repr(u32)]
        pub enum $name {
            $($(#[$doc])* $variant = $number,)+
        }

        impl $name {
            /// Every value, in the order of the numbers.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The number on the bus.
            pub const fn number(self) -> u32 {
                self as u32
            }

            /// The lower-case word in JSON and on screen.
            pub const fn word(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }
        }

        impl From<u32> for $name {
            fn from(number: u32) -> Self {
                Self::ALL
                    .iter()
                    .copied()
                    .take_while(|known| known.number() <= number)
                    .last()
                    .unwrap_or_default()
            }
        }
    };
}

pub(crate) use numbers;

numbers! {
    /// What a peer's session is doing: the property `State`.
    State {
        /// Not known yet.
        #[default]
        Unknown = 0, "unknown";
        /// The configuration leaves this peer alone.
        Unmanaged = 10, "unmanaged";
        /// Waiting for the peer's offer.
        Waiting = 20, "waiting";
        /// Learning our own addresses.
        Gathering = 30, "gathering";
        /// Trying pairs of addresses.
        Checking = 40, "checking";
        /// A pair carries packets.
        Connected = 50, "connected";
        /// No pair works; the session keeps trying.
        Failed = 60, "failed";
    }
}

numbers! {
    /// Why a peer is in its state: the second half of the property `StateReason`.
    Reason {
        /// No particular one.
        #[default]
        None = 0, "none";
        /// The peer appeared in the interface.
        PeerAdded = 10, "peer-added";
        /// The configuration says so.
        Configuration = 20, "configuration";
        /// The interface has no private key.
        NoPrivateKey = 30, "no-private-key";
        /// The interface has no listen port.
        NoListenPort = 40, "no-listen-port";
        /// No backend is configured, or none answers.
        NoBackend = 50, "no-backend";
        /// The peer has left no offer that verifies.
        NoOffer = 60, "no-offer";
        /// The peer's offer arrived.
        OfferReceived = 70, "offer-received";
        /// A pair of candidates was nominated.
        PairNominated = 80, "pair-nominated";
        /// No pair answered.
        NoPairWorks = 90, "no-pair-works";
        /// The selected pair stopped answering.
        ConsentLost = 100, "consent-lost";
        /// Somebody asked for a restart.
        RestartRequested = 110, "restart-requested";
        /// The peer started a new session.
        PeerRestarted = 120, "peer-restarted";
        /// A key or the listen port changed.
        DeviceChanged = 130, "device-changed";
        /// WireGuard receives packets, though the pair stopped answering.
        KernelAlive = 140, "kernel-alive";
        /// The public key admits no key agreement.
        InvalidKey = 150, "invalid-key";
        /// The direct path stopped answering; packets go by a relay.
        DirectPathLost = 160, "direct-path-lost";
        /// The relay that carried packets is gone.
        RelayLost = 170, "relay-lost";
    }
}

numbers! {
    /// What a signalling backend is doing: the second field of the property `Backends`.
    BackendState {
        /// Not known yet.
        #[default]
        Unknown = 0, "unknown";
        /// Trying to reach it.
        Connecting = 10, "connecting";
        /// It answers.
        Up = 20, "up";
        /// It does not answer; the agent keeps trying.
        Down = 30, "down";
    }
}

numbers! {
    /// What a relay server is doing: the second field of the property `Relays`.
    RelayState {
        /// Not known yet.
        #[default]
        Unknown = 0, "unknown";
        /// It was asked for an allocation.
        Connecting = 10, "connecting";
        /// It works, and another one is used or nobody needs one.
        Standby = 40, "standby";
        /// It relays.
        Up = 50, "up";
        /// It gives no allocation; it is asked again.
        Down = 60, "down";
    }
}

numbers! {
    /// How far the checks of a pair are, in what `Explain` returns.
    PairState {
        /// Not known.
        #[default]
        Unknown = 0, "unknown";
        /// No check was sent yet.
        Waiting = 10, "waiting";
        /// Checks were sent, and answers may still come.
        Checking = 20, "checking";
        /// Checks were answered.
        Answered = 30, "answered";
        /// It carries packets.
        Selected = 40, "selected";
        /// Checks were sent, and no answer came.
        Failed = 50, "failed";
    }
}

numbers! {
    /// What stands in the way of a direct path, in what `Explain` returns.
    Finding {
        /// Not known.
        #[default]
        Unknown = 0, "unknown";
        /// The agent has no candidate at all.
        NoLocalCandidates = 10, "no-local-candidates";
        /// All its addresses are private, and no STUN server is configured.
        NoStunServer = 20, "no-stun-server";
        /// All its addresses are private: no STUN server answered.
        StunUnanswered = 30, "stun-unanswered";
        /// The peer's offer has no candidate.
        NoRemoteCandidates = 40, "no-remote-candidates";
        /// All of the peer's addresses are private.
        PeerOnlyPrivate = 50, "peer-only-private";
        /// One side has IPv4 only, the other IPv6 only.
        NoCommonFamily = 60, "no-common-family";
        /// Checks were sent, and nothing at all came from the peer.
        NothingArrives = 70, "nothing-arrives";
        /// The peer's checks arrive, but the agent's are not answered.
        Unanswered = 80, "unanswered";
        /// The agent's NAT has another port for each destination.
        MappingVaries = 90, "mapping-varies";
        /// The peer's NAT has another port for each destination.
        PeerMappingVaries = 100, "peer-mapping-varies";
        /// No STUN server answers over UDP, but a TURN server does over TCP.
        UdpBlocked = 110, "udp-blocked";
        /// The configuration asks for relays only.
        RelayOnly = 120, "relay-only";
        /// The peer offers nothing but relayed addresses.
        PeerRelayOnly = 130, "peer-relay-only";
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_survive_the_bus() {
        for state in State::ALL {
            assert_eq!(State::from(state.number()), *state);
        }
        for reason in Reason::ALL {
            assert_eq!(Reason::from(reason.number()), *reason);
        }
    }

    #[test]
    fn a_number_of_a_newer_agent_reads_as_the_state_that_it_refines() {
        assert_eq!(State::from(45), State::Checking);
        assert_eq!(State::from(u32::MAX), State::Failed);
    }
}
