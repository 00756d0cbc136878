//! The typed readers of a section's keys.

use std::fmt::Display;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;
use toml::Value;

use super::given::{Given, Refusal, show_text};
use super::nearest::nearest;
use super::source::variable_name;
use super::units::{format_bytes, format_duration, parse_bytes, parse_duration};
use super::{Document, Entry, Fault, Source};

/// Printed in the place of a secret.
const HIDDEN: &str = "<hidden>";

/// The keys under one path of a [`Document`].
///
/// Each reader registers its key, its default and its help line. On a bad value it records a
/// [`Fault`] and returns the default, so that reading goes on and all faults are found at once.
#[derive(Debug)]
pub struct Section<'a> {
    document: &'a mut Document,
    path: String,
}

/// How a type of value is described, read and printed.
struct Reader<T, R, S> {
    form: String,
    read: R,
    show: S,
    default: Option<T>,
}

impl<'a> Section<'a> {
    pub(super) fn new(document: &'a mut Document, path: String) -> Self {
        Self { document, path }
    }

    /// Where it is in the document, such as `gateway.tls`.
    pub fn path_in_document(&self) -> &str {
        &self.path
    }

    /// Any text.
    pub fn text(&mut self, key: &'static str, default: &str, help: &str) -> String {
        let form = "text".to_owned();
        let default = Some(default.to_owned());
        self.read_or(
            key,
            help,
            Reader {
                form,
                read: Given::text,
                show: show_text,
                default,
            },
        )
        .unwrap_or_default()
    }

    /// Any text; `None` where the key is missing.
    pub fn optional_text(&mut self, key: &'static str, help: &str) -> Option<String> {
        let form = "text".to_owned();
        self.read_or(
            key,
            help,
            Reader {
                form,
                read: Given::text,
                show: show_text,
                default: None,
            },
        )
    }

    /// A text that is never printed, or, under `KEY_file`, the path of a file that holds it (white
    /// space at its end does not count). `None` where both are missing; both given is a fault, and
    /// so is an empty secret.
    pub fn secret(&mut self, key: &'static str, help: &str) -> Option<SecretString> {
        let read = |given: Given| match given.text()? {
            secret if secret.is_empty() => Err(Refusal::new("is empty", "give the secret or remove the key")),
            secret if secret == HIDDEN => Err(Refusal::new(
                format!("is the placeholder {HIDDEN} of a printed configuration"),
                "put the secret in its place",
            )),
            secret => Ok(secret),
        };
        let show = |_: &String| show_text(HIDDEN);
        let form = "secret text".to_owned();
        let direct = self.read_or(
            key,
            help,
            Reader {
                form,
                read,
                show,
                default: None,
            },
        );

        let file_key = format!("{key}_file");
        let form = "path of a file".to_owned();
        let file_help = format!("File that holds `{key}`.");
        let reader = Reader {
            form,
            read: Given::text,
            show: show_text,
            default: None,
        };
        let file = self.read_or(&file_key, &file_help, reader);
        match (direct, file) {
            (Some(_), Some(_)) => {
                self.fault(
                    key,
                    format!("given, and `{file_key}` too"),
                    "remove one of the two",
                );
                None
            }
            (None, Some(file)) => match std::fs::read_to_string(&file) {
                Ok(text) if text.trim_end().is_empty() => {
                    self.fault(&file_key, format!("{file} is empty"), "write the secret into it");
                    None
                }
                Ok(text) => Some(text.trim_end().into()),
                Err(error) => {
                    self.fault(
                        &file_key,
                        format!("cannot read {file}: {error}"),
                        "name a readable file",
                    );
                    None
                }
            },
            (direct, None) => direct.map(SecretString::from),
        }
    }

    /// `true` or `false`.
    pub fn boolean(&mut self, key: &'static str, default: bool, help: &str) -> bool {
        let read = |given: Given| match given {
            Given::File(Value::Boolean(value)) => Ok(value),
            Given::Environment(text) if text == "true" => Ok(true),
            Given::Environment(text) if text == "false" => Ok(false),
            other => Err(other.expected("true or false", "write true or false, without quotes")),
        };
        let form = "true or false".to_owned();
        let reader = Reader {
            form,
            read,
            show: bool::to_string,
            default: Some(default),
        };
        self.read_or(key, help, reader).unwrap_or(default)
    }

    /// A whole number within `range`.
    pub fn integer(
        &mut self,
        key: &'static str,
        default: u64,
        range: RangeInclusive<u64>,
        help: &str,
    ) -> u64 {
        let bounds = bounds(&range, u64::to_string);
        let read = |given: Given| {
            let number = match &given {
                Given::File(Value::Integer(number)) => i128::from(*number),
                Given::Environment(text) => text
                    .trim()
                    .parse::<i128>()
                    .map_err(|_| given.expected("a whole number", "write digits only"))?,
                Given::File(_) => {
                    return Err(given.expected("a whole number", "write digits only, without quotes"));
                }
            };
            within(u64::try_from(number).ok(), &range, number, &bounds)
        };
        let form = format!("whole number, {bounds}");
        let reader = Reader {
            form,
            read,
            show: u64::to_string,
            default: Some(default),
        };
        self.read_or(key, help, reader).unwrap_or(default)
    }

