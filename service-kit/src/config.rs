//! Configuration: one TOML document, environment variables over it, and every fault at once.
//!
//! A typo must stop the start, and an operator must not have to start ten times to find ten typos.
//! So nothing here fails at the first fault: readers record it, return the default, and
//! [`Document::finish`] reports them all, unknown keys included. The readers are the only
//! description of a key: its type, bounds, default and help line are written once, where the key
//! is read, and the printed configuration and the reference page are made of the same calls.
//!
//! ```
//! use service_kit::config::Document;
//! # use switchboard_service_kit as service_kit;
//! # use std::time::Duration;
//! let environment = [("SWITCHBOARD__CLOCK__TICK".to_owned(), "2s".to_owned())];
//! let mut document = Document::parse("[clock]\nname = \"wall\"", environment)?;
//! let mut clock = document.section("clock");
//! let name = clock.text("name", "none", "What the clock is called.");
//! let bounds = Duration::from_millis(10)..=Duration::from_secs(60);
//! let tick = clock.duration("tick", Duration::from_secs(1), bounds, "Time between two ticks.");
//! let effective = document.finish()?;
//! assert_eq!((name.as_str(), tick), ("wall", Duration::from_secs(2)));
//! assert!(effective.to_string().contains("tick = \"2s\""));
//! # Ok::<(), service_kit::config::Faults>(())
//! ```

mod effective;
mod fault;
mod given;
mod nearest;
mod origin;
mod section;
mod source;
mod units;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

pub use effective::{Effective, Entry};
pub use fault::{Fault, Faults};
use nearest::nearest;
pub use origin::Origin;
pub use section::Section;
pub use source::Source;
use source::{FileText, variable_name};
pub use units::parse_duration;

/// What the names of all our environment variables begin with. The parts of a key's path follow,
/// in upper case, joined by two underscores: `SWITCHBOARD__GATEWAY__PING_INTERVAL`.
pub const VARIABLE_PREFIX: &str = "SWITCHBOARD__";

/// What variables begin with that somebody may have meant for us.
const NEAR_PREFIX: &str = "SWITCHBOARD_";

/// A configuration document while it is read: the file with the environment's overrides.
///
/// Use: [`Document::load`], then readers through [`Document::section`], then [`Document::finish`].
#[derive(Debug)]
pub struct Document {
    file: FileText,
    /// Variables with our prefix, by full name.
    environment: BTreeMap<String, String>,
    /// Variables that almost have it.
    near: BTreeMap<String, String>,
    sections: BTreeSet<String>,
    ignored: BTreeSet<&'static str>,
    /// Sections that were refused for their name.
    ignored_names: BTreeSet<String>,
    entries: Vec<Entry>,
    faults: Vec<Fault>,
    origin: Option<Origin>,
}

impl Document {
    /// Reads `file`, if one is given, and takes overrides from `environment`: all variables of the
    /// process ([`process_environment`]), of which those with [`VARIABLE_PREFIX`] count. One that would be a key's
    /// if it had two underscores between the parts is a fault; others like it are not ours: Kubernetes, for one, sets
    /// `SWITCHBOARD_GATEWAY_SERVICE_HOST` where a service has that name.
    ///
    /// # Errors
    /// The file cannot be read, or is not TOML: then every syntax error is reported, with its line
    /// and column, and nothing else.
    pub fn load(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, Faults> {
        let Some(path) = file else {
            return Ok(Self::over(FileText::default(), environment));
        };
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| {
            Faults::from(Fault {
                key: name.clone(),
                problem: format!("the configuration file cannot be read: {error}"),
                remedy: "name a readable file, or start without one to use the defaults".to_owned(),
                source: None,
            })
        })?;
        let mut document = Self::over(FileText::parse(name, &text)?, environment);
        document.origin = Some(Origin::new(path, text, &document.environment));
        Ok(document)
    }

    /// To read a part of the file again while the process runs; `None`: there is no file.
    pub fn origin(&self) -> Option<Origin> {
        self.origin.clone()
    }

