//! Every rule of the decision, by table.

use switchboard_service_kit::config::Document;

use super::config::Bounds;
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

fn policy(text: &str) -> Policy {
    read(text, false).unwrap()
}

fn channel(name: &str) -> ChannelName {
    ChannelName::parse(name, 255).unwrap()
}

fn ask(policy: &Policy, action: Action, name: &str, user: &str, is_in: bool) -> Result<(), u32> {
    let decision = policy.decide(action, &channel(name), Asking { user, is_in });
    decision.outcome.map_err(ErrorCode::code)
}

const ALL: [Action; 4] = [
    Action::Subscribe,
    Action::Publish,
    Action::History,
    Action::Presence,
];

/// Everything that settings can allow.
const OPEN: &str = "
    allow_subscribe_for_client = true
    allow_subscribe_for_anonymous = true
    allow_publish_for_client = true
    allow_publish_for_anonymous = true
    allow_history_for_client = true
    allow_history_for_anonymous = true
    allow_presence_for_client = true
    allow_presence_for_anonymous = true
    allow_user_limited_channels = true
";

#[test]
fn without_a_setting_nothing_is_allowed() {
    let policy = policy("[namespaces.room]");
    for action in ALL {
        for (name, user) in [
            ("a", "alice"),
            ("room:1", "alice"),
            ("#alice", "alice"),
            ("$broadcast", ""),
            ("room:#alice", "alice"),
        ] {
            assert_eq!(
                ask(&policy, action, name, user, false),
                Err(103),
                "{action:?} {name}"
            );
        }
        assert_eq!(ask(&policy, action, "nowhere:1", "alice", false), Err(102));
        assert_eq!(
            ask(&policy, action, "nowhere:1", "alice", true),
            Err(102),
            "with a token too"
        );
    }
}

#[test]
fn settings_allow_to_clients_subscribers_and_anonymous_users_apart() {
    for (action, verb) in [
        (Action::Publish, "publish"),
        (Action::History, "history"),
        (Action::Presence, "presence"),
    ] {
        let client = policy(&format!("[channels]\nallow_{verb}_for_client = true"));
        assert_eq!(ask(&client, action, "a", "alice", false), Ok(()));
        assert_eq!(ask(&client, action, "a", "", true), Err(103), "anonymous");
        let subscriber = policy(&format!("[channels]\nallow_{verb}_for_subscriber = true"));
        assert_eq!(ask(&subscriber, action, "a", "alice", false), Err(103));
        assert_eq!(ask(&subscriber, action, "a", "alice", true), Ok(()));
        let anonymous = policy(&format!(
            "[channels]\nallow_{verb}_for_subscriber = true\nallow_{verb}_for_anonymous = true"
        ));
        assert_eq!(ask(&anonymous, action, "a", "", true), Ok(()));
        assert_eq!(ask(&anonymous, action, "a", "", false), Err(103));
        let alone = policy(&format!("[channels]\nallow_{verb}_for_anonymous = true"));
        assert_eq!(
            ask(&alone, action, "a", "", true),
            Err(103),
            "it widens, it does not allow"
        );
        // One action's settings say nothing of the others.
        for other in ALL.into_iter().filter(|other| *other != action) {
            assert_eq!(
                ask(&client, other, "a", "alice", false),
                Err(103),
                "{verb}: {other:?}"
            );
        }
    }
    let subscribe = policy("[channels]\nallow_subscribe_for_client = true");
    assert_eq!(ask(&subscribe, Action::Subscribe, "a", "alice", false), Ok(()));
    assert_eq!(ask(&subscribe, Action::Subscribe, "a", "", false), Err(103));
}

#[test]
fn each_namespace_has_its_own_settings() {
    let policy = policy(
        "[channels]\nallow_publish_for_client = true\n[namespaces.room]\nallow_subscribe_for_client = true\n[namespaces.news]",
    );
    assert_eq!(ask(&policy, Action::Subscribe, "room:1", "alice", false), Ok(()));
    assert_eq!(
        ask(&policy, Action::Subscribe, "news:1", "alice", false),
        Err(103)
    );
    assert_eq!(ask(&policy, Action::Subscribe, "1", "alice", false), Err(103));
    assert_eq!(ask(&policy, Action::Publish, "1", "alice", false), Ok(()));
    assert_eq!(
        ask(&policy, Action::Publish, "room:1", "alice", false),
        Err(103),
        "nothing is inherited"
    );
    assert_eq!(
        ask(&policy, Action::Subscribe, "rooms:1", "alice", false),
        Err(102)
    );
    assert_eq!(
        ask(&policy, Action::Subscribe, "Room:1", "alice", false),
        Err(102)
    );
}

