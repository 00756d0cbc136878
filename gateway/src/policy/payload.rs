//! What publications of a namespace may hold.

use switchboard_proto::bus::PayloadKind;
use switchboard_proto::channel::ChannelName;
use switchboard_proto::codes::ErrorCode;

use super::{DataFormat, Policy};

/// Why data is not published, with the error to answer with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unfit {
    pub(crate) code: ErrorCode,
    /// For the log: nothing of it is from the client.
    pub(crate) why: &'static str,
}

fn bad(why: &'static str) -> Unfit {
    Unfit {
        code: ErrorCode::BadRequest,
        why,
    }
}

impl Policy {
    /// Checks data for `channel`. `kind` is what the data is, `is_json`: the client speaks JSON.
    pub(crate) fn payload(
        &self,
        channel: &ChannelName,
        data: &[u8],
        kind: PayloadKind,
        is_json: bool,
    ) -> Result<PayloadKind, Unfit> {
        let Some(options) = self.options(channel) else {
            return Err(Unfit {
                code: ErrorCode::UnknownChannel,
                why: "no namespace of that name is configured",
            });
        };
        if data.len() > options.publish_size {
            return Err(Unfit {
                code: ErrorCode::LimitExceeded,
                why: "data larger than publish_size",
            });
        }
        let kind = match (options.data_format, kind, is_json) {
            (DataFormat::Json, PayloadKind::Json, _) => PayloadKind::Json,
            (DataFormat::Json, _, _) => {
                return Err(bad(
                    "data that is not JSON, which publication_data_format asks for",
                ));
            }
            (DataFormat::Any, kind, _) => kind,
            (DataFormat::Binary, _, true) => {
                return Err(bad("JSON, where publication_data_format asks for binary"));
            }
            (DataFormat::Binary, _, false) => PayloadKind::Binary,
        };
        if kind == PayloadKind::Json && !options.control_characters && has_control_characters(data) {
            return Err(bad("control characters, which allow_control_characters forbids"));
        }
        Ok(kind)
    }
}

fn is_control(code: u32) -> bool {
    let is_layout = matches!(code, 0x09 | 0x0a | 0x0d);
    !is_layout && (code < 0x20 || (0x7f..0xa0).contains(&code))
}

/// Whether the strings of a valid JSON text hold control characters other than tab and line breaks,
/// written out or escaped.
fn has_control_characters(json: &[u8]) -> bool {
    let mut rest = json;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'\\' => {
                let Some((&escape, after)) = rest.split_first() else {
                    return false;
                };
                rest = after;
                match escape {
                    b'b' | b'f' => return true,
                    b'u' => {
                        let code = rest
                            .get(..4)
                            .and_then(|digits| std::str::from_utf8(digits).ok())
                            .and_then(|digits| u32::from_str_radix(digits, 16).ok());
                        if code.is_some_and(is_control) {
                            return true;
                        }
                    }
                    _ => {}
                }
            }
            0x7f => return true,
            // U+0080 to U+009F in UTF-8.
            0xc2 if rest.first().is_some_and(|next| (0x80..0xa0).contains(next)) => return true,
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_found_however_they_are_written() {
        for text in [
            r#""\u0000""#,
            r#""\u001B[2J""#,
            r#"{"a":["\b"]}"#,
            r#""\f""#,
            r#""\u007f""#,
            r#""\u009f""#,
            "\"\u{7f}\"",
            "\"\u{85}\"",
            r#""\\\u0001""#,
        ] {
            assert!(has_control_characters(text.as_bytes()), "{text:?}");
        }
        for text in [
            r#""\t\n\r""#,
            r#""\u000a\u0009""#,
            "{\n\t\"a\": 1\n}",
            r#""\\u0000""#,
            r#""\\\\u0000 \\b \\f""#,
            "\"žluťoučký kůň 👩‍👩‍👧‍👦 漢字 \u{a0}\"",
            r#""\u00e9""#,
            "1",
        ] {
            assert!(!has_control_characters(text.as_bytes()), "{text:?}");
        }
    }
}
