//! `history.list` on the wire: what an owner has, what a store has of older lives of the log, and cursors over both.

use serde_json::{Value, json};
use switchboard_bus::messages::{ANSWERERS, AskError, answered};
use switchboard_bus::{BusMessage, Subscription};
use switchboard_proto::bus::{Delivered, HistoryOutcome, Question};
use switchboard_proto::format;
use switchboard_proto::messages::{self, HistoryRequest, HistoryResponse, StoredMessage};

use prost::Message as _;

use super::super::*;
use super::harness::{Client, DEADLINE, Node, next_question};
use super::owner::{Owner, message};

async fn ask(client: &mut Client, id: u32, data: Value) {
    let command = json!({ "id": id, "rpc": { "method": "history.list", "data": data } });
    client.send(&command.to_string()).await;
}

async fn page(client: &mut Client, id: u32) -> Value {
    let reply = client.json().await;
    assert_eq!(reply["id"], id, "{reply}");
    reply["rpc"]["data"].clone()
}

async fn refused(client: &mut Client, id: u32) -> u64 {
    let reply = client.json().await;
    assert_eq!(reply["id"], id, "{reply}");
    reply["error"]["code"]
        .as_u64()
        .unwrap_or_else(|| panic!("{reply}"))
}

fn offsets(page: &Value) -> Vec<u64> {
    let messages = page["messages"].as_array().unwrap();
    messages
        .iter()
        .map(|one| one["offset"].as_u64().unwrap())
        .collect()
}

/// The owner is asked what is in force, and then for a page.
async fn is_asked(owner: &mut Owner, messages: &[u64], ended: bool) -> (Option<u64>, u32) {
    let (head, to) = owner.history_asked().await;
    assert_eq!(head.limit, 0);
    owner.history(&to, 50, Vec::new()).await;
    gives(owner, messages, ended).await
}

async fn gives(owner: &mut Owner, offsets: &[u64], ended: bool) -> (Option<u64>, u32) {
    let (question, to) = owner.history_asked().await;
    assert!(question.times);
    let messages: Vec<Delivered> = offsets.iter().map(|offset| message("room", *offset, 0)).collect();
    owner.history_page(&to, 50, messages, ended).await;
    (question.since, question.limit)
}

struct Store {
    bus: Arc<dyn Bus>,
    questions: Subscription,
}

impl Store {
    async fn of(node: &Node) -> Self {
        let pattern = Pattern::Exactly(Subject::Messages);
        let questions = node.bus.subscribe_group(pattern, ANSWERERS, 16).await.unwrap();
        Self {
            bus: Arc::clone(&node.bus),
            questions,
        }
    }

    async fn asked(&mut self) -> (HistoryRequest, BusMessage) {
        let asked = tokio::time::timeout(DEADLINE, next_question(&*self.bus, &mut self.questions)).await;
        let asked = asked.expect("a question in time").expect("a running bus");
        let question: Question = format::decode(asked.payload.clone()).unwrap();
        assert_eq!(question.method, "History");
        (HistoryRequest::decode(question.request).unwrap(), asked)
    }

    async fn answers(&self, to: &BusMessage, epoch: &str, offsets: &[u64], more: bool) {
        let messages = offsets.iter().map(|offset| StoredMessage {
            place: Some(place(epoch, *offset)),
            time_us: 7000,
            message: message("room", *offset, 0).message,
        });
        let response = HistoryResponse {
            messages: messages.collect(),
            more,
            ..HistoryResponse::default()
        };
        let answer = answered(Ok(response.encode_to_vec().into()));
        let to = to.reply.as_deref().unwrap();
        self.bus.reply(to, answer).await.unwrap();
    }

    async fn fails(&self, to: &BusMessage, error: AskError) {
        let to = to.reply.as_deref().unwrap();
        self.bus.reply(to, answered(Err(error))).await.unwrap();
    }
}

fn place(epoch: &str, offset: u64) -> messages::Place {
    messages::Place {
        log_epoch: epoch.to_owned(),
        offset,
    }
}

#[tokio::test]
async fn pages_follow_each_other_by_cursor() {
    let node = Node::insecure("history_limit = 50").await;
    let mut owner = Owner::of(&node, "room", 1, 50).await;
    let mut client = node.connected().await;
    ask(
        &mut client,
        2,
        json!({ "channel": "room", "limit": 2, "since": 9 }),
    )
    .await;
    assert_eq!(is_asked(&mut owner, &[10, 20], false).await, (None, 2));
    let first = page(&mut client, 2).await;
    let told = json!([
        { "epoch": owner.log_epoch(), "offset": 10, "time": 10, "data": 10 },
        { "epoch": owner.log_epoch(), "offset": 20, "time": 20, "data": 20 },
    ]);
    assert_eq!(first["messages"], told);
    assert_eq!(
        (&first["epoch"], &first["offset"]),
        (&json!(owner.log_epoch()), &json!(50))
    );
    let cursor = &first["cursor"];
    ask(
        &mut client,
        3,
        json!({ "channel": "room", "cursor": cursor, "limit": 99 }),
    )
    .await;
    assert_eq!(is_asked(&mut owner, &[30], true).await, (Some(20), 50));
    let last = page(&mut client, 3).await;
    assert_eq!(offsets(&last), [30]);
    assert_eq!(last.get("cursor"), None, "that was all");

    // A cursor is of its channel, whole, and alone.
    for (id, request) in (4..).zip([
        json!({ "channel": "other", "cursor": cursor }),
        json!({ "channel": "room", "cursor": format!("{}A", cursor.as_str().unwrap()) }),
        json!({ "channel": "room", "cursor": cursor, "reverse": true }),
        json!({ "channel": "room", "cursor": "" }),
    ]) {
        let mut other = match request["channel"] == "other" {
            true => Some(Owner::of(&node, "other", 1, 50).await),
            false => None,
        };
        ask(&mut client, id, request).await;
        let owner = other.as_mut().unwrap_or(&mut owner);
        let (_, to) = owner.history_asked().await;
        owner.history(&to, 50, Vec::new()).await;
        assert_eq!(refused(&mut client, id).await, 107);
    }
}

