//! What clients are told about the gateway itself.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use switchboard_proto::client::Reply;

use super::harness::{Client, DEADLINE, Node};
use super::tokens::{SECRET, token};
use crate::system_message::{SystemMessage, Target, millis};

fn maintenance(text: &str) -> SystemMessage {
    SystemMessage::Maintenance {
        text: text.to_owned(),
        at: 1,
    }
}

fn pushed(text: &str) -> Value {
    json!({ "push": { "message": { "data": { "system": { "type": "maintenance", "text": text, "at": 1 } } } } })
}

/// What a Protobuf client is told.
fn told(reply: Reply) -> Value {
    let message = reply.push.unwrap().message.unwrap();
    serde_json::from_slice(&message.data).unwrap()
}

/// A client whose `connect` was answered, and its connection's id.
async fn user(node: &Node, name: &str) -> (Client, uuid::Uuid) {
    let mut client = node.client().await;
    let connect = json!({ "id": 1, "connect": { "token": token(&json!({ "sub": name })) } });
    client.send(&connect.to_string()).await;
    let reply = client.json().await;
    let id = reply["connect"]["client"].as_str().unwrap().parse().unwrap();
    (client, id)
}

#[tokio::test]
async fn a_connection_a_user_or_everybody_is_told() {
    let node = Node::start(&format!("tokens.hmac_secret = \"{SECRET}\"")).await;
    let (mut alice, client) = user(&node, "alice").await;
    let (mut alice_too, _) = user(&node, "alice").await;
    let (mut bob, _) = user(&node, "bob").await;
    let tell = |target, text: &str| node.gateway.tell(target, &maintenance(text));
    assert_eq!(tell(Target::User("alice"), "to alice"), 2);
    assert_eq!(tell(Target::User("carol"), "to nobody"), 0);
    assert_eq!(tell(Target::Session(client), "to one"), 1);
    assert_eq!(tell(Target::Session(uuid::Uuid::nil()), "to none"), 0);
    assert_eq!(tell(Target::Everybody, "to all"), 3);
    for text in ["to alice", "to one", "to all"] {
        assert_eq!(alice.json().await, pushed(text));
    }
    for text in ["to alice", "to all"] {
        assert_eq!(alice_too.json().await, pushed(text));
    }
    assert_eq!(bob.json().await, pushed("to all"));
    // Who is gone is not found.
    drop(alice_too);
    node.until("switchboard_gateway_connections", 2).await;
    assert_eq!(tell(Target::User("alice"), "again"), 1);
    assert_eq!(node.gateway.policy_changed("new rules".to_owned()), 2);
    let changed = json!({ "system": { "type": "policy_changed", "text": "new rules" } });
    assert_eq!(
        bob.json().await,
        json!({ "push": { "message": { "data": changed } } })
    );
}

#[tokio::test]
async fn who_stops_tells_everybody_when_before_it_asks_them_to_come_back() {
    let node = Node::insecure("drain_spread = \"300ms\"").await;
    let mut text = node.connected().await;
    let mut binary = node.protobuf_connected().await;
    let mut silent = node.client().await;
    let begun = millis(SystemTime::now());
    let read = async {
        let from_text = text.json().await["push"]["message"]["data"].take();
        let from_binary = told(binary.protobuf_reply().await);
        for told in [from_text, from_binary] {
            assert_eq!(told["system"]["type"], "maintenance");
            assert!(!told["system"]["text"].as_str().unwrap().is_empty());
            let at = told["system"]["at"].as_u64().unwrap();
            let latest = millis(SystemTime::now()) + 300;
            assert!((begun..=latest).contains(&at), "{begun} {at} {latest}");
        }
        for client in [&mut text, &mut binary] {
            assert_eq!(client.closed().await, (3001, "shutdown".to_owned()));
        }
        let end = silent.closed_without_reply().await;
        assert_eq!(end, (3001, "shutdown".to_owned()), "who never connected");
    };
    let (stopped, ()) = tokio::join!(node.context.tasks.stop(DEADLINE), read);
    assert!(stopped.forced.is_empty(), "{stopped:?}");
}

#[tokio::test]
async fn they_can_be_switched_off() {
    let node =
        Node::insecure("system_messages = false\ndrain_spread = \"0s\"\nchannels_per_connection = 1").await;
    let mut client = node.connected().await;
    assert_eq!(node.gateway.tell(Target::Everybody, &maintenance("x")), 0);
    client.send(r#"{"id":2,"subscribe":{"channel":"a"}}"#).await;
    client.send(r#"{"id":3,"unsubscribe":{"channel":"a"}}"#).await;
    loop {
        let reply = client.json().await;
        assert_eq!(reply.get("push"), None, "{reply}");
        if reply["id"] == 3 {
            break;
        }
    }
    let (stopped, end) = tokio::join!(
        node.context.tasks.stop(Duration::from_secs(5)),
        client.closed_without_reply()
    );
    assert_eq!(end.0, 3001);
    assert!(stopped.forced.is_empty(), "{stopped:?}");
}

/// There is no owner, so that subscriptions are held and not answered.
#[tokio::test]
async fn who_is_near_a_limit_is_told_once() {
    let node = Node::insecure(
        "channels_per_connection = 10\n[gateway.limits]\ncommand_rate = 1\ncommand_burst = 20\ncommand_refusals = 50",
    )
    .await;
    let near = |limit: &str, used: u64, of: u64| {
        let system = json!({ "type": "limit_near", "limit": limit, "used": used, "of": of });
        json!({ "push": { "message": { "data": { "system": system } } } })
    };
    let mut client = node.connected().await;
    for id in 2..=11 {
        let subscribe = json!({ "id": id, "subscribe": { "channel": format!("c{id}") } });
        client.send(&subscribe.to_string()).await;
    }
    assert_eq!(client.json().await, near("channels", 9, 10));
    for id in 12..=21 {
        client.send(&json!({ "id": id, "rpc": {} }).to_string()).await;
    }
    // Only one of each, and the answers.
    let mut warned = Vec::new();
    let mut answered = 0;
    while answered < 10 {
        let reply = client.json().await;
        match reply.get("push") {
            Some(_) => warned.push(reply),
            None => answered += 1,
        }
    }
    let [warned] = warned.as_slice() else {
        panic!("{warned:?}")
    };
    let used = warned["push"]["message"]["data"]["system"]["used"]
        .as_u64()
        .unwrap();
    assert!((17..=20).contains(&used), "{used}");
    assert_eq!(*warned, near("command_rate", used, 20));
}
