//! The enumerations of `NetCheck`: how a network treats UDP, in the words of RFC 4787, and what that means.

use crate::number::numbers;

numbers! {
    /// Whether a direct path is likely.
    Verdict {
        /// Nobody could be asked.
        #[default]
        Unknown = 0, "unknown";
        /// With nearly every peer.
        Direct = 10, "direct";
        /// With peers whose NAT or firewall lets strangers in, or that have none.
        DirectWithSome = 20, "direct-with-some";
        /// UDP does not come through; a relay does.
        RelayOnly = 30, "relay-only";
        /// Nothing comes through.
        Blocked = 40, "blocked";
    }
}

numbers! {
    /// Whether UDP comes through.
    Udp {
        /// Not known.
        #[default]
        Unknown = 0, "unknown";
        /// This machine has no address of the family that leads anywhere.
        NoAddress = 10, "no-address";
        /// No server with an address of the family is known.
        NoServer = 20, "no-server";
        /// No server answered.
        Unanswered = 30, "unanswered";
        /// A server answered.
        Works = 40, "works";
    }
}

numbers! {
    /// Whether another destination sees another address (RFC 4787 §4.1).
    Mapping {
        /// Not known.
        #[default]
        Unknown = 0, "unknown";
        /// There is no translation.
        None = 10, "none";
        /// One address for all destinations.
        EndpointIndependent = 20, "endpoint-independent";
        /// It depends on the destination; whether on its port, too, is not known.
        Dependent = 30, "dependent";
        /// It depends on the destination's address.
        AddressDependent = 40, "address-dependent";
        /// It depends on the destination's address and port.
        AddressAndPortDependent = 50, "address-and-port-dependent";
    }
}

numbers! {
    /// How the mapping was found out.
    MappingMethod {
        /// It was not.
        #[default]
        None = 0, "none";
        /// By what several servers see.
        Servers = 10, "servers";
        /// By the second address of one server (RFC 5780 §4.3).
        Rfc5780 = 20, "rfc5780";
    }
}

numbers! {
    /// Who may send to a mapped address (RFC 4787 §5).
    Filtering {
        /// Not known.
        #[default]
        Unknown = 0, "unknown";
        /// Anybody.
        EndpointIndependent = 10, "endpoint-independent";
        /// Whoever has an address that was sent to.
        AddressDependent = 20, "address-dependent";
        /// Only the address and port that was sent to.
        AddressAndPortDependent = 30, "address-and-port-dependent";
    }
}

numbers! {
    /// What a person should know about a network.
    NetFinding {
        /// Not known to this version.
        #[default]
        Unknown = 0, "unknown";
        /// No STUN or TURN server is configured, and no backend hands one out.
        NoServer = 10, "no-server";
        /// No server answers, by no transport.
        NothingAnswers = 20, "nothing-answers";
        /// No server answers over UDP, but a TURN server does over TCP or TLS.
        UdpBlocked = 30, "udp-blocked";
        /// The NAT has another mapping for each destination.
        MappingVaries = 40, "mapping-varies";
        /// One server is not enough to know the mapping.
        MappingUnknown = 50, "mapping-unknown";
        /// No server has the second address that it takes to know the filtering.
        FilteringUnknown = 60, "filtering-unknown";
        /// Some server does not answer, or cannot be found.
        ServerSilent = 70, "server-silent";
        /// No TURN server is known.
        NoRelay = 80, "no-relay";
        /// TURN servers are known, and none relays.
        NoRelayWorks = 90, "no-relay-works";
        /// UDP does not come through, and no TURN server over TCP or TLS is known.
        NoTcpRelay = 100, "no-tcp-relay";
        /// No signalling backend is connected.
        NoBackend = 110, "no-backend";
        /// This machine has no IPv6 that leads anywhere.
        NoIpv6 = 120, "no-ipv6";
    }
}
