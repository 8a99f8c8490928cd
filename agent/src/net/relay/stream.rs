//! TURN messages on a TCP connection, with TLS or without: found in the stream, queued, and written when there is room.
//!
//! Must not know what the messages say, but for their length.

use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::net::SocketAddr;

use rustls::ClientConnection;
use socket2::SockRef;
use tokio::net::TcpStream;

use super::problem::Problem;
use crate::net::batch::Train;

/// A connection to a server.
#[derive(Debug)]
pub(super) struct Stream {
    tcp: TcpStream,
    server: SocketAddr,
    tls: Option<RefCell<ClientConnection>>,
    /// What arrived of a message that is not complete.
    incoming: RefCell<Vec<u8>>,
    /// What there is no room for yet.
    outgoing: RefCell<Vec<u8>>,
}

/// More is not kept waiting: what a slow path cannot carry is lost, as on any path, rather than late.
const LONGEST_QUEUE: usize = 256 << 10;
/// Read at a time.
const CHUNK: usize = 128 << 10;
/// What one TLS record holds.
const RECORD: usize = 16 << 10;
const STUN_HEADER: usize = 20;
const CHANNEL_HEADER: usize = 4;

impl Stream {
    pub(super) fn new(tcp: TcpStream, server: SocketAddr, tls: Option<ClientConnection>) -> Self {
        Self {
            tcp,
            server,
            tls: tls.map(RefCell::new),
            incoming: RefCell::default(),
            outgoing: RefCell::default(),
        }
    }

    pub(super) fn socket(&self) -> SockRef<'_> {
        SockRef::from(&self.tcp)
    }

    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// Waits until something arrived; cancel-safe.
    pub(super) async fn readable(&self) -> io::Result<()> {
        self.tcp.readable().await
    }

    /// Waits until there is room for what is queued, for ever when nothing is; cancel-safe.
    pub(super) async fn writable(&self) -> io::Result<()> {
        if !self.is_queued() {
            return std::future::pending().await;
        }
        self.tcp.writable().await
    }

    /// Hands out the messages that have arrived.
    pub(super) fn receive(
        &self,
        buffer: &mut Vec<u8>,
        mut each: impl FnMut(&[u8]),
    ) -> Result<usize, Problem> {
        buffer.resize(CHUNK, 0);
        let mut incoming = self.incoming.borrow_mut();
        let closed = match self.read(buffer) {
            Ok(0) => true,
            Ok(length) => {
                incoming.extend_from_slice(&buffer[..length]);
                false
            }
            Err(Problem::Unreachable { source, .. })
                if source.kind() == io::ErrorKind::WouldBlock =>
            {
                return Ok(0);
            }
            Err(problem) => return Err(problem),
        };
        let (mut at, mut count) = (0, 0);
        while let Some(length) = self.message(&incoming[at..])? {
            each(&incoming[at..at + length]);
            at += length;
            count += 1;
        }
        incoming.drain(..at);
        if closed {
            return Err(Problem::Closed {
                server: self.server,
            });
        }
        Ok(count)
    }

    /// Queues messages, each padded as its kind wants it, and writes what there is room for.
    pub(super) fn send(&self, train: &Train) -> Result<(), Problem> {
        {
            let mut outgoing = self.outgoing.borrow_mut();
            for message in train.iter() {
                if outgoing.len() < LONGEST_QUEUE {
                    outgoing.extend_from_slice(message);
                }
            }
        }
        self.flush()
    }

    /// Writes what there is room for.
    pub(super) fn flush(&self) -> Result<(), Problem> {
        let mut outgoing = self.outgoing.borrow_mut();
        let mut written = 0;
        let outcome = match &self.tls {
            Some(tls) => self.flush_tls(&mut tls.borrow_mut(), &outgoing, &mut written),
            None => self.flush_plain(&outgoing, &mut written),
        };
        outgoing.drain(..written);
        match outcome {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(self.failed(error)),
            _ => Ok(()),
        }
    }

    fn flush_plain(&self, outgoing: &[u8], written: &mut usize) -> io::Result<()> {
        while *written < outgoing.len() {
            *written += self.tcp.try_write(&outgoing[*written..])?;
        }
        Ok(())
    }

    fn flush_tls(
        &self,
        tls: &mut ClientConnection,
        outgoing: &[u8],
        written: &mut usize,
    ) -> io::Result<()> {
        loop {
            while tls.wants_write() {
                tls.write_tls(&mut Raw(&self.tcp))?;
            }
            let rest = &outgoing[*written..];
            if rest.is_empty() {
                return Ok(());
            }
            *written += tls.writer().write(&rest[..rest.len().min(RECORD)])?;
        }
    }

    fn is_queued(&self) -> bool {
        let secured = self.tls.as_ref();
        !self.outgoing.borrow().is_empty() || secured.is_some_and(|tls| tls.borrow().wants_write())
    }

    fn read(&self, buffer: &mut [u8]) -> Result<usize, Problem> {
        let Some(tls) = &self.tls else {
            return self
                .tcp
                .try_read(buffer)
                .map_err(|error| self.failed(error));
        };
        let tls = &mut *tls.borrow_mut();
        let mut length = 0;
        loop {
            match tls.reader().read(&mut buffer[length..]) {
                // Closed, or the buffer is full.
                Ok(0) => return Ok(length),
                Ok(more) => {
                    length += more;
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(self.failed(error)),
            }
            match tls.read_tls(&mut Raw(&self.tcp)) {
                Ok(0) => return Ok(length),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && length > 0 => {
                    return Ok(length);
                }
                Err(error) => return Err(self.failed(error)),
            }
            let processed = tls.process_new_packets();
            // Its part of the handshake, or the alert that says what is wrong.
            let flushed = self.flush_tls(tls, &[], &mut 0);
            processed.map_err(|source| Problem::Tls {
                server: self.server,
                source,
            })?;
            match flushed {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                    return Err(self.failed(error));
                }
                _ => {}
            }
        }
    }

    /// The length of the message at the start, with its padding, once it is all there.
    fn message(&self, bytes: &[u8]) -> Result<Option<usize>, Problem> {
        let Some(header) = bytes.get(..CHANNEL_HEADER) else {
            return Ok(None);
        };
        let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
        let whole = match header[0] >> 6 {
            0 => STUN_HEADER + length,
            1 => CHANNEL_HEADER + length.next_multiple_of(4),
            _ => {
                return Err(Problem::Foreign {
                    server: self.server,
                });
            }
        };
        Ok((bytes.len() >= whole).then_some(whole))
    }

    fn failed(&self, source: io::Error) -> Problem {
        Problem::Unreachable {
            server: self.server,
            source,
        }
    }
}

/// The connection, as the TLS library reads and writes it.
struct Raw<'a>(&'a TcpStream);

impl Read for Raw<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}

impl Write for Raw<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.0.try_write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
