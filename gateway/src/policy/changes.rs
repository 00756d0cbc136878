//! Who may change what was published in a namespace.

use std::time::Duration;

use switchboard_proto::channel::ChannelName;
use switchboard_proto::codes::ErrorCode;

use super::{Action, Asking, Policy};

/// What somebody wants to do to a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Changing {
    Edit,
    Delete,
    React,
}

/// The settings of a namespace about changes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Changes {
    pub(super) allowed: bool,
    /// Who is subscribed may react without being allowed to publish.
    pub(super) subscribers_react: bool,
    /// Zero: for ever.
    pub(super) edit_within: Duration,
    pub(super) delete_within: Duration,
}

impl Policy {
    /// Whether a user may change messages of the channel so, as far as that does not depend on the message.
    ///
    /// # Errors
    /// [`ErrorCode::UnknownChannel`]; [`ErrorCode::NotAvailable`] where the namespace has no changes;
    /// [`ErrorCode::PermissionDenied`].
    pub(crate) fn may_change(
        &self,
        changing: Changing,
        channel: &ChannelName,
        who: Asking<'_>,
    ) -> Result<(), ErrorCode> {
        let options = self.options(channel).ok_or(ErrorCode::UnknownChannel)?;
        if !options.changes.allowed && !self.insecure {
            return Err(ErrorCode::NotAvailable);
        }
        // Nobody can tell whose it was.
        if who.user.is_empty() {
            return Err(ErrorCode::PermissionDenied);
        }
        if changing == Changing::React && options.changes.subscribers_react && who.is_in {
            return Ok(());
        }
        self.decide(Action::Publish, channel, who).outcome
    }

    /// For how long after it was published a message may be changed so by who sent it; `None`: for ever.
    pub(crate) fn changes_within(&self, changing: Changing, channel: &ChannelName) -> Option<Duration> {
        let changes = &self.options(channel)?.changes;
        let within = match changing {
            Changing::Edit => changes.edit_within,
            Changing::Delete => changes.delete_within,
            Changing::React => Duration::ZERO,
        };
        (within > Duration::ZERO).then_some(within)
    }
}
