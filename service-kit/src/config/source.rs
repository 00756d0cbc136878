//! Where a value comes from: the file, by line, or the environment.

use std::collections::BTreeMap;
use std::fmt;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Fault, Faults, VARIABLE_PREFIX};

/// Where a value stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Nowhere: the default is in force.
    Default,
    /// In the configuration file.
    File {
        /// The file, as it was named.
        name: String,
        /// The line, from 1.
        line: usize,
    },
    /// In what holds where no configuration file is given.
    WithoutAFile,
    /// In this environment variable.
    Environment(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { name, line } => write!(f, "{name} line {line}"),
            Self::WithoutAFile => f.write_str("as no configuration file is given"),
            Self::Environment(name) => write!(f, "environment {name}"),
        }
    }
}

/// The variable that overrides the key at `path`.
pub(super) fn variable_name(path: &str) -> String {
    VARIABLE_PREFIX.to_owned() + &path.to_uppercase().replace('.', "__")
}

/// A parsed file, with the line of each key.
#[derive(Debug, Default)]
pub(super) struct FileText {
    /// `None`: the text stands in the program, in place of a file.
    name: Option<String>,
    pub(super) table: toml::Table,
    lines: BTreeMap<String, usize>,
}

impl FileText {
    /// # Errors
    /// Every syntax error, with line and column.
    pub(super) fn parse(name: String, text: &str) -> Result<Self, Faults> {
        let (spanned, errors) = DeTable::parse_recoverable(text);
        if !errors.is_empty() {
            let faults = errors.iter().map(|error| syntax_fault(&name, text, error));
            return Err(Faults::new(faults.collect()));
        }
        // The recoverable parse keeps places, this one gives values; both read the same text.
        let table = text
            .parse()
            .map_err(|error| Faults::from(syntax_fault(&name, text, &error)))?;
        let mut lines = BTreeMap::new();
        note_lines(spanned.get_ref(), "", text, &mut lines);
        Ok(Self {
            name: Some(name),
            table,
            lines,
        })
    }

    /// As of no file.
    pub(super) fn unnamed(self) -> Self {
        Self { name: None, ..self }
    }

    /// What stands at a dotted path.
    pub(super) fn value(&self, path: &str) -> Option<&toml::Value> {
        let mut parts = path.split('.');
        let first = self.table.get(parts.next()?)?;
        parts.try_fold(first, |value, part| value.as_table()?.get(part))
    }

    /// Where the value at a dotted path stands.
    pub(super) fn source(&self, path: &str) -> Option<Source> {
        let line = *self.lines.get(path)?;
        Some(match &self.name {
            Some(name) => Source::File {
                name: name.clone(),
                line,
            },
            None => Source::WithoutAFile,
        })
    }
}

fn note_lines(table: &DeTable<'_>, above: &str, text: &str, lines: &mut BTreeMap<String, usize>) {
    for (key, value) in table {
        let name: &str = key.get_ref();
        let path = if above.is_empty() {
            name.to_owned()
        } else {
            format!("{above}.{name}")
        };
        lines.insert(path.clone(), place(text, Spanned::span(key).start).0);
        if let DeValue::Table(below) = value.get_ref() {
            note_lines(below, &path, text, lines);
        }
    }
}

fn syntax_fault(name: &str, text: &str, error: &toml::de::Error) -> Fault {
    let at = match error.span() {
        Some(span) => {
            let (line, column) = place(text, span.start);
            format!(" at line {line}, column {column}")
        }
        None => String::new(),
    };
    Fault {
        key: name.to_owned(),
        // Only the message: the error's own display quotes the line, which may hold a secret.
        problem: format!("not valid TOML{at}: {}", error.message().replace('\n', ", ")),
        remedy: "correct the line".to_owned(),
        source: None,
    }
}

/// Line and column, both from 1, of a byte's place.
fn place(text: &str, byte: usize) -> (usize, usize) {
    let before = text.get(..byte).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    (line, column)
}
