//! What a client that does not read for a while finds when it reads again.

use prost::Message as _;
use serde_json::{Value, json};
use switchboard_proto::bus::{Delivered, Ephemeral, Message, PayloadKind, Priority, down_item};
use switchboard_proto::ids::{ShardCount, ShardId};

use super::harness::{Client, Node, SHARDS};
use super::owner::{Owner, message};

/// Bytes of each message of a backlog, and how many there are: more than both sides' kernels take.
const LONG: usize = 50_000;
const MANY: u64 = 600;

/// A queue that takes all of it, and time to write it.
const PATIENT: &str = "outgoing_queue = \"64MiB\"\nwrite_timeout = \"60s\"\nsystem_messages = false";

/// Another channel of the shard that has "room".
fn other_channel() -> String {
    let shards = ShardCount::new(SHARDS).unwrap();
    let shard = ShardId::of_channel("room", shards);
    let names = (0..).map(|number| format!("other{number}"));
    names
        .into_iter()
        .find(|name| ShardId::of_channel(name, shards) == shard)
        .unwrap()
}

/// A client that is subscribed to "room" and to another channel of its shard.
async fn two_channels(node: &Node) -> (Owner, Client, String) {
    let other = other_channel();
    let mut owner = Owner::of(node, "room", 1, 50).await;
    let mut client = node.connected().await;
    for (id, channel) in [(2, "room"), (3, other.as_str())] {
        let request = json!({ "id": id, "subscribe": { "channel": channel } });
        client.send(&request.to_string()).await;
        owner.in_force(30).await;
        assert_eq!(client.json().await["id"], id);
    }
    (owner, client, other)
}

fn urgent(channel: &str, offset: u64, priority: Priority) -> Delivered {
    let mut delivered = message(channel, offset, 0);
    let mut message = Message::decode(delivered.message).unwrap();
    message.set_priority(priority);
    delivered.message = message.encode_to_vec().into();
    delivered
}

async fn publication(client: &mut Client) -> (String, u64) {
    let push = client.json().await["push"].take();
    let channel = push["channel"].as_str().unwrap_or_default().to_owned();
    (channel, push["pub"]["offset"].as_u64().unwrap())
}

#[tokio::test]
async fn r2_a_critical_message_overtakes_the_backlog_of_another_channel_and_not_of_its_own() {
    let node = Node::insecure(PATIENT).await;
    let (mut owner, mut client, other) = two_channels(&node).await;
    let mut at = 50;
    for number in 0..MANY {
        owner
            .deliver(at, at + 10, vec![message(&other, at + 5, LONG)])
            .await;
        at += 10;
        // One of the urgent channel's own waits in the middle of it.
        if number == MANY - 20 {
            owner.deliver(at, at + 10, vec![message("room", at + 5, 0)]).await;
            at += 10;
        }
    }
    let critical = urgent("room", at + 5, Priority::Critical);
    owner.deliver(at, at + 10, vec![critical]).await;
    node.until("switchboard_gateway_link_publications_total", MANY + 2)
        .await;

    let mut of_room = Vec::new();
    let mut of_other = Vec::new();
    let mut before = 0;
    for _ in 0..MANY + 2 {
        let (channel, offset) = publication(&mut client).await;
        if channel == "room" {
            of_room.push(offset);
            before = of_other.len();
        } else {
            of_other.push(offset);
        }
    }
    assert_eq!(of_room.len(), 2);
    for offsets in [&of_room, &of_other] {
        assert!(offsets.is_sorted(), "the order of a channel: {offsets:?}");
    }
    assert_eq!(of_other.len() as u64, MANY);
    // What the kernels had taken already is before it.
    assert!(
        before < of_other.len() * 3 / 4,
        "{before} of {MANY} came before the critical message"
    );
    client.assert_lives().await;
}

#[tokio::test]
async fn what_is_low_and_not_stored_goes_before_the_client_does() {
    let node =
        Node::insecure("outgoing_queue = \"1MiB\"\nwrite_timeout = \"60s\"\nsystem_messages = false").await;
    let (mut owner, mut client, other) = two_channels(&node).await;
    let low = |number: u64| {
        let message = Message {
            channel: other.clone(),
            kind: PayloadKind::Json.into(),
            payload: format!("[{number},\"{}\"]", "x".repeat(LONG)).into(),
            priority: Priority::Low.into(),
            ..Message::default()
        };
        let message = message.encode_to_vec().into();
        down_item::Item::Ephemeral(Ephemeral { message })
    };
    for number in 0..MANY {
        owner.send(low(number)).await;
    }
    owner.deliver(50, 60, vec![message("room", 55, 0)]).await;
    node.until("switchboard_gateway_link_publications_total", MANY + 1)
        .await;
    let mut last = None;
    loop {
        let push: Value = client.json().await["push"].take();
        if push["channel"] == "room" {
            break;
        }
        let number = push["pub"]["data"][0].as_u64();
        assert!(number > last, "{number:?} after {last:?}");
        last = number;
    }
    // It is not let go, and what it was not given is counted.
    client_lives_behind_the_rest(&mut client).await;
    assert!(node.metric("switchboard_gateway_outgoing_dropped_total") > 0);
}

/// As [`Client::assert_lives`], behind publications that still wait.
async fn client_lives_behind_the_rest(client: &mut Client) {
    client.send(r#"{"id":9,"rpc":{"method":"any"}}"#).await;
    while client.json().await["id"] != 9 {}
}
