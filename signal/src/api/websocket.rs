//! The same mailboxes over one WebSocket (protocol §6, subprotocol `wice.1`).
//!
//! One task a connection. What a slow client has not read yet is a set of names: it gets the newest message of each
//! when it is ready, and costs no more memory than its subscriptions.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Extension;
use axum::extract::State;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message as Frame, WebSocket, WebSocketUpgrade, close_code};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::trace;

use super::App;
use super::servers::{IceServer, asked_host, ice_servers};
use crate::connection::Client;
use crate::mailbox::{InvalidMailbox, Mailbox, Message};
use crate::metrics::Direction;
use crate::problem::Problem;
use crate::store::{Refused, Watch, Written};
use crate::turn::User;

const SUBPROTOCOL: &str = "wice.1";

/// Between two pings; a client that leaves two unanswered is gone.
const PING: Duration = Duration::from_secs(20);

/// How long a client may take to read one frame.
const SEND: Duration = Duration::from_secs(30);

/// How long a client may take to read the goodbye.
const GOODBYE: Duration = Duration::from_secs(2);

/// Bytes that a connection reads at once, and keeps room for while it is idle; a longer frame takes what it needs. The library's
/// own 128 KiB would be most of what a client costs.
const READ_BUFFER: usize = 4 * 1024;

/// Bytes that one mailbox takes in a subscription, generously.
const BYTES_PER_MAILBOX: usize = 64;

/// What a client sends.
#[derive(Debug, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
enum Request {
    Subscribe { mailboxes: Vec<String> },
    Unsubscribe { mailboxes: Vec<String> },
    Publish { mailbox: String, message: String },
    Withdraw { mailbox: String },
}

/// What a client gets.
#[derive(Debug, Serialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
enum Reply<'a> {
    Message {
        mailbox: String,
        message: &'a str,
    },
    IceServers {
        servers: &'a [IceServer],
    },
    Error {
        code: &'a str,
        detail: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        mailbox: Option<String>,
    },
}

/// The client is gone, or is to go.
struct Closed;

