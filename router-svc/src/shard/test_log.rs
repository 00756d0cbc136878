//! Logs of tests: what a test says of the calls that its subject makes, and a panic for all others.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use switchboard_bus::{
    AppendError, CommitError, Log, LogError, LogInfo, ReaderName, ReaderPosition, RecordStream, StoredReader,
};
use switchboard_proto::bus::Layout;
use switchboard_proto::ids::{Sequence, ShardId};

/// The calls that a test decides; see [`Log`]. One that it does not write is not expected.
#[async_trait]
pub(crate) trait Script: Send + Sync + 'static {
    async fn append(&self, _: Sequence, _: Bytes) -> Result<Sequence, AppendError> {
        unreachable!("not asked for in this test")
    }

    async fn info(&self) -> Result<LogInfo, LogError>;

    async fn get(&self, _: Sequence) -> Result<Option<Bytes>, LogError> {
        unreachable!("not asked for in this test")
    }

    async fn read(&self, _: ShardId, _: Sequence) -> Result<RecordStream, LogError> {
        unreachable!("not asked for in this test")
    }
}

/// A script as a log, of one shard.
pub(crate) struct TestLog<S>(pub(crate) S);

impl<S> Deref for TestLog<S> {
    type Target = S;

    fn deref(&self) -> &S {
        &self.0
    }
}

impl<S> DerefMut for TestLog<S> {
    fn deref_mut(&mut self) -> &mut S {
        &mut self.0
    }
}

#[async_trait]
impl<S: Script> Log for TestLog<S> {
    async fn append(&self, _: ShardId, expected: Sequence, record: Bytes) -> Result<Sequence, AppendError> {
        self.0.append(expected, record).await
    }

    async fn info(&self, _: ShardId) -> Result<LogInfo, LogError> {
        self.0.info().await
    }

    async fn get(&self, _: ShardId, sequence: Sequence) -> Result<Option<Bytes>, LogError> {
        self.0.get(sequence).await
    }

    async fn read(&self, shard: ShardId, from: Sequence) -> Result<RecordStream, LogError> {
        self.0.read(shard, from).await
    }

    async fn purge(&self, _: ShardId, _: Sequence) -> Result<(), LogError> {
        unreachable!("not asked for in these tests")
    }

    async fn commit(
        &self,
        _: &ReaderName,
        _: ShardId,
        _: ReaderPosition,
    ) -> Result<ReaderPosition, CommitError> {
        unreachable!("not asked for in these tests")
    }

    async fn position(&self, _: &ReaderName, _: ShardId) -> Result<Option<ReaderPosition>, LogError> {
        unreachable!("not asked for in these tests")
    }

    async fn positions(&self) -> Result<Vec<StoredReader>, LogError> {
        unreachable!("not asked for in these tests")
    }

    async fn layout(&self) -> Result<Option<Layout>, LogError> {
        unreachable!("not asked for in these tests")
    }

    async fn create(&self, _: &Layout) -> Result<Layout, LogError> {
        unreachable!("not asked for in these tests")
    }

    fn of(&self, _: &Layout) -> Arc<dyn Log> {
        unreachable!("not asked for in these tests")
    }

    async fn create_log(&self, _: ShardId) -> Result<(), LogError> {
        unreachable!("not asked for in these tests")
    }

    async fn check(&self, _: &Layout) -> Result<(), LogError> {
        unreachable!("not asked for in these tests")
    }

    async fn change_layout(&self, _: &Layout, _: &Layout) -> Result<(), LogError> {
        unreachable!("not asked for in these tests")
    }

    async fn remove(&self, _: ShardId) -> Result<(), LogError> {
        unreachable!("not asked for in these tests")
    }

    fn max_record(&self) -> usize {
        usize::MAX
    }
}
