//! Asking a service: a question to any replica of it, and its answer.
//!
//! It stands here because gateways, routers and operators' commands ask alike, and the services that answer are none of
//! their dependencies. What is asked are the methods of [`switchboard_proto::questions`].

use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use switchboard_proto::bus::{Fault, FaultCode, Question, QuestionAnswer, question_answer};
use switchboard_proto::format;
use switchboard_proto::questions::{Method, Service};

use crate::bus::{Bus, RequestError};
use crate::subject::{QueueGroup, Subject};

/// Who answers what is asked of the persistence service.
pub const ANSWERERS: QueueGroup = place(Service::Messages).1;

/// Where a service is asked, and the group of who answers: each question goes to one of them.
pub const fn place(service: Service) -> (Subject, QueueGroup) {
    match service {
        Service::Messages => (Subject::Messages, QueueGroup("persistence")),
        Service::Presence => (Subject::Presence, QueueGroup("presence")),
        Service::Notifications => (Subject::Notifications, QueueGroup("notify")),
        Service::Publishing => (Subject::Publishing, QueueGroup("gateway")),
    }
}

/// Why a question has no answer.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
pub enum AskError {
    /// The request makes no sense; the words are for who sent it.
    #[error("invalid: {0}")]
    Invalid(String),
    /// What is asked about does not exist.
    #[error("not found: {0}")]
    NotFound(String),
    /// It may be answered later: nobody answers now, or the store cannot be used.
    #[error("unavailable: {0}")]
    Unavailable(String),
    /// It is not allowed.
    #[error("denied: {0}")]
    Denied(String),
    /// It is not part of this installation, or who answers does not know the method.
    #[error("not available: {0}")]
    NotAvailable(String),
    /// A fault of ours.
    #[error("internal: {0}")]
    Internal(String),
}

/// Asks a question, and waits for its answer `within` this time.
///
/// Cancel safe in that nothing is left behind; a question that changes something may be carried out all the same.
///
/// # Errors
/// [`AskError`].
pub async fn ask<M: Method>(
    bus: &dyn Bus,
    request: &M::Request,
    within: Duration,
) -> Result<M::Response, AskError> {
    let question = Question {
        method: M::NAME.to_owned(),
        request: request.encode_to_vec().into(),
        within_ms: u32::try_from(within.as_millis()).unwrap_or(u32::MAX),
    };
    let (subject, answerers) = place(M::SERVICE);
    let answer = bus
        .request(subject, format::encode(&question), within)
        .await
        .map_err(|error| match error {
            RequestError::NoResponders => AskError::Unavailable(format!("no {answerers} service answers")),
            error @ (RequestError::TimedOut(_) | RequestError::Bus(_)) => {
                AskError::Unavailable(error.to_string())
            }
        })?;
    let answer: QuestionAnswer =
        format::decode(answer).map_err(|error| AskError::Internal(format!("answer not read: {error}")))?;
    match answer.answer {
        Some(question_answer::Answer::Response(response)) => M::Response::decode(response)
            .map_err(|error| AskError::Internal(format!("answer not read: {error}"))),
        Some(question_answer::Answer::Fault(fault)) => Err(fault.into()),
        None => Err(AskError::Internal("an empty answer".to_owned())),
    }
}

/// An answer as it travels.
pub fn answered(response: Result<Bytes, AskError>) -> Bytes {
    let answer = match response {
        Ok(response) => question_answer::Answer::Response(response),
        Err(error) => question_answer::Answer::Fault(error.into()),
    };
    format::encode(&QuestionAnswer { answer: Some(answer) })
}

impl From<Fault> for AskError {
    fn from(fault: Fault) -> Self {
        let text = fault.text.clone();
        match fault.code() {
            FaultCode::Internal => Self::Internal(text),
            FaultCode::Invalid => Self::Invalid(text),
            FaultCode::NotFound => Self::NotFound(text),
            FaultCode::Unavailable => Self::Unavailable(text),
            FaultCode::Denied => Self::Denied(text),
            FaultCode::NotAvailable => Self::NotAvailable(text),
        }
    }
}

impl From<AskError> for Fault {
    fn from(error: AskError) -> Self {
        let (code, text) = match error {
            AskError::Internal(text) => (FaultCode::Internal, text),
            AskError::Invalid(text) => (FaultCode::Invalid, text),
            AskError::NotFound(text) => (FaultCode::NotFound, text),
            AskError::Unavailable(text) => (FaultCode::Unavailable, text),
            AskError::Denied(text) => (FaultCode::Denied, text),
            AskError::NotAvailable(text) => (FaultCode::NotAvailable, text),
        };
        Self {
            code: code.into(),
            text,
        }
    }
}
