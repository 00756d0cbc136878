//! What the `override` of a token changes in a subscription.

use serde_json::{Value, json};

use super::harness::{Client, Node};
use super::owner::Owner;
use super::tokens::{SECRET, connected, reply, send, token};

const EPOCH: &str = "1-00000001";

async fn node() -> Node {
    Node::start(&format!("[gateway.tokens]\nhmac_secret = \"{SECRET}\"")).await
}

/// Subscribes with a token that has this `override`, and unsubscribes again.
async fn result(client: &mut Client, id: u32, overrides: Value, extra: Value) -> Value {
    let claims = json!({ "sub": "alice", "channel": "room", "override": overrides });
    let mut request = json!({ "channel": "room", "token": token(&claims) });
    for (key, value) in extra.as_object().unwrap() {
        request[key] = value.clone();
    }
    send(client, id, "subscribe", request).await;
    let result = reply(client, id, "subscribe").await;
    send(client, id + 1, "unsubscribe", json!({ "channel": "room" })).await;
    reply(client, id + 1, "unsubscribe").await;
    result
}

#[tokio::test]
async fn a_subscription_token_says_what_is_recoverable_and_positioned() {
    let node = node().await;
    let mut owner = Owner::of(&node, "room", 1, 50).await;
    let alice = json!({ "sub": "alice" });
    // Another holds the channel, so that its interest stays in force.
    let mut holder = connected(&node, alice.clone()).await;
    let claims = json!({ "sub": "alice", "channel": "room" });
    let request = json!({ "channel": "room", "token": token(&claims) });
    send(&mut holder, 2, "subscribe", request).await;
    owner.in_force(30).await;
    let full = json!({ "recoverable": true, "positioned": true, "epoch": EPOCH, "offset": 50 });
    assert_eq!(reply(&mut holder, 2, "subscribe").await, full);

    let mut client = connected(&node, alice).await;
    let off = |names: &[&str]| -> Value {
        names
            .iter()
            .map(|name| ((*name).to_owned(), json!({ "value": false })))
            .collect::<serde_json::Map<_, _>>()
            .into()
    };
    let positioned = json!({ "positioned": true, "epoch": EPOCH, "offset": 50 });
    let neither = off(&["force_recovery", "force_positioning"]);
    let client = &mut client;
    let not_recoverable = off(&["force_recovery"]);
    assert_eq!(
        result(client, 10, not_recoverable.clone(), json!({})).await,
        positioned
    );
    // What it missed, if anything, is not asked for.
    let since = json!({ "recover": true, "epoch": EPOCH, "offset": 10 });
    assert_eq!(result(client, 20, not_recoverable, since).await, positioned);
    assert_eq!(result(client, 30, neither.clone(), json!({})).await, json!({}));
    // Whoever asks for it is given it.
    let asked = json!({ "recoverable": true });
    assert_eq!(result(client, 40, neither.clone(), asked).await, full);
    let asked = json!({ "positioned": true });
    assert_eq!(result(client, 50, neither, asked).await, positioned);
    // Those of presence change nothing here.
    let others = off(&["presence", "join_leave", "force_push_join_leave"]);
    assert_eq!(result(client, 60, others, json!({})).await, full);
}

#[tokio::test]
async fn a_connection_token_says_it_of_the_subscriptions_by_the_server() {
    let node = node().await;
    let mut owner = Owner::of(&node, "room", 1, 50).await;
    let claims = json!({
        "sub": "alice",
        "subs": { "room": { "override": { "force_recovery": { "value": false } } } },
    });
    let mut client = node.client().await;
    let subs = json!({ "room": { "recover": true, "epoch": EPOCH, "offset": 10 } });
    let request = json!({ "token": token(&claims), "subs": subs });
    send(&mut client, 1, "connect", request).await;
    owner.in_force(30).await;
    let connected = reply(&mut client, 1, "connect").await;
    let expected = json!({ "room": { "positioned": true, "epoch": EPOCH, "offset": 50 } });
    assert_eq!(connected["subs"], expected);
}
