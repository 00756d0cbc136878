//! The schema's versions: the same numbers and names for both backends.

use sqlx::SqlSafeStr as _;
use sqlx::migrate::{Migration, MigrationType, Migrator};

macro_rules! migrations {
    ($folder:literal: $($number:literal $name:literal,)*) => {
        [$((
            $number,
            $name,
            include_str!(concat!("../../migrations/", $folder, "/000", $number, "_", $name, ".sql")),
        ),)*]
    };
}

macro_rules! of_this_release {
    ($folder:literal) => {
        migrations! {
            $folder:
            1 "messages",
            2 "search",
            3 "conversations",
            4 "changes",
            7 "hidden",
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
