use proptest::prelude::*;
use switchboard_proto::presence::ReportedSession;

use super::*;

const SECOND: u64 = 1_000;
const START: u64 = 1_800_000_000_000;

fn rules() -> Rules {
    Rules {
        grace: Duration::from_secs(5),
        away_after: Duration::from_secs(300),
        devices: 3,
        remembered: Duration::from_secs(3600),
        visibility: Visibility::Everybody,
    }
}

fn lease(number: u64) -> Lease {
    Lease {
        gateway: Incarnation::from_u128(1),
        number,
    }
}

fn held(number: u64) -> Leases {
    [(lease(number).gateway, number)].into()
}

fn id(client: u8) -> Bytes {
    Bytes::copy_from_slice(&[client; 16])
}

fn here(clients: &[u8]) -> ReportedUser {
    let session = |client: &u8| ReportedSession {
        client: id(*client),
        ..ReportedSession::default()
    };
    ReportedUser {
        user: "alice".to_owned(),
        sessions: clients.iter().map(session).collect(),
        ended: Vec::new(),
    }
}

fn gone(clients: &[u8]) -> ReportedUser {
    ReportedUser {
        user: "alice".to_owned(),
        sessions: Vec::new(),
        ended: clients.iter().map(|client| id(*client)).collect(),
    }
}

fn choose(status: Status) -> SetUserRequest {
    SetUserRequest {
        status: Some(status.into()),
        ..SetUserRequest::default()
    }
}

/// A user, and what others heard of her.
#[derive(Default)]
struct Alice {
    user: User,
    heard: Vec<Presence>,
}

impl Alice {
    fn settle(&mut self, now: u64) {
        let news = self.user.settle("alice", &held(1), now, &rules());
        self.heard.extend(news);
    }

    fn report(&mut self, report: &ReportedUser, now: u64) {
        self.user.report(lease(1), report, now, &rules());
        self.settle(now);
    }

    fn set(&mut self, request: &SetUserRequest, now: u64) {
        self.user.set(request, now);
        self.settle(now);
    }

    fn statuses(&self) -> Vec<Status> {
        self.heard.iter().map(Presence::status).collect()
    }
}

#[test]
fn who_reloads_a_page_is_not_seen_to_leave() {
    let mut alice = Alice::default();
    alice.report(&here(&[1]), START);
    alice.report(&gone(&[1]), START + 10 * SECOND);
    assert_eq!(
        alice.user.due_ms(START + 10 * SECOND, &rules()),
        Some(START + 15 * SECOND)
    );
    alice.report(&here(&[2]), START + 14 * SECOND);
    alice.settle(START + 16 * SECOND);
    assert_eq!(alice.statuses(), [Status::Online]);
    alice.report(&gone(&[2]), START + 20 * SECOND);
    alice.settle(START + 24 * SECOND);
    assert_eq!(alice.statuses(), [Status::Online], "within the grace");
    alice.settle(START + 25 * SECOND);
    assert_eq!(alice.statuses(), [Status::Online, Status::Offline]);
    let last = alice.heard.last().unwrap();
    assert_eq!(
        (last.last_seen_ms, last.since_ms),
        (START + 20 * SECOND, START + 20 * SECOND)
    );
}

#[test]
fn sessions_end_with_their_lease() {
    let mut alice = Alice::default();
    alice.report(&here(&[1, 2]), START);
    let nobody = Leases::new();
    assert_eq!(
        alice.user.settle("alice", &nobody, START + 60 * SECOND, &rules()),
        None,
        "grace"
    );
    let told = alice
        .user
        .settle("alice", &nobody, START + 65 * SECOND, &rules())
        .unwrap();
    assert_eq!(told.status(), Status::Offline);
    assert!(alice.user.leases().is_empty());
    assert_eq!(
        alice
            .user
            .settle("alice", &held(2), START + 66 * SECOND, &rules()),
        None
    );
}

#[test]
fn what_is_reported_under_the_next_lease_goes_on() {
    let mut alice = Alice::default();
    alice.report(&here(&[1]), START);
    alice.user.report(lease(2), &here(&[1]), START + SECOND, &rules());
    assert_eq!(alice.user.leases(), [lease(2)]);
    assert_eq!(
        alice.user.settle("alice", &held(2), START + 2 * SECOND, &rules()),
        None
    );
    assert_eq!(alice.user.kept().sessions.len(), 1);
}

