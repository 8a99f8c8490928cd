//! The WebSocket backend: everything over one connection.
//!
//! Knows the protocol's §6 and trusts the server with nothing but delivery.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::convert::Infallible;
use std::future::poll_fn;
use std::time::Duration;

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::client::Request;
use tokio_tungstenite::tungstenite::http::{HeaderValue, Response, StatusCode, header};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Bytes, Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config};
use url::Url;
use wice_core::mailbox::Mailbox;

use super::backend::{Backend, BackendError, resource, retry_after_seconds, until};
use super::desired::Ledger;
use super::ice_servers::Handed;
use super::link::Link;
use super::{BackendConfig, Token};

/// A server that speaks WebSocket.
#[derive(Debug)]
pub(super) struct Websocket {
    url: Url,
    token: Option<Token>,
    ledger: Ledger,
}

/// Longest time to set up TCP, TLS and WebSocket.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Protocol §6; after [`MAX_UNANSWERED`] the connection counts as dead.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const MAX_UNANSWERED: u32 = 2;
/// The server keeps a message for one hour; this leaves room for two failures.
const REFRESH: Duration = Duration::from_secs(20 * 60);
/// A server over its limits refuses single operations; so much later it may take them.
const AMEND: Duration = Duration::from_secs(30);
/// The same for a server that lost its mailboxes for a moment.
const RECOVERY: Duration = Duration::from_secs(3);
/// Longest text from the server: a sealed message, or a list of ICE servers.
const MAX_TEXT: usize = 64 * 1024;
/// Mailboxes in one subscription.
const MAX_ASKED: usize = 1000;

impl Backend for Websocket {
    const SCHEMES: &'static [&'static str] = &["ws", "wss"];

    fn new(config: &BackendConfig) -> Result<Self, BackendError> {
        Ok(Self {
            url: resource(&config.url, "websocket"),
            token: config.token.clone(),
            ledger: Ledger::default(),
        })
    }

    async fn run(&mut self, link: &mut Link) -> Result<Infallible, BackendError> {
        self.ledger.forget();
        let (sink, mut frames) = self.connect().await?.split();
        let mut outbox = Outbox::new(sink);
        link.connected().await;
        let mut ping = interval_at(Instant::now() + PING_INTERVAL, PING_INTERVAL);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut refresh = interval_at(Instant::now() + REFRESH, REFRESH);
        outbox.plan(&self.ledger, link);
        loop {
            let amend = outbox.amend;
            tokio::select! {
                () = link.changed() => outbox.plan(&self.ledger, link),
                frame = next(&mut frames) => outbox.take(frame?, link).await?,
                // Never waits inside a branch: a server that does not read must not keep us from reading.
                sent = outbox.progress(), if outbox.has_more() || outbox.unflushed => {
                    sent?;
                    outbox.send_next(&mut self.ledger, link)?;
                }
                _ = ping.tick() => outbox.ping()?,
                _ = refresh.tick() => {
                    self.ledger.forget();
                    outbox.plan(&self.ledger, link);
                }
                () = until(amend) => {
                    outbox.amend = None;
                    outbox.subscribed.clear();
                    self.ledger.forget();
                    outbox.plan(&self.ledger, link);
                }
            }
        }
    }
}

impl Websocket {
    async fn connect(&self) -> Result<WebSocketStream<MaybeTlsStream<TcpStream>>, BackendError> {
        let tried = "connect";
        let config = WebSocketConfig::default()
            .max_message_size(Some(MAX_TEXT))
            .max_frame_size(Some(MAX_TEXT));
        let connect = connect_async_with_config(self.request()?, Some(config), true);
        match timeout(CONNECT_TIMEOUT, connect).await {
            Ok(Ok((socket, _))) => Ok(socket),
            Ok(Err(Error::Http(response))) => Err(self.refusal(&response)),
            Ok(Err(Error::Protocol(_))) => Err(BackendError::Malformed {
                tried,
                what: "no WebSocket handshake with the subprotocol wice.1",
            }),
            Ok(Err(error)) => Err(unreachable(tried, error)),
            Err(_) => Err(BackendError::Silent {
                tried,
                within: CONNECT_TIMEOUT,
            }),
        }
    }

