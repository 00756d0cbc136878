//! Channels with members, and receipts, with a message store that a test has speak.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message as _;
use serde_json::{Value, json};
use switchboard_bus::messages::{ANSWERERS, AskError, answered};
use switchboard_bus::{Pattern, Subject};
use switchboard_proto::bus::change::What;
use switchboard_proto::bus::{Change, Delivered, MembersChanged, Message, PayloadKind, Question, up_item};
use switchboard_proto::format;
use switchboard_proto::messages::{
    MarkReceiptsRequest, MarkReceiptsResponse, Method as _, Role, Standing, StandingsRequest,
    StandingsResponse, method,
};

use super::harness::{Client, Node, next_question};
use super::owner::Owner;
use super::tokens::{SECRET, connected, reply, send};

const CHANNEL: &str = "team:1";
const DIRECT: &str = "dm:#alice,bob";

/// What the store knows, and what it was asked.
#[derive(Default)]
struct Known {
    roles: BTreeMap<(String, String), Role>,
    members: u64,
    is_down: bool,
    /// Names of users in each question about members.
    asked: VecDeque<Vec<String>>,
    marks: Vec<MarkReceiptsRequest>,
}

#[derive(Clone, Default)]
struct Store(Arc<Mutex<Known>>);

impl Store {
    async fn beside(node: &Node) -> Self {
        let store = Self::default();
        let pattern = Pattern::Exactly(Subject::Messages);
        let mut questions = node.bus.subscribe_group(pattern, ANSWERERS, 64).await.unwrap();
        let (bus, this) = (Arc::clone(&node.bus), store.clone());
        node.context.tasks.spawn(
            "store",
            switchboard_service_kit::tasks::TaskKind::Replaceable,
            async move {
                while let Some(message) = next_question(&*bus, &mut questions).await {
                    let question: Question = format::decode(message.payload).unwrap();
                    let answer = this.answer(&question);
                    bus.reply(&message.reply.unwrap(), answered(answer))
                        .await
                        .unwrap();
                }
            },
        );
        store
    }

    fn answer(&self, question: &Question) -> Result<Bytes, AskError> {
        let mut known = self.0.lock();
        if known.is_down {
            return Err(AskError::Unavailable("down".to_owned()));
        }
        if question.method == method::Standings::NAME {
            let request = StandingsRequest::decode(question.request.clone()).unwrap();
            known
                .asked
                .push_back(request.pairs.iter().map(|pair| pair.user.clone()).collect());
            let standings = request.pairs.into_iter().map(|pair| Standing {
                role: known
                    .roles
                    .get(&(pair.channel, pair.user))
                    .copied()
                    .unwrap_or(Role::None)
                    .into(),
                members: known.members,
                ..Standing::default()
            });
            let response = StandingsResponse {
                standings: standings.collect(),
            };
            return Ok(response.encode_to_vec().into());
        }
        assert_eq!(question.method, method::MarkReceipts::NAME);
        let request = MarkReceiptsRequest::decode(question.request.clone()).unwrap();
        known.marks.push(request.clone());
        let response = MarkReceiptsResponse {
            moved: request.receipts,
        };
        Ok(response.encode_to_vec().into())
    }

    fn role(&self, user: &str, role: Role) {
        let key = (CHANNEL.to_owned(), user.to_owned());
        self.0.lock().roles.insert(key, role);
    }

    fn down(&self, is_down: bool) {
        self.0.lock().is_down = is_down;
    }

    fn asked(&self) -> Vec<Vec<String>> {
        self.0.lock().asked.drain(..).collect()
    }
}

async fn node(more: &str) -> Node {
    Node::start(&format!(
        "answer_timeout = \"1s\"\nlimits.command_rate = 0\n[gateway.tokens]\nhmac_secret = \"{SECRET}\"\n\
         [gateway.conversations]\nreceipts_window = \"20ms\"\n{more}\n\
         [namespaces.team]\nmembers = true\nallow_subscribe_for_client = true\nallow_publish_for_client = true\n\
         allow_history_for_client = true\n\
         [namespaces.dm]\nallow_user_limited_channels = true\n"
    ))
    .await
}

async fn subscribe(client: &mut Client, id: u32) {
    send(client, id, "subscribe", json!({"channel": CHANNEL})).await;
}

