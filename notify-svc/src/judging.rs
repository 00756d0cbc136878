//! Whether a delivery is sent now, later or not at all: asked right before each send, for since it was queued the user may have come
//! back, read the message, muted the conversation or gone to bed. No I/O and no clock.

use crate::config::{Category, Tell};
use crate::model::{Notification, Priority, Unless, Way};
use crate::preferences::Preferences;
use crate::quiet_hours::{self, QuietHours};
use crate::store::{Claimed, Facts};

/// Microseconds of an hour.
pub(crate) const HOUR_US: u64 = 3_600_000_000;

/// Whether a user is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Here {
    /// Connected and active, or busy.
    Online,
    /// Connected and quiet.
    Away,
    /// Not connected.
    Offline,
}

/// What is known of the message that a notification is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Message {
    /// The user has read it.
    pub(crate) is_read: bool,
    /// The user is not, or no longer, in its channel.
    pub(crate) is_strange: bool,
    /// It is gone.
    pub(crate) is_gone: bool,
}

/// What a verdict is made of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Circumstances<'a> {
    /// Unix microseconds.
    pub(crate) now_us: u64,
    /// What holds for its category.
    pub(crate) category: &'a Category,
    /// What is known of the user.
    pub(crate) facts: &'a Facts,
    /// How the user wants to be told.
    pub(crate) preferences: &'a Preferences,
    /// `None`: it is not known, or does not matter.
    pub(crate) here: Option<Here>,
    /// `None`: it is about no message.
    pub(crate) message: Option<Message>,
    /// What of its category and way was sent to the user in this hour.
    pub(crate) sent: u64,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is sent.
    Send,
    /// It is asked again then.
    Hold {
        /// Unix microseconds.
        until_us: u64,
        /// In words for who asks what became of it.
        reason: &'static str,
    },
    /// It is not sent, for this reason.
    Suppress(&'static str),
}

/// The priority of a notification.
pub(crate) fn priority(notification: &Notification, category: &Category) -> Priority {
    Priority::from_word(&notification.content.priority).unwrap_or(category.priority)
}

/// What is done with a delivery. What ends it for good comes before what only puts it off.
pub(crate) fn judge(claimed: &Claimed, circumstances: &Circumstances<'_>) -> Verdict {
    let Circumstances {
        now_us,
        category,
        facts,
        preferences,
        ..
    } = *circumstances;
    let (delivery, notification) = (&claimed.delivery, &*claimed.notification);
    let content = &notification.content;
    if notification.expires_us > 0 && notification.expires_us <= now_us {
        return Verdict::Suppress("expired");
    }
    match delivery.unless {
        Unless::Seen if notification.seen_us > 0 => return Verdict::Suppress("seen"),
        Unless::Read if notification.read_us > 0 => return Verdict::Suppress("read"),
        Unless::Never | Unless::Seen | Unless::Read => {}
    }
    if let Some(message) = circumstances.message {
        if message.is_gone {
            return Verdict::Suppress("the message is gone");
        }
        if message.is_strange {
            return Verdict::Suppress("not in the channel");
        }
        if message.is_read {
            return Verdict::Suppress("read");
        }
    }
    let overrides = category.overrides && priority(notification, category) == Priority::Critical;
    if !overrides {
        if !preferences.wants(&content.category, delivery.way) {
            return Verdict::Suppress("preferences");
        }
        let muted = facts.mutes.get(&content.conversation);
        if !content.conversation.is_empty() && muted.is_some_and(|until| *until == 0 || *until > now_us) {
            return Verdict::Suppress("muted");
        }
    }
    if delivery.way == Way::InApp {
        return Verdict::Send;
    }
    let is_here = match (category.tell, circumstances.here) {
        (Tell::Away, Some(Here::Online)) | (Tell::Offline, Some(Here::Online | Here::Away)) => true,
        (Tell::Always | Tell::Away | Tell::Offline, _) => false,
    };
    if is_here {
        return Verdict::Suppress("was here");
    }
    if delivery.way != Way::Webhook && !overrides {
        let quiet = quiet_until(&preferences.quiet_hours, preferences, now_us);
        if let Some(until_us) = quiet {
            return Verdict::Hold {
                until_us,
                reason: "quiet hours",
            };
        }
    }
    if category.hourly > 0 && circumstances.sent >= category.hourly && !overrides {
        return Verdict::Hold {
            until_us: (now_us / HOUR_US + 1) * HOUR_US,
            reason: "hourly limit",
        };
    }
    Verdict::Send
}

fn quiet_until(quiet: &[QuietHours], preferences: &Preferences, now_us: u64) -> Option<u64> {
    match quiet {
        [] => None,
        quiet => quiet_hours::ends_us_of(quiet, &preferences.zone()?, now_us),
    }
}

#[cfg(test)]
mod tests;
