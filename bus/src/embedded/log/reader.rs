//! Reading a log in order, and on as it grows.
//!
//! A reader takes what is committed in pieces of bounded size and then waits for the committing
//! thread to announce more. Both look at the same extent, so nothing falls between store and tail.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream;
use switchboard_proto::ids::Sequence;

use super::GONE;
use super::shard::Shard;
use crate::log::{LogError, RecordAt, RecordStream};

/// Bytes of records that one reader holds at most, beside the one that reaches it.
const PIECE_BYTES: usize = 1 << 20;

struct Reader {
    shard: Arc<Shard>,
    /// The next sequence to be read from the store.
    position: u64,
    /// Until the first record, a later one may come: the wanted one was purged.
    begun: bool,
    piece: VecDeque<(u64, Bytes)>,
}

/// All records of `shard` from `from` on.
pub(super) fn stream(shard: Arc<Shard>, from: u64) -> RecordStream {
    let reader = Reader {
        shard,
        position: from.max(1),
        begun: false,
        piece: VecDeque::new(),
    };
    stream::unfold(Some(reader), |reader| async move {
        let mut reader = reader?;
        match reader.next().await {
            Ok(record) => Some((Ok(record), Some(reader))),
            Err(error) => Some((Err(error), None)),
        }
    })
    .boxed()
}

impl Reader {
    /// Cancel safe: the state changes only once the piece is there.
    async fn next(&mut self) -> Result<RecordAt, LogError> {
        loop {
            if let Some((sequence, record)) = self.piece.pop_front() {
                let sequence = Sequence(sequence);
                return Ok(RecordAt { sequence, record });
            }
            self.fetch().await?;
        }
    }

    async fn fetch(&mut self) -> Result<(), LogError> {
        let mut extents = self.shard.watch();
        let position = self.position;
        let extent = match extents.wait_for(|extent| extent.last >= position).await {
            Ok(extent) => *extent,
            Err(_) => return Err(LogError::Unavailable(GONE.to_owned())),
        };
        if !self.begun && extent.first > position {
            self.position = extent.first;
            return Ok(());
        }
        let shard = Arc::clone(&self.shard);
        let piece =
            tokio::task::spawn_blocking(move || shard.records(position, extent.last, PIECE_BYTES)).await;
        let piece = piece.map_err(|error| LogError::Unavailable(error.to_string()))??;
        let gap = match piece.is_empty() {
            true => Some((position, self.shard.extent().first)),
            false => (position..)
                .zip(piece.iter().map(|(sequence, _)| *sequence))
                .find(|(expected, found)| expected != found),
        };
        if let Some((expected, found)) = gap {
            if !self.begun && self.shard.extent().first > position {
                // Purged meanwhile, before anything was read: begin at what is there.
                return Ok(());
            }
            // Purged under a slow reader, or damage: both are for the caller to tell.
            return Err(LogError::Hole {
                expected: Sequence(expected),
                found: Sequence(found),
            });
        }
        self.begun = true;
        self.position = position + piece.len() as u64;
        self.piece = piece.into();
        Ok(())
    }
}