fn event(offset: u64, event: MembersChanged) -> Delivered {
    let message = Message {
        id: Bytes::from_static(&[7; 16]),
        channel: CHANNEL.to_owned(),
        kind: PayloadKind::Json.into(),
        payload: Bytes::from_static(b"{}"),
        tags: [("sb-change".to_owned(), "members".to_owned())].into(),
        change: Some(Change {
            what: Some(What::Members(event)),
        }),
        ..Message::default()
    };
    Delivered {
        offset,
        message: message.encode_to_vec().into(),
    }
}

#[tokio::test]
async fn nobody_is_let_in_of_whom_it_is_not_known() {
    let node = node("").await;
    let mut owner = Owner::of(&node, CHANNEL, 1, 1 << 12).await;
    let mut alice = connected(&node, json!({"sub": "alice"})).await;
    subscribe(&mut alice, 2).await;
    assert_eq!(reply(&mut alice, 2, "error").await["code"], 100, "no store");
    let store = Store::beside(&node).await;
    store.down(true);
    subscribe(&mut alice, 3).await;
    let error = reply(&mut alice, 3, "error").await;
    assert_eq!(
        (&error["code"], &error["temporary"]),
        (&json!(100), &json!(true)),
        "a store that is down"
    );
    store.down(false);
    for (id, command, request) in [
        (4, "subscribe", json!({"channel": CHANNEL})),
        (5, "publish", json!({"channel": CHANNEL, "data": 1})),
        (6, "history", json!({"channel": CHANNEL, "limit": 1})),
        (
            7,
            "rpc",
            json!({"method": "message.send", "data": {"channel": CHANNEL, "data": 1}}),
        ),
        (
            8,
            "rpc",
            json!({"method": "receipt.read", "data": {"channel": CHANNEL, "offset": 1}}),
        ),
    ] {
        send(&mut alice, id, command, request).await;
        assert_eq!(
            reply(&mut alice, id, "error").await["code"],
            103,
            "{command} of no member"
        );
    }
    assert_eq!(store.asked(), [["alice"]], "that she is none is kept in mind");
    let mut anonymous = connected(&node, json!({"sub": ""})).await;
    subscribe(&mut anonymous, 2).await;
    assert_eq!(reply(&mut anonymous, 2, "error").await["code"], 103);
    assert!(store.asked().is_empty());

    store.role("bob", Role::Member);
    let mut bob = connected(&node, json!({"sub": "bob"})).await;
    subscribe(&mut bob, 2).await;
    owner.in_force(1 << 12).await;
    reply(&mut bob, 2, "subscribe").await;
    // Once it is known the store is not needed.
    store.down(true);
    let mut again = connected(&node, json!({"sub": "bob"})).await;
    subscribe(&mut again, 2).await;
    reply(&mut again, 2, "subscribe").await;
    assert_eq!(store.asked(), [["bob"]]);
}

#[tokio::test]
async fn what_is_known_is_asked_again_after_a_while() {
    let node = node("members_ttl = \"100ms\"").await;
    let store = Store::beside(&node).await;
    let mut alice = connected(&node, json!({"sub": "alice"})).await;
    let mut id = 2;
    let mut code = async || {
        id += 1;
        send(&mut alice, id, "history", json!({"channel": CHANNEL, "limit": 1})).await;
        reply(&mut alice, id, "error").await["code"].clone()
    };
    assert_eq!(code().await, 103);
    store.role("alice", Role::Member);
    let begun = tokio::time::Instant::now();
    // Nobody owns the shard, so that of who is let in it cannot be answered.
    while code().await == 103 {
        assert!(begun.elapsed() < super::harness::DEADLINE);
    }
}

