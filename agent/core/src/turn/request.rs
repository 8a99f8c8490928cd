//! What a client asks of a TURN server, as bytes, and how often it asks.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use stun_types::AddressFamily;
use stun_types::attribute::{AttributeType, AttributeWrite, RawAttribute};
use stun_types::message::{
    Message, MessageClass, MessageType, MessageWrite, MessageWriteExt, MessageWriteVec, Method,
    TransactionId,
};
use turn_types::attribute::{
    AdditionalAddressFamily, ChannelNumber, Data, Lifetime, RequestedAddressFamily,
    RequestedTransport, XorPeerAddress,
};
use turn_types::message::{ALLOCATE, CHANNEL_BIND, CREATE_PERMISSION, REFRESH, SEND};

use super::LIFETIME;
use super::auth::Auth;

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Request {
    Allocate(Families),
    Refresh,
    Release,
    Permit(Vec<IpAddr>),
    Bind { peer: SocketAddr, number: u16 },
}

/// Which address families an allocation is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Families {
    /// One address of each (RFC 8656 §7.1, ADDITIONAL-ADDRESS-FAMILY).
    Both,
    Ipv4,
    Ipv6,
}

impl Families {
    /// What to ask for when a server does not grant this.
    pub(super) const fn fewer(self) -> Option<Self> {
        match self {
            Self::Both => Some(Self::Ipv4),
            Self::Ipv4 => Some(Self::Ipv6),
            Self::Ipv6 => None,
        }
    }
}

/// A request that is not answered yet.
#[derive(Debug)]
pub(super) struct Transaction {
    pub(super) request: Request,
    /// How often it was asked in another form before.
    pub(super) tries: u8,
    /// When it is sent again, or given up.
    pub(super) due: Instant,
    bytes: Vec<u8>,
    sent: usize,
}

/// A request is repeated after these delays, and given up after the last (RFC 8489 §6.2.1, faster: a relay that died is to be
/// noticed while the tunnel can still be saved).
const RETRIES: [Duration; 5] = [
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_millis(750),
    Duration::from_secs(1),
    Duration::from_secs(1),
];
/// Sent once and given up after this where the transport repeats by itself.
const RELIABLE: Duration = Duration::from_millis(3500);

/// ADDITIONAL-ADDRESS-FAMILY before it got its number: coturn up to 4.6 at least knows no other. To whoever does not know it, it
/// is an optional attribute.
const EARLY_ADDITIONAL_FAMILY: AttributeType = AttributeType::new(0x8032);

impl Transaction {
    pub(super) fn new(
        request: Request,
        bytes: Vec<u8>,
        tries: u8,
        reliable: bool,
        now: Instant,
    ) -> Self {
        Self {
            request,
            tries,
            due: now + if reliable { RELIABLE } else { RETRIES[0] },
            bytes,
            sent: 1,
        }
    }

    /// What to send again, or nothing when it is to be given up.
    pub(super) fn again(&mut self, now: Instant, reliable: bool) -> Option<Vec<u8>> {
        let delay = RETRIES.get(self.sent).filter(|_| !reliable)?;
        self.sent += 1;
        self.due = now + *delay;
        Some(self.bytes.clone())
    }

    /// Counts from the beginning again.
    pub(super) fn patience(&mut self, now: Instant, reliable: bool) {
        self.sent = 1;
        if reliable {
            self.due = now + RELIABLE;
        }
    }
}

/// Writes a request, signed where the server wants it; nothing when a name is too long for a message.
pub(super) fn encode(request: &Request, id: u128, auth: &Auth) -> Option<Vec<u8>> {
    let transaction = TransactionId::from(id);
    let transport = RequestedTransport::new(RequestedTransport::UDP);
    let seconds = u32::try_from(LIFETIME.as_secs()).ok()?;
    let mut message = begin(MessageClass::Request, request.method(), transaction);
    match request {
        Request::Allocate(families) => {
            message.add_attribute(&transport).ok()?;
            message.add_attribute(&Lifetime::new(seconds)).ok()?;
            match families {
                Families::Both => {
                    let additional = AdditionalAddressFamily::new(AddressFamily::IPV6);
                    message.add_attribute(&additional).ok()?;
                    let raw = additional.to_raw();
                    let early = RawAttribute::new(EARLY_ADDITIONAL_FAMILY, &raw.value);
                    message.add_attribute(&early).ok()?;
                }
                Families::Ipv4 => {}
                Families::Ipv6 => message
                    .add_attribute(&RequestedAddressFamily::new(AddressFamily::IPV6))
                    .ok()?,
            }
        }
        Request::Refresh => message.add_attribute(&Lifetime::new(seconds)).ok()?,
        Request::Release => message.add_attribute(&Lifetime::new(0)).ok()?,
        Request::Permit(peers) => {
            for peer in peers {
                let peer = XorPeerAddress::new(SocketAddr::new(*peer, 0), transaction);
                // Several of one kind are what a permission request is made of, and no error of the writer's.
                message.push_attribute_unchecked(&peer);
            }
        }
        Request::Bind { peer, number } => {
            message.add_attribute(&ChannelNumber::new(*number)).ok()?;
            message
                .add_attribute(&XorPeerAddress::new(*peer, transaction))
                .ok()?;
        }
    }
    auth.sign(&mut message)?;
    Some(message.finish())
}

/// Writes a Send indication.
pub(super) fn indication(id: u128, peer: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let transaction = TransactionId::from(id);
    let mut message = begin(MessageClass::Indication, SEND, transaction);
    message.push_attribute_unchecked(&XorPeerAddress::new(peer, transaction));
    message.push_attribute_unchecked(&Data::new(payload));
    message.finish()
}

/// Writes a ChannelData message; on a stream it is padded (RFC 8656 §12.5).
pub(super) fn channel_data(number: u16, payload: &[u8], padded: bool) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap_or(u16::MAX);
    let mut message = Vec::with_capacity(payload.len() + 8);
    message.extend(number.to_be_bytes());
    message.extend(length.to_be_bytes());
    message.extend(&payload[..usize::from(length)]);
    if padded {
        message.resize(message.len().next_multiple_of(4), 0);
    }
    message
}

fn begin(class: MessageClass, method: Method, transaction: TransactionId) -> MessageWriteVec {
    Message::builder(
        MessageType::from_class_method(class, method),
        transaction,
        MessageWriteVec::with_capacity(256),
    )
}

impl Request {
    const fn method(&self) -> Method {
        match self {
            Self::Allocate(_) => ALLOCATE,
            Self::Refresh | Self::Release => REFRESH,
            Self::Permit(_) => CREATE_PERMISSION,
            Self::Bind { .. } => CHANNEL_BIND,
        }
    }
}
