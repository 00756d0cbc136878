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
            31 "erasures_done" in "0031_erasures_done.sql",
            32 "lifts" in "0032_lifts.sql",
            40 "moderation" in "0040_moderation.sql",
            50 "statistics" in "0050_statistics.sql",
            51 "search_channels" in "0051_search_channels.sql",
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A file that the list forgets is a column that no database has.
    #[test]
    fn every_file_is_in_the_list() {
        for (folder, listed) in [("postgres", postgres()), ("sqlite", sqlite())] {
            let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("migrations")
                .join(folder);
            let mut files: Vec<String> = std::fs::read_dir(&folder)
                .expect("a folder of this crate")
                .map(|entry| {
                    entry
                        .expect("readable")
                        .file_name()
                        .to_string_lossy()
                        .into_owned()
                })
                .collect();
            files.sort();
            let listed: Vec<String> = listed
                .iter()
                .map(|migration| format!("{:04}_{}.sql", migration.version, migration.description))
                .collect();
            assert_eq!(files, listed, "{}", folder.display());
        }
    }
}
