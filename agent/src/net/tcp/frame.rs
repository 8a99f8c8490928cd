//! Packets on a stream: two bytes of length before each (RFC 4571).
//!
//! Bytes only; no sockets here, and nothing of what the packets carry.

use thiserror::Error;

/// Cuts what a stream delivers into packets.
#[derive(Debug)]
pub(super) struct Incoming {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    longest: usize,
}

/// The length before each packet, in bytes.
const PREFIX: usize = 2;

/// A packet is announced that is longer than what is taken from this sender.
#[derive(Debug, Error)]
#[error("a frame of {length} bytes, where at most {longest} are taken")]
pub(super) struct TooLong {
    length: usize,
    longest: usize,
}

impl Incoming {
    /// Takes packets of at most `longest` bytes.
    pub(super) fn new(longest: usize) -> Self {
        Self {
            buffer: vec![0; PREFIX + longest],
            start: 0,
            end: 0,
            longest,
        }
    }

    /// Takes longer packets from now on, and has room for two of them.
    pub(super) fn set_longest(&mut self, longest: usize) {
        self.longest = longest;
        let room = 2 * (PREFIX + longest);
        if self.buffer.len() < room {
            self.buffer.resize(room, 0);
        }
    }

    /// Where to put what is read next; never empty while [`Incoming::next`] is asked until it has no more.
    pub(super) fn room(&mut self) -> &mut [u8] {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        &mut self.buffer[self.end..]
    }

    /// So many bytes were read into the room.
    pub(super) fn filled(&mut self, count: usize) {
        self.end += count;
    }

    /// The next whole packet. An empty one says nothing, and is passed over.
    pub(super) fn next(&mut self) -> Result<Option<&[u8]>, TooLong> {
        loop {
            let Some([high, low]) = self.buffer[self.start..self.end].first_chunk() else {
                return Ok(None);
            };
            let length = usize::from(u16::from_be_bytes([*high, *low]));
            if length > self.longest {
                return Err(TooLong {
                    length,
                    longest: self.longest,
                });
            }
            let packet = self.start + PREFIX;
            if self.end < packet + length {
                return Ok(None);
            }
            self.start = packet + length;
            if length > 0 {
                return Ok(Some(&self.buffer[packet..self.start]));
            }
        }
    }
}

/// Packets that wait until a stream takes them: few, because a packet that waits long is worse than a lost one.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    buffer: Vec<u8>,
    start: usize,
}

/// Half a second at 1 Mbit/s. What the socket itself holds back is bounded beside it.
const WAITING: usize = 64 << 10;
/// Beyond that for STUN, which tells whether the stream is alive.
const RESERVE: usize = 8 << 10;

impl Outgoing {
    /// Adds a packet of a tunnel; false when too many wait, or when it is longer than a frame can say.
    pub(super) fn push(&mut self, packet: &[u8]) -> bool {
        self.add(packet, WAITING)
    }

    /// The same for STUN, which has a little room of its own.
    pub(super) fn push_stun(&mut self, packet: &[u8]) -> bool {
        self.add(packet, WAITING + RESERVE)
    }

    /// What waits, in the order in which it came.
    pub(super) fn waiting(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    /// Tells whether enough waits to be worth a call.
    pub(super) fn is_full(&self) -> bool {
        self.waiting().len() > WAITING / 2
    }

    /// So many bytes of what waited were taken.
    pub(super) fn taken(&mut self, count: usize) {
        self.start += count;
        if self.start == self.buffer.len() {
            self.buffer.clear();
            self.start = 0;
        }
    }

    fn add(&mut self, packet: &[u8], most: usize) -> bool {
        let Ok(length) = u16::try_from(packet.len()) else {
            return false;
        };
        if self.waiting().len() + PREFIX + packet.len() > most {
            return false;
        }
        if self.start > WAITING {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(&length.to_be_bytes());
        self.buffer.extend_from_slice(packet);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::{Incoming, Outgoing, RESERVE, WAITING};

    fn feed(incoming: &mut Incoming, bytes: &[u8]) {
        incoming.room()[..bytes.len()].copy_from_slice(bytes);
        incoming.filled(bytes.len());
    }

    #[test]
    fn packets_survive_any_cut_of_the_stream() {
        let packets = [vec![1; 1], vec![], vec![2; 700], vec![3; 2048]];
        let mut outgoing = Outgoing::default();
        for packet in &packets {
            assert!(outgoing.push(packet));
        }
        let stream = outgoing.waiting().to_vec();
        for piece in [1, 2, 3, 511, 2050] {
            let mut incoming = Incoming::new(2048);
            let mut seen = Vec::new();
            let mut rest = stream.as_slice();
            while !rest.is_empty() {
                let count = piece.min(rest.len()).min(incoming.room().len());
                assert!(count > 0, "there is always room");
                feed(&mut incoming, &rest[..count]);
                rest = &rest[count..];
                while let Some(packet) = incoming.next().expect("none is too long") {
                    seen.push(packet.to_vec());
                }
            }
            let told: Vec<_> = packets.iter().filter(|it| !it.is_empty()).collect();
            assert_eq!(seen.iter().collect::<Vec<_>>(), told, "pieces of {piece}");
        }
    }

    #[test]
    fn a_packet_that_is_announced_too_long_ends_the_stream_before_it_is_read() {
        let mut incoming = Incoming::new(2048);
        feed(&mut incoming, &2049_u16.to_be_bytes());
        assert!(incoming.next().is_err());
        incoming.set_longest(usize::from(u16::MAX));
        assert!(incoming.next().expect("it is taken now").is_none());
    }

    #[test]
    fn what_waits_is_bounded_and_stun_has_room_beyond() {
        let mut outgoing = Outgoing::default();
        let packet = [0; 1400];
        while outgoing.push(&packet) {}
        assert!(outgoing.waiting().len() <= WAITING);
        assert!(outgoing.push_stun(&[0; 100]));
        while outgoing.push_stun(&[0; 100]) {}
        assert!(outgoing.waiting().len() <= WAITING + RESERVE);
        let all = outgoing.waiting().len();
        outgoing.taken(5000);
        assert_eq!(outgoing.waiting().len(), all - 5000);
        assert!(!outgoing.push(&[0; 70_000]), "longer than a frame");
    }
}
