//! What was said, on the wire: what the client reads when an owner answers this and that.

use std::collections::BTreeSet;

use prost::Message as _;
use serde_json::{Value, json};
use switchboard_proto::bus::{
    Answer, Delivered, HistoryOutcome, Message, PayloadKind, answer, down_item, up_item,
};

use super::harness::{Client, Node};
use super::owner::{Owner, message};
use super::tokens::{SECRET, connected, reply};

async fn ask(client: &mut Client, id: u32, request: Value) {
    let command = json!({ "id": id, "history": request });
    client.send(&command.to_string()).await;
}

fn error(id: u32, code: u32, message: &str, temporary: bool) -> Value {
    let mut error = json!({ "code": code, "message": message });
    if temporary {
        error["temporary"] = json!(true);
    }
    json!({ "id": id, "error": error })
}

#[tokio::test]
async fn a_question_reaches_the_owner_and_its_answer_the_client() {
    let node = Node::insecure("history_limit = 50\nhistory_bytes = \"8KiB\"").await;
    let mut owner = Owner::of(&node, "room", 1, 50).await;
    let mut client = node.connected().await;
    let since = json!({ "offset": 20, "epoch": owner.log_epoch() });
    let table = [
        (json!({}), (0, false, None)),
        (json!({ "limit": 7 }), (7, false, None)),
        (json!({ "limit": -1, "reverse": true }), (50, true, None)),
        (json!({ "limit": 51, "since": since }), (50, false, Some(20))),
        (
            json!({ "limit": 1, "since": { "offset": 0, "epoch": "" } }),
            (1, false, Some(0)),
        ),
    ];
    for (id, (mut request, expected)) in (2..).zip(table) {
        request["channel"] = json!("room");
        ask(&mut client, id, request).await;
        let (question, to) = owner.history_asked().await;
        assert_eq!((question.limit, question.reverse, question.since), expected);
        assert_eq!((question.channel.as_str(), question.bytes), ("room", 8192));
        assert_eq!(question.at_least, 50, "R6: the link has everything up to there");
        let messages = vec![message("room", 20, 0), message("room", 30, 0)];
        owner.history(&to, 30, messages).await;
        let publications = json!([{ "data": 20, "offset": 20 }, { "data": 30, "offset": 30 }]);
        let result = json!({ "publications": publications, "epoch": owner.log_epoch(), "offset": 30 });
        assert_eq!(client.json().await, json!({ "id": id, "history": result }));
    }
    // Nothing was said.
    ask(&mut client, 10, json!({ "channel": "room", "limit": 1 })).await;
    let (_, to) = owner.history_asked().await;
    owner.history(&to, 0, Vec::new()).await;
    let result = json!({ "publications": [], "epoch": owner.log_epoch(), "offset": 0 });
    assert_eq!(client.json().await, json!({ "id": 10, "history": result }));
}

#[tokio::test]
async fn what_an_owner_does_not_answer_is_asked_again_and_what_it_refuses_is_an_error() {
    let node = Node::insecure("").await;
    let mut owner = Owner::of(&node, "room", 1, 50).await;
    let mut client = node.connected().await;
    ask(&mut client, 2, json!({ "channel": "room", "limit": 1 })).await;
    for _ in 0..3 {
        let (_, to) = owner.history_asked().await;
        owner.no_history(&to, HistoryOutcome::Unavailable).await;
    }
    let (_, to) = owner.history_asked().await;
    owner.no_history(&to, HistoryOutcome::TooFar).await;
    assert_eq!(client.json().await, error(2, 106, "limit exceeded", false));
    let other = json!({ "channel": "room", "limit": 1, "since": { "offset": 1, "epoch": "other" } });
    ask(&mut client, 3, other).await;
    let (_, to) = owner.history_asked().await;
    owner.history(&to, 30, vec![message("room", 30, 0)]).await;
    assert_eq!(
        client.json().await,
        error(3, 112, "unrecoverable position", false)
    );
}

/// The owner that was asked is gone, and with it the question.
#[tokio::test]
async fn p4_a_question_that_a_dead_owner_took_along_is_put_to_the_next() {
    let node = Node::insecure("").await;
    let mut first = Owner::of(&node, "room", 1, 50).await;
    let mut client = node.connected().await;
    ask(&mut client, 2, json!({ "channel": "room", "limit": 1 })).await;
    first.history_asked().await;
    let mut second = Owner::of(&node, "room", 2, 10).await;
    let (question, to) = second.history_asked().await;
    assert_eq!(
        question.at_least, 0,
        "L5: what another log held says nothing about this one"
    );
    second.history(&to, 5, vec![message("room", 5, 0)]).await;
    let result = client.json().await;
    assert_eq!(result["history"]["epoch"], second.log_epoch(), "{result}");
}

#[tokio::test]
async fn p4_what_nobody_answers_is_a_temporary_error_in_time() {
    let node = Node::insecure("answer_timeout = \"500ms\"").await;
    let mut client = node.connected().await;
    ask(&mut client, 2, json!({ "channel": "room", "limit": 1 })).await;
    assert_eq!(client.json().await, error(2, 100, "internal server error", true));
    let mut owner = Owner::of(&node, "room", 1, 50).await;
    ask(&mut client, 3, json!({ "channel": "room", "limit": 1 })).await;
    let (_, too_late) = owner.history_asked().await;
    assert_eq!(client.json().await, error(3, 100, "internal server error", true));
    owner.history(&too_late, 5, Vec::new()).await;
    client.assert_lives().await;
}

