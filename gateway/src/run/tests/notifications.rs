//! What backends and clients ask of the notify service, with one that a test has speak.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message as _;
use serde_json::{Value, json};
use switchboard_bus::Pattern;
use switchboard_bus::messages::{AskError, answered, place};
use switchboard_proto::bus::Question;
use switchboard_proto::format;
use switchboard_proto::notifications::{
    CancelRequest, CancelResponse, DeadLettersRequest, DeleteTemplateRequest, Device, DropDeadLettersRequest,
    ForgetUserRequest, GetPreferencesRequest, GetPreferencesResponse, GetRequest, InboxEntry, InboxRequest,
    InboxResponse, ListDevicesRequest, ListDevicesResponse, ListTemplatesRequest, ListTemplatesResponse,
    MarkInboxRequest, MarkInboxResponse, MuteRequest, Muted, Notification, PutTemplateRequest,
    RegisterDeviceRequest, RegisterDeviceResponse, RemoveDeviceRequest, RemoveDeviceResponse,
    RetryDeadLettersRequest, SendRequest, SendResponse, Sent, SetPreferencesRequest, StatisticsRequest,
    method,
};
use switchboard_proto::questions::{Method, Service};
use switchboard_service_kit::tasks::TaskKind;

use super::api::{KEY, call, code, keys, post};
use super::harness::{Client, Node};
use super::tokens::{SECRET, connected, reply, send};

/// What the service is to answer, and what it was asked.
#[derive(Default)]
struct Said {
    asked: VecDeque<(String, Bytes)>,
    /// By method; where there is none, an empty answer.
    answers: BTreeMap<&'static str, Result<Bytes, AskError>>,
    is_silent: bool,
}

#[derive(Clone, Default)]
struct Notify(Arc<Mutex<Said>>);

impl Notify {
    async fn beside(node: &Node) -> Self {
        let notify = Self::default();
        let (subject, group) = place(Service::Notifications);
        let pattern = Pattern::Exactly(subject);
        let mut questions = node.bus.subscribe_group(pattern, group, 64).await.unwrap();
        let (bus, this) = (Arc::clone(&node.bus), notify.clone());
        let answering = async move {
            while let Some(message) = questions.next().await {
                let question: Question = format::decode(message.payload).unwrap();
                if let Some(answer) = this.answer(question) {
                    let to = message.reply.unwrap();
                    bus.reply(&to, answered(answer)).await.unwrap();
                }
            }
        };
        let tasks = &node.context.tasks;
        tasks.spawn("notify", TaskKind::Replaceable, answering);
        notify
    }

    fn answer(&self, question: Question) -> Option<Result<Bytes, AskError>> {
        let mut said = self.0.lock();
        let mut answer = said.answers.get(&*question.method).cloned();
        if let (Some(Ok(page)), method::Inbox::NAME) = (&mut answer, &*question.method) {
            let request = InboxRequest::decode(question.request.clone()).unwrap();
            let mut all = InboxResponse::decode(page.clone()).unwrap();
            if request.limit > 0 {
                all.entries.truncate(request.limit as usize);
            }
            *page = all.encode_to_vec().into();
        }
        said.asked.push_back((question.method, question.request));
        (!said.is_silent).then(|| answer.unwrap_or(Ok(Bytes::new())))
    }

    fn answers<M: Method>(&self, response: &M::Response) {
        let response = Ok(response.encode_to_vec().into());
        self.0.lock().answers.insert(M::NAME, response);
    }

    fn fails<M: Method>(&self, error: AskError) {
        self.0.lock().answers.insert(M::NAME, Err(error));
    }

    /// The one thing that it was asked since the last look.
    #[track_caller]
    fn assert_asked<M: Method>(&self, request: &M::Request) {
        let asked: Vec<_> = self.0.lock().asked.drain(..).collect();
        let expected = (M::NAME.to_owned(), Bytes::from(request.encode_to_vec()));
        assert_eq!(asked, [expected]);
    }

    #[track_caller]
    fn assert_not_asked(&self) {
        assert_eq!(self.0.lock().asked, []);
    }
}

/// A gateway with a server API, and the service. `more` is of `[gateway.notifications]`.
async fn two(more: &str) -> (Node, Notify) {
    let more = format!("[gateway.notifications]\n{more}");
    let node = Node::start(&keys(&more)).await;
    let notify = Notify::beside(&node).await;
    (node, notify)
}

