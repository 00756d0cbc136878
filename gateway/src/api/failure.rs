//! Why a call failed, as backends are told it.

use switchboard_proto::api;
use switchboard_proto::bus::Refusal;
use switchboard_proto::codes::ErrorCode;

/// The error of a call. The numbers are those of the client protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(super) code: u32,
    message: String,
}

impl Failure {
    /// The backend asked for something that makes no sense. `why` holds nothing of what was sent.
    pub(super) fn bad(why: &'static str) -> Self {
        Self::because(ErrorCode::BadRequest, why)
    }

    /// An error as clients are told it.
    pub(super) fn of(code: u32, message: String) -> Self {
        Self { code, message }
    }

    /// The code and the words.
    pub(super) fn into_parts(self) -> (u32, String) {
        (self.code, self.message)
    }

    /// An error, and what an operator should know of it.
    pub(super) fn because(code: ErrorCode, why: &'static str) -> Self {
        Self {
            code: code.code(),
            message: format!("{}: {why}", code.words()),
        }
    }
}

impl From<ErrorCode> for Failure {
    fn from(code: ErrorCode) -> Self {
        Self {
            code: code.code(),
            message: code.words().to_owned(),
        }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self {
            code: refusal.code,
            message: refusal.message,
        }
    }
}

impl From<Failure> for api::Error {
    fn from(failure: Failure) -> Self {
        Self {
            code: failure.code,
            message: failure.message,
        }
    }
}
