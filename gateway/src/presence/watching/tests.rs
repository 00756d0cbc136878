use super::*;
use crate::presence::tests::session;

fn is(user: &str, status: Status, version: u64) -> Presence {
    Presence {
        user: user.to_owned(),
        status: status.into(),
        version,
        last_seen_ms: 7,
        ..Presence::default()
    }
}

fn names(users: &[&str]) -> Vec<String> {
    users.iter().map(|user| (*user).to_owned()).collect()
}

/// A watcher that has been answered.
fn watches(watching: &mut Watching, watcher: &Arc<SessionHandle>, user: &str, shares: bool) {
    let shared = if shares {
        HashSet::from([user.to_owned()])
    } else {
        HashSet::new()
    };
    watching.watch(watcher, &names(&[user]), &shared).unwrap();
    watching.learn(is(user, Status::Offline, 1), Some(watcher.client()));
}

fn told(watching: &mut Watching, presence: Presence) -> Vec<Status> {
    let news = watching.learn(presence, None);
    news.into_iter().map(|(_, seen)| seen.status).collect()
}

#[test]
fn who_watches_is_told_each_change_once_and_nothing_older() {
    let mut watching = Watching::new(10, 10);
    let (alice, carol) = (session("alice"), session("carol"));
    watches(&mut watching, &alice, "bob", false);
    watches(&mut watching, &carol, "bob", false);
    assert_eq!(
        told(&mut watching, is("bob", Status::Online, 3)),
        [Status::Online; 2]
    );
    assert!(
        told(&mut watching, is("bob", Status::Offline, 2)).is_empty(),
        "older"
    );
    assert!(
        told(&mut watching, is("bob", Status::Online, 3)).is_empty(),
        "known"
    );
    assert!(
        told(&mut watching, is("bob", Status::Online, 4)).is_empty(),
        "the same"
    );
    assert!(
        told(&mut watching, is("eve", Status::Online, 9)).is_empty(),
        "not watched"
    );
    watching.unwatch(alice.client(), &names(&["bob"]));
    assert_eq!(told(&mut watching, is("bob", Status::Busy, 5)), [Status::Busy]);
    watching.leave(carol.client());
    assert_eq!(
        (watching.count(), watching.by_client.len()),
        (0, 0),
        "nothing is kept"
    );
}

#[test]
fn a_change_that_comes_before_the_answer_is_in_the_answer() {
    let mut watching = Watching::new(10, 10);
    let alice = session("alice");
    watching.watch(&alice, &names(&["bob"]), &HashSet::new()).unwrap();
    assert!(
        told(&mut watching, is("bob", Status::Online, 5)).is_empty(),
        "she waits for the answer"
    );
    assert!(
        watching
            .learn(is("bob", Status::Offline, 4), Some(alice.client()))
            .is_empty()
    );
    let seen = watching.seen_by(alice.client(), &names(&["bob", "nobody"]));
    assert_eq!(
        seen.iter().map(|seen| seen.status).collect::<Vec<_>>(),
        [Status::Online]
    );
    assert_eq!(
        told(&mut watching, is("bob", Status::Busy, 6)),
        [Status::Busy],
        "what follows is told"
    );
}

#[test]
fn who_may_not_see_a_user_hears_nothing_of_her() {
    let mut watching = Watching::new(10, 10);
    let (stranger, friend, herself) = (session("stranger"), session("friend"), session("bob"));
    watches(&mut watching, &stranger, "bob", false);
    watches(&mut watching, &friend, "bob", true);
    watches(&mut watching, &herself, "bob", false);
    let with = |visibility: Visibility, status, version| Presence {
        visibility: visibility.into(),
        ..is("bob", status, version)
    };
    let mut heard = |presence| {
        let news = watching.learn(presence, None);
        let mut heard: Vec<_> = news
            .into_iter()
            .map(|(session, seen)| (session.user().to_owned(), seen.status, seen.last_seen_ms))
            .collect();
        heard.sort_by(|one, other| one.0.cmp(&other.0));
        heard
    };
    let online = |user: &str| (user.to_owned(), Status::Online, 7);
    assert_eq!(
        heard(with(Visibility::Shared, Status::Online, 2)),
        [online("bob"), online("friend")]
    );
    assert_eq!(
        heard(with(Visibility::Everybody, Status::Online, 3)),
        [online("stranger")]
    );
    let hidden = |user: &str| (user.to_owned(), Status::Offline, 0);
    assert_eq!(
        heard(with(Visibility::Nobody, Status::Online, 4)),
        [hidden("friend"), hidden("stranger")]
    );
    assert_eq!(
        heard(with(Visibility::Nobody, Status::Busy, 5)).len(),
        1,
        "she herself"
    );
}

#[test]
fn watches_are_bounded() {
    let mut watching = Watching::new(3, 2);
    let (alice, carol) = (session("alice"), session("carol"));
    let none = HashSet::new();
    watching.watch(&alice, &names(&["a", "b"]), &none).unwrap();
    watching.watch(&alice, &names(&["a", "b"]), &none).unwrap();
    assert_eq!(
        watching.watch(&alice, &names(&["c"]), &none),
        Err(ErrorCode::LimitExceeded)
    );
    assert_eq!(
        watching.watch(&carol, &names(&["c", "d"]), &none),
        Err(ErrorCode::LimitExceeded)
    );
    assert_eq!(watching.count(), 2, "nothing of it is watched");
    watching.watch(&carol, &names(&["a", "c"]), &none).unwrap();
    assert_eq!(watching.count(), 3);
}
