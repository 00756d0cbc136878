//! Subscriptions that are kept for users.

#![expect(missing_docs, reason = "each name says what is tested")]

use std::time::Duration;

use bytes::Bytes;
use switchboard_proto::channel::{ChannelName, MAX_CHANNEL_LENGTH};
use switchboard_proto::time::now_us;

use super::{KEPT_PER_USER, LONG, RegistryFixture, until};
use crate::{KeepError, MAX_SUBSCRIPTION_SIZE, Registry, SubscriptionOptions, SubscriptionOverrides};

/// So long that it ends while a test waits for it.
const SHORT: Duration = Duration::from_millis(300);

fn channel(name: &str) -> ChannelName {
    ChannelName::parse(name, MAX_CHANNEL_LENGTH).unwrap()
}

fn options(info: &'static str) -> SubscriptionOptions {
    SubscriptionOptions {
        info: Bytes::from_static(info.as_bytes()),
        data: Bytes::from_static(b"{\"a\":1}"),
        overrides: SubscriptionOverrides {
            presence: Some(true),
            join_leave: Some(false),
            force_recovery: Some(false),
            force_positioning: None,
            force_push_join_leave: Some(true),
        },
    }
}

async fn names(registry: &dyn Registry, user: &str) -> Vec<String> {
    let kept = registry.kept_subscriptions(user).await.unwrap();
    kept.iter().map(|kept| kept.channel.as_str().to_owned()).collect()
}

pub async fn subscription_is_kept_until_it_is_forgotten(fixture: &impl RegistryFixture) {
    let (registry, other) = (fixture.open(), fixture.open());
    for name in ["room:2", "room:1"] {
        registry
            .keep_subscription("alice", &channel(name), &options("1"), LONG)
            .await
            .unwrap();
    }
    registry
        .keep_subscription("bob", &channel("room:3"), &options("2"), LONG)
        .await
        .unwrap();
    let kept = other.kept_subscriptions("alice").await.unwrap();
    assert_eq!(names(&*other, "alice").await, ["room:1", "room:2"], "by name");
    assert_eq!(
        (&kept[0].info, &kept[0].data),
        (&options("1").info, &options("1").data)
    );
    assert_eq!(kept[0].overrides, options("1").overrides);
    let (now, ends) = (now_us() / 1000, kept[0].until_ms);
    let longest = u64::try_from(LONG.as_millis()).unwrap();
    assert!(ends > now && ends <= now + longest, "{now} {ends}");
    assert!(
        other
            .forget_subscription("alice", &channel("room:1"))
            .await
            .unwrap()
    );
    assert!(
        !other
            .forget_subscription("alice", &channel("room:1"))
            .await
            .unwrap()
    );
    assert!(
        !other
            .forget_subscription("alice", &channel("room:3"))
            .await
            .unwrap()
    );
    assert_eq!(names(&*registry, "alice").await, ["room:2"]);
    assert_eq!(names(&*registry, "bob").await, ["room:3"]);
    assert_eq!(names(&*registry, "carol").await, Vec::<String>::new());
}

pub async fn subscription_is_replaced(fixture: &impl RegistryFixture) {
    let registry = fixture.open();
    let room = channel("room");
    registry
        .keep_subscription("alice", &room, &options("1"), LONG)
        .await
        .unwrap();
    registry
        .keep_subscription("alice", &room, &options("2"), LONG * 2)
        .await
        .unwrap();
    let kept = registry.kept_subscriptions("alice").await.unwrap();
    assert_eq!(kept.len(), 1);
    assert_eq!(kept[0].info, options("2").info);
    assert!(kept[0].until_ms > now_us() / 1000 + u64::try_from(LONG.as_millis()).unwrap());
}

pub async fn subscriptions_end_by_themselves(fixture: &impl RegistryFixture) {
    let registry = fixture.open();
    registry
        .keep_subscription("alice", &channel("long"), &options("1"), LONG)
        .await
        .unwrap();
    registry
        .keep_subscription("alice", &channel("short"), &options("1"), SHORT)
        .await
        .unwrap();
    registry
        .keep_subscription("bob", &channel("short"), &options("1"), SHORT)
        .await
        .unwrap();
    until("it ends", async || {
        names(&*registry, "alice").await == ["long"] && names(&*registry, "bob").await.is_empty()
    })
    .await;
    assert!(
        !registry
            .forget_subscription("alice", &channel("short"))
            .await
            .unwrap()
    );
}

pub async fn subscriptions_of_a_user_are_bounded(fixture: &impl RegistryFixture) {
    let registry = fixture.open();
    registry
        .keep_subscription("alice", &channel("room0"), &options("1"), SHORT)
        .await
        .unwrap();
    for number in 1..KEPT_PER_USER {
        let room = channel(&format!("room{number}"));
        registry
            .keep_subscription("alice", &room, &options("1"), LONG)
            .await
            .unwrap();
    }
    let one_more = channel("one-more");
    let refused = KeepError::Full { limit: KEPT_PER_USER };
    let keep = async || {
        registry
            .keep_subscription("alice", &one_more, &options("1"), LONG)
            .await
    };
    // The short one may have ended, on a slow machine.
    let first = keep().await;
    assert!(first == Err(refused.clone()) || first.is_ok());
    registry
        .keep_subscription("alice", &channel("room1"), &options("2"), LONG)
        .await
        .unwrap();
    registry
        .keep_subscription("bob", &one_more, &options("1"), LONG)
        .await
        .unwrap();
    until("one that ended makes room", async || keep().await.is_ok()).await;
    let last = registry
        .keep_subscription("alice", &channel("last"), &options("1"), LONG)
        .await;
    assert_eq!(last, Err(refused));
    assert_eq!(names(&*registry, "alice").await, ["one-more", "room1", "room2"]);
}

pub async fn large_subscription_is_refused(fixture: &impl RegistryFixture) {
    let registry = fixture.open();
    let options = |size| SubscriptionOptions {
        info: Bytes::from(vec![b'1'; size]),
        data: Bytes::from_static(b"1"),
        ..SubscriptionOptions::default()
    };
    let room = channel("room");
    let fits = options(MAX_SUBSCRIPTION_SIZE - 1);
    registry
        .keep_subscription("alice", &room, &fits, LONG)
        .await
        .unwrap();
    let refused = registry
        .keep_subscription("alice", &room, &options(MAX_SUBSCRIPTION_SIZE), LONG)
        .await;
    assert_eq!(
        refused,
        Err(KeepError::TooLarge {
            size: MAX_SUBSCRIPTION_SIZE + 1
        })
    );
}
