//! Which text of a message can be searched.

use serde_json::Value;
use switchboard_proto::bus::{Message, PayloadKind};

/// How deep texts are looked for in a payload.
const DEPTH: usize = 16;

/// Texts of one message, at most.
const TEXTS: usize = 64;

/// Bytes of texts of one message, at most; what is beyond cannot be found.
pub(super) const BYTES: usize = 32 << 10;

/// Where texts stand in a payload.
#[derive(Debug, Clone, Default)]
pub struct Fields {
    /// Names from the outermost on; empty: every text.
    paths: Vec<Vec<String>>,
}

impl Fields {
    /// Fields by their names, inner ones as `body.text`; without any, every text of a payload. Lists are passed through.
    pub fn new(names: &[String]) -> Self {
        let path = |name: &String| name.split('.').map(str::to_owned).collect();
        Self {
            paths: names.iter().map(path).collect(),
        }
    }

    /// The texts of a message, in their order. Of binary and opaque payloads there are none.
    pub fn texts(&self, message: &Message) -> Vec<String> {
        let mut texts = Vec::new();
        if message.kind() != PayloadKind::Json {
            return texts;
        }
        let Ok(payload) = serde_json::from_slice::<Value>(&message.payload) else {
            return texts;
        };
        let mut left = BYTES;
        if self.paths.is_empty() {
            collect(payload, DEPTH, &mut left, &mut texts);
        } else {
            for path in &self.paths {
                follow(&payload, path, DEPTH, &mut left, &mut texts);
            }
        }
        texts
    }
}

fn follow(value: &Value, path: &[String], depth: usize, left: &mut usize, texts: &mut Vec<String>) {
    if depth == 0 {
        return;
    }
    match (value, path.split_first()) {
        (Value::Array(items), _) => {
            for item in items {
                follow(item, path, depth - 1, left, texts);
            }
        }
        (Value::Object(fields), Some((name, rest))) => {
            if let Some(field) = fields.get(name) {
                follow(field, rest, depth - 1, left, texts);
            }
        }
        // Whatever a named field holds is its text.
        (value, None) => collect(value.clone(), depth, left, texts),
        _ => {}
    }
}

fn collect(value: Value, depth: usize, left: &mut usize, texts: &mut Vec<String>) {
    if depth == 0 || *left == 0 || texts.len() == TEXTS {
        return;
    }
    match value {
        Value::String(mut text) => {
            if text.len() > *left {
                text.truncate(text.floor_char_boundary(*left));
                *left = 0;
            } else {
                *left -= text.len();
            }
            if !text.is_empty() {
                texts.push(text);
            }
        }
        Value::Array(items) => {
            for item in items {
                collect(item, depth - 1, left, texts);
            }
        }
        Value::Object(fields) => {
            for (_, field) in fields {
                collect(field, depth - 1, left, texts);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(fields: &[&str], kind: PayloadKind, payload: &str) -> Vec<String> {
        let names: Vec<String> = fields.iter().map(|name| (*name).to_owned()).collect();
        let mut message = Message {
            payload: payload.to_owned().into(),
            ..Message::default()
        };
        message.set_kind(kind);
        Fields::new(&names).texts(&message)
    }

    #[test]
    fn every_text_or_those_of_named_fields() {
        let payload = r#"{"a":"one","n":7,"body":[{"text":"two","x":"no"},{"text":{"y":"three"}}]}"#;
        assert_eq!(texts(&[], PayloadKind::Json, payload).len(), 4);
        assert_eq!(
            texts(&["body.text"], PayloadKind::Json, payload),
            ["two", "three"]
        );
        assert_eq!(texts(&["body.none"], PayloadKind::Json, payload), [""; 0]);
        assert_eq!(texts(&[], PayloadKind::Json, r#""alone""#), ["alone"]);
    }

    #[test]
    fn what_is_not_json_has_no_text() {
        for kind in [PayloadKind::Binary, PayloadKind::Opaque] {
            assert_eq!(texts(&[], kind, r#""secret""#), [""; 0]);
        }
        assert_eq!(texts(&[], PayloadKind::Json, "{broken"), [""; 0]);
    }

    #[test]
    fn text_is_bounded() {
        let long = format!("[\"{}\",\"more\"]", "é".repeat(BYTES));
        let found = texts(&[], PayloadKind::Json, &long);
        assert_eq!(found.len(), 1);
        assert!(found[0].len() <= BYTES);
        let many = format!("[{}\"x\"]", "\"x\",".repeat(TEXTS * 2));
        assert_eq!(texts(&[], PayloadKind::Json, &many).len(), TEXTS);
        let deep = format!("{}\"x\"{}", "[".repeat(DEPTH), "]".repeat(DEPTH));
        assert_eq!(texts(&[], PayloadKind::Json, &deep), [""; 0]);
    }
}
