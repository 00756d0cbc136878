//! Questions about history that are read for beside the owner's turn: bounded, and equal ones once.
//!
//! Who asks what is being read already is given the same answer, if that holds all that it was told of (R6).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use switchboard_bus::{Bus, Log};
use switchboard_proto::bus::{HistoryOutcome, HistoryQuestion};
use switchboard_proto::ids::{Offset, ShardId};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::actor::answer_history;
use super::deleted::Deleted;
use super::history::{Sources, Unfinished};
use super::stored::Store;
use crate::metrics::RouterMetrics;

/// Readings at a time. So many of the log, and so many in all where the store is asked first.
const OF_LOG: usize = 8;
const OF_STORE: usize = 32;

/// Askers that share one reading, at most.
const SHARED: usize = 1024;

/// What a reading may take: its askers wait for 4 s (P4).
const TIME: Duration = Duration::from_secs(3);

/// What readings are made with.
#[derive(Clone)]
pub(super) struct Reading {
    pub(super) bus: Arc<dyn Bus>,
    pub(super) log: Arc<dyn Log>,
    pub(super) shard: ShardId,
    pub(super) store: Option<Arc<dyn Store>>,
    /// Bytes of the log, at most.
    pub(super) allowed: usize,
    pub(super) metrics: RouterMetrics,
}

/// Who waits for a reading; `None`: it is being answered.
type Askers = Arc<Mutex<Option<Vec<String>>>>;

/// What an answer is made with.
#[derive(Debug, Clone)]
pub(super) struct View {
    /// Up to here it holds everything.
    pub(super) position: Offset,
    /// Messages of the channel up to here are not shown.
    pub(super) hidden: Offset,
    /// Nor is what these say. Changed only where nobody shares it.
    pub(super) deleted: Arc<Deleted>,
}

impl View {
    /// What was answered to others since hides nothing more.
    fn shows_what(&self, now: &Self) -> bool {
        self.hidden == now.hidden && Arc::ptr_eq(&self.deleted, &now.deleted)
    }
}

/// See the module.
pub(super) struct Readings {
    reading: Reading,
    running: JoinSet<()>,
    /// By what is asked: who waits, and what the answer is made with.
    askers: HashMap<Vec<u8>, (View, Askers)>,
    places: Arc<Semaphore>,
}

impl Readings {
    pub(super) fn new(reading: Reading) -> Self {
        Self {
            reading,
            running: JoinSet::new(),
            askers: HashMap::new(),
            places: Arc::new(Semaphore::new(OF_LOG)),
        }
    }

    pub(super) fn is_full(&self) -> bool {
        let most = if self.reading.store.is_some() {
            OF_STORE
        } else {
            OF_LOG
        };
        self.running.len() >= most
    }

    /// One of them ended. Pending while there is none. Cancel safe.
    pub(super) async fn ended(&mut self) {
        match self.running.join_next().await {
            Some(Ok(())) => {}
            Some(Err(error)) => {
                tracing::error!(shard = %self.reading.shard, %error, "reading for history ended badly");
            }
            None => return std::future::pending().await,
        }
        self.askers.retain(|_, (_, askers)| Arc::strong_count(askers) > 1);
    }

    /// Shares a reading that runs, if nothing was hidden or deleted since it began. Gives `to` back where there is none to share.
    pub(super) fn join(&self, question: &HistoryQuestion, now: &View, to: String) -> Option<String> {
        let Some((view, askers)) = self.askers.get(&key(question)) else {
            return Some(to);
        };
        if Offset::from_u64(question.at_least) > view.position || !view.shows_what(now) {
            return Some(to);
        }
        match askers.lock().as_mut() {
            Some(waiting) if waiting.len() < SHARED => waiting.push(to),
            Some(_) | None => return Some(to),
        }
        None
    }

    /// Reads what `unfinished`, which was begun with `view`, lacks, and answers.
    pub(super) fn begin(
        &mut self,
        question: HistoryQuestion,
        unfinished: Unfinished,
        view: View,
        to: String,
    ) {
        let askers: Askers = Arc::new(Mutex::new(Some(vec![to])));
        self.askers.insert(key(&question), (view, Arc::clone(&askers)));
        let (reading, places) = (self.reading.clone(), Arc::clone(&self.places));
        self.running.spawn(async move {
            let read = async {
                let sources = Sources {
                    log: reading.log.as_ref(),
                    shard: reading.shard,
                    store: reading.store.as_deref(),
                    allowed: reading.allowed,
                    places: &places,
                };
                unfinished.finish(sources).await
            };
            // Without an answer the askers try again, as long as they have time.
            let answer = tokio::time::timeout(TIME, read).await;
            let waiting = askers.lock().take().unwrap_or_default();
            if let Ok(answer) = answer {
                if answer.outcome() == HistoryOutcome::TooFar {
                    reading.metrics.history_too_far.inc();
                }
                for to in waiting {
                    answer_history(reading.bus.as_ref(), &to, &answer).await;
                }
            }
        });
    }
}

/// What is asked, whoever asks.
fn key(question: &HistoryQuestion) -> Vec<u8> {
    use prost::Message as _;
    let same = HistoryQuestion {
        at_least: 0,
        ..question.clone()
    };
    same.encode_to_vec()
}
