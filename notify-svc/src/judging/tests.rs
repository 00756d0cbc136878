use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use switchboard_proto::notifications as wire;
use uuid::Uuid;

use super::*;
use crate::model::{Delivery, State};

/// 2026-03-29 00:30 UTC, in the night in which Berlin's clocks go forward.
const NIGHT_US: u64 = 1_774_744_200_000_000;

fn claimed(way: Way, priority: &str) -> Claimed {
    let id = Uuid::now_v7();
    Claimed {
        delivery: Delivery {
            id: Uuid::now_v7(),
            notification: id,
            user: "bob".to_owned(),
            way,
            device: String::new(),
            unless: Unless::Never,
            state: State::Sending,
            reason: String::new(),
            advance_us: 0,
            due_us: 0,
            attempts: 0,
            claims: 1,
            digest: None,
        },
        notification: Arc::new(Notification {
            id,
            content: wire::Notification {
                user: "bob".to_owned(),
                category: "message".to_owned(),
                priority: priority.to_owned(),
                conversation: "dm:#alice,bob".to_owned(),
                ..wire::Notification::default()
            },
            said: None,
            created_us: 0,
            expires_us: 0,
            shown_us: 0,
            seen_us: 0,
            read_us: 0,
        }),
    }
}

/// What is judged by, changed by `change`.
fn verdict(
    claimed: &Claimed,
    category: &Category,
    change: impl FnOnce(&mut Facts, &mut Preferences),
    here: Option<Here>,
    message: Option<Message>,
    sent: u64,
) -> Verdict {
    let (mut facts, mut preferences) = (Facts::default(), Preferences::default());
    change(&mut facts, &mut preferences);
    judge(
        claimed,
        &Circumstances {
            now_us: NIGHT_US,
            category,
            facts: &facts,
            preferences: &preferences,
            here,
            message,
            sent,
        },
    )
}

fn nothing(_: &mut Facts, _: &mut Preferences) {}

fn category(tell: Tell, overrides: bool) -> Category {
    Category {
        tell,
        overrides,
        ..Category::plain()
    }
}

#[test]
fn who_is_here_is_told_in_the_app_alone() {
    for (tell, here, is_told) in [
        (Tell::Always, Here::Online, true),
        (Tell::Away, Here::Online, false),
        (Tell::Away, Here::Away, true),
        (Tell::Away, Here::Offline, true),
        (Tell::Offline, Here::Online, false),
        (Tell::Offline, Here::Away, false),
        (Tell::Offline, Here::Offline, true),
    ] {
        let category = category(tell, false);
        let push = verdict(&claimed(Way::Push, ""), &category, nothing, Some(here), None, 0);
        assert_eq!(push == Verdict::Send, is_told, "{tell:?} {here:?}");
        let in_app = verdict(&claimed(Way::InApp, ""), &category, nothing, Some(here), None, 0);
        assert_eq!(in_app, Verdict::Send);
    }
    let unknown = verdict(
        &claimed(Way::Push, ""),
        &category(Tell::Offline, false),
        nothing,
        None,
        None,
        0,
    );
    assert_eq!(
        unknown,
        Verdict::Send,
        "a presence service that is gone keeps nothing back"
    );
}

#[test]
fn wishes_and_mutes_hold_unless_it_is_critical_and_its_category_says_so() {
    let off = |_: &mut Facts, preferences: &mut Preferences| {
        let ways = BTreeMap::from([(Way::Push, false)]);
        preferences.categories.insert("message".to_owned(), ways);
    };
    let muted = |facts: &mut Facts, _: &mut Preferences| {
        facts.mutes = HashMap::from([("dm:#alice,bob".to_owned(), 0)]);
    };
    let muted_before = |facts: &mut Facts, _: &mut Preferences| {
        facts.mutes = HashMap::from([("dm:#alice,bob".to_owned(), NIGHT_US)]);
    };
    let elsewhere = |facts: &mut Facts, _: &mut Preferences| {
        facts.mutes = HashMap::from([("dm:#bob,carol".to_owned(), 0)]);
    };
    let calm = category(Tell::Always, false);
    let urgent = category(Tell::Always, true);
    let of = |priority: &str, category: &Category, change: &dyn Fn(&mut Facts, &mut Preferences)| {
        verdict(&claimed(Way::Push, priority), category, change, None, None, 0)
    };
    assert_eq!(of("", &calm, &off), Verdict::Suppress("preferences"));
    assert_eq!(of("critical", &calm, &off), Verdict::Suppress("preferences"));
    assert_eq!(of("high", &urgent, &off), Verdict::Suppress("preferences"));
    assert_eq!(of("critical", &urgent, &off), Verdict::Send);
    assert_eq!(of("", &calm, &muted), Verdict::Suppress("muted"));
    assert_eq!(of("", &calm, &muted_before), Verdict::Send);
    assert_eq!(of("", &calm, &elsewhere), Verdict::Send);
    assert_eq!(of("critical", &urgent, &muted), Verdict::Send);
    let wants_all = |_: &mut Facts, preferences: &mut Preferences| {
        preferences.ways.insert(Way::Push, false);
        let ways = BTreeMap::from([(Way::Push, true)]);
        preferences.categories.insert("message".to_owned(), ways);
    };
    assert_eq!(
        of("", &calm, &wants_all),
        Verdict::Send,
        "a category counts before all of them"
    );
}