async fn rpc(client: &mut Client, method: &str, data: Value) -> Value {
    send(client, 7, "rpc", json!({ "method": method, "data": data })).await;
    let answer = client.json().await;
    assert_eq!(answer["id"], 7, "{answer}");
    answer
}

/// What a method answered, which has to be no error.
async fn asks(client: &mut Client, method: &str, data: Value) -> Value {
    send(client, 8, "rpc", json!({ "method": method, "data": data })).await;
    reply(client, 8, "rpc").await["data"].clone()
}

fn alice() -> String {
    "alice".to_owned()
}

fn ids() -> Vec<String> {
    vec!["a".to_owned(), "b".to_owned()]
}

macro_rules! assert_reaches {
    ($node:ident, $notify:ident, $($name:literal, $json:tt => $question:ident($request:expr);)+) => {
        $(
            let answer = call(&$node, $name, json!($json)).await;
            assert!(answer["result"].is_object(), "{}: {answer}", $name);
            $notify.assert_asked::<method::$question>(&$request);
            assert_eq!(
                $node.metric(&format!("switchboard_gateway_api_calls_total{{method=\"{}\",code=\"0\"}}", $name)),
                1
            );
        )+
    };
}

#[tokio::test]
async fn each_call_of_a_backend_reaches_the_service() {
    let (node, notify) = two("").await;
    let notification = Notification {
        user: alice(),
        category: "chat".to_owned(),
        template: "said".to_owned(),
        variables: Bytes::from_static(br#"{"who":"Bob"}"#),
        data: Bytes::from_static(br#"{"a":[1]}"#),
        ways: vec!["push".to_owned()],
        send_at: 5,
        idempotency_key: "k".to_owned(),
        ..Notification::default()
    };
    let device = Device {
        id: "hook".to_owned(),
        provider: "webhook".to_owned(),
        subscription: Bytes::from_static(br#"{"url":"https://example.com/"}"#),
        ..Device::default()
    };
    assert_reaches! { node, notify,
        "notification_send", {"notifications": [{
            "user": "alice", "category": "chat", "template": "said", "variables": {"who": "Bob"}, "data": {"a": [1]},
            "ways": ["push"], "send_at": 5, "idempotency_key": "k", "link": null, "of_a_later_release": 1
        }]} => Send(SendRequest { notifications: vec![notification] });
        "notification_cancel", {"ids": ["a", "b"]} => Cancel(CancelRequest { ids: ids() });
        "notification_get", {"id": "a"} => Get(GetRequest { id: "a".to_owned() });
        "notification_inbox", {"user": "alice", "limit": 3, "cursor": "c"} => Inbox(InboxRequest {
            user: alice(), limit: 3, cursor: "c".to_owned() });
        "notification_mark", {"user": "alice", "ids": ["a", "b"], "read": true} => MarkInbox(MarkInboxRequest {
            user: alice(), ids: ids(), read: true });
        "notification_preferences", {"user": "alice"} => GetPreferences(GetPreferencesRequest { user: alice() });
        "notification_set_preferences", {"user": "alice", "preferences": {"ways": {"push": false}}} => SetPreferences(
            SetPreferencesRequest { user: alice(), preferences: Bytes::from_static(br#"{"ways":{"push":false}}"#) });
        "notification_mute", {"user": "alice", "conversation": "room:1", "until": 9} => Mute(MuteRequest {
            user: alice(), conversation: "room:1".to_owned(), until: 9, unmute: false });
        "device_register", {"user": "alice", "device": {
            "id": "hook", "provider": "webhook", "subscription": {"url": "https://example.com/"}
        }} => RegisterDevice(RegisterDeviceRequest { user: alice(), device: Some(device) });
        "device_remove", {"user": "alice", "id": "hook"} => RemoveDevice(RemoveDeviceRequest {
            user: alice(), id: "hook".to_owned() });
        "device_list", {"user": "alice"} => ListDevices(ListDevicesRequest { user: alice() });
        "template_put", {"template": {"name": "said"}} => PutTemplate(PutTemplateRequest {
            template: Bytes::from_static(br#"{"name":"said"}"#) });
        "template_delete", {"name": "said", "language": "de"} => DeleteTemplate(DeleteTemplateRequest {
            name: "said".to_owned(), language: "de".to_owned() });
        "template_list", {} => ListTemplates(ListTemplatesRequest {});
        "dead_letter_list", {"limit": 3, "user": "alice"} => DeadLetters(DeadLettersRequest {
            limit: 3, cursor: String::new(), user: alice() });
        "dead_letter_retry", {"ids": ["a", "b"]} => RetryDeadLetters(RetryDeadLettersRequest { ids: ids() });
        "dead_letter_drop", {"ids": ["a", "b"]} => DropDeadLetters(DropDeadLettersRequest { ids: ids() });
        "notification_statistics", {"from": 1, "to": 2} => Statistics(StatisticsRequest { from: 1, to: 2 });
        "user_forget_notifications", {"user": "alice"} => ForgetUser(ForgetUserRequest { user: alice() });
    }
}

#[tokio::test]
async fn backends_are_shown_the_answer_as_json() {
    let (node, notify) = two("").await;
    notify.answers::<method::Send>(&SendResponse {
        sent: vec![Sent {
            id: "1".to_owned(),
            duplicate: true,
        }],
    });
    let sent = call(&node, "notification_send", json!({ "notifications": [] })).await;
    assert_eq!(
        sent,
        json!({ "result": { "sent": [{ "id": "1", "duplicate": true }] } })
    );
    notify.answers::<method::ListTemplates>(&ListTemplatesResponse {
        templates: Bytes::from_static(br#"[{"name":"said"}]"#),
    });
    let (_, text) = post(&node, "/api/template_list", Some(("X-API-Key", KEY)), "").await;
    assert_eq!(text, r#"{"result":{"templates":[{"name":"said"}]}}"#);
    notify.answers::<method::RegisterDevice>(&RegisterDeviceResponse {
        secret: "whsec_x".to_owned(),
    });
    let device = json!({ "user": "alice", "device": { "id": "hook", "provider": "webhook" } });
    let registered = call(&node, "device_register", device).await;
    assert_eq!(registered, json!({ "result": { "secret": "whsec_x" } }));
    // By the older form as well, and in no batch.
    let key = Some(("X-API-Key", KEY));
    let older = r#"{"method":"notification_cancel","params":{"ids":["a"]}}"#;
    notify.answers::<method::Cancel>(&CancelResponse { cancelled: 1 });
    let (status, text) = post(&node, "/api", key, older).await;
    assert_eq!((status, &*text), (200, r#"{"result":{"cancelled":1}}"#));
    let batch = json!({ "commands": [{ "notification_cancel": { "ids": ["a"] } }] });
    let batch = call(&node, "batch", batch).await;
    assert_eq!(code(&batch["replies"][0]), 104, "{batch}");
}

#[tokio::test]
async fn faults_are_told_to_backends_in_words() {
    let (node, notify) = two("timeout = \"200ms\"").await;
    let words = || "why it is so".to_owned();
    for (error, expected, message) in [
        (AskError::Invalid(words()), 107, "bad request: why it is so"),
        (AskError::NotFound(words()), 107, "bad request: why it is so"),
        (AskError::Denied(words()), 103, "permission denied"),
        (
            AskError::NotAvailable(words()),
            108,
            "not available: why it is so",
        ),
        (
            AskError::Unavailable(words()),
            100,
            "internal server error: the notify service does not answer; what was asked may be done or not, ask again",
        ),
        (AskError::Internal(words()), 100, "internal server error"),
    ] {
        notify.fails::<method::Get>(error.clone());
        let answer = call(&node, "notification_get", json!({ "id": "a" })).await;
        assert_eq!(
            answer["error"],
            json!({ "code": expected, "message": message }),
            "{error:?}"
        );
    }
    notify.0.lock().asked.clear();
    let key = Some(("X-API-Key", KEY));
    for body in [
        "[]",
        "{",
        r#"{"notifications":{}}"#,
        r#"{"notifications":[{"user":1}]}"#,
        r#"{"notifications":[{"data":}]}"#,
    ] {
        let (status, answer) = post(&node, "/api/notification_send", key, body).await;
        assert_eq!(status, 400, "{body}: {answer}");
    }
    assert_eq!(post(&node, "/api/notification_send", None, "{}").await.0, 401);
    assert_eq!(post(&node, "/api/notification_none", key, "{}").await.0, 404);
    // More than the bus takes, which asking again would not help.
    let body = "x".repeat(node.bus.max_payload());
    let large = json!({ "notifications": [{ "user": "alice", "body": body }] });
    assert_eq!(code(&call(&node, "notification_send", large).await), 107);
    notify.assert_not_asked();
    // One that hangs.
    notify.0.lock().is_silent = true;
    assert_eq!(
        code(&call(&node, "notification_get", json!({ "id": "a" })).await),
        100
    );
}

#[tokio::test]
async fn without_the_service_it_is_a_temporary_error() {
    let node = Node::start(&keys("")).await;
    assert_eq!(
        code(&call(&node, "notification_get", json!({ "id": "a" })).await),
        100
    );
    let mut client = connected(&node, json!({ "sub": "alice" })).await;
    let answer = rpc(&mut client, "notification.list", json!({})).await;
    let expected = json!({ "code": 100, "message": "internal server error", "temporary": true });
    assert_eq!(answer["error"], expected);
}

macro_rules! assert_own {
    ($client:ident, $notify:ident, $($name:literal, $json:tt => $question:ident($request:expr);)+) => {
        $(
            asks(&mut $client, $name, json!($json)).await;
            $notify.assert_asked::<method::$question>(&$request);
        )+
    };
}

#[tokio::test]
async fn clients_ask_about_themselves() {
    let (node, notify) = two("").await;
    let mut client = connected(&node, json!({ "sub": "alice" })).await;
    let preferences = Bytes::from_static(br#"{"quiet":{"from":"22:00"}}"#);
    let phone = Device {
        id: "phone".to_owned(),
        provider: "fcm".to_owned(),
        address: "token".to_owned(),
        ..Device::default()
    };
    let browser = Device {
        id: "browser".to_owned(),
        provider: "web_push".to_owned(),
        subscription: Bytes::from_static(br#"{"endpoint":"https://example.com/"}"#),
        ..Device::default()
    };
    let mute = |until, unmute| MuteRequest {
        user: alice(),
        conversation: "room:1".to_owned(),
        until,
        unmute,
    };
    let list = |limit, cursor: &str| InboxRequest {
        user: alice(),
        limit,
        cursor: cursor.to_owned(),
    };
    let mark = |ids, read| MarkInboxRequest {
        user: alice(),
        ids,
        read,
    };
    let register = |device| RegisterDeviceRequest {
        user: alice(),
        device: Some(device),
    };
    assert_own! { client, notify,
        "notification.list", {} => Inbox(list(0, ""));
        "notification.list", {"limit": 5, "cursor": "c"} => Inbox(list(5, "c"));
        "notification.mark", {} => MarkInbox(mark(Vec::new(), false));
        "notification.mark", {"ids": ["a", "b"], "read": true} => MarkInbox(mark(ids(), true));
        "notification.preferences.get", {} => GetPreferences(GetPreferencesRequest { user: alice() });
        "notification.preferences.set", {"preferences": {"quiet": {"from": "22:00"}}} => SetPreferences(
            SetPreferencesRequest { user: alice(), preferences });
        "notification.mute", {"conversation": "room:1"} => Mute(mute(0, false));
        "notification.mute", {"conversation": "room:1", "until": 9} => Mute(mute(9, false));
        "notification.mute", {"conversation": "room:1", "unmute": true} => Mute(mute(0, true));
        "device.register", {"device": {"id": "phone", "provider": "fcm", "address": "token"}} => RegisterDevice(
            register(phone));
        "device.register", {"device": {
            "id": "browser", "provider": "web_push", "subscription": {"endpoint": "https://example.com/"}
        }} => RegisterDevice(register(browser));
        "device.remove", {"id": "phone"} => RemoveDevice(RemoveDeviceRequest {
            user: alice(), id: "phone".to_owned() });
        "device.list", {} => ListDevices(ListDevicesRequest { user: alice() });
    }
}

#[tokio::test]
async fn clients_are_shown_what_the_service_says() {
    let (node, notify) = two("").await;
    let mut client = connected(&node, json!({ "sub": "alice" })).await;
    notify.answers::<method::Inbox>(&InboxResponse {
        entries: vec![InboxEntry {
            id: "1".to_owned(),
            time: 5,
            title: "Bob".to_owned(),
            data: Bytes::from_static(br#"{"a":[1, 2]}"#),
            seen: true,
            ..InboxEntry::default()
        }],
        cursor: "c".to_owned(),
        unseen: 2,
        unread: 3,
    });
    let entry = json!({
        "id": "1", "time": 5, "category": "", "title": "Bob", "body": "", "link": "", "data": { "a": [1, 2] },
        "conversation": "", "seen": true, "read": false,
    });
    assert_eq!(
        asks(&mut client, "notification.list", json!({})).await,
        json!({ "entries": [entry], "cursor": "c", "unseen": 2, "unread": 3 })
    );
    notify.answers::<method::MarkInbox>(&MarkInboxResponse { unseen: 0, unread: 1 });
    assert_eq!(
        asks(&mut client, "notification.mark", json!({ "ids": ["1"] })).await,
        json!({ "unseen": 0, "unread": 1 })
    );
    notify.answers::<method::GetPreferences>(&GetPreferencesResponse {
        preferences: Bytes::from_static(b"{}"),
        muted: vec![Muted {
            conversation: "room:1".to_owned(),
            until: 0,
        }],
    });
    assert_eq!(
        asks(&mut client, "notification.preferences.get", json!({})).await,
        json!({ "preferences": {}, "muted": [{ "conversation": "room:1", "until": 0 }] })
    );
    notify.answers::<method::RegisterDevice>(&RegisterDeviceResponse {
        secret: "of webhooks".to_owned(),
    });
    let device = json!({ "device": { "id": "phone", "provider": "apns", "address": "t" } });
    assert_eq!(asks(&mut client, "device.register", device).await, json!({}));
    notify.answers::<method::RemoveDevice>(&RemoveDeviceResponse { removed: true });
    assert_eq!(
        asks(&mut client, "device.remove", json!({ "id": "phone" })).await,
        json!({ "removed": true })
    );
    notify.answers::<method::ListDevices>(&ListDevicesResponse {
        web_push_key: "BN".to_owned(),
        ..ListDevicesResponse::default()
    });
    assert_eq!(
        asks(&mut client, "device.list", json!({})).await,
        json!({ "devices": [], "web_push_key": "BN" })
    );
}

/// Whatever the service's page is, a connection is given what it has room for.
#[tokio::test]
async fn a_long_list_comes_in_shorter_pages() {
    let text = format!(
        "outgoing_queue = \"160KiB\"\n[gateway.tokens]\nhmac_secret = \"{SECRET}\"\n[gateway.notifications]\n"
    );
    let node = Node::start(&text).await;
    let notify = Notify::beside(&node).await;
    let entry = |size| InboxEntry {
        body: "x".repeat(size),
        ..InboxEntry::default()
    };
    let mut client = connected(&node, json!({ "sub": "alice" })).await;
    let long = InboxResponse {
        entries: vec![entry(15 * 1024); 5],
        ..InboxResponse::default()
    };
    notify.answers::<method::Inbox>(&long);
    let answer = asks(&mut client, "notification.list", json!({})).await;
    assert_eq!(answer["entries"].as_array().unwrap().len(), 2);
    let asked: Vec<_> = notify.0.lock().asked.drain(..).collect();
    let limits = (asked.into_iter()).map(|(_, request)| InboxRequest::decode(request).unwrap().limit);
    assert_eq!(limits.collect::<Vec<_>>(), [0, 2]);
    // One entry that has no room is nobody's to cut.
    notify.answers::<method::Inbox>(&InboxResponse {
        entries: vec![entry(45 * 1024)],
        ..InboxResponse::default()
    });
    let answer = rpc(&mut client, "notification.list", json!({})).await;
    assert_eq!(answer["error"]["code"], 106, "{answer}");
}

#[tokio::test]
async fn what_clients_may_not_ask_is_refused_here() {
    let (node, notify) = two("").await;
    let mut client = connected(&node, json!({ "sub": "alice" })).await;
    let device = |provider: &str| json!({ "device": { "id": "d", "provider": provider, "address": "a" } });
    for (method, data, expected) in [
        ("notification.list", json!({ "user": "bob" }), 107),
        ("notification.mark", json!({ "user": "bob" }), 107),
        ("notification.mark", json!({ "ids": "a" }), 107),
        ("notification.preferences.get", json!({ "user": "bob" }), 107),
        ("notification.preferences.set", json!({}), 107),
        (
            "notification.preferences.set",
            json!({ "preferences": {}, "user": "bob" }),
            107,
        ),
        ("notification.mute", json!({}), 107),
        ("notification.mute", json!({ "conversation": "" }), 107),
        ("notification.mute", json!({ "conversation": "a b" }), 107),
        (
            "notification.mute",
            json!({ "conversation": "x".repeat(300) }),
            107,
        ),
        (
            "notification.mute",
            json!({ "conversation": "room:1", "user": "bob" }),
            107,
        ),
        ("device.register", json!({}), 107),
        ("device.register", device("carrier_pigeon"), 107),
        ("device.register", device("webhook"), 103),
        ("device.register", device("email"), 103),
        ("device.register", device("sms"), 103),
        (
            "device.register",
            json!({ "device": { "id": "d", "provider": "fcm", "address": "a", "disabled": true } }),
            107,
        ),
        (
            "device.register",
            json!({ "device": { "id": "d", "provider": "fcm" }, "user": "bob" }),
            107,
        ),
        ("device.remove", json!({}), 107),
        ("device.list", json!({ "user": "bob" }), 107),
        ("notification.send", json!({}), 108),
    ] {
        let answer = rpc(&mut client, method, data.clone()).await;
        assert_eq!(answer["error"]["code"], expected, "{method} {data}: {answer}");
    }
    notify.assert_not_asked();
    // What is wrong with a request is told in the service's words, what is wrong with the service is not.
    notify.fails::<method::SetPreferences>(AskError::Invalid("no such category".to_owned()));
    let preferences = json!({ "preferences": { "x": 1 } });
    let answer = rpc(&mut client, "notification.preferences.set", preferences).await;
    assert_eq!(
        answer["error"],
        json!({ "code": 107, "message": "bad request: no such category" })
    );
    notify.fails::<method::ListDevices>(AskError::Internal("a secret".to_owned()));
    let answer = rpc(&mut client, "device.list", json!({})).await;
    assert_eq!(answer["error"]["message"], "internal server error");
}

#[tokio::test]
async fn who_has_no_name_has_no_notifications() {
    let text = format!("[gateway.tokens]\nhmac_secret = \"{SECRET}\"\nanonymous = \"everybody\"");
    let node = Node::start(&text).await;
    let notify = Notify::beside(&node).await;
    let mut client = node.connected().await;
    for (method, data) in [
        ("notification.list", json!({})),
        ("notification.mark", json!({})),
        ("notification.preferences.get", json!({})),
        ("notification.preferences.set", json!({ "preferences": {} })),
        ("notification.mute", json!({ "conversation": "room:1" })),
        (
            "device.register",
            json!({ "device": { "id": "d", "provider": "fcm", "address": "a" } }),
        ),
        ("device.remove", json!({ "id": "d" })),
        ("device.list", json!({})),
    ] {
        let answer = rpc(&mut client, method, data).await;
        assert_eq!(answer["error"]["code"], 103, "{method}: {answer}");
    }
    notify.assert_not_asked();
}

#[tokio::test]
async fn addresses_are_taken_from_clients_where_that_is_allowed() {
    let (node, notify) = two("allow_addresses = true").await;
    let mut client = connected(&node, json!({ "sub": "alice" })).await;
    for provider in ["email", "sms"] {
        let device = json!({ "device": { "id": "d", "provider": provider, "address": "a" } });
        asks(&mut client, "device.register", device).await;
        notify.assert_asked::<method::RegisterDevice>(&RegisterDeviceRequest {
            user: alice(),
            device: Some(Device {
                id: "d".to_owned(),
                provider: provider.to_owned(),
                address: "a".to_owned(),
                ..Device::default()
            }),
        });
    }
    let hook = json!({ "device": { "id": "d", "provider": "webhook", "subscription": {} } });
    let answer = rpc(&mut client, "device.register", hook).await;
    assert_eq!(answer["error"]["code"], 103, "{answer}");
    notify.assert_not_asked();
}
