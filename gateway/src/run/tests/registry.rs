//! Several gateways of one system, and one whose registry is gone.

use bytes::Bytes;
use serde_json::{Value, json};
use switchboard_proto::channel::ChannelName;
use switchboard_registry::config::RegistryConfig;
use switchboard_registry::{Device, Registry, SubscriptionOptions};
use switchboard_service_kit::config::Document;
use switchboard_testkit::wait_until;

use super::super::*;
use super::harness::{Client, DEADLINE, Node, own_registry};
use super::owner::{Owner, message};
use super::tokens::{SECRET, token};

async fn node(registry: &OpenRegistry, keys: &str) -> Node {
    let keys = format!("{keys}\n[gateway.tokens]\nhmac_secret = \"{SECRET}\"");
    Node::start_beside(registry.clone(), &keys).await
}

async fn connect(node: &Node, claims: Value) -> Client {
    let mut client = node.client().await;
    let connect = json!({ "token": token(&claims), "name": "js", "version": "5.1" });
    client
        .send(&json!({ "id": 1, "connect": connect }).to_string())
        .await;
    client
}

async fn connected(node: &Node, user: &str) -> Client {
    let mut client = connect(node, json!({ "sub": user })).await;
    let reply = client.json().await;
    assert!(reply["connect"]["client"].is_string(), "{reply}");
    client
}

/// Waits until a user has so many sessions.
async fn has_sessions(registry: &dyn Registry, user: &str, count: usize) {
    let reached = wait_until(DEADLINE, async || registry.count(user).await == Ok(count)).await;
    assert!(
        reached.is_ok(),
        "{user} has not {count} sessions: {:?}",
        registry.sessions(user).await
    );
}

fn room() -> ChannelName {
    ChannelName::parse("room", 255).unwrap()
}

#[tokio::test]
async fn a_session_is_registered_until_it_ends() {
    let open = own_registry();
    let registry = Arc::clone(&open.registry);
    let node = node(&open, "").await;
    let client = connected(&node, "alice").await;
    has_sessions(&*registry, "alice", 1).await;
    let sessions = registry.sessions("alice").await.unwrap();
    assert_eq!(sessions[0].device, Device::new("js", "5.1"));
    assert!(node.gateway.sessions.by_client(sessions[0].client).is_some());
    drop(client);
    has_sessions(&*registry, "alice", 0).await;
    let _client = connected(&node, "alice").await;
    has_sessions(&*registry, "alice", 1).await;
    let stopped = node.context.tasks.stop(DEADLINE).await;
    assert!(stopped.forced.is_empty(), "{stopped:?}");
    assert_eq!(
        registry.count("alice").await,
        Ok(0),
        "a gateway that stops takes leave"
    );
}

#[tokio::test]
async fn connections_of_one_user_are_bounded_over_all_gateways() {
    let open = own_registry();
    let registry = Arc::clone(&open.registry);
    let keys = "[gateway.limits]\nconnections_per_user = 2";
    let nodes = [node(&open, keys).await, node(&open, keys).await];
    for (node, other) in nodes.iter().zip(["bob", "carol"]) {
        // Who has announced somebody knows what there is.
        let client = connected(node, other).await;
        has_sessions(&*registry, other, 1).await;
        drop(client);
    }
    let first = connected(&nodes[0], "alice").await;
    let _second = connected(&nodes[1], "alice").await;
    for node in &nodes {
        let mut third = connect(node, json!({ "sub": "alice" })).await;
        assert_eq!(third.closed().await, (3504, "connection limit".to_owned()));
    }
    drop(first);
    nodes[0].until("switchboard_gateway_connections", 0).await;
    // At once, and at the other gateway.
    let _again = connected(&nodes[1], "alice").await;
}

#[tokio::test]
async fn what_is_kept_for_a_user_is_restored_with_each_connect() {
    let open = own_registry();
    let registry = Arc::clone(&open.registry);
    let node = node(&open, "").await;
    let options = SubscriptionOptions {
        info: Bytes::new(),
        data: Bytes::from_static(b"{\"by\":\"api\"}"),
        ..SubscriptionOptions::default()
    };
    let lasts = Duration::from_secs(3600);
    registry
        .keep_subscription("alice", &room(), &options, lasts)
        .await
        .unwrap();
    let unknown = ChannelName::parse("nowhere:1", 255).unwrap();
    registry
        .keep_subscription("alice", &unknown, &options, lasts)
        .await
        .unwrap();
    let mut owner = Owner::of(&node, "room", 1, 50).await;
    let mut alice = connect(&node, json!({ "sub": "alice" })).await;
    owner.in_force(30).await;
    let reply = alice.json().await;
    let subs = &reply["connect"]["subs"];
    assert_eq!(subs["room"]["data"], json!({ "by": "api" }), "{reply}");
    assert_eq!(
        subs.as_object().unwrap().len(),
        1,
        "that namespace does not exist: {reply}"
    );
    owner.deliver(50, 60, vec![message("room", 55, 0)]).await;
    let push = alice.json().await;
    assert_eq!(push["push"]["pub"]["data"], 55, "{push}");
    let mut bob = connect(&node, json!({ "sub": "bob" })).await;
    assert!(
        bob.json().await["connect"]["subs"].is_null(),
        "it is not kept for him"
    );
    registry.forget_subscription("alice", &room()).await.unwrap();
    let mut again = connect(&node, json!({ "sub": "alice" })).await;
    assert!(again.json().await["connect"]["subs"].is_null());
}

#[tokio::test]
async fn what_is_kept_ends_at_its_time() {
    let open = own_registry();
    let node = node(&open, "").await;
    let options = SubscriptionOptions::default();
    let registry = Arc::clone(&open.registry);
    let lasts = Duration::from_millis(1500);
    registry
        .keep_subscription("alice", &room(), &options, lasts)
        .await
        .unwrap();
    let mut owner = Owner::of(&node, "room", 1, 50).await;
    let mut alice = connect(&node, json!({ "sub": "alice" })).await;
    owner.in_force(30).await;
    let reply = alice.json().await;
    assert!(reply["connect"]["subs"]["room"].is_object(), "{reply}");
    let push = alice.json().await;
    assert_eq!(push["push"]["unsubscribe"]["code"], 2501, "{push}");
}

#[tokio::test]
async fn without_the_registry_connecting_goes_on_and_each_gateway_counts_for_itself() {
    let text = "registry.backend = \"redis\"\nregistry.redis.urls = [\"redis://127.0.0.1:1\"]";
    let mut document = Document::parse(text, []).unwrap();
    let open = RegistryConfig::read(&mut document).open().unwrap();
    let node = node(&open, "[gateway.limits]\nconnections_per_user = 2").await;
    let _alices = [connected(&node, "alice").await, connected(&node, "alice").await];
    let mut third = connect(&node, json!({ "sub": "alice" })).await;
    assert_eq!(third.closed().await, (3504, "connection limit".to_owned()));
    let _bob = connected(&node, "bob").await;
    assert!(node.metric("switchboard_registry_not_restored_total") >= 2);
}
