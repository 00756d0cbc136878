//! Readers' positions: one small record per reader and shard, in a stream of their own.
//!
//! Not the ack floor of a durable consumer: after a change of its stream's leader a consumer was
//! measured to go on more than a thousand records ahead of what was read, and a replica that no
//! longer reads could acknowledge for the one that does. A record that is replaced by
//! compare-and-set on its subject moves only when told and never back, and reading is left to
//! [`crate::Log::read`], which checks every place (rule L8).

use std::time::Duration;

use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{Config, InfoError, LastRawMessageErrorKind};
use async_nats::jetstream::{self, ErrorCode};
use futures_util::TryStreamExt as _;
use switchboard_proto::ids::ShardId;

use super::NatsLog;
use crate::log::{Log as _, LogError};
use crate::nats::connection::chain;
use crate::position::{Advance, CommitError, ReaderName, ReaderPosition, StoredReader};

/// Bytes of the stream: some 100 per reader and shard.
const POSITIONS_BYTES: i64 = 16 << 20;

/// How often a commit is tried that others overtake, or that the server refuses before what it
/// follows can be read.
const TRIES: usize = 50;

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(20);

impl NatsLog {
    /// What the stream of positions is created with: of each subject the newest record stays.
    pub(super) fn positions_config(&self) -> Config {
        Config {
            name: self.config.prefix.reader_stream(),
            subjects: vec![self.config.prefix.reader_subjects()],
            description: Some("Switchboard's readers of the log, and how far they are".to_owned()),
            max_bytes: POSITIONS_BYTES,
            max_messages_per_subject: 1,
            ..self.any_config()
        }
    }

    /// The stored position and the place of its record, as the stream's leader says.
    async fn position_at(
        &self,
        reader: &ReaderName,
        shard: ShardId,
    ) -> Result<Option<(u64, ReaderPosition)>, LogError> {
        let stream = self.config.prefix.reader_stream();
        let stream = self.records.get_stream_no_info(stream).await;
        let stream = stream.map_err(|error| LogError::Unavailable(chain(&error)))?;
        let subject = self.config.prefix.reader_subject(reader, shard);
        match stream.get_last_raw_message_by_subject(&subject).await {
            Ok(record) => {
                let position = ReaderPosition::decode(record.payload)?;
                Ok(Some((record.sequence, position)))
            }
            Err(error) => match error.kind() {
                LastRawMessageErrorKind::NoMessageFound => Ok(None),
                // Where none can be stored, none was.
                LastRawMessageErrorKind::JetStream(error)
                    if error.error_code() == ErrorCode::STREAM_NOT_FOUND =>
                {
                    Ok(None)
                }
                _ => Err(LogError::Unavailable(chain(&error))),
            },
        }
    }

    pub(super) async fn stored_position(
        &self,
        reader: &ReaderName,
        shard: ShardId,
    ) -> Result<Option<ReaderPosition>, LogError> {
        let stored = self.position_at(reader, shard).await?;
        Ok(stored.map(|(_, position)| position))
    }

    pub(super) async fn commit_position(
        &self,
        reader: &ReaderName,
        shard: ShardId,
        position: ReaderPosition,
    ) -> Result<ReaderPosition, CommitError> {
        position.check(shard, &self.info(shard).await?)?;
        let subject = self.config.prefix.reader_subject(reader, shard);
        for _ in 0..TRIES {
            let stored = self.position_at(reader, shard).await?;
            let place = stored.map_or(0, |(place, _)| place);
            let stored = stored.map(|(_, position)| position);
            if let Advance::Stays(stored) = position.advance(shard, stored)? {
                return Ok(stored);
            }
            let record = PublishMessage::build()
                .payload(position.encode())
                .expected_last_subject_sequence(place);
            let sent = match self.records.send_publish(subject.clone(), record).await {
                Ok(sent) => sent.await,
                Err(error) => Err(error),
            };
            match sent {
                Ok(_) => return Ok(position),
                Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => {
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error) => return Err(self.not_committed(&chain(&error)).into()),
            }
        }
        let reason = format!("others were quicker {TRIES} times");
        Err(self.not_committed(&reason).into())
    }

    fn not_committed(&self, reason: &str) -> LogError {
        let stream = self.config.prefix.reader_stream();
        LogError::Unavailable(format!(
            "reader's position not stored in stream {stream}: {reason}; `switchboard migrate` creates the stream"
        ))
    }

    pub(super) async fn stored_positions(&self) -> Result<Vec<StoredReader>, LogError> {
        let stream = self.config.prefix.reader_stream();
        let stream = self.records.get_stream_no_info(stream).await;
        let stream = stream.map_err(|error| LogError::Unavailable(chain(&error)))?;
        let unavailable = |error: InfoError| LogError::Unavailable(chain(&error));
        let subjects = match stream
            .info_with_subjects(self.config.prefix.reader_subjects())
            .await
        {
            Ok(subjects) => subjects,
            // Where none can be stored, none was.
            Err(error) if is_missing(&error) => return Ok(Vec::new()),
            Err(error) => return Err(unavailable(error)),
        };
        let subjects: Vec<(String, usize)> = subjects.try_collect().await.map_err(unavailable)?;
        let mut positions = Vec::with_capacity(subjects.len());
        for (subject, _) in subjects {
            let Some((reader, shard)) = self.config.prefix.reader_of(&subject) else {
                continue;
            };
            if let Some(position) = self.stored_position(&reader, shard).await? {
                positions.push(StoredReader {
                    reader,
                    shard,
                    position,
                });
            }
        }
        positions.sort_by(|one, other| (&one.reader, one.shard).cmp(&(&other.reader, other.shard)));
        Ok(positions)
    }
}

fn is_missing(error: &InfoError) -> bool {
    std::error::Error::source(error)
        .and_then(|source| source.downcast_ref::<jetstream::Error>())
        .is_some_and(|error| error.error_code() == ErrorCode::STREAM_NOT_FOUND)
}
