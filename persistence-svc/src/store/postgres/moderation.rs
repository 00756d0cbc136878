//! Moderation in PostgreSQL.

use async_trait::async_trait;
use sqlx::AssertSqlSafe;

use super::super::moderation::sql::{From, entries, entry, from, moderation, restriction, restrictions};
use super::super::moderation::{
    Act, Entry, Key, Kind, MAX_MODERATED, ModerationStore, Restriction, Restrictions, few, follows_from,
};
use super::super::{StoreError, number, unsigned};
use super::PostgresStore;

moderation!(sqlx::PgConnection, PostgresStore);
