//! Templates: how a notification reads, in each language.
//!
//! They are written by operators and applications, not by us, and filled with what users wrote. So neither is trusted: a template may not
//! run for ever, grow without bound or reach files or other templates, and what a user wrote is text and never markup. A bad template is
//! refused when it is stored; what only shows with the variables at hand is an error of that one rendering.
//!
//! The language is Jinja as minijinja knows it, less what would break these promises: no macros, no blocks, includes or imports (those
//! features are not compiled in), and no way around escaping. Every value that the HTML part prints is escaped, even one that the template
//! itself put together; lists and objects can be walked but not printed.

use minijinja::Environment;
use minijinja::value::{Serde, Value};
use serde::{Deserialize, Serialize};

use self::engine::{MARKUP, TEXT, check_part, cut_to_bytes, render_part};

mod built_in;
mod engine;
#[cfg(test)]
mod tests;

/// Bytes of one part of a template.
const LARGEST_PART: usize = 64 * 1024;
/// Bytes of all parts of a template together.
const LARGEST_TEMPLATE: usize = 128 * 1024;
/// Bytes of a template's or variable's name.
const LONGEST_NAME: usize = 64;
/// Variables that a template may require.
const MOST_REQUIRED: usize = 64;
/// Bytes of a language tag: RFC 5646 (4.4.1) asks for at least 35.
const LONGEST_LANGUAGE: usize = 35;

/// Bytes of a rendered title, and of a subject.
const LARGEST_TITLE: usize = 1024;
const LARGEST_BODY: usize = 64 * 1024;
const LARGEST_HTML: usize = 256 * 1024;
/// Bytes of a rendered SMS: more than the ten parts that networks carry.
const LARGEST_SHORT: usize = 2048;
const LARGEST_LINK: usize = 2048;

/// A way to say something to a user, in one language.
///
/// All texts are templates. Bounds: each at most 64 KiB, all together 128 KiB. See [`Template::check`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Template {
    /// What it is chosen by: 1 to 64 of `a-z`, `0-9`, `_`, `.`, `-`.
    pub name: String,
    /// A tag such as `pt-BR`; empty for who has no better one. At most 35 bytes.
    #[serde(default)]
    pub language: String,
    /// One line: what a push notification is headed by.
    pub title: String,
    /// Plain text.
    pub body: String,
    /// The body of an e-mail, beside the plain one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub html: Option<String>,
    /// What an e-mail is headed by; without it the title.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// What an SMS says; without it the body, cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub short: Option<String>,
    /// What a tap opens: an https URL once rendered, or nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    /// Variables without which it is not rendered, at most 64; null is not enough.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub required: Vec<String>,
}

/// What a template says with its variables filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rendered {
    /// One line of at most 1 KiB.
    pub(crate) title: String,
    /// At most 64 KiB.
    pub(crate) body: String,
    /// At most 256 KiB.
    pub(crate) html: Option<String>,
    /// One line of at most 1 KiB.
    pub(crate) subject: String,
    /// At most 2 KiB.
    pub(crate) short: String,
    /// An https URL of at most 2 KiB.
    pub(crate) link: Option<String>,
}

/// A part of a template, by its name in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Title,
    Body,
    Html,
    Subject,
    Short,
    Link,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Self::Title => "title",
            Self::Body => "body",
            Self::Html => "html",
            Self::Subject => "subject",
            Self::Short => "short",
            Self::Link => "link",
        }
    }

    /// Bytes of what it says.
    fn largest(self) -> usize {
        match self {
            Self::Title | Self::Subject => LARGEST_TITLE,
            Self::Body => LARGEST_BODY,
            Self::Html => LARGEST_HTML,
            Self::Short => LARGEST_SHORT,
            Self::Link => LARGEST_LINK,
        }
    }

    fn environment(self) -> &'static Environment<'static> {
        match self {
            Self::Html => &MARKUP,
            Self::Title | Self::Body | Self::Subject | Self::Short | Self::Link => &TEXT,
        }
    }
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a template is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CheckError {
    #[error("a template's name is 1 to 64 of a-z, 0-9, '_', '.' and '-'")]
    Name,
    #[error("the language is a tag such as en or pt-BR, or empty")]
    Language,
    #[error("required: {0:?} is no name of a variable")]
    Required(String),
    #[error("required: at most {MOST_REQUIRED} variables")]
    ManyRequired,
    #[error("{part} has more than {LARGEST_PART} bytes")]
    PartTooLarge { part: Part },
    #[error("the parts have more than {LARGEST_TEMPLATE} bytes together")]
    TooLarge,
    #[error("{part}, line {line}: {reason}")]
    Part {
        part: Part,
        /// From 1; 0 when it is not known.
        line: usize,
        reason: String,
    },
}

/// Why a template says nothing with these variables. None of these goes away by trying again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RenderError {
    #[error("the variables are no JSON object")]
    Variables,
    #[error("the variable {name} is missing")]
    Missing { name: String },
    #[error("{part} has more than {most} bytes")]
    TooLarge { part: Part, most: usize },
    #[error("{part} takes too much work to render")]
    TooMuchWork { part: Part },
    #[error("the link is no https URL once rendered")]
    Link,
    #[error("{part}, line {line}: {reason}")]
    Part {
        part: Part,
        /// From 1; 0 when it is not known.
        line: usize,
        reason: String,
    },
}

