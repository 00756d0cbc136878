//! Says when something is due. A thread of its own, since the runtime's timer is exact to a millisecond only, which
//! would be most of what is measured.

use std::thread;
use std::time::{Duration, Instant};

use rand::seq::SliceRandom as _;
use switchboard_proto::time::now_us;
use tokio::sync::mpsc;

/// What may be due for one connection and not begun: more, and it is counted as never said.
pub(crate) const BACKLOG: usize = 1024;

/// The times of one talker, in Unix microseconds.
pub(crate) type Due = mpsc::Receiver<u64>;

/// Tells talkers in turn, in a random order, one every `between` from `begin` to `end`. Returns how many were
/// told while they had [`BACKLOG`] before them, which they never learn of.
pub(crate) fn tell(
    mut talkers: Vec<mpsc::Sender<u64>>,
    begin: Instant,
    end: Instant,
    between: Duration,
) -> u64 {
    talkers.shuffle(&mut rand::rng());
    let mut skipped = 0;
    let mut due = begin;
    for talker in talkers.iter().cycle() {
        if due >= end {
            break;
        }
        loop {
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            thread::sleep(left);
        }
        let late = u64::try_from(due.elapsed().as_micros()).unwrap_or(u64::MAX);
        if let Err(mpsc::error::TrySendError::Full(_)) = talker.try_send(now_us().saturating_sub(late)) {
            skipped += 1;
        }
        due += between;
    }
    skipped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_told_in_turn_and_who_does_not_listen_is_skipped() {
        let (one, mut first) = mpsc::channel(BACKLOG);
        let (other, mut second) = mpsc::channel(1);
        let begin = Instant::now();
        let end = begin + Duration::from_millis(10);
        let skipped = tell(vec![one, other], begin, end, Duration::from_millis(1));
        let mut told = Vec::new();
        while let Ok(due) = first.try_recv() {
            told.push(due);
        }
        assert_eq!((told.len(), skipped), (5, 4));
        assert!(
            told.windows(2)
                .all(|pair| (1900..=2100).contains(&(pair[1] - pair[0]))),
            "{told:?}"
        );
        assert!(second.try_recv().is_ok());
        assert!(begin.elapsed() >= Duration::from_millis(9));
    }
}