#[test]
fn quiet_users_are_away_until_they_do_something() {
    let mut alice = Alice::default();
    alice.report(&here(&[1]), START);
    assert_eq!(alice.user.due_ms(START, &rules()), Some(START + 300 * SECOND));
    alice.settle(START + 300 * SECOND);
    assert_eq!(alice.user.due_ms(START + 300 * SECOND, &rules()), None);
    let mut active = here(&[1]);
    active.sessions[0].since_ago_ms = 400 * SECOND;
    active.sessions[0].active_ago_ms = SECOND;
    alice.report(&active, START + 400 * SECOND);
    assert_eq!(alice.statuses(), [Status::Online, Status::Away, Status::Online]);
}

#[test]
fn what_she_chose_holds_on_all_devices_until_she_chooses_again() {
    let mut alice = Alice::default();
    alice.report(&here(&[1]), START);
    alice.set(&choose(Status::Busy), START + SECOND);
    alice.report(&here(&[2]), START + 2 * SECOND);
    alice.settle(START + 900 * SECOND);
    alice.set(&choose(Status::Away), START + 901 * SECOND);
    alice.set(&choose(Status::Online), START + 902 * SECOND);
    assert_eq!(
        alice.statuses(),
        [Status::Online, Status::Busy, Status::Away],
        "she was quiet for so long that she is away by herself"
    );
    alice.report(&here(&[2]), START + 903 * SECOND);
    assert_eq!(alice.statuses().last(), Some(&Status::Online));
}

#[test]
fn who_is_invisible_looks_offline() {
    let mut alice = Alice::default();
    alice.report(&here(&[1]), START);
    alice.set(&choose(Status::Invisible), START + SECOND);
    alice.set(
        &SetUserRequest {
            text: Some("hidden".to_owned()),
            ..SetUserRequest::default()
        },
        START + 2 * SECOND,
    );
    alice.report(&gone(&[1]), START + 3 * SECOND);
    alice.settle(START + 60 * SECOND);
    alice.report(&here(&[2]), START + 61 * SECOND);
    assert_eq!(alice.statuses(), [Status::Online, Status::Offline]);
    let told = alice.user.presence("alice", START + 62 * SECOND, &rules());
    assert_eq!(
        (told.last_seen_ms, told.text.as_str()),
        (START + SECOND - 5 * SECOND, "")
    );
    assert_eq!(told.since_ms, told.last_seen_ms, "as of everybody who is offline");
    alice.set(&choose(Status::Online), START + 63 * SECOND);
    assert_eq!(alice.heard.last().unwrap().text, "hidden");
}

#[test]
fn a_text_goes_at_its_time() {
    let mut alice = Alice::default();
    alice.report(&here(&[1]), START);
    let text = SetUserRequest {
        text: Some("lunch".to_owned()),
        text_lasts_ms: 60 * SECOND,
        ..SetUserRequest::default()
    };
    alice.set(&text, START + SECOND);
    assert_eq!(
        alice.user.due_ms(START + SECOND, &rules()),
        Some(START + 61 * SECOND)
    );
    alice.settle(START + 60 * SECOND);
    alice.settle(START + 61 * SECOND);
    let texts: Vec<&str> = alice.heard.iter().map(|told| told.text.as_str()).collect();
    assert_eq!(texts, ["", "lunch", ""]);
}

#[test]
fn devices_are_remembered_the_last_ones_first() {
    let mut alice = Alice::default();
    for (client, name) in [(1, "a"), (2, "b"), (3, "c"), (4, "a"), (5, "d")] {
        let mut report = here(&[client]);
        report.sessions[0].device = Some(Device {
            name: name.to_owned(),
            ..Device::default()
        });
        alice.report(&report, START + u64::from(client));
    }
    let names: Vec<&str> = (alice.user.kept().devices.iter())
        .map(|known| known.device.as_ref().unwrap().name.as_str())
        .collect();
    assert_eq!(names, ["d", "a", "c"]);
    assert_eq!(
        alice.user.kept().devices[1].first_ms,
        START + 1,
        "known since then"
    );
}

#[test]
fn who_does_not_come_back_is_forgotten() {
    let mut alice = Alice::default();
    alice.report(&here(&[1]), START);
    alice.report(&gone(&[1]), START + SECOND);
    let now = START + 6 * SECOND;
    alice.settle(now);
    let forgotten = START + SECOND + 3600 * SECOND;
    assert_eq!(alice.user.due_ms(now, &rules()), Some(forgotten));
    assert!(!alice.user.is_forgotten(forgotten - 1, &rules()));
    assert!(alice.user.is_forgotten(forgotten, &rules()));
}

#[test]
fn what_is_stored_is_read_again_and_nothing_else() {
    let mut alice = Alice::default();
    alice.report(&here(&[1]), START);
    assert_eq!(User::decode(alice.user.encode()).unwrap(), alice.user);
    assert!(matches!(
        User::decode(Bytes::from_static(&[9, 1])),
        Err(FormatError::Newer { found: 9 })
    ));
}

