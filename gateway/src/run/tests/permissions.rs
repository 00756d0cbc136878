//! The policy on a real socket. What it allows needs shard owners, and is seen in whole-system tests.

use serde_json::json;

use super::harness::Node;
use super::tokens::{SECRET, connected, reply, send};

#[tokio::test]
async fn commands_that_are_not_allowed_are_refused_with_the_reason_s_code() {
    let node = Node::start(&format!(
        "answer_timeout = \"500ms\"\n[gateway.tokens]\nhmac_secret = \"{SECRET}\"\n\
         [namespaces.room]\nallow_subscribe_for_client = true\nallow_publish_for_subscriber = true\n\
         channel_pattern = \"[0-9]+\"\npublish_size = 10\nallow_control_characters = false"
    ))
    .await;
    let mut client = connected(&node, json!({"sub": "alice"})).await;
    let table = [
        ("subscribe", json!({"channel": "nowhere:1"}), 102),
        ("subscribe", json!({"channel": "plain"}), 103),
        ("subscribe", json!({"channel": "$room:1"}), 103),
        ("subscribe", json!({"channel": "room:lobby"}), 107),
        ("publish", json!({"channel": "room:1", "data": 1}), 103),
        ("publish", json!({"channel": "nowhere:1", "data": 1}), 102),
        ("publish", json!({"channel": "$broadcast", "data": 1}), 103),
        // Allowed, and nobody there to do it: no shard has an owner here.
        ("subscribe", json!({"channel": "room:1"}), 100),
    ];
    for (id, (command, request, code)) in (2..).zip(table) {
        send(&mut client, id, command, request.clone()).await;
        assert_eq!(
            reply(&mut client, id, "error").await["code"],
            code,
            "{command} {request}"
        );
    }
    // While it is asked for, the client counts as subscribed; its answer comes last.
    send(&mut client, 20, "subscribe", json!({"channel": "room:1"})).await;
    for (id, data, code) in [(21, "1234567890", 106), (22, "\u{1}", 107)] {
        send(
            &mut client,
            id,
            "publish",
            json!({"channel": "room:1", "data": data}),
        )
        .await;
        assert_eq!(reply(&mut client, id, "error").await["code"], code, "{data:?}");
    }
    assert_eq!(reply(&mut client, 20, "error").await["code"], 100);
    client.assert_lives().await;
}
