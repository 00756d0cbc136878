//! The schema's versions.

use switchboard_database::Schema;

/// In one database with the message store: the table of what was migrated is this service's own.
pub(super) const SCHEMA: Schema = Schema {
    table: "notify_migrations",
    postgres: &[(
        1,
        "notifications",
        include_str!("../../migrations/postgres/0001_notifications.sql"),
    )],
    sqlite: &[(
        1,
        "notifications",
        include_str!("../../migrations/sqlite/0001_notifications.sql"),
    )],
};
