//! Typed ids. Each is parsed once where it enters and carried as its type from there on.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use uuid::Uuid;

/// Which part of the channels, and so which log: `hash(channel) mod shards`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(u16);

/// The most shards a layout may have.
pub const MAX_SHARDS: u16 = 1024;

/// The name of [`ShardId::of_channel`]'s hash, as it stands in the layout record (rule L7).
pub const SHARD_HASH: &str = "xxh3-64";

impl ShardId {
    /// `None` above [`MAX_SHARDS`].
    pub fn new(number: u32) -> Option<Self> {
        u16::try_from(number).ok().filter(|n| *n < MAX_SHARDS).map(Self)
    }

    /// The shard of a channel, given how many there are. The same on every machine and in every
    /// release: changing it is changing the layout.
    pub fn of_channel(channel: &str, shards: ShardCount) -> Self {
        let hash = xxhash_rust::xxh3::xxh3_64(channel.as_bytes());
        // The remainder is below a u16, so the cast keeps it.
        Self((hash % u64::from(shards.get())) as u16)
    }

    /// The plain number.
    pub fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How many shards there are: 1 to [`MAX_SHARDS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShardCount(u16);

impl ShardCount {
    /// `None` for 0 and above [`MAX_SHARDS`].
    pub fn new(count: u32) -> Option<Self> {
        u16::try_from(count)
            .ok()
            .filter(|n| (1..=MAX_SHARDS).contains(n))
            .map(Self)
    }

    /// The plain number.
    pub fn get(self) -> u16 {
        self.0
    }

    /// All shards, in order.
    pub fn iter(self) -> impl Iterator<Item = ShardId> {
        (0..self.0).map(ShardId)
    }
}

/// A record's place in its shard's log. The first record is 1; 0 is "before the first".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Sequence(pub u64);

impl Sequence {
    /// The place after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Bits of an offset that hold the place within a batch.
const INDEX_BITS: u32 = 12;

/// The most messages one batch may hold.
pub const MAX_BATCH: usize = 1 << INDEX_BITS;

/// A message's place in its shard's log: `sequence << 12 | index in batch`. Grows, is not
/// contiguous, and stays exact in JavaScript's numbers for 2^41 batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Offset(u64);

impl Offset {
    /// Before every message.
    pub const ZERO: Self = Self(0);

    /// The place `index` (below [`MAX_BATCH`]) of the batch at `sequence`.
    pub fn new(sequence: Sequence, index: usize) -> Self {
        debug_assert!(index < MAX_BATCH);
        Self(sequence.0 << INDEX_BITS | (index as u64 & (MAX_BATCH as u64 - 1)))
    }

    /// As it crosses a wire.
    pub fn from_u64(raw: u64) -> Self {
        Self(raw)
    }

    /// The position of somebody who has the whole record at `sequence` and all before it.
    pub fn end_of(sequence: Sequence) -> Self {
        Self(sequence.0 << INDEX_BITS | (MAX_BATCH as u64 - 1))
    }

    /// As it crosses a wire.
    pub fn get(self) -> u64 {
        self.0
    }

    /// The record it is in.
    pub fn sequence(self) -> Sequence {
        Sequence(self.0 >> INDEX_BITS)
    }

    /// The place in that record, below [`MAX_BATCH`].
    pub fn index(self) -> usize {
        // The mask leaves 12 bits.
        (self.0 & (MAX_BATCH as u64 - 1)) as usize
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The sequence of the fence record with which an owner took over. 0: nobody ever did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct OwnerEpoch(pub u64);

impl fmt::Display for OwnerEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Names the life of a shard's log. A new one means that offsets start over. Clients see it as
/// `epoch`, an ordinal and a random part, such as `1-9f3ac0de`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogEpoch {
    /// Counts the lives of this shard's log, from 1.
    pub ordinal: u32,
    /// Tells two logs apart that were both begun as the same ordinal.
    pub random: u32,
}

impl LogEpoch {
    /// One number that orders by ordinal, as stores write it.
    pub fn as_number(self) -> u64 {
        (u64::from(self.ordinal) << 32) | u64::from(self.random)
    }

    /// The inverse of [`LogEpoch::as_number`].
    pub fn from_number(number: u64) -> Self {
        let half = |number: u64| u32::try_from(number & u64::from(u32::MAX)).unwrap_or(u32::MAX);
        Self {
            ordinal: half(number >> 32),
            random: half(number),
        }
    }
}

impl fmt::Display for LogEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:08x}", self.ordinal, self.random)
    }
}

/// Text or bytes that are not the id they stand for.
#[derive(Debug, thiserror::Error, PartialEq, Eq, Clone, Copy)]
#[error("not a {0}")]
pub struct InvalidId(pub &'static str);

impl FromStr for LogEpoch {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let invalid = InvalidId("log epoch");
        let (ordinal, random) = text.split_once('-').ok_or(invalid)?;
        if random.len() != 8 {
            return Err(invalid);
        }
        Ok(Self {
            ordinal: ordinal.parse().ok().filter(|n| *n > 0).ok_or(invalid)?,
            random: u32::from_str_radix(random, 16).map_err(|_| invalid)?,
        })
    }
}

/// One life of one process (a gateway, a router, …): a random id, new at each start.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation([u8; 16]);

impl Incarnation {
    /// A new life.
    pub fn random() -> Self {
        Self(*Uuid::new_v4().as_bytes())
    }

    /// For tests and simulations that need the same ids each time.
    pub const fn from_u128(number: u128) -> Self {
        Self(number.to_be_bytes())
    }

    /// As it crosses a wire.
    pub fn to_bytes(self) -> Bytes {
        Bytes::copy_from_slice(&self.0)
    }

    /// The raw id, for hashing.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl TryFrom<&[u8]> for Incarnation {
    type Error = InvalidId;

    fn try_from(bytes: &[u8]) -> Result<Self, InvalidId> {
        bytes.try_into().map(Self).map_err(|_| InvalidId("incarnation"))
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Uuid::from_bytes(self.0).simple().fmt(f)
    }
}

impl fmt::Debug for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Incarnation {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let uuid = Uuid::try_parse(text).map_err(|_| InvalidId("incarnation"))?;
        Ok(Self(*uuid.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_sort_as_the_log_does() {
        let first = Offset::new(Sequence(7), 0);
        let last = Offset::new(Sequence(7), MAX_BATCH - 1);
        assert!(Offset::ZERO < first && first < last);
        assert_eq!(last, Offset::end_of(Sequence(7)));
        assert!(last < Offset::new(Sequence(8), 0));
        assert_eq!(last.sequence(), Sequence(7));
    }

    #[test]
    fn offsets_stay_exact_in_javascript() {
        assert!(Offset::end_of(Sequence((1 << 41) - 1)).get() < (1 << 53));
    }

    /// A changed hash would send every channel to another log.
    #[test]
    fn channels_keep_their_shard() {
        let sixteen = ShardCount::new(16).unwrap();
        let shards: Vec<u16> = ["room:42", "#alice", "dm:#alice,bob", "$broadcast"]
            .iter()
            .map(|channel| ShardId::of_channel(channel, sixteen).get())
            .collect();
        assert_eq!(shards, GOLDEN_SHARDS);
    }
    const GOLDEN_SHARDS: [u16; 4] = [10, 4, 9, 7];

    #[test]
    fn log_epoch_reads_what_it_writes() {
        let epoch = LogEpoch {
            ordinal: 3,
            random: 0xab,
        };
        assert_eq!(epoch.to_string(), "3-000000ab");
        assert_eq!("3-000000ab".parse::<LogEpoch>().unwrap(), epoch);
        for wrong in ["", "_", "3", "0-000000ab", "3-ab", "x-000000ab", "3-0000000g"] {
            assert!(wrong.parse::<LogEpoch>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn incarnation_reads_what_it_writes() {
        let incarnation = Incarnation::random();
        assert_eq!(
            incarnation.to_string().parse::<Incarnation>().unwrap(),
            incarnation
        );
        assert_eq!(
            Incarnation::try_from(incarnation.to_bytes().as_ref()).unwrap(),
            incarnation
        );
        assert!(Incarnation::try_from([0_u8; 15].as_slice()).is_err());
    }
}
