//! Binding requests and their answers (RFC 8489), with the attributes of RFC 5780, for what measures a network.

use std::net::SocketAddr;

use stun_types::attribute::{
    AttributeType, ErrorCode, MappedSocketAddr, RawAttribute, XorMappedAddress,
};
use stun_types::message::{
    BINDING, Message, MessageClass, MessageType, MessageWrite, MessageWriteExt, MessageWriteVec,
    TransactionId,
};

/// From where a server is asked to answer (RFC 5780 §7.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::net) enum Change {
    /// From where it was asked.
    Nothing,
    /// From its other port.
    Port,
    /// From its other address, and the other port there.
    AddressAndPort,
}

/// What came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::net) enum Reply {
    /// A binding response.
    Bound(Bound),
    /// An error response with this code.
    Refused(u16),
    /// A request: our own, by way of our own NAT.
    Request,
}

/// What a server says of us, and of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::net) struct Bound {
    /// Where it sees us.
    pub(in crate::net) mapped: SocketAddr,
    /// Its second address, if it has one (RFC 5780 §7.4).
    pub(in crate::net) other: Option<SocketAddr>,
}

/// RFC 8489 §14.1: what servers older than XOR-MAPPED-ADDRESS send.
const MAPPED_ADDRESS: AttributeType = AttributeType::new(0x0001);
const CHANGE_REQUEST: AttributeType = AttributeType::new(0x0003);
const OTHER_ADDRESS: AttributeType = AttributeType::new(0x802c);

/// Makes a request; `transaction` has 96 bits.
pub(in crate::net) fn request(transaction: u128, change: Change) -> Vec<u8> {
    let kind = MessageType::from_class_method(MessageClass::Request, BINDING);
    let id = TransactionId::from(transaction);
    let mut message = Message::builder(kind, id, MessageWriteVec::new());
    let flags: u32 = match change {
        Change::Nothing => return message.finish(),
        Change::Port => 0x2,
        Change::AddressAndPort => 0x6,
    };
    let flags = flags.to_be_bytes();
    message
        .add_attribute(&RawAttribute::new(CHANGE_REQUEST, &flags))
        .expect("an empty message has room for one attribute");
    message.finish()
}

/// Reads what came, with its transaction; `None` for what is none of this.
pub(in crate::net) fn parse(datagram: &[u8]) -> Option<(u128, Reply)> {
    let message = Message::from_bytes(datagram).ok()?;
    if !message.has_method(BINDING) {
        return None;
    }
    let reply = match message.class() {
        MessageClass::Request => Reply::Request,
        MessageClass::Indication => return None,
        MessageClass::Error => {
            let code = message.attribute::<ErrorCode>();
            Reply::Refused(code.map_or(0, |code| code.code()))
        }
        MessageClass::Success => Reply::Bound(Bound {
            mapped: mapped(&message)?,
            other: address(&message, OTHER_ADDRESS),
        }),
    };
    Some((message.transaction_id().into(), reply))
}

fn mapped(message: &Message<'_>) -> Option<SocketAddr> {
    let coded = message.attribute::<XorMappedAddress>().ok();
    coded
        .map(|it| it.addr(message.transaction_id()))
        .or_else(|| address(message, MAPPED_ADDRESS))
}

fn address(message: &Message<'_>, kind: AttributeType) -> Option<SocketAddr> {
    let raw = message.raw_attribute(kind)?;
    Some(MappedSocketAddr::from_raw(&raw).ok()?.addr())
}