/// `GET`: becomes a WebSocket.
pub(super) async fn upgrade(
    State(app): State<Arc<App>>,
    Extension(client): Extension<Client>,
    uri: Uri,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Problem> {
    let upgrade = upgrade.map_err(|_| {
        let detail = "this path speaks WebSocket (RFC 6455, version 13, over HTTP/1.1)";
        Problem::new(StatusCode::UPGRADE_REQUIRED, "upgrade-required", detail)
    })?;
    let upgrade = upgrade.protocols([SUBPROTOCOL]);
    if upgrade.selected_protocol().is_none() {
        let detail = format!("the WebSocket must offer the subprotocol {SUBPROTOCOL}");
        return Err(Problem::bad_request(detail));
    }
    let longest = longest_frame(&app);
    let asked = asked_host(&uri, &headers);
    Ok(upgrade
        .read_buffer_size(READ_BUFFER)
        .max_message_size(longest)
        .max_frame_size(longest)
        .on_upgrade(move |socket| async move {
            let stop = client.stop.clone();
            let _open = app.metrics.websocket();
            let session = Session {
                watch: app.store.watch(client.source),
                app,
                client,
                socket,
                unanswered: 0,
                asked,
                user: User::random(),
            };
            tokio::select! {
                () = stop.over() => {}
                () = session.run() => {}
            }
        }))
}

/// Bytes of the longest operation: a subscription or, escaped at worst, a message.
fn longest_frame(app: &App) -> usize {
    let subscription = app.limits.mailboxes_per_request * BYTES_PER_MAILBOX;
    1024 + subscription.max(6 * app.limits.message_bytes)
}

struct Session {
    app: Arc<App>,
    client: Client,
    socket: WebSocket,
    watch: Watch,
    unanswered: u32,
    /// The host by which the client reached this server.
    asked: Option<String>,
    /// Who it is to the TURN server, as long as this connection lasts.
    user: User,
}

impl Session {
    async fn run(mut self) {
        // Ends either with the reason for the close, or with a client that left.
        let Ok(reason) = self.serve().await else {
            return;
        };
        let goodbye = async {
            let _ = self.socket.send(Frame::Close(Some(reason))).await;
            // Reads on until the client has closed too, lest a reset swallow the reason.
            while let Some(Ok(_)) = self.socket.recv().await {}
        };
        let _ = timeout(GOODBYE, goodbye).await;
    }

    async fn serve(&mut self) -> Result<CloseFrame, Closed> {
        self.tell_servers().await?;
        let renewal = self.renewal();
        let stop = self.client.stop.clone();
        let goodbye = stop.goodbye();
        tokio::pin!(goodbye);
        let mut pings = interval(PING);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        pings.reset();
        let mut renewals = interval(renewal.unwrap_or(Duration::MAX / 4));
        renewals.set_missed_tick_behavior(MissedTickBehavior::Delay);
        renewals.reset();
        loop {
            tokio::select! {
                _ = renewals.tick(), if renewal.is_some() => self.tell_servers().await?,
                () = &mut goodbye => {
                    if stop.is_move() {
                        return Ok(close(close_code::RESTART, "the server is stopping; others have your mailboxes"));
                    }
                    return Ok(close(close_code::AWAY, "the server is stopping"));
                }
                frame = self.socket.recv() => {
                    let frame = match frame {
                        Some(Ok(frame)) => frame,
                        Some(Err(error)) => return self.unreadable(&error).await,
                        None => return Err(Closed),
                    };
                    self.unanswered = 0;
                    self.take(frame).await?;
                }
                changed = self.watch.changed() => self.deliver(changed).await?,
                _ = pings.tick() => {
                    if self.unanswered >= 2 {
                        trace!("WebSocket client is gone");
                        return Err(Closed);
                    }
                    self.unanswered += 1;
                    self.frame(Frame::Ping(Vec::new().into())).await?;
                }
            }
        }
    }

    /// Tells the client which servers it may use, with new credentials.
    async fn tell_servers(&mut self) -> Result<(), Closed> {
        let servers = ice_servers(&self.app, self.asked.as_deref(), &self.user);
        if servers.is_empty() {
            return Ok(());
        }
        self.send(&Reply::IceServers { servers: &servers }).await
    }

    /// How often credentials are renewed: well before they end, and not all clients' at once.
    fn renewal(&self) -> Option<Duration> {
        let ttl = self.app.turn.as_ref()?.issuer.ttl();
        let jitter = f64::from(getrandom::u32().unwrap_or(0)) / f64::from(u32::MAX);
        let part = 0.4 + 0.1 * jitter;
        Some(ttl.mul_f64(part).max(Duration::from_secs(1)))
    }

    /// A frame that cannot be read: too long, not UTF-8, or no WebSocket. Says so, if the client still listens.
    async fn unreadable(&mut self, error: &axum::Error) -> Result<CloseFrame, Closed> {
        trace!("WebSocket frame: {error}");
        if !error.to_string().contains("too long") {
            return Ok(close(close_code::PROTOCOL, "not a readable frame"));
        }
        let problem = Problem::too_large(longest_frame(&self.app));
        self.complain(&problem, None).await?;
        Ok(close(close_code::SIZE, "the frame is too long"))
    }

    async fn take(&mut self, frame: Frame) -> Result<(), Closed> {
        let text = match frame {
            Frame::Text(text) => text,
            Frame::Binary(_) => {
                let problem = Problem::bad_request("operations are JSON in text frames");
                return self.complain(&problem, None).await;
            }
            // Pings are answered below this layer, and a close ends the stream.
            Frame::Ping(_) | Frame::Pong(_) | Frame::Close(_) => return Ok(()),
        };
        if let Err(problem) = self.app.take(&self.client) {
            return self.complain(&problem, None).await;
        }
        let request = match serde_json::from_str(text.as_str()) {
            Ok(request) => request,
            Err(error) => {
                let problem = Problem::bad_request(format!("not an operation: {error}"));
                return self.complain(&problem, None).await;
            }
        };
        match self.apply(request).await {
            Ok(()) => Ok(()),
            Err((problem, mailbox)) => self.complain(&problem, mailbox).await,
        }
    }

    /// Carries one operation out, or says why not, and for which mailbox.
    async fn apply(&mut self, request: Request) -> Result<(), (Problem, Option<Mailbox>)> {
        let about_none = |error: Problem| (error, None);
        match request {
            Request::Subscribe { mailboxes } => {
                let mailboxes = self.names(&mailboxes).map_err(about_none)?;
                let added = self.watch.add(&mailboxes);
                added.map_err(|error| about_none(error.into()))
            }
            Request::Unsubscribe { mailboxes } => {
                let mailboxes = self.names(&mailboxes).map_err(about_none)?;
                self.watch.remove(&mailboxes);
                Ok(())
            }
            Request::Publish { mailbox, message } => {
                let mailbox = name(&mailbox).map_err(about_none)?;
                let limit = self.app.limits.message_bytes;
                let about = |error| (error, Some(mailbox));
                if message.is_empty() {
                    return Err(about(Problem::unprocessable("a message is not empty")));
                }
                if message.len() > limit {
                    return Err(about(Problem::too_large(limit)));
                }
                let message = Message::new(&message);
                let now = Instant::now();
                let written = self
                    .app
                    .store
                    .put(mailbox, message, self.client.source, now);
                // The next frame waits: an answered ping tells the client that all before it is kept.
                let kept = kept(written).await;
                self.app
                    .metrics
                    .messages(Direction::In, usize::from(kept.is_ok()));
                kept.map_err(|error| about(error.into()))
            }
            Request::Withdraw { mailbox } => {
                let mailbox = name(&mailbox).map_err(about_none)?;
                let kept = kept(self.app.store.withdraw(mailbox)).await;
                kept.map_err(|error| (error.into(), Some(mailbox)))
            }
        }
    }

    fn names(&self, texts: &[String]) -> Result<BTreeSet<Mailbox>, Problem> {
        let most = self.app.limits.mailboxes_per_request;
        if texts.len() > most {
            let detail = format!("at most {most} mailboxes at a time; use several operations");
            return Err(Problem::unprocessable(detail));
        }
        texts.iter().map(|text| name(text)).collect()
    }

    /// Sends the newest message of each. Names that change meanwhile are noted again by the watch.
    async fn deliver(&mut self, changed: BTreeSet<Mailbox>) -> Result<(), Closed> {
        for mailbox in changed {
            if let Some(message) = self.app.store.known(mailbox, Instant::now()) {
                let reply = Reply::Message {
                    mailbox: mailbox.to_hex(),
                    message: &message.text,
                };
                self.send(&reply).await?;
                self.app.metrics.messages(Direction::Out, 1);
            }
        }
        Ok(())
    }

    async fn complain(
        &mut self,
        problem: &Problem,
        mailbox: Option<Mailbox>,
    ) -> Result<(), Closed> {
        self.app.metrics.refused(problem.code());
        let reply = Reply::Error {
            code: problem.code(),
            detail: problem.detail(),
            mailbox: mailbox.map(Mailbox::to_hex),
        };
        self.send(&reply).await
    }

    async fn send(&mut self, reply: &Reply<'_>) -> Result<(), Closed> {
        let text = serde_json::to_string(reply).expect("strings become JSON");
        self.frame(Frame::text(text)).await
    }

    async fn frame(&mut self, frame: Frame) -> Result<(), Closed> {
        match timeout(SEND, self.socket.send(frame)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Closed),
        }
    }
}

async fn kept(written: Result<Written, Refused>) -> Result<(), Refused> {
    written?.kept().await
}

fn name(text: &str) -> Result<Mailbox, Problem> {
    text.parse()
        .map_err(|error: InvalidMailbox| Problem::from(error))
}

fn close(code: u16, reason: &'static str) -> CloseFrame {
    CloseFrame {
        code,
        reason: reason.into(),
    }
}
