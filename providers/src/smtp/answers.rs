//! What a server's answers mean for the message.

use std::error::Error as _;

use lettre::transport::smtp::Error;
use lettre::transport::smtp::response::Response;
use tokio::time::error::Elapsed;

use crate::{SendError, push};

/// What a conversation ended with, and whether the connection is good for another one.
pub(super) struct Failed {
    pub(super) error: SendError,
    pub(super) keep: bool,
}

/// The commands after which something is decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Login,
    Sender,
    Recipient,
    Data,
    Message,
}

impl Step {
    fn name(self) -> &'static str {
        match self {
            Self::Login => "AUTH",
            Self::Sender => "MAIL",
            Self::Recipient => "RCPT",
            Self::Data => "DATA",
            Self::Message => "the message",
        }
    }

    /// Whether a server that goes on says this.
    fn is_good(self, code: u16) -> bool {
        match self {
            Self::Login => code == 235,
            Self::Sender | Self::Message => code == 250,
            // 251 and 252: it will try.
            Self::Recipient => (250..=252).contains(&code),
            Self::Data => code == 354,
        }
    }
}

/// What a command's answer means for the message.
pub(super) fn said(step: Step, answer: Result<Result<Response, Error>, Elapsed>) -> Result<Response, Failed> {
    let name = step.name();
    let open = |what: &str| Failed {
        error: match step {
            Step::Message => SendError::Unknown {
                reason: format!("{name}: {what}"),
            },
            _ => retry(&format!("{name}: {what}")),
        },
        keep: false,
    };
    match answer {
        Err(_) => Err(open("no answer in time")),
        Ok(Ok(answer)) if step.is_good(code(&answer)) => Ok(answer),
        Ok(Ok(answer)) => Err(open(&format!("{} is no answer to it", code(&answer)))),
        Ok(Err(error)) => match error.status() {
            Some(status) => {
                let status = u16::from(status);
                Err(Failed {
                    error: refusal(step, status, detail(&error)),
                    keep: status != 421,
                })
            }
            None if error.is_response() => Err(open("the answer is none of SMTP, or ends too early")),
            None => Err(open("the connection was lost")),
        },
    }
}

/// What a code says, and the enhanced status beside it (RFC 3463).
fn refusal(step: Step, code: u16, detail: Option<(u16, u16)>) -> SendError {
    let class = code / 100;
    let mut reason = format!("{}: {code}", step.name());
    if let Some((subject, detail)) = detail {
        reason.push_str(&format!(" {class}.{subject}.{detail}"));
    }
    if class != 5 {
        return SendError::Retry { reason, after: None };
    }
    match (step, code, detail) {
        (Step::Login, _, _) => SendError::Account { reason },
        // Too large, or parameters that this message needs.
        (Step::Sender, 552 | 555, _) | (Step::Sender, _, Some((2 | 3, 3 | 4) | (6, _))) => {
            SendError::Refused { reason }
        }
        // Every message has this sender.
        (Step::Sender, _, _) => SendError::Account { reason },
        // Many servers say only now what they think of the sender (5.1.7, 5.1.8) or that they want a login.
        (_, 530, _) | (_, _, Some((1, 7 | 8))) => SendError::Account { reason },
        // No such mailbox or domain, or a mailbox that is closed.
        (_, _, Some((1, _) | (2, 1))) => SendError::Gone { reason },
        (_, _, Some((subject, _))) if subject != 0 => SendError::Refused { reason },
        // Without more said these mean the mailbox (RFC 5321, section 4.2.3).
        (Step::Recipient, 550 | 551 | 553, _) => SendError::Gone { reason },
        _ => SendError::Refused { reason },
    }
}

/// Subject and detail of an enhanced status code, where the server's text begins with one.
fn detail(error: &Error) -> Option<(u16, u16)> {
    let text = error.source()?.to_string();
    let mut numbers = text.split_whitespace().next()?.splitn(3, '.');
    numbers.next().filter(|class| matches!(*class, "4" | "5"))?;
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

pub(super) fn code(answer: &Response) -> u16 {
    u16::from(answer.code())
}

/// What the server calls it in its log: the words after the code.
pub(super) fn reference(answer: &Response, to: &str) -> Option<String> {
    let line = answer.message().last()?.trim();
    let words = match line.split_once(' ') {
        Some((status, rest)) if status.starts_with("2.") => rest,
        _ => line,
    };
    Some(push::said(words, &[to])).filter(|words| !words.is_empty())
}

/// Before the login: nothing is said yet that is personal.
pub(super) fn unreachable(what: &str, error: &Error) -> SendError {
    if let Some(status) = error.status() {
        return retry(&format!("{what}: {}", u16::from(status)));
    }
    let mut reason = what.to_owned();
    let mut source = error.source();
    while let Some(inner) = source {
        reason.push_str(": ");
        reason.push_str(&inner.to_string());
        source = inner.source();
    }
    retry(&push::said(&reason, &[]))
}

pub(super) fn retry(reason: &str) -> SendError {
    SendError::Retry {
        reason: reason.to_owned(),
        after: None,
    }
}
