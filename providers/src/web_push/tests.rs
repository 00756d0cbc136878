use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::{Value, json};

use super::*;
use crate::testing::{Asked, Browser, Fake, Reply, hello, later, mention};

fn created() -> Reply {
    Reply::new(201, "").with("location", "https://push.example.net/m/gAAAAABZ")
}

fn settings() -> Settings {
    Settings {
        keys: VapidKeys::generate().unwrap(),
        contact: "mailto:ops@example.org".to_owned(),
        guard: Guard::allowing(vec!["127.0.0.0/8".parse().unwrap()]),
        limit: Duration::from_secs(10),
    }
}

struct Set {
    fake: Fake,
    browser: Browser,
    provider: WebPush,
}

async fn set(replies: Vec<Reply>) -> Set {
    set_within(Duration::from_secs(10), replies).await
}

async fn set_within(limit: Duration, replies: Vec<Reply>) -> Set {
    Set {
        fake: Fake::start(replies).await,
        browser: Browser::new(),
        provider: WebPush::new(Settings { limit, ..settings() }).unwrap(),
    }
}

const PATH: &str = "/wpush/v2/gAAAAABZ-not-a-real-endpoint?x=1";

impl Set {
    fn address(&self) -> Address {
        self.browser.address(&format!("{}{PATH}", self.fake.url()))
    }

    async fn send(&self, message: &Outgoing) -> Result<Accepted, SendError> {
        self.provider.send(&self.address(), message).await
    }
}

/// What a push service's answer comes to.
async fn answered(reply: Reply) -> SendError {
    let set = set(vec![reply]).await;
    let error = set.send(&hello()).await.unwrap_err();
    assert_eq!(set.fake.asked().len(), 1, "it is not tried again here");
    let text = error.to_string();
    for hidden in [
        set.browser.p256dh(),
        set.browser.auth(),
        PATH.to_owned(),
        set.fake.url(),
    ] {
        assert!(!text.contains(&hidden), "{text}");
    }
    error
}

fn token(asked: &Asked) -> &str {
    let header = asked.header("authorization").unwrap();
    let (token, _) = header
        .strip_prefix("vapid t=")
        .unwrap()
        .split_once(", k=")
        .unwrap();
    token
}

#[tokio::test]
async fn a_message_is_sent_that_only_the_browser_can_read() {
    let set = set(vec![created()]).await;
    let accepted = set.send(&mention()).await.unwrap();
    assert_eq!(
        accepted.reference.as_deref(),
        Some("https://push.example.net/m/gAAAAABZ")
    );

    let asked = set.fake.only();
    assert_eq!(asked.method, "POST");
    assert_eq!(asked.path, PATH);
    assert_eq!(asked.header("ttl"), Some("3600"));
    assert_eq!(asked.header("urgency"), Some("high"));
    assert_eq!(asked.header("content-encoding"), Some("aes128gcm"));
    assert_eq!(asked.header("content-type"), Some("application/octet-stream"));
    let topic = asked.header("topic").unwrap();
    assert!(
        topic.len() <= 32
            && topic
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
    );
    assert_eq!(topic, push::hashed("room:1"));
    assert!(asked.body.len() <= 4096);
    let (plain, _) = set.browser.read(&asked.body);
    assert_eq!(
        serde_json::from_slice::<Value>(&plain).unwrap(),
        json!({
            "title": "Ann",
            "body": "Hello",
            "data": {"channel": "room:1"},
            "link": "https://chat.example.org/room/1",
            "category": "mention",
            "badge": 3,
        })
    );
}

#[tokio::test]
async fn a_plain_message_has_nothing_that_was_not_said() {
    let set = set(vec![Reply::new(201, "")]).await;
    let message = Outgoing {
        urgency: Urgency::Low,
        expires_in: Some(Duration::ZERO),
        ..hello()
    };
    assert_eq!(set.send(&message).await.unwrap(), Accepted { reference: None });
    let asked = set.fake.only();
    assert_eq!(asked.header("ttl"), Some("0"));
    assert_eq!(asked.header("urgency"), Some("low"));
    assert_eq!(asked.header("topic"), None);
    let (plain, _) = set.browser.read(&asked.body);
    assert_eq!(
        serde_json::from_slice::<Value>(&plain).unwrap(),
        json!({"title": "Ann", "body": "Hello"})
    );
}

