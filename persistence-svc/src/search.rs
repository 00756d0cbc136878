//! Search: what is looked for in stored messages, and how it is found, ranked and shown.
//!
//! A store finds places that may be it ([`crate::store::search`]); whether they are, and how well, is decided here on the stored
//! messages themselves. So both stores give the same matches, and whatever is no longer stored is not found.

pub mod analyser;
pub mod language;
pub mod matching;
pub mod query;
pub mod snippet;
pub mod text;

mod cursor;
mod indexing;
mod searching;

pub(crate) use indexing::FOLLOWER;
pub use indexing::Indexer;
pub use searching::{Found, MAX_BYTES, MAX_PAGE, Question, STRETCH, SearchError, Searching, Shown};
