//! What users see, and what is known of them.

use std::collections::HashMap;

use uuid::Uuid;

use super::{
    NOW, SECOND, StoreFixture, attempt, claim, claim_one, enqueued, fail, keep, opened, settle, settled,
    show, told, with_key,
};
use crate::model::{Device, Outcome, State, Target, Way};
use crate::store::{DeviceState, Facts, NotifyStore, Settled};
use crate::templates::Template;

async fn facts(store: &dyn NotifyStore, user: &str, now_us: u64) -> Facts {
    let mut facts = store.facts(&[user], now_us, 0).await.unwrap();
    facts.remove(user).unwrap_or_default()
}

async fn devices(store: &dyn NotifyStore, user: &str) -> Vec<Device> {
    facts(store, user, NOW).await.devices
}

fn phone(id: &str, token: &str) -> Device {
    Device {
        id: id.to_owned(),
        way: Way::Push,
        provider: "fcm".to_owned(),
        token: Some(token.to_owned()),
        address: Target::Fcm(token.to_owned()),
        registered_us: NOW,
        failing_us: 0,
        disabled: false,
    }
}

/// The newest first, each once, also while new ones come; and nothing that was not shown.
pub async fn inbox_has_pages(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    let mut shown = show(&*store, "alice", 4, NOW).await;
    // Of one moment with the last.
    shown.extend(show(&*store, "alice", 3, NOW + 3 * SECOND).await);
    show(&*store, "bob", 1, NOW).await;
    keep(&*store, &[enqueued("alice", &[Way::InApp])]).await;
    assert!(store.inbox("carol", None, 9).await.unwrap().is_empty());
    let mut before = None;
    let mut seen = Vec::new();
    loop {
        let page = store.inbox("alice", before, 2).await.unwrap();
        assert!(page.len() <= 2);
        let Some(last) = page.last() else { break };
        before = Some((last.shown_us, last.id));
        seen.extend(page.iter().map(|one| one.id));
        if seen.len() == 2 {
            let waiting = claim_one(&*store, Uuid::nil()).await;
            settle(&*store, settled(&waiting.delivery, Uuid::nil(), State::Sent)).await;
            show(&*store, "alice", 2, NOW + 100 * SECOND).await;
        }
    }
    let newest_first: Vec<u64> = store
        .inbox("alice", None, 99)
        .await
        .unwrap()
        .iter()
        .map(|one| one.shown_us)
        .collect();
    assert!(
        newest_first.is_sorted_by(|one, next| one >= next),
        "{newest_first:?}"
    );
    assert_eq!(newest_first.len(), 9);
    seen.sort();
    shown.sort();
    assert_eq!(seen, shown);
}

/// Unseen and unread are counted by what is shown; what is read is seen, and the first time stays.
pub async fn news_are_counted_and_marked(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    assert_eq!(store.news("alice").await.unwrap(), (0, 0));
    let shown = show(&*store, "alice", 5, NOW).await;
    let waits = keep(&*store, &[enqueued("alice", &[Way::InApp])]).await[0].id;
    assert_eq!(store.news("alice").await.unwrap(), (5, 5));
    store.mark("alice", &shown[..2], false, NOW + 1).await.unwrap();
    assert_eq!(store.news("alice").await.unwrap(), (3, 5));
    store.mark("alice", &shown[1..3], true, NOW + 2).await.unwrap();
    assert_eq!(store.news("alice").await.unwrap(), (2, 3));
    let times = async |id| {
        let told = told(&*store, id).await.notification;
        (told.seen_us, told.read_us)
    };
    assert_eq!(times(shown[0]).await, (NOW + 1, 0));
    assert_eq!(times(shown[1]).await, (NOW + 1, NOW + 2));
    assert_eq!(times(shown[2]).await, (NOW + 2, NOW + 2));
    // All, none of which was named.
    store.mark("alice", &[], false, NOW + 3).await.unwrap();
    assert_eq!(store.news("alice").await.unwrap(), (0, 3));
    store.mark("alice", &[], true, NOW + 4).await.unwrap();
    assert_eq!(store.news("alice").await.unwrap(), (0, 0));
    store
        .mark("alice", &[waits, shown[0]], true, NOW + 5)
        .await
        .unwrap();
    assert_eq!(times(shown[0]).await, (NOW + 1, NOW + 4));
    assert_eq!(times(shown[2]).await, (NOW + 2, NOW + 2));
    assert_eq!(times(shown[4]).await, (NOW + 3, NOW + 4));
    // It is not shown yet: nobody has seen it.
    assert_eq!(times(waits).await, (0, 0));
}

