//! Edits, deletions and reactions on the wire: what is asked of the owner before, and what is published then.

use bytes::Bytes;
use prost::Message as _;
use serde_json::{Value, json};
use switchboard_bus::messages::{ANSWERERS, AskError, answered};
use switchboard_bus::{Pattern, Subject, Subscription};
use switchboard_proto::bus::{
    Answer, Change, Delivered, Edit, HistoryOutcome, Message, MessageAt, PayloadKind, Question, Sender,
    answer, change, down_item, up_item,
};
use switchboard_proto::format;
use switchboard_proto::messages::{
    Fold, FoldAt, FoldedMessage, FoldsResponse, MessageRequest, MessageResponse, Reaction, ThreadRequest,
    ThreadResponse,
};
use switchboard_proto::tags;
use uuid::Uuid;

use super::harness::{Client, DEADLINE, Node, next_question};
use super::owner::Owner;
use super::tokens::{SECRET, connected, reply, send};

const CHANNEL: &str = "talk:1";

/// Users may publish in `talk`, and react in `loud`; edits are over after a minute.
async fn node() -> Node {
    Node::start(&format!(
        "[gateway.tokens]\nhmac_secret = \"{SECRET}\"\nanonymous = \"everybody\"\n\
         [namespaces.talk]\nallow_publish_for_client = true\nallow_publish_for_anonymous = true\n\
         allow_history_for_client = true\nallow_message_changes = true\nedit_within = \"1m\"\n\
         [namespaces.loud]\nallow_subscribe_for_client = true\nallow_message_changes = true\n\
         allow_reactions_for_subscriber = true\n\
         [namespaces.off]\nallow_publish_for_client = true\n\
         [namespaces.passing]\nallow_publish_for_client = true\nallow_message_changes = true\ndurable = false"
    ))
    .await
}

async fn call(client: &mut Client, id: u32, method: &str, data: Value) {
    send(client, id, "rpc", json!({ "method": method, "data": data })).await;
}

/// What alice said, just now.
fn said() -> Message {
    Message {
        id: Uuid::now_v7().into_bytes().to_vec().into(),
        channel: CHANNEL.to_owned(),
        kind: PayloadKind::Json.into(),
        payload: Bytes::from_static(b"1"),
        sender: Some(Sender {
            user: "alice".to_owned(),
            ..Sender::default()
        }),
        ..Message::default()
    }
}

fn delivered(offset: u64, message: &Message) -> Delivered {
    Delivered {
        offset,
        message: message.encode_to_vec().into(),
    }
}

/// The gateway asks what stands at `offset`, and is told.
async fn asked(owner: &mut Owner, offset: u64, message: Option<&Message>) {
    let (question, to) = owner.history_asked().await;
    assert_eq!(
        (question.exact, question.since, question.limit),
        (true, Some(offset - 1), 1)
    );
    let found = message.map(|message| delivered(offset, message));
    owner.history(&to, 100, found.into_iter().collect()).await;
}

/// The gateway publishes; it is stored at `offset`.
async fn published(owner: &mut Owner, offset: u64) -> Message {
    let (_, item) = owner.item().await;
    let up_item::Item::Publish(publish) = item else {
        panic!("not a publish: {item:?}");
    };
    let stored = Answer {
        series: publish.series,
        number: publish.number,
        outcome: Some(answer::Outcome::Offset(offset)),
        duplicate_of: Bytes::new(),
    };
    owner.send(down_item::Item::Answer(stored)).await;
    Message::decode(publish.message).unwrap()
}

async fn store(node: &Node) -> Subscription {
    let pattern = Pattern::Exactly(Subject::Messages);
    node.bus.subscribe_group(pattern, ANSWERERS, 16).await.unwrap()
}

/// The store is asked by this method, and answers.
async fn store_asked(
    node: &Node,
    store: &mut Subscription,
    method: &str,
    answer: Result<Bytes, AskError>,
) -> Bytes {
    let asked = tokio::time::timeout(DEADLINE, next_question(&*node.bus, store))
        .await
        .expect("a question in time")
        .unwrap();
    let question: Question = format::decode(asked.payload).unwrap();
    assert_eq!(question.method, method);
    node.bus
        .reply(&asked.reply.unwrap(), answered(answer))
        .await
        .unwrap();
    question.request
}

fn nobody_stores() -> Result<Bytes, AskError> {
    Err(AskError::NotAvailable("nothing is stored".to_owned()))
}

