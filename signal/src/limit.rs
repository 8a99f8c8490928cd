//! Bounds per source address, or per whatever else clients are told apart by, in bounded memory.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Who is counted as one: an IPv4 address, or an IPv6 /64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Source(IpAddr);

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
            v4 => v4,
        })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A token bucket per source, or per whatever else is counted: `per_minute` at once, refilled at that rate.
#[derive(Debug)]
pub(crate) struct Rate<K = Source> {
    per_minute: f64,
    table: Mutex<Table<K>>,
}

/// Sources that are told apart; those beyond share one bucket, so that a flood from ever new
/// addresses costs itself and not memory. 64 bytes each.
const SOURCES: usize = 65_536;

#[derive(Debug)]
struct Table<K> {
    buckets: HashMap<K, Bucket>,
    overflow: Bucket,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl<K: Copy + Eq + Hash> Rate<K> {
    /// Allows `per_minute` requests a minute.
    pub(crate) fn new(per_minute: u32, now: Instant) -> Self {
        let per_minute = f64::from(per_minute.max(1));
        Self {
            per_minute,
            table: Mutex::new(Table {
                buckets: HashMap::new(),
                overflow: Bucket {
                    tokens: per_minute,
                    at: now,
                },
            }),
        }
    }

    /// Takes one request from the source's bucket, or says how long it takes until there is one.
    pub(crate) fn take(&self, source: K, now: Instant) -> Result<(), Duration> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let full = table.buckets.len() >= SOURCES;
        let bucket = if full && !table.buckets.contains_key(&source) {
            &mut table.overflow
        } else {
            table.buckets.entry(source).or_insert(Bucket {
                tokens: self.per_minute,
                at: now,
            })
        };
        bucket.tokens = self.refilled(bucket, now);
        bucket.at = now;
        if bucket.tokens >= 1.0 {
            bucket.tokens -= 1.0;
            return Ok(());
        }
        Err(Duration::from_secs_f64(
            (1.0 - bucket.tokens) * 60.0 / self.per_minute,
        ))
    }

    /// Forgets the sources whose bucket is full again: a new one would be the same.
    pub(crate) fn sweep(&self, now: Instant) {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table
            .buckets
            .retain(|_, bucket| self.refilled(bucket, now) < self.per_minute);
    }

    fn refilled(&self, bucket: &Bucket, now: Instant) -> f64 {
        let elapsed = now.saturating_duration_since(bucket.at).as_secs_f64();
        (bucket.tokens + elapsed * self.per_minute / 60.0).min(self.per_minute)
    }
}

/// Counts something that sources hold at the same time, up to a bound each and a bound in all.
#[derive(Debug)]
pub(crate) struct Shares<K = Source> {
    total_limit: usize,
    each_limit: usize,
    total: usize,
    each: HashMap<K, usize>,
}

/// Which bound was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exceeded {
    /// The one of all sources together.
    Total,
    /// The one of this source.
    Each,
}

impl<K: Copy + Eq + Hash> Shares<K> {
    /// Allows `total_limit` in all and `each_limit` a source.
    pub(crate) fn new(total_limit: usize, each_limit: usize) -> Self {
        Self {
            total_limit,
            each_limit,
            total: 0,
            each: HashMap::new(),
        }
    }

    /// Counts `count` more, all or none.
    pub(crate) fn add(&mut self, source: K, count: usize) -> Result<(), Exceeded> {
        if count == 0 {
            return Ok(());
        }
        let held = self.each.get(&source).copied().unwrap_or(0);
        if held + count > self.each_limit {
            return Err(Exceeded::Each);
        }
        if self.total + count > self.total_limit {
            return Err(Exceeded::Total);
        }
        self.total += count;
        self.each.insert(source, held + count);
        Ok(())
    }

    /// Counts one more, whatever the bounds are: it is held already, and somebody else let it pass.
    pub(crate) fn add_anyway(&mut self, source: K) {
        self.total += 1;
        *self.each.entry(source).or_default() += 1;
    }

    /// How many are counted.
    pub(crate) const fn held(&self) -> usize {
        self.total
    }

    /// Counts `count` fewer.
    pub(crate) fn remove(&mut self, source: K, count: usize) {
        let Some(held) = self.each.get_mut(&source) else {
            return;
        };
        let count = count.min(*held);
        *held -= count;
        self.total -= count;
        if *held == 0 {
            self.each.remove(&source);
        }
    }
}

/// Open connections, or requests under way. A [`Slot`] is one, and gives itself back.
#[derive(Debug, Clone)]
pub(crate) struct Slots<K: Copy + Eq + Hash = Source>(Arc<Mutex<Shares<K>>>);

/// One of the [`Slots`].
#[derive(Debug)]
pub(crate) struct Slot<K: Copy + Eq + Hash = Source> {
    slots: Slots<K>,
    source: K,
}

impl<K: Copy + Eq + Hash> Slots<K> {
    /// Allows `total` in all and `each` a source.
    pub(crate) fn new(total: usize, each: usize) -> Self {
        Self(Arc::new(Mutex::new(Shares::new(total, each))))
    }

    /// Takes a slot, if the source may have one more.
    pub(crate) fn take(&self, source: K) -> Result<Slot<K>, Exceeded> {
        let mut shares = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        shares.add(source, 1)?;
        Ok(self.slot(source))
    }

    /// Takes a slot whatever the source has, if there is one at all.
    pub(crate) fn take_of_all(&self, source: K) -> Result<Slot<K>, Exceeded> {
        let mut shares = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if shares.total >= shares.total_limit {
            return Err(Exceeded::Total);
        }
        shares.add_anyway(source);
        Ok(self.slot(source))
    }

    /// How many are taken.
    pub(crate) fn held(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).held()
    }

    fn slot(&self, source: K) -> Slot<K> {
        Slot {
            slots: self.clone(),
            source,
        }
    }
}

impl<K: Copy + Eq + Hash> Drop for Slot<K> {
    fn drop(&mut self) {
        let mut shares = self.slots.0.lock().unwrap_or_else(PoisonError::into_inner);
        shares.remove(self.source, 1);
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_one_ipv6_subscriber_count_as_one() {
        let source = |text: &str| Source::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(source("2001:db8:1:2::1"), source("2001:db8:1:2:ffff::9"));
        assert_ne!(source("2001:db8:1:2::1"), source("2001:db8:1:3::1"));
        assert_eq!(source("::ffff:192.0.2.1"), source("192.0.2.1"));
    }

    #[test]
    fn a_used_up_bucket_says_when_to_come_back() {
        let start = Instant::now();
        let rate = Rate::new(60, start);
        let source = Source::from(IpAddr::from([192, 0, 2, 1]));
        for _ in 0..60 {
            assert_eq!(rate.take(source, start), Ok(()));
        }
        let wait = rate.take(source, start).unwrap_err();
        assert_eq!(rate.take(source, start + wait), Ok(()));
        assert!(rate.take(source, start + wait).is_err());
    }

    #[test]
    fn a_flood_of_new_addresses_does_not_grow_the_table() {
        let start = Instant::now();
        let rate = Rate::new(60, start);
        for number in 0..SOURCES as u32 + 5_000 {
            let _ = rate.take(Source::from(IpAddr::from(number.to_be_bytes())), start);
        }
        let kept = |rate: &Rate| rate.table.lock().unwrap().buckets.len();
        assert_eq!(kept(&rate), SOURCES);
        rate.sweep(start + Duration::from_secs(2));
        assert_eq!(kept(&rate), 0);
    }
}
