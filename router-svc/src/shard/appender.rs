//! An append that is settled: stored, refused for certain, or somebody else's place (L1).
//!
//! The log's own answer is not enough: an unanswered append may be stored, and "wrong last
//! sequence" may mean that our own earlier try is. Only the record read at that place decides.

use std::time::Duration;

use bytes::Bytes;
use switchboard_bus::{AppendError, Log, LogError};
use switchboard_proto::ids::{Sequence, ShardId};
use tokio::time::Instant;

/// How an append ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Settled {
    /// Stored, at this place.
    Stored(Sequence),
    /// Certainly not stored; the log stands as before.
    Refused(String),
    /// Another record has the place: somebody else owns the shard.
    Deposed,
    /// The log ends before the record that this append follows, and so lost what it had
    /// acknowledged. Says how it looks.
    LogLost(String),
}

/// Between two tries, doubling.
const PAUSE: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(200);

/// How long a log may look shorter than what it acknowledged: longer than its leader's election.
const ELECTION: Duration = Duration::from_secs(10);

/// Between two lines about the same append.
const TOLD_EVERY: Duration = Duration::from_secs(2);

/// Appends `record` behind `expected`, again and again with the same bytes until it is settled; no
/// end to that, for giving up would leave open whether it is stored.
///
/// Not cancel safe: when dropped, the record may be stored or not.
pub(crate) async fn append(log: &dyn Log, shard: ShardId, expected: Sequence, record: Bytes) -> Settled {
    let place = expected.next();
    let begun = Instant::now();
    let mut pause = PAUSE;
    let mut first = true;
    let mut short_since: Option<Instant> = None;
    let mut told: Option<Instant> = None;
    loop {
        let error = match log.append(shard, expected, record.clone()).await {
            Ok(sequence) => return Settled::Stored(sequence),
            // After an unanswered try a refusal speaks of this try alone.
            Err(error @ (AppendError::Refused(_) | AppendError::TooLarge { .. })) if first => {
                return Settled::Refused(error.to_string());
            }
            Err(error) => error,
        };
        match look(log, shard, place, &record).await {
            Look::Settled(settled) => return settled,
            Look::Open => short_since = None,
            Look::Short(why) => {
                if short_since.get_or_insert_with(Instant::now).elapsed() >= ELECTION {
                    return Settled::LogLost(why);
                }
            }
        }
        if told.is_none_or(|told| told.elapsed() >= TOLD_EVERY) {
            told = Some(Instant::now());
            let waiting_ms = begun.elapsed().as_millis();
            tracing::warn!(%shard, %place, %error, waiting_ms, "append not settled, trying again");
        }
        first = false;
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// What stands at the place of an append.
enum Look {
    Settled(Settled),
    /// It cannot be told yet.
    Open,
    /// The log does not reach there, nor to the record before it.
    Short(String),
}

async fn look(log: &dyn Log, shard: ShardId, place: Sequence, ours: &Bytes) -> Look {
    match log.get(shard, place).await {
        // The bytes hold owner epoch, incarnation and append number: nobody else writes the same.
        Ok(Some(found)) if found == ours => return Look::Settled(Settled::Stored(place)),
        Ok(Some(_)) => return Look::Settled(Settled::Deposed),
        Ok(None) | Err(_) => {}
    }
    match log.info(shard).await {
        // Purged, and only another owner purges what we have not settled.
        Ok(info) if info.first > place => Look::Settled(Settled::Deposed),
        Ok(info) if info.last.next() < place => Look::Short(format!(
            "the log ends at {}, behind which {place} was acknowledged",
            info.last
        )),
        Ok(_) => Look::Open,
        Err(error @ LogError::Missing(_)) => Look::Short(error.to_string()),
        Err(_) => Look::Open,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use async_trait::async_trait;
    use switchboard_bus::LogInfo;
    use switchboard_proto::ids::LogEpoch;

    use super::super::test_log::{Script, TestLog};
    use super::*;

    /// A log whose answers are written beforehand; what it holds is real.
    struct Scripted {
        answers: Mutex<Vec<Result<(), AppendError>>>,
        records: Mutex<Vec<Bytes>>,
        first: u64,
        /// Whether a try that is answered with an error is stored all the same.
        stores_unanswered: bool,
        tries: Mutex<u32>,
    }

    impl Scripted {
        fn new(answers: Vec<Result<(), AppendError>>, records: &[&'static str]) -> TestLog<Self> {
            TestLog(Self {
                answers: Mutex::new(answers.into_iter().rev().collect()),
                records: Mutex::new(
                    records
                        .iter()
                        .map(|text| Bytes::from_static(text.as_bytes()))
                        .collect(),
                ),
                first: 1,
                stores_unanswered: false,
                tries: Mutex::new(0),
            })
        }
    }

    #[async_trait]
    impl Script for Scripted {
        async fn append(&self, expected: Sequence, record: Bytes) -> Result<Sequence, AppendError> {
            *self.tries.lock().unwrap() += 1;
            let mut records = self.records.lock().unwrap();
            let answer = self
                .answers
                .lock()
                .unwrap()
                .pop()
                .expect("more tries than answers");
            let fits = records.len() as u64 == expected.0;
            if fits && (answer.is_ok() || self.stores_unanswered) {
                records.push(record);
            }
            answer.map(|()| expected.next())
        }

        async fn info(&self) -> Result<LogInfo, LogError> {
            let last = Sequence(self.records.lock().unwrap().len() as u64);
            let epoch = LogEpoch {
                ordinal: 1,
                random: 1,
            };
            Ok(LogInfo {
                epoch,
                first: Sequence(self.first),
                last,
                bytes: 0,
                max_bytes: None,
            })
        }

        async fn get(&self, sequence: Sequence) -> Result<Option<Bytes>, LogError> {
            let index = usize::try_from(sequence.0 - 1).unwrap();
            Ok(self
                .records
                .lock()
                .unwrap()
                .get(index)
                .filter(|_| sequence.0 >= self.first)
                .cloned())
        }
    }

    fn unknown() -> Result<(), AppendError> {
        Err(AppendError::Unknown("no answer".to_owned()))
    }

    fn wrong_last() -> Result<(), AppendError> {
        Err(AppendError::WrongLast {
            expected: Sequence(1),
        })
    }

    async fn append_ours(log: &TestLog<Scripted>) -> Settled {
        append(
            log,
            ShardId::new(0).unwrap(),
            Sequence(1),
            Bytes::from_static(b"ours"),
        )
        .await
    }

    #[tokio::test(start_paused = true)]
    async fn l1_unanswered_but_stored_is_recognised_not_doubled() {
        let mut log = Scripted::new(vec![unknown(), wrong_last()], &["fence"]);
        log.stores_unanswered = true;
        assert_eq!(append_ours(&log).await, Settled::Stored(Sequence(2)));
        assert_eq!(log.records.lock().unwrap().len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn l1_unanswered_and_lost_is_appended_again() {
        let log = Scripted::new(vec![unknown(), unknown(), Ok(())], &["fence"]);
        assert_eq!(append_ours(&log).await, Settled::Stored(Sequence(2)));
        assert_eq!(*log.tries.lock().unwrap(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn l1_anothers_record_deposes() {
        let log = Scripted::new(vec![wrong_last()], &["fence", "theirs"]);
        assert_eq!(append_ours(&log).await, Settled::Deposed);
    }

    #[tokio::test(start_paused = true)]
    async fn l1_purged_place_deposes() {
        let mut log = Scripted::new(vec![wrong_last()], &["fence", "theirs", "theirs"]);
        log.first = 3;
        assert_eq!(append_ours(&log).await, Settled::Deposed);
    }

    #[tokio::test(start_paused = true)]
    async fn l1_wrong_last_without_a_record_proves_nothing() {
        let log = Scripted::new(vec![wrong_last(), wrong_last(), Ok(())], &["fence"]);
        assert_eq!(append_ours(&log).await, Settled::Stored(Sequence(2)));
    }

    #[tokio::test(start_paused = true)]
    async fn log_that_lost_its_end_is_told_after_an_election() {
        let answers = (0..200).map(|_| wrong_last()).collect();
        let log = Scripted::new(answers, &[]);
        let begun = Instant::now();
        assert!(matches!(append_ours(&log).await, Settled::LogLost(_)));
        assert!(begun.elapsed() >= ELECTION);
    }

    #[tokio::test(start_paused = true)]
    async fn refusal_is_certain_on_a_first_try_only() {
        let full = || Err(AppendError::Refused("full".to_owned()));
        let log = Scripted::new(vec![full()], &["fence"]);
        assert!(matches!(append_ours(&log).await, Settled::Refused(_)));
        let log = Scripted::new(vec![unknown(), full(), Ok(())], &["fence"]);
        assert_eq!(append_ours(&log).await, Settled::Stored(Sequence(2)));
    }
}
