//! Who may tell others that he types.

use switchboard_proto::channel::ChannelName;
use switchboard_proto::codes::ErrorCode;

use super::{Action, Asking, Policy};

impl Policy {
    /// Whether a user may tell a channel's subscribers that he types: where it is on, he is one of them, and may publish.
    ///
    /// # Errors
    /// [`ErrorCode::UnknownChannel`]; [`ErrorCode::NotAvailable`] where the namespace has it off; [`ErrorCode::PermissionDenied`],
    /// also of anonymous users: nobody could tell who it is.
    pub(crate) fn may_type(&self, channel: &ChannelName, who: Asking<'_>) -> Result<(), ErrorCode> {
        let options = self.options(channel).ok_or(ErrorCode::UnknownChannel)?;
        if !options.typing {
            return Err(ErrorCode::NotAvailable);
        }
        if who.user.is_empty() || !who.is_in {
            return Err(ErrorCode::PermissionDenied);
        }
        self.decide(Action::Publish, channel, who).outcome
    }
}

#[cfg(test)]
mod tests {
    use switchboard_service_kit::config::Document;

    use super::super::Bounds;
    use super::*;

    fn policy(insecure: bool) -> Policy {
        let text = "[namespaces.room]\nallow_publish_for_subscriber = true\n\
                    [namespaces.quiet]\nallow_publish_for_client = true\ntyping = false\n[namespaces.news]";
        let mut document = Document::parse(text, []).unwrap();
        let bounds = Bounds {
            insecure,
            publish_size: 100,
            name_length: 255,
        };
        let policy = Policy::read(&mut document, bounds);
        document.finish().unwrap();
        policy
    }

    #[test]
    fn who_is_subscribed_and_may_publish_may() {
        let policy = policy(false);
        let may = |channel: &str, user, is_in| {
            let channel = ChannelName::parse(channel, 255).unwrap();
            policy.may_type(&channel, Asking { user, is_in })
        };
        assert_eq!(may("room:1", "alice", true), Ok(()));
        assert_eq!(may("room:#alice,bob", "alice", true), Ok(()));
        let denied = Err(ErrorCode::PermissionDenied);
        assert_eq!(may("room:1", "alice", false), denied, "not subscribed");
        assert_eq!(may("room:1", "", true), denied, "anonymous");
        assert_eq!(may("news:1", "alice", true), denied, "only reads");
        assert_eq!(may("$broadcast", "alice", true), denied);
        assert_eq!(may("quiet:1", "alice", true), Err(ErrorCode::NotAvailable), "off");
        assert_eq!(may("none:1", "alice", true), Err(ErrorCode::UnknownChannel));
    }

    #[test]
    fn where_all_is_allowed_it_still_takes_a_user_and_a_subscription() {
        let policy = policy(true);
        let channel = ChannelName::parse("news:1", 255).unwrap();
        for (user, is_in, expected) in [
            ("alice", true, Ok(())),
            ("alice", false, Err(ErrorCode::PermissionDenied)),
            ("", true, Err(ErrorCode::PermissionDenied)),
        ] {
            assert_eq!(
                policy.may_type(&channel, Asking { user, is_in }),
                expected,
                "{user} {is_in}"
            );
        }
    }
}
