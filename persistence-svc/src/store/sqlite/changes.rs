//! Changes, and what became of messages, in SQLite. Its one writer is lock enough.

use crate::store::changes::sql::changes;

changes!(
    sqlx::SqliteConnection,
    super::SqliteStore,
    sqlx::sqlite::SqliteRow,
    "",
    ""
);
