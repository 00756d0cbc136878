//! Tokens on a real socket: who is let in, for how long, and how each fault is told.

use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{EncodingKey, Header};
use serde_json::{Value, json};

use super::harness::{Client, Node};

pub(super) const SECRET: &str = "a secret of tests that is long enough to be none";

/// Seconds since 1970, `seconds` from now.
pub(super) fn in_seconds(seconds: f64) -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs_f64()
        + seconds
}

pub(super) fn token(claims: &Value) -> String {
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    jsonwebtoken::encode(&Header::default(), claims, &key).unwrap()
}

/// A gateway that wants tokens; `keys` are of `[gateway.tokens]`.
async fn node(keys: &str) -> Node {
    Node::start(&format!(
        "[gateway.tokens]\nhmac_secret = \"{SECRET}\"\nleeway = \"0s\"\n{keys}"
    ))
    .await
}

pub(super) async fn send(client: &mut Client, id: u32, command: &str, request: Value) {
    client
        .send(&json!({"id": id, command: request}).to_string())
        .await;
}

async fn connect(node: &Node, claims: Value) -> Client {
    let mut client = node.client().await;
    send(&mut client, 1, "connect", json!({"token": token(&claims)})).await;
    client
}

/// The reply, which has to be that of command `id`.
pub(super) async fn reply(client: &mut Client, id: u32, command: &str) -> Value {
    let text = client.reply().await;
    let reply: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(reply["id"], id, "{text}");
    assert!(reply[command].is_object(), "{text}");
    reply[command].clone()
}

pub(super) async fn connected(node: &Node, claims: Value) -> Client {
    let mut client = connect(node, claims).await;
    reply(&mut client, 1, "connect").await;
    client
}

#[tokio::test]
async fn connect_says_when_the_token_ends() {
    let node = node("").await;
    let mut client = connect(&node, json!({"sub": "alice", "exp": in_seconds(600.0)})).await;
    let result = reply(&mut client, 1, "connect").await;
    assert_eq!(result["expires"], true);
    let ttl = result["ttl"].as_u64().unwrap();
    assert!((590..=600).contains(&ttl), "{ttl}");
    client.assert_lives().await;
    let mut client = connect(&node, json!({"sub": "alice"})).await;
    let result = reply(&mut client, 1, "connect").await;
    assert_eq!((&result["expires"], &result["ttl"]), (&Value::Null, &Value::Null));
}

