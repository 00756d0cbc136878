use std::time::Duration;

use bytes::Bytes;
use switchboard_bus::embedded::EmbeddedBus;
use switchboard_bus::messages::{AskError, ask};
use switchboard_bus::{Pattern, Subject, SubjectPrefix, Subscription};
use switchboard_proto::format;
use switchboard_proto::presence::{
    Changes, ChannelChanges, ChannelCountsRequest, ChannelMember, ChannelMembersRequest, GetUserRequest,
    GetUsersRequest, Presence, ReportRequest, ReportedChannel, ReportedSession, ReportedUser, SetUserRequest,
    Status, method,
};
use switchboard_service_kit::config::Document;
use switchboard_testkit::wait_until;

use super::*;

const DEADLINE: Duration = Duration::from_secs(20);

struct Node {
    bus: Arc<dyn Bus>,
    context: Context,
    running: Running,
    changes: Subscription,
}

/// A presence service on a bus of its own.
async fn node(config: &str) -> Node {
    let bus: Arc<dyn Bus> = EmbeddedBus::new(SubjectPrefix::default());
    let changes = bus
        .subscribe(Pattern::Exactly(Subject::PresenceChanges), 1024)
        .await
        .unwrap();
    let (context, running) = service(&bus, config).await;
    Node {
        bus,
        context,
        running,
        changes,
    }
}

