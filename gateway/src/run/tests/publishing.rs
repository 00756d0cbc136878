//! What services without links ask of a gateway: to publish for them. The owner of the channel's shard is played.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use switchboard_bus::messages::{AskError, ask};
use switchboard_proto::bus::{
    Answer, Message, PayloadKind, PublishForRequest, PublishForResponse, Refusal, Series, answer, down_item,
    up_item,
};
use switchboard_proto::codes::ErrorCode;
use switchboard_proto::publishing::method::PublishFor;
use switchboard_proto::tags;
use switchboard_testkit::wait_until;
use uuid::Uuid;

use super::harness::{DEADLINE, Node};
use super::owner::Owner;

const CHANNEL: &str = "told:alice";

/// Without a server API, and without clients.
async fn node() -> Node {
    let node = Node::start(
        "answer_timeout = \"500ms\"\n[gateway.api]\nenabled = false\n[namespaces.told]\npublication_data_format = \"json\"\n\
         [namespaces.passing]\ndurable = false",
    )
    .await;
    // Somebody has to be there to be asked.
    let nobody = PublishForRequest::default();
    let taken = async || {
        let answer = ask::<PublishFor>(&*node.bus, &nobody, Duration::from_secs(5)).await;
        matches!(answer, Err(AskError::Invalid(_)))
    };
    wait_until(DEADLINE, taken).await.unwrap();
    node
}