#[tokio::test]
async fn faults_of_a_connection_token_are_told_apart() {
    let node = node("anonymous = \"nobody\"").await;
    for (claims, code) in [
        (json!({"sub": "alice", "exp": in_seconds(-1.0)}), 109),
        (json!({"sub": "alice", "nbf": in_seconds(600.0)}), 109),
        (json!({"sub": "alice", "expire_at": in_seconds(-1.0)}), 110),
    ] {
        let mut client = connect(&node, claims.clone()).await;
        let error = reply(&mut client, 1, "error").await;
        assert_eq!(error["code"], code, "{claims}");
    }
    for (claims, closed) in [
        (
            json!({"sub": "alice", "channel": "room:1"}),
            (3500, "invalid token"),
        ),
        (json!({"sub": 1}), (3500, "invalid token")),
        (json!({"sub": ""}), (3507, "permission denied")),
    ] {
        let mut client = connect(&node, claims.clone()).await;
        assert_eq!(client.closed().await, (closed.0, closed.1.to_owned()), "{claims}");
    }
    let mut client = node.client().await;
    client.send(r#"{"id":1,"connect":{}}"#).await;
    assert_eq!(client.closed().await.0, 3501);
}

/// SDKs have to see the error, and then close by themselves.
#[tokio::test]
async fn behind_a_refused_connect_nothing_is_carried_out() {
    let node = Node::start(&format!(
        "connect_timeout = \"500ms\"\n[gateway.tokens]\nhmac_secret = \"{SECRET}\""
    ))
    .await;
    let mut client = node.client().await;
    let expired = token(&json!({"sub": "alice", "exp": in_seconds(-60.0)}));
    client
        .send(&format!(
            "{{\"id\":1,\"connect\":{{\"token\":\"{expired}\"}}}}\n{{\"id\":2,\"rpc\":{{}}}}\n{{\"id\":3,\"subscribe\":{{\"channel\":\"a\"}}}}"
        ))
        .await;
    assert_eq!(reply(&mut client, 1, "error").await["code"], 109);
    client.send(r#"{"id":4,"rpc":{}}"#).await;
    assert_eq!(client.closed_without_reply().await.0, 3502);
}

#[tokio::test]
async fn anonymous_users_may_be_let_in() {
    let node = node("anonymous = \"everybody\"").await;
    node.connected().await.assert_lives().await;
    let mut forged = node.client().await;
    forged.send(r#"{"id":1,"connect":{"token":"x.y.z"}}"#).await;
    assert_eq!(forged.closed().await.0, 3500, "a token that is sent is verified");
    drop(node);
    let node = self::node("").await;
    connected(&node, json!({})).await.assert_lives().await;
}

/// Both tokens end together, so when the one connection is closed, the other's time is over too.
#[tokio::test]
async fn who_does_not_refresh_is_closed_and_who_does_stays() {
    let node = node("expiry_grace = \"2s\"").await;
    let exp = in_seconds(2.0);
    let mut idle = connected(&node, json!({"sub": "alice", "exp": exp})).await;
    let mut client = connected(&node, json!({"sub": "alice", "exp": exp})).await;
    let fresh = token(&json!({"sub": "alice", "exp": in_seconds(600.0)}));
    send(&mut client, 2, "refresh", json!({"token": fresh})).await;
    let result = reply(&mut client, 2, "refresh").await;
    assert_eq!(result["expires"], true);
    assert!(result["ttl"].as_u64().unwrap() > 500, "{result}");
    assert!(
        result["client"].is_string() && result["version"].is_string(),
        "{result}"
    );
    assert_eq!(idle.closed().await, (3005, "connection expired".to_owned()));
    client.assert_lives().await;
    // A token that never expires.
    send(
        &mut client,
        3,
        "refresh",
        json!({"token": token(&json!({"sub": "alice"}))}),
    )
    .await;
    assert_eq!(reply(&mut client, 3, "refresh").await["expires"], Value::Null);
}

#[tokio::test]
async fn a_refresh_that_will_not_do_ends_the_connection() {
    let node = node("").await;
    for (request, code) in [
        (json!({}), 3501),
        (json!({"token": "x.y.z"}), 3500),
        (json!({"token": token(&json!({"sub": "bob"}))}), 3500),
        (
            json!({"token": token(&json!({"sub": "alice", "exp": in_seconds(-1.0)}))}),
            3005,
        ),
        (
            json!({"token": token(&json!({"sub": "alice", "expire_at": in_seconds(-1.0)}))}),
            3005,
        ),
        (
            json!({"token": token(&json!({"sub": "alice", "channels": ["other"]}))}),
            3010,
        ),
    ] {
        let mut client = connected(&node, json!({"sub": "alice"})).await;
        send(&mut client, 2, "refresh", request.clone()).await;
        assert_eq!(client.closed().await.0, code, "{request}");
    }
}

#[tokio::test]
async fn faults_of_a_subscription_token_are_told_apart() {
    let node = node("").await;
    let subscribe = |claims: Value| json!({"channel": "room:1", "token": token(&claims)});
    let mut client = connected(&node, json!({"sub": "alice"})).await;
    for (id, claims, code) in [
        (2, json!({"sub": "alice"}), 103),
        (
            3,
            json!({"sub": "alice", "channel": "room:1", "exp": in_seconds(-1.0)}),
            109,
        ),
        (
            4,
            json!({"sub": "alice", "channel": "room:1", "expire_at": in_seconds(-1.0)}),
            110,
        ),
    ] {
        send(&mut client, id, "subscribe", subscribe(claims.clone())).await;
        assert_eq!(reply(&mut client, id, "error").await["code"], code, "{claims}");
    }
    send(
        &mut client,
        5,
        "subscribe",
        json!({"channel": "room:1", "token": "x.y.z"}),
    )
    .await;
    assert_eq!(reply(&mut client, 5, "error").await["code"], 103);
    let good = token(&json!({"sub": "alice", "channel": "room:1"}));
    send(
        &mut client,
        6,
        "sub_refresh",
        json!({"channel": "room:1", "token": good}),
    )
    .await;
    assert_eq!(
        reply(&mut client, 6, "error").await["code"],
        103,
        "it is not subscribed"
    );
    client.assert_lives().await;
    for claims in [
        json!({"sub": "bob", "channel": "room:1"}),
        json!({"sub": "alice", "channel": "room:2"}),
        json!({"sub": "alice", "channel": "room:1", "client": "another"}),
    ] {
        for command in ["subscribe", "sub_refresh"] {
            let mut client = connected(&node, json!({"sub": "alice"})).await;
            send(&mut client, 2, command, subscribe(claims.clone())).await;
            assert_eq!(client.closed().await.0, 3500, "{command} {claims}");
        }
    }
}

#[tokio::test]
async fn an_insecure_gateway_verifies_and_sets_no_end() {
    let node = Node::insecure(&format!(
        "[gateway.tokens]\nhmac_secret = \"{SECRET}\"\nleeway = \"0s\""
    ))
    .await;
    let mut client = connect(&node, json!({"sub": "alice", "exp": in_seconds(60.0)})).await;
    assert_eq!(reply(&mut client, 1, "connect").await["expires"], Value::Null);
    let mut client = connect(&node, json!({"sub": "alice", "exp": in_seconds(-1.0)})).await;
    assert_eq!(reply(&mut client, 1, "error").await["code"], 109);
}

/// Nobody is told that a token is bad where that is not known.
#[tokio::test]
async fn without_keys_at_hand_clients_are_asked_to_try_again() {
    // A port that nobody listens on any more.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let node = Node::start(&format!(
        "[gateway.tokens]\njwks_url = \"http://127.0.0.1:{port}/keys\""
    ))
    .await;
    let mut client = connect(&node, json!({"sub": "alice"})).await;
    let error = reply(&mut client, 1, "error").await;
    assert_eq!((&error["code"], &error["temporary"]), (&json!(100), &json!(true)));
}