#[tokio::test]
async fn a_removed_member_is_out_with_the_event() {
    let node = node("").await;
    let store = Store::beside(&node).await;
    let mut owner = Owner::of(&node, CHANNEL, 1, 1 << 12).await;
    for user in ["alice", "bob"] {
        store.role(user, Role::Member);
    }
    let mut alice = connected(&node, json!({"sub": "alice"})).await;
    let mut bob = connected(&node, json!({"sub": "bob"})).await;
    subscribe(&mut alice, 2).await;
    owner.in_force(1 << 12).await;
    reply(&mut alice, 2, "subscribe").await;
    subscribe(&mut bob, 2).await;
    reply(&mut bob, 2, "subscribe").await;
    let removed = MembersChanged {
        removed: vec!["bob".to_owned()],
        ..MembersChanged::default()
    };
    owner
        .deliver(1 << 12, 2 << 12, vec![event(2 << 12, removed)])
        .await;
    for client in [&mut alice, &mut bob] {
        let push = client.json().await["push"]["pub"].clone();
        assert_eq!(push["tags"]["sb-change"], "members", "{push}");
    }
    let push = bob.json().await;
    assert_eq!(push["push"]["unsubscribe"]["code"], 2000, "{push}");
    // The store has not read it yet, and would let him in.
    subscribe(&mut bob, 3).await;
    assert_eq!(reply(&mut bob, 3, "error").await["code"], 103);
    // Others go on.
    let added = MembersChanged {
        added: vec![switchboard_proto::bus::ChannelMember {
            user: "bob".to_owned(),
            role: 0,
        }],
        ..MembersChanged::default()
    };
    owner.deliver(2 << 12, 3 << 12, vec![event(3 << 12, added)]).await;
    assert_eq!(alice.json().await["push"]["pub"]["offset"], 3 << 12);
    subscribe(&mut bob, 4).await;
    reply(&mut bob, 4, "subscribe").await;
}

async fn read(client: &mut Client, id: u32, data: Value) {
    let data = json!({"method": "receipt.read", "data": data});
    send(client, id, "rpc", data).await;
}

#[tokio::test]
async fn receipts_are_collected_checked_and_told() {
    let node = node("receipts_told_every = \"50ms\"").await;
    let store = Store::beside(&node).await;
    let mut owner = Owner::of(&node, DIRECT, 1, 9 << 12).await;
    let mut alice = connected(&node, json!({"sub": "alice"})).await;
    send(&mut alice, 2, "subscribe", json!({"channel": DIRECT})).await;
    owner.in_force(5 << 12).await;
    reply(&mut alice, 2, "subscribe").await;
    for (id, offset) in [(3, 2 << 12), (4, 3 << 12), (5, 1 << 12), (6, 6 << 12), (7, 0)] {
        read(&mut alice, id, json!({"channel": DIRECT, "offset": offset})).await;
    }
    let epoch = owner.log_epoch();
    read(
        &mut alice,
        8,
        json!({"channel": DIRECT, "offset": 4 << 12, "epoch": epoch}),
    )
    .await;
    read(
        &mut alice,
        9,
        json!({"channel": DIRECT, "offset": 1, "epoch": "2-00000001"}),
    )
    .await;
    let (question, to) = owner.history_asked().await;
    assert_eq!((question.channel.as_str(), question.limit), (DIRECT, 0));
    owner.history(&to, 5 << 12, Vec::new()).await;
    let mut answers = BTreeMap::new();
    for _ in 3..=9 {
        let reply = alice.json().await;
        let code = reply["error"]["code"].as_u64();
        answers.insert(reply["id"].as_u64().unwrap(), code);
    }
    let expected = [
        (3, None),
        (4, None),
        (5, None),
        (6, Some(107)),
        (7, Some(107)),
        (8, None),
        (9, Some(107)),
    ];
    assert_eq!(answers, expected.into());
    let marks: Vec<_> = std::mem::take(&mut store.0.lock().marks);
    let highest = |marks: &[MarkReceiptsRequest]| {
        let receipts = marks.iter().flat_map(|request| &request.receipts);
        receipts
            .filter_map(|receipt| Some(receipt.read.as_ref()?.offset))
            .max()
    };
    assert_eq!(highest(&marks), Some(4 << 12));
    let (_, item) = owner.item().await;
    let up_item::Item::Ephemeral(ephemeral) = item else {
        panic!("{item:?}");
    };
    let message = Message::decode(ephemeral.message).unwrap();
    assert_eq!(message.tags["sb-change"], "receipt");
    let told: Value = serde_json::from_slice(&message.payload).unwrap();
    assert_eq!(told["user"], "alice");
    // Once the head is known the owner is not asked below it.
    read(&mut alice, 10, json!({"channel": DIRECT, "offset": 5 << 12})).await;
    assert!(reply(&mut alice, 10, "rpc").await["data"].is_object());
    // A store that does not answer leaves no doubt.
    store.down(true);
    read(&mut alice, 11, json!({"channel": DIRECT, "offset": 5 << 12})).await;
    assert_eq!(reply(&mut alice, 11, "error").await["code"], 100);
}