    /// A whole number with a unit: `"250ms"`, `"25s"`, `"5m"`, `"1h"`, `"7d"`.
    pub fn duration(
        &mut self,
        key: &'static str,
        default: Duration,
        range: RangeInclusive<Duration>,
        help: &str,
    ) -> Duration {
        let bounds = bounds(&range, |duration| format_duration(*duration));
        let read = |given: Given| {
            let remedy = "write a whole number with one of the units ms, s, m, h, d, in quotes";
            let parsed = match &given {
                Given::File(Value::String(text)) | Given::Environment(text) => parse_duration(text),
                Given::File(_) => None,
            };
            let duration = parsed.ok_or_else(|| given.expected("a duration such as \"25s\"", remedy))?;
            within(Some(duration), &range, format_duration(duration), &bounds)
        };
        let form = format!("duration, {bounds}");
        let show = |duration: &Duration| show_text(&format_duration(*duration));
        self.read_or(
            key,
            help,
            Reader {
                form,
                read,
                show,
                default: Some(default),
            },
        )
        .unwrap_or(default)
    }

    /// A count of bytes: `65536`, `"64KiB"`, `"1MiB"`.
    pub fn bytes(&mut self, key: &'static str, default: u64, range: RangeInclusive<u64>, help: &str) -> u64 {
        let bounds = bounds(&range, |bytes| format_bytes(*bytes));
        let read = |given: Given| {
            let remedy = "write a number of bytes, or one with a unit (B, KiB, MiB, GiB, TiB) in quotes";
            let expected = || given.expected("bytes such as \"64KiB\"", remedy);
            let bytes = match &given {
                Given::File(Value::String(text)) | Given::Environment(text) => {
                    Some(parse_bytes(text).ok_or_else(expected)?)
                }
                // A negative one is out of every range.
                Given::File(Value::Integer(number)) => u64::try_from(*number).ok(),
                Given::File(_) => return Err(expected()),
            };
            within(bytes, &range, given.shown(), &bounds)
        };
        let form = format!("bytes, {bounds}");
        let show = |bytes: &u64| show_text(&format_bytes(*bytes));
        self.read_or(
            key,
            help,
            Reader {
                form,
                read,
                show,
                default: Some(default),
            },
        )
        .unwrap_or(default)
    }

    /// An IP address and a port: `"127.0.0.1:8000"`, `"[::]:8000"`. Port 0 means any free one.
    pub fn address(&mut self, key: &'static str, default: SocketAddr, help: &str) -> SocketAddr {
        let read = |given: Given| {
            let remedy = "write an IP address and a port; 0.0.0.0 or [::] stands for every interface";
            given
                .as_text()
                .and_then(|text| text.trim().parse().ok())
                .ok_or_else(|| given.expected("an address such as \"127.0.0.1:8000\"", remedy))
        };
        let form = "IP address and port".to_owned();
        let show = |address: &SocketAddr| show_text(&address.to_string());
        self.read_or(
            key,
            help,
            Reader {
                form,
                read,
                show,
                default: Some(default),
            },
        )
        .unwrap_or(default)
    }

    /// A path; a relative one starts at the working directory.
    pub fn path(&mut self, key: &'static str, default: &str, help: &str) -> PathBuf {
        let read = |given: Given| match given.text()? {
            path if path.is_empty() => Err(Refusal::new("is empty", "name a path, or remove the key")),
            path => Ok(path),
        };
        let form = "path".to_owned();
        let default = Some(default.to_owned());
        self.read_or(
            key,
            help,
            Reader {
                form,
                read,
                show: show_text,
                default,
            },
        )
        .unwrap_or_default()
        .into()
    }

    /// A list of texts: a TOML array, or separated by commas in the environment.
    pub fn list(&mut self, key: &'static str, default: &[&str], help: &str) -> Vec<String> {
        let read = |given: Given| match &given {
            Given::Environment(text) if text.trim().is_empty() => Ok(Vec::new()),
            Given::Environment(text) => Ok(text.split(',').map(|item| item.trim().to_owned()).collect()),
            Given::File(Value::Array(items)) => {
                let texts: Option<Vec<String>> = items
                    .iter()
                    .map(|item| item.as_str().map(str::to_owned))
                    .collect();
                texts.ok_or_else(|| Refusal::new("holds something that is not text", "put quotes around it"))
            }
            Given::File(_) => {
                Err(given.expected("a list such as [\"one\", \"two\"]", "put it into square brackets"))
            }
        };
        let show = |list: &Vec<String>| {
            let items: Vec<String> = list.iter().map(|item| show_text(item)).collect();
            format!("[{}]", items.join(", "))
        };
        let form = "list of texts".to_owned();
        let default = Some(default.iter().map(|item| (*item).to_owned()).collect());
        self.read_or(
            key,
            help,
            Reader {
                form,
                read,
                show,
                default,
            },
        )
        .unwrap_or_default()
    }

