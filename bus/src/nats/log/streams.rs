//! The streams: what they are created with, and what an existing one must have.

use std::collections::HashMap;
use std::time::Duration;

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::{CreateStreamErrorKind, DeleteStreamErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::response::Response;
use async_nats::jetstream::stream::{
    Config, DiscardPolicy, Info, LastRawMessageErrorKind, RetentionPolicy, StorageType,
};
use switchboard_proto::bus::Layout;
use switchboard_proto::format::{self, FormatError};
use switchboard_proto::ids::{LogEpoch, ShardId};
use tokio::time::Instant;

use super::{NatsDurability, NatsLog};
use crate::log::LogError;
use crate::nats::connection::chain;

/// Where a stream's metadata holds its log epoch.
const EPOCH_KEY: &str = "switchboard-log-epoch";

/// Layouts that are kept, the one in force among them: for whoever wants to know what was before.
const LAYOUTS: u64 = 8;

/// Bytes of the layout's stream: a few small records.
const LAYOUT_BYTES: i64 = 64 << 10;

/// How long creation is tried: longer than the elections of a cluster that has just begun.
const CREATION: Duration = Duration::from_secs(30);

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(50);

impl NatsLog {
    /// What the leader of a shard's stream says of it.
    pub(super) async fn stream_info(&self, shard: ShardId) -> Result<Info, LogError> {
        let subject = format!("STREAM.INFO.{}", self.stream(shard));
        match self.records.request(subject, &()).await {
            Ok(Response::Ok(info)) => Ok(info),
            Ok(Response::Err { error }) if error.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                Err(LogError::Missing(shard))
            }
            Ok(Response::Err { error }) => Err(LogError::Unavailable(error.to_string())),
            Err(error) => Err(LogError::Unavailable(without_jetstream(chain(&error)))),
        }
    }

    pub(super) async fn check_stream(&self, shard: ShardId) -> Result<(), LogError> {
        let info = self.stream_info(shard).await?;
        self.compare(shard, &info.config)
    }

    /// Whether an existing stream keeps what the log promises.
    fn compare(&self, shard: ShardId, found: &Config) -> Result<(), LogError> {
        let wanted = self.log_config(shard, String::new());
        let differs = |what: String| {
            Err(LogError::Damaged(format!(
                "stream {} {what}: change the stream (`nats stream edit`) or the configuration",
                found.name
            )))
        };
        epoch(found)?;
        if found.subjects != wanted.subjects {
            return differs(format!("stores {:?}, not {:?}", found.subjects, wanted.subjects));
        }
        if found.discard != wanted.discard {
            return differs("forgets its oldest records when it is full".to_owned());
        }
        if found.retention != wanted.retention {
            return differs("forgets records that were read".to_owned());
        }
        if !found.max_age.is_zero() || found.max_messages > 0 || found.max_messages_per_subject > 0 {
            return differs("has a limit other than its bytes".to_owned());
        }
        if found.storage != wanted.storage {
            let (found, wanted) = (storage(found.storage), storage(wanted.storage));
            return differs(format!("keeps records {found}, configured is {wanted}"));
        }
        if found.num_replicas != wanted.num_replicas {
            let (found, wanted) = (found.num_replicas, wanted.num_replicas);
            return differs(format!("has {found} replicas, configured are {wanted}"));
        }
        Ok(())
    }

    fn log_config(&self, shard: ShardId, epoch: String) -> Config {
        Config {
            name: self.stream(shard),
            subjects: vec![self.subject(shard)],
            description: Some(format!("Switchboard's log of shard {shard}")),
            max_bytes: i64::try_from(self.config.max_bytes).unwrap_or(i64::MAX),
            metadata: HashMap::from([(EPOCH_KEY.to_owned(), epoch)]),
            ..self.any_config()
        }
    }

    fn layout_config(&self) -> Config {
        Config {
            name: self.config.prefix.layout_stream(),
            subjects: vec![self.config.prefix.layout_subject()],
            description: Some("Switchboard's layout of logs: the last record is in force".to_owned()),
            max_bytes: LAYOUT_BYTES,
            ..self.any_config()
        }
    }

    /// What all streams have: they refuse when full and forget nothing by themselves (rule L4).
    pub(super) fn any_config(&self) -> Config {
        Config {
            discard: DiscardPolicy::New,
            retention: RetentionPolicy::Limits,
            max_messages: -1,
            max_messages_per_subject: -1,
            storage: match self.config.durability {
                NatsDurability::Memory => StorageType::Memory,
                NatsDurability::Replicated | NatsDurability::ReplicatedAndFsynced => StorageType::File,
            },
            num_replicas: self.config.replicas,
            // A stored record is never changed; purging the oldest stays possible.
            deny_delete: true,
            ..Config::default()
        }
    }

    /// The layout in force.
    pub(super) async fn stored_layout(&self) -> Result<Option<Layout>, LogError> {
        Ok(self.last_layout().await?.map(|(layout, _)| layout))
    }

    /// The layout in force and the sequence of its record.
    async fn last_layout(&self) -> Result<Option<(Layout, u64)>, LogError> {
        let name = self.config.prefix.layout_stream();
        let stream = self.records.get_stream_no_info(&name).await;
        let stream = stream.map_err(|error| LogError::Unavailable(chain(&error)))?;
        let subject = self.config.prefix.layout_subject();
        let record = match stream.get_last_raw_message_by_subject(&subject).await {
            Ok(record) => record,
            Err(error) => {
                return match error.kind() {
                    LastRawMessageErrorKind::NoMessageFound => Ok(None),
                    LastRawMessageErrorKind::JetStream(error)
                        if error.error_code() == ErrorCode::STREAM_NOT_FOUND =>
                    {
                        Ok(None)
                    }
                    _ => Err(LogError::Unavailable(without_jetstream(chain(&error)))),
                };
            }
        };
        match format::decode(record.payload) {
            Ok(layout) => Ok(Some((layout, record.sequence))),
            Err(error @ FormatError::Newer { .. }) => Err(LogError::Damaged(format!("layout: {error}"))),
            Err(error) => Err(LogError::Damaged(format!(
                "layout record in stream {name}: {error}"
            ))),
        }
    }

    /// [`crate::Log::change_layout`].
    pub(super) async fn store_layout(&self, from: &Layout, to: &Layout) -> Result<(), LogError> {
        let sequence = match self.last_layout().await? {
            Some((layout, _)) if layout == *to => return Ok(()),
            Some((layout, sequence)) if layout == *from => sequence,
            Some(_) | None => return Err(LogError::LayoutChanged),
        };
        let record = PublishMessage::build()
            .payload(format::encode(to))
            .expected_last_subject_sequence(sequence);
        let stored = self.publish_layout(record).await;
        // As at the creation: what can be read is in force.
        match self.last_layout().await? {
            Some((layout, _)) if layout == *to => {}
            Some((layout, _)) if layout == *from => {
                let reason = stored
                    .err()
                    .unwrap_or_else(|| "stored, but cannot be read".to_owned());
                return Err(LogError::Unavailable(format!("layout record: {reason}")));
            }
            Some(_) | None => return Err(LogError::LayoutChanged),
        }
        // So that the stream never fills up. The next change does what this one does not get to.
        let name = self.config.prefix.layout_stream();
        if let Ok(stream) = self.management.get_stream_no_info(&name).await
            && let Err(error) = stream.purge().keep(LAYOUTS).await
        {
            tracing::debug!(%error, "old layouts stay");
        }
        Ok(())
    }

    async fn publish_layout(&self, record: PublishMessage) -> Result<(), String> {
        let subject = self.config.prefix.layout_subject();
        let stored = match self.records.send_publish(subject, record).await {
            Ok(sent) => sent.await,
            Err(error) => Err(error),
        };
        stored.map(|_| ()).map_err(|error| chain(&error))
    }

    /// [`crate::Log::remove`].
    pub(super) async fn remove_stream(&self, shard: ShardId) -> Result<(), LogError> {
        let Err(error) = self.management.delete_stream(self.stream(shard)).await else {
            return Ok(());
        };
        match error.kind() {
            DeleteStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                Ok(())
            }
            _ => Err(LogError::Unavailable(chain(&error))),
        }
    }

    /// [`crate::Log::create`]. Every step may be done again, and is until all of them are: a cluster that
    /// has just begun is for some seconds without the leaders that must answer.
    pub(super) async fn create_all(&self, wanted: &Layout) -> Result<Layout, LogError> {
        let deadline = Instant::now() + CREATION;
        loop {
            match self.try_create_all(wanted).await {
                Ok(layout) => return Ok(layout),
                Err(failure) => failure.wait(deadline).await?,
            }
        }
    }

    async fn try_create_all(&self, wanted: &Layout) -> Result<Layout, Failure> {
        let layout = self.create_layout(wanted).await?;
        let shards = layout
            .shard_count()
            .ok_or_else(|| LogError::Damaged(format!("layout of {} shards", layout.shards)))?;
        let log = self.with(&layout);
        for shard in shards.iter() {
            log.try_create(shard).await?;
        }
        self.create_stream(self.positions_config()).await?;
        Ok(layout)
    }

    /// [`crate::Log::create_log`].
    pub(super) async fn create_one(&self, shard: ShardId) -> Result<(), LogError> {
        let deadline = Instant::now() + CREATION;
        loop {
            match self.try_create(shard).await {
                Ok(()) => return Ok(()),
                Err(failure) => failure.wait(deadline).await?,
            }
        }
    }

    async fn try_create(&self, shard: ShardId) -> Result<(), Failure> {
        match self.stream_info(shard).await {
            Ok(info) => self.compare(shard, &info.config)?,
            Err(LogError::Missing(_)) => {
                let epoch = LogEpoch {
                    ordinal: self.layout.ordinal(shard),
                    random: rand::random(),
                };
                self.create_stream(self.log_config(shard, epoch.to_string()))
                    .await?;
                match self.check_stream(shard).await {
                    // Whoever answers may not know yet of a creation, ours or another's, that is on its way.
                    Err(missing @ LogError::Missing(_)) => return Err(Failure::Passing(missing)),
                    checked => checked?,
                }
            }
            Err(other) => return Err(other.into()),
        }
        Ok(())
    }

    /// The layout in force: the one that is there, or `wanted`, stored by the first to say so.
    async fn create_layout(&self, wanted: &Layout) -> Result<Layout, Failure> {
        if let Some(layout) = self.stored_layout().await? {
            return Ok(layout);
        }
        self.create_stream(self.layout_config()).await?;
        let record = PublishMessage::build()
            .payload(format::encode(wanted))
            .expected_last_subject_sequence(0);
        let stored = self.publish_layout(record).await;
        // Whatever the answer: what is in force is what can be read. A refusal may come before the
        // other's record is readable, an error although ours is stored.
        if let Some(layout) = self.stored_layout().await? {
            return Ok(layout);
        }
        let reason = stored
            .err()
            .unwrap_or_else(|| "stored, but cannot be read".to_owned());
        Err(LogError::Unavailable(format!("layout record: {reason}")).into())
    }

    /// Creates a stream, unless there is one by that name.
    async fn create_stream(&self, config: Config) -> Result<(), Failure> {
        let name = config.name.clone();
        let Err(error) = self.management.create_stream(config).await else {
            return Ok(());
        };
        let reason = format!("stream {name} not created: {}", chain(&error));
        let code = match error.kind() {
            CreateStreamErrorKind::JetStream(error) => Some(error.error_code()),
            _ => None,
        };
        match code {
            // Somebody else was quicker; the random part of the epoch differs.
            Some(ErrorCode::STREAM_NAME_EXIST) => Ok(()),
            // Without an answer, or while servers of the cluster look for each other.
            None
            | Some(
                ErrorCode::CLUSTER_NO_PEERS
                | ErrorCode::CLUSTER_NOT_AVAILABLE
                | ErrorCode::CLUSTER_NOT_LEADER,
            ) => Err(Failure::Passing(LogError::Unavailable(reason))),
            // Limits, permissions, replicas that a lone server cannot have: the text tells.
            Some(ErrorCode::STORAGE_RESOURCES_EXCEEDED) => {
                // The server only says that it has not enough: by default three quarters of what is free on its disk.
                let reason = format!(
                    "{reason}: each shard wants bus.nats.max_bytes of the room that JetStream has (max_file_store of \
                     nats-server); set one lower or the other higher"
                );
                Err(Failure::Final(LogError::Unavailable(reason)))
            }
            Some(_) => Err(Failure::Final(LogError::Unavailable(reason))),
        }
    }
}