    /// As [`Document::load`], from text.
    ///
    /// # Errors
    /// As [`Document::load`].
    pub fn parse(
        text: &str,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, Faults> {
        Ok(Self::over(
            FileText::parse("configuration".to_owned(), text)?,
            environment,
        ))
    }

    /// As [`Document::parse`], of what the program says where no file is given.
    ///
    /// # Errors
    /// As [`Document::load`].
    pub fn without_a_file(
        text: &str,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, Faults> {
        let text = FileText::parse("built-in configuration".to_owned(), text)?;
        Ok(Self::over(text.unnamed(), environment))
    }

    fn over(file: FileText, environment: impl IntoIterator<Item = (String, String)>) -> Self {
        let (environment, others) = environment
            .into_iter()
            .filter(|(name, _)| name.starts_with(NEAR_PREFIX))
            .partition(|(name, _)| name.starts_with(VARIABLE_PREFIX));
        Self {
            file,
            environment,
            near: others,
            sections: BTreeSet::new(),
            ignored: BTreeSet::new(),
            ignored_names: BTreeSet::new(),
            entries: Vec::new(),
            faults: Vec::new(),
            origin: None,
        }
    }

    /// The keys under `path`, such as `"gateway"` or `"bus.nats"`. A section may be read more than
    /// once. One that the document lacks has all its defaults.
    pub fn section(&mut self, path: &str) -> Section<'_> {
        self.open(path, "write its keys under");
        Section::new(self, path.to_owned())
    }

    /// The names of the sections that the file has directly under `path`, sorted: `["room"]` for
    /// `[namespaces.room]`. Each is to be read as the section `path.NAME`. Variables of the
    /// environment override keys of these, but name no further ones.
    ///
    /// A name may hold letters, digits, `-` and `_`; others are faults, and left out.
    pub fn names(&mut self, path: &str) -> Vec<String> {
        self.open(path, "write sections with a name of yours under");
        let below = self.file.value(path).and_then(toml::Value::as_table);
        let tables: Vec<String> = below
            .into_iter()
            .flatten()
            .filter(|(_, value)| value.is_table())
            .map(|(name, _)| name.clone())
            .collect();
        let is_allowed = |name: &String| {
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
            !name.is_empty() && name.bytes().all(allowed)
        };
        let (names, others): (Vec<_>, Vec<_>) = tables.into_iter().partition(is_allowed);
        for name in others {
            let key = format!("{path}.{name}");
            self.ignored_names.insert(key.clone());
            self.add_fault(Fault {
                source: self.file.source(&key),
                key,
                problem: "the name holds something other than letters, digits, '-' and '_'".to_owned(),
                remedy: "give it another name".to_owned(),
            });
        }
        names
    }

    /// Notes that `path` is a section. Faults if the document has something else there.
    fn open(&mut self, path: &str, remedy: &str) {
        if self.sections.insert(path.to_owned())
            && let Some(value) = self.file.value(path)
            && !value.is_table()
        {
            let problem = format!("is a section, found {}", value.type_str());
            let remedy = format!("{remedy} [{path}]");
            let source = self.file.source(path);
            self.add_fault(Fault {
                key: path.to_owned(),
                problem,
                remedy,
                source,
            });
        }
    }

    /// Accepts `section` with everything below it, unread: it belongs to another service that is
    /// configured by the same file.
    pub fn ignore(&mut self, section: &'static str) {
        self.ignored.insert(section);
    }

    /// Ends reading.
    ///
    /// # Errors
    /// Every fault that was recorded, and one for every key, section and variable that nobody read.
    pub fn finish(mut self) -> Result<Effective, Faults> {
        let mut unknown = Vec::new();
        self.find_unknown_keys(&self.file.table, "", &mut unknown);
        self.find_unknown_variables(&mut unknown);
        for fault in unknown {
            self.add_fault(fault);
        }
        if self.faults.is_empty() {
            Ok(Effective::new(self.entries))
        } else {
            Err(Faults::new(self.faults))
        }
    }

    /// Two readers of one section must not report one fault twice.
    fn add_fault(&mut self, fault: Fault) {
        if !self.faults.contains(&fault) {
            self.faults.push(fault);
        }
    }

    fn find_unknown_keys(&self, table: &toml::Table, above: &str, faults: &mut Vec<Fault>) {
        for (name, value) in table {
            let path = if above.is_empty() {
                name.clone()
            } else {
                format!("{above}.{name}")
            };
            if self.ignored.contains(path.as_str())
                || self.ignored_names.contains(&path)
                || self.is_key(&path)
            {
                continue;
            }
            match value {
                // A section that is no table was reported when it was opened.
                _ if self.sections.contains(path.as_str()) && !value.is_table() => {}
                toml::Value::Table(below) if self.leads_to_section(&path) => {
                    self.find_unknown_keys(below, &path, faults);
                }
                _ => {
                    let (problem, remedy) = self.unknown(&path, value.is_table());
                    faults.push(Fault {
                        source: self.file.source(&path),
                        key: path,
                        problem,
                        remedy,
                    });
                }
            }
        }
    }

    fn unknown(&self, path: &str, is_table: bool) -> (String, String) {
        let problem = if is_table {
            "unknown section"
        } else {
            "unknown key"
        };
        let remedy = match nearest(path, self.known_paths()) {
            Some(known) => format!("did you mean `{known}`?"),
            None => "remove it".to_owned(),
        };
        (problem.to_owned(), remedy)
    }

    fn find_unknown_variables(&self, faults: &mut Vec<Fault>) {
        let known: BTreeSet<String> = self
            .entries
            .iter()
            .map(|entry| variable_name(&entry.path()))
            .collect();
        let ignored: Vec<String> = self
            .ignored
            .iter()
            .map(|section| variable_name(section) + "__")
            .collect();
        for name in self.environment.keys() {
            if known.contains(name) || ignored.iter().any(|prefix| name.starts_with(prefix)) {
                continue;
            }
            let path = name
                .trim_start_matches(VARIABLE_PREFIX)
                .to_lowercase()
                .replace("__", ".");
            let remedy = match nearest(&path, self.entries.iter().map(Entry::path)) {
                Some(known) => format!("did you mean {}?", variable_name(&known)),
                None => "remove it from the environment".to_owned(),
            };
            let problem = "no key has this environment variable".to_owned();
            faults.push(Fault {
                key: name.clone(),
                problem,
                remedy,
                source: None,
            });
        }
        for name in self.near.keys() {
            let meant = known.iter().find(|variable| variable.replace("__", "_") == *name);
            if let Some(meant) = meant {
                faults.push(Fault {
                    key: name.clone(),
                    problem: "has one underscore where two are needed".to_owned(),
                    remedy: format!("name it {meant}"),
                    source: None,
                });
            }
        }
    }

    fn is_key(&self, path: &str) -> bool {
        self.entries.iter().any(|entry| entry.path() == path)
    }

    /// Whether `path` is a section somebody knows, or lies above one.
    fn leads_to_section(&self, path: &str) -> bool {
        let ignored = self.ignored.iter().copied();
        self.sections
            .iter()
            .map(String::as_str)
            .chain(ignored)
            .any(|section| {
                section
                    .strip_prefix(path)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            })
    }

    fn known_paths(&self) -> impl Iterator<Item = String> {
        let keys = self.entries.iter().map(Entry::path);
        let sections = self
            .sections
            .iter()
            .cloned()
            .chain(self.ignored.iter().map(|section| (*section).to_owned()));
        keys.chain(sections)
    }
}

/// The variables of this process that have [`VARIABLE_PREFIX`], or almost. What is not UTF-8 has its odd bytes
/// replaced, so that it is refused by its key's reader instead of being overlooked.
pub fn process_environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .map(|(name, value)| {
            (
                name.to_string_lossy().into_owned(),
                value.to_string_lossy().into_owned(),
            )
        })
        .filter(|(name, _)| name.starts_with(NEAR_PREFIX))
}

#[cfg(test)]
mod tests;
