//! Blocks, mutes and revoked tokens, with a store that a test plays: what is carried out when, and what is done where it is not known.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message as _;
use serde_json::{Value, json};
use switchboard_bus::messages::{ANSWERERS, AskError, answered};
use switchboard_bus::{Bus, Pattern, Subject};
use switchboard_proto::bus::Question;
use switchboard_proto::format;
use switchboard_proto::messages::{
    Method as _, ModerationAct, ModerationEntry, ModerationKind, ModerationLogRequest, ModerationLogResponse,
    RestrictedRequest, RestrictedResponse, Restriction, RestrictionsRequest, RestrictionsResponse, method,
};
use switchboard_service_kit::tasks::{TaskKind, Tasks};
use tokio::time::Instant;

use super::harness::{Client, DEADLINE, Node, own_bus, own_registry};
use super::tokens::{SECRET, connected, in_seconds, reply, send, token};

const BLOCKED: (u16, &str) = (4510, "user blocked");
const VOID: (u16, &str) = (3014, "state invalidated");
const REFUSED: (u16, &str) = (3500, "invalid token");

type Key = (i32, String, String, String);

#[derive(Default)]
struct Known {
    log: Vec<ModerationEntry>,
    is_down: bool,
    /// Questions about somebody.
    asked: usize,
}

#[derive(Clone, Default)]
struct Store(Arc<Mutex<Known>>);

impl Store {
    async fn on(bus: &Arc<dyn Bus>, tasks: &Tasks) -> Self {
        let store = Self::default();
        store.clone().answer_on(bus, tasks).await;
        store
    }

    async fn answer_on(self, bus: &Arc<dyn Bus>, tasks: &Tasks) {
        let pattern = Pattern::Exactly(Subject::Messages);
        let mut questions = bus.subscribe_group(pattern, ANSWERERS, 64).await.unwrap();
        let bus = Arc::clone(bus);
        tasks.spawn("store", TaskKind::Replaceable, async move {
            while let Some(message) = questions.next().await {
                let question: Question = format::decode(message.payload).unwrap();
                let answer = answered(self.answer(&question));
                bus.reply(&message.reply.unwrap(), answer).await.unwrap();
            }
        });
    }

    fn answer(&self, question: &Question) -> Result<Bytes, AskError> {
        let mut known = self.0.lock();
        if known.is_down {
            return Err(AskError::Unavailable("down".to_owned()));
        }
        let request = question.request.clone();
        let in_force = known.in_force();
        let last = known.log.len() as u64;
        let response = match &*question.method {
            method::ModerationLog::NAME => {
                let ModerationLogRequest { after, limit } = ModerationLogRequest::decode(request).unwrap();
                let behind = known.log.iter().filter(|entry| entry.number > after);
                ModerationLogResponse {
                    entries: behind.take(limit as usize).cloned().collect(),
                    last,
                }
                .encode_to_vec()
            }
            method::Restrictions::NAME => {
                let request = RestrictionsRequest::decode(request).unwrap();
                let after = request
                    .after
                    .map(|key| (key.kind, key.user, key.channel, key.token));
                let behind = in_force.into_iter().filter(|(key, _)| Some(key) > after.as_ref());
                let of_kind = behind.filter(|(key, _)| key.0 == request.kind);
                let restrictions: Vec<Restriction> =
                    of_kind.map(|(_, one)| one).take(request.limit as usize).collect();
                RestrictionsResponse {
                    more: restrictions.len() >= request.limit as usize,
                    restrictions,
                    number: last,
                }
                .encode_to_vec()
            }
            method::Restricted::NAME => {
                known.asked += 1;
                let request = RestrictedRequest::decode(request).unwrap();
                let keys = request.keys.into_iter();
                let found = keys.filter_map(|key| {
                    in_force
                        .get(&(key.kind, key.user, key.channel, key.token))
                        .cloned()
                });
                RestrictedResponse {
                    restrictions: found.collect(),
                }
                .encode_to_vec()
            }
            other => panic!("asked for {other}"),
        };
        Ok(response.into())
    }