#[tokio::test]
async fn requests_are_signed_as_rfc_8292_has_it() {
    let set = set(vec![created()]).await;
    let before = push::unix_now();
    set.send(&hello()).await.unwrap();
    let asked = set.fake.only();
    let (_, key) = asked.header("authorization").unwrap().split_once(", k=").unwrap();
    assert_eq!(key, set.provider.keys.public());
    let mut validation = Validation::new(Algorithm::ES256);
    validation.set_audience(&[set.fake.url()]);
    let point = URL_SAFE_NO_PAD.decode(key).unwrap();
    let decoded =
        jsonwebtoken::decode::<Value>(token(&asked), &DecodingKey::from_ec_der(&point), &validation).unwrap();
    assert_eq!(decoded.claims["sub"], "mailto:ops@example.org");
    let exp = decoded.claims["exp"].as_u64().unwrap();
    assert!(exp > before && exp <= before + 24 * 3600, "a day at most");
}

#[tokio::test]
async fn a_signature_does_for_one_origin_until_shortly_before_its_end() {
    let set = set(vec![created(); 4]).await;
    let other = Fake::start([created()]).await;
    set.send(&hello()).await.unwrap();
    let elsewhere = set.browser.address(&other.url());
    set.provider.send(&elsewhere, &hello()).await.unwrap();
    later(Duration::from_secs(10 * 3600)).await;
    set.send(&hello()).await.unwrap();
    later(Duration::from_secs(2 * 3600)).await;
    set.send(&hello()).await.unwrap();
    let asked = set.fake.asked();
    assert_eq!(token(&asked[0]), token(&asked[1]));
    assert_ne!(token(&asked[1]), token(&asked[2]));
    assert_ne!(token(&asked[0]), token(&other.only()));
}

#[test]
fn signatures_of_many_origins_are_not_kept_for_ever() {
    let provider = WebPush::new(settings()).unwrap();
    let first = provider.signature("https://push.example.net").unwrap();
    for n in 0..KEPT * 2 {
        provider.signature(&format!("https://{n}.example.org")).unwrap();
        assert!(provider.signatures.lock().len() <= KEPT);
    }
    let again = provider.signature("https://push.example.net").unwrap();
    assert!(!Arc::ptr_eq(&first, &again));
}