/// Nobody marks what is another's, named or not.
pub async fn marks_touch_nobody_else(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    let shown = show(&*store, "alice", 2, NOW).await;
    show(&*store, "bob", 1, NOW).await;
    store.mark("bob", &shown, true, NOW).await.unwrap();
    store.mark("bob", &[], true, NOW).await.unwrap();
    assert_eq!(store.news("alice").await.unwrap(), (2, 2));
    assert_eq!(store.news("bob").await.unwrap(), (0, 0));
}

/// What was said last holds, for its user.
pub async fn preferences_replace_each_other(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    assert_eq!(facts(&*store, "alice", NOW).await.preferences, None);
    for document in [r#"{"a":1}"#, "", r#"{"b":"\u00e9"}"#] {
        store.set_preferences("alice", document).await.unwrap();
        assert_eq!(
            facts(&*fixture.open(), "alice", NOW).await.preferences.as_deref(),
            Some(document)
        );
    }
    assert_eq!(facts(&*store, "bob", NOW).await.preferences, None);
    // Of many users at once.
    let users: Vec<String> = (0..250).map(|index| format!("user {index}")).collect();
    for user in &users[..120] {
        store.set_preferences(user, user).await.unwrap();
    }
    let asked: Vec<&str> = users.iter().map(String::as_str).collect();
    let known = store.facts(&asked, NOW, 0).await.unwrap();
    for (index, user) in users.iter().enumerate() {
        let said = known.get(user).and_then(|facts| facts.preferences.clone());
        assert_eq!(said, (index < 120).then(|| user.clone()));
    }
    assert!(store.facts(&[], NOW, 0).await.unwrap().is_empty());
}

/// A mute holds until its time, or until it is taken back, and those that are over take no place.
pub async fn mutes_end_and_are_limited(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    let mute = async |conversation: &str, until_us, now_us| {
        store
            .mute("alice", conversation, until_us, now_us, 2)
            .await
            .unwrap()
    };
    assert!(mute("room:1", Some(NOW + 10), NOW).await);
    assert!(mute("room:2", Some(0), NOW).await);
    let both = HashMap::from([("room:1".to_owned(), NOW + 10), ("room:2".to_owned(), 0)]);
    assert_eq!(facts(&*store, "alice", NOW).await.mutes, both);
    assert!(facts(&*store, "bob", NOW).await.mutes.is_empty());
    assert!(!mute("room:3", Some(0), NOW + 9).await);
    assert_eq!(facts(&*store, "alice", NOW + 9).await.mutes, both);
    // The same one takes its own place.
    assert!(mute("room:1", Some(NOW + 20), NOW + 9).await);
    assert_eq!(facts(&*store, "alice", NOW + 19).await.mutes.len(), 2);
    assert_eq!(
        facts(&*store, "alice", NOW + 20).await.mutes,
        HashMap::from([("room:2".to_owned(), 0)])
    );
    assert!(mute("room:3", Some(NOW + 99), NOW + 20).await);
    assert!(mute("room:2", None, NOW + 20).await);
    assert!(mute("room:2", None, NOW + 20).await);
    assert_eq!(
        facts(&*store, "alice", NOW + 20).await.mutes,
        HashMap::from([("room:3".to_owned(), NOW + 99)])
    );
    assert!(store.mute("bob", "room:1", Some(0), NOW, 2).await.unwrap());
    // Two taps at once mute it once.
    let other = fixture.open();
    for _ in 0..10 {
        let muted = tokio::join!(
            store.mute("carol", "room:1", Some(0), NOW, 1),
            other.mute("carol", "room:1", Some(0), NOW, 1),
        );
        assert!(muted.0.unwrap() && muted.1.unwrap());
        assert_eq!(facts(&*store, "carol", NOW).await.mutes.len(), 1);
        assert!(store.mute("carol", "room:1", None, NOW, 1).await.unwrap());
    }
}

