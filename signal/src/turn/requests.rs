//! What clients ask of the relay: to allocate, to refresh, to permit peers and to bind channels (RFC 8656 §7 to §12).

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tracing::{debug, warn};
use turn_types::AddressFamily;
use turn_types::attribute::{
    AdditionalAddressFamily, AddressErrorCode, ChannelNumber, EvenPort, Lifetime,
    RequestedAddressFamily, RequestedTransport, XorPeerAddress, XorRelayedAddress,
};
use turn_types::message::{ALLOCATE, CHANNEL_BIND, CREATE_PERMISSION, REFRESH};
use turn_types::stun::attribute::{
    Attribute, AttributeFromRaw, AttributeStaticType, AttributeType, AttributeWrite, ErrorCode,
    Fingerprint, MessageIntegrity, Nonce, Realm, UnknownAttributes, Username, XorMappedAddress,
};
use turn_types::stun::message::{
    IntegrityAlgorithm, IntegrityKey, LongTermKeyCredentials, Message, MessageWrite,
    MessageWriteExt, MessageWriteVec,
};

use super::allocation::{Allocation, Denied, Relayed};
use super::bucket::Bucket;
use super::credentials::User;
use super::peers::Reach;
use super::relay::{Answer, Client, Id, Relay, canonical};
use super::socket::Socket;
use crate::limit::Source;

/// What passwords are bound to; the same for all servers, so that they may share a secret.
const REALM: &str = "wice";

/// RFC 8656 §7.2: an allocation lasts for ten minutes unless its client asks for more, and for no more than an hour.
const SHORTEST: Duration = Duration::from_secs(600);
const LONGEST: Duration = Duration::from_secs(3600);

/// Channel numbers: those of RFC 8656 §12 end at 0x4fff, but older clients (RFC 5766) take higher ones.
const CHANNELS: std::ops::RangeInclusive<u16> = 0x4000..=0x7ffe;

/// Addresses in one request for permissions.
const MOST_PEERS: usize = 64;

/// The attributes that are covered by the request's integrity.
#[derive(Debug, Default)]
struct Asked {
    username: Option<String>,
    realm: Option<String>,
    nonce: Option<String>,
    signed: bool,
    lifetime: Option<Duration>,
    transport: Option<u8>,
    family: Option<AddressFamily>,
    additional: Option<AddressFamily>,
    even_port: bool,
    reserve: bool,
    peers: Vec<SocketAddr>,
    channel: Option<u16>,
    unknown: Vec<AttributeType>,
}

/// Why a request is refused: an error code, and whether a nonce goes with it.
#[derive(Debug, Clone, Copy)]
struct Refused {
    code: u16,
    challenge: bool,
}

const fn refused(code: u16) -> Refused {
    Refused {
        code,
        challenge: false,
    }
}

const fn challenged(code: u16) -> Refused {
    Refused {
        code,
        challenge: true,
    }
}

/// What an answer says beside its kind.
type Attributes = Vec<Box<dyn AttributeWrite>>;

