//! Changes, and what became of messages, in PostgreSQL.

use crate::store::changes::sql::changes;

changes!(
    sqlx::PgConnection,
    super::PostgresStore,
    sqlx::postgres::PgRow,
    " FOR UPDATE",
    " FOR UPDATE OF m"
);
