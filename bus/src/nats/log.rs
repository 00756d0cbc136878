//! The log on JetStream: one stream per shard, and a small one each for the layout and for readers'
//! positions.
//!
//! Everything that decides something is asked of a stream's leader: appends by compare-and-set on
//! the stream's last sequence, `STREAM.MSG.GET` and `STREAM.INFO`. A follower may lag and is never
//! asked. What an error of the server says about an append was measured for each code; where it
//! says nothing for certain the answer is [`AppendError::Unknown`] (rule L1).

mod positions;
mod reader;
mod streams;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::RawMessageErrorKind;
use async_nats::jetstream::{self, Context, ContextBuilder, ErrorCode};
use async_trait::async_trait;
use bytes::Bytes;
use switchboard_proto::bus::Layout;
use switchboard_proto::ids::{Sequence, ShardCount, ShardId};

use super::connection::{NatsConnection, chain};
use crate::log::{AppendError, Log, LogError, LogInfo, RecordStream};
use crate::position::{CommitError, ReaderName, ReaderPosition, StoredReader};
use crate::subject::SubjectPrefix;

/// How long an append, or a question about one record, may go unanswered. An owner asks again, so
/// this is how long it takes to notice that a server is gone.
const ANSWER: Duration = Duration::from_secs(1);

/// The same for a reader's consumer, which the cluster's leader has to place.
const CONSUMER: Duration = Duration::from_secs(3);

/// The same for creating streams and for purging: they wait for a quorum and for files.
const MANAGEMENT: Duration = Duration::from_secs(10);

/// Room in a message for the headers of an append. What they take is below 100 bytes.
const HEADERS: usize = 256;

/// What an acknowledged record survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NatsDurability {
    /// The death of this process, and of a minority of the replicas. Nothing is on disk.
    Memory,
    /// Also the restart of servers: records are on the replicas' disks, but a server acknowledges
    /// them before they are synced, so a power cut of a majority may take the last ones.
    Replicated,
    /// Also a power cut of all servers, if each of them runs with `sync_interval: always`: that is
    /// a setting of the servers, which a client can neither make nor check.
    ReplicatedAndFsynced,
}

/// What streams are created with, and must have.
#[derive(Debug, Clone)]
pub struct NatsLogConfig {
    /// The first token of subjects; upper case, of streams' names.
    pub prefix: SubjectPrefix,
    /// Servers that hold each record: 1, 3 or 5.
    pub replicas: usize,
    /// Bytes that one shard's stream may take on each replica. An existing stream keeps its own.
    pub max_bytes: u64,
    /// What an acknowledged record survives.
    pub durability: NatsDurability,
}

/// A [`Log`] on JetStream.
#[derive(Clone)]
pub struct NatsLog {
    connection: NatsConnection,
    config: Arc<NatsLogConfig>,
    /// Whose ordinals the logs have.
    layout: Arc<Layout>,
    /// For appends and single records.
    records: Context,
    /// For readers' consumers.
    consumers: Context,
    /// For streams.
    management: Context,
}

impl fmt::Debug for NatsLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsLog")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl NatsLog {
    /// A log on `connection`. Asks nothing of the server yet.
    pub fn new(connection: NatsConnection, config: NatsLogConfig) -> Arc<Self> {
        let context = |timeout| {
            let builder = ContextBuilder::new().timeout(timeout);
            builder.build(connection.client().clone())
        };
        Arc::new(Self {
            records: context(ANSWER),
            consumers: context(CONSUMER),
            management: context(MANAGEMENT),
            config: Arc::new(config),
            layout: Arc::default(),
            connection,
        })
    }

    fn stream(&self, shard: ShardId) -> String {
        self.config.prefix.log_stream(self.layout.ordinal(shard), shard)
    }

    fn subject(&self, shard: ShardId) -> String {
        self.config.prefix.log_subject(self.layout.ordinal(shard), shard)
    }

    fn with(&self, layout: &Layout) -> Self {
        Self {
            layout: Arc::new(layout.clone()),
            ..self.clone()
        }
    }

    fn appended(&self, error: &PublishError, expected: Sequence, size: usize) -> AppendError {
        let code = std::error::Error::source(error)
            .and_then(|source| source.downcast_ref::<jetstream::Error>())
            .map(|error| (error.error_code(), error.to_string()));
        match (error.kind(), code) {
            (PublishErrorKind::WrongLastSequence, _) => AppendError::WrongLast { expected },
            (PublishErrorKind::MaxPayloadExceeded, _) => AppendError::TooLarge {
                size,
                limit: self.max_record(),
            },
            (_, Some((code, text))) if is_refusal(code, &text) => AppendError::Refused(text),
            _ => AppendError::Unknown(chain(error)),
        }
    }
}

/// Whether the server's answer to a first try says that the record is not stored and will not be.
/// A full stream shares its code with failures of the store that say nothing: only the text differs.
fn is_refusal(code: ErrorCode, text: &str) -> bool {
    match code {
        ErrorCode::STREAM_STORE_FAILED => {
            text.contains("maximum bytes exceeded") || text.contains("maximum messages exceeded")
        }
        ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM | ErrorCode::STREAM_SEALED => true,
        _ => false,
    }
}

