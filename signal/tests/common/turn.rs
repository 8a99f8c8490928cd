//! A TURN client that does as it is told, right or wrong.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use turn_types::AddressFamily;
use turn_types::attribute::{
    AdditionalAddressFamily, ChannelNumber, Data, Lifetime, RequestedTransport, XorPeerAddress,
    XorRelayedAddress,
};
use turn_types::message::{ALLOCATE, CHANNEL_BIND, CREATE_PERMISSION, REFRESH, SEND};
use turn_types::stun::attribute::{AttributeWrite, ErrorCode, Nonce, Realm, Username};
use turn_types::stun::message::{
    IntegrityAlgorithm, LongTermKeyCredentials, Message, MessageClass, MessageWrite,
    MessageWriteExt, MessageWriteVec, Method,
};

use super::{Running, soon};

/// User name and password.
#[derive(Debug, Clone)]
pub struct Credentials {
    pub username: String,
    pub password: String,
}

impl Credentials {
    /// Those that the server hands out.
    pub async fn ask(server: &Running) -> Self {
        let list = server.get(server.url("/v1/ice-servers")).await;
        let list: Value = list.json().await.expect("JSON");
        let entry = list
            .as_array()
            .expect("a list")
            .iter()
            .find(|it| it["ttl"].is_u64());
        let text = |name: &str| {
            entry.expect("TURN")[name]
                .as_str()
                .expect("a text")
                .to_owned()
        };
        Self {
            username: text("username"),
            password: text("credential"),
        }
    }
}

pub enum Wire {
    Udp(UdpSocket),
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

pub struct Client {
    pub wire: Wire,
    pub credentials: Credentials,
    pub nonce: String,
}

/// What a request came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    Relays(Vec<SocketAddr>),
    Refused(u16),
}

impl Client {
    pub async fn udp(server: SocketAddr, credentials: &Credentials) -> Self {
        let own = if server.is_ipv4() {
            "127.0.0.1:0"
        } else {
            "[::1]:0"
        };
        Self::udp_from(own, server, credentials).await
    }

    pub async fn udp_from(own: &str, server: SocketAddr, credentials: &Credentials) -> Self {
        let socket = UdpSocket::bind(own).await.expect("a socket");
        socket.connect(server).await.expect("an address");
        Self::new(Wire::Udp(socket), credentials)
    }

    pub async fn tcp(server: SocketAddr, credentials: &Credentials) -> Self {
        let stream = soon(TcpStream::connect(server))
            .await
            .expect("a connection");
        Self::new(Wire::Tcp(stream), credentials)
    }

    /// Over TLS, trusting the server's own certificate.
    pub async fn tls(server: SocketAddr, certificate: &Path, credentials: &Credentials) -> Self {
        let certificate = CertificateDer::from_pem_file(certificate).expect("a certificate");
        let mut roots = RootCertStore::empty();
        roots.add(certificate).expect("it can be trusted");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring has them")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = soon(TcpStream::connect(server))
            .await
            .expect("a connection");
        let name = ServerName::try_from("localhost").expect("a name");
        let connected = TlsConnector::from(Arc::new(config)).connect(name, stream);
        let stream = soon(connected).await.expect("a handshake");
        Self::new(Wire::Tls(Box::new(stream)), credentials)
    }

    fn new(wire: Wire, credentials: &Credentials) -> Self {
        Self {
            wire,
            credentials: credentials.clone(),
            nonce: String::new(),
        }
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        match &mut self.wire {
            Wire::Udp(socket) => drop(socket.send(bytes).await.expect("sent")),
            Wire::Tcp(stream) => stream.write_all(bytes).await.expect("sent"),
            Wire::Tls(stream) => stream.write_all(bytes).await.expect("sent"),
        }
    }

    /// The next message or channel data.
    pub async fn receive(&mut self) -> Vec<u8> {
        soon(async {
            match &mut self.wire {
                Wire::Udp(socket) => {
                    let mut bytes = vec![0; 65_536];
                    let length = socket.recv(&mut bytes).await.expect("received");
                    bytes.truncate(length);
                    bytes
                }
                Wire::Tcp(stream) => frame(stream).await,
                Wire::Tls(stream) => frame(stream).await,
            }
        })
        .await
    }

    /// A request with the credentials and the nonce, and about a peer if there is one.
    fn request(
        &self,
        method: Method,
        attributes: &[&dyn AttributeWrite],
        peer: Option<SocketAddr>,
    ) -> Vec<u8> {
        let mut request = Message::builder_request(method, MessageWriteVec::new());
        let peer = peer.map(|peer| XorPeerAddress::new(peer, request.transaction_id()));
        let Credentials { username, password } = &self.credentials;
        let name = Username::new(username).expect("short");
        let realm = Realm::new("wice").expect("short");
        let nonce = Nonce::new(&self.nonce).expect("short");
        let own: [&dyn AttributeWrite; 3] = [&name, &realm, &nonce];
        let peer = peer.as_ref().map(|peer| peer as &dyn AttributeWrite);
        for attribute in attributes.iter().copied().chain(peer).chain(own) {
            request.add_attribute(attribute).expect("it fits");
        }
        let key = LongTermKeyCredentials::new(username.clone(), password.clone(), "wice".into());
        let key = key.make_key(IntegrityAlgorithm::Sha1);
        request
            .add_message_integrity_with_key(&key, IntegrityAlgorithm::Sha1)
            .expect("it fits");
        request.finish()
    }

