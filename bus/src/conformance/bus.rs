//! Cases of the bus.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use switchboard_proto::ids::Incarnation;

use super::{BusFixture, shard, soon};
use crate::{BusError, Pattern, QueueGroup, RequestError, Subject, Subscription};

const BEAT: Subject = Subject::MemberBeat;

fn number(number: u32) -> Bytes {
    Bytes::copy_from_slice(&number.to_be_bytes())
}

fn down(gateway: u128) -> Subject {
    Subject::LinkDown {
        gateway: Incarnation::from_u128(gateway),
        shard: shard(3),
    }
}

async fn next(subscription: &mut Subscription) -> Bytes {
    soon("a message", subscription.next())
        .await
        .expect("the bus is open")
        .payload
}

/// Each publisher's messages arrive in its order, at a subscriber of its own process, too.
pub async fn messages_keep_their_publishers_order(fixture: &impl BusFixture) {
    let (one, two) = (fixture.connect().await, fixture.connect().await);
    let mut subscription = one.subscribe(Pattern::Exactly(BEAT), 1000).await.unwrap();
    for count in 0..200 {
        one.publish(BEAT, Bytes::from(format!("one {count}")))
            .await
            .unwrap();
        two.publish(BEAT, Bytes::from(format!("two {count}")))
            .await
            .unwrap();
    }
    let mut counts = HashMap::from([("one".to_owned(), 0), ("two".to_owned(), 0)]);
    for _ in 0..400 {
        let message = next(&mut subscription).await;
        let text = String::from_utf8(message.to_vec()).unwrap();
        let (publisher, count) = text.split_once(' ').unwrap();
        let expected = counts.get_mut(publisher).unwrap();
        assert_eq!(count, expected.to_string(), "{publisher}");
        *expected += 1;
    }
    assert!(subscription.try_next().is_none());
}

/// What is published after `subscribe` returned arrives, whoever publishes it.
pub async fn subscribing_takes_effect_before_it_returns(fixture: &impl BusFixture) {
    let (one, two) = (fixture.connect().await, fixture.connect().await);
    for round in 0..200 {
        let subject = down(round);
        let mut subscription = one.subscribe(Pattern::Exactly(subject), 1).await.unwrap();
        two.publish(subject, Bytes::from_static(b"hello")).await.unwrap();
        assert_eq!(next(&mut subscription).await, "hello", "round {round}");
    }
}

