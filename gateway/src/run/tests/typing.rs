//! Typing, as the owner of the channel's shard is told of it.

use prost::Message as _;
use serde_json::{Value, json};
use switchboard_proto::bus::{Message, up_item};

use super::harness::{Client, Node};
use super::owner::Owner;
use super::tokens::{SECRET, connected, reply, send};

const CHANNEL: &str = "room:1";
const OPEN: &str = "room:2";

/// `keys` are of `[gateway]`.
async fn node(keys: &str) -> Node {
    Node::start(&format!(
        "{keys}\n[gateway.tokens]\nhmac_secret = \"{SECRET}\"\nanonymous = \"everybody\"\n\
         [namespaces.room]\nallow_subscribe_for_client = true\nallow_subscribe_for_anonymous = true\n\
         allow_publish_for_subscriber = true\nallow_publish_for_anonymous = true\n\
         [namespaces.quiet]\nallow_subscribe_for_client = true\nallow_publish_for_client = true\ntyping = false\n\
         [namespaces.team]\nmembers = true\nallow_publish_for_client = true\n"
    ))
    .await
}

async fn call(client: &mut Client, id: u32, method: &str, data: Value) {
    send(client, id, "rpc", json!({"method": method, "data": data})).await;
}

async fn types(client: &mut Client, id: u32, method: &str) {
    call(client, id, method, json!({"channel": CHANNEL})).await;
    assert_eq!(reply(client, id, "rpc").await["data"], json!({}));
}

/// Alice, who is subscribed, with command 2.
async fn alice(node: &Node) -> Client {
    let mut alice = connected(node, json!({"sub": "alice"})).await;
    send(&mut alice, 2, "subscribe", json!({"channel": CHANNEL})).await;
    alice
}

/// What the owner is given to deliver to the channel. It is no message for the log.
async fn told(owner: &mut Owner) -> Value {
    loop {
        match owner.item().await.1 {
            up_item::Item::Ephemeral(ephemeral) => {
                let message = Message::decode(ephemeral.message).unwrap();
                assert_eq!(
                    (message.channel.as_str(), &*message.tags["sb-change"]),
                    (CHANNEL, "typing")
                );
                return serde_json::from_slice(&message.payload).unwrap();
            }
            up_item::Item::Interest(_) => {}
            other => panic!("neither typing nor interest: {other:?}"),
        }
    }
}

fn stop() -> Value {
    json!({"user": "alice", "typing": false})
}

async fn assert_started(owner: &mut Owner) {
    let mut event = told(owner).await;
    let lasts = event["expires_in"].take().as_u64().unwrap();
    assert!((1..=60_000).contains(&lasts), "{lasts}");
    assert_eq!(
        event,
        json!({"user": "alice", "typing": true, "expires_in": null})
    );
}

#[tokio::test]
async fn others_are_told_of_start_and_stop_and_not_of_what_changes_nothing() {
    let node = node("typing_timeout = \"60s\"\ntyping_interval = \"59s\"").await;
    let mut owner = Owner::of(&node, CHANNEL, 1, 1 << 12).await;
    let mut alice = alice(&node).await;
    owner.in_force(1 << 12).await;
    reply(&mut alice, 2, "subscribe").await;
    types(&mut alice, 3, "typing.stop").await;
    types(&mut alice, 4, "typing.start").await;
    assert_started(&mut owner).await;
    types(&mut alice, 5, "typing.start").await;
    types(&mut alice, 6, "typing.stop").await;
    assert_eq!(told(&mut owner).await, stop(), "and of nothing before");
    node.until("switchboard_gateway_typing_told_total", 2).await;
    assert_eq!(node.metric("switchboard_gateway_typing_now"), 0);
}

#[tokio::test]
async fn it_ends_by_itself() {
    let node = node("typing_timeout = \"200ms\"\ntyping_interval = \"100ms\"").await;
    let mut owner = Owner::of(&node, CHANNEL, 1, 1 << 12).await;
    let mut alice = alice(&node).await;
    owner.in_force(1 << 12).await;
    reply(&mut alice, 2, "subscribe").await;
    types(&mut alice, 3, "typing.start").await;
    assert_started(&mut owner).await;
    assert_eq!(told(&mut owner).await, stop());
}

#[tokio::test]
async fn it_ends_with_the_subscription_and_with_the_connection() {
    let node = node("typing_timeout = \"60s\"\ntyping_interval = \"100ms\"").await;
    let mut owner = Owner::of(&node, CHANNEL, 1, 1 << 12).await;
    let mut first = alice(&node).await;
    owner.in_force(1 << 12).await;
    reply(&mut first, 2, "subscribe").await;
    let mut second = alice(&node).await;
    reply(&mut second, 2, "subscribe").await;
    for client in [&mut first, &mut second] {
        types(client, 3, "typing.start").await;
    }
    assert_started(&mut owner).await;
    // A fresh start is told once the interval is over.
    assert_started(&mut owner).await;
    send(&mut first, 4, "unsubscribe", json!({"channel": CHANNEL})).await;
    reply(&mut first, 4, "unsubscribe").await;
    node.until("switchboard_gateway_typing_now", 1).await;
    drop(second);
    assert_eq!(
        told(&mut owner).await,
        stop(),
        "once, when the last device is gone"
    );
    node.until("switchboard_gateway_typing_now", 0).await;
}

#[tokio::test]
async fn who_may_not_is_refused_and_nobody_is_told() {
    let node = node("typing_limit = 1").await;
    let mut owner = Owner::of(&node, CHANNEL, 1, 1 << 12).await;
    let mut alice = alice(&node).await;
    owner.in_force(1 << 12).await;
    reply(&mut alice, 2, "subscribe").await;
    for (id, channel, code) in [
        (3, OPEN, 103),
        (4, "quiet:1", 108),
        (5, "none:1", 102),
        (6, "", 107),
        (7, "a b", 107),
        (8, "team:1", 103),
    ] {
        for method in ["typing.start", "typing.stop"] {
            call(&mut alice, id, method, json!({"channel": channel})).await;
            assert_eq!(
                reply(&mut alice, id, "error").await["code"],
                code,
                "{method} {channel}"
            );
        }
    }
    for (id, wrong) in [
        (20, json!({})),
        (21, json!({"channel": 1})),
        (22, json!({"channel": CHANNEL, "for": 1})),
        (23, json!(null)),
    ] {
        call(&mut alice, id, "typing.start", wrong.clone()).await;
        assert_eq!(reply(&mut alice, id, "error").await["code"], 107, "{wrong}");
    }
    let mut anonymous = node.connected().await;
    send(&mut anonymous, 2, "subscribe", json!({"channel": CHANNEL})).await;
    reply(&mut anonymous, 2, "subscribe").await;
    call(&mut anonymous, 3, "typing.start", json!({"channel": CHANNEL})).await;
    assert_eq!(reply(&mut anonymous, 3, "error").await["code"], 103, "anonymous");

    types(&mut alice, 30, "typing.start").await;
    assert_started(&mut owner).await;
    let mut bob = connected(&node, json!({"sub": "bob"})).await;
    send(&mut bob, 2, "subscribe", json!({"channel": CHANNEL})).await;
    reply(&mut bob, 2, "subscribe").await;
    call(&mut bob, 3, "typing.start", json!({"channel": CHANNEL})).await;
    assert_eq!(
        reply(&mut bob, 3, "error").await["code"],
        106,
        "the table is full"
    );
    assert_eq!(node.metric("switchboard_gateway_typing_refused_total"), 1);
}
