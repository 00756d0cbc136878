//! What the service deals in: notifications, their deliveries, and where users are told.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use switchboard_proto::ids::{LogEpoch, Offset, ShardId};
use switchboard_proto::notifications as wire;
use uuid::Uuid;

/// Microseconds of a duration, such that adding them to a time does not overflow.
pub(crate) fn us(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX / 4)
}

/// A way to tell somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// In the app: the list of what a user was told, and at once where the user is connected.
    InApp,
    /// To apps and browsers.
    Push,
    /// By mail.
    Email,
    /// To a phone.
    Sms,
    /// To a server of the application.
    Webhook,
}

impl Way {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::InApp, Self::Push, Self::Email, Self::Sms, Self::Webhook];

    /// As everybody writes it.
    pub fn word(self) -> &'static str {
        match self {
            Self::InApp => "in_app",
            Self::Push => "push",
            Self::Email => "email",
            Self::Sms => "sms",
            Self::Webhook => "webhook",
        }
    }

    /// The way of this name.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|way| way.word() == word)
    }

    /// As stores write it.
    pub(crate) fn number(self) -> i32 {
        match self {
            Self::InApp => 0,
            Self::Push => 1,
            Self::Email => 2,
            Self::Sms => 3,
            Self::Webhook => 4,
        }
    }

    pub(crate) fn of(number: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|way| way.number() == number)
    }
}

impl fmt::Display for Way {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.word())
    }
}

/// How much it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Priority {
    /// It can wait.
    Low,
    /// As most.
    #[default]
    Normal,
    /// Before others.
    High,
    /// Before all others, and where its category says so also against quiet hours and mutes.
    Critical,
}

impl Priority {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Low, Self::Normal, Self::High, Self::Critical];

    /// As everybody writes it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Normal => "normal",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }

    /// The priority of this name.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|priority| priority.word() == word)
    }

    /// Microseconds of waiting that the priority is worth: what waited for so much longer goes first, whatever its priority, so nothing
    /// starves.
    pub(crate) fn advance_us(self) -> u64 {
        const SECOND: u64 = 1_000_000;
        match self {
            Self::Low => 0,
            Self::Normal => 10 * SECOND,
            Self::High => 60 * SECOND,
            Self::Critical => 600 * SECOND,
        }
    }
}

/// A message of a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Said {
    /// Of its channel.
    pub shard: ShardId,
    /// The life of the shard's log.
    pub log: LogEpoch,
    /// Its place.
    pub offset: Offset,
}

/// What one user is to be told, as it is kept.
#[derive(Debug, Clone, PartialEq)]
pub struct Notification {
    /// Its id, version 7.
    pub id: Uuid,
    /// What was asked for. The user, the category and the key stand in it.
    pub content: wire::Notification,
    /// The message that it is about.
    pub said: Option<Said>,
    /// Unix microseconds, as are all times here; 0: never.
    pub created_us: u64,
    /// After this nobody wants it any more; 0: no end.
    pub expires_us: u64,
    /// Since when it is shown in the app.
    pub shown_us: u64,
    /// When the user saw it there.
    pub seen_us: u64,
    /// When the user read it there.
    pub read_us: u64,
}

/// What an escalation's step waits for in vain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Unless {
    /// It is no step of an escalation.
    #[default]
    Never,
    /// It is told unless the notification was seen.
    Seen,
    /// It is told unless the notification was read.
    Read,
}

impl Unless {
    pub(crate) fn number(self) -> i32 {
        match self {
            Self::Never => 0,
            Self::Seen => 1,
            Self::Read => 2,
        }
    }

    pub(crate) fn of(number: i32) -> Option<Self> {
        [Self::Never, Self::Seen, Self::Read]
            .into_iter()
            .find(|unless| unless.number() == number)
    }
}

/// How far a delivery is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// To be sent.
    Queued,
    /// Somebody sends it, or died of it.
    Sending,
    /// To be sent later, for a reason.
    Held,
    /// A provider has it.
    Sent,
    /// The provider says that it arrived.
    Delivered,
    /// It will not arrive: a dead letter.
    Failed,
    /// Taken back.
    Cancelled,
    /// Not wanted.
    Suppressed,
}

impl State {
    const ALL: [Self; 8] = [
        Self::Queued,
        Self::Sending,
        Self::Held,
        Self::Sent,
        Self::Delivered,
        Self::Failed,
        Self::Cancelled,
        Self::Suppressed,
    ];

