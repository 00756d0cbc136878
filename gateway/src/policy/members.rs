//! Namespaces whose channels have members: who is none may not subscribe, publish or read there, whatever else is allowed.
//!
//! The members themselves are kept by the message store; see `conversations`.

use switchboard_proto::channel::ChannelName;
use switchboard_service_kit::config::Section;

use super::{BROADCAST, Policy};

/// What holds for the members of a namespace's channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MembersRules {
    /// Who adds and removes, besides the server.
    pub(crate) changed_by: ChangedBy,
    /// A user may take a channel that nobody is in, as its owner.
    pub(crate) created_by_client: bool,
    /// Members of one channel, at most.
    pub(crate) limit: u64,
}

/// Who may add members and remove them. Everybody may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChangedBy {
    /// The server API alone.
    Server,
    /// Owners.
    Owners,
    /// Every member; only owners make owners, and remove them.
    Members,
}

impl MembersRules {
    /// `None`: the channels have no members.
    pub(super) fn read(section: &mut Section<'_>, is_durable: bool) -> Option<Self> {
        let has_members = section.boolean(
            "members",
            false,
            "Channels have members, and only these may subscribe, publish and read history, as far as the other keys allow. \
             Not channels with users behind a #. Needs a message store (persistence.store); see conversations.md.",
        );
        let changed_by = section.choice(
            "members_changed_by",
            &[
                ("server", ChangedBy::Server),
                ("owners", ChangedBy::Owners),
                ("members", ChangedBy::Members),
            ],
            "owners",
            "Who may add members and remove them, besides the server API. Everybody but with \"server\" may go.",
        );
        let created_by_client = section.boolean(
            "allow_create_for_client",
            false,
            "Users may add the first members of a channel that has none, and own it from then on.",
        );
        let limit = section.integer(
            "members_limit",
            10_000,
            1..=100_000,
            "Members of one channel, about, at most; further ones are refused with error 106.",
        );
        if has_members && !is_durable {
            section.fault(
                "members",
                "true, but what says who is a member is not stored (durable = false)",
                "remove one of the two",
            );
        }
        has_members.then_some(Self {
            changed_by,
            created_by_client,
            limit,
        })
    }
}

impl Policy {
    /// The rules of the channel's members; `None`: it has none.
    pub(crate) fn members_rules(&self, channel: &ChannelName) -> Option<MembersRules> {
        if channel.users().is_some() || channel.as_str() == BROADCAST {
            return None;
        }
        self.options(channel)?.members
    }

    /// Whether only members are let into the channel.
    pub(crate) fn is_for_members(&self, channel: &ChannelName) -> bool {
        !self.insecure && self.members_rules(channel).is_some()
    }
}

#[cfg(test)]
mod tests {
    use switchboard_service_kit::config::Document;

    use super::super::Bounds;
    use super::*;

    fn read(text: &str, insecure: bool) -> Result<Policy, String> {
        let mut document = Document::parse(text, []).unwrap();
        let bounds = Bounds {
            insecure,
            publish_size: 100,
            name_length: 255,
        };
        let policy = Policy::read(&mut document, bounds);
        document
            .finish()
            .map(|_| policy)
            .map_err(|faults| faults.to_string())
    }

    #[test]
    fn only_channels_of_such_namespaces_are_for_members() {
        let text = "[namespaces.room]\nmembers = true\n[namespaces.open]";
        let policy = read(text, false).unwrap();
        let channel = |name: &str| ChannelName::parse(name, 255).unwrap();
        for (name, expected) in [
            ("room:1", true),
            ("$room:1", true),
            ("room:#alice,bob", false),
            ("open:1", false),
            ("lobby", false),
            ("none:1", false),
            ("$broadcast", false),
        ] {
            assert_eq!(policy.is_for_members(&channel(name)), expected, "{name}");
        }
        let rules = policy.members_rules(&channel("room:1")).unwrap();
        let defaults = MembersRules {
            changed_by: ChangedBy::Owners,
            created_by_client: false,
            limit: 10_000,
        };
        assert_eq!(rules, defaults);
        let insecure = read(text, true).unwrap();
        assert!(!insecure.is_for_members(&channel("room:1")));
        assert!(insecure.members_rules(&channel("room:1")).is_some());
    }

    #[test]
    fn members_need_what_is_stored() {
        let faults = read("[namespaces.room]\nmembers = true\ndurable = false", false).unwrap_err();
        assert!(faults.contains("namespaces.room.members"), "{faults}");
    }
}
