//! Tags that Switchboard itself puts on messages: what the client protocol has no field for travels there.
//!
//! Their names begin with [`PREFIX`], which clients may not use.

use uuid::Uuid;

/// What the names of all of them begin with.
pub const PREFIX: &str = "sb-";

/// The message's id, a UUID.
pub const ID: &str = "sb-id";

/// The channel that was published to, on an entry that was derived from there.
pub const CHANNEL: &str = "sb-channel";

/// `low`, `high` or `critical`; absent: normal.
pub const PRIORITY: &str = "sb-priority";

/// What a message changes, where it is no message like others: `members`, or of those that are not stored `receipt`.
pub const CHANGE: &str = "sb-change";

/// The id of the message that this one answers.
pub const REPLY_TO: &str = "sb-reply-to";

/// The offset of the message that a change is about.
pub const TARGET: &str = "sb-target";

/// The log epoch of that offset, where it is not the one that the change itself stands in.
pub const TARGET_EPOCH: &str = "sb-target-epoch";

/// The offset of the message that began the thread.
pub const THREAD: &str = "sb-thread";

/// As [`TARGET_EPOCH`].
pub const THREAD_EPOCH: &str = "sb-thread-epoch";

/// On a message that is shown with what an edit says: the edit's offset.
pub const EDITED: &str = "sb-edited";

/// On what is left of a message that was deleted: `true`.
pub const DELETED: &str = "sb-deleted";

/// A message's id as text; what is not 16 bytes has none.
pub fn id_text(id: &[u8]) -> String {
    Uuid::from_slice(id).map_or_else(|_| String::new(), |id| id.to_string())
}