    /// Does it, and tells nobody.
    fn act(&self, act: ModerationAct) {
        let mut known = self.0.lock();
        let number = known.log.len() as u64 + 1;
        known.log.push(ModerationEntry {
            number,
            time_us: 0,
            act: Some(act),
            changed: true,
        });
    }

    fn down(&self, is_down: bool) {
        self.0.lock().is_down = is_down;
    }

    fn asked(&self) -> usize {
        std::mem::take(&mut self.0.lock().asked)
    }
}

impl Known {
    fn in_force(&self) -> BTreeMap<Key, Restriction> {
        let mut all = BTreeMap::new();
        for entry in &self.log {
            let act = entry.act.clone().unwrap();
            let (kind, is_lifted) = match act.kind() {
                ModerationKind::UnblockUser => (ModerationKind::BlockUser, true),
                ModerationKind::UnmuteUser => (ModerationKind::MuteUser, true),
                kind => (kind, false),
            };
            let key = (
                i32::from(kind),
                act.user.clone(),
                act.channel.clone(),
                act.token.clone(),
            );
            all.remove(&key);
            if !is_lifted {
                let restriction = Restriction {
                    kind: kind.into(),
                    user: act.user,
                    channel: act.channel,
                    token: act.token,
                    until_us: act.until_us,
                    issued_before_us: act.issued_before_us,
                    number: entry.number,
                    ..Restriction::default()
                };
                all.insert(key, restriction);
            }
        }
        all
    }
}

fn act(kind: ModerationKind, user: &str) -> ModerationAct {
    ModerationAct {
        kind: kind.into(),
        user: user.to_owned(),
        ..ModerationAct::default()
    }
}

fn block(user: &str) -> ModerationAct {
    act(ModerationKind::BlockUser, user)
}

fn mute(user: &str, channel: &str) -> ModerationAct {
    ModerationAct {
        channel: channel.to_owned(),
        ..act(ModerationKind::MuteUser, user)
    }
}

fn revoke(id: &str) -> ModerationAct {
    ModerationAct {
        token: id.to_owned(),
        ..act(ModerationKind::RevokeToken, "")
    }
}

/// Of tokens that were issued before so many seconds from now.
fn invalidate(user: &str, seconds: f64) -> ModerationAct {
    ModerationAct {
        issued_before_us: (in_seconds(seconds) * 1e6) as u64,
        ..act(ModerationKind::InvalidateTokens, user)
    }
}

fn keys(more: &str) -> String {
    format!(
        "{more}\nanswer_timeout = \"2s\"\ntyping_timeout = \"30s\"\n[gateway.tokens]\nhmac_secret = \"{SECRET}\"\n\
         [namespaces.room]\nallow_subscribe_for_client = true\nallow_publish_for_client = true\nallow_message_changes = true\n"
    )
}

/// A gateway that looks at the log every 50 ms, and its store.
async fn node(more: &str) -> (Node, Store) {
    let node = Node::start(&keys(&format!("moderation.interval = \"50ms\"\n{more}"))).await;
    let store = Store::on(&node.bus, &node.context.tasks).await;
    node.until("switchboard_gateway_moderation_loads_total", 1).await;
    (node, store)
}

/// Waits until the gateway has carried out all that the store has.
async fn followed(node: &Node, store: &Store) {
    let last = store.0.lock().log.len() as u64;
    node.until("switchboard_gateway_moderation_number", last).await;
}

/// What a connect with these claims is answered with, a reply or a close.
async fn tried(node: &Node, claims: Value) -> Client {
    let mut client = node.client().await;
    send(&mut client, 1, "connect", json!({"token": token(&claims)})).await;
    client
}

async fn closed(client: &mut Client) -> (u16, String) {
    client.closed().await
}

fn as_told((code, words): (u16, &str)) -> (u16, String) {
    (code, words.to_owned())
}

async fn error(client: &mut Client, id: u32) -> u64 {
    let reply = client.json().await;
    assert_eq!(reply["id"], id, "{reply}");
    reply["error"]["code"].as_u64().unwrap_or(0)
}

