//! One shard's actor: takes the shard over, runs its [`owner`], and moves the bytes.

mod actor;
mod appender;
mod applying;
mod askings;
mod budget;
mod claim;
mod deleted;
mod derive;
mod hidden;
mod history;
mod keys;
mod links;
mod memory;
mod owner;
mod publishers;
mod questions;
mod readers;
mod readings;
mod stored;
mod successor;
mod takeover;
#[cfg(test)]
mod test_log;
mod upkeep;
mod window;

use switchboard_bus::records;

pub(crate) use actor::{Ending, Owners, Shard, ShardEnd, ShardSettings};
pub(crate) use budget::WindowBudget;
pub(crate) use links::LinkLimits;
pub(crate) use memory::MemoryLimits;
pub(crate) use owner::Limits;
pub(crate) use questions::PageLimits;
pub(crate) use stored::STORE;
pub(crate) use successor::{Following, Preparation};
pub(crate) use upkeep::UpkeepLimits;
pub(crate) use window::WindowLimits;
#[cfg(feature = "simulation")]
pub(crate) use {
    askings::{Ask, AskId},
    keys::name,
    memory::TailReader,
    owner::{Output, Owner, Ownership},
    records::{Body, Reading},
};
