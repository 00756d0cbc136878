//! The server API over HTTP, at gateways that share a bus. Publishing, history and gRPC are tried on whole systems.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use switchboard_bus::membership::{Membership, MembershipSettings};
use switchboard_proto::bus::{HistoryOutcome, Role};
use switchboard_proto::ids::Incarnation;
use switchboard_service_kit::service::Context;
use switchboard_testkit::wait_until;

use super::harness::{Client, DEADLINE, Node, own_bus, own_registry};
use super::owner::Owner;
use super::tokens::{SECRET, token};

pub(super) const KEY: &str = "a-key-of-tests-for-backends";

pub(super) fn keys(more: &str) -> String {
    format!(
        "tokens.hmac_secret = \"{SECRET}\"\n[gateway.api]\nlisten = \"127.0.0.1:0\"\nkey = \"{KEY}\"\n{more}"
    )
}

/// Two gateways that know of each other.
async fn two(more: &str) -> [Node; 2] {
    let (bus, registry) = (own_bus(), own_registry());
    let nodes = [
        Node::start_on(bus.clone(), registry.clone(), &keys(more)).await,
        Node::start_on(bus, registry, &keys(more)).await,
    ];
    for node in &nodes {
        let both = async || {
            let info = call(node, "info", json!({})).await;
            info["result"]["nodes"]
                .as_array()
                .is_some_and(|nodes| nodes.len() == 2)
        };
        wait_until(DEADLINE, both).await.unwrap();
    }
    nodes
}