fn request(channel: &str, key: &str) -> PublishForRequest {
    PublishForRequest {
        channel: channel.to_owned(),
        data: Bytes::from_static(br#"{"title":"hi"}"#),
        // One of ours, which backends may not use.
        tags: [("sb-notification".to_owned(), "n-1".to_owned())].into(),
        idempotency_key: key.to_owned(),
        publisher: "notify".to_owned(),
    }
}

async fn publish(node: &Node, request: PublishForRequest) -> Result<String, AskError> {
    let answer = ask::<PublishFor>(&*node.bus, &request, Duration::from_secs(5)).await;
    answer.map(|PublishForResponse { id }| id)
}

/// What came to the owner to be stored, answered with `outcome` and the id of an earlier one.
async fn stored(owner: &mut Owner, outcome: answer::Outcome, duplicate_of: Bytes) -> Message {
    let (_, item) = owner.item().await;
    let up_item::Item::Publish(publish) = item else {
        panic!("not a publish: {item:?}");
    };
    assert_eq!(publish.series(), Series::Keyed);
    let answer = Answer {
        series: publish.series,
        number: publish.number,
        outcome: Some(outcome),
        duplicate_of,
    };
    owner.send(down_item::Item::Answer(answer)).await;
    Message::decode(publish.message).unwrap()
}

/// What came to the owner to be delivered alone.
async fn passed_on(owner: &mut Owner) -> Message {
    match owner.item().await.1 {
        up_item::Item::Ephemeral(ephemeral) => Message::decode(ephemeral.message).unwrap(),
        other => panic!("to be stored: {other:?}"),
    }
}

fn assert_is(message: &Message, channel: &str, key: &str) {
    assert_eq!((&*message.channel, &*message.key), (channel, key));
    assert_eq!(message.payload.as_ref(), br#"{"title":"hi"}"#);
    assert_eq!(message.kind(), PayloadKind::Json);
    assert_eq!(message.api_key, "notify");
    assert_eq!(message.sender, None);
    assert_eq!(message.tags["sb-notification"], "n-1");
    assert_eq!(message.tags[tags::ID], tags::id_text(&message.id));
}

#[tokio::test]
async fn with_a_key_it_is_stored_once() {
    let node = node().await;
    let mut owner = Owner::of(&node, CHANNEL, 1, 50).await;
    let offset = || answer::Outcome::Offset(60);
    let (id, message) = tokio::join!(
        publish(&node, request(CHANNEL, "n-1")),
        stored(&mut owner, offset(), Bytes::new())
    );
    assert_is(&message, CHANNEL, "n-1");
    let first = tags::id_text(&message.id);
    assert_eq!(id, Ok(first.clone()));
    // The owner knows the key: the answer is the first one's.
    let (again, second) = tokio::join!(
        publish(&node, request(CHANNEL, "n-1")),
        stored(&mut owner, offset(), message.id.clone())
    );
    assert_ne!(second.id, message.id);
    assert_eq!(again, Ok(first));
    assert_eq!(
        node.metric("switchboard_gateway_publishing_unanswered_questions_total"),
        node.metric("switchboard_gateway_publishing_questions_total") - 2
    );
}

#[tokio::test]
async fn without_a_key_it_is_only_delivered() {
    let node = node().await;
    let mut owner = Owner::of(&node, CHANNEL, 1, 50).await;
    let (id, message) = tokio::join!(publish(&node, request(CHANNEL, "")), passed_on(&mut owner));
    assert_is(&message, CHANNEL, "");
    assert_eq!(id, Ok(tags::id_text(&message.id)));
    assert!(Uuid::try_parse(&id.unwrap()).is_ok());
}

#[tokio::test]
async fn where_nothing_is_stored_a_key_is_left_out() {
    let node = node().await;
    let channel = "passing:alice";
    let mut owner = Owner::of(&node, channel, 1, 50).await;
    let (id, message) = tokio::join!(publish(&node, request(channel, "n-1")), passed_on(&mut owner));
    assert_is(&message, channel, "");
    assert_eq!(id, Ok(tags::id_text(&message.id)));
}

#[tokio::test]
async fn what_makes_no_sense_is_told_apart_from_what_may_be_better_later() {
    let node = node().await;
    let mut owner = Owner::of(&node, CHANNEL, 1, 50).await;
    let with = |change: fn(&mut PublishForRequest)| {
        let mut request = request(CHANNEL, "k");
        change(&mut request);
        request
    };
    for wrong in [
        with(|request| request.channel = "none:alice".to_owned()),
        with(|request| request.channel = String::new()),
        with(|request| request.channel = "not a channel".to_owned()),
        with(|request| request.data = Bytes::new()),
        with(|request| request.data = Bytes::from_static(b"{")),
        with(|request| request.data = format!("\"{}\"", "x".repeat(64 * 1024)).into()),
        with(|request| request.publisher = String::new()),
        with(|request| request.idempotency_key = "k".repeat(129)),
        with(|request| {
            request
                .tags
                .extend((0..16).map(|number| (number.to_string(), String::new())));
        }),
    ] {
        let answer = publish(&node, wrong.clone()).await;
        assert!(
            matches!(answer, Err(AskError::Invalid(_))),
            "{answer:?}: {:.200}",
            format!("{wrong:?}")
        );
    }
    for (code, is_temporary) in [
        (ErrorCode::TooManyRequests.code(), true),
        (ErrorCode::Internal.code(), true),
        (ErrorCode::BadRequest.code(), false),
        // Of a later release.
        (199, true),
    ] {
        let refused = answer::Outcome::Refused(Refusal {
            code,
            message: "why".to_owned(),
            temporary: is_temporary,
        });
        let (answer, _) = tokio::join!(
            publish(&node, request(CHANNEL, "k")),
            stored(&mut owner, refused, Bytes::new())
        );
        let expected = match is_temporary {
            true => AskError::Unavailable("why".to_owned()),
            false => AskError::Invalid("why".to_owned()),
        };
        assert_eq!(answer, Err(expected), "{code}");
    }
}

#[tokio::test]
async fn without_an_owner_it_may_be_tried_again() {
    let node = node().await;
    for key in ["k", ""] {
        let answer = publish(&node, request(CHANNEL, key)).await;
        assert!(matches!(answer, Err(AskError::Unavailable(_))), "{answer:?}");
    }
}

/// Its links end with its sessions, so another gateway is to be asked.
#[tokio::test]
async fn a_gateway_that_stops_is_asked_no_more() {
    let node = node().await;
    let bus = Arc::clone(&node.bus);
    node.context.tasks.stop(Duration::from_secs(10)).await;
    let answer = ask::<PublishFor>(&*bus, &request(CHANNEL, "k"), Duration::from_secs(5)).await;
    let nobody = AskError::Unavailable("no gateway service answers".to_owned());
    assert_eq!(answer, Err(nobody));
}