#[test]
fn a_subscription_token_replaces_all_other_permissions_but_not_the_namespace() {
    let policy = policy("[namespaces.room]");
    for name in ["a", "room:1", "$room:1", "$a", "dm", "#bob", "room:#bob"] {
        assert_eq!(
            ask(&policy, Action::Subscribe, name, "alice", true),
            Ok(()),
            "{name}"
        );
        assert_eq!(
            ask(&policy, Action::Publish, name, "alice", true),
            Err(103),
            "{name}"
        );
    }
}

#[test]
fn private_channels_need_a_token_whatever_is_allowed() {
    let policy = policy(&format!("[channels]{OPEN}[namespaces.room]{OPEN}"));
    for name in ["$a", "$room:1", "$broadcast2"] {
        for action in ALL {
            assert_eq!(
                ask(&policy, action, name, "alice", false),
                Err(103),
                "{action:?} {name}"
            );
            // Subscribed, so with a token.
            assert_eq!(
                ask(&policy, action, name, "alice", true),
                Ok(()),
                "{action:?} {name}"
            );
        }
    }
}

#[test]
fn users_behind_a_hash_are_the_only_ones_whatever_is_allowed() {
    let open = policy(&format!("[channels]{OPEN}[namespaces.dm]{OPEN}"));
    for action in ALL {
        for user in ["alice", "bob"] {
            assert_eq!(
                ask(&open, action, "dm:#alice,bob", user, false),
                Ok(()),
                "{action:?} {user}"
            );
        }
        for user in ["eve", "", "alic", "alice,bob", "Alice"] {
            assert_eq!(
                ask(&open, action, "dm:#alice,bob", user, false),
                Err(103),
                "{action:?} {user}"
            );
        }
        assert_eq!(ask(&open, action, "#alice", "bob", false), Err(103));
    }
    // The users alone, nobody else, and no more than to subscribe.
    let limited = policy("[channels]\nallow_user_limited_channels = true");
    assert_eq!(ask(&limited, Action::Subscribe, "#alice", "alice", false), Ok(()));
    assert_eq!(ask(&limited, Action::Publish, "#alice", "alice", true), Err(103));
    assert_eq!(ask(&limited, Action::Subscribe, "a", "alice", false), Err(103));
    // $ and # together.
    assert_eq!(
        ask(&open, Action::Subscribe, "$dm:#alice", "alice", false),
        Err(103)
    );
}

#[test]
fn broadcast_needs_no_token_and_only_the_server_publishes() {
    let open = policy(&format!("[channels]{OPEN}"));
    assert_eq!(ask(&open, Action::Subscribe, "$broadcast", "", false), Ok(()));
    assert_eq!(ask(&open, Action::Publish, "$broadcast", "alice", true), Err(103));
    let from_clients =
        policy("[channels]\nallow_publish_to_broadcast = true\nallow_publish_for_client = true");
    assert_eq!(
        ask(&from_clients, Action::Publish, "$broadcast", "alice", false),
        Ok(())
    );
    let alone = policy("[channels]\nallow_publish_to_broadcast = true");
    assert_eq!(
        ask(&alone, Action::Publish, "$broadcast", "alice", false),
        Err(103)
    );
}

#[test]
fn insecure_allows_all_but_namespaces_that_are_unknown_where_some_are_known() {
    let everything = read("", true).unwrap();
    let some = read("[namespaces.room]", true).unwrap();
    for action in ALL {
        for name in ["a", "$a", "#bob", "$broadcast", "room:1"] {
            assert_eq!(
                ask(&everything, action, name, "", false),
                Ok(()),
                "{action:?} {name}"
            );
            assert_eq!(ask(&some, action, name, "", false), Ok(()), "{action:?} {name}");
        }
        assert_eq!(ask(&everything, action, "rooms:1", "", false), Ok(()));
        assert_eq!(ask(&some, action, "rooms:1", "", false), Err(102));
    }
}

#[test]
fn names_have_length_and_pattern_also_under_insecure_and_with_a_token() {
    let text = "[namespaces.room]\nchannel_length = 9\nchannel_pattern = \"[0-9]+|lobby\"";
    for insecure in [true, false] {
        let policy = read(text, insecure).unwrap();
        for name in ["room:x", "room:1x", "room:12345", "room:", "room:lobby1"] {
            assert_eq!(
                ask(&policy, Action::Subscribe, name, "alice", true),
                Err(107),
                "{name}"
            );
        }
        assert_eq!(
            ask(&policy, Action::Subscribe, "room:1234", "alice", true),
            Ok(())
        );
        assert_eq!(ask(&policy, Action::Subscribe, "anything", "alice", true), Ok(()));
    }
    let policy = read("[namespaces.room]\nchannel_pattern = \"lobby\"", true).unwrap();
    assert_eq!(ask(&policy, Action::Subscribe, "room:lobby", "", false), Ok(()));
}