impl Asked {
    /// `None` when an attribute is not what its type says.
    fn read(message: &Message<'_>) -> Option<Self> {
        let mut asked = Self::default();
        for (_, attribute) in message.iter_attributes() {
            match attribute.get_type() {
                Username::TYPE => {
                    asked.username = Some(Username::from_raw(attribute).ok()?.username().into());
                }
                Realm::TYPE => asked.realm = Some(Realm::from_raw(attribute).ok()?.realm().into()),
                Nonce::TYPE => asked.nonce = Some(Nonce::from_raw(attribute).ok()?.nonce().into()),
                MessageIntegrity::TYPE => {
                    asked.signed = true;
                    // What comes after it could be anybody's.
                    break;
                }
                Fingerprint::TYPE => break,
                Lifetime::TYPE => {
                    let seconds = Lifetime::from_raw(attribute).ok()?.seconds();
                    asked.lifetime = Some(Duration::from_secs(seconds.into()));
                }
                RequestedTransport::TYPE => {
                    asked.transport =
                        Some(RequestedTransport::from_raw(attribute).ok()?.protocol());
                }
                RequestedAddressFamily::TYPE => {
                    asked.family = Some(RequestedAddressFamily::from_raw(attribute).ok()?.family());
                }
                AdditionalAddressFamily::TYPE => {
                    let additional = AdditionalAddressFamily::from_raw(attribute).ok()?;
                    asked.additional = Some(additional.family());
                }
                EvenPort::TYPE => {
                    asked.even_port = true;
                    asked.reserve = EvenPort::from_raw(attribute).ok()?.requested();
                }
                XorPeerAddress::TYPE => {
                    let peer = XorPeerAddress::from_raw(attribute).ok()?;
                    let peer = peer.addr(message.transaction_id());
                    if asked.peers.len() >= MOST_PEERS {
                        return None;
                    }
                    asked.peers.push(peer);
                }
                ChannelNumber::TYPE => {
                    asked.channel = Some(ChannelNumber::from_raw(attribute).ok()?.channel());
                }
                kind if kind.comprehension_required() => asked.unknown.push(kind),
                _ => {}
            }
        }
        Some(asked)
    }

    /// The families of the relayed addresses that an allocation is to have (RFC 8656 §7.2).
    fn families(&self) -> Result<Vec<AddressFamily>, Refused> {
        match (self.family, self.additional) {
            (Some(_), Some(_)) | (None, Some(AddressFamily::IPV4)) => {
                Err(refused(ErrorCode::BAD_REQUEST))
            }
            (None, Some(AddressFamily::IPV6)) => Ok(vec![AddressFamily::IPV4, AddressFamily::IPV6]),
            (Some(family), None) => Ok(vec![family]),
            (None, None) => Ok(vec![AddressFamily::IPV4]),
        }
    }

    /// How long an allocation is to last.
    fn lifetime(&self) -> Duration {
        self.lifetime.unwrap_or(SHORTEST).clamp(SHORTEST, LONGEST)
    }
}

impl Relay {
    /// Answers a request; `None` for what TURN does not know.
    pub(super) fn request(
        &mut self,
        client: &Client,
        message: &Message<'_>,
        now: Instant,
    ) -> Option<Answer> {
        let method = message.method();
        if ![ALLOCATE, REFRESH, CREATE_PERMISSION, CHANNEL_BIND].contains(&method) {
            return None;
        }
        let Some(asked) = Asked::read(message) else {
            return self.refuse(client, message, refused(ErrorCode::BAD_REQUEST), None, now);
        };
        let (user, key) = match self.authenticate(client, message, &asked, now) {
            Ok(known) => known,
            Err(why) => return self.refuse(client, message, why, None, now),
        };
        if !asked.unknown.is_empty() {
            debug!(client = %client.address, unknown = ?asked.unknown, "TURN request for the unknown");
            let unknown = UnknownAttributes::new(&asked.unknown);
            let code = ErrorCode::new(ErrorCode::UNKNOWN_ATTRIBUTE, "").ok()?;
            return error(message, Some(&key), vec![Box::new(code), Box::new(unknown)]);
        }
        let done = match method {
            ALLOCATE => self.allocate(client, message, &asked, user, now),
            REFRESH => self.refresh(client, &asked, &user, now),
            CREATE_PERMISSION => self.permit(client, &asked, &user, now),
            _ => self.bind(client, &asked, &user, now),
        };
        match done {
            Ok(attributes) => success(message, &key, attributes),
            Err(why) => self.refuse(client, message, why, Some(&key), now),
        }
    }