impl Template {
    /// Whether it is worth storing: names and sizes are within bounds and all parts can be read. Filters, tests and functions that do not
    /// exist are found as well; variables that do not exist show only when it is rendered.
    ///
    /// # Errors
    /// The first fault, with the line for one in a text.
    pub(crate) fn check(&self) -> Result<(), CheckError> {
        let is_name = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_.-".contains(&b);
        if !(1..=LONGEST_NAME).contains(&self.name.len()) || !self.name.bytes().all(is_name) {
            return Err(CheckError::Name);
        }
        if !self.language.is_empty() && !is_language(&self.language) {
            return Err(CheckError::Language);
        }
        if self.required.len() > MOST_REQUIRED {
            return Err(CheckError::ManyRequired);
        }
        if let Some(name) = self.required.iter().find(|name| !is_variable(name)) {
            return Err(CheckError::Required(name.chars().take(LONGEST_NAME).collect()));
        }
        if let Some((part, _)) = self.parts().find(|(_, text)| text.len() > LARGEST_PART) {
            return Err(CheckError::PartTooLarge { part });
        }
        if self.parts().map(|(_, text)| text.len()).sum::<usize>() > LARGEST_TEMPLATE {
            return Err(CheckError::TooLarge);
        }
        self.parts().try_for_each(|(part, text)| check_part(part, text))
    }

    fn parts(&self) -> impl Iterator<Item = (Part, &str)> {
        [
            (Part::Title, Some(&self.title)),
            (Part::Body, Some(&self.body)),
            (Part::Html, self.html.as_ref()),
            (Part::Subject, self.subject.as_ref()),
            (Part::Short, self.short.as_ref()),
            (Part::Link, self.link.as_ref()),
        ]
        .into_iter()
        .filter_map(|(part, text)| Some((part, text?.as_str())))
    }
}

/// What `template` says with `variables`, a JSON object. The template need not have been checked.
///
/// It takes bounded time and memory, milliseconds for a hostile template, but the variables' size is the caller's to bound.
///
/// # Errors
/// For a variable that is missing, and for whatever would break the promises of [`Rendered`]. Errors may quote the template and name
/// variables, not what these contain.
pub(crate) fn render(template: &Template, variables: &serde_json::Value) -> Result<Rendered, RenderError> {
    let given = variables.as_object().ok_or(RenderError::Variables)?;
    let is_given = |name: &&String| given.get(name.as_str()).is_some_and(|value| !value.is_null());
    if let Some(name) = template.required.iter().find(|name| !is_given(name)) {
        return Err(RenderError::Missing { name: name.clone() });
    }
    let variables = Value::from(Serde(variables));
    let part = |part, text: &str| render_part(part, text, &variables);

    let title = part(Part::Title, &template.title)?;
    let body = part(Part::Body, &template.body)?;
    let subject = match &template.subject {
        Some(text) => part(Part::Subject, text)?,
        None => title.clone(),
    };
    let short = match &template.short {
        Some(text) => part(Part::Short, text)?,
        None => cut_to_bytes(&body, LARGEST_SHORT),
    };
    let html = template.html.as_deref().map(|text| part(Part::Html, text));
    let link = template.link.as_deref().map(|text| part(Part::Link, text));
    let link = link.transpose()?.filter(|link| !link.is_empty());
    if link.as_deref().is_some_and(|link| !is_link(link)) {
        return Err(RenderError::Link);
    }
    Ok(Rendered {
        title,
        body,
        html: html.transpose()?,
        subject,
        short,
        link,
    })
}

/// The template for who reads `language`, among those of one name: that of the tag itself, else of what it begins with (`pt-BR`, then
/// `pt`), else the one without language. Upper and lower case do not matter.
pub(crate) fn choose<'a>(templates: &'a [Template], language: &str) -> Option<&'a Template> {
    let of = |tag: &str| {
        templates
            .iter()
            .find(|template| template.language.eq_ignore_ascii_case(tag))
    };
    let mut tag = language;
    loop {
        if let Some(found) = of(tag) {
            return Some(found);
        }
        if tag.is_empty() {
            return None;
        }
        tag = tag.rsplit_once('-').map_or("", |(shorter, _)| shorter);
    }
}

/// What is said where nobody stored a template of that name, in English:
/// - `message`: `sender`; `channel` and `text` where there are any. An encrypted message has no text that we could show.
/// - `mention`: the same.
/// - `digest`: `count` of messages and `items`, a list of objects with `sender` and maybe `text`, of which 20 are shown; `channel` if they
///   are all of one.
pub(crate) fn built_in(name: &str) -> Option<Template> {
    built_in::template(name)
}

/// A tag as of RFC 5646, by its form: `en`, `pt-BR`, `zh-Hant-TW`.
fn is_language(tag: &str) -> bool {
    let mut subtags = tag.split('-');
    let is_first = |first: &str| first.len() >= 2 && first.bytes().all(|b| b.is_ascii_alphabetic());
    tag.len() <= LONGEST_LANGUAGE
        && subtags.clone().next().is_some_and(is_first)
        && subtags.all(|subtag| {
            (1..=8).contains(&subtag.len()) && subtag.bytes().all(|b| b.is_ascii_alphanumeric())
        })
}

fn is_variable(name: &str) -> bool {
    name.len() <= LONGEST_NAME
        && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Whether devices and mail programs may be given it to open: https with a host, written as RFC 3986 has it, and without a user, which
/// serves only to make one host look like another.
fn is_link(link: &str) -> bool {
    let Some((scheme, rest)) = link.split_once("://") else {
        return false;
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let is_url = |b: u8| b.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&b);
    scheme.eq_ignore_ascii_case("https")
        && authority.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '[')
        && !authority.contains('@')
        && rest.bytes().all(is_url)
}