/// The queue holds what was asked for; the rest is dropped and counted; others are not affected.
pub async fn full_queue_drops_the_newest_and_tells(fixture: &impl BusFixture) {
    let (one, two) = (fixture.connect().await, fixture.connect().await);
    let mut small = one.subscribe(Pattern::Exactly(BEAT), 4).await.unwrap();
    let mut large = one.subscribe(Pattern::Exactly(BEAT), 100).await.unwrap();
    let before = *one.disruptions().borrow();
    for count in 0..10 {
        two.publish(BEAT, number(count)).await.unwrap();
    }
    soon("drops", async {
        while small.dropped() < 6 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    for count in 0..10 {
        assert_eq!(next(&mut large).await, number(count));
    }
    for count in 0..4 {
        assert_eq!(next(&mut small).await, number(count));
    }
    assert!(small.try_next().is_none());
    assert_eq!((small.dropped(), large.dropped()), (6, 0));
    assert_eq!(*one.disruptions().borrow(), before, "nobody else missed anything");
    two.publish(BEAT, number(99)).await.unwrap();
    assert_eq!(next(&mut small).await, number(99));
}

/// Each message goes to one member of a group, and to everybody without a group.
pub async fn group_shares_messages(fixture: &impl BusFixture) {
    let (one, two) = (fixture.connect().await, fixture.connect().await);
    let group = QueueGroup("workers");
    let pattern = Pattern::Exactly(BEAT);
    let mut first = one.subscribe_group(pattern, group, 200).await.unwrap();
    let mut second = two.subscribe_group(pattern, group, 200).await.unwrap();
    let mut alone = two.subscribe(pattern, 200).await.unwrap();
    for count in 0..100 {
        one.publish(BEAT, number(count)).await.unwrap();
    }
    for count in 0..100 {
        assert_eq!(next(&mut alone).await, number(count));
    }
    let (mut firsts, mut seconds) = (0, 0);
    while firsts + seconds < 100 {
        let message = async {
            tokio::select! {
                Some(_) = first.next() => firsts += 1,
                Some(_) = second.next() => seconds += 1,
            }
        };
        soon("the group's messages", message).await;
    }
    assert!(firsts > 0 && seconds > 0, "{firsts} and {seconds}");
    assert!(first.try_next().is_none() && second.try_next().is_none());
}

/// One subscription hears every shard's owner, and nothing else.
pub async fn wildcard_covers_all_shards(fixture: &impl BusFixture) {
    let (one, two) = (fixture.connect().await, fixture.connect().await);
    let mut beats = one.subscribe(Pattern::AllOwnerBeats, 100).await.unwrap();
    two.publish(BEAT, number(77)).await.unwrap();
    two.publish(down(1), number(78)).await.unwrap();
    for count in [0, 1, 1023] {
        let subject = Subject::OwnerBeat { shard: shard(count) };
        two.publish(subject, number(count)).await.unwrap();
    }
    for count in [0, 1, 1023] {
        assert_eq!(next(&mut beats).await, number(count));
    }
    assert!(beats.try_next().is_none());
}

/// Nobody listens any more where a subscription was dropped.
pub async fn dropped_subscription_ends(fixture: &impl BusFixture) {
    let (one, two) = (fixture.connect().await, fixture.connect().await);
    let subscription = one.subscribe(Pattern::Exactly(BEAT), 10).await.unwrap();
    drop(subscription);
    let gone = async {
        loop {
            let answer = two.request(BEAT, Bytes::new(), Duration::from_millis(50)).await;
            if matches!(answer, Err(RequestError::NoResponders)) {
                break;
            }
        }
    };
    soon("the end of the subscription", gone).await;
}

/// A request reaches a subscriber and its answer comes back, each to its own.
pub async fn request_is_answered(fixture: &impl BusFixture) {
    let (one, two) = (fixture.connect().await, fixture.connect().await);
    let mut requests = one.subscribe(Pattern::Exactly(BEAT), 10).await.unwrap();
    let serve = async {
        // In the reverse order: an answer is matched by its inbox, not by its turn.
        let first = requests.next().await.unwrap();
        let second = requests.next().await.unwrap();
        for request in [second, first] {
            one.reply(request.reply.as_deref().unwrap(), request.payload)
                .await
                .unwrap();
        }
    };
    let ask = |count| two.request(BEAT, number(count), Duration::from_secs(10));
    let (first, second, ()) = soon("answers", async { tokio::join!(ask(1), ask(2), serve) }).await;
    assert_eq!((first.unwrap(), second.unwrap()), (number(1), number(2)));
}

/// Where nobody subscribes, that is said at once, not after the timeout.
pub async fn request_without_listener_fails_at_once(fixture: &impl BusFixture) {
    let bus = fixture.connect().await;
    let request = bus.request(BEAT, Bytes::new(), Duration::from_secs(3600));
    let answer = soon("no responders", request).await;
    assert!(matches!(answer, Err(RequestError::NoResponders)), "{answer:?}");
}

/// A subscriber that stays silent costs the caller its timeout.
pub async fn request_without_answer_times_out(fixture: &impl BusFixture) {
    let bus = fixture.connect().await;
    let mut requests = bus.subscribe(Pattern::Exactly(BEAT), 10).await.unwrap();
    let answer = bus.request(BEAT, number(1), Duration::from_millis(50)).await;
    assert!(matches!(answer, Err(RequestError::TimedOut(_))), "{answer:?}");
    assert_eq!(next(&mut requests).await, number(1));
}

/// An answer that comes after the caller gave up disturbs nobody.
pub async fn late_answer_is_lost_without_harm(fixture: &impl BusFixture) {
    let bus = fixture.connect().await;
    let mut requests = bus.subscribe(Pattern::Exactly(BEAT), 10).await.unwrap();
    let late = bus.request(BEAT, number(1), Duration::from_millis(20)).await;
    assert!(matches!(late, Err(RequestError::TimedOut(_))), "{late:?}");
    let serve = async {
        let (late, second) = (requests.next().await.unwrap(), requests.next().await.unwrap());
        bus.reply(late.reply.as_deref().unwrap(), number(1))
            .await
            .unwrap();
        bus.reply(second.reply.as_deref().unwrap(), number(2))
            .await
            .unwrap();
    };
    let ask = bus.request(BEAT, Bytes::new(), Duration::from_secs(10));
    let (answer, ()) = soon("the answer", async { tokio::join!(ask, serve) }).await;
    assert_eq!(answer.unwrap(), number(2));
}

/// A payload of the limit arrives, one byte more is refused.
pub async fn too_large_payload_is_refused(fixture: &impl BusFixture) {
    let bus = fixture.connect().await;
    let limit = bus.max_payload();
    let mut subscription = bus.subscribe(Pattern::Exactly(BEAT), 10).await.unwrap();
    let refused = bus.publish(BEAT, Bytes::from(vec![0; limit + 1])).await;
    assert!(
        matches!(refused, Err(BusError::TooLarge { size, limit: told }) if size == limit + 1 && told == limit),
        "{refused:?}"
    );
    bus.publish(BEAT, Bytes::from(vec![0; limit])).await.unwrap();
    assert_eq!(next(&mut subscription).await.len(), limit);
}