    /// One of the names in `choices`, as what it stands for.
    ///
    /// # Panics
    /// If `default` is not among the choices: a fault of the calling code, not of the operator.
    pub fn choice<T: Copy>(
        &mut self,
        key: &'static str,
        choices: &[(&'static str, T)],
        default: &'static str,
        help: &str,
    ) -> T {
        let names: Vec<String> = choices.iter().map(|(name, _)| show_text(name)).collect();
        let form = format!("one of {}", names.join(", "));
        let read = |given: Given| {
            let text = given.as_text().unwrap_or_default().trim();
            if let Some((name, _)) = choices.iter().find(|(name, _)| *name == text) {
                return Ok((*name).to_owned());
            }
            let remedy = match nearest(text, choices.iter().map(|(name, _)| (*name).to_owned())) {
                Some(name) => format!("did you mean {}?", show_text(&name)),
                None => "set one of them".to_owned(),
            };
            Err(given.expected(&form, &remedy))
        };
        let reader = Reader {
            form: form.clone(),
            read,
            show: show_text,
            default: Some(default.to_owned()),
        };
        let chosen = self
            .read_or(key, help, reader)
            .unwrap_or_else(|| default.to_owned());
        let found = choices.iter().find(|(name, _)| *name == chosen);
        #[expect(
            clippy::expect_used,
            reason = "names come from `choices`, but for a default, as documented"
        )]
        let (_, value) = found.expect("the default is one of the choices");
        *value
    }

    /// Records what is wrong between keys, or with a value beyond its type.
    pub fn fault(&mut self, key: &str, problem: impl Into<String>, remedy: impl Into<String>) {
        let key = format!("{}.{key}", self.path);
        let source = self.source(&key);
        self.document.add_fault(Fault {
            key,
            problem: problem.into(),
            remedy: remedy.into(),
            source,
        });
    }

    /// Where the value of a key stands, if it was given; the environment goes before the file.
    fn source(&self, path: &str) -> Option<Source> {
        let variable = variable_name(path);
        if self.document.environment.contains_key(&variable) {
            return Some(Source::Environment(variable));
        }
        self.document.file.source(path)
    }

    /// The value given for `key`, else the default; a refused one is a fault. Registers the key.
    fn read_or<T, R, S, B>(&mut self, key: &str, help: &str, reader: Reader<T, R, S>) -> Option<T>
    where
        T: std::borrow::Borrow<B>,
        B: ?Sized,
        R: FnOnce(Given) -> Result<T, Refusal>,
        S: Fn(&B) -> String,
    {
        let path = format!("{}.{key}", self.path);
        let given = match self.document.environment.get(&variable_name(&path)) {
            Some(text) => Some(Given::Environment(text.clone())),
            None => self.document.file.value(&path).cloned().map(Given::File),
        };
        let source = self.source(&path);
        let default = reader.default.as_ref().map(|value| (reader.show)(value.borrow()));
        let value = match given.map(reader.read) {
            Some(Ok(value)) => Some(value),
            Some(Err(Refusal { problem, remedy })) => {
                let default = default
                    .as_ref()
                    .map(|shown| format!(", or remove the key for the default {shown}"));
                let remedy = if remedy.ends_with('?') {
                    remedy
                } else {
                    remedy + &default.unwrap_or_default()
                };
                self.document.add_fault(Fault {
                    key: path,
                    problem,
                    remedy,
                    source: source.clone(),
                });
                None
            }
            None => None,
        }
        .or(reader.default);
        self.document.entries.push(Entry {
            section: self.path.clone(),
            key: key.to_owned(),
            form: reader.form,
            help: help.to_owned(),
            default,
            value: value.as_ref().map(|value| (reader.show)(value.borrow())),
            source: source.unwrap_or(Source::Default),
        });
        value
    }
}

fn bounds<T>(range: &RangeInclusive<T>, show: impl Fn(&T) -> String) -> String {
    format!("{} to {}", show(range.start()), show(range.end()))
}

fn within<T: PartialOrd>(
    value: Option<T>,
    range: &RangeInclusive<T>,
    shown: impl Display,
    bounds: &str,
) -> Result<T, Refusal> {
    value.filter(|value| range.contains(value)).ok_or_else(|| {
        Refusal::new(
            format!("{shown} is out of range ({bounds})"),
            "set a value within it",
        )
    })
}
