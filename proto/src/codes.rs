//! Error, disconnect and unsubscribe codes of the client protocol, in one place.
//!
//! The ranges carry meaning for SDKs: an error that is not temporary ends the subscription or the
//! connection for good; disconnect codes 3000–3499 and 4000–4499 make them reconnect, 3500–3999 and
//! 4500–4999 make them stop; unsubscribe codes from 2500 on make them subscribe again.

use crate::client;

macro_rules! codes {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $code:literal $words:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$doc])* $variant,)+
        }

        impl $name {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The number on the wire.
            pub fn code(self) -> u32 {
                match self { $(Self::$variant => $code,)+ }
            }

            /// The words that go with it: message of an error, reason of a close frame. Never
            /// JSON, because an SDK would parse it.
            pub fn words(self) -> &'static str {
                match self { $(Self::$variant => $words,)+ }
            }

            /// The variant with this number.
            pub fn from_code(code: u32) -> Option<Self> {
                match code { $($code => Some(Self::$variant),)+ _ => None }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{} {}", self.code(), self.words())
            }
        }
    };
}

codes! {
    /// Errors in replies.
    ErrorCode {
        /// Something on our side; try again.
        Internal = 100 "internal server error",
        /// Who are you?
        Unauthorized = 101 "unauthorized",
        /// The namespace does not exist.
        UnknownChannel = 102 "unknown channel",
        /// Not allowed.
        PermissionDenied = 103 "permission denied",
        /// No such rpc method.
        MethodNotFound = 104 "method not found",
        /// One connection holds a channel at most once.
        AlreadySubscribed = 105 "already subscribed",
        /// A limit of the configuration is met.
        LimitExceeded = 106 "limit exceeded",
        /// The request makes no sense, or its payload is not what the namespace takes.
        BadRequest = 107 "bad request",
        /// The feature is off, or its service is not there.
        NotAvailable = 108 "not available",
        /// The token's time is over: fetch a new one.
        TokenExpired = 109 "token expired",
        /// The connection's or subscription's time is over.
        Expired = 110 "expired",
        /// Slow down.
        TooManyRequests = 111 "too many requests",
        /// The position is gone: load the state anew.
        UnrecoverablePosition = 112 "unrecoverable position",
        /// Only one page at a time.
        ConcurrentPagination = 113 "concurrent pagination",
    }
}

impl ErrorCode {
    /// Whether the same command may succeed when tried again.
    pub fn is_temporary(self) -> bool {
        matches!(
            self,
            Self::Internal | Self::TooManyRequests | Self::ConcurrentPagination
        )
    }
}

impl From<ErrorCode> for client::Error {
    fn from(code: ErrorCode) -> Self {
        Self {
            code: code.code(),
            message: code.words().to_owned(),
            temporary: code.is_temporary(),
        }
    }
}

codes! {
    /// Why the server closes a connection; the WebSocket close code and reason.
    DisconnectCode {
        /// The gateway stops; others are there.
        Shutdown = 3001 "shutdown",
        /// Something on our side.
        InternalServerError = 3004 "internal server error",
        /// The connection's time is over and it was not refreshed.
        ConnectionExpired = 3005 "connection expired",
        /// A server-side subscription's time is over.
        SubscriptionExpired = 3006 "subscription expired",
        /// The client reads slower than it is sent to.
        Slow = 3008 "slow",
        /// Writing to the socket failed or took too long.
        WriteError = 3009 "write error",
        /// A server-side subscription lost its place.
        InsufficientState = 3010 "insufficient state",
        /// Asked to reconnect.
        ForceReconnect = 3011 "force reconnect",
        /// A ping was not answered.
        NoPong = 3012 "no pong",
        /// Too many commands or connections.
        TooManyRequests = 3013 "too many requests",
        /// Tokens and positions are void.
        StateInvalidated = 3014 "state invalidated",
        /// The token is not valid and never will be.
        InvalidToken = 3500 "invalid token",
        /// The client does not speak the protocol.
        BadRequest = 3501 "bad request",
        /// No connect came in time.
        Stale = 3502 "stale",
        /// Sent away by the server API.
        ForceDisconnect = 3503 "force disconnect",
        /// Too many connections.
        ConnectionLimit = 3504 "connection limit",
        /// Too many channels.
        ChannelLimit = 3505 "channel limit",
        /// A payload cannot be shown in this connection's encoding.
        InappropriateProtocol = 3506 "inappropriate protocol",
        /// Not allowed here at all.
        PermissionDenied = 3507 "permission denied",
        /// The feature is off.
        NotAvailable = 3508 "not available",
        /// Too many commands of this connection failed.
        TooManyErrors = 3509 "too many errors",
        /// The user is blocked: our own, in the range where SDKs do not come back.
        UserBlocked = 4510 "user blocked",
    }
}

codes! {
    /// Why the server ended a subscription.
    UnsubscribeCode {
        /// Asked for by the server API.
        Server = 2000 "server unsubscribe",
        /// The subscription lost its place; the client subscribes again and recovers.
        InsufficientState = 2500 "insufficient state",
        /// The subscription's time is over and it was not refreshed.
        Expired = 2501 "subscription expired",
        /// Token and position are void.
        StateInvalidated = 2502 "state invalidated",
    }
}

impl From<UnsubscribeCode> for client::Unsubscribe {
    fn from(code: UnsubscribeCode) -> Self {
        Self {
            code: code.code(),
            reason: code.words().to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_fit_a_close_frame_and_are_no_json() {
        for code in DisconnectCode::ALL {
            assert!(code.words().len() <= 123);
            assert!(
                serde_json::from_str::<serde_json::Value>(code.words()).is_err(),
                "{code}"
            );
            assert_eq!(DisconnectCode::from_code(code.code()), Some(*code));
        }
    }

    #[test]
    fn only_protocol_errors_are_sent() {
        for code in ErrorCode::ALL {
            assert!((100..400).contains(&code.code()));
        }
    }
}
