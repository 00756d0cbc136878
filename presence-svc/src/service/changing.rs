//! Changing users: load, change, settle, compare and set, and tell what is new.

use switchboard_proto::format;

use super::Service;
use crate::store::{MAX_BATCH, Partition, Saved, Stamp, StoreError, Versioned, Write};
use crate::user::{Lease, User};

/// Users whose writes lost to others are tried again so often; then it fails, and whoever asked for it does so again.
const ROUNDS: usize = 10;

impl Service {
    /// Changes users of a partition and settles them, and tells what is new. With each user, leases that she was noted under and that
    /// are over. `false`: `stamp` does not hold any more.
    pub(crate) async fn change(
        &self,
        partition: Partition,
        stamp: Option<Stamp>,
        users: Vec<(&str, Vec<Lease>)>,
        change: &(dyn Fn(&str, &mut User, u64) + Sync),
    ) -> Result<bool, StoreError> {
        let mut open = users;
        for _ in 0..ROUNDS {
            let mut lost = Vec::new();
            for batch in open.chunks(MAX_BATCH) {
                let names: Vec<&str> = batch.iter().map(|(name, _)| *name).collect();
                let loaded = self.store.load(partition, &names).await?;
                let mut writes = Vec::with_capacity(batch.len());
                for ((name, over), stored) in batch.iter().zip(&loaded.users) {
                    let mut user = self.read(name, stored.as_ref());
                    let before = user.leases();
                    change(name, &mut user, loaded.now_ms);
                    let news = user.settle(name, &loaded.leases, loaded.now_ms, &self.settings.rules);
                    let at = user.leases();
                    let not_at = before.into_iter().chain(over.iter().copied());
                    let is_forgotten = user.is_forgotten(loaded.now_ms, &self.settings.rules);
                    writes.push(Write {
                        user: (*name).to_owned(),
                        expected: stored.as_ref().map(|stored| stored.version),
                        due_ms: match is_forgotten {
                            true => None,
                            false => user.due_ms(loaded.now_ms, &self.settings.rules),
                        },
                        value: (!is_forgotten).then(|| user.encode()),
                        not_at: not_at.filter(|lease| !at.contains(lease)).collect(),
                        at,
                        news: news.as_ref().map(format::encode),
                    });
                }
                let done = match self.store.save(partition, stamp, &writes).await? {
                    Saved::NotHeld => return Ok(false),
                    Saved::Done(done) => done,
                };
                for ((entry, write), done) in batch.iter().zip(writes).zip(done) {
                    if !done {
                        lost.push(entry.clone());
                    } else if let Some(news) = write.news {
                        self.metrics.transitions.inc();
                        self.telling.news(partition, news);
                    }
                }
            }
            if lost.is_empty() {
                return Ok(true);
            }
            open = lost;
        }
        Err(StoreError::Unavailable(
            "others change the same users all the time".to_owned(),
        ))
    }

    /// A user as she is stored. One that cannot be read is begun anew: gateways report who is here again, and a newer release's
    /// value is not overwritten without a word.
    fn read(&self, name: &str, stored: Option<&Versioned>) -> User {
        let Some(stored) = stored else {
            return User::default();
        };
        User::decode(stored.value.clone()).unwrap_or_else(|error| {
            self.metrics.unreadable.inc();
            tracing::error!(user = name, %error, "what is stored of a user cannot be read, and is begun anew");
            User::default()
        })
    }
}
