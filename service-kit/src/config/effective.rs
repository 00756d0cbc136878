//! The configuration in force, printed as a file that reads back, and as a reference page.

use std::fmt;

use super::Source;
use super::source::variable_name;

/// A key somebody reads, with the value in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The section's path.
    pub section: String,
    /// The key inside it.
    pub key: String,
    /// What its values look like.
    pub form: String,
    /// What it is for.
    pub help: String,
    /// The default as a TOML value; `None` where a missing key means "none".
    pub default: Option<String>,
    /// The value in force as a TOML value, hidden if it is secret.
    pub value: Option<String>,
    /// Where the value comes from.
    pub source: Source,
}

impl Entry {
    /// Section and key.
    pub fn path(&self) -> String {
        format!("{}.{}", self.section, self.key)
    }
}

/// Every key that was read, with the value in force. [`fmt::Display`] prints a TOML file that says
/// for each key what it is for, its default and where its value comes from; read back, it gives the
/// same configuration, except for secrets written in the file itself: they are printed as
/// `"<hidden>"`, and that placeholder is refused as a value.
#[derive(Debug, Clone)]
pub struct Effective {
    /// Grouped by section, each section and key where it was first read.
    entries: Vec<Entry>,
}

impl Effective {
    pub(super) fn new(entries: Vec<Entry>) -> Self {
        let mut grouped: Vec<Entry> = Vec::with_capacity(entries.len());
        for entry in entries {
            let place = grouped.iter().rposition(|other| other.section == entry.section);
            if grouped
                .iter()
                .any(|other| other.section == entry.section && other.key == entry.key)
            {
                continue;
            }
            grouped.insert(place.map_or(grouped.len(), |last| last + 1), entry);
        }
        Self { entries: grouped }
    }

    /// All keys, grouped by section.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }

    /// A Markdown page with a table for each section: every key, what it takes, its default, what
    /// it is for. Says nothing of the values in force.
    pub fn reference(&self) -> String {
        let mut page = String::new();
        let mut section = "";
        for entry in &self.entries {
            if entry.section != section {
                if !page.is_empty() {
                    page.push('\n');
                }
                section = &entry.section;
                page += &format!("## `[{section}]`\n\n");
                page += "| Key | Takes | Default | What it does |\n| --- | --- | --- | --- |\n";
            }
            let default = entry
                .default
                .as_ref()
                .map_or("none".to_owned(), |value| format!("`{value}`"));
            let cells = [&format!("`{}`", entry.key), &entry.form, &default, &entry.help];
            let cells = cells.map(|cell| cell.replace('|', "\\|"));
            page += &format!("| {} |\n", cells.join(" | "));
        }
        page
    }
}

impl fmt::Display for Effective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut section = "";
        for entry in &self.entries {
            if entry.section != section {
                if !section.is_empty() {
                    writeln!(f)?;
                }
                section = &entry.section;
                writeln!(f, "[{section}]")?;
            }
            writeln!(f, "# {} ({})", entry.help, entry.form)?;
            let default = entry.default.as_deref().unwrap_or("none");
            match &entry.source {
                Source::Default => writeln!(f, "# Default.")?,
                other => writeln!(f, "# Default {default}; set by {other}.")?,
            }
            match &entry.value {
                Some(value) => writeln!(f, "{} = {value}", entry.key)?,
                None => writeln!(f, "# {} is not set; {}", entry.key, variable_name(&entry.path()))?,
            }
        }
        Ok(())
    }
}