#[tokio::test]
async fn an_act_that_nobody_told_of_is_carried_out_by_the_next_look() {
    let (node, store) = node("").await;
    let mut eve = connected(&node, json!({"sub": "eve"})).await;
    let mut bob = connected(&node, json!({"sub": "bob"})).await;
    store.act(block("eve"));
    assert_eq!(closed(&mut eve).await, as_told(BLOCKED));
    bob.assert_lives().await;
    followed(&node, &store).await;
    let mut again = tried(&node, json!({"sub": "eve"})).await;
    assert_eq!(again.closed_without_reply().await, as_told(BLOCKED));
    store.act(act(ModerationKind::UnblockUser, "eve"));
    followed(&node, &store).await;
    connected(&node, json!({"sub": "eve"})).await;
    assert_eq!(node.metric("switchboard_gateway_moderation_restrictions"), 0);
}

#[tokio::test]
async fn a_block_ends_by_its_time() {
    let (node, store) = node("").await;
    store.act(ModerationAct {
        until_us: (in_seconds(0.6) * 1e6) as u64,
        ..block("eve")
    });
    followed(&node, &store).await;
    let mut eve = tried(&node, json!({"sub": "eve"})).await;
    assert_eq!(closed(&mut eve).await, as_told(BLOCKED));
    let end = Instant::now() + DEADLINE;
    loop {
        let mut eve = tried(&node, json!({"sub": "eve"})).await;
        if matches!(eve.message().await, Some(Ok(message)) if message.is_text()) {
            break;
        }
        assert!(Instant::now() < end, "she is still blocked");
        // No more often than a client may come.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn what_a_muted_user_wants_to_say_is_refused() {
    let (node, store) = node("").await;
    let mut bob = connected(&node, json!({"sub": "bob"})).await;
    store.act(mute("bob", "room:1"));
    followed(&node, &store).await;
    send(&mut bob, 2, "publish", json!({"channel": "room:1", "data": 1})).await;
    assert_eq!(error(&mut bob, 2).await, 103);
    let sent = json!({"method": "message.send", "data": {"channel": "room:1", "data": 1}});
    send(&mut bob, 3, "rpc", sent).await;
    assert_eq!(error(&mut bob, 3).await, 103);
    for (id, method, data) in [
        (
            4,
            "message.edit",
            json!({"channel": "room:1", "offset": 1, "data": 2}),
        ),
        (
            5,
            "message.react",
            json!({"channel": "room:1", "offset": 1, "reaction": "x"}),
        ),
    ] {
        send(&mut bob, id, "rpc", json!({"method": method, "data": data})).await;
        assert_eq!(error(&mut bob, id).await, 103, "{method}");
    }
    assert_eq!(
        node.metric("switchboard_gateway_moderation_refused_speech_total"),
        4
    );
}

#[tokio::test]
async fn connections_end_with_their_tokens() {
    let (node, store) = node("").await;
    let mut by_id = connected(&node, json!({"sub": "eve", "jti": "a"})).await;
    let mut by_number = connected(&node, json!({"sub": "eve", "jti": 17})).await;
    let mut by_age = connected(&node, json!({"sub": "bob", "iat": in_seconds(-9.0)})).await;
    let mut undated = connected(&node, json!({"sub": "bob"})).await;
    let mut fresh = connected(&node, json!({"sub": "bob", "iat": in_seconds(9.0)})).await;
    store.act(revoke("a"));
    assert_eq!(closed(&mut by_id).await, as_told(VOID));
    by_number.assert_lives().await;
    store.act(revoke("17"));
    assert_eq!(closed(&mut by_number).await, as_told(VOID));
    store.act(invalidate("bob", 0.0));
    assert_eq!(closed(&mut by_age).await, as_told(VOID));
    assert_eq!(closed(&mut undated).await, as_told(VOID));
    followed(&node, &store).await;
    fresh.assert_lives().await;
    for claims in [
        json!({"sub": "eve", "jti": "a"}),
        json!({"sub": "bob", "iat": in_seconds(-1.0)}),
        json!({"sub": "bob"}),
    ] {
        let mut refused = tried(&node, claims).await;
        assert_eq!(refused.closed_without_reply().await, as_told(REFUSED));
    }
    store.act(invalidate("", 60.0));
    assert_eq!(closed(&mut fresh).await, as_told(VOID));
}

#[tokio::test]
async fn a_refresh_is_judged_as_a_connect_and_counts_from_then_on() {
    let (node, store) = node("").await;
    let mut eve = connected(&node, json!({"sub": "eve", "jti": "a"})).await;
    let refresh = |id: &str| json!({"token": token(&json!({"sub": "eve", "jti": id}))});
    send(&mut eve, 2, "refresh", refresh("b")).await;
    reply(&mut eve, 2, "refresh").await;
    // The token that she came with is not hers any more.
    store.act(revoke("a"));
    followed(&node, &store).await;
    eve.assert_lives().await;
    store.act(revoke("c"));
    followed(&node, &store).await;
    send(&mut eve, 3, "refresh", refresh("c")).await;
    assert_eq!(closed(&mut eve).await, as_told(REFUSED));
    let mut eve = connected(&node, json!({"sub": "eve", "jti": "d"})).await;
    send(&mut eve, 2, "refresh", refresh("e")).await;
    reply(&mut eve, 2, "refresh").await;
    store.act(revoke("e"));
    assert_eq!(closed(&mut eve).await, as_told(VOID));
}

#[tokio::test]
async fn a_gateway_that_starts_finds_who_should_not_be_there() {
    let (bus, registry): (Arc<dyn Bus>, _) = (own_bus(), own_registry());
    let more = keys("moderation.interval = \"50ms\"");
    let node = Node::start_on(Arc::clone(&bus), registry, &more).await;
    // No store answers, so everybody comes in.
    let mut eve = connected(&node, json!({"sub": "eve", "jti": "a"})).await;
    let mut bob = connected(&node, json!({"sub": "bob", "jti": "b"})).await;
    let mut carol = connected(&node, json!({"sub": "carol"})).await;
    let mut dave = connected(&node, json!({"sub": "dave"})).await;
    let store = Store::default();
    store.act(block("eve"));
    store.act(revoke("b"));
    store.act(block("carol"));
    store.act(act(ModerationKind::UnblockUser, "carol"));
    store.clone().answer_on(&bus, &node.context.tasks).await;
    assert_eq!(closed(&mut eve).await, as_told(BLOCKED));
    assert_eq!(closed(&mut bob).await, as_told(VOID));
    carol.assert_lives().await;
    dave.assert_lives().await;
    // A store that went back is read anew.
    {
        let mut known = store.0.lock();
        known.log.truncate(2);
        known.log[1].act = Some(block("carol"));
    }
    assert_eq!(closed(&mut carol).await, as_told(BLOCKED));
    dave.assert_lives().await;
}

#[tokio::test]
async fn who_must_know_lets_nobody_in_before() {
    let (bus, registry): (Arc<dyn Bus>, _) = (own_bus(), own_registry());
    let more = keys("moderation.required = true").replace("\"2s\"", "\"300ms\"");
    let node = Node::start_on(Arc::clone(&bus), registry, &more).await;
    let mut early = tried(&node, json!({"sub": "bob"})).await;
    assert_eq!(error(&mut early, 1).await, 100);
    let store = Store::on(&bus, &node.context.tasks).await;
    store.act(block("eve"));
    node.until("switchboard_gateway_moderation_loads_total", 1).await;
    followed(&node, &store).await;
    connected(&node, json!({"sub": "bob"})).await;
    let mut eve = tried(&node, json!({"sub": "eve"})).await;
    assert_eq!(closed(&mut eve).await, as_told(BLOCKED));
}

#[tokio::test]
async fn what_there_is_no_room_for_is_asked() {
    let (node, store) = node("moderation.restrictions = 10").await;
    let mut late = connected(&node, json!({"sub": "late"})).await;
    for number in 0..10 {
        store.act(block(&format!("user-{number}")));
    }
    followed(&node, &store).await;
    connected(&node, json!({"sub": "bob"})).await;
    assert_eq!(store.asked(), 0, "all are in memory");
    store.act(block("eve"));
    store.act(block("late"));
    store.act(mute("bob", "room:1"));
    // Whom it concerns now is found by the act itself.
    assert_eq!(closed(&mut late).await, as_told(BLOCKED));
    followed(&node, &store).await;
    assert_eq!(node.metric("switchboard_gateway_moderation_not_kept_total"), 3);
    let mut eve = tried(&node, json!({"sub": "eve"})).await;
    assert_eq!(closed(&mut eve).await, as_told(BLOCKED));
    let mut bob = connected(&node, json!({"sub": "bob"})).await;
    send(&mut bob, 2, "publish", json!({"channel": "room:1", "data": 1})).await;
    assert_eq!(error(&mut bob, 2).await, 103);
    assert!(store.asked() >= 3);
    // Nobody is let in, or heard, by a store that does not answer.
    store.down(true);
    send(&mut bob, 3, "publish", json!({"channel": "room:2", "data": 1})).await;
    assert_eq!(error(&mut bob, 3).await, 100);
    let mut carol = tried(&node, json!({"sub": "carol"})).await;
    assert_eq!(error(&mut carol, 1).await, 100);
    // What is known holds.
    let mut known = tried(&node, json!({"sub": "user-3"})).await;
    assert_eq!(closed(&mut known).await, as_told(BLOCKED));
}

#[tokio::test]
async fn what_fills_many_pages_is_read_whole() {
    let (bus, registry): (Arc<dyn Bus>, _) = (own_bus(), own_registry());
    let store = Store::default();
    for number in 0..1_000 {
        store.act(block(&format!("user-{number}")));
        store.act(revoke(&format!("token-{number}")));
    }
    let node = Node::start_on(Arc::clone(&bus), registry, &keys("")).await;
    store.clone().answer_on(&bus, &node.context.tasks).await;
    followed(&node, &store).await;
    assert_eq!(node.metric("switchboard_gateway_moderation_restrictions"), 2_000);
    let mut last = tried(&node, json!({"sub": "user-999"})).await;
    assert_eq!(closed(&mut last).await, as_told(BLOCKED));
    let mut last = tried(&node, json!({"sub": "bob", "jti": "token-999"})).await;
    assert_eq!(closed(&mut last).await, as_told(REFUSED));
    connected(&node, json!({"sub": "bob", "jti": "token-1000"})).await;
    assert_eq!(store.asked(), 0, "all are in memory");
}

#[tokio::test]
async fn who_came_before_it_was_known_is_asked_about_where_there_is_no_room() {
    let (bus, registry): (Arc<dyn Bus>, _) = (own_bus(), own_registry());
    let store = Store::default();
    for number in 0..20 {
        store.act(revoke(&format!("token-{number:02}")));
    }
    let more =
        keys("moderation.restrictions = 10\nlimits.connections_per_address = 0\nlimits.connect_rate = 0");
    let node = Node::start_on(Arc::clone(&bus), registry, &more).await;
    let mut void = connected(&node, json!({"sub": "bob", "jti": "token-19"})).await;
    let mut good = connected(&node, json!({"sub": "bob", "jti": "token-20"})).await;
    store.clone().answer_on(&bus, &node.context.tasks).await;
    assert_eq!(closed(&mut void).await, as_told(VOID));
    good.assert_lives().await;
    followed(&node, &store).await;
    assert!(store.asked() >= 2, "both were asked about");
}

/// Acts and connects at the same time: whoever came before the act was known is found, whoever comes later is refused.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_slips_in_between() {
    let (node, store) = node("limits.connections_per_address = 0\nlimits.connect_rate = 0").await;
    let mut clients = Vec::new();
    for number in 0..60 {
        let user = format!("user-{number}");
        let claims = json!({"sub": user});
        let mut client = node.client().await;
        send(&mut client, 1, "connect", json!({"token": token(&claims)})).await;
        store.act(block(&user));
        node.gateway.moderation.look();
        clients.push(client);
        // Some connects are answered before the next act is looked at, some are not: what is asserted holds for all.
        tokio::time::sleep(Duration::from_millis(number % 4)).await;
    }
    for client in &mut clients {
        assert_eq!(closed(client).await, as_told(BLOCKED));
    }
}
