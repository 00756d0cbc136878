//! The schema's versions: the same numbers and names for both backends.

use switchboard_database::Schema;

macro_rules! migrations {
    ($folder:literal: $($number:literal $name:literal in $file:literal,)*) => {
        &[$((
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

/// All of this release's. The table of those that a database has is the one that sqlx uses unless it is told another.
pub(super) const SCHEMA: Schema = Schema {
    table: "_sqlx_migrations",
    postgres: of_this_release!("postgres"),
    sqlite: of_this_release!("sqlite"),
};

#[cfg(test)]
mod tests {
    use super::*;

    /// A file that the list forgets is a column that no database has.
    #[test]
    fn every_file_is_in_the_list() {
        for (folder, listed) in [("postgres", SCHEMA.postgres), ("sqlite", SCHEMA.sqlite)] {
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
                .map(|(number, name, _)| format!("{number:04}_{name}.sql"))
                .collect();
            assert_eq!(files, listed, "{}", folder.display());
        }
    }
}