    pub(crate) fn number(self) -> i32 {
        match self {
            Self::Queued => 0,
            Self::Sending => 1,
            Self::Held => 2,
            Self::Sent => 3,
            Self::Delivered => 4,
            Self::Failed => 5,
            Self::Cancelled => 6,
            Self::Suppressed => 7,
        }
    }

    pub(crate) fn of(number: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.number() == number)
    }

    /// As who asks is told it. What is being sent is queued until it is known to be sent.
    pub fn word(self) -> &'static str {
        match self {
            Self::Queued | Self::Sending => "queued",
            Self::Held => "held",
            Self::Sent => "sent",
            Self::Delivered => "delivered",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Suppressed => "suppressed",
        }
    }

    /// Whether something may still happen to it.
    pub fn is_waiting(self) -> bool {
        self <= Self::Held
    }
}

/// Why a delivery waits that is told together with others.
pub const TOGETHER: &str = "told together with others";

/// One notification on one way to one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Its id, version 7.
    pub id: Uuid,
    /// Of what.
    pub notification: Uuid,
    /// To whom.
    pub user: String,
    /// How.
    pub way: Way,
    /// Empty: not chosen yet, or in the app.
    pub device: String,
    /// What it waits for in vain.
    pub unless: Unless,
    /// How far it is.
    pub state: State,
    /// Why.
    pub reason: String,
    /// See [`Priority::advance_us`].
    pub advance_us: u64,
    /// When it is to be sent.
    pub due_us: u64,
    /// Tries that were made.
    pub attempts: u32,
    /// Claims since it was settled last, the present one included.
    pub claims: u32,
    /// What is told together.
    pub digest: Option<String>,
}

/// What became of a try.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// The provider has it.
    Accepted,
    /// Not taken: again later.
    Retry,
    /// Perhaps taken.
    Unknown,
    /// Never taken.
    Refused,
    /// Nobody is there.
    Gone,
    /// The provider does not let us in.
    Account,
}

impl Outcome {
    const ALL: [Self; 6] = [
        Self::Accepted,
        Self::Retry,
        Self::Unknown,
        Self::Refused,
        Self::Gone,
        Self::Account,
    ];

    /// As everybody writes it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Retry => "retry",
            Self::Unknown => "unknown",
            Self::Refused => "refused",
            Self::Gone => "gone",
            Self::Account => "account",
        }
    }

    pub(crate) fn number(self) -> i32 {
        match self {
            Self::Accepted => 0,
            Self::Retry => 1,
            Self::Unknown => 2,
            Self::Refused => 3,
            Self::Gone => 4,
            Self::Account => 5,
        }
    }

    pub(crate) fn of(number: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|outcome| outcome.number() == number)
    }
}

/// One try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// When it began.
    pub time_us: u64,
    /// Who was asked: `fcm`, `smtp`, …; `in_app` for our own.
    pub provider: String,
    /// What became of it.
    pub outcome: Outcome,
    /// What was said.
    pub reason: String,
    /// What the provider calls it.
    pub reference: String,
    /// How long it took.
    pub latency_ms: u64,
}

/// Where a user is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Chosen by who registered it.
    pub id: String,
    /// The way that it belongs to.
    pub way: Way,
    /// `fcm`, `apns`, `web_push`, `email`, `sms` or `webhook`.
    pub provider: String,
    /// What no two devices have: a token, a push endpoint.
    pub token: Option<String>,
    /// Where it is.
    pub address: Target,
    /// When it was registered.
    pub registered_us: u64,
    /// Since when nothing gets through; 0: it works.
    pub failing_us: u64,
    /// Nothing is sent there any more.
    pub disabled: bool,
}

/// Where a device is, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// A registration token.
    Fcm(String),
    /// A device token.
    Apns(String),
    /// A browser's subscription.
    WebPush {
        /// The URL of its push service.
        endpoint: String,
        /// Its key.
        p256dh: String,
        /// Its secret.
        auth: String,
    },
    /// A mailbox.
    Email(String),
    /// A phone number.
    Sms(String),
    /// A server of the application.
    Webhook {
        /// Its URL.
        url: String,
        /// What signs.
        secret: String,
        /// What signed before, and until when it still does.
        old: Option<(String, u64)>,
    },
}
