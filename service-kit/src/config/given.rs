//! A value before it has a type, and how one is refused.

use toml::Value;

/// A value as it was given: typed in the file, text in the environment.
pub(super) enum Given {
    File(Value),
    Environment(String),
}

/// What is wrong with a value, and what to do.
pub(super) struct Refusal {
    pub(super) problem: String,
    pub(super) remedy: String,
}

impl Given {
    pub(super) fn as_text(&self) -> Option<&str> {
        match self {
            Self::File(value) => value.as_str(),
            Self::Environment(text) => Some(text),
        }
    }

    pub(super) fn text(self) -> Result<String, Refusal> {
        let text = self.as_text().map(str::to_owned);
        // Says only the type: this may be a secret.
        text.ok_or_else(|| match self {
            Self::File(value) => Refusal::new(
                format!("expected text, found {}", value.type_str()),
                "put quotes around it",
            ),
            Self::Environment(_) => Refusal::new("expected text", "set text"),
        })
    }

    pub(super) fn expected(&self, expected: &str, remedy: &str) -> Refusal {
        Refusal::new(format!("expected {expected}, found {}", self.shown()), remedy)
    }

    pub(super) fn shown(&self) -> String {
        match self {
            Self::File(Value::Table(_)) => "a section".to_owned(),
            Self::File(value) => value.to_string(),
            Self::Environment(text) => show_text(text),
        }
    }
}

impl Refusal {
    pub(super) fn new(problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            problem: problem.into(),
            remedy: remedy.into(),
        }
    }
}

/// As a TOML value.
pub(super) fn show_text(text: &str) -> String {
    Value::String(text.to_owned()).to_string()
}
