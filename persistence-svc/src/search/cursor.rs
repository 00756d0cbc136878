//! Where a search goes on: opaque to who holds it.
//!
//! It names the stretch of matches that its page was ranked among, so that what is said meanwhile, or removed, moves nothing, and the
//! question, so that it is of no use with another.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::store::search::Mark;

/// The format; another one is a cursor from elsewhere.
const FORMAT: u8 = 1;

/// The next page of a search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cursor {
    /// Of the question.
    pub(super) digest: u64,
    /// The stretch begins before this place; `None`: at the newest.
    pub(super) before: Option<Mark>,
    /// What was given already.
    pub(super) given: Option<Given>,
}

/// The part of a stretch that was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Given {
    /// The stretch's last, which is in it.
    pub(super) lowest: Mark,
    /// What was given ends with this score,
    pub(super) score: u32,
    /// and this place.
    pub(super) mark: Mark,
}

impl Cursor {
    pub(super) fn encode(&self) -> String {
        let mut bytes = vec![FORMAT];
        bytes.extend(self.digest.to_be_bytes());
        let mut put = |mark: Mark| {
            mark.0
                .iter()
                .for_each(|number| bytes.extend(number.to_be_bytes()))
        };
        put(self.before.unwrap_or(Mark::END));
        if let Some(given) = &self.given {
            put(given.lowest);
            put(given.mark);
            bytes.extend(given.score.to_be_bytes());
        }
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// `None`: it was not made by [`Cursor::encode`].
    pub(super) fn decode(text: &str) -> Option<Self> {
        // Longer than any.
        if text.len() > 256 {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let mut rest = bytes.strip_prefix(&[FORMAT])?;
        let digest = u64::from_be_bytes(take(&mut rest)?);
        let before = Some(mark(&mut rest)?).filter(|mark| *mark != Mark::END);
        let given = match rest.is_empty() {
            true => None,
            false => Some(Given {
                lowest: mark(&mut rest)?,
                mark: mark(&mut rest)?,
                score: u32::from_be_bytes(take(&mut rest)?),
            }),
        };
        rest.is_empty().then_some(Self {
            digest,
            before,
            given,
        })
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (first, behind) = rest.split_first_chunk::<N>()?;
    *rest = behind;
    Some(*first)
}

fn mark(rest: &mut &[u8]) -> Option<Mark> {
    let mut numbers = [0_i64; 4];
    for number in &mut numbers {
        *number = i64::from_be_bytes(take(rest)?);
        if *number < 0 {
            return None;
        }
    }
    Some(Mark(numbers))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_was_encoded_is_decoded() {
        let given = Given {
            lowest: Mark([1, 2, 3, 4]),
            score: 77,
            mark: Mark([5, 6, 7, 8]),
        };
        for (before, given) in [
            (None, None),
            (Some(Mark([9, 8, 7, i64::MAX])), None),
            (None, Some(given)),
            (Some(Mark([0; 4])), Some(given)),
        ] {
            let cursor = Cursor {
                digest: u64::MAX - 5,
                before,
                given,
            };
            let text = cursor.encode();
            assert_eq!(Cursor::decode(&text), Some(cursor));
            assert_eq!(Cursor::decode(text.get(1..).unwrap()), None);
            assert_eq!(Cursor::decode(&format!("{text}AAAA")), None);
        }
    }

    proptest! {
        #[test]
        fn no_text_is_too_odd(text in any::<String>(), bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            Cursor::decode(&text);
            let mut framed = vec![FORMAT];
            framed.extend(bytes);
            Cursor::decode(&URL_SAFE_NO_PAD.encode(framed));
        }
    }
}
