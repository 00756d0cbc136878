//! How services reach SQLite and PostgreSQL: their settings, pools whose waits have an end, what an error means for another try, and
//! the versions of a schema.
//!
//! It knows no table. Each service has its own, also in one database: the table of its migrations has the service's name.

pub mod config;
mod fault;
mod postgres;
mod schema;
mod sqlite;

pub use fault::{Class, class, number};
pub use postgres::{Pool, PostgresDatabase, PostgresSettings};
pub use schema::{Schema, SchemaError};
pub use sqlite::{SqliteDatabase, SqliteSettings};