/// What may happen, in any order, with time between.
#[derive(Debug, Clone)]
enum Event {
    Here(u8),
    Gone(u8),
    Choose(Status),
    /// The gateway begins another lease; what it does not report again is no more.
    Anew(Vec<u8>),
    /// Nothing but time.
    Look,
}

fn event() -> impl Strategy<Value = (u64, Event)> {
    let status = prop_oneof![
        Just(Status::Online),
        Just(Status::Away),
        Just(Status::Busy),
        Just(Status::Invisible)
    ];
    let event = prop_oneof![
        4 => (0..4_u8).prop_map(Event::Here),
        4 => (0..4_u8).prop_map(Event::Gone),
        2 => status.prop_map(Event::Choose),
        1 => prop::collection::vec(0..4_u8, 0..3).prop_map(Event::Anew),
        2 => Just(Event::Look),
    ];
    (
        prop_oneof![0..3_000_u64, 4_000..7_000_u64, 200_000..400_000_u64],
        event,
    )
}

/// A second opinion on what others should see: from the whole history, without state of its own.
#[derive(Default)]
struct Model {
    /// Connection to its last activity.
    there: std::collections::BTreeMap<u8, u64>,
    gone_at: Option<u64>,
    last_active: u64,
    chosen: Option<Status>,
}

impl Model {
    fn note(&mut self, now: u64, was: &std::collections::BTreeMap<u8, u64>) {
        let lost = was.iter().filter(|(client, _)| !self.there.contains_key(client));
        self.last_active = lost.map(|(_, at)| *at).fold(self.last_active, u64::max);
        match self.there.is_empty() {
            true if !was.is_empty() => self.gone_at = Some(now),
            true => {}
            false => self.gone_at = None,
        }
    }

    fn seen(&self, now: u64) -> Status {
        if self.there.is_empty() && self.gone_at.is_none_or(|gone| gone + 5 * SECOND <= now) {
            return Status::Offline;
        }
        let active = self.there.values().max().copied().unwrap_or(self.last_active);
        match self.chosen {
            Some(Status::Invisible) => Status::Offline,
            Some(chosen @ (Status::Busy | Status::Away)) => chosen,
            _ if active + 300 * SECOND <= now => Status::Away,
            _ => Status::Online,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Whatever happens in whichever order: others hear the truth, each change once, and are never told what they know.
    #[test]
    fn others_hear_the_truth_and_nothing_twice(events in prop::collection::vec(event(), 1..40)) {
        let (mut user, mut model) = (User::default(), Model::default());
        let (mut now, mut number) = (START, 1);
        let mut heard: Option<Presence> = None;
        for (pause, event) in events {
            // Looks that fall due meanwhile, as who tends does them.
            let then = now + pause;
            while let Some(due) = user.due_ms(now, &rules()).filter(|due| *due <= then) {
                now = due.max(now + 1);
                if let Some(told) = user.settle("alice", &held(number), now, &rules()) {
                    prop_assert_ne!(Some(told.status()), heard.as_ref().map(Presence::status));
                    heard = Some(told);
                }
                if user.is_forgotten(now, &rules()) {
                    break;
                }
            }
            now = then.max(now);
            let was = model.there.clone();
            match event {
                Event::Here(client) => {
                    user.report(lease(number), &here(&[client]), now, &rules());
                    model.there.insert(client, now);
                }
                Event::Gone(client) => {
                    user.report(lease(number), &gone(&[client]), now, &rules());
                    model.there.remove(&client);
                }
                Event::Choose(status) => {
                    user.set(&choose(status), now);
                    model.chosen = Some(status);
                }
                Event::Anew(clients) => {
                    number += 1;
                    user.report(lease(number), &here(&clients), now, &rules());
                    model.there = clients.iter().map(|client| (*client, now)).collect();
                    // Who is reported again under the new lease was active now.
                    model.last_active = was.iter()
                        .filter(|(client, _)| !clients.contains(client))
                        .map(|(_, at)| *at)
                        .fold(model.last_active, u64::max);
                }
                Event::Look => {}
            }
            model.note(now, &was);
            if let Some(told) = user.settle("alice", &held(number), now, &rules()) {
                if let Some(before) = &heard {
                    prop_assert!(told.version > before.version);
                    prop_assert_ne!(told.status(), before.status());
                }
                heard = Some(told);
            }
            prop_assert_eq!(user.settle("alice", &held(number), now, &rules()), None, "told once");
            let seen = heard.as_ref().map_or(Status::Offline, Presence::status);
            prop_assert_eq!(seen, model.seen(now));
            user = User::decode(user.encode()).unwrap();
        }
    }
}
