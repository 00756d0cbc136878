//! How people are reached who are away: push, e-mail, SMS, webhooks. One [`Provider`] for each service that takes such messages.
//!
//! It knows nothing of channels, queues or preferences: who is told what, when and how often is decided by the notify service. Here
//! is only how one message is handed to one address, and what the answer means for the next try. No provider tries again by itself.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

pub mod apns;
pub mod fcm;
pub mod guard;
mod http;
pub mod mail;
mod push;
pub mod ses;
pub mod smtp;
#[cfg(test)]
mod testing;
pub mod twilio;
pub mod web_push;
pub mod webhook;

/// The kinds of addresses, and so of ways to somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Way {
    /// An app on Android, iOS or in a browser, through Firebase Cloud Messaging.
    Fcm,
    /// An app on Apple's systems, through the Apple Push Notification service.
    Apns,
    /// A browser, by RFC 8030.
    WebPush,
    /// E-mail.
    Email,
    /// A text message to a phone.
    Sms,
    /// A request to a server of the application.
    Webhook,
}

/// Where a message goes. `Debug` shows no more of it than its kind: it is personal.
#[derive(Clone)]
pub enum Address {
    /// A registration token of an app.
    Fcm {
        /// As the app was given it.
        token: String,
    },
    /// A device token.
    Apns {
        /// Hexadecimal, as apps send it; 200 digits at most.
        token: String,
    },
    /// A push subscription of a browser, as `PushSubscription.toJSON()` has it.
    WebPush {
        /// An https URL of the browser's push service.
        endpoint: String,
        /// The browser's public key: 65 bytes, base64url without padding.
        p256dh: String,
        /// The shared secret: 16 bytes, base64url without padding.
        auth: String,
    },
    /// A mailbox, `name@example.org`.
    Email {
        /// The address alone, without a display name.
        address: String,
    },
    /// A phone number as of E.164: `+` and 8 to 15 digits.
    Sms {
        /// With its `+`.
        number: String,
    },
    /// A server of the application.
    Webhook {
        /// An https URL.
        url: String,
        /// Secrets that sign, the newest first: `whsec_` and base64 of 24 to 64 bytes. Two while one replaces the other.
        secrets: Vec<secrecy::SecretString>,
    },
}

impl Address {
    /// The kind of the address.
    #[must_use]
    pub fn way(&self) -> Way {
        match self {
            Self::Fcm { .. } => Way::Fcm,
            Self::Apns { .. } => Way::Apns,
            Self::WebPush { .. } => Way::WebPush,
            Self::Email { .. } => Way::Email,
            Self::Sms { .. } => Way::Sms,
            Self::Webhook { .. } => Way::Webhook,
        }
    }
}

/// How soon a device should show it, and whether it may wake for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Urgency {
    /// When it suits the device.
    Low,
    /// Soon; may wait for a device that saves power.
    #[default]
    Normal,
    /// Now.
    High,
}

/// One message, made ready for one address.
#[derive(Debug, Clone, Default)]
pub struct Outgoing {
    /// Names this message at this address, also when it is tried again: providers that know such keys take it once.
    pub id: Uuid,
    /// What kind it is, for apps: `message`, `mention`.
    pub category: String,
    /// One line: a notification's title, an e-mail's subject.
    pub title: String,
    /// Plain text.
    pub body: String,
    /// The same as HTML, for e-mail.
    pub html: Option<String>,
    /// What an app is given besides; for webhooks `payload` is sent instead.
    pub data: BTreeMap<String, String>,
    /// JSON text that a webhook gets as its body.
    pub payload: Option<String>,
    /// What a tap opens: an https URL.
    pub link: Option<String>,
    /// A later message with the same key takes its place where the device has not shown it yet.
    pub collapse: Option<String>,
    /// The number on the app's icon.
    pub badge: Option<u32>,
    /// How soon.
    pub urgency: Urgency,
    /// After so long nobody wants it any more.
    pub expires_in: Option<Duration>,
    /// An https URL that unsubscribes with one POST (RFC 8058), for e-mail.
    pub unsubscribe: Option<String>,
}

/// A provider has it, and will do what it can.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Accepted {
    /// What the provider calls it, for its status reports and its support.
    pub reference: Option<String>,
}

/// Why a provider does not have it, and so what to do. Texts never hold an address, a token or a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// Not now: it was not taken for sure. Try again, here or elsewhere, not before `after`.
    #[error("not now: {reason}")]
    Retry {
        /// What happened.
        reason: String,
        /// What the provider asked for.
        after: Option<Duration>,
    },
    /// No answer, or one that does not say: it may have been taken. Another try may be a second message.
    #[error("not known whether it was taken: {reason}")]
    Unknown {
        /// What happened.
        reason: String,
    },
    /// This message is never taken: too large, not allowed, refused by its content.
    #[error("refused: {reason}")]
    Refused {
        /// What the provider said.
        reason: String,
    },
    /// There is nobody at this address any more: forget it.
    #[error("nobody is there: {reason}")]
    Gone {
        /// What the provider said.
        reason: String,
    },
    /// The provider does not let us in: a wrong key, an account without money. Every message would fail.
    #[error("the provider refuses this account: {reason}")]
    Account {
        /// What the provider said.
        reason: String,
    },
}

/// One service that takes messages.
#[async_trait]
pub trait Provider: Send + Sync {
    /// Its name in metrics and attempts: `fcm`, `apns`, `web-push`, `smtp`, `ses`, `twilio`, `webhook`.
    fn name(&self) -> &'static str;

    /// The addresses it takes.
    fn way(&self) -> Way;

    /// Hands one message over. Takes no longer than the provider's time limit, which its settings have. Cancelling it leaves open whether it was taken.
    ///
    /// # Errors
    /// [`SendError`] says what to do next. An address of another kind is [`SendError::Refused`].
    async fn send(&self, to: &Address, message: &Outgoing) -> Result<Accepted, SendError>;
}

impl std::fmt::Debug for Address {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Address({:?})", self.way())
    }
}
