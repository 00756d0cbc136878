//! Coming back, on the wire: what the client reads when an owner answers this and that.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use switchboard_proto::bus::{Answer, RecoveredOutcome, answer, down_item, up_item};

use super::harness::{Client, DEADLINE, Node};
use super::owner::{Owner, message};

const EPOCH: &str = "1-00000001";

async fn subscribe(client: &mut Client, id: u32, since: Option<(&str, u64)>) {
    let mut request = json!({ "channel": "room", "flag": 1 });
    if let Some((epoch, offset)) = since {
        request["recover"] = json!(true);
        request["epoch"] = json!(epoch);
        request["offset"] = json!(offset);
    }
    client
        .send(&json!({ "id": id, "subscribe": request }).to_string())
        .await;
}

fn publication(offset: u64) -> Value {
    json!({ "push": { "channel": "room", "pub": { "data": offset, "offset": offset } } })
}

fn result(id: u32, offset: u64, extra: Value) -> Value {
    let mut result = json!({ "recoverable": true, "positioned": true, "epoch": EPOCH, "offset": offset });
    for (key, value) in extra.as_object().unwrap() {
        result[key] = value.clone();
    }
    json!({ "id": id, "subscribe": result })
}

fn error(id: u32, code: u32, words: &str) -> Value {
    json!({ "id": id, "error": { "code": code, "message": words } })
}

fn temporary(id: u32) -> Value {
    let mut error = error(id, 100, "internal server error");
    error["error"]["temporary"] = json!(true);
    error
}

/// A client that is subscribed at 50, to a channel whose newest message is 30.
async fn live(node: &Node) -> (Owner, Client) {
    let mut owner = Owner::of(node, "room", 1, 50).await;
    let mut client = node.connected().await;
    subscribe(&mut client, 2, None).await;
    owner.in_force(30).await;
    assert_eq!(client.json().await, result(2, 50, json!({})));
    (owner, client)
}

