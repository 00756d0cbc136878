//! Reading a shard's stream in order: a pull consumer that asks for a bounded number of bytes.
//!
//! The consumer is nobody's but this reader's and goes away with it, at once: a server allows a stream
//! 1,000 consumers by default, and where those of readers that are gone fill them, no shard is taken over.
//! Whatever is odd ends the stream with an error, and the caller reads again from its own position: that
//! is the only repair (rule L8).

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull};
use async_nats::jetstream::stream::ConsumerErrorKind;
use async_nats::jetstream::{Context, ErrorCode};
use futures_util::{StreamExt as _, stream};
use switchboard_proto::ids::{Sequence, ShardId};
use tokio::runtime::Handle;

use super::NatsLog;
use crate::log::{LogError, RecordAt, RecordStream};
use crate::nats::connection::chain;

/// Records and bytes that may be on their way to one reader.
const BATCH_RECORDS: usize = 256;
const BATCH_BYTES: usize = 4 << 20;

/// A pull lives this long; the next follows by itself.
const EXPIRES: Duration = Duration::from_secs(5);

/// A reader that hears nothing for twice as long gives up.
const HEARTBEAT: Duration = Duration::from_millis(500);

/// After which the server forgets the consumer of a reader that could not remove it: its process died.
const FORGET: Duration = Duration::from_secs(30);

struct Reader {
    messages: pull::Stream,
    _consumer: OwnConsumer,
    /// The first record wanted.
    from: u64,
    /// The record delivered last, wanted or not; 0 before the first.
    last: u64,
}

/// A reader's consumer. Removed when dropped, without waiting for it.
struct OwnConsumer {
    consumers: Context,
    stream: String,
    name: String,
}

impl Drop for OwnConsumer {
    fn drop(&mut self) {
        // Without a runtime the process ends, and the server forgets the consumer by itself.
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        let consumers = self.consumers.clone();
        let (stream, name) = (std::mem::take(&mut self.stream), std::mem::take(&mut self.name));
        runtime.spawn(async move {
            let removed = match consumers.get_stream_no_info(&stream).await {
                Ok(stream) => stream.delete_consumer(&name).await.map_err(|error| chain(&error)),
                Err(error) => Err(chain(&error)),
            };
            if let Err(error) = removed {
                tracing::debug!(stream, error, "consumer of a reader not removed");
            }
        });
    }
}

impl NatsLog {
    pub(super) async fn read_stream(&self, shard: ShardId, from: Sequence) -> Result<RecordStream, LogError> {
        let from = from.0.max(1);
        let config = pull::Config {
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: from },
            ack_policy: AckPolicy::None,
            inactive_threshold: FORGET,
            // Its state is worth nothing to anybody else.
            memory_storage: true,
            num_replicas: 1,
            ..pull::Config::default()
        };
        let stream = self.stream(shard);
        let consumer: PullConsumer = match self.consumers.create_consumer_on_stream(config, &stream).await {
            Ok(consumer) => consumer,
            Err(error) => {
                return Err(match error.kind() {
                    ConsumerErrorKind::JetStream(error)
                        if error.error_code() == ErrorCode::STREAM_NOT_FOUND =>
                    {
                        LogError::Missing(shard)
                    }
                    _ => LogError::Unavailable(chain(&error)),
                });
            }
        };
        let own = OwnConsumer {
            consumers: self.consumers.clone(),
            stream,
            name: consumer.cached_info().name.clone(),
        };
        // A record over the byte limit would never come.
        let bytes = BATCH_BYTES.max(self.connection.client().max_payload() * 2);
        let messages = consumer
            .stream()
            .max_messages_per_batch(BATCH_RECORDS)
            .max_bytes_per_batch(bytes)
            .expires(EXPIRES)
            .heartbeat(HEARTBEAT)
            .messages()
            .await
            .map_err(|error| LogError::Unavailable(chain(&error)))?;
        let reader = Reader {
            messages,
            _consumer: own,
            from,
            last: 0,
        };
        let records = stream::unfold(Some(reader), |reader| async move {
            let mut reader = reader?;
            match reader.next().await {
                Ok(record) => Some((Ok(record), Some(reader))),
                Err(error) => Some((Err(error), None)),
            }
        });
        Ok(records.boxed())
    }
}

impl Reader {
    /// Cancel safe.
    async fn next(&mut self) -> Result<RecordAt, LogError> {
        loop {
            let message = match self.messages.next().await {
                Some(Ok(message)) => message,
                Some(Err(error)) => return Err(LogError::Unavailable(chain(&error))),
                None => return Err(LogError::Unavailable("the consumer ended".to_owned())),
            };
            let sequence = match message.info() {
                Ok(info) => info.stream_sequence,
                Err(error) => return Err(LogError::Damaged(format!("a record without place: {error}"))),
            };
            let expected = self.last + 1;
            if self.last > 0 && sequence != expected {
                return Err(LogError::Hole {
                    expected: Sequence(expected),
                    found: Sequence(sequence),
                });
            }
            self.last = sequence;
            // Not every release of the server lets a consumer begin beyond the end of its stream.
            if sequence >= self.from {
                return Ok(RecordAt {
                    sequence: Sequence(sequence),
                    record: message.message.payload,
                });
            }
        }
    }
}