#[test]
fn what_was_read_seen_or_is_over_is_not_sent() {
    let calm = category(Tell::Always, false);
    let about = |message: Message| verdict(&claimed(Way::Push, ""), &calm, nothing, None, Some(message), 0);
    assert_eq!(about(Message::default()), Verdict::Send);
    let read = Message {
        is_read: true,
        ..Message::default()
    };
    assert_eq!(about(read), Verdict::Suppress("read"));
    let strange = Message {
        is_strange: true,
        ..read
    };
    assert_eq!(about(strange), Verdict::Suppress("not in the channel"));
    let gone = Message {
        is_gone: true,
        ..strange
    };
    assert_eq!(about(gone), Verdict::Suppress("the message is gone"));

    let with = |unless, seen_us, read_us, expires_us| {
        let mut one = claimed(Way::Push, "");
        one.delivery.unless = unless;
        one.notification = Arc::new(Notification {
            seen_us,
            read_us,
            expires_us,
            ..(*one.notification).clone()
        });
        verdict(&one, &calm, nothing, None, None, 0)
    };
    assert_eq!(with(Unless::Seen, 1, 0, 0), Verdict::Suppress("seen"));
    assert_eq!(with(Unless::Read, 1, 0, 0), Verdict::Send);
    assert_eq!(with(Unless::Read, 1, 1, 0), Verdict::Suppress("read"));
    assert_eq!(with(Unless::Never, 1, 1, 0), Verdict::Send);
    assert_eq!(with(Unless::Never, 0, 0, NIGHT_US), Verdict::Suppress("expired"));
    assert_eq!(with(Unless::Never, 0, 0, NIGHT_US + 1), Verdict::Send);
}

#[test]
fn quiet_hours_put_off_what_makes_a_noise() {
    let quiet = |_: &mut Facts, preferences: &mut Preferences| {
        preferences.time_zone = "Europe/Berlin".to_owned();
        let hours = QuietHours::parse("22:00", "07:00", []).unwrap();
        preferences.quiet_hours.push(hours);
    };
    let calm = category(Tell::Always, true);
    let of = |way, priority| verdict(&claimed(way, priority), &calm, quiet, None, None, 0);
    // 7 in the morning, which is one hour earlier in UTC than the day before.
    let until_us = NIGHT_US + (4 * 60 + 30) * 60 * 1_000_000;
    let held = Verdict::Hold {
        until_us,
        reason: "quiet hours",
    };
    for way in [Way::Push, Way::Email, Way::Sms] {
        assert_eq!(of(way, ""), held);
        assert_eq!(of(way, "critical"), Verdict::Send);
    }
    assert_eq!(of(Way::InApp, ""), Verdict::Send);
    assert_eq!(of(Way::Webhook, ""), Verdict::Send);
}

#[test]
fn more_than_the_hourly_limit_waits_for_the_next_hour() {
    let limited = Category {
        hourly: 3,
        ..category(Tell::Always, false)
    };
    let of = |sent| verdict(&claimed(Way::Push, ""), &limited, nothing, None, None, sent);
    assert_eq!(of(2), Verdict::Send);
    let next_hour = (NIGHT_US / HOUR_US + 1) * HOUR_US;
    let held = Verdict::Hold {
        until_us: next_hour,
        reason: "hourly limit",
    };
    assert_eq!(of(3), held);
    let in_app = verdict(&claimed(Way::InApp, ""), &limited, nothing, None, None, 99);
    assert_eq!(in_app, Verdict::Send);
}
