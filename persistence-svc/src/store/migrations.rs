//! The schema's versions: the same numbers and names for both backends.

use sqlx::SqlSafeStr as _;
use sqlx::migrate::{Migration, MigrationType, Migrator};

macro_rules! migrations {
    ($folder:literal: $($number:literal $name:literal in $file:literal,)*) => {
        [$((
            $number,
            $name,
            include_str!(concat!("../../migrations/", $folder, "/", $file)),
        ),)*]
    };
}

macro_rules! of_this_release {
    ($folder:literal) => {
        migrations! {
            $folder:
            1 "messages" in "0001_messages.sql",
            2 "search" in "0002_search.sql",
            3 "conversations" in "0003_conversations.sql",
            4 "changes" in "0004_changes.sql",
            7 "hidden" in "0007_hidden.sql",
            20 "keeping" in "0020_keeping.sql",
        }
    };
}

pub(super) fn postgres() -> Migrator {
    migrator(&of_this_release!("postgres"))
}

pub(super) fn sqlite() -> Migrator {
    migrator(&of_this_release!("sqlite"))
}

fn migrator(files: &[(i64, &'static str, &'static str)]) -> Migrator {
    let migrations = files.iter().map(|(number, name, sql)| {
        Migration::new(
            *number,
            (*name).into(),
            MigrationType::Simple,
            sql.into_sql_str(),
            false,
        )
    });
    Migrator::with_migrations(migrations.collect())
}
