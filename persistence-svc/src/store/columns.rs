//! Rows as both databases give them: what a column means is the same in each.

use futures_util::{Stream, TryStreamExt as _};
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;
use switchboard_proto::ids::{Offset, OwnerEpoch, Sequence, ShardId};

use super::moving::ChannelHead;
use super::search::{Hit, Loaded, Mark};
use super::{
    Behind, DeadLetter, History, Hole, LogRow, Page, Place, Progress, StoreError, Stored, log_of, unsigned,
};

/// The columns of a row, by their number.
pub(super) trait Columns {
    fn number(&self, column: usize) -> Result<i64, sqlx::Error>;
    fn shard(&self, column: usize) -> Result<i32, sqlx::Error>;
    fn text(&self, column: usize) -> Result<String, sqlx::Error>;
    fn optional_text(&self, column: usize) -> Result<Option<String>, sqlx::Error>;
    fn bytes(&self, column: usize) -> Result<Vec<u8>, sqlx::Error>;
}

macro_rules! columns {
    ($row:ty) => {
        impl Columns for $row {
            fn number(&self, column: usize) -> Result<i64, sqlx::Error> {
                self.try_get(column)
            }

            fn shard(&self, column: usize) -> Result<i32, sqlx::Error> {
                self.try_get(column)
            }

            fn text(&self, column: usize) -> Result<String, sqlx::Error> {
                self.try_get(column)
            }

            fn optional_text(&self, column: usize) -> Result<Option<String>, sqlx::Error> {
                self.try_get(column)
            }

            fn bytes(&self, column: usize) -> Result<Vec<u8>, sqlx::Error> {
                self.try_get(column)
            }
        }
    };
}

columns!(PgRow);
columns!(SqliteRow);

pub(super) fn shard(number: i32) -> Result<ShardId, StoreError> {
    u32::try_from(number)
        .ok()
        .and_then(ShardId::new)
        .ok_or_else(|| StoreError::Damaged(format!("{number} as a shard")))
}

/// `log`, `offset`, from this column on.
pub(super) fn place(row: &impl Columns, from: usize) -> Result<Place, StoreError> {
    Ok(Place {
        log: log_of(row.number(from)?)?,
        offset: Offset::from_u64(unsigned(row.number(from + 1)?)?),
    })
}

/// `read_to`, `complete_to`, `owner_epoch`.
pub(super) fn progress(row: &impl Columns) -> Result<Progress, StoreError> {
    Ok(Progress {
        read_to: Sequence(unsigned(row.number(0)?)?),
        complete_to: Sequence(unsigned(row.number(1)?)?),
        owner_epoch: OwnerEpoch(unsigned(row.number(2)?)?),
    })
}

/// `first`, `last`.
pub(super) fn hole(row: &impl Columns) -> Result<Hole, StoreError> {
    Ok(Hole {
        first: Sequence(unsigned(row.number(0)?)?),
        last: Sequence(unsigned(row.number(1)?)?),
    })
}

/// `name`, `log`, `offset`.
pub(super) fn head(row: &impl Columns) -> Result<(String, Place), StoreError> {
    Ok((row.text(0)?, place(row, 1)?))
}

/// `name`, `log`, `offset`, `log_time`.
pub(super) fn channel_head(row: &impl Columns) -> Result<ChannelHead, StoreError> {
    Ok(ChannelHead {
        channel: row.text(0)?,
        place: place(row, 1)?,
        time_us: unsigned(row.number(3)?)?,
    })
}

/// `shard`, `log`, `offset`, `reason`, `bytes`.
pub(super) fn dead_letter(row: &impl Columns) -> Result<DeadLetter, StoreError> {
    let place = place(row, 1)?;
    Ok(DeadLetter {
        shard: shard(row.shard(0)?)?,
        log: place.log,
        offset: place.offset,
        reason: row.text(3)?,
        bytes: row.bytes(4)?.into(),
    })
}

/// `shard`, `log`, `done_to`, `read_to`.
pub(super) fn behind(row: &impl Columns) -> Result<Behind, StoreError> {
    Ok(Behind {
        shard: shard(row.shard(0)?)?,
        log: log_of(row.number(1)?)?,
        done_to: Offset::from_u64(unsigned(row.number(2)?)?),
        stored_to: Offset::end_of(Sequence(unsigned(row.number(3)?)?)),
    })
}

/// `offset`, `log_time`, `channel`, `sender`, `message`.
pub(super) fn log_row(row: &impl Columns) -> Result<LogRow, StoreError> {
    Ok(LogRow {
        offset: Offset::from_u64(unsigned(row.number(0)?)?),
        time_us: unsigned(row.number(1)?)?,
        channel: row.text(2)?,
        sender: row.optional_text(3)?,
        message: row.bytes(4)?.into(),
    })
}

/// A place in the index.
pub(super) fn hit(
    mark: Mark,
    time: i64,
    of_shard: i32,
    (log, offset): (i64, i64),
) -> Result<Hit, StoreError> {
    Ok(Hit {
        mark,
        time_us: unsigned(time)?,
        shard: shard(of_shard)?,
        place: Place {
            log: log_of(log)?,
            offset: Offset::from_u64(unsigned(offset)?),
        },
    })
}

/// `channel`, `sender`, `message`, from this column on.
pub(super) fn loaded(row: &impl Columns, from: usize, hit: Hit) -> Result<Loaded, StoreError> {
    Ok(Loaded {
        hit,
        channel: row.text(from)?,
        sender: row.optional_text(from + 1)?,
        message: row.bytes(from + 2)?.into(),
    })
}

/// As many rows of `log`, `offset`, `log_time`, `message` as the question takes. One row more than `limit` has been asked
/// for: it tells whether there is more.
pub(super) async fn page<R: Columns>(
    mut rows: impl Stream<Item = Result<R, sqlx::Error>> + Unpin,
    question: &History,
    limit: usize,
) -> Result<Page, StoreError> {
    let mut page = Page::default();
    let mut bytes = 0_usize;
    while let Some(row) = rows.try_next().await? {
        let message = row.bytes(3)?;
        bytes = bytes.saturating_add(message.len());
        if page.messages.len() == limit || (bytes > question.bytes && !page.messages.is_empty()) {
            page.more = true;
            break;
        }
        page.messages.push(Stored {
            place: place(&row, 0)?,
            time_us: unsigned(row.number(2)?)?,
            message: message.into(),
        });
    }
    Ok(page)
}