/// A device comes back as it was, is replaced by its id, and there are as many as may be.
pub async fn devices_are_kept_and_limited(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    let targets = [
        (Way::Push, "fcm", Target::Fcm("t".to_owned())),
        (Way::Push, "apns", Target::Apns("t".to_owned())),
        (
            Way::Push,
            "web_push",
            Target::WebPush {
                endpoint: "https://push.example/1".to_owned(),
                p256dh: "key".to_owned(),
                auth: "secret".to_owned(),
            },
        ),
        (
            Way::Email,
            "email",
            Target::Email("\u{e9}'\"@example.com".to_owned()),
        ),
        (Way::Sms, "sms", Target::Sms("+4930123456".to_owned())),
        (
            Way::Webhook,
            "webhook",
            Target::Webhook {
                url: "https://example.com".to_owned(),
                secret: "new".to_owned(),
                old: Some(("old".to_owned(), NOW)),
            },
        ),
    ];
    let mut all = Vec::new();
    for (index, (way, provider, address)) in (0..).zip(targets) {
        let device = Device {
            id: format!("{provider} {index}"),
            way,
            provider: provider.to_owned(),
            // The same token of another provider is another place, and none is no token.
            token: (way == Way::Push).then(|| "t".to_owned()),
            address,
            registered_us: NOW + index,
            failing_us: index,
            disabled: index == 5,
        };
        assert!(store.put_device("alice", &device, 6).await.unwrap());
        all.push(device);
    }
    assert_eq!(devices(&*fixture.open(), "alice").await, all);
    assert!(
        !store
            .put_device("alice", &phone("one more", "u"), 6)
            .await
            .unwrap()
    );
    assert_eq!(devices(&*store, "alice").await, all);
    let replaced = Device {
        registered_us: NOW + 50,
        ..phone(&all[0].id, "another")
    };
    assert!(store.put_device("alice", &replaced, 6).await.unwrap());
    all.remove(0);
    all.push(replaced);
    assert_eq!(devices(&*store, "alice").await, all);
    assert!(store.put_device("bob", &phone(&all[0].id, "b"), 6).await.unwrap());
    assert!(store.remove_device("alice", &all[0].id).await.unwrap());
    assert!(!store.remove_device("alice", &all[0].id).await.unwrap());
    assert_eq!(devices(&*store, "alice").await, all[1..]);
    assert_eq!(devices(&*store, "bob").await.len(), 1);
}

/// A token moves to who registers it: another user who signed in, or an app that was installed anew.
pub async fn a_token_is_one_place(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    store.put_device("alice", &phone("phone", "t"), 9).await.unwrap();
    store.put_device("alice", &phone("other", "u"), 9).await.unwrap();
    store.put_device("bob", &phone("mine", "t"), 9).await.unwrap();
    assert_eq!(devices(&*store, "alice").await, [phone("other", "u")]);
    assert_eq!(devices(&*store, "bob").await, [phone("mine", "t")]);
    store.put_device("bob", &phone("anew", "t"), 1).await.unwrap();
    assert_eq!(devices(&*store, "bob").await, [phone("anew", "t")]);
    // Who may have no more takes it from nobody.
    assert!(!store.put_device("carol", &phone("phone", "t"), 0).await.unwrap());
    assert_eq!(devices(&*store, "bob").await, [phone("anew", "t")]);
}

/// An app that registers twice at once, or on two replicas, is there once, and neither fails.
pub async fn a_device_may_be_kept_by_several_at_once(fixture: &impl StoreFixture) {
    let (store, other) = (opened(fixture).await, fixture.open());
    for round in 0..20 {
        let (one, two) = (
            phone("phone", &format!("t{round}")),
            phone("phone", &format!("u{round}")),
        );
        let kept = tokio::join!(
            store.put_device("alice", &one, 1),
            other.put_device("alice", &two, 1)
        );
        assert!(kept.0.unwrap() && kept.1.unwrap());
        let kept = devices(&*store, "alice").await;
        assert!(kept == [one] || kept == [two], "{kept:?}");
        let token = phone("phone", &format!("both{round}"));
        let kept = tokio::join!(
            store.put_device("bob", &token, 1),
            other.put_device("carol", &token, 1)
        );
        assert!(kept.0.unwrap() && kept.1.unwrap());
        let (bob, carol) = (devices(&*store, "bob").await, devices(&*store, "carol").await);
        assert_eq!(bob.len() + carol.len(), 1);
    }
}

/// Since when a device fails is kept; who is switched off stays so until something gets through, or it is registered anew.
pub async fn a_device_fails_and_works(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    let device = phone("phone", "t");
    store.put_device("alice", &device, 9).await.unwrap();
    store.put_device("alice", &phone("zzz", "u"), 9).await.unwrap();
    for (state, expected) in [
        (DeviceState::Failing(NOW + 5), (NOW + 5, false)),
        (DeviceState::Failing(NOW + 9), (NOW + 5, false)),
        (DeviceState::Works, (0, false)),
        (DeviceState::Disabled(NOW + 7), (NOW + 7, true)),
        (DeviceState::Failing(NOW + 10), (NOW + 7, true)),
        (DeviceState::Works, (0, false)),
    ] {
        store.device_state("alice", "phone", state).await.unwrap();
        let kept = devices(&*store, "alice").await;
        assert_eq!((kept[0].failing_us, kept[0].disabled), expected, "{state:?}");
        assert_eq!(kept[1], phone("zzz", "u"));
    }
    store
        .device_state("alice", "phone", DeviceState::Disabled(NOW))
        .await
        .unwrap();
    store.put_device("alice", &device, 9).await.unwrap();
    assert_eq!(devices(&*store, "alice").await[0], device);
    store
        .device_state("alice", "none", DeviceState::Works)
        .await
        .unwrap();
    store
        .device_state("bob", "phone", DeviceState::Disabled(NOW))
        .await
        .unwrap();
    assert_eq!(devices(&*store, "alice").await[0], device);
}