#[tokio::test]
async fn each_change_is_a_message_that_says_what_it_does() {
    let node = node().await;
    let mut owner = Owner::of(&node, CHANNEL, 1, 50).await;
    let mut store = store(&node).await;
    let mut client = connected(&node, json!({"sub": "alice"})).await;
    let message = said();
    let at = Some(MessageAt {
        offset: 20,
        log_epoch: owner.log_epoch(),
        id: message.id.clone(),
    });

    let request = json!({ "channel": CHANNEL, "offset": 20, "data": {"a": 1}, "key": "k" });
    call(&mut client, 2, "message.edit", request).await;
    asked(&mut owner, 20, Some(&message)).await;
    let edit = published(&mut owner, 30).await;
    let result = reply(&mut client, 2, "rpc").await["data"].clone();
    let id = tags::id_text(&edit.id);
    assert_eq!(
        result,
        json!({ "id": id, "offset": 30, "epoch": owner.log_epoch(), "duplicate": false })
    );
    assert_eq!(
        (edit.payload.as_ref(), edit.key.as_str()),
        (br#"{"a":1}"#.as_ref(), "k")
    );
    assert_eq!(edit.sender.as_ref().unwrap().user, "alice");
    let what = |message: &Message| message.change.clone().and_then(|change| change.what);
    assert_eq!(what(&edit), Some(change::What::Edit(Edit { target: at.clone() })));
    let named = |message: &Message| {
        let tag = |name: &str| message.tags.get(name).cloned().unwrap_or_default();
        (tag(tags::CHANGE), tag(tags::TARGET), tag(tags::TARGET_EPOCH))
    };
    assert_eq!(named(&edit), ("edit".to_owned(), "20".to_owned(), String::new()));
    assert_eq!(edit.tags[tags::ID], id);

    call(
        &mut client,
        3,
        "message.delete",
        json!({ "channel": CHANNEL, "offset": 20 }),
    )
    .await;
    asked(&mut owner, 20, Some(&message)).await;
    let delete = published(&mut owner, 31).await;
    reply(&mut client, 3, "rpc").await;
    assert_eq!(delete.payload, "null");
    assert!(matches!(what(&delete), Some(change::What::Delete(of)) if of.target == at));
    assert_eq!(named(&delete).0, "delete");

    // Anybody's, by whoever may publish.
    let mut bob = connected(&node, json!({"sub": "bob"})).await;
    let request = json!({ "channel": CHANNEL, "offset": 20, "reaction": "👍" });
    call(&mut bob, 2, "message.react", request).await;
    asked(&mut owner, 20, Some(&message)).await;
    store_asked(&node, &mut store, "Folds", nobody_stores()).await;
    let react = published(&mut owner, 32).await;
    reply(&mut bob, 2, "rpc").await;
    let payload: Value = serde_json::from_slice(&react.payload).unwrap();
    assert_eq!(
        payload,
        json!({ "reaction": "👍", "user": "bob", "remove": false })
    );
    assert!(matches!(what(&react), Some(change::What::React(of)) if of.target == at && of.reaction == "👍"));
}

/// The id of a message of more than an hour ago.
fn long_ago() -> Bytes {
    let mut id = *Uuid::now_v7().as_bytes();
    id[2] = id[2].wrapping_sub(1);
    id.to_vec().into()
}

#[tokio::test]
async fn what_may_not_be_changed_is_not_published() {
    let node = node().await;
    let mut owner = Owner::of(&node, CHANNEL, 1, 50).await;
    let mut alice = connected(&node, json!({"sub": "alice"})).await;
    let mut bob = connected(&node, json!({"sub": "bob"})).await;
    let mut anonymous = node.connected().await;
    let edit = |channel: &str| json!({ "channel": channel, "offset": 20, "data": 1 });
    // Without asking anybody.
    let long = "x".repeat(65);
    let table = [
        ("message.edit", edit("nowhere:1"), 102),
        ("message.edit", edit("off:1"), 108),
        ("message.edit", edit("passing:1"), 108),
        ("message.edit", edit("loud:1"), 103),
        (
            "message.react",
            json!({ "channel": "loud:1", "offset": 20, "reaction": "x" }),
            103,
        ),
        (
            "message.react",
            json!({ "channel": CHANNEL, "offset": 20, "reaction": long }),
            107,
        ),
        (
            "message.react",
            json!({ "channel": CHANNEL, "offset": 20, "reaction": "\u{7}" }),
            107,
        ),
        (
            "message.edit",
            json!({ "channel": CHANNEL, "offset": 0, "data": 1 }),
            107,
        ),
        ("message.edit", json!({ "channel": CHANNEL, "offset": 20 }), 107),
        ("message.delete", json!({ "channel": CHANNEL, "offset": -1 }), 107),
        (
            "message.delete",
            json!({ "channel": CHANNEL, "offset": 20, "key": "x".repeat(129) }),
            107,
        ),
        (
            "message.delete",
            json!({ "channel": CHANNEL, "offset": 20, "colour": "red" }),
            107,
        ),
        (
            "thread.list",
            json!({ "channel": CHANNEL, "offset": 20, "limit": 0 }),
            107,
        ),
        (
            "thread.list",
            json!({ "channel": CHANNEL, "offset": 20, "cursor": "21.1-00000001.3.1-00000001" }),
            107,
        ),
        ("thread.list", json!({ "channel": "off:1", "offset": 20 }), 103),
    ];
    for (id, (method, request, code)) in (2..).zip(table) {
        call(&mut alice, id, method, request.clone()).await;
        assert_eq!(
            reply(&mut alice, id, "error").await["code"],
            code,
            "{method} {request}"
        );
    }
    call(&mut anonymous, 2, "message.edit", edit(CHANNEL)).await;
    assert_eq!(
        reply(&mut anonymous, 2, "error").await["code"],
        103,
        "nobody can tell whose it was"
    );
    call(&mut bob, 2, "message.edit", edit(CHANNEL)).await;
    asked(&mut owner, 20, Some(&said())).await;
    assert_eq!(reply(&mut bob, 2, "error").await["code"], 103, "alice's");
    // By what is there.
    let of = |change: fn(&mut Message)| {
        let mut message = said();
        change(&mut message);
        Some(message)
    };
    let table = [
        (None, 107),
        (of(|message| message.change = Some(Change::default())), 107),
        (of(|message| message.origin = Some(Default::default())), 107),
        (
            of(|message| drop(message.tags.insert(tags::DELETED.to_owned(), "true".to_owned()))),
            107,
        ),
        (of(|message| message.sender = None), 103),
        (of(|message| message.id = long_ago()), 103),
    ];
    for (id, (message, code)) in (40..).zip(table) {
        call(&mut alice, id, "message.edit", edit(CHANNEL)).await;
        asked(&mut owner, 20, message.as_ref()).await;
        assert_eq!(reply(&mut alice, id, "error").await["code"], code, "{message:?}");
    }
    // What was refused was not published: the next thing that comes is this.
    call(&mut alice, 60, "message.edit", edit(CHANNEL)).await;
    asked(&mut owner, 20, Some(&said())).await;
    assert_eq!(published(&mut owner, 30).await.payload, "1");
}

#[tokio::test]
async fn what_the_log_does_not_have_the_store_is_asked_for() {
    let node = node().await;
    let mut owner = Owner::of(&node, CHANNEL, 2, 50).await;
    let mut store = store(&node).await;
    let mut client = connected(&node, json!({"sub": "alice"})).await;
    let request = json!({ "channel": CHANNEL, "offset": 20 });
    let found = MessageResponse {
        message: Some(FoldedMessage {
            message: said().encode_to_vec().into(),
            ..FoldedMessage::default()
        }),
    };
    // Purged.
    call(&mut client, 2, "message.delete", request.clone()).await;
    let (_, to) = owner.history_asked().await;
    owner.no_history(&to, HistoryOutcome::TooFar).await;
    let (question, to) = owner.history_asked().await;
    assert_eq!(question.limit, 0, "only which life of the log it is");
    owner.history(&to, 100, Vec::new()).await;
    let asked_for = store_asked(&node, &mut store, "Message", Ok(found.encode_to_vec().into())).await;
    let asked_for = MessageRequest::decode(asked_for).unwrap().place.unwrap();
    assert_eq!((asked_for.offset, asked_for.log_epoch), (20, owner.log_epoch()));
    published(&mut owner, 30).await;
    reply(&mut client, 2, "rpc").await;
    // Of an older life of the log.
    let mut older = request.clone();
    older["epoch"] = json!("1-00000001");
    for (id, answer, code) in [
        (3, Ok(found.encode_to_vec().into()), None),
        (4, Ok(Bytes::new()), Some(107)),
        (5, nobody_stores(), Some(108)),
        (6, Err(AskError::Unavailable("down".to_owned())), Some(100)),
    ] {
        call(&mut client, id, "message.delete", older.clone()).await;
        asked(&mut owner, 20, None).await;
        let asked_for = store_asked(&node, &mut store, "Message", answer).await;
        let asked_for = MessageRequest::decode(asked_for).unwrap().place.unwrap();
        assert_eq!(asked_for.log_epoch, "1-00000001");
        match code {
            Some(code) => assert_eq!(reply(&mut client, id, "error").await["code"], code),
            None => {
                let delete = published(&mut owner, 31).await;
                assert_eq!(delete.tags[tags::TARGET_EPOCH], "1-00000001");
                reply(&mut client, id, "rpc").await;
            }
        }
    }
}

#[tokio::test]
async fn a_message_takes_so_many_different_reactions() {
    let node = node().await;
    let mut owner = Owner::of(&node, CHANNEL, 1, 50).await;
    let mut store = store(&node).await;
    let mut client = connected(&node, json!({"sub": "alice"})).await;
    let reactions = (0..64).map(|number| Reaction {
        reaction: number.to_string(),
        count: 1,
        users: Vec::new(),
    });
    let full = FoldsResponse {
        folds: vec![FoldAt {
            place: None,
            fold: Some(Fold {
                reactions: reactions.collect(),
                ..Fold::default()
            }),
        }],
    };
    for (id, reaction, is_taken) in [(2, "64", false), (3, "7", true)] {
        let request = json!({ "channel": CHANNEL, "offset": 20, "reaction": reaction });
        call(&mut client, id, "message.react", request).await;
        asked(&mut owner, 20, Some(&said())).await;
        store_asked(&node, &mut store, "Folds", Ok(full.encode_to_vec().into())).await;
        if is_taken {
            published(&mut owner, 30).await;
            reply(&mut client, id, "rpc").await;
        } else {
            assert_eq!(reply(&mut client, id, "error").await["code"], 106);
        }
    }
    // To take one back there is always room.
    let request = json!({ "channel": CHANNEL, "offset": 20, "reaction": "64", "remove": true });
    call(&mut client, 4, "message.react", request).await;
    asked(&mut owner, 20, Some(&said())).await;
    published(&mut owner, 31).await;
    reply(&mut client, 4, "rpc").await;
}

#[tokio::test]
async fn a_thread_is_listed_page_by_page() {
    let node = node().await;
    let mut owner = Owner::of(&node, CHANNEL, 1, 50).await;
    let mut store = store(&node).await;
    let mut client = connected(&node, json!({"sub": "alice"})).await;
    let place = |offset| {
        Some(switchboard_proto::messages::Place {
            log_epoch: "1-00000001".to_owned(),
            offset,
        })
    };
    let page = ThreadResponse {
        messages: vec![FoldedMessage {
            place: place(24),
            time_us: 5_000_000,
            message: said().encode_to_vec().into(),
            fold: Some(Fold {
                edited_us: 7_000_000,
                edits: 2,
                ..Fold::default()
            }),
        }],
        more: true,
    };
    call(
        &mut client,
        2,
        "thread.list",
        json!({ "channel": CHANNEL, "offset": 20, "limit": 1 }),
    )
    .await;
    asked(&mut owner, 20, None).await;
    let request = store_asked(&node, &mut store, "Thread", Ok(page.encode_to_vec().into())).await;
    let request = ThreadRequest::decode(request).unwrap();
    assert_eq!((request.root, request.after, request.limit), (place(20), None, 1));
    let listed = reply(&mut client, 2, "rpc").await["data"].clone();
    let expected = json!([{
        "epoch": "1-00000001", "offset": 24, "time": 5000, "data": 1, "info": { "user": "alice", "client": "" },
        "edited": 7000, "edits": 2,
    }]);
    assert_eq!(listed["messages"], expected);
    let next = json!({ "channel": CHANNEL, "offset": 20, "cursor": listed["cursor"] });
    call(&mut client, 3, "thread.list", next).await;
    let last = ThreadResponse::default();
    let request = store_asked(&node, &mut store, "Thread", Ok(last.encode_to_vec().into())).await;
    let request = ThreadRequest::decode(request).unwrap();
    assert_eq!(
        (request.root, request.after, request.limit),
        (place(20), place(24), 50)
    );
    assert_eq!(
        reply(&mut client, 3, "rpc").await["data"],
        json!({ "messages": [] })
    );
}

#[tokio::test]
async fn a_reply_names_its_thread() {
    let node = node().await;
    let mut owner = Owner::of(&node, CHANNEL, 1, 50).await;
    let mut client = connected(&node, json!({"sub": "alice"})).await;
    let request = json!({ "channel": CHANNEL, "data": 1, "thread": 20, "thread_epoch": "1-00000001" });
    call(&mut client, 2, "message.send", request).await;
    let sent = published(&mut owner, 30).await;
    assert_eq!(
        (
            sent.tags[tags::THREAD].as_str(),
            sent.tags[tags::THREAD_EPOCH].as_str()
        ),
        ("20", "1-00000001")
    );
    assert_eq!(sent.thread.unwrap().offset, 20);
    reply(&mut client, 2, "rpc").await;
    for (id, wrong) in [
        (3, json!({ "thread": 0 })),
        (4, json!({ "thread": 20, "thread_epoch": "x" })),
    ] {
        let mut request = json!({ "channel": CHANNEL, "data": 1 });
        request
            .as_object_mut()
            .unwrap()
            .extend(wrong.as_object().unwrap().clone());
        call(&mut client, id, "message.send", request).await;
        assert_eq!(reply(&mut client, id, "error").await["code"], 107);
    }
}
