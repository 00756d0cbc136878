use std::collections::BTreeSet;

use switchboard_bus::SubjectPrefix;
use switchboard_bus::embedded::EmbeddedBus;
use switchboard_bus::messages::{AskError, ask};
use switchboard_database::config::Defaults;
use switchboard_proto::notifications::{
    Device, GetRequest, GetResponse, Notification, RegisterDeviceRequest, SendRequest, method,
};
use switchboard_service_kit::config::Document;
use switchboard_testkit::wait_until;

use super::*;

const DEADLINE: Duration = Duration::from_secs(20);

fn config(text: &str) -> Config {
    let mut document = Document::parse(text, []).unwrap();
    let config = Config::read(&mut document, &Defaults::of_many("./unused"));
    document.finish().unwrap();
    config
}

fn deps(bus: &Arc<dyn Bus>) -> Deps {
    Deps {
        bus: Arc::clone(bus),
        log: None,
        shards: ShardCount::new(1).unwrap(),
        data: None,
    }
}

async fn until(membership: &mut Membership, wanted: impl Fn(&[Incarnation]) -> bool) {
    let seen = async {
        while !wanted(&membership.of_role(Role::Notify)) {
            membership.changed().await;
        }
    };
    tokio::time::timeout(DEADLINE, seen).await.expect("seen in time");
}

#[tokio::test]
async fn joins_is_ready_and_leaves_at_the_stop() {
    let bus: Arc<dyn Bus> = EmbeddedBus::new(SubjectPrefix::default());
    let (one, other) = (Context::new(), Context::new());
    let first = start(config(""), deps(&bus), one.clone()).await.unwrap();
    let mut second = start(config(""), deps(&bus), other.clone()).await.unwrap();
    assert!(one.health.report().ready && other.health.report().ready);

    until(&mut second.membership, |there| there.contains(&first.incarnation)).await;
    assert!(one.tasks.stop(DEADLINE).await.forced.is_empty());
    let me = second.incarnation;
    until(&mut second.membership, |there| there == [me]).await;
    assert!(other.tasks.stop(DEADLINE).await.forced.is_empty());
}

#[tokio::test]
async fn where_nothing_is_kept_nobody_is_told() {
    let bus: Arc<dyn Bus> = EmbeddedBus::new(SubjectPrefix::default());
    let context = Context::new();
    start(config(""), deps(&bus), context.clone()).await.unwrap();
    let mut answer = Ok(());
    wait_until(DEADLINE, async || {
        let asked = ask::<method::Send>(bus.as_ref(), &SendRequest::default(), DEADLINE).await;
        answer = asked.map(drop);
        !matches!(answer, Err(AskError::Unavailable(_)))
    })
    .await
    .unwrap();
    assert!(matches!(answer, Err(AskError::NotAvailable(_))), "{answer:?}");
    context.tasks.stop(DEADLINE).await;
}

/// A notify service with a file, and nobody else on its bus.
struct Node {
    bus: Arc<dyn Bus>,
    context: Context,
    _folder: tempfile::TempDir,
}

impl Node {
    async fn start(more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let bus: Arc<dyn Bus> = EmbeddedBus::new(SubjectPrefix::default());
        let context = Context::new();
        let text = format!(
            "[notify]\nstore = \"sqlite\"\npoll = \"20ms\"\nretry = \"20ms\"\n[notify.sqlite]\npath = {:?}\n{more}",
            folder.path().join("notifications.db")
        );
        start(config(&text), deps(&bus), context.clone()).await.unwrap();
        let health = context.health.clone();
        wait_until(DEADLINE, async || health.report().ready)
            .await
            .unwrap();
        let node = Self {
            bus,
            context,
            _folder: folder,
        };
        wait_until(DEADLINE, async || {
            !matches!(node.get("0").await, Err(AskError::Unavailable(_)))
        })
        .await
        .unwrap();
        node
    }

    async fn get(&self, id: &str) -> Result<GetResponse, AskError> {
        let request = GetRequest { id: id.to_owned() };
        ask::<method::Get>(self.bus.as_ref(), &request, DEADLINE).await
    }

    async fn send(&self, notification: Notification) -> Result<String, AskError> {
        let request = SendRequest {
            notifications: vec![notification],
        };
        let sent = ask::<method::Send>(self.bus.as_ref(), &request, DEADLINE).await?;
        Ok(sent.sent[0].id.clone())
    }

    async fn device(&self, device: Device) -> Result<(), AskError> {
        let request = RegisterDeviceRequest {
            user: "bob".to_owned(),
            device: Some(device),
        };
        ask::<method::RegisterDevice>(self.bus.as_ref(), &request, DEADLINE)
            .await
            .map(drop)
    }

    async fn becomes(&self, id: &str, status: &str) -> GetResponse {
        let mut told = GetResponse::default();
        let waited = wait_until(DEADLINE, async || {
            told = self.get(id).await.unwrap();
            told.status == status
        });
        waited.await.unwrap_or_else(|_| panic!("not {status}: {told:?}"));
        told
    }
}

