//! TURN over TCP and TLS: frames of a connection, and what is sent back on it.
//!
//! Every wait for a client has an end here, so that silent connections cannot pile up.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout};
use tracing::{trace, warn};

use super::allocation::{Door, Key};
use super::outbox::Outbox;
use super::relay::{Client, Relay, canonical};
use crate::limit::{Slots, Source};
use crate::tls::Tls;

/// How long a client may take to read what is sent to it.
const SEND: Duration = Duration::from_secs(30);

/// The longest frame: channel data of 65,535 bytes with its header and padding.
const LONGEST_FRAME: usize = 65_540;

/// What each accepted connection needs.
#[derive(Debug, Clone)]
pub(super) struct Hall {
    pub(super) relay: Rc<RefCell<Relay>>,
    pub(super) slots: Slots,
    pub(super) tls: Option<Tls>,
    /// For a TLS handshake, for a frame that has begun, and for an allocation: what takes longer is no client.
    pub(super) patience: Duration,
    /// Numbers the connections of all listeners.
    pub(super) last: Rc<std::cell::Cell<u64>>,
}

/// Accepts connections, for ever.
pub(super) async fn accept(listener: TcpListener, hall: Hall) {
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                if error.kind() != io::ErrorKind::ConnectionAborted {
                    warn!("cannot accept a TURN connection: {error}; trying again");
                    sleep(Duration::from_millis(200)).await;
                }
                continue;
            }
        };
        let Ok(slot) = hall.slots.take(Source::from(peer.ip())) else {
            trace!(%peer, "TURN connection refused: too many");
            continue;
        };
        let hall = hall.clone();
        tokio::task::spawn_local(async move {
            connection(stream, peer, hall).await;
            drop(slot);
        });
    }
}

async fn connection(stream: TcpStream, peer: SocketAddr, hall: Hall) {
    // Fails on a socket that is closed already, which is noticed below.
    let _ = stream.set_nodelay(true);
    let Some(tls) = &hall.tls else {
        return serve(stream, peer, &hall).await;
    };
    match timeout(hall.patience, tls.turn_acceptor().accept(stream)).await {
        Ok(Ok(stream)) => serve(stream, peer, &hall).await,
        Ok(Err(error)) => trace!(%peer, "TLS handshake failed: {error}"),
        Err(_) => trace!(%peer, "TLS handshake took too long"),
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite, peer: SocketAddr, hall: &Hall) {
    hall.last.set(hall.last.get() + 1);
    let key = Key::Stream(hall.last.get());
    let outbox = Rc::new(Outbox::default());
    let client = Client {
        key,
        address: canonical(peer),
        door: Door::Stream(Rc::clone(&outbox)),
    };
    let (reader, writer) = split(stream);
    tokio::select! {
        () = read(reader, &client, hall, &outbox) => {}
        () = write(writer, &outbox) => {}
    }
    hall.relay.borrow_mut().gone(&key);
}

/// Takes frames until the client leaves, sends something that is none, or is of no use any more.
async fn read(reader: impl AsyncRead, client: &Client, hall: &Hall, outbox: &Outbox) {
    tokio::pin!(reader);
    let mut frames = Frames::default();
    // Since when there has been no allocation, and since when a frame has been incomplete.
    let mut useless = Some(Instant::now());
    let mut partial: Option<Instant> = None;
    loop {
        match timeout(hall.patience / 4, reader.read(frames.room())).await {
            Ok(Ok(0) | Err(_)) => return,
            Ok(Ok(count)) => frames.filled(count),
            Err(_) => {}
        }
        let mut any = false;
        {
            let mut relay = hall.relay.borrow_mut();
            loop {
                let frame = match frames.next() {
                    Ok(Some(frame)) => frame,
                    Ok(None) => break,
                    Err(NoFrame) => {
                        relay.flush();
                        return trace!(client = %client.address, "no TURN on a TURN connection");
                    }
                };
                any = true;
                if let Some(answer) = relay.frame(client, frame) {
                    outbox.answer(&answer.bytes);
                }
            }
            relay.flush();
            useless = match relay.knows(&client.key) {
                true => None,
                false => useless.or(Some(Instant::now())),
            };
        }
        partial = match frames.is_empty() {
            true => None,
            false if any => Some(Instant::now()),
            false => partial.or(Some(Instant::now())),
        };
        let over =
            |since: Option<Instant>| since.is_some_and(|since| since.elapsed() > hall.patience);
        if over(useless) || over(partial) {
            return trace!(client = %client.address, "closing an idle TURN connection");
        }
    }
}

/// Sends what waits, until the client does not take it.
async fn write(writer: impl AsyncWrite, outbox: &Outbox) {
    tokio::pin!(writer);
    let mut buffer = Vec::new();
    while outbox.take(&mut buffer).await {
        let sent = async {
            writer.write_all(&buffer).await?;
            writer.flush().await
        };
        if !matches!(timeout(SEND, sent).await, Ok(Ok(()))) {
            return;
        }
    }
}

/// Bytes that begin no frame.
#[derive(Debug, PartialEq, Eq)]
struct NoFrame;

/// Cuts a stream into messages and channel data (RFC 8656 §3.1, §12.5).
#[derive(Debug, Default)]
struct Frames {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Frames {
    /// Where to read to: as much as the longest frame could need.
    fn room(&mut self) -> &mut [u8] {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        // A connection that never says much never takes much.
        let size = if self.end < 1_024 {
            4_096
        } else {
            LONGEST_FRAME
        };
        if self.start > 0 && self.bytes.len() - self.end < self.end - self.start + 1_024 {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if self.bytes.len() < size.max(self.end + 1) {
            self.bytes.resize(size.max(self.end + 1), 0);
        }
        &mut self.bytes[self.end..]
    }

    fn filled(&mut self, count: usize) {
        self.end += count;
    }

    fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// The next whole frame.
    fn next(&mut self) -> Result<Option<&[u8]>, NoFrame> {
        let bytes = &self.bytes[self.start..self.end];
        let &[kind, _, high, low, ..] = bytes else {
            // A byte that begins nothing is not waited on.
            return match bytes.first() {
                Some(kind) if *kind > 0x7f => Err(NoFrame),
                _ => Ok(None),
            };
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        let whole = match kind {
            0x00..=0x3f => 20 + length,
            0x40..=0x7f => 4 + length.next_multiple_of(4),
            _ => return Err(NoFrame),
        };
        if whole > LONGEST_FRAME {
            return Err(NoFrame);
        }
        if bytes.len() < whole {
            return Ok(None);
        }
        let frame = self.start..self.start + whole;
        self.start = frame.end;
        Ok(Some(&self.bytes[frame]))
    }
}