#[tokio::test]
async fn r6_a_publish_that_was_answered_is_in_what_is_asked_for_next() {
    let node = Node::insecure("").await;
    let mut owner = Owner::of(&node, "room", 1, 50).await;
    let mut client = node.connected().await;
    client
        .send(r#"{"id":2,"publish":{"channel":"room","data":1}}"#)
        .await;
    let (_, item) = owner.item().await;
    let up_item::Item::Publish(publish) = item else {
        panic!("{item:?}")
    };
    owner
        .send(down_item::Item::Answer(Answer {
            series: publish.series,
            number: publish.number,
            outcome: Some(answer::Outcome::Offset(70)),
            ..Answer::default()
        }))
        .await;
    assert_eq!(client.json().await, json!({ "id": 2, "publish": {} }));
    ask(&mut client, 3, json!({ "channel": "room", "limit": 1 })).await;
    let (question, _) = owner.history_asked().await;
    assert_eq!(question.at_least, 70);
}

/// All that they ask for is far more than may wait for one client.
#[tokio::test]
async fn a_client_that_asks_for_much_at_once_is_not_disconnected_as_slow() {
    const QUESTIONS: u32 = 60;
    let node =
        Node::insecure("outgoing_queue = \"256KiB\"\nhistory_bytes = \"64KiB\"\nwrite_timeout = \"60s\"")
            .await;
    let mut owner = Owner::of(&node, "room", 1, 50).await;
    let mut client = node.connected().await;
    for id in 2..2 + QUESTIONS {
        ask(&mut client, id, json!({ "channel": "room", "limit": -1 })).await;
    }
    let owning = async {
        for _ in 0..QUESTIONS {
            let (question, to) = owner.history_asked().await;
            assert_eq!(question.bytes, 64 * 1024);
            let messages = vec![
                message("room", 20, 64 * 1024 - 100),
                message("room", 30, 64 * 1024 - 100),
            ];
            owner.history(&to, 30, messages).await;
        }
    };
    let reading = async {
        let mut answered = BTreeSet::new();
        for _ in 0..QUESTIONS {
            let reply = client.json().await;
            assert_eq!(reply["history"]["publications"].as_array().map(Vec::len), Some(2));
            answered.insert(reply["id"].as_u64());
        }
        assert_eq!(answered.len() as u32, QUESTIONS);
    };
    tokio::join!(owning, reading);
    client.assert_lives().await;
}

#[tokio::test]
async fn of_one_client_so_many_questions_wait_and_no_more() {
    let node = Node::insecure("answer_timeout = \"500ms\"").await;
    let mut client = node.connected().await;
    let questions: Vec<String> = (2..102)
        .map(|id| json!({ "id": id, "history": { "channel": "room", "limit": 1 } }).to_string())
        .collect();
    client.send(&questions.join("\n")).await;
    let (mut refused, mut late) = (0, 0);
    for _ in 2..102 {
        let reply = client.json().await;
        match reply["error"]["code"].as_u64() {
            Some(111) => refused += 1,
            Some(100) => late += 1,
            _ => panic!("{reply}"),
        }
    }
    assert!(
        late >= 64 && refused >= 30,
        "{late} waited, {refused} were refused"
    );
    client.assert_lives().await;
}

#[tokio::test]
async fn json_clients_are_not_given_what_is_not_json() {
    let node = Node::insecure("").await;
    let mut owner = Owner::of(&node, "room", 1, 50).await;
    let mut client = node.connected().await;
    ask(&mut client, 2, json!({ "channel": "room", "limit": 2 })).await;
    let (_, to) = owner.history_asked().await;
    let binary = Message {
        channel: "room".to_owned(),
        kind: PayloadKind::Binary.into(),
        payload: b"\xff".to_vec().into(),
        ..Message::default()
    };
    let binary = Delivered {
        offset: 30,
        message: binary.encode_to_vec().into(),
    };
    owner.history(&to, 30, vec![message("room", 20, 0), binary]).await;
    assert_eq!(client.closed().await.0, 3506);
}

#[tokio::test]
async fn who_may_not_ask_and_what_is_not_stored_is_refused() {
    let node = Node::start(&format!(
        "[gateway.tokens]\nhmac_secret = \"{SECRET}\"\n\
         [namespaces.room]\nallow_subscribe_for_client = true\nallow_history_for_subscriber = true\n\
         [namespaces.open]\nallow_history_for_client = true\n\
         [namespaces.passing]\nallow_history_for_client = true\ndurable = false"
    ))
    .await;
    let mut client = connected(&node, json!({"sub": "alice"})).await;
    for (id, channel, code) in [
        (2, "nowhere:1", 102),
        (3, "lobby", 103),
        (4, "room:1", 103),
        (5, "$open:1", 103),
        (6, "open:#bob", 103),
        (7, "passing:1", 108),
    ] {
        ask(&mut client, id, json!({ "channel": channel, "limit": 1 })).await;
        assert_eq!(reply(&mut client, id, "error").await["code"], code, "{channel}");
    }
    let mut owner = Owner::of(&node, "open:1", 1, 50).await;
    ask(&mut client, 8, json!({ "channel": "open:1", "limit": 1 })).await;
    let (_, to) = owner.history_asked().await;
    owner.history(&to, 30, vec![message("open:1", 30, 0)]).await;
    assert_eq!(reply(&mut client, 8, "history").await["offset"], 30);
}