#[async_trait]
impl Log for NatsLog {
    async fn append(
        &self,
        shard: ShardId,
        expected: Sequence,
        record: Bytes,
    ) -> Result<Sequence, AppendError> {
        let size = record.len();
        if size > self.max_record() {
            return Err(AppendError::TooLarge {
                size,
                limit: self.max_record(),
            });
        }
        let subject = self.subject(shard);
        let message = PublishMessage::build()
            .payload(record)
            .expected_last_sequence(expected.0);
        let stored = match self.records.send_publish(subject, message).await {
            Ok(sent) => sent.await,
            Err(error) => Err(error),
        };
        match stored {
            Ok(stored) => Ok(Sequence(stored.sequence)),
            Err(error) => Err(self.appended(&error, expected, size)),
        }
    }

    async fn info(&self, shard: ShardId) -> Result<LogInfo, LogError> {
        let info = self.stream_info(shard).await?;
        let last = info.state.last_sequence;
        let is_empty = info.state.messages == 0;
        Ok(LogInfo {
            epoch: streams::epoch(&info.config)?,
            first: Sequence(if is_empty {
                last + 1
            } else {
                info.state.first_sequence
            }),
            last: Sequence(last),
            bytes: info.state.bytes,
            max_bytes: u64::try_from(info.config.max_bytes).ok(),
        })
    }

    async fn get(&self, shard: ShardId, sequence: Sequence) -> Result<Option<Bytes>, LogError> {
        if sequence.0 == 0 {
            return Ok(None);
        }
        let stream = self.records.get_stream_no_info(self.stream(shard)).await;
        let stream = stream.map_err(|error| LogError::Unavailable(chain(&error)))?;
        match stream.get_raw_message(sequence.0).await {
            Ok(message) => Ok(Some(message.payload)),
            Err(error) => match error.kind() {
                RawMessageErrorKind::NoMessageFound => Ok(None),
                RawMessageErrorKind::JetStream(error)
                    if error.error_code() == ErrorCode::STREAM_NOT_FOUND =>
                {
                    Err(LogError::Missing(shard))
                }
                _ => Err(LogError::Unavailable(chain(&error))),
            },
        }
    }

    async fn read(&self, shard: ShardId, from: Sequence) -> Result<RecordStream, LogError> {
        self.read_stream(shard, from).await
    }

    async fn purge(&self, shard: ShardId, before: Sequence) -> Result<(), LogError> {
        // A purge to 0 or 1 would empty the stream, and the last record always stays (rule L4).
        if before.0 <= 1 {
            return Ok(());
        }
        let info = self.info(shard).await?;
        let before = before.min(info.last);
        if before.0 <= 1 || before <= info.first {
            return Ok(());
        }
        let stream = self.management.get_stream_no_info(self.stream(shard)).await;
        let stream = stream.map_err(|error| LogError::Unavailable(chain(&error)))?;
        let purged = stream.purge().sequence(before.0).await;
        purged.map_err(|error| LogError::Unavailable(chain(&error)))?;
        Ok(())
    }

    async fn commit(
        &self,
        reader: &ReaderName,
        shard: ShardId,
        position: ReaderPosition,
    ) -> Result<ReaderPosition, CommitError> {
        self.commit_position(reader, shard, position).await
    }

    async fn position(
        &self,
        reader: &ReaderName,
        shard: ShardId,
    ) -> Result<Option<ReaderPosition>, LogError> {
        self.stored_position(reader, shard).await
    }

    async fn positions(&self) -> Result<Vec<StoredReader>, LogError> {
        self.stored_positions().await
    }

    async fn layout(&self) -> Result<Option<Layout>, LogError> {
        self.stored_layout().await
    }

    async fn create(&self, wanted: &Layout) -> Result<Layout, LogError> {
        self.create_all(wanted).await
    }

    fn of(&self, layout: &Layout) -> Arc<dyn Log> {
        Arc::new(self.with(layout))
    }

    async fn create_log(&self, shard: ShardId) -> Result<(), LogError> {
        self.create_one(shard).await
    }

    async fn check(&self, layout: &Layout) -> Result<(), LogError> {
        let log = self.with(layout);
        for shard in layout.shard_count().into_iter().flat_map(ShardCount::iter) {
            log.check_stream(shard).await?;
        }
        Ok(())
    }

    async fn change_layout(&self, from: &Layout, to: &Layout) -> Result<(), LogError> {
        self.store_layout(from, to).await
    }

    async fn remove(&self, shard: ShardId) -> Result<(), LogError> {
        self.remove_stream(shard).await
    }

    fn max_record(&self) -> usize {
        self.connection.client().max_payload().saturating_sub(HEADERS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_full_or_closed_stream_refuses() {
        let failed = ErrorCode::STREAM_STORE_FAILED;
        assert!(is_refusal(
            failed,
            "maximum bytes exceeded (code 503, error code 10077)"
        ));
        assert!(is_refusal(failed, "maximum messages exceeded"));
        assert!(!is_refusal(failed, "no space left on device"));
        assert!(is_refusal(ErrorCode::STREAM_SEALED, ""));
        assert!(!is_refusal(
            ErrorCode::CLUSTER_NOT_AVAILABLE,
            "maximum bytes exceeded"
        ));
    }
}
