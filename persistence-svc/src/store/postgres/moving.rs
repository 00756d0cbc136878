//! What is taken to another store beside the messages, in PostgreSQL.

use std::collections::{BTreeMap, HashSet};

use async_trait::async_trait;

use super::super::columns;
use super::super::conversations::{Mark, mark, member_row, named, numbers, role_number, too_much};
use super::super::moving::sql::moving;
use super::super::moving::{ChannelHead, MAX_MOVED, MemberRow, MoveStore};
use super::super::{Place, StoreError, log_number, number};
use super::PostgresStore;
use super::conversations::standing_of;
use super::keeping::put_head;

moving!(PostgresStore);
