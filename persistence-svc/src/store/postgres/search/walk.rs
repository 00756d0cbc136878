//! In which pieces the index is looked through, from the newest message back, so that no piece holds much more than what is
//! wanted of it. No I/O.
//!
//! Each message is in the index under three spans of time, of 4 seconds, 2 minutes and an hour or so. A piece is a few spans of one
//! size: asking for these and for the words at once costs what the rarer of them costs. Beyond the last size it is days, which are
//! tables of their own. Pieces grow as long as they turn out to hold little.

use crate::store::postgres::DAY_US;

/// Binary logarithms of the spans' lengths in microseconds.
pub(super) const SPANS: [u32; 3] = [22, 27, 32];

/// Entries of a piece, at most: one with more is looked at in smaller ones.
pub(super) const PIECE: usize = 4000;

/// Days of one piece, at most.
const DAYS: usize = 64;

/// What is looked at next.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Piece {
    /// Unix microseconds of its begin,
    pub(super) from: u64,
    /// and of its end, which is not in it.
    pub(super) to: u64,
    /// The spans in which it is.
    pub(super) spans: Spans,
    /// It cannot be divided any more.
    pub(super) is_smallest: bool,
}

/// Spans of a piece.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Spans {
    /// Of one size (an index into [`SPANS`]), from the first to the last.
    Of { size: usize, first: u64, last: u64 },
    /// None: the piece is whole days.
    Days,
}

/// Where it is.
#[derive(Debug)]
pub(super) struct Walk {
    from: u64,
    until: u64,
    /// After that there are only messages of clocks that are ahead.
    now: u64,
    size: usize,
    /// Entries per microsecond, as it was found so far.
    density: f64,
    days_at_once: usize,
    /// Days that have a table, newest first. No more than a hint.
    days: Vec<u64>,
}

impl Walk {
    /// Through the time from `from` to before `until`.
    pub(super) fn new(from: u64, until: u64, now: u64, days: Vec<u64>) -> Self {
        Self {
            from,
            until,
            now: now.max(1),
            size: 0,
            density: 0.0,
            days_at_once: 1,
            days,
        }
    }

    /// `None`: all was looked at.
    pub(super) fn next(&self) -> Option<Piece> {
        if self.until <= self.from {
            return None;
        }
        let last = self.until - 1;
        if last >= self.now {
            return Some(self.piece(self.now, Spans::Days, true));
        }
        let Some(length) = SPANS.get(self.size) else {
            return Some(self.days_piece());
        };
        let begin = self.parent(last);
        let (first, last) = (begin >> length, last >> length);
        // As many as probably hold a part of what is allowed.
        let expected = self.density * as_f64(1 << length);
        let spans = match expected > 0.0 {
            true => as_u64((as_f64(PIECE as u64) / 4.0 / expected).clamp(1.0, 64.0)),
            false => 64,
        };
        let first = first.max(last.saturating_sub(spans - 1));
        let spans = Spans::Of {
            size: self.size,
            first,
            last,
        };
        let is_smallest = self.size == 0 && first == last;
        Some(self.piece((first << length).max(begin), spans, is_smallest))
    }

    fn piece(&self, from: u64, spans: Spans, is_smallest: bool) -> Piece {
        Piece {
            from: from.max(self.from),
            to: self.until,
            spans,
            is_smallest,
        }
    }

    fn days_piece(&self) -> Piece {
        let mut older = self.days.iter().filter(|day| **day * DAY_US < self.until);
        match older.nth(self.days_at_once - 1) {
            Some(day) => self.piece(day * DAY_US, Spans::Days, false),
            // Without tables of their own: nothing, or what a wrong clock left.
            None => self.piece(0, Spans::Days, older.next().is_none() && self.days_at_once == 1),
        }
    }

    /// Where the span of the next size begins that this time is in.
    fn parent(&self, time: u64) -> u64 {
        match SPANS.get(self.size + 1) {
            Some(length) => time >> length << length,
            None => time / DAY_US * DAY_US,
        }
    }