    fn request(&self) -> Result<Request, BackendError> {
        let setup = |source| BackendError::Setup { source };
        let request = self.url.as_str().into_client_request();
        let mut request = request.map_err(|error| setup(error.into()))?;
        let headers = request.headers_mut();
        headers.insert(
            header::SEC_WEBSOCKET_PROTOCOL,
            HeaderValue::from_static("wice.1"),
        );
        if let Some(token) = &self.token {
            let value = HeaderValue::from_str(&token.bearer());
            let mut value = value.map_err(|error| setup(error.into()))?;
            value.set_sensitive(true);
            headers.insert(header::AUTHORIZATION, value);
        }
        Ok(request)
    }

    /// The error that a refused handshake amounts to.
    fn refusal<T>(&self, response: &Response<T>) -> BackendError {
        let status = response.status();
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            return BackendError::Unauthorized {
                tried: "connect",
                status: status.as_u16(),
                with_token: self.token.is_some(),
            };
        }
        let retry_after = response.headers().get(header::RETRY_AFTER);
        BackendError::Status {
            tried: "connect",
            status: status.as_u16(),
            detail: String::new(),
            retry_after: retry_after.map(|value| retry_after_seconds(value.as_bytes())),
        }
    }
}

/// What goes up.
#[derive(Serialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
enum Up<'a> {
    Subscribe { mailboxes: &'a [String] },
    Unsubscribe { mailboxes: &'a [String] },
    Publish { mailbox: String, message: &'a str },
    Withdraw { mailbox: String },
}

/// What comes down.
#[derive(Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
enum Down {
    Message {
        mailbox: String,
        message: Option<String>,
    },
    Error {
        code: serde_json::Value,
    },
    IceServers {
        servers: Handed,
    },
    #[serde(other)]
    Other,
}

/// What is left to send on one connection, and what has been.
struct Outbox {
    sink: SplitSink<WebSocketStream<MaybeTlsStream<TcpStream>>, Message>,
    /// Frames that go before all messages: subscriptions, pings.
    urgent: VecDeque<Message>,
    /// Mailboxes that are to be written; each is looked up when its turn comes, so that the newest message goes.
    pending: BTreeSet<Mailbox>,
    /// Subscriptions that the server was told of, by revision.
    subscribed: BTreeMap<Mailbox, u64>,
    unflushed: bool,
    unanswered: u32,
    /// When to say everything again, since some of it was refused.
    amend: Option<Instant>,
    /// The revision that goes with a ping after all messages: the server handles frames in order, so its answer says
    /// that it has them.
    mark: Option<u64>,
}

impl Outbox {
    fn new(sink: SplitSink<WebSocketStream<MaybeTlsStream<TcpStream>>, Message>) -> Self {
        Self {
            sink,
            urgent: VecDeque::new(),
            pending: BTreeSet::new(),
            subscribed: BTreeMap::new(),
            unflushed: false,
            unanswered: 0,
            amend: None,
            mark: None,
        }
    }

    /// Finds out what differs from what is wanted.
    fn plan(&mut self, ledger: &Ledger, link: &mut Link) {
        let desired = link.desired();
        self.pending = ledger.pending(&desired);
        self.mark = Some(desired.revision());
        let wanted = desired.subscribed();
        let differing = |from: &BTreeMap<Mailbox, u64>, to: &BTreeMap<Mailbox, u64>| {
            from.iter()
                .filter(|(mailbox, revision)| to.get(mailbox) != Some(revision))
                .map(|(mailbox, _)| mailbox.to_string())
                .collect::<Vec<_>>()
        };
        let gone = differing(&self.subscribed, wanted);
        let new = differing(wanted, &self.subscribed);
        for mailboxes in gone.chunks(MAX_ASKED) {
            self.urgent.push_back(text(&Up::Unsubscribe { mailboxes }));
        }
        for mailboxes in new.chunks(MAX_ASKED) {
            self.urgent.push_back(text(&Up::Subscribe { mailboxes }));
        }
        if !gone.is_empty() || !new.is_empty() {
            self.subscribed.clone_from(wanted);
        }
    }

    fn has_more(&self) -> bool {
        !self.urgent.is_empty() || !self.pending.is_empty() || self.mark.is_some()
    }

    /// Waits for room where there is more to send, else until all is sent; may be dropped while it does.
    async fn progress(&mut self) -> Result<(), BackendError> {
        let room = if self.has_more() {
            poll_fn(|cx| self.sink.poll_ready_unpin(cx)).await
        } else {
            let flushed = poll_fn(|cx| self.sink.poll_flush_unpin(cx)).await;
            self.unflushed = false;
            flushed
        };
        room.map_err(|error| unreachable("send", error))
    }

    /// Sends the next frame, if there is one; only after [`Outbox::progress`].
    fn send_next(&mut self, ledger: &mut Ledger, link: &Link) -> Result<(), BackendError> {
        let frame = if let Some(frame) = self.urgent.pop_front() {
            frame
        } else if let Some(mailbox) = self.pending.pop_first() {
            let published = link.current().published(mailbox).cloned();
            ledger.wrote(mailbox, published.as_ref().map(|it| it.revision));
            link.wrote(true);
            let name = mailbox.to_string();
            match &published {
                Some(published) => text(&Up::Publish {
                    mailbox: name,
                    message: published.sealed.as_str(),
                }),
                None => text(&Up::Withdraw { mailbox: name }),
            }
        } else if let Some(revision) = self.mark.take() {
            Message::Ping(Bytes::copy_from_slice(&revision.to_be_bytes()))
        } else {
            return Ok(());
        };
        self.unflushed = true;
        self.sink
            .start_send_unpin(frame)
            .map_err(|error| unreachable("send", error))
    }

    /// Asks whether the server is still there.
    fn ping(&mut self) -> Result<(), BackendError> {
        if self.unanswered >= MAX_UNANSWERED {
            return Err(BackendError::Silent {
                tried: "ping",
                within: PING_INTERVAL * MAX_UNANSWERED,
            });
        }
        self.unanswered += 1;
        self.urgent.push_back(Message::Ping(Bytes::new()));
        Ok(())
    }

    /// Takes what came down.
    async fn take(&mut self, frame: Message, link: &mut Link) -> Result<(), BackendError> {
        let frame = match frame {
            Message::Text(frame) => frame,
            Message::Pong(mark) => {
                self.unanswered = 0;
                if let Ok(revision) = mark.as_ref().try_into() {
                    link.settled(u64::from_be_bytes(revision));
                }
                return Ok(());
            }
            // The answer to a ping is queued already and leaves with the next flush.
            Message::Ping(_) => {
                self.unflushed = true;
                return Ok(());
            }
            Message::Close(Some(frame)) if frame.code == CloseCode::Restart => {
                return Err(BackendError::Moved);
            }
            Message::Close(_) => return Err(BackendError::Closed),
            Message::Binary(_) | Message::Frame(_) => return Err(malformed("a binary frame")),
        };
        match serde_json::from_str(&frame) {
            Ok(Down::Message { mailbox, message }) => match (mailbox.parse(), message) {
                (Ok(mailbox), Some(message)) => link.deliver(mailbox, &message).await,
                // Withdrawn: there is nothing to hand over.
                (Ok(_), None) => {}
                (Err(_), _) => link.ignore("a mailbox that was not asked for"),
            },
            Ok(Down::Error { code }) => {
                let after = if code == "unavailable" {
                    RECOVERY
                } else {
                    AMEND
                };
                let code: String = code.to_string().chars().take(40).collect();
                tracing::debug!(code, "the server refused an operation");
                link.wrote(false);
                self.amend.get_or_insert_with(|| Instant::now() + after);
            }
            Ok(Down::IceServers { servers }) => link.ice_servers(servers).await,
            Ok(Down::Other) => {}
            Err(_) => return Err(malformed("something else than an operation in JSON")),
        }
        Ok(())
    }
}

/// The next frame; an error at the end of the stream.
async fn next(
    frames: &mut SplitStream<WebSocketStream<MaybeTlsStream<TcpStream>>>,
) -> Result<Message, BackendError> {
    match frames.next().await {
        Some(Ok(frame)) => Ok(frame),
        Some(Err(Error::Capacity(_))) => Err(malformed("more than it may")),
        Some(Err(error)) => Err(unreachable("receive", error)),
        None => Err(BackendError::Closed),
    }
}

fn text(up: &Up<'_>) -> Message {
    let text = serde_json::to_string(up).expect("strings always make JSON");
    Message::Text(text.into())
}

fn malformed(what: &'static str) -> BackendError {
    BackendError::Malformed {
        tried: "receive",
        what,
    }
}

fn unreachable(tried: &'static str, error: Error) -> BackendError {
    match error {
        Error::ConnectionClosed | Error::AlreadyClosed => BackendError::Closed,
        error => BackendError::Unreachable {
            tried,
            source: error.into(),
        },
    }
}
