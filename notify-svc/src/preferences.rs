//! How a user wants to be told: a JSON document of the user's own, kept as it was written.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::Way;
use crate::quiet_hours::{QuietHours, TimeZone};

/// Bytes of the document, at most.
pub(crate) const LARGEST: usize = 16 << 10;

/// Quiet hours of a user, at most.
const MOST_QUIET: usize = 14;

/// Categories that a user says something of, at most.
const MOST_CATEGORIES: usize = 100;

/// The document.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Preferences {
    /// Where the user is: an IANA name such as `Europe/Berlin`; empty: UTC.
    pub(crate) time_zone: String,
    /// What templates are chosen by: a tag such as `pt-BR`.
    pub(crate) language: String,
    /// When the user wants to be told by nothing that makes a noise: neither push nor e-mail nor SMS.
    pub(crate) quiet_hours: Vec<QuietHours>,
    /// Ways that are off or on for every category that says nothing else.
    pub(crate) ways: BTreeMap<Way, bool>,
    /// Ways that are off or on for a category.
    pub(crate) categories: BTreeMap<String, BTreeMap<Way, bool>>,
}

/// Why a document is not taken.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum PreferencesError {
    /// It is too large.
    #[error("preferences have {LARGEST} bytes at most")]
    TooLarge,
    /// It is not what it should be.
    #[error("preferences not understood: {0}")]
    Json(String),
    /// There is no such time zone.
    #[error("there is no time zone {0:?}; write one as Europe/Berlin")]
    TimeZone(String),
    /// The tag of the language.
    #[error("the language is a tag such as en or pt-BR")]
    Language,
    /// There is too much of it.
    #[error("preferences have {MOST_QUIET} quiet hours and {MOST_CATEGORIES} categories at most")]
    TooMany,
}

impl Preferences {
    /// Reads a document that a user sent.
    ///
    /// # Errors
    /// [`PreferencesError`], in words for who sent it.
    pub(crate) fn read(document: &[u8]) -> Result<Self, PreferencesError> {
        if document.len() > LARGEST {
            return Err(PreferencesError::TooLarge);
        }
        let read: Self =
            serde_json::from_slice(document).map_err(|error| PreferencesError::Json(error.to_string()))?;
        if read.quiet_hours.len() > MOST_QUIET || read.categories.len() > MOST_CATEGORIES {
            return Err(PreferencesError::TooMany);
        }
        let is_tag = |tag: &str| {
            tag.len() <= 35
                && tag
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        };
        if !is_tag(&read.language) {
            return Err(PreferencesError::Language);
        }
        if !read.time_zone.is_empty() && read.time_zone.parse::<TimeZone>().is_err() {
            let shown = read.time_zone.chars().take(64).collect();
            return Err(PreferencesError::TimeZone(shown));
        }
        Ok(read)
    }

    /// Reads a document as it is kept, which may be larger than one that is taken from a user.
    ///
    /// # Errors
    /// [`PreferencesError::Json`]: another release wrote it.
    pub(crate) fn kept(document: &str) -> Result<Self, PreferencesError> {
        serde_json::from_str(document).map_err(|error| PreferencesError::Json(error.to_string()))
    }

    /// Where the user is; `None`: in a zone that is unknown to a release with other data.
    pub(crate) fn zone(&self) -> Option<TimeZone> {
        match self.time_zone.as_str() {
            "" => "UTC".parse().ok(),
            zone => zone.parse().ok(),
        }
    }

    /// Whether the user wants this; without a word of the user's it is as the category has it.
    pub(crate) fn wants(&self, category: &str, way: Way) -> bool {
        let of_category = self.categories.get(category).and_then(|ways| ways.get(&way));
        *of_category.or_else(|| self.ways.get(&way)).unwrap_or(&true)
    }

    /// With one way of a category switched off, as who unsubscribes wants it.
    #[must_use]
    pub(crate) fn without(mut self, category: &str, way: Way) -> Self {
        self.categories
            .entry(category.to_owned())
            .or_default()
            .insert(way, false);
        self
    }
}
