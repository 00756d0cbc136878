use std::collections::BTreeSet;

use super::*;
use crate::presence::tests::session;

/// Entries of a report.
const REPORT: usize = 2_000;

const SEEN: Joining = Joining {
    is_seen: true,
    is_told: false,
};
const TOLD: Joining = Joining {
    is_seen: false,
    is_told: true,
};

fn room(name: &str) -> ChannelName {
    ChannelName::parse(name, 255).unwrap()
}

fn take(table: &mut Table) -> (ReportRequest, Taken) {
    let mut report = ReportRequest::default();
    let taken = table.take(&mut report, REPORT, usize::MAX);
    (report, taken)
}

/// Users with how many sessions are there and how many ended.
fn users(report: &ReportRequest) -> Vec<(&str, usize, usize)> {
    let of = |user: &'_ ReportedUser| (user.sessions.len(), user.ended.len());
    let mut users: Vec<_> = (report.users.iter())
        .map(|user| (user.user.as_str(), of(user).0, of(user).1))
        .collect();
    users.sort_unstable();
    users
}

#[test]
fn what_happened_is_reported_once_and_what_ended_meanwhile_as_ended() {
    let mut table = Table::default();
    let (alice, other, nobody) = (session("alice"), session("alice"), session(""));
    for session in [&alice, &other, &nobody] {
        table.enter(session, Device::default());
    }
    table.leave(other.client());
    let (report, _) = take(&mut table);
    assert_eq!(
        users(&report),
        [("alice", 1, 1)],
        "anonymous sessions are nobody's"
    );
    assert!(!table.has_more());
    table.leave(alice.client());
    assert!(table.has_more());
    assert_eq!(users(&take(&mut table).0), [("alice", 0, 1)]);
}

#[test]
fn a_report_that_failed_is_made_again_of_what_is_there_then() {
    let mut table = Table::default();
    let alice = session("alice");
    table.enter(&alice, Device::default());
    let (_, taken) = take(&mut table);
    table.leave(alice.client());
    table.failed(&taken);
    assert_eq!(users(&take(&mut table).0), [("alice", 0, 1)]);
}

#[test]
fn after_a_lost_lease_everything_that_is_there_is_reported_and_nothing_else() {
    let mut table = Table::default();
    let (alice, bob) = (session("alice"), session("bob"));
    table.enter(&alice, Device::default());
    table.enter(&bob, Device::default());
    table.joined(alice.client(), &room("a"), SEEN, ChannelMember::default());
    table.joined(alice.client(), &room("b"), TOLD, ChannelMember::default());
    take(&mut table);
    table.leave(bob.client());
    table.touch_all();
    let (report, _) = take(&mut table);
    assert_eq!(users(&report), [("alice", 1, 0)]);
    let channels: Vec<_> = (report.channels.iter())
        .map(|channel| (channel.channel.as_str(), channel.joined.len(), channel.left.len()))
        .collect();
    assert_eq!(channels, [("a", 1, 0)]);
    assert_eq!(report.channels[0].joined[0].user, "alice");
}

#[test]
fn who_leaves_a_channel_or_is_gone_is_reported_as_gone() {
    let mut table = Table::default();
    let (alice, bob) = (session("alice"), session("bob"));
    for session in [&alice, &bob] {
        table.enter(session, Device::default());
        assert!(table.joined(session.client(), &room("a"), SEEN, ChannelMember::default()));
    }
    take(&mut table);
    assert!(table.left(alice.client(), "a"));
    assert!(!table.left(alice.client(), "a"), "once");
    table.leave(bob.client());
    let (report, _) = take(&mut table);
    let [channel] = &report.channels[..] else {
        panic!("{report:?}")
    };
    assert_eq!((channel.joined.len(), channel.left.len()), (0, 2));
    assert!(table.channels.is_empty());
}