fn notification(ways: &[&str]) -> Notification {
    Notification {
        user: "bob".to_owned(),
        category: "general".to_owned(),
        title: "Hello".to_owned(),
        ways: ways.iter().map(|way| (*way).to_owned()).collect(),
        ..Notification::default()
    }
}

#[tokio::test]
async fn what_has_no_device_is_suppressed_and_says_so() {
    let node = Node::start("").await;
    let id = node.send(notification(&["push", "email"])).await.unwrap();
    let told = node.becomes(&id, "suppressed").await;
    let reasons: BTreeSet<&str> = told.deliveries.iter().map(|one| one.reason.as_str()).collect();
    assert_eq!(reasons, BTreeSet::from(["no device"]));
    node.context.tasks.stop(DEADLINE).await;
}

#[tokio::test]
async fn what_nobody_takes_is_tried_again_and_ends_as_a_dead_letter() {
    // Nothing listens there.
    let node = Node::start(
        "attempts = 3\n[notify.providers]\nallowed_networks = [\"127.0.0.0/8\"]\ntimeout = \"2s\"\n"
            .replace("attempts = 3\n", "")
            .as_str(),
    )
    .await;
    node.device(Device {
        id: "hook".to_owned(),
        provider: "webhook".to_owned(),
        subscription: "{\"url\": \"http://127.0.0.1:9/\"}".into(),
        ..Device::default()
    })
    .await
    .unwrap();
    let id = node.send(notification(&["webhook"])).await.unwrap();
    let mut told = GetResponse::default();
    wait_until(DEADLINE, async || {
        told = node.get(&id).await.unwrap();
        told.deliveries[0].attempts.len() > 2
    })
    .await
    .unwrap();
    assert!(
        told.deliveries[0]
            .attempts
            .iter()
            .all(|one| one.result == "retry"),
        "{told:?}"
    );
    node.context.tasks.stop(DEADLINE).await;
}

#[tokio::test]
async fn scheduled_ones_wait_and_are_cancelled_in_time() {
    let node = Node::start("").await;
    let send_at = crate::saying::millis(now_us()) + 3_600_000;
    let later = Notification {
        send_at,
        ..notification(&["push"])
    };
    let id = node.send(later).await.unwrap();
    let told = node.becomes(&id, "held").await;
    assert_eq!(
        (told.deliveries[0].reason.as_str(), told.deliveries[0].due),
        ("scheduled", send_at)
    );
    let request = switchboard_proto::notifications::CancelRequest {
        ids: vec![id.clone()],
    };
    let answer = ask::<method::Cancel>(node.bus.as_ref(), &request, DEADLINE)
        .await
        .unwrap();
    assert_eq!(answer.cancelled, 1);
    node.becomes(&id, "cancelled").await;
    let over = Notification {
        expire_at: crate::saying::millis(now_us()) - 1,
        ..notification(&["push"])
    };
    assert!(matches!(node.send(over).await, Err(AskError::Invalid(_))));
    node.context.tasks.stop(DEADLINE).await;
}

#[tokio::test]
async fn devices_that_cannot_be_are_refused() {
    let node = Node::start("").await;
    let device = |provider: &str, address: &str, subscription: &'static str| Device {
        id: "one".to_owned(),
        provider: provider.to_owned(),
        address: address.to_owned(),
        subscription: subscription.into(),
        ..Device::default()
    };
    for (bad, word) in [
        (device("fcm", "", ""), "token"),
        (device("fcm", "with space", ""), "token"),
        (
            device("apns", "not hexadecimal at all, but long enough", ""),
            "hexadecimal",
        ),
        (device("email", "nobody", ""), "name@example.org"),
        (device("email", "a@b\r\nBcc: c@d", ""), "name@example.org"),
        (device("sms", "+0123456789", ""), "E.164"),
        (device("sms", "0123456789", ""), "E.164"),
        (
            device(
                "web_push",
                "",
                "{\"endpoint\": \"https://push.example\", \"keys\": {\"p256dh\": \"a\", \"auth\": \"b\"}}",
            ),
            "keys",
        ),
        (
            device("webhook", "", "{\"url\": \"https://127.0.0.1/\"}"),
            "public",
        ),
        (
            device("webhook", "", "{\"url\": \"https://example.org/\", \"more\": 1}"),
            "more",
        ),
        (device("pigeon", "", ""), "provider"),
    ] {
        match node.device(bad.clone()).await {
            Err(AskError::Invalid(words)) => assert!(words.contains(word), "{words}"),
            other => panic!("{} {}: {other:?}", bad.provider, bad.address),
        }
    }
    for good in [
        device("fcm", "abc:def-ghi_jkl", ""),
        device("apns", "AB01".repeat(16).as_str(), ""),
        device("email", "bob@example.org", ""),
        device("sms", "+491701234567", ""),
    ] {
        node.device(good).await.unwrap();
    }
    node.context.tasks.stop(DEADLINE).await;
}
