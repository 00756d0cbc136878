//! One shard's actor: claims the shard, runs its [`owner`], and moves the bytes.

mod actor;
mod appender;
mod claim;
mod links;
mod owner;

pub(crate) use actor::{Shard, ShardEnd, ShardSettings};
pub(crate) use owner::Limits;
