//! What a changed configuration file does to those who are connected.

use std::path::PathBuf;

use serde_json::{Value, json};
use switchboard_proto::ids::ShardId;

use super::super::*;
use super::harness::{Client, Node, SHARDS};
use super::owner::Owner;
use super::tokens::{SECRET, connected, reply, send, token};

const ROOM: &str = "[namespaces.room]\nallow_subscribe_for_client = true\nallow_publish_for_client = true\n";

const HALL: &str = "[namespaces.hall]\nallow_subscribe_for_client = true\n";

/// A configuration file, and a gateway that looks at it.
struct Configured {
    _folder: tempfile::TempDir,
    file: PathBuf,
    node: Node,
}

impl Configured {
    async fn start(policy: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("switchboard.toml");
        std::fs::write(&file, text(policy)).unwrap();
        let node = Node::of_file(&file).await;
        Self {
            _folder: folder,
            file,
            node,
        }
    }

    /// At once: the gateway looks every few milliseconds.
    fn write(&self, policy: &str) {
        let new = self.file.with_extension("new");
        std::fs::write(&new, text(policy)).unwrap();
        std::fs::rename(new, &self.file).unwrap();
    }

    async fn reloaded(&self, result: &str, times: u64) {
        let line = format!("switchboard_gateway_policy_reloads_total{{result=\"{result}\"}}");
        self.node.until(&line, times).await;
    }
}

fn text(policy: &str) -> String {
    format!(
        "[gateway]\nlisten = \"127.0.0.1:0\"\ninbox = false\nreload_interval = \"20ms\"\n\
         [gateway.tokens]\nhmac_secret = \"{SECRET}\"\n{policy}"
    )
}

/// A channel of `namespace` in the shard of `other`.
fn beside(other: &str, namespace: &str) -> String {
    let shard = |name: &str| ShardId::of_channel(name, ShardCount::new(SHARDS).unwrap());
    (0..)
        .map(|number| format!("{namespace}:{number}"))
        .find(|name| name != other && shard(name) == shard(other))
        .unwrap()
}

async fn subscribe(client: &mut Client, owner: &mut Owner, id: u32, request: Value) -> Value {
    send(client, id, "subscribe", request).await;
    owner.in_force(30).await;
    reply(client, id, "subscribe").await
}

fn told() -> Value {
    let system = json!({ "type": "policy_changed", "text": "what is allowed in channels has changed" });
    json!({ "push": { "message": { "data": { "system": system } } } })
}

fn ended(channel: &str, code: u32, reason: &str) -> Value {
    json!({ "push": { "channel": channel, "unsubscribe": { "code": code, "reason": reason } } })
}

#[tokio::test]
async fn who_may_not_have_a_channel_any_more_loses_it_and_nobody_else_anything() {
    let configured = Configured::start(&format!("{ROOM}{HALL}")).await;
    let room = "room:1";
    let (by_token, hall) = (beside(room, "room"), beside(room, "hall"));
    let mut owner = Owner::of(&configured.node, room, 1, 50).await;
    let mut client = connected(&configured.node, json!({ "sub": "alice" })).await;
    let grant = token(&json!({ "sub": "alice", "channel": by_token }));
    for (id, request) in [
        (2, json!({ "channel": room })),
        (3, json!({ "channel": by_token, "token": grant })),
        (4, json!({ "channel": hall })),
    ] {
        subscribe(&mut client, &mut owner, id, request).await;
    }

    // What is no good changes nothing.
    configured.write("[namespaces.hall]\npublish_size = \"1GiB\"\n");
    configured.reloaded("failed", 1).await;
    client.assert_lives().await;

    configured.write(&format!(
        "[namespaces.room]\nallow_subscribe_for_anonymous = true\n{HALL}"
    ));
    configured.reloaded("done", 1).await;
    assert_eq!(client.json().await, told());
    assert_eq!(client.json().await, ended(room, 2500, "insufficient state"));
    // Nothing else ended.
    client.assert_lives().await;
    let refused = |id| json!({ "id": id, "error": { "code": 103, "message": "permission denied" } });
    send(&mut client, 10, "subscribe", json!({ "channel": room })).await;
    assert_eq!(client.json().await, refused(10));
    send(&mut client, 11, "publish", json!({ "channel": room, "data": 1 })).await;
    assert_eq!(client.json().await, refused(11));

    // And back again.
    configured.write(&format!("{ROOM}{HALL}"));
    configured.reloaded("done", 2).await;
    assert_eq!(client.json().await, told());
    send(&mut client, 12, "subscribe", json!({ "channel": room })).await;
    // The owner was told that nobody is there any more.
    owner.item().await;
    owner.in_force(30).await;
    reply(&mut client, 12, "subscribe").await;
}

#[tokio::test]
async fn a_channel_of_another_kind_is_subscribed_to_anew() {
    let configured = Configured::start(&format!("{ROOM}{HALL}")).await;
    let room = "room:1";
    let mut owner = Owner::of(&configured.node, room, 1, 50).await;
    let mut client = connected(&configured.node, json!({ "sub": "alice" })).await;
    let first = subscribe(&mut client, &mut owner, 2, json!({ "channel": room })).await;
    assert_eq!(first["recoverable"], true);
    // One by the server, which is made with the connection.
    let mut given = configured.node.client().await;
    let claims = json!({ "sub": "bob", "channels": [room] });
    send(&mut given, 1, "connect", json!({ "token": token(&claims) })).await;
    reply(&mut given, 1, "connect").await;

    configured.write(&format!("{ROOM}durable = false\n{HALL}"));
    configured.reloaded("done", 1).await;
    assert_eq!(client.json().await, told());
    assert_eq!(client.json().await, ended(room, 2500, "insufficient state"));
    assert_eq!(given.closed().await, (3010, "insufficient state".to_owned()));
}

#[tokio::test]
async fn what_a_token_gave_ends_where_its_namespace_is_gone() {
    let configured = Configured::start(&format!("{ROOM}{HALL}")).await;
    let room = "room:1";
    let mut owner = Owner::of(&configured.node, room, 1, 50).await;
    let mut given = configured.node.client().await;
    let claims = json!({ "sub": "bob", "channels": [room] });
    send(&mut given, 1, "connect", json!({ "token": token(&claims) })).await;
    owner.in_force(30).await;
    reply(&mut given, 1, "connect").await;

    configured.write(HALL);
    configured.reloaded("done", 1).await;
    assert_eq!(given.json().await, told());
    assert_eq!(given.json().await, ended(room, 2000, "server unsubscribe"));
    given.assert_lives().await;
}

#[tokio::test]
async fn a_file_that_is_gone_changes_nothing_and_its_successor_counts() {
    let configured = Configured::start(ROOM).await;
    let mut client = connected(&configured.node, json!({ "sub": "alice" })).await;
    std::fs::remove_file(&configured.file).unwrap();
    configured.reloaded("failed", 1).await;
    configured.write(&format!("{ROOM}allow_history_for_client = true\n"));
    configured.reloaded("done", 1).await;
    assert_eq!(client.json().await, told());
    client.assert_lives().await;
}