    /// The request for an allocation of one address, to be sent as often as one likes.
    pub fn allocation(&self) -> Vec<u8> {
        let udp = RequestedTransport::new(RequestedTransport::UDP);
        self.request(ALLOCATE, &[&udp], None)
    }

    async fn ask(
        &mut self,
        method: Method,
        attributes: &[&dyn AttributeWrite],
        peer: Option<SocketAddr>,
    ) -> Outcome {
        let request = self.request(method, attributes, peer);
        self.exchange(&request).await
    }

    /// Sends a request, and waits for its answer.
    pub async fn exchange(&mut self, request: &[u8]) -> Outcome {
        self.send(request).await;
        loop {
            let answer = self.receive().await;
            let Ok(message) = Message::from_bytes(&answer) else {
                continue;
            };
            if message.has_class(MessageClass::Indication) {
                continue;
            }
            return outcome(&message);
        }
    }

    /// Gets a nonce, and says which error it came with.
    pub async fn greet(&mut self) -> u16 {
        let mut request = Message::builder_request(ALLOCATE, MessageWriteVec::new());
        let transport = RequestedTransport::new(RequestedTransport::UDP);
        request.add_attribute(&transport).expect("it fits");
        self.send(&request.finish()).await;
        let answer = self.receive().await;
        let message = Message::from_bytes(&answer).expect("a message");
        self.nonce = message
            .attribute::<Nonce>()
            .expect("a nonce")
            .nonce()
            .to_owned();
        message.attribute::<ErrorCode>().expect("an error").code()
    }

    pub async fn allocate(&mut self, both_families: bool) -> Outcome {
        if self.nonce.is_empty() {
            self.greet().await;
        }
        let udp = RequestedTransport::new(RequestedTransport::UDP);
        let additional = AdditionalAddressFamily::new(AddressFamily::IPV6);
        match both_families {
            true => self.ask(ALLOCATE, &[&udp, &additional], None).await,
            false => self.ask(ALLOCATE, &[&udp], None).await,
        }
    }

    /// Allocates, and tells the one relayed address.
    pub async fn relay(&mut self) -> SocketAddr {
        match self.allocate(false).await {
            Outcome::Relays(relays) if relays.len() == 1 => relays[0],
            other => panic!("not allocated: {other:?}"),
        }
    }

    pub async fn refresh(&mut self, seconds: u32) -> Outcome {
        self.ask(REFRESH, &[&Lifetime::new(seconds)], None).await
    }

    pub async fn permit(&mut self, peer: SocketAddr) -> Outcome {
        self.ask(CREATE_PERMISSION, &[], Some(peer)).await
    }

    pub async fn bind(&mut self, number: u16, peer: SocketAddr) -> Outcome {
        let number = ChannelNumber::new(number);
        self.ask(CHANNEL_BIND, &[&number], Some(peer)).await
    }

    /// Sends data by an indication.
    pub async fn indicate(&mut self, peer: SocketAddr, data: &[u8]) {
        let mut message = Message::builder_indication(SEND, MessageWriteVec::new());
        let peer = XorPeerAddress::new(peer, message.transaction_id());
        message.add_attribute(&peer).expect("it fits");
        message.add_attribute(&Data::new(data)).expect("it fits");
        self.send(&message.finish()).await;
    }

    /// Sends data on a channel.
    pub async fn channel(&mut self, number: u16, data: &[u8]) {
        let mut bytes = number.to_be_bytes().to_vec();
        bytes.extend(u16::try_from(data.len()).expect("short").to_be_bytes());
        bytes.extend(data);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        self.send(&bytes).await;
    }
}

fn outcome(message: &Message<'_>) -> Outcome {
    if let Ok(error) = message.attribute::<ErrorCode>() {
        return Outcome::Refused(error.code());
    }
    let mut relays = Vec::new();
    while let Ok(relay) = message.nth_attribute::<XorRelayedAddress>(relays.len()) {
        relays.push(relay.addr(message.transaction_id()));
    }
    Outcome::Relays(relays)
}

/// One frame of a connection.
async fn frame(stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    stream.read_exact(&mut bytes).await.expect("a header");
    let length = usize::from(u16::from_be_bytes([bytes[2], bytes[3]]));
    let more = if bytes[0] < 0x40 {
        16 + length
    } else {
        length.next_multiple_of(4)
    };
    bytes.resize(4 + more, 0);
    stream.read_exact(&mut bytes[4..]).await.expect("the rest");
    bytes
}

/// What a data indication carries.
pub fn data(bytes: &[u8]) -> (SocketAddr, Vec<u8>) {
    let message = Message::from_bytes(bytes).expect("a message");
    let peer = message.attribute::<XorPeerAddress>().expect("a peer");
    let data = message.attribute::<Data<'_>>().expect("data");
    (peer.addr(message.transaction_id()), data.data().to_vec())
}