async fn service(bus: &Arc<dyn Bus>, config: &str) -> (Context, Running) {
    let mut document = Document::parse(config, []).unwrap();
    let config = Config::read(&mut document);
    let registry = RegistryConfig::read(&mut document);
    document.finish().unwrap();
    let context = Context::new();
    let deps = Deps {
        bus: Arc::clone(bus),
        registry,
        data: None,
    };
    let running = start(config, deps, context.clone()).await.unwrap();
    let answers = async {
        let request = GetUsersRequest {
            users: vec!["anybody".to_owned()],
        };
        while ask::<method::GetUsers>(bus.as_ref(), &request, DEADLINE)
            .await
            .is_err()
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(DEADLINE, answers)
        .await
        .expect("answers in time");
    (context, running)
}

/// A gateway, as the service sees one.
struct Gateway {
    me: Incarnation,
    lease: u64,
    number: u64,
}

impl Gateway {
    fn new() -> Self {
        Self {
            me: Incarnation::random(),
            lease: 0,
            number: 0,
        }
    }

    fn report(&mut self, users: Vec<ReportedUser>, channels: Vec<ReportedChannel>) -> ReportRequest {
        self.number += 1;
        ReportRequest {
            gateway: self.me.to_bytes(),
            lease: self.lease,
            number: self.number,
            users,
            channels,
            ..ReportRequest::default()
        }
    }

    async fn begin(&mut self, bus: &Arc<dyn Bus>) {
        self.lease += 1;
        let begins = ReportRequest {
            begins: true,
            ..self.report(Vec::new(), Vec::new())
        };
        assert!(tell(bus, &begins).await);
    }

    async fn users(&mut self, bus: &Arc<dyn Bus>, users: Vec<ReportedUser>) -> bool {
        tell(bus, &self.report(users, Vec::new())).await
    }

    async fn channel(&mut self, bus: &Arc<dyn Bus>, channel: ReportedChannel) -> bool {
        tell(bus, &self.report(Vec::new(), vec![channel])).await
    }
}

async fn tell(bus: &Arc<dyn Bus>, report: &ReportRequest) -> bool {
    ask::<method::Report>(bus.as_ref(), report, DEADLINE)
        .await
        .unwrap()
        .held
}

fn id(client: u8) -> Bytes {
    Bytes::copy_from_slice(&[client; 16])
}

fn here(user: &str, client: u8) -> ReportedUser {
    ReportedUser {
        user: user.to_owned(),
        sessions: vec![ReportedSession {
            client: id(client),
            ..ReportedSession::default()
        }],
        ended: Vec::new(),
    }
}

fn gone(user: &str, client: u8) -> ReportedUser {
    ReportedUser {
        user: user.to_owned(),
        sessions: Vec::new(),
        ended: vec![id(client)],
    }
}

impl Node {
    /// Waits for a change of a user.
    async fn hears(&mut self, user: &str) -> Presence {
        let heard = async {
            loop {
                let message = self.changes.next().await.unwrap();
                let changes: Changes = format::decode(message.payload).unwrap();
                if let Some(found) = changes.users.into_iter().find(|told| told.user == user) {
                    return found;
                }
            }
        };
        tokio::time::timeout(DEADLINE, heard).await.expect("told in time")
    }

    async fn seen(&self, user: &str) -> Presence {
        let request = GetUsersRequest {
            users: vec![user.to_owned()],
        };
        let answer = ask::<method::GetUsers>(self.bus.as_ref(), &request, DEADLINE).await;
        answer.unwrap().users.remove(0)
    }

    async fn stop(self) {
        assert!(self.context.tasks.stop(DEADLINE).await.forced.is_empty());
    }
}

#[tokio::test]
async fn several_that_keep_memories_of_their_own_are_ready_only_once_one_is_left() {
    let mut one = node("").await;
    let (context, mut second) = service(&one.bus, "").await;
    let first = one.running.incarnation;
    let until = async |membership: &mut Membership, wanted: &[Incarnation]| {
        let seen = async {
            while membership.of_role(Role::Presence) != wanted {
                membership.changed().await;
            }
        };
        tokio::time::timeout(DEADLINE, seen).await.expect("seen in time");
    };
    let mut both = vec![first, second.incarnation];
    both.sort_unstable();
    until(&mut second.membership, &both).await;
    let are = async |contexts: &[&Context], is_ready: bool| {
        let all = wait_until(DEADLINE, async || {
            let mut contexts = contexts.iter();
            contexts.all(|context| context.health.report().ready == is_ready)
        });
        all.await.expect("in time");
    };
    are(&[&one.context, &context], false).await;
    one.changes.try_next();
    one.stop().await;
    until(&mut second.membership, &[second.incarnation]).await;
    are(&[&context], true).await;
    assert!(context.tasks.stop(DEADLINE).await.forced.is_empty());
}

#[tokio::test]
async fn connecting_and_leaving_is_told_once_each() {
    let mut node = node("presence.grace = '200ms'").await;
    let mut gateway = Gateway::new();
    gateway.begin(&node.bus).await;
    assert!(
        gateway
            .users(&node.bus, vec![here("alice", 1), here("bob", 2)])
            .await
    );
    let online = node.hears("alice").await;
    assert_eq!(online.status(), Status::Online);
    assert!(
        gateway
            .users(&node.bus, vec![here("alice", 3), gone("alice2", 9)])
            .await
    );
    assert!(gateway.users(&node.bus, vec![gone("alice", 1)]).await);
    assert!(gateway.users(&node.bus, vec![gone("alice", 3)]).await);
    let offline = node.hears("alice").await;
    assert_eq!(offline.status(), Status::Offline);
    assert!(offline.version > online.version);
    assert_eq!(node.seen("bob").await.status(), Status::Online);
    assert_eq!(node.seen("nobody").await.status(), Status::Offline);
    node.stop().await;
}

#[tokio::test]
async fn the_sessions_of_a_dead_gateway_are_gone() {
    let mut node = node("presence.grace = '0s'\npresence.lease = '2s'").await;
    let (mut dead, mut alive) = (Gateway::new(), Gateway::new());
    dead.begin(&node.bus).await;
    alive.begin(&node.bus).await;
    assert!(
        dead.users(&node.bus, vec![here("alice", 1), here("bob", 2)])
            .await
    );
    assert!(alive.users(&node.bus, vec![here("bob", 3)]).await);
    let room = |client, user: &str| ReportedChannel {
        channel: "room".to_owned(),
        joined: vec![ChannelMember {
            client: id(client),
            user: user.to_owned(),
            ..ChannelMember::default()
        }],
        left: Vec::new(),
    };
    let gateway = alive.me;
    let joins = node
        .bus
        .subscribe(Pattern::Exactly(Subject::Joins { gateway }), 64);
    let mut joins = joins.await.unwrap();
    assert!(dead.channel(&node.bus, room(1, "alice")).await);
    assert!(alive.channel(&node.bus, room(3, "bob")).await);
    assert_eq!(node.hears("alice").await.status(), Status::Online);
    // The other one goes on.
    let beats = async {
        loop {
            assert!(alive.users(&node.bus, Vec::new()).await);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let changes = &mut node.changes;
    let hears = async {
        loop {
            let changes: Changes = format::decode(changes.next().await.unwrap().payload).unwrap();
            if let Some(told) = changes.users.into_iter().find(|told| told.user == "alice") {
                return told;
            }
        }
    };
    let heard = tokio::select! {
        () = beats => unreachable!(),
        heard = tokio::time::timeout(DEADLINE, hears) => heard.expect("in time"),
    };
    assert_eq!(heard.status(), Status::Offline);
    assert!(alive.users(&node.bus, Vec::new()).await);
    assert_eq!(
        node.seen("bob").await.status(),
        Status::Online,
        "she is connected elsewhere"
    );
    let members = ChannelMembersRequest {
        channel: "room".to_owned(),
    };
    let there = ask::<method::ChannelMembers>(node.bus.as_ref(), &members, DEADLINE)
        .await
        .unwrap();
    let users: Vec<&str> = there.members.iter().map(|member| member.user.as_str()).collect();
    assert_eq!(users, ["bob"]);
    // Who stayed hears that she left.
    let hears = async {
        loop {
            let changes: ChannelChanges = format::decode(joins.next().await.unwrap().payload).unwrap();
            let left = changes.changes.into_iter().find(|change| !change.joined);
            if let Some(left) = left {
                return left;
            }
        }
    };
    let left = tokio::time::timeout(DEADLINE, hears).await.expect("in time");
    assert_eq!((left.member.unwrap().user.as_str(), left.clients), ("alice", 1));
    assert!(
        !dead.users(&node.bus, vec![here("alice", 1)]).await,
        "it has to begin anew"
    );
    node.stop().await;
}

#[tokio::test]
async fn a_late_report_changes_nothing() {
    let mut node = node("").await;
    let mut gateway = Gateway::new();
    gateway.begin(&node.bus).await;
    let late = gateway.report(vec![here("alice", 1)], Vec::new());
    assert!(gateway.users(&node.bus, vec![here("bob", 2)]).await);
    assert!(!tell(&node.bus, &late).await);
    assert_eq!(node.hears("bob").await.status(), Status::Online);
    assert_eq!(node.seen("alice").await.status(), Status::Offline);
    node.stop().await;
}

#[tokio::test]
async fn users_choose_and_are_seen_so() {
    let mut node = node("").await;
    let mut gateway = Gateway::new();
    gateway.begin(&node.bus).await;
    assert!(gateway.users(&node.bus, vec![here("alice", 1)]).await);
    node.hears("alice").await;
    let set = SetUserRequest {
        user: "alice".to_owned(),
        status: Some(Status::Busy.into()),
        text: Some("writing".to_owned()),
        ..SetUserRequest::default()
    };
    let answer = ask::<method::SetUser>(node.bus.as_ref(), &set, DEADLINE)
        .await
        .unwrap();
    let told = node.hears("alice").await;
    assert_eq!((told.status(), told.text.as_str()), (Status::Busy, "writing"));
    assert_eq!(answer.presence.unwrap().version, told.version);
    let request = GetUserRequest {
        user: "alice".to_owned(),
    };
    let all = ask::<method::GetUser>(node.bus.as_ref(), &request, DEADLINE)
        .await
        .unwrap();
    assert_eq!((all.chosen(), all.sessions.len()), (Status::Busy, 1));
    node.stop().await;
}

#[tokio::test]
async fn what_makes_no_sense_is_refused() {
    let node = node("").await;
    let invalid =
        |answer: Result<(), AskError>| assert!(matches!(answer, Err(AskError::Invalid(_))), "{answer:?}");
    let bus = node.bus.as_ref();
    let set = |change: fn(&mut SetUserRequest)| {
        let mut request = SetUserRequest {
            user: "alice".to_owned(),
            ..SetUserRequest::default()
        };
        change(&mut request);
        async move { ask::<method::SetUser>(bus, &request, DEADLINE).await.map(drop) }
    };
    invalid(set(|request| request.user.clear()).await);
    invalid(set(|request| request.status = Some(77)).await);
    invalid(set(|request| request.status = Some(Status::Offline.into())).await);
    invalid(set(|request| request.visibility = Some(77)).await);
    invalid(set(|request| request.text = Some("é".repeat(141))).await);
    invalid(set(|request| request.text = Some("a\nb".to_owned())).await);
    invalid(set(|request| request.text_lasts_ms = 1).await);
    set(|request| request.text = Some("é".repeat(140))).await.unwrap();
    let users = |count: usize| GetUsersRequest {
        users: vec!["alice".to_owned(); count],
    };
    invalid(ask::<method::GetUsers>(bus, &users(0), DEADLINE).await.map(drop));
    invalid(
        ask::<method::GetUsers>(bus, &users(1_001), DEADLINE)
            .await
            .map(drop),
    );
    let all = ask::<method::GetUsers>(bus, &users(1_000), DEADLINE)
        .await
        .unwrap();
    assert_eq!(all.users.len(), 1_000);
    let counts = ChannelCountsRequest {
        channels: vec!["x".repeat(256)],
    };
    invalid(
        ask::<method::ChannelCounts>(bus, &counts, DEADLINE)
            .await
            .map(drop),
    );
    let mut gateway = Gateway::new();
    gateway.begin(&node.bus).await;
    let long = "x".repeat(65);
    let mut forged = here("alice", 1);
    forged.sessions[0].device = Some(switchboard_proto::presence::Device {
        name: long,
        ..Default::default()
    });
    let twice = vec![here("alice", 1), here("alice", 2)];
    let mut short = here("alice", 1);
    short.sessions[0].client = Bytes::from_static(b"short");
    for users in [vec![forged], twice, vec![short], vec![here("", 1)]] {
        let report = gateway.report(users, Vec::new());
        invalid(ask::<method::Report>(bus, &report, DEADLINE).await.map(drop));
    }
    node.stop().await;
}