    /// The piece was looked at, and had so many entries.
    pub(super) fn looked(&mut self, piece: &Piece, entries: usize) {
        self.until = piece.from;
        self.density = as_f64(entries as u64) / as_f64((piece.to - piece.from).max(1));
        match piece.spans {
            Spans::Days => {
                // The part of clocks that are ahead tells nothing of the rest.
                if piece.from < self.now && self.size >= SPANS.len() {
                    self.days_at_once = (self.days_at_once * 2).min(DAYS);
                } else {
                    self.density = 0.0;
                }
            }
            Spans::Of { .. } => {
                let next = SPANS.get(self.size + 1).map_or(DAY_US, |length| 1 << length);
                let is_thin = self.density * as_f64(next) < as_f64(PIECE as u64) / 2.0;
                if is_thin && piece.from == self.parent(piece.from) {
                    self.size += 1;
                }
            }
        }
    }

    /// The piece has more entries than a piece may have, and is not the smallest.
    pub(super) fn too_much(&mut self, piece: &Piece) {
        let density = as_f64(PIECE as u64) / as_f64((piece.to - piece.from).max(1));
        match piece.spans {
            Spans::Days if self.days_at_once > 1 => self.days_at_once /= 2,
            Spans::Days => self.size = SPANS.len() - 1,
            Spans::Of { first, last, .. } if first == last => self.size = self.size.saturating_sub(1),
            Spans::Of { .. } => {}
        }
        self.density = self.density.max(density);
    }

    /// From here on it goes by days, one at a time.
    pub(super) fn by_days(&mut self) {
        self.size = SPANS.len();
        self.days_at_once = 1;
    }

    /// Goes on in the middle of a piece.
    pub(super) fn go_on_at(&mut self, until: u64) {
        self.until = self.until.min(until);
    }
}

#[expect(clippy::cast_precision_loss, reason = "it estimates")]
fn as_f64(number: u64) -> f64 {
    number as f64
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "it is between 1 and 64"
)]
fn as_u64(number: f64) -> u64 {
    number as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: u64 = 1_800_000_000_000_000;

    /// Walks through messages at these times; how many pieces it took, and whether each was seen once.
    fn pieces(times: &[u64], from: u64, until: u64) -> usize {
        let days: Vec<u64> = {
            let mut days: Vec<u64> = times.iter().map(|time| time / DAY_US).collect();
            days.sort_unstable_by(|one, other| other.cmp(one));
            days.dedup();
            days
        };
        let mut walk = Walk::new(from, until, NOW, days);
        let (mut end, mut pieces, mut seen) = (until, 0, 0);
        while let Some(piece) = walk.next() {
            pieces += 1;
            assert!(pieces < 5000, "{walk:?}");
            assert_eq!(piece.to, end);
            assert!(piece.from < piece.to, "{piece:?}");
            if let Spans::Of { size, first, last } = piece.spans {
                assert!(first <= piece.from >> SPANS[size] && (piece.to - 1) >> SPANS[size] <= last);
                assert!(last - first < 64);
            }
            let inside = times
                .iter()
                .filter(|time| (piece.from..piece.to).contains(time))
                .count();
            if inside > PIECE && !piece.is_smallest {
                walk.too_much(&piece);
                continue;
            }
            seen += inside;
            walk.looked(&piece, inside);
            end = piece.from;
        }
        assert_eq!(end, from.min(until));
        assert_eq!(
            seen,
            times.iter().filter(|time| (from..until).contains(*time)).count()
        );
        pieces
    }

    #[test]
    fn few_pieces_where_there_is_little() {
        let year: Vec<u64> = (0..365).map(|day| NOW - day * DAY_US).collect();
        assert!(pieces(&year, 0, u64::MAX >> 2) < 20);
        assert!(pieces(&[], 0, u64::MAX >> 2) < 10);
    }

    #[test]
    fn no_piece_holds_much_where_there_is_a_lot() {
        let dense: Vec<u64> = (0..100_000).map(|number| NOW - number * 1000).collect();
        let count = pieces(&dense, 0, NOW + 1);
        assert!((25..200).contains(&count), "{count}");
        // All at one time.
        pieces(&vec![NOW - 5; PIECE * 2], 0, NOW);
    }

    proptest! {
        #[test]
        fn all_of_time_is_looked_at_once(
            clumps in proptest::collection::vec((0..NOW + NOW / 2, 1..3000_u64, 0..5_000_000_u64), 0..8),
            from in 0..NOW, length in 0..NOW * 2,
        ) {
            let times: Vec<u64> = clumps
                .iter()
                .flat_map(|(begin, count, step)| (0..*count).map(move |number| begin + number * step))
                .collect();
            pieces(&times, 0, u64::MAX >> 2);
            pieces(&times, from, from + length);
        }
    }
}
