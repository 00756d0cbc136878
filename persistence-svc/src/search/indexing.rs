//! The follower that indexes messages.

use std::sync::Arc;

use async_trait::async_trait;
use prost::Message as _;
use switchboard_bus::fold::{self, Does, Target};
use switchboard_bus::messages::AskError;
use switchboard_proto::bus::Message;
use switchboard_proto::ids::LogEpoch;

use super::analyser::{Analyser, VERSION};
use crate::follow::Follower;
use crate::store::search::{Document, Loaded};
use crate::store::{LogRow, Place, Step, Store, StoreError};

/// The follower's name.
pub(crate) const FOLLOWER: &str = "search";

/// Makes what the index holds.
pub struct Indexer {
    store: Arc<dyn Store>,
    analyser: Arc<Analyser>,
    settings: String,
}

impl Indexer {
    /// Indexes messages of `store` with `analyser`, which `settings` describe: an index of others is made anew.
    pub fn new(store: Arc<dyn Store>, analyser: Arc<Analyser>, settings: &str) -> Self {
        Self {
            store,
            analyser,
            settings: format!("analyser {VERSION}: {settings}"),
        }
    }

    /// Indexes a message anew, after what it says was changed where it is stored. One that the index has not reached is left to its
    /// follower.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn reindex(&self, channel: &str, place: Place) -> Result<(), StoreError> {
        let Some(stored) = self.store.stored_at(channel, place).await? else {
            return Ok(());
        };
        let Loaded {
            hit,
            channel,
            sender,
            message,
        } = stored;
        let row = LogRow {
            offset: hit.place.offset,
            time_us: hit.time_us,
            channel,
            sender,
            message,
        };
        self.store
            .reindex(FOLLOWER, &hit, self.document(&row).as_ref())
            .await
    }

    /// Takes a message out of the index. It must be stored still; of one that is not, nothing is shown anyway.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn remove(&self, channel: &str, place: Place) -> Result<(), StoreError> {
        match self.store.stored_at(channel, place).await? {
            Some(stored) => self.store.reindex(FOLLOWER, &stored.hit, None).await,
            None => Ok(()),
        }
    }

    /// `None`: nothing in it can be searched.
    fn document(&self, row: &LogRow) -> Option<Document> {
        let message = Message::decode(row.message.clone()).ok()?;
        if message.change.is_some() {
            // What it changes is indexed anew.
            return None;
        }
        let analysed = self.analyser.message(&message);
        let forms: Vec<(String, Vec<u16>)> = analysed
            .forms()
            .into_iter()
            .map(|(form, places)| (form.to_owned(), places))
            .collect();
        (!forms.is_empty()).then(|| Document {
            offset: row.offset,
            time_us: row.time_us,
            forms,
            channel: row.channel.clone(),
            sender: row.sender.clone(),
        })
    }
}

#[async_trait]
impl Follower for Indexer {
    fn name(&self) -> &'static str {
        FOLLOWER
    }

    async fn prepare(&self) -> Result<(), StoreError> {
        if self.store.prepare_index(FOLLOWER, &self.settings).await? {
            tracing::info!(
                settings = self.settings,
                "the index of search is made from the beginning"
            );
        }
        Ok(())
    }

    async fn apply(&self, step: &Step, rows: Vec<LogRow>) -> Result<bool, StoreError> {
        // Before the step is done, so that none is forgotten; done twice it changes nothing. What is changed within the step is
        // read as it is now.
        for row in rows.iter().filter(|row| fold::is_foldable(&row.message)) {
            if let Some(place) = changed(row, step.log) {
                self.reindex(&row.channel, place).await?;
            }
        }
        let documents: Vec<Document> = rows.iter().filter_map(|row| self.document(row)).collect();
        self.store.index(&self.settings, step, &documents).await
    }
}

/// The message whose content the row, which stands in `log`, changes. Entries of an inbox are not found this way: the index has
/// them as they were said, and what they say now decides whether they are shown.
fn changed(row: &LogRow, log: LogEpoch) -> Option<Place> {
    let message = Message::decode(row.message.clone()).ok()?;
    let (target, Does::Edit | Does::Delete) = fold::effect(&message, log)? else {
        return None;
    };
    match target {
        Target::Here(offset) => Some(Place { log, offset }),
        Target::Elsewhere(log, offset) => Some(Place { log, offset }),
        Target::Copy(_) => None,
    }
}

/// What is wrong with a question is told to who asked.
impl From<super::SearchError> for AskError {
    fn from(error: super::SearchError) -> Self {
        match error {
            super::SearchError::Store(error) => crate::service::fault(&error),
            other => Self::Invalid(other.to_string()),
        }
    }
}