    /// RFC 8489 §9.2.4.
    fn authenticate(
        &self,
        client: &Client,
        message: &Message<'_>,
        asked: &Asked,
        now: Instant,
    ) -> Result<(User, IntegrityKey), Refused> {
        if !asked.signed {
            return Err(challenged(ErrorCode::UNAUTHORIZED));
        }
        let (Some(username), Some(realm), Some(nonce)) =
            (&asked.username, &asked.realm, &asked.nonce)
        else {
            return Err(refused(ErrorCode::BAD_REQUEST));
        };
        if !self
            .nonces
            .holds(nonce, client.address.ip(), self.clock(now))
        {
            return Err(challenged(ErrorCode::STALE_NONCE));
        }
        let opened = self.issuer.open(username, unix_time());
        let (user, password) = opened
            .filter(|_| realm == REALM)
            .ok_or(challenged(ErrorCode::UNAUTHORIZED))?;
        let credentials =
            LongTermKeyCredentials::new(username.clone(), password.to_string(), realm.clone());
        let key = credentials.make_key(IntegrityAlgorithm::Sha1);
        message
            .validate_integrity_with_key(&key)
            .map_err(|_| challenged(ErrorCode::UNAUTHORIZED))?;
        Ok((user, key))
    }

    /// RFC 8656 §7.2.
    fn allocate(
        &mut self,
        client: &Client,
        message: &Message<'_>,
        asked: &Asked,
        user: User,
        now: Instant,
    ) -> Result<Attributes, Refused> {
        if let Some(id) = self.clients.get(&client.key) {
            let allocation = &self.allocations[id];
            if allocation.transaction == message.transaction_id() && allocation.user == user {
                // The answer was lost on the way.
                return Ok(allocated(allocation, client, message, &[], now));
            }
            return Err(refused(ErrorCode::ALLOCATION_MISMATCH));
        }
        match asked.transport {
            Some(RequestedTransport::UDP) => {}
            Some(_) => return Err(refused(ErrorCode::UNSUPPORTED_TRANSPORT_PROTOCOL)),
            None => return Err(refused(ErrorCode::BAD_REQUEST)),
        }
        if asked.reserve {
            // Nobody has used the port next to one's own since RTCP shares RTP's.
            return Err(refused(ErrorCode::INSUFFICIENT_CAPACITY));
        }
        let families = asked.families()?;
        let source = Source::from(client.address.ip());
        let held = self.users.get(&user).copied().unwrap_or(0);
        if held >= self.limits.allocations_per_user || self.shares.add(source, 1).is_err() {
            debug!(client = %client.address, "TURN allocation refused: too many");
            return Err(refused(ErrorCode::ALLOCATION_QUOTA_REACHED));
        }
        let id = self.last + 1;
        let whose = (client.key, user.clone(), source, client.door.clone());
        let bucket = Bucket::new(self.limits.bits_per_second_per_allocation, now);
        let expires = now + asked.lifetime();
        let mut allocation = Allocation::new(whose, message.transaction_id(), expires, bucket);
        let mut failed = Vec::new();
        for family in families {
            match self.relay_on(id, family, asked.even_port) {
                Ok(relay) => allocation.relays.push(relay),
                Err(code) => failed.push((family, code)),
            }
        }
        if allocation.relays.is_empty() {
            self.shares.remove(source, 1);
            let code = failed.first().map(|(_, code)| *code);
            return Err(refused(code.unwrap_or(ErrorCode::INSUFFICIENT_CAPACITY)));
        }
        self.last = id;
        *self.users.entry(user).or_default() += 1;
        self.clients.insert(client.key, id);
        let told: Vec<_> = allocation.relays.iter().map(|relay| relay.told).collect();
        for address in &told {
            self.relayed.insert(*address, id);
        }
        debug!(id, client = %client.address, ?told, "TURN allocation");
        let attributes = allocated(&allocation, client, message, &failed, now);
        self.allocations.insert(id, allocation);
        Ok(attributes)
    }

