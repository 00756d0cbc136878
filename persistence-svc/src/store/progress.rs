//! How far a shard's log is in the store: what a write does to it. No I/O.

use switchboard_proto::ids::{OwnerEpoch, Sequence};

/// How far one life of a shard's log is in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Everything up to this record was read; reading goes on behind it.
    pub read_to: Sequence,
    /// Everything up to this record is in the store, without a hole. `read_to` where there is no hole.
    pub complete_to: Sequence,
    /// Of the last record that counts, up to `read_to`.
    pub owner_epoch: OwnerEpoch,
}

/// Records that were gone before they were read: they are not in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hole {
    /// The first of them.
    pub first: Sequence,
    /// The last of them.
    pub last: Sequence,
}

impl Progress {
    /// Of a log of which nothing was written.
    pub const START: Self = Self {
        read_to: Sequence(0),
        complete_to: Sequence(0),
        owner_epoch: OwnerEpoch(0),
    };

    /// What follows when the records behind `after` up to `up_to` are written: the progress and the holes, in order.
    pub(super) fn advance(
        self,
        holes: &[Hole],
        after: Sequence,
        up_to: Sequence,
        owner_epoch: OwnerEpoch,
    ) -> (Self, Vec<Hole>) {
        // What was a hole and is written now is one no longer.
        let mut left: Vec<Hole> = Vec::with_capacity(holes.len() + 1);
        for hole in holes {
            let before = Hole {
                first: hole.first,
                last: hole.last.min(after),
            };
            let behind = Hole {
                first: hole.first.max(up_to.next()),
                last: hole.last,
            };
            left.extend(
                [before, behind]
                    .into_iter()
                    .filter(|part| part.first <= part.last),
            );
        }
        if after > self.read_to {
            left.push(Hole {
                first: self.read_to.next(),
                last: after,
            });
        }
        let mut next = self;
        if up_to >= self.read_to {
            next.read_to = up_to;
            next.owner_epoch = owner_epoch;
        }
        next.complete_to = left
            .first()
            .map_or(next.read_to, |hole| Sequence(hole.first.0.saturating_sub(1)));
        (next, left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(read_to: u64, complete_to: u64) -> Progress {
        Progress {
            read_to: Sequence(read_to),
            complete_to: Sequence(complete_to),
            owner_epoch: OwnerEpoch(1),
        }
    }

    fn hole(first: u64, last: u64) -> Hole {
        Hole {
            first: Sequence(first),
            last: Sequence(last),
        }
    }

    fn advance(from: Progress, holes: &[Hole], after: u64, up_to: u64) -> (Progress, Vec<Hole>) {
        from.advance(holes, Sequence(after), Sequence(up_to), OwnerEpoch(1))
    }

    #[test]
    fn what_follows_is_complete() {
        assert_eq!(advance(progress(4, 4), &[], 4, 9), (progress(9, 9), vec![]));
        assert_eq!(
            advance(progress(4, 4), &[], 2, 9),
            (progress(9, 9), vec![]),
            "overlapping"
        );
        assert_eq!(
            advance(progress(4, 4), &[], 1, 3),
            (progress(4, 4), vec![]),
            "known"
        );
    }

    #[test]
    fn jump_is_a_hole_and_no_progress_of_what_is_complete() {
        let (jumped, holes) = advance(progress(4, 4), &[], 7, 9);
        assert_eq!((jumped, holes.clone()), (progress(9, 4), vec![hole(5, 7)]));
        let (on, holes) = advance(jumped, &holes, 9, 20);
        assert_eq!((on, holes.clone()), (progress(20, 4), vec![hole(5, 7)]));
        let (again, holes) = advance(on, &holes, 25, 26);
        assert_eq!((again, holes), (progress(26, 4), vec![hole(5, 7), hole(21, 25)]));
    }

    #[test]
    fn written_hole_is_closed_also_in_parts() {
        let holes = [hole(5, 9), hole(21, 25)];
        let from = progress(30, 4);
        assert_eq!(
            advance(from, &holes, 4, 9),
            (progress(30, 20), vec![hole(21, 25)])
        );
        assert_eq!(
            advance(from, &holes, 4, 6),
            (progress(30, 6), vec![hole(7, 9), hole(21, 25)])
        );
        let (split, left) = advance(from, &holes, 6, 7);
        assert_eq!(
            (split, left),
            (progress(30, 4), vec![hole(5, 6), hole(8, 9), hole(21, 25)])
        );
        assert_eq!(advance(from, &holes, 0, 30), (progress(30, 30), vec![]));
    }

    #[test]
    fn only_a_write_that_reaches_the_end_says_who_the_owner_is() {
        let from = progress(9, 9);
        let (late, _) = from.advance(&[], Sequence(2), Sequence(5), OwnerEpoch(3));
        assert_eq!(late.owner_epoch, OwnerEpoch(1));
        let (next, _) = from.advance(&[], Sequence(9), Sequence(12), OwnerEpoch(11));
        assert_eq!(next.owner_epoch, OwnerEpoch(11));
    }
}