#[tokio::test]
async fn a_subscription_that_is_gone_is_forgotten() {
    for reply in [
        Reply::new(404, r#"{"code":404,"errno":102,"error":"Not Found"}"#),
        Reply::new(410, "push subscription has unsubscribed or expired.\n"),
    ] {
        let error = answered(reply.clone()).await;
        assert!(matches!(error, SendError::Gone { .. }), "{reply:?}: {error}");
    }
}

#[tokio::test]
async fn no_server_that_a_user_chose_stops_the_others() {
    for reply in [
        Reply::new(
            401,
            r#"{"code":401,"errno":109,"error":"Unauthorized","message":"Invalid VAPID token"}"#,
        ),
        Reply::new(
            403,
            "the VAPID credentials in the authorization header do not correspond to the credentials used to create the subscriptions.\n",
        ),
    ] {
        let error = answered(reply.clone()).await;
        assert!(matches!(error, SendError::Refused { .. }), "{reply:?}: {error}");
    }
}

#[tokio::test]
async fn what_a_push_service_cannot_do_now_is_tried_again_when_it_says() {
    for (reply, wanted) in [
        (Reply::new(429, "").with("retry-after", "120"), Some(120)),
        (Reply::new(500, ""), None),
        (Reply::new(503, "").with("retry-after", "7"), Some(7)),
    ] {
        let error = answered(reply.clone()).await;
        let SendError::Retry { after, .. } = error else {
            panic!("{reply:?}: {error}");
        };
        assert_eq!(after, wanted.map(Duration::from_secs), "{reply:?}");
    }
}

#[tokio::test]
async fn other_refusals_are_of_the_message() {
    for reply in [
        Reply::new(
            400,
            r#"{"code":400,"errno":110,"error":"Bad Request","message":"Invalid crypto headers"}"#,
        ),
        Reply::new(413, r#"{"code":413,"errno":104,"error":"Payload Too Large"}"#),
        Reply::new(307, "").with("location", "http://127.0.0.1:9/"),
    ] {
        let error = answered(reply.clone()).await;
        assert!(matches!(error, SendError::Refused { .. }), "{reply:?}: {error}");
    }
}

#[tokio::test]
async fn no_answer_leaves_it_open() {
    let set = set_within(Duration::from_millis(300), vec![Reply::never()]).await;
    let error = set.send(&hello()).await.unwrap_err();
    assert!(matches!(error, SendError::Unknown { .. }), "{error}");
    let error = answered(Reply::new(502, "")).await;
    assert!(matches!(error, SendError::Unknown { .. }), "{error}");
}

#[tokio::test]
async fn what_the_server_repeats_of_the_address_is_not_repeated() {
    let fake = Fake::start([]).await;
    let browser = Browser::new();
    let endpoint = format!("{}{PATH}", fake.url());
    fake.replies([Reply::new(
        400,
        format!("bad: {endpoint} {PATH} {} {}", browser.p256dh(), browser.auth()),
    )]);
    let provider = WebPush::new(settings()).unwrap();
    let error = provider
        .send(&browser.address(&endpoint), &hello())
        .await
        .unwrap_err()
        .to_string();
    for hidden in ["gAAAAABZ", &browser.p256dh(), &browser.auth()] {
        assert!(!error.contains(hidden), "{error}");
    }
    assert!(error.contains("bad:"), "{error}");
}

#[tokio::test]
async fn what_is_too_large_is_refused_before_anything_is_sent() {
    let set = set(vec![created()]).await;
    let frame = body(&Outgoing::default()).unwrap().len();
    let message = |bytes| Outgoing {
        body: "x".repeat(bytes),
        ..Outgoing::default()
    };
    let error = set.send(&message(LARGEST - frame + 1)).await.unwrap_err();
    assert!(matches!(error, SendError::Refused { .. }), "{error}");
    assert!(set.fake.asked().is_empty());
    set.send(&message(LARGEST - frame)).await.unwrap();
    let asked = set.fake.only();
    assert_eq!(asked.body.len(), 4096);
    assert_eq!(set.browser.read(&asked.body).0.len(), LARGEST);
}

#[tokio::test]
async fn an_endpoint_that_nobody_should_ask_is_refused() {
    let fake = Fake::start([created(), created()]).await;
    let browser = Browser::new();
    let guarded = WebPush::new(Settings {
        guard: Guard::allowing(Vec::new()),
        ..settings()
    })
    .unwrap();
    let port = fake.address.port();
    for endpoint in [
        fake.url(),
        format!("https://127.0.0.1:{port}/x"),
        format!("https://localhost:{port}/x"),
        format!("https://[::ffff:127.0.0.1]:{port}/x"),
        format!("http://push.example.net:{port}/x"),
        format!("https://user:password@push.example.net:{port}/x"),
        "file:///etc/passwd".to_owned(),
        String::new(),
    ] {
        let error = guarded
            .send(&browser.address(&endpoint), &hello())
            .await
            .unwrap_err();
        assert!(matches!(error, SendError::Refused { .. }), "{endpoint}: {error}");
    }
    assert!(fake.asked().is_empty());
}

#[tokio::test]
async fn keys_that_are_none_are_refused_before_anything_is_sent() {
    let set = set(vec![]).await;
    let to = Address::WebPush {
        endpoint: set.fake.url(),
        p256dh: set.browser.auth(),
        auth: set.browser.auth(),
    };
    let error = set.provider.send(&to, &hello()).await.unwrap_err();
    let SendError::Refused { reason } = error else {
        panic!("{error}");
    };
    assert!(reason.contains("p256dh"), "{reason}");
    let to = Address::Fcm {
        token: "x".to_owned(),
    };
    let error = set.provider.send(&to, &hello()).await.unwrap_err();
    assert!(matches!(error, SendError::Refused { .. }), "{error}");
    assert!(set.fake.asked().is_empty());
    assert_eq!(set.provider.name(), "web-push");
    assert_eq!(set.provider.way(), Way::WebPush);
}

#[test]
fn the_contact_is_an_address_or_a_page() {
    let with = |contact: &str| {
        WebPush::new(Settings {
            contact: contact.to_owned(),
            ..settings()
        })
    };
    assert!(with("https://chat.example.org/contact").is_ok());
    for bad in [
        "",
        "ops@example.org",
        "mailto:",
        "mailto:ops",
        "http://chat.example.org",
        &format!("mailto:{}@example.org", "x".repeat(255)),
    ] {
        assert!(matches!(with(bad), Err(SettingsError::Contact)), "{bad}");
    }
}

#[test]
fn debug_shows_no_secret() {
    let settings = settings();
    let secret = settings.keys.private().clone();
    let provider = WebPush::new(settings).unwrap();
    let shown = format!("{provider:?}");
    assert!(shown.contains(provider.keys.public()));
    assert!(!shown.contains(secret.expose_secret()), "{shown}");
}