    /// Opens a relayed address, and starts to receive there.
    fn relay_on(&self, id: Id, family: AddressFamily, even: bool) -> Result<Relayed, u16> {
        let opened = match self.homes.open(family, even) {
            Some(opened) => opened,
            None => return Err(ErrorCode::ADDRESS_FAMILY_NOT_SUPPORTED),
        };
        let opened = opened.and_then(|(socket, told)| Ok((Rc::new(Socket::new(socket)?), told)));
        let (socket, told) = opened.map_err(|error| {
            warn!("cannot open a relayed address: {error}; check --turn-ports and --turn-external, and the limit of open files");
            ErrorCode::INSUFFICIENT_CAPACITY
        })?;
        let relay = self.this.upgrade().expect("it is borrowed right now");
        let scratch = Rc::clone(&self.scratch);
        let task = tokio::task::spawn_local(receive(relay, scratch, id, Rc::clone(&socket)));
        Ok(Relayed {
            told,
            socket,
            task: task.abort_handle(),
        })
    }

    /// RFC 8656 §8.
    fn refresh(
        &mut self,
        client: &Client,
        asked: &Asked,
        user: &User,
        now: Instant,
    ) -> Result<Attributes, Refused> {
        let id = self.allocation_of(client, user)?;
        let allocation = self.allocations.get_mut(&id).expect("it was looked up");
        let of_family = |it: &Relayed| {
            asked
                .family
                .is_none_or(|family| family_of(it.told) == family)
        };
        if !allocation.relays.iter().any(of_family) {
            return Err(refused(ErrorCode::PEER_ADDRESS_FAMILY_MISMATCH));
        }
        if asked.lifetime != Some(Duration::ZERO) {
            // One lifetime for both families: the longer one, which costs nothing more.
            allocation.expires = allocation.expires.max(now + asked.lifetime());
            return Ok(vec![Box::new(seconds(asked.lifetime()))]);
        }
        let (ended, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut allocation.relays)
            .into_iter()
            .partition(of_family);
        for relay in &ended {
            relay.task.abort();
            self.relayed.remove(&relay.told);
        }
        allocation.relays = kept;
        if allocation.relays.is_empty() {
            self.remove(id, "its client let it go");
        }
        Ok(vec![Box::new(Lifetime::new(0))])
    }

    /// RFC 8656 §10.
    fn permit(
        &mut self,
        client: &Client,
        asked: &Asked,
        user: &User,
        now: Instant,
    ) -> Result<Attributes, Refused> {
        let id = self.allocation_of(client, user)?;
        if asked.peers.is_empty() {
            return Err(refused(ErrorCode::BAD_REQUEST));
        }
        // All or none.
        let mut peers = Vec::with_capacity(asked.peers.len());
        for peer in &asked.peers {
            peers.push((peer.ip(), self.allowed(id, peer.ip())?));
        }
        let allocation = self.allocations.get_mut(&id).expect("it was looked up");
        for (peer, own) in peers {
            allocation.permit(peer, own, now)?;
        }
        Ok(Vec::new())
    }

    /// RFC 8656 §12.
    fn bind(
        &mut self,
        client: &Client,
        asked: &Asked,
        user: &User,
        now: Instant,
    ) -> Result<Attributes, Refused> {
        let id = self.allocation_of(client, user)?;
        let (&[peer], Some(number)) = (asked.peers.as_slice(), asked.channel) else {
            return Err(refused(ErrorCode::BAD_REQUEST));
        };
        if !CHANNELS.contains(&number) || peer.port() == 0 {
            return Err(refused(ErrorCode::BAD_REQUEST));
        }
        let own = self.allowed(id, peer.ip())?;
        let allocation = self.allocations.get_mut(&id).expect("it was looked up");
        allocation.permit(peer.ip(), own, now)?;
        allocation.bind(number, peer, now)?;
        Ok(Vec::new())
    }

    /// Whether packets may be relayed to the address; if so, whether it is this server's own.
    fn allowed(&self, id: Id, peer: IpAddr) -> Result<bool, Refused> {
        let reach = self.peers.reach(peer);
        if reach == Reach::Forbidden {
            return Err(refused(ErrorCode::FORBIDDEN));
        }
        if self.allocations[&id].relay(peer).is_none() {
            return Err(refused(ErrorCode::PEER_ADDRESS_FAMILY_MISMATCH));
        }
        Ok(reach == Reach::Own)
    }

