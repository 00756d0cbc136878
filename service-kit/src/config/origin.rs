//! Where a document was read from, so that a part of it can be read again while the process runs.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::Table;

use super::source::FileText;
use super::{Document, Faults};

/// A configuration file, what it held when the process started, and the variables over it. Cheap to clone. Nothing of
/// their contents is in its `Debug`.
#[derive(Clone)]
pub struct Origin(Arc<Inner>);

struct Inner {
    file: PathBuf,
    text: String,
    environment: BTreeMap<String, String>,
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Origin").field(&self.0.file).finish()
    }
}

impl Origin {
    pub(super) fn new(file: &Path, text: String, environment: &BTreeMap<String, String>) -> Self {
        Self(Arc::new(Inner {
            file: file.to_owned(),
            text,
            environment: environment.clone(),
        }))
    }

    /// The file, as it was named.
    pub fn file(&self) -> &Path {
        &self.0.file
    }

    /// What it held when the process started.
    pub fn text(&self) -> &str {
        &self.0.text
    }

    /// A document of what the file holds now, for who reads `sections` of it, which are names without a dot.
    /// Everything else is accepted unread: whether a key of another section may stand there is known only to who
    /// read all of them, at the start.
    ///
    /// # Errors
    /// As of [`Document::load`].
    pub fn read_again(&self, text: &str, sections: &[&str]) -> Result<Document, Faults> {
        let name = self.0.file.display().to_string();
        let file = FileText::parse(name, text)?;
        let is_ours = |variable: &String| {
            sections
                .iter()
                .any(|section| variable.starts_with(&(super::variable_name(section) + "__")))
        };
        let environment = self.0.environment.iter().filter(|(name, _)| is_ours(name));
        let environment: Vec<_> = environment
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        let mut document = Document::over(file, environment);
        let others = document.file.table.keys();
        let others = others.filter(|key| !sections.contains(&key.as_str()));
        document.ignored_names = others.cloned().collect();
        Ok(document)
    }

    /// The keys, sorted, whose values differ between two texts of the file. A section that only one of them has is
    /// named as a whole.
    ///
    /// # Errors
    /// As of [`Document::load`].
    pub fn changed_keys(&self, before: &str, after: &str) -> Result<Vec<String>, Faults> {
        let name = || self.0.file.display().to_string();
        let [before, after] = [
            FileText::parse(name(), before)?.table,
            FileText::parse(name(), after)?.table,
        ];
        let mut keys = Vec::new();
        compare(&before, &after, "", &mut keys);
        keys.sort();
        Ok(keys)
    }
}

fn compare(before: &Table, after: &Table, above: &str, keys: &mut Vec<String>) {
    let path = |name: &str| match above {
        "" => name.to_owned(),
        above => format!("{above}.{name}"),
    };
    for (name, value) in before {
        match (value, after.get(name)) {
            (toml::Value::Table(before), Some(toml::Value::Table(after))) => {
                compare(before, after, &path(name), keys);
            }
            (_, Some(other)) if other == value => {}
            (_, _) => keys.push(path(name)),
        }
    }
    let new = after.keys().filter(|name| !before.contains_key(*name));
    keys.extend(new.map(|name| path(name)));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(text: &str, environment: &[(&str, &str)]) -> Origin {
        let environment = environment
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        Origin::new(Path::new("a.toml"), text.to_owned(), &environment)
    }

    #[test]
    fn a_part_is_read_again_and_the_rest_is_nobodys_concern() {
        let variables = [
            ("SWITCHBOARD__CLOCK__LIMIT", "8"),
            ("SWITCHBOARD__OTHER__LIMIT", "9"),
        ];
        let origin = origin("", &variables);
        let read = |text: &str| {
            let mut document = origin.read_again(text, &["clock"])?;
            let limit = document.section("clock").integer("limit", 7, 0..=9, "");
            document.finish().map(|_| limit)
        };
        assert_eq!(
            read("[other]\nlimit = \"none\"").unwrap(),
            8,
            "the variable counts"
        );
        let faults = read("[clock]\nlimmit = 1\n[other]\nnonsense = 1")
            .unwrap_err()
            .to_string();
        assert_eq!(
            faults,
            "clock.limmit: unknown key; did you mean `clock.limit`? (a.toml line 2)"
        );
        let faults = read("[clock").unwrap_err().to_string();
        assert!(faults.contains("not valid TOML at line 1"), "{faults}");
    }

    #[test]
    fn keys_that_changed_came_or_went_are_named() {
        let before = "[a]\nsame = 1\nother = 1\ngone = 1\n[a.b]\nx = 1\n[c]\nx = 1";
        let after = "[a]\nsame = 1\nother = 2\nnew = 1\n[a.b]\nx = 2\n[d]\nx = 1";
        let keys = origin("", &[]).changed_keys(before, after).unwrap();
        assert_eq!(keys, ["a.b.x", "a.gone", "a.new", "a.other", "c", "d"]);
        assert!(origin("", &[]).changed_keys(before, before).unwrap().is_empty());
    }
}
