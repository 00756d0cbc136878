//! The sections `[channels]` and `[namespaces.NAME]`.

use std::collections::BTreeMap;
use std::time::Duration;

use regex::RegexBuilder;
use switchboard_service_kit::config::{Document, Section};

use super::changes::Changes;
use super::{DataFormat, MembersRules, Options, Permission, Policy, PresenceRules};

/// The longest time that may be configured for changes.
const CHANGED_WITHIN: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// Bytes that a compiled pattern may take.
const PATTERN_SIZE: usize = 256 * 1024;

/// What `[gateway]` says, and what namespaces cannot widen.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) insecure: bool,
    /// Bytes of a publication's data.
    pub(crate) publish_size: u64,
    /// Bytes of a channel's name.
    pub(crate) name_length: u64,
}

impl Policy {
    /// Reads the sections.
    pub(crate) fn read(document: &mut Document, bounds: Bounds) -> Self {
        let mut channels = document.section("channels");
        let without_namespace = Options::read("channels", &mut channels, bounds);
        let broadcast_from_clients = channels.boolean(
            "allow_publish_to_broadcast",
            false,
            "The publish settings of this section hold for $broadcast too; else only the server publishes to it.",
        );
        let mut namespaces = BTreeMap::new();
        for name in document.names("namespaces") {
            let path = format!("namespaces.{name}");
            let options = Options::read(&path, &mut document.section(&path), bounds);
            namespaces.insert(name, options);
        }
        Self {
            insecure: bounds.insecure,
            without_namespace,
            namespaces,
            broadcast_from_clients,
        }
    }
}

impl Options {
    fn read(path: &str, section: &mut Section<'_>, bounds: Bounds) -> Self {
        let subscribe = Permission {
            client: section.boolean(
                "allow_subscribe_for_client",
                false,
                "Users may subscribe. Whoever has a subscription token may anyhow.",
            ),
            subscriber: false,
            anonymous: section.boolean(
                "allow_subscribe_for_anonymous",
                false,
                "Anonymous users too, where users may.",
            ),
        };
        let publish = Permission {
            client: section.boolean("allow_publish_for_client", false, "Users may publish."),
            subscriber: section.boolean(
                "allow_publish_for_subscriber",
                false,
                "Users who are subscribed may publish.",
            ),
            anonymous: section.boolean(
                "allow_publish_for_anonymous",
                false,
                "Anonymous users too, where users may.",
            ),
        };
        let history = Permission {
            client: section.boolean(
                "allow_history_for_client",
                false,
                "Users may read what was published.",
            ),
            subscriber: section.boolean(
                "allow_history_for_subscriber",
                false,
                "Users who are subscribed may read what was published.",
            ),
            anonymous: section.boolean(
                "allow_history_for_anonymous",
                false,
                "Anonymous users too, where users may.",
            ),
        };
        let presence = Permission {
            client: section.boolean("allow_presence_for_client", false, "Users may ask who is there."),
            subscriber: section.boolean(
                "allow_presence_for_subscriber",
                false,
                "Users who are subscribed may ask who is there.",
            ),
            anonymous: section.boolean(
                "allow_presence_for_anonymous",
                false,
                "Anonymous users too, where users may.",
            ),
        };
        let user_limited = section.boolean(
            "allow_user_limited_channels",
            false,
            "The users behind the # of a channel's name may subscribe to it. Others may not in any case.",
        );
        let data_format = section.choice(
            "publication_data_format",
            &[
                ("json", DataFormat::Json),
                ("binary", DataFormat::Binary),
                ("any", DataFormat::Any),
            ],
            "json",
            "What clients may publish; anything else is refused with error 107. A subscriber in the JSON encoding is \
             disconnected by data that is not JSON.",
        );
        let publish_size = section.bytes(
            "publish_size",
            bounds.publish_size,
            1..=bounds.publish_size.max(1),
            "Bytes of a publication's data, at most; up to gateway.publish_size, which is the default. Over it the \
             publish is refused with error 106.",
        );
        let control_characters = section.boolean(
            "allow_control_characters",
            true,
            "JSON that clients publish may hold control characters other than tab and line breaks; else it is refused with \
             error 107.",
        );
        let durable = section.boolean(
            "durable",
            true,
            "Publications are stored before they are delivered, and can be recovered; else they are delivered to whoever \
             is there, and may be lost.",
        );
        let members = MembersRules::read(section, durable);
        let presence_rules = PresenceRules {
            presence: section.boolean("presence", false, "It is known who is in a channel, and can be asked for."),
            join_leave: section.boolean(
                "join_leave",
                false,
                "Who joins and leaves a channel is told to subscribers who ask for it and may ask who is there.",
            ),
            force_push_join_leave: section.boolean(
                "force_push_join_leave",
                false,
                "It is told to all subscribers, whether they ask for it or not.",
            ),
        };
        let name_length = section.integer(
            "channel_length",
            bounds.name_length,
            1..=bounds.name_length.max(1),
            "Bytes of a channel's whole name, at most; up to gateway.channel_name_length, which is the default.",
        );
        let changes = Changes {
            allowed: section.boolean(
                "allow_message_changes",
                false,
                "Users may edit and delete what they sent, and react to messages, where they may publish. Anonymous users may \
                 not in any case.",
            ),
            subscribers_react: section.boolean(
                "allow_reactions_for_subscriber",
                false,
                "Users who are subscribed may react to messages also where they may not publish.",
            ),
            edit_within: section.duration(
                "edit_within",
                Duration::ZERO,
                Duration::ZERO..=CHANGED_WITHIN,
                "How long after it was published a message may be edited by who sent it. 0s: without a limit.",
            ),
            delete_within: section.duration(
                "delete_within",
                Duration::ZERO,
                Duration::ZERO..=CHANGED_WITHIN,
                "How long after it was published a message may be deleted by who sent it. 0s: without a limit.",
            ),
        };
        let typing = section.boolean(
            "typing",
            true,
            "Users who are subscribed and may publish may tell the others that they are typing.",
        );
        let pattern = section.optional_text(
            "channel_pattern",
            "Regular expression that what follows the namespace in a channel's name has to match as a whole.",
        );
        let name_pattern = pattern.and_then(|pattern| {
            let whole = RegexBuilder::new(&format!("^(?:{pattern})$"))
                .size_limit(PATTERN_SIZE)
                .build();
            whole
                .map_err(|error| {
                    let problem = format!("not a regular expression: {error}").replace('\n', " ");
                    section.fault("channel_pattern", problem, "correct it, or remove the key");
                })
                .ok()
        });
        Self {
            section: path.to_owned(),
            subscribe,
            publish,
            history,
            presence,
            user_limited,
            name_length: usize::try_from(name_length).unwrap_or(usize::MAX),
            name_pattern,
            data_format,
            publish_size: usize::try_from(publish_size).unwrap_or(usize::MAX),
            control_characters,
            durable,
            members,
            presence_rules,
            changes,
            typing,
        }
    }
}
