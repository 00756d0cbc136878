//! The decisions about one user and one channel, for an operator to read.

use std::fmt::Write as _;

use switchboard_proto::channel::{ChannelName, InvalidChannel, MAX_CHANNEL_LENGTH};

use super::{Action, Asking, Policy};

impl Policy {
    /// What `user` (empty: anonymous) may do in `channel`, one line for each action, each with what
    /// decides it.
    ///
    /// # Errors
    /// [`InvalidChannel`]: clients would be answered with error 107.
    pub fn explain(&self, user: &str, channel: &str) -> Result<String, InvalidChannel> {
        let channel = ChannelName::parse(channel, MAX_CHANNEL_LENGTH)?;
        let mut text = String::new();
        for (action, is_in, words) in [
            (Action::Subscribe, false, "subscribe"),
            (Action::Subscribe, true, "subscribe with a token for it"),
            (Action::Publish, false, "publish"),
            (Action::Publish, true, "publish when subscribed"),
            (Action::History, false, "history"),
            (Action::History, true, "history when subscribed"),
            (Action::Presence, false, "presence"),
            (Action::Presence, true, "presence when subscribed"),
        ] {
            let decision = self.decide(action, &channel, Asking { user, is_in });
            let outcome = match decision.outcome {
                Ok(()) => "allowed".to_owned(),
                Err(code) => format!("error {}", code.code()),
            };
            let written = writeln!(text, "{words:<30} {outcome:<10} {decision}");
            debug_assert!(written.is_ok(), "a string takes every write");
        }
        Ok(text)
    }
}