#[test]
fn only_who_wants_it_is_told_of_joins() {
    let mut table = Table::default();
    let (alice, bob) = (session("alice"), session("bob"));
    for (session, joining) in [(&alice, TOLD), (&bob, SEEN)] {
        table.enter(session, Device::default());
        table.joined(session.client(), &room("a"), joining, ChannelMember::default());
    }
    let told: Vec<_> = table
        .told_of("a")
        .iter()
        .map(|session| session.client())
        .collect();
    assert_eq!(told, [alice.client()]);
    assert!(table.told_of("b").is_empty());
    assert!(!table.joined(
        session("late").client(),
        &room("a"),
        SEEN,
        ChannelMember::default()
    ));
}

#[test]
fn a_report_is_bounded_and_the_rest_follows() {
    let mut table = Table::default();
    let all: Vec<_> = (0..REPORT + 10).map(|n| session(&format!("u{n}"))).collect();
    for session in &all {
        table.enter(session, Device::default());
        table.joined(session.client(), &room("large"), SEEN, ChannelMember::default());
    }
    let (mut users, mut members) = (0, 0);
    let mut rounds = 0;
    while table.has_more() {
        let (report, _) = take(&mut table);
        users += report.users.len();
        members += report
            .channels
            .iter()
            .map(|channel| channel.joined.len())
            .sum::<usize>();
        rounds += 1;
    }
    assert_eq!((users, members), (REPORT + 10, REPORT + 10));
    assert!(rounds > 2);
    let mut small = ReportRequest::default();
    table.touch_all();
    table.take(&mut small, REPORT, 1);
    assert_eq!(small.users.len(), 1, "by bytes, too");
    while table.has_more() {
        take(&mut table);
    }
    // A channel is split as well, where what is said of its members is long.
    let long = ChannelMember {
        conn_info: Bytes::from(vec![b'1'; 4_096]),
        ..ChannelMember::default()
    };
    for session in &all {
        table.joined(session.client(), &room("wordy"), SEEN, long.clone());
    }
    while table.has_more() {
        let mut report = ReportRequest::default();
        table.take(&mut report, REPORT, 100_000);
        assert!(report.encoded_len() < 110_000, "{}", report.encoded_len());
    }
}

#[tokio::test(start_paused = true)]
async fn activity_is_reported_now_and_then() {
    let mut table = Table::default();
    let alice = session("alice");
    table.enter(&alice, Device::default());
    take(&mut table);
    let interval = Duration::from_secs(30);
    tokio::time::advance(Duration::from_secs(10)).await;
    alice.note_activity(Instant::now());
    table.touch_active(interval);
    assert!(!table.has_more(), "a moment ago it was reported");
    tokio::time::advance(Duration::from_secs(21)).await;
    table.touch_active(interval);
    assert!(!table.has_more(), "nothing happened since");
    tokio::time::advance(LOOK).await;
    alice.note_activity(Instant::now());
    table.touch_active(interval);
    let (report, _) = take(&mut table);
    let session = &report.users[0].sessions[0];
    assert_eq!((session.since_ago_ms, session.active_ago_ms), (36_000, 0));
    tokio::time::advance(LOOK).await;
    table.touch_active(interval);
    assert!(!table.has_more());
}

#[tokio::test(start_paused = true)]
async fn activity_of_many_is_looked_for_in_parts_and_of_all_of_them() {
    let mut table = Table::default();
    let all: Vec<_> = (0..100)
        .map(|number| session(&format!("user-{number}")))
        .collect();
    for session in &all {
        table.enter(session, Device::default());
    }
    while table.has_more() {
        take(&mut table);
    }
    let interval = Duration::from_secs(30);
    table.touch_active(interval);
    tokio::time::advance(Duration::from_secs(40)).await;
    for session in &all {
        session.note_activity(Instant::now());
    }
    table.looking.since = Some(Instant::now());
    let mut told = BTreeSet::new();
    for turn in 0..10 {
        tokio::time::advance(LOOK / 10).await;
        table.touch_active(interval);
        let (report, _) = take(&mut table);
        assert!(
            (1..=11).contains(&report.users.len()),
            "{} in turn {turn}",
            report.users.len()
        );
        told.extend(report.users.into_iter().map(|user| user.user));
    }
    assert_eq!(told.len(), 100);
}