#[tokio::test]
async fn r3_results_have_the_fields_of_the_protocol_and_no_others() {
    let node = Node::insecure("").await;
    let (mut owner, mut client) = live(&node).await;
    let unsubscribed = |id: u32| json!({ "id": id, "unsubscribe": {} });
    let recovered = json!({ "was_recovering": true, "recovered": true });

    let mut other = node.connected().await;
    subscribe(&mut other, 2, Some((EPOCH, 40))).await;
    assert_eq!(other.json().await, result(2, 40, recovered));

    let mut other = node.connected().await;
    subscribe(&mut other, 2, Some((EPOCH, 10))).await;
    let asked = owner.asked().await;
    assert_eq!((asked.channel.as_str(), asked.after), ("room", 10));
    let missed = vec![message("room", 20, 0), message("room", 30, 0)];
    owner
        .recovered(&asked, RecoveredOutcome::Complete, 50, missed, false)
        .await;
    let publications = json!([{ "data": 20, "offset": 20 }, { "data": 30, "offset": 30 }]);
    let missed = json!({ "was_recovering": true, "recovered": true, "publications": publications });
    assert_eq!(other.json().await, result(2, 10, missed));

    // Gone: live from here on, or an error for who wants that.
    subscribe(&mut other, 3, Some((EPOCH, 5))).await;
    assert_eq!(other.json().await, error(3, 105, "already subscribed"));
    other.send(r#"{"id":4,"unsubscribe":{"channel":"room"}}"#).await;
    assert_eq!(other.json().await, unsubscribed(4));
    subscribe(&mut other, 5, Some((EPOCH, 5))).await;
    let asked = owner.asked().await;
    owner
        .recovered(&asked, RecoveredOutcome::Lost, 15, Vec::new(), false)
        .await;
    assert_eq!(
        other.json().await,
        result(5, 50, json!({ "was_recovering": true }))
    );
    other.send(r#"{"id":6,"unsubscribe":{"channel":"room"}}"#).await;
    assert_eq!(other.json().await, unsubscribed(6));
    other
        .send(r#"{"id":7,"subscribe":{"channel":"room","recover":true,"epoch":"_","offset":50,"flag":3}}"#)
        .await;
    assert_eq!(other.json().await, error(7, 112, "unrecoverable position"));
    // It has not got the channel, and may have it.
    owner.deliver(50, 60, vec![message("room", 55, 0)]).await;
    assert_eq!(client.json().await, publication(55));
    subscribe(&mut other, 8, None).await;
    assert_eq!(other.json().await, result(8, 60, json!({})));
}

#[tokio::test]
async fn r5_what_cannot_be_told_is_a_temporary_error_and_may_be_asked_again() {
    let node = Node::insecure("").await;
    let (mut owner, mut client) = live(&node).await;
    client.send(r#"{"id":3,"unsubscribe":{"channel":"room"}}"#).await;
    assert_eq!(client.json().await, json!({ "id": 3, "unsubscribe": {} }));
    assert!(matches!(owner.item().await.1, up_item::Item::Interest(interest) if interest.remove == ["room"]));
    subscribe(&mut client, 4, Some((EPOCH, 10))).await;
    owner.in_force(30).await;
    let asked = owner.asked().await;
    owner
        .recovered(&asked, RecoveredOutcome::Unavailable, 0, Vec::new(), false)
        .await;
    assert_eq!(client.json().await, temporary(4));
    assert!(matches!(owner.item().await.1, up_item::Item::Interest(interest) if interest.remove == ["room"]));
    subscribe(&mut client, 5, Some((EPOCH, 30))).await;
    owner.in_force(30).await;
    let recovered = json!({ "was_recovering": true, "recovered": true });
    assert_eq!(client.json().await, result(5, 30, recovered));
}

#[tokio::test]
async fn p4_a_recovery_that_is_not_answered_is_an_error_in_time_and_stays_one() {
    let node = Node::insecure("answer_timeout = \"500ms\"").await;
    let (mut owner, mut client) = live(&node).await;
    let mut other = node.connected().await;
    subscribe(&mut other, 2, Some((EPOCH, 10))).await;
    let asked = owner.asked().await;
    assert_eq!(other.json().await, temporary(2));
    // Too late: the session must not be subscribed after all.
    owner
        .recovered(
            &asked,
            RecoveredOutcome::Complete,
            50,
            vec![message("room", 30, 0)],
            false,
        )
        .await;
    owner.deliver(50, 60, vec![message("room", 55, 0)]).await;
    assert_eq!(client.json().await, publication(55));
    subscribe(&mut other, 3, None).await;
    assert_eq!(other.json().await, result(3, 60, json!({})));
}

#[tokio::test]
async fn r7_pages_follow_the_reply_and_live_messages_follow_the_pages() {
    let node = Node::insecure("").await;
    let (mut owner, _client) = live(&node).await;
    let mut other = node.connected().await;
    subscribe(&mut other, 2, Some((EPOCH, 10))).await;
    let mut left_off = 10;
    for (page, more) in [([12, 14], true), ([16, 18], true), ([20, 30], false)] {
        let asked = owner.asked().await;
        assert_eq!(asked.after, left_off);
        left_off = page[1];
        let up_to = if more { left_off } else { 60 };
        let messages = page.map(|offset| message("room", offset, 0)).into();
        owner
            .recovered(&asked, RecoveredOutcome::Complete, up_to, messages, more)
            .await;
    }
    // What the last page reached beyond the link comes by it, too.
    owner
        .deliver(50, 70, vec![message("room", 55, 0), message("room", 65, 0)])
        .await;
    let publications = json!([{ "data": 12, "offset": 12 }, { "data": 14, "offset": 14 }]);
    let first = json!({ "was_recovering": true, "recovered": true, "publications": publications });
    assert_eq!(other.json().await, result(2, 10, first));
    for offset in [16, 18, 20, 30, 65] {
        assert_eq!(other.json().await, publication(offset));
    }
}

/// The queue for one client is far smaller than what it missed, and the client reads late.
#[tokio::test]
async fn r7_a_slow_client_is_given_a_long_absence_page_by_page() {
    const PAGES: u64 = 1500;
    const PADDING: usize = 10_000;
    let node =
        Node::insecure("outgoing_queue = \"64KiB\"\npublish_size = 1000\nwrite_timeout = \"60s\"").await;
    let (mut owner, _client) = live(&node).await;
    let mut slow = node.connected().await;
    subscribe(&mut slow, 2, Some((EPOCH, 10))).await;
    let answered = AtomicUsize::new(0);
    let owning = async {
        loop {
            let asked = owner.asked().await;
            let next = asked.after + 1;
            let more = next < 10 + PAGES;
            let up_to = if more { next } else { 1_000_000 };
            let page = vec![message("room", next, PADDING)];
            owner
                .recovered(&asked, RecoveredOutcome::Complete, up_to, page, more)
                .await;
            answered.fetch_add(1, Ordering::Relaxed);
            if !more {
                return;
            }
        }
    };
    let reading = async {
        // Until the gateway asks for no more: the kernel's buffers are full, and the client's queue.
        let mut before = usize::MAX;
        loop {
            let now = answered.load(Ordering::Relaxed);
            if now == before {
                break;
            }
            before = now;
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        }
        assert!(before < PAGES as usize, "the gateway never paused");
        let first = slow.json().await;
        assert_eq!(first["subscribe"]["publications"][0]["offset"], 11);
        for offset in 12..=10 + PAGES {
            let push = slow.json().await;
            assert_eq!(push["push"]["pub"]["offset"], offset, "{push}");
        }
    };
    let both = async { tokio::join!(owning, reading) };
    tokio::time::timeout(DEADLINE * 3, both)
        .await
        .expect("all of it in time");
    slow.assert_lives().await;
}

#[tokio::test]
async fn r2_behind_the_answer_to_an_unsubscribe_comes_nothing_of_its_channel() {
    let node = Node::insecure("").await;
    let (mut owner, mut client) = live(&node).await;
    let mut other = node.connected().await;
    subscribe(&mut other, 2, Some((EPOCH, 10))).await;
    let asked = owner.asked().await;
    owner
        .recovered(
            &asked,
            RecoveredOutcome::Complete,
            12,
            vec![message("room", 12, 0)],
            true,
        )
        .await;
    let asked = owner.asked().await;
    other.json().await;
    other.send(r#"{"id":3,"unsubscribe":{"channel":"room"}}"#).await;
    assert_eq!(other.json().await, json!({ "id": 3, "unsubscribe": {} }));
    owner
        .recovered(
            &asked,
            RecoveredOutcome::Complete,
            50,
            vec![message("room", 30, 0)],
            false,
        )
        .await;
    owner.deliver(50, 60, vec![message("room", 55, 0)]).await;
    assert_eq!(client.json().await, publication(55));
    other.assert_lives().await;
}

#[tokio::test]
async fn l5_another_log_ends_subscriptions_with_2500_and_an_old_place_is_lost() {
    let node = Node::insecure("").await;
    let (_gone, mut client) = live(&node).await;
    let mut owner = Owner::of(&node, "room", 2, 10).await;
    let push = client.json().await;
    assert_eq!(push["push"]["channel"], "room", "{push}");
    assert_eq!(push["push"]["unsubscribe"]["code"], 2500, "{push}");
    assert!(matches!(owner.item().await.1, up_item::Item::Interest(interest) if interest.remove == ["room"]));
    // As SDKs do on it.
    subscribe(&mut client, 3, Some((EPOCH, 50))).await;
    owner.in_force(0).await;
    let mut lost = result(3, 10, json!({ "was_recovering": true }));
    lost["subscribe"]["epoch"] = json!(owner.log_epoch());
    assert_eq!(client.json().await, lost);
    owner.deliver(10, 20, vec![message("room", 15, 0)]).await;
    assert_eq!(client.json().await, publication(15));
}

#[tokio::test]
async fn p1_message_send_tells_id_and_place_and_those_of_the_first_for_a_repeat() {
    let node = Node::insecure("").await;
    let (mut owner, mut client) = live(&node).await;
    let mut sent = Vec::new();
    for id in [3, 4] {
        let data = json!({ "channel": "room", "data": { "n": 1 }, "key": "k" });
        let rpc = json!({ "id": id, "rpc": { "method": "message.send", "data": data } });
        client.send(&rpc.to_string()).await;
        match owner.item().await {
            (_, up_item::Item::Publish(publish)) => sent.push(publish),
            (_, other) => panic!("{other:?}"),
        }
    }
    let numbers: Vec<u64> = sent.iter().map(|publish| publish.number).collect();
    assert_eq!(numbers, [1, 2]);
    let mut answer = Answer {
        series: sent[0].series,
        number: 1,
        outcome: Some(answer::Outcome::Offset(60)),
        duplicate_of: bytes::Bytes::new(),
    };
    owner.send(down_item::Item::Answer(answer.clone())).await;
    let first = client.json().await;
    let id = first["rpc"]["data"]["id"].as_str().unwrap().to_owned();
    let expected = json!({ "id": id, "offset": 60, "epoch": EPOCH, "duplicate": false });
    assert_eq!(first, json!({ "id": 3, "rpc": { "data": expected } }));
    answer.number = 2;
    answer.duplicate_of = uuid::Uuid::parse_str(&id).unwrap().into_bytes().to_vec().into();
    owner.send(down_item::Item::Answer(answer)).await;
    let expected = json!({ "id": id, "offset": 60, "epoch": EPOCH, "duplicate": true });
    assert_eq!(
        client.json().await,
        json!({ "id": 4, "rpc": { "data": expected } })
    );
}