    /// The client's allocation, if this user made it.
    fn allocation_of(&self, client: &Client, user: &User) -> Result<Id, Refused> {
        let id = self.clients.get(&client.key);
        let id = *id.ok_or(refused(ErrorCode::ALLOCATION_MISMATCH))?;
        if self.allocations[&id].user != *user {
            return Err(refused(ErrorCode::WRONG_CREDENTIALS));
        }
        Ok(id)
    }

    fn refuse(
        &self,
        client: &Client,
        message: &Message<'_>,
        why: Refused,
        key: Option<&IntegrityKey>,
        now: Instant,
    ) -> Option<Answer> {
        let code = ErrorCode::builder(why.code).build().ok()?;
        let mut attributes: Attributes = vec![Box::new(code)];
        if why.challenge {
            let nonce = self.nonces.make(client.address.ip(), self.clock(now));
            attributes.push(Box::new(Realm::new(REALM).ok()?));
            attributes.push(Box::new(Nonce::new(&nonce).ok()?));
        }
        error(message, key, attributes)
    }

    /// Seconds since the start, for nonces.
    fn clock(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.started).as_secs()
    }
}

impl From<Denied> for Refused {
    fn from(denied: Denied) -> Self {
        refused(match denied {
            Denied::Taken => ErrorCode::BAD_REQUEST,
            Denied::Full => ErrorCode::INSUFFICIENT_CAPACITY,
        })
    }
}

/// What a new allocation is answered with.
fn allocated(
    allocation: &Allocation,
    client: &Client,
    message: &Message<'_>,
    failed: &[(AddressFamily, u16)],
    now: Instant,
) -> Attributes {
    let transaction = message.transaction_id();
    let mut attributes: Attributes = Vec::new();
    for relay in &allocation.relays {
        attributes.push(Box::new(XorRelayedAddress::new(relay.told, transaction)));
    }
    let left = allocation.expires.saturating_duration_since(now);
    attributes.push(Box::new(seconds(left)));
    let mapped = canonical(client.address);
    attributes.push(Box::new(XorMappedAddress::new(mapped, transaction)));
    for (family, code) in failed {
        if let Ok(code) = ErrorCode::builder(*code).build() {
            attributes.push(Box::new(AddressErrorCode::new(*family, code)));
        }
    }
    attributes
}

fn success(message: &Message<'_>, key: &IntegrityKey, attributes: Attributes) -> Option<Answer> {
    let response = Message::builder_success(message, MessageWriteVec::with_capacity(128));
    finish(response, Some(key), attributes)
}

fn error(
    message: &Message<'_>,
    key: Option<&IntegrityKey>,
    attributes: Attributes,
) -> Option<Answer> {
    let response = Message::builder_error(message, MessageWriteVec::with_capacity(128));
    finish(response, key, attributes)
}

fn finish(
    mut response: MessageWriteVec,
    key: Option<&IntegrityKey>,
    attributes: Attributes,
) -> Option<Answer> {
    for attribute in &attributes {
        response.add_attribute(attribute.as_ref()).ok()?;
    }
    if let Some(key) = key {
        let signed = response.add_message_integrity_with_key(key, IntegrityAlgorithm::Sha1);
        signed.ok()?;
    }
    Some(Answer {
        bytes: response.finish(),
        authentic: key.is_some(),
    })
}

fn seconds(lifetime: Duration) -> Lifetime {
    Lifetime::new(u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX))
}

fn family_of(address: SocketAddr) -> AddressFamily {
    match address {
        SocketAddr::V4(_) => AddressFamily::IPV4,
        SocketAddr::V6(_) => AddressFamily::IPV6,
    }
}

fn unix_time() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs())
}

/// Receives at a relayed address until its task is aborted.
async fn receive(
    relay: Rc<RefCell<Relay>>,
    scratch: Rc<RefCell<super::socket::Scratch>>,
    id: Id,
    socket: Rc<Socket>,
) {
    super::udp::pump(&socket, &scratch, |received| {
        relay.borrow_mut().peers_sent(id, received);
    })
    .await;
}