/// Why a step of the creation failed.
enum Failure {
    /// It may pass by itself.
    Passing(LogError),
    /// Somebody must do something.
    Final(LogError),
}

impl Failure {
    /// Until the step may be tried again.
    async fn wait(self, deadline: Instant) -> Result<(), LogError> {
        match self {
            Self::Final(error) => Err(error),
            Self::Passing(error) if Instant::now() > deadline => Err(error),
            Self::Passing(_) => {
                tokio::time::sleep(PAUSE).await;
                Ok(())
            }
        }
    }
}

impl From<LogError> for Failure {
    fn from(error: LogError) -> Self {
        match error {
            LogError::Unavailable(_) => Self::Passing(error),
            LogError::Missing(_) | LogError::Damaged(_) | LogError::Hole { .. } | LogError::LayoutChanged => {
                Self::Final(error)
            }
        }
    }
}

/// The log epoch in a stream's metadata.
pub(super) fn epoch(config: &Config) -> Result<LogEpoch, LogError> {
    let epoch = config.metadata.get(EPOCH_KEY).and_then(|text| text.parse().ok());
    epoch.ok_or_else(|| {
        LogError::Damaged(format!(
            "stream {} has no log epoch in its metadata ({EPOCH_KEY}): it was not made by `switchboard migrate`",
            config.name
        ))
    })
}

fn storage(storage: StorageType) -> &'static str {
    match storage {
        StorageType::File => "on disk",
        StorageType::Memory => "in memory",
    }
}

/// What a server without JetStream says, with what to do about it.
fn without_jetstream(text: String) -> String {
    if text.contains("no responders") {
        format!("{text}; does the NATS server run with JetStream (`-js`), and may this user ask it?")
    } else {
        text
    }
}