#[test]
fn payloads_are_what_their_namespace_takes() {
    use switchboard_proto::bus::PayloadKind;
    let policy = policy(
        "[namespaces.json]\npublish_size = 10\nallow_control_characters = false\n[namespaces.bin]\n\
         publication_data_format = \"binary\"\n[namespaces.any]\npublication_data_format = \"any\"",
    );
    let check = |name: &str, data: &[u8], is_json| {
        let kind = if is_json || switchboard_proto::json::is_payload(data) {
            PayloadKind::Json
        } else {
            PayloadKind::Binary
        };
        policy
            .payload(&channel(name), data, kind, is_json)
            .map_err(|unfit| unfit.code.code())
    };
    assert_eq!(check("json:1", b"[1]", true), Ok(PayloadKind::Json));
    assert_eq!(check("json:1", b"[1]", false), Ok(PayloadKind::Json));
    for (data, code) in [
        (&b"boom"[..], 107),
        (b"\"\xff\"", 107),
        (b"", 107),
        (b"1 2", 107),
        (b"\"\\u0000\"", 107),
        (b"12345678901", 106),
    ] {
        assert_eq!(check("json:1", data, false), Err(code), "{data:?}");
    }
    assert_eq!(check("json:1", b"\"\\u0000\"", true), Err(107));
    assert_eq!(check("1", b"\"\\u0000\"", true), Ok(PayloadKind::Json));
    assert_eq!(check("1", &[b' '; 101], true), Err(106));
    assert_eq!(check("1", b"boom", false), Err(107), "JSON is the default");
    let deep = [vec![b'['; 40], vec![b']'; 40]].concat();
    assert_eq!(check("1", &deep, false), Ok(PayloadKind::Json));
    assert_eq!(check("bin:1", b"[1]", true), Err(107));
    assert_eq!(check("bin:1", b"\xff", false), Ok(PayloadKind::Binary));
    assert_eq!(check("any:1", b"\xff", false), Ok(PayloadKind::Binary));
    assert_eq!(check("any:1", b"[1]", true), Ok(PayloadKind::Json));
    assert_eq!(check("any:1", b"[1]", false), Ok(PayloadKind::Json));
    assert_eq!(check("bin:1", b"[1]", false), Ok(PayloadKind::Binary));
    assert_eq!(check("nowhere:1", b"1", true), Err(102));
}

#[test]
fn faults_name_the_namespace() {
    for (text, key) in [
        (
            "[namespaces.room]\nallow_publish = true",
            "namespaces.room.allow_publish",
        ),
        (
            "[namespaces.room]\npublish_size = 101",
            "namespaces.room.publish_size",
        ),
        (
            "[namespaces.room]\nchannel_length = 256",
            "namespaces.room.channel_length",
        ),
        (
            "[namespaces.room]\nchannel_pattern = \"(\"",
            "namespaces.room.channel_pattern",
        ),
        (
            "[namespaces.room]\nchannel_pattern = \"(a{1000}){1000}\"",
            "namespaces.room.channel_pattern",
        ),
        (
            "[namespaces.room]\nallow_publish_to_broadcast = true",
            "namespaces.room.allow_publish_to_broadcast",
        ),
        ("[namespaces.\"a b\"]", "namespaces.a b"),
        (
            "[channels]\npublication_data_format = \"xml\"",
            "channels.publication_data_format",
        ),
    ] {
        let faults = read(text, false).unwrap_err();
        assert!(faults.contains(key), "{text}: {faults}");
    }
}

#[test]
fn explanations_name_the_setting_that_decides() {
    let policy =
        policy("[namespaces.room]\nallow_subscribe_for_client = true\nallow_publish_for_subscriber = true");
    let text = policy.explain("alice", "room:1").unwrap();
    let line = |start: &str| {
        let found = text.lines().find(|line| {
            line.strip_prefix(start)
                .is_some_and(|rest| rest.starts_with("  "))
        });
        found.unwrap_or_else(|| panic!("{start} in {text}")).to_owned()
    };
    for (start, outcome, why) in [
        (
            "subscribe",
            "allowed",
            "namespaces.room.allow_subscribe_for_client is true",
        ),
        (
            "publish",
            "error 103",
            "namespaces.room.allow_publish_for_subscriber is true, but not subscribed",
        ),
        (
            "publish when subscribed",
            "allowed",
            "namespaces.room.allow_publish_for_subscriber is true",
        ),
        (
            "history when subscribed",
            "error 103",
            "namespaces.room.allow_history_for_client is false",
        ),
    ] {
        let line = line(start);
        assert!(line.contains(outcome) && line.ends_with(why), "{line}");
    }
    let anonymous = policy.explain("", "room:1").unwrap();
    assert!(
        anonymous.contains("allow_subscribe_for_anonymous is false, and the user is anonymous"),
        "{anonymous}"
    );
    assert!(
        policy
            .explain("alice", "nowhere:1")
            .unwrap()
            .contains("error 102")
    );
    assert!(policy.explain("alice", "a b").is_err());
}
