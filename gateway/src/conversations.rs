//! Conversations: who is in a channel, and up to where everybody has read.
//!
//! Members are what a channel's own events say (`Message.change.members`), kept by the message store; a gateway checks who may
//! change them, and lets only them in where the namespace says so. Receipts go to the store, collected.
//!
//! | module | what |
//! | --- | --- |
//! | `cache` | who is known to be a member |
//! | `memberships` | asking the store who is |
//! | `access` | who is let in, and who has to go |
//! | `change` | adding and removing members |
//! | `list` | who is in a channel |
//! | `receipts` | up to where users were given and have read channels |

mod access;
mod cache;
mod change;
mod config;
mod list;
mod memberships;
mod receipts;

pub(crate) use self::access::{Events, Told, watch};
pub(crate) use self::change::{ChangeMembers, Changed, Who};
pub use self::config::ConversationsConfig;
pub(crate) use self::list::{MembersPage, named_role};
pub(crate) use self::memberships::{MembershipMetrics, Memberships};
pub(crate) use self::receipts::{Mark, ReceiptMetrics, Receipts, Upto, write_all as write_receipts};