/// Templates are by name and language, and there are as many as may be.
pub async fn templates_are_kept_and_limited(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    let template = |name: &str, language: &str| Template {
        name: name.to_owned(),
        language: language.to_owned(),
        title: "{{ title }} '\"\u{1f600}".to_owned(),
        body: "{% if a %}b{% endif %}".to_owned(),
        html: Some("<p>".to_owned()),
        subject: None,
        short: Some(String::new()),
        link: None,
        required: vec!["title".to_owned()],
    };
    assert!(store.templates().await.unwrap().is_empty());
    let all = [template("a", ""), template("a", "de"), template("b", "pt-BR")];
    for template in &all {
        assert!(store.put_template(template, 3).await.unwrap());
    }
    assert_eq!(fixture.open().templates().await.unwrap(), all);
    assert!(!store.put_template(&template("c", ""), 3).await.unwrap());
    assert_eq!(store.templates().await.unwrap(), all);
    let changed = Template {
        body: "changed".to_owned(),
        ..all[1].clone()
    };
    assert!(store.put_template(&changed, 3).await.unwrap());
    assert_eq!(store.templates().await.unwrap()[1], changed);
    assert!(store.delete_template("a", "de").await.unwrap());
    assert!(!store.delete_template("a", "de").await.unwrap());
    assert_eq!(store.templates().await.unwrap(), [all[0].clone(), all[2].clone()]);
}

/// All that is known of a user goes, whatever is in whose hands, and nothing of others.
pub async fn who_is_forgotten_leaves_nothing(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    let mut ids = Vec::new();
    for user in ["alice", "bob"] {
        ids.extend(show(&*store, user, 1, NOW).await);
        ids.extend(fail(&*store, user, 1, NOW).await.into_iter().map(|(id, _)| id));
        keep(&*store, &[with_key(user, "k")]).await;
        let (by, claimed) = (Uuid::nil(), claim_one(&*store, Uuid::nil()).await);
        let sent = Settled {
            reference: Some(format!("fcm:{user}")),
            counted: Some((user.to_owned(), "general".to_owned(), 0)),
            ..settled(&claimed.delivery, by, State::Sent)
        };
        settle(&*store, sent).await;
        store.set_preferences(user, "{}").await.unwrap();
        store.mute(user, "room:1", Some(0), NOW, 9).await.unwrap();
        store.put_device(user, &phone("phone", user), 9).await.unwrap();
    }
    keep(&*store, &[enqueued("alice", &[Way::Push])]).await;
    let sending = claim_one(&*store, Uuid::nil()).await;
    let waiting = [enqueued("alice", &[Way::Push]), enqueued("bob", &[Way::Push])];
    keep(&*store, &waiting).await;
    store.forget("alice").await.unwrap();
    store.forget("alice").await.unwrap();
    store.forget("nobody").await.unwrap();
    // Its sender comes back.
    let late = Settled {
        shown: true,
        attempts: vec![attempt("fcm", Outcome::Accepted, NOW)],
        counted: Some(("alice".to_owned(), "general".to_owned(), 0)),
        ..settled(&sending.delivery, Uuid::nil(), State::Sent)
    };
    settle(&*store, late).await;
    assert!(store.facts(&["alice"], NOW, 0).await.unwrap().is_empty());
    assert!(store.inbox("alice", None, 9).await.unwrap().is_empty());
    assert!(
        store
            .dead_letters(Some("alice"), None, 9)
            .await
            .unwrap()
            .is_empty()
    );
    assert!(!store.report("fcm:alice", None, NOW).await.unwrap());
    for (index, id) in ids.into_iter().enumerate() {
        assert_eq!(store.told(id).await.unwrap().is_some(), index >= 2);
    }
    // A key of before is free.
    assert!(!keep(&*store, &[with_key("alice", "k")]).await[0].duplicate);
    assert!(keep(&*store, &[with_key("bob", "k")]).await[0].duplicate);
    let bob = facts(&*store, "bob", NOW).await;
    assert!(bob.preferences.is_some());
    assert_eq!((bob.mutes.len(), bob.devices.len(), bob.sent.len()), (1, 1, 1));
    assert_eq!(store.inbox("bob", None, 9).await.unwrap().len(), 1);
    assert_eq!(store.dead_letters(None, None, 9).await.unwrap().len(), 1);
    assert!(store.report("fcm:bob", None, NOW).await.unwrap());
    let mut users: Vec<String> = claim(&*store, Uuid::nil(), NOW)
        .await
        .into_iter()
        .map(|one| one.delivery.user)
        .collect();
    users.sort();
    assert_eq!(users, ["alice", "bob"]);
}
