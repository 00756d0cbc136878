//! Cursors of `history.list`: where a page ended and what was asked for, as text that clients only hand back.
//!
//! A cursor belongs to a channel, and carries a digest over both: one of another channel, or one that was changed, is told from
//! a whole one. It gives no rights, so it needs no secret: each page is decided on as the first was.

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use switchboard_proto::channel::ChannelName;
use switchboard_proto::ids::{LogEpoch, Offset};

const VERSION: u8 = 1;
/// Bytes of the digest that a cursor carries.
const DIGEST: usize = 8;
const REVERSE: u8 = 1;
const BOUNDED: u8 = 2;
const SINCE: u8 = 4;

/// A place in the history of a channel. Orders by the life of the log first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) log: LogEpoch,
    pub(super) offset: Offset,
}

/// What a page of history is asked with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Cursor {
    /// Newest first.
    pub(super) reverse: bool,
    /// Forward: behind this; reverse: before it. `None`: from the end where history begins in that direction.
    pub(super) from: Option<Place>,
    /// Where it ends: before this or, in reverse, behind it.
    pub(super) bound: Option<Place>,
    /// Only what was written into the log at this time or later, in Unix microseconds.
    pub(super) since_us: Option<u64>,
}

impl Cursor {
    /// As clients get it.
    pub(super) fn to_text(self, channel: &ChannelName) -> String {
        let flag = |is_set, flag| if is_set { flag } else { 0 };
        let flags = flag(self.reverse, REVERSE)
            | flag(self.bound.is_some(), BOUNDED)
            | flag(self.since_us.is_some(), SINCE);
        let mut bytes = vec![VERSION, flags];
        put(&mut bytes, self.from.unwrap_or(Place::NONE));
        if let Some(bound) = self.bound {
            put(&mut bytes, bound);
        }
        if let Some(since_us) = self.since_us {
            bytes.extend(since_us.to_be_bytes());
        }
        let digest = digest_of(channel, &bytes);
        bytes.extend(digest);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// `None`: it was not made for this channel, or not by this.
    pub(super) fn parse(text: &str, channel: &ChannelName) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (content, digest) = bytes.split_at_checked(bytes.len().checked_sub(DIGEST)?)?;
        if digest != digest_of(channel, content) {
            return None;
        }
        let (&[version, flags], mut rest) = content.split_first_chunk::<2>()?;
        if version != VERSION {
            return None;
        }
        let from = take_place(&mut rest)?;
        let bound = match flags & BOUNDED {
            0 => None,
            _ => Some(take_place(&mut rest)?),
        };
        let since_us = match flags & SINCE {
            0 => None,
            _ => Some(take(&mut rest)?),
        };
        rest.is_empty().then_some(Self {
            reverse: flags & REVERSE != 0,
            from: (from != Place::NONE).then_some(from),
            bound,
            since_us,
        })
    }
}

impl Place {
    const NONE: Self = Self {
        log: LogEpoch {
            ordinal: 0,
            random: 0,
        },
        offset: Offset::ZERO,
    };
}

fn put(bytes: &mut Vec<u8>, place: Place) {
    bytes.extend(place.log.ordinal.to_be_bytes());
    bytes.extend(place.log.random.to_be_bytes());
    bytes.extend(place.offset.get().to_be_bytes());
}

fn take_place(rest: &mut &[u8]) -> Option<Place> {
    let log = take(rest)?;
    Some(Place {
        log: LogEpoch {
            ordinal: u32::try_from(log >> 32).ok()?,
            random: u32::try_from(log & u64::from(u32::MAX)).ok()?,
        },
        offset: Offset::from_u64(take(rest)?),
    })
}

fn take(rest: &mut &[u8]) -> Option<u64> {
    let (first, others) = rest.split_first_chunk::<8>()?;
    *rest = others;
    Some(u64::from_be_bytes(*first))
}

fn digest_of(channel: &ChannelName, content: &[u8]) -> [u8; DIGEST] {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(b"history.list\0");
    context.update(channel.as_str().as_bytes());
    context.update(&[0]);
    context.update(content);
    let mut short = [0; DIGEST];
    for (to, from) in short.iter_mut().zip(context.finish().as_ref()) {
        *to = *from;
    }
    short
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn channel(name: &str) -> ChannelName {
        ChannelName::parse(name, 255).unwrap()
    }

    fn place() -> impl Strategy<Value = Place> {
        (1..u32::MAX, any::<u32>(), any::<u64>()).prop_map(|(ordinal, random, offset)| Place {
            log: LogEpoch { ordinal, random },
            offset: Offset::from_u64(offset),
        })
    }

    fn cursor() -> impl Strategy<Value = Cursor> {
        let places = (prop::option::of(place()), prop::option::of(place()));
        (any::<bool>(), places, prop::option::of(any::<u64>())).prop_map(
            |(reverse, (from, bound), since_us)| Cursor {
                reverse,
                from,
                bound,
                since_us,
            },
        )
    }

    proptest! {
        #[test]
        fn cursor_is_read_as_it_was_written_and_for_its_channel_alone(cursor in cursor(), at in any::<prop::sample::Index>()) {
            let text = cursor.to_text(&channel("room:1"));
            prop_assert_eq!(Cursor::parse(&text, &channel("room:1")), Some(cursor));
            prop_assert_eq!(Cursor::parse(&text, &channel("room:2")), None);
            let mut bytes = URL_SAFE_NO_PAD.decode(&text).unwrap();
            let at = at.index(bytes.len());
            bytes[at] ^= 1;
            let changed = URL_SAFE_NO_PAD.encode(&bytes);
            prop_assert_eq!(Cursor::parse(&changed, &channel("room:1")), None);
        }

        #[test]
        fn whatever_clients_send_is_no_panic(text in ".{0,200}") {
            prop_assert_eq!(Cursor::parse(&text, &channel("room:1")), None);
        }
    }
}