#[tokio::test]
async fn older_lives_of_the_log_are_the_stores() {
    let node = Node::insecure("").await;
    let mut owner = Owner::of(&node, "room", 3, 50).await;
    let mut store = Store::of(&node).await;
    let mut client = node.connected().await;
    let begin = place(&owner.log_epoch(), 0);
    let reverse = json!({ "channel": "room", "limit": 3, "reverse": true });
    ask(&mut client, 2, reverse.clone()).await;
    assert_eq!(is_asked(&mut owner, &[10], true).await, (None, 3));
    let (request, to) = store.asked().await;
    assert_eq!(
        (request.before, request.after, request.limit),
        (Some(begin.clone()), None, 2)
    );
    store.answers(&to, "2-00000001", &[900, 800], true).await;
    let told = page(&mut client, 2).await;
    assert_eq!(offsets(&told), [10, 900, 800]);
    assert_eq!(told["messages"][1]["epoch"], "2-00000001");

    // On with the cursor: the owner's part is over.
    ask(
        &mut client,
        3,
        json!({ "channel": "room", "cursor": told["cursor"] }),
    )
    .await;
    let (_, head) = owner.history_asked().await;
    owner.history(&head, 50, Vec::new()).await;
    let (request, to) = store.asked().await;
    assert_eq!(request.before, Some(place("2-00000001", 800)));
    store.answers(&to, "1-00000009", &[7], false).await;
    let told = page(&mut client, 3).await;
    assert_eq!((offsets(&told), told.get("cursor")), (vec![7], None));

    // Forward: the store first, and then the owner from its beginning.
    ask(&mut client, 4, json!({ "channel": "room", "limit": 3 })).await;
    let (_, head) = owner.history_asked().await;
    owner.history(&head, 50, Vec::new()).await;
    let (request, to) = store.asked().await;
    assert_eq!((request.after, request.before), (None, Some(begin)));
    store.answers(&to, "2-00000001", &[800], false).await;
    assert_eq!(gives(&mut owner, &[10, 20], false).await, (None, 2));
    assert_eq!(offsets(&page(&mut client, 4).await), [800, 10, 20]);

    // A store that is down is no end, and where nothing is stored there is one.
    for (id, error, is_end) in [
        (5, AskError::Unavailable(String::new()), false),
        (6, AskError::NotAvailable(String::new()), true),
    ] {
        ask(&mut client, id, reverse.clone()).await;
        is_asked(&mut owner, &[10], true).await;
        let (_, to) = store.asked().await;
        store.fails(&to, error).await;
        let told = page(&mut client, id).await;
        assert_eq!((offsets(&told), told.get("cursor").is_none()), (vec![10], is_end));
    }
    ask(&mut client, 7, reverse).await;
    is_asked(&mut owner, &[], true).await;
    let (_, to) = store.asked().await;
    store.fails(&to, AskError::Unavailable(String::new())).await;
    assert_eq!(refused(&mut client, 7).await, 100);
}

#[tokio::test]
async fn bounds_are_kept_to_and_what_makes_no_sense_is_refused() {
    let node = Node::insecure("").await;
    let mut owner = Owner::of(&node, "room", 1, 50).await;
    let mut client = node.connected().await;
    let bounded =
        json!({ "channel": "room", "after": { "offset": 5 }, "before": { "offset": 30 }, "limit": 9 });
    ask(&mut client, 2, bounded).await;
    assert_eq!(is_asked(&mut owner, &[10, 20, 30, 40], false).await, (Some(5), 9));
    let told = page(&mut client, 2).await;
    assert_eq!((offsets(&told), told.get("cursor")), (vec![10, 20], None));
    for (id, request) in (3..).zip([
        json!({}),
        json!({ "channel": "room", "limit": 0 }),
        json!({ "channel": "room", "limit": -1 }),
        json!({ "channel": "room", "colour": "red" }),
        json!({ "channel": "" }),
        json!([]),
    ]) {
        ask(&mut client, id, request).await;
        assert_eq!(refused(&mut client, id).await, 107);
    }
    // A place of a log that never was.
    for (id, epoch) in [(20, "2-00000001"), (21, "other")] {
        ask(
            &mut client,
            id,
            json!({ "channel": "room", "after": { "epoch": epoch, "offset": 1 } }),
        )
        .await;
        let (_, to) = owner.history_asked().await;
        owner.history(&to, 50, Vec::new()).await;
        assert_eq!(refused(&mut client, id).await, 112);
    }
    ask(&mut client, 30, json!({ "channel": "room" })).await;
    let (_, to) = owner.history_asked().await;
    owner.history(&to, 50, Vec::new()).await;
    let (_, to) = owner.history_asked().await;
    owner.no_history(&to, HistoryOutcome::TooFar).await;
    assert_eq!(refused(&mut client, 30).await, 106);
}