pub(super) async fn post(node: &Node, path: &str, key: Option<(&str, &str)>, body: &str) -> (u16, String) {
    let url = format!("http://{}{path}", node.api.unwrap());
    let mut request = reqwest::Client::new().post(url).body(body.to_owned());
    if let Some((name, value)) = key {
        request = request.header(name, value);
    }
    let response = request.send().await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

pub(super) async fn call(node: &Node, method: &str, params: Value) -> Value {
    let path = format!("/api/{method}");
    let (status, body) = post(node, &path, Some(("X-API-Key", KEY)), &params.to_string()).await;
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

pub(super) fn code(answer: &Value) -> u64 {
    answer["error"]["code"].as_u64().unwrap_or(0)
}

/// A client of `user`, and its connection's id.
async fn user(node: &Node, user: &str) -> (Client, String) {
    let mut client = node.client().await;
    let connect = json!({ "id": 1, "connect": { "token": token(&json!({ "sub": user })) } });
    client.send(&connect.to_string()).await;
    let reply = client.json().await;
    let id = reply["connect"]["client"].as_str().unwrap().to_owned();
    (client, id)
}

#[tokio::test]
async fn only_who_has_the_key_is_answered() {
    let node = Node::start(&keys("key_previous = \"the-key-that-was-before\"")).await;
    let bearer = format!("apikey {KEY}");
    for (name, value) in [
        ("X-API-Key", KEY),
        ("Authorization", &*bearer),
        ("X-API-Key", "the-key-that-was-before"),
    ] {
        let (status, body) = post(&node, "/api/info", Some((name, value)), "{}").await;
        assert_eq!(status, 200, "{body}");
    }
    let almost = &KEY[1..];
    for key in [
        None,
        Some(("X-API-Key", "")),
        Some(("X-API-Key", almost)),
        Some(("Authorization", KEY)),
        Some(("Authorization", "Bearer a-key-of-tests-for-backends")),
    ] {
        // Nothing tells whether the path exists.
        for path in ["/api/info", "/api/nonsense", "/api", "/api/batch"] {
            let (status, body) = post(&node, path, key, "{").await;
            assert_eq!(status, 401, "{key:?} {body}");
        }
    }
    node.until("switchboard_gateway_api_unauthorized_total", 20).await;
}

#[tokio::test]
async fn what_makes_no_sense_is_refused() {
    let node = Node::start(&keys("request_size = \"4KiB\"")).await;
    let key = Some(("X-API-Key", KEY));
    for body in [
        "{",
        "[]",
        "\"x\"",
        "{\"channel\": 1}",
        "nonsense",
        "{\"tags\": []}",
    ] {
        let (status, answer) = post(&node, "/api/publish", key, body).await;
        assert_eq!(status, 400, "{body}: {answer}");
    }
    let (status, _) = post(&node, "/api/nonsense", key, "{}").await;
    assert_eq!(status, 404);
    let (status, _) = post(&node, "/elsewhere", key, "{}").await;
    assert_eq!(status, 404);
    let large = json!({ "channel": "a", "data": "x".repeat(5000) }).to_string();
    let (status, _) = post(&node, "/api/publish", key, &large).await;
    assert_eq!(status, 413);
    let deep = format!(
        r#"{{"channel":"a","data":{}1{}}}"#,
        "[".repeat(500),
        "]".repeat(500)
    );
    let (status, answer) = post(&node, "/api/publish", key, &deep).await;
    assert_eq!(status, 200);
    assert_eq!(code(&serde_json::from_str(&answer).unwrap()), 107, "{answer}");
    let id = uuid::Uuid::new_v4().to_string();
    for (method, params, expected) in [
        ("publish", json!({ "data": 1 }), 107),
        ("publish", json!({ "channel": "a" }), 107),
        ("publish", json!({ "channel": "none:a", "data": 1 }), 102),
        ("publish", json!({ "channel": "a", "b64data": "*" }), 107),
        (
            "publish",
            json!({ "channel": "a", "data": 1, "priority": "urgent" }),
            107,
        ),
        ("publish", json!({ "channel": "a", "data": 1, "version": 1 }), 108),
        (
            "publish",
            json!({ "channel": "a", "data": 1, "tags": { "sb-id": "x" } }),
            107,
        ),
        (
            "publish",
            json!({ "channel": "a", "data": 1, "idempotency_key": "x".repeat(129) }),
            107,
        ),
        (
            "publish",
            json!({ "channel": "a", "data": 1, "idempotency_key": "x", "skip_history": true }),
            108,
        ),
        ("broadcast", json!({ "channels": [], "data": 1 }), 107),
        ("subscribe", json!({ "channel": "a" }), 107),
        ("subscribe", json!({ "channel": "none:a", "user": "alice" }), 102),
        ("subscribe", json!({ "channel": "a", "client": "none" }), 107),
        (
            "subscribe",
            json!({ "channel": "a", "user": "alice", "expire_at": -1 }),
            107,
        ),
        ("unsubscribe", json!({ "channel": "", "user": "alice" }), 107),
        ("unsubscribe", json!({ "channel": "a", "session": "x" }), 108),
        ("disconnect", json!({}), 107),
        (
            "disconnect",
            json!({ "user": "alice", "disconnect": { "code": 1000 } }),
            107,
        ),
        (
            "disconnect",
            json!({ "user": "alice", "disconnect": { "code": 4000, "reason": "{}" } }),
            107,
        ),
        ("disconnect", json!({ "user": "alice", "whitelist": ["x"] }), 107),
        ("refresh", json!({ "info": 1 }), 107),
        ("history", json!({ "channel": "none:a" }), 102),
        ("history_remove", json!({ "channel": "none:a" }), 102),
        ("presence", json!({ "channel": "a" }), 108),
        ("presence_stats", json!({ "channel": "a" }), 108),
        ("channels", json!({ "pattern": "[" }), 107),
        ("rpc", json!({ "method": "any" }), 104),
        ("system_message", json!({ "everybody": true }), 107),
        (
            "system_message",
            json!({ "everybody": true, "client": id, "policy_changed": {} }),
            107,
        ),
    ] {
        let answer = call(&node, method, params.clone()).await;
        assert_eq!(code(&answer), expected, "{method} {params}: {answer}");
    }
    assert_eq!(
        node.metric("switchboard_gateway_api_calls_total{method=\"rpc\",code=\"104\"}"),
        1
    );
}

#[tokio::test]
async fn several_calls_in_one_request() {
    let node = Node::start(&keys("channels = 2")).await;
    let commands =
        json!({ "commands": [{ "info": {} }, { "rpc": { "method": "x" } }, {}], "parallel": true });
    let replies = call(&node, "batch", commands).await;
    assert_eq!(replies["replies"][0]["info"]["nodes"][0]["num_clients"], 0);
    assert_eq!(code(&replies["replies"][1]), 104);
    assert_eq!(code(&replies["replies"][2]), 104);
    let many: Vec<Value> = (0..1001).map(|_| json!({ "info": {} })).collect();
    assert_eq!(
        code(&call(&node, "batch", json!({ "commands": many })).await),
        106
    );
    let channels = json!({ "channels": ["a", "b", "c"], "data": 1 });
    assert_eq!(code(&call(&node, "broadcast", channels).await), 106);
    let key = Some(("Authorization", &*format!("apikey {KEY}")));
    let older = "{\"method\":\"rpc\",\"params\":{\"method\":\"x\"}}\n{\"method\":\"info\"} {\"method\":\"none\",\"params\":{}}";
    let (status, body) = post(&node, "/api", key, older).await;
    assert_eq!(status, 200);
    let answers: Vec<Value> = body
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(answers.len(), 3);
    assert_eq!((code(&answers[0]), code(&answers[2])), (104, 104));
    assert!(answers[1]["result"]["nodes"].is_array());
    for body in ["", "[]", "{\"method\":1}", "{\"params\":{}}"] {
        assert_eq!(post(&node, "/api", key, body).await.0, 400, "{body}");
    }
}

#[tokio::test]
async fn connections_of_other_gateways_are_reached() {
    let [node, other] = two("").await;
    let (mut alice, first) = user(&node, "alice").await;
    let (mut alice_too, second) = user(&other, "alice").await;
    let (mut bob, _) = user(&other, "bob").await;
    let message = json!({ "user": "alice", "policy_changed": { "text": "new rules" } });
    assert_eq!(
        call(&node, "system_message", message).await["result"]["clients"],
        2
    );
    let told = json!({ "push": { "message": { "data":
        { "system": { "type": "policy_changed", "text": "new rules" } } } } });
    assert_eq!(alice.json().await, told);
    assert_eq!(alice_too.json().await, told);
    let refresh = json!({ "client": second, "expire_at": 4_000_000_000_u64, "info": { "name": "Alice" } });
    assert_eq!(code(&call(&node, "refresh", refresh).await), 0);
    let push = alice_too.json().await;
    assert_eq!(push["push"]["refresh"]["expires"], true, "{push}");
    let info = call(&other, "info", json!({})).await;
    let nodes = info["result"]["nodes"].as_array().unwrap();
    let clients: u64 = nodes
        .iter()
        .map(|node| node["num_clients"].as_u64().unwrap())
        .sum();
    assert_eq!(clients, 3);
    // The one that is spared, by its other gateway.
    let disconnect =
        json!({ "user": "alice", "whitelist": [second], "disconnect": { "code": 4501, "reason": "go" } });
    assert_eq!(code(&call(&other, "disconnect", disconnect).await), 0);
    assert_eq!(alice.closed().await, (4501, "go".to_owned()));
    alice_too.assert_lives().await;
    // A name that goes with another connection is nobody's.
    let disconnect = json!({ "user": "alice", "client": first });
    assert_eq!(code(&call(&node, "disconnect", disconnect).await), 0);
    bob.assert_lives().await;
    assert_eq!(
        code(&call(&node, "disconnect", json!({ "user": "bob" })).await),
        0
    );
    assert_eq!(bob.closed().await, (3503, "force disconnect".to_owned()));
    let expired = json!({ "user": "alice", "expired": true });
    assert_eq!(code(&call(&node, "refresh", expired).await), 0);
    assert_eq!(alice_too.closed().await, (3005, "connection expired".to_owned()));
}

#[tokio::test]
async fn a_connection_elsewhere_is_subscribed_and_unsubscribed() {
    let [node, other] = two("").await;
    let (mut alice, client) = user(&other, "alice").await;
    let mut owner = Owner::of(&other, "news", 1, 50).await;
    let subscribe = json!({ "user": "alice", "channel": "news", "data": { "a": 1 } });
    let (answer, ()) = tokio::join!(call(&node, "subscribe", subscribe.clone()), owner.in_force(30));
    assert_eq!(answer, json!({ "result": {} }));
    let push = alice.json().await;
    let expected = json!({ "push": { "channel": "news", "subscribe": {
        "recoverable": true, "positioned": true, "epoch": owner.log_epoch(), "offset": 50, "data": { "a": 1 } } } });
    assert_eq!(push, expected);
    // It is subscribed already, and stays.
    assert_eq!(call(&node, "subscribe", subscribe).await, json!({ "result": {} }));
    let channels = call(&node, "channels", json!({ "pattern": "n*" })).await;
    assert_eq!(
        channels,
        json!({ "result": { "channels": { "news": { "num_clients": 1 } } } })
    );
    let none = call(&node, "channels", json!({ "pattern": "x*" })).await;
    assert_eq!(none, json!({ "result": { "channels": {} } }));
    let unsubscribe = json!({ "client": client, "channel": "news" });
    assert_eq!(
        call(&node, "unsubscribe", unsubscribe.clone()).await,
        json!({ "result": {} })
    );
    let push = alice.json().await;
    assert_eq!(push["push"]["unsubscribe"]["code"], 2000, "{push}");
    let channels = call(&node, "channels", json!({})).await;
    assert_eq!(channels, json!({ "result": { "channels": {} } }));
    assert_eq!(
        call(&node, "unsubscribe", unsubscribe).await,
        json!({ "result": {} })
    );
    alice.assert_lives().await;
}

/// Whoever comes later is subscribed as well, on whichever gateway, until it is taken back.
#[tokio::test]
async fn a_users_subscription_is_there_at_the_next_connect() {
    let [node, other] = two("").await;
    let overrides = json!({ "force_recovery": { "value": false } });
    let subscribe = json!({ "user": "alice", "channel": "news", "data": { "a": 1 }, "override": overrides });
    assert_eq!(call(&node, "subscribe", subscribe).await, json!({ "result": {} }));
    let mut owner = Owner::of(&other, "news", 1, 50).await;
    let mut alice = other.client().await;
    let connect = json!({ "id": 1, "connect": { "token": token(&json!({ "sub": "alice" })) } }).to_string();
    alice.send(&connect).await;
    owner.in_force(30).await;
    let reply = alice.json().await;
    assert_eq!(
        reply["connect"]["subs"]["news"]["data"],
        json!({ "a": 1 }),
        "{reply}"
    );
    assert!(
        reply["connect"]["subs"]["news"]["recoverable"].is_null(),
        "what the call overrode is kept: {reply}"
    );
    let unsubscribe = json!({ "user": "alice", "channel": "news" });
    assert_eq!(
        call(&node, "unsubscribe", unsubscribe).await,
        json!({ "result": {} })
    );
    let push = alice.json().await;
    assert_eq!(push["push"]["unsubscribe"]["code"], 2000, "{push}");
    let mut again = other.client().await;
    again.send(&connect).await;
    let reply = again.json().await;
    assert!(reply["connect"]["subs"].is_null(), "{reply}");
    // One that is meant for a connection is not kept.
    let client = reply["connect"]["client"].as_str().unwrap();
    let subscribe = json!({ "user": "bob", "client": client, "channel": "news" });
    call(&node, "subscribe", subscribe).await;
    let (mut bob, _) = user(&node, "bob").await;
    bob.assert_lives().await;
}

/// Rather than a part for the whole.
#[tokio::test]
async fn a_gateway_that_does_not_answer_makes_an_error() {
    let node = Node::start(&format!("answer_timeout = \"300ms\"\n{}", keys(""))).await;
    let others = Context::new();
    // It beats, and does nothing else.
    let silent = Membership::join(
        Arc::clone(&node.bus),
        Role::Gateway,
        Incarnation::random(),
        MembershipSettings::default(),
        &others.tasks.tracker(),
        others.tasks.stop_token(),
    )
    .await
    .unwrap();
    let until = async |expected| {
        let reached = async || code(&call(&node, "info", json!({})).await) == expected;
        wait_until(DEADLINE, reached).await.unwrap();
    };
    until(100).await;
    // It says that it leaves.
    others.tasks.stop(Duration::from_secs(5)).await;
    drop(silent);
    until(0).await;
}

/// All gateways have to share one.
#[tokio::test]
async fn without_a_key_there_is_no_server_api() {
    let node = Node::insecure("").await;
    assert_eq!(node.api, None);
    let node = Node::start(&keys("enabled = false")).await;
    assert_eq!(node.api, None);
}

/// What is hidden is named by the offset that was the head before: neither a repetition nor a late question hides more.
#[tokio::test]
async fn removing_a_history_names_what_was_there() {
    let node = Node::start(&keys("")).await;
    let mut owner = Owner::of(&node, "room", 1, 50).await;
    let remove = || call(&node, "history_remove", json!({ "channel": "room" }));
    let answers = async |owner: &mut Owner, outcomes: &[HistoryOutcome]| {
        let (question, to) = owner.history_asked().await;
        assert_eq!((question.limit, question.hide), (0, None));
        assert_eq!(question.at_least, 50, "R6: what was delivered is removed too");
        owner.history(&to, 30, Vec::new()).await;
        for outcome in outcomes {
            let (question, to) = owner.history_asked().await;
            let hide = question.hide.unwrap();
            assert_eq!((&*question.channel, hide.up_to), ("room", 30));
            assert_eq!(hide.log_epoch, owner.log_epoch());
            owner.no_history(&to, *outcome).await;
        }
    };
    for (outcomes, expected) in [
        (&[HistoryOutcome::Hidden][..], 0),
        (&[HistoryOutcome::Unavailable, HistoryOutcome::Hidden], 0),
        (&[HistoryOutcome::NoRoom], 106),
        // An owner of before, which takes it for a question about history.
        (&[HistoryOutcome::Complete], 108),
    ] {
        let (answer, ()) = tokio::join!(remove(), answers(&mut owner, outcomes));
        assert_eq!(code(&answer), expected, "{outcomes:?}: {answer}");
    }
}
