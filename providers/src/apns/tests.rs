use std::sync::OnceLock;

use axum::http::Version;
use jsonwebtoken::{DecodingKey, Validation};
use serde_json::json;

use super::*;
use crate::testing::{Asked, Fake, Reply, Speaks, TestKey, hello, later, mention, pem};

const DEVICE: &str = "00fc13adff785122b4ad28809a3420982341241421348097878e577c991de8f0";

const H2: Speaks = Speaks::Tls(&["h2"]);

fn key() -> &'static TestKey {
    static KEY: OnceLock<TestKey> = OnceLock::new();
    KEY.get_or_init(TestKey::p256)
}

fn signing_key() -> SigningKey {
    SigningKey::read(&SecretString::from(key().pem.clone()), "ABC123DEFG", "DEF123GHIJ").unwrap()
}

fn settings() -> Settings {
    Settings::new(signing_key(), "org.example.chat".to_owned())
}

fn sent() -> Reply {
    Reply::new(200, "").with("apns-id", "eabeae54-14a8-11e5-b60b-1697f925ec7b")
}

fn refused(status: u16, reason: &str) -> Reply {
    Reply::new(status, json!({"reason": reason}).to_string())
}

struct Set {
    fake: Fake,
    provider: Apns,
}

async fn set(replies: Vec<Reply>) -> Set {
    set_within(Duration::from_secs(10), replies).await
}

async fn set_within(limit: Duration, replies: Vec<Reply>) -> Set {
    let fake = Fake::speaking(H2, replies).await;
    let settings = Settings {
        base_url: fake.url(),
        roots: fake.root.clone(),
        limit,
        ..settings()
    };
    Set {
        provider: Apns::new(settings).unwrap(),
        fake,
    }
}

impl Set {
    async fn send(&self, message: &Outgoing) -> Result<Accepted, SendError> {
        let to = Address::Apns {
            token: DEVICE.to_owned(),
        };
        self.provider.send(&to, message).await
    }
}

fn token(asked: &Asked) -> String {
    let header = asked.header("authorization").unwrap();
    let token = header.to_ascii_lowercase();
    assert!(token.starts_with("bearer "), "{header}");
    header[7..].to_owned()
}

/// What APNs' answer comes to.
async fn answered(reply: Reply) -> SendError {
    let set = set(vec![reply]).await;
    let error = set.send(&hello()).await.unwrap_err();
    assert_eq!(set.fake.asked().len(), 1, "it is not tried again here");
    assert!(!error.to_string().contains(DEVICE), "{error}");
    error
}

#[tokio::test]
async fn a_message_is_sent_over_http2_with_all_headers() {
    let set = set(vec![sent()]).await;
    let before = push::unix_now();
    let accepted = set.send(&mention()).await.unwrap();
    assert_eq!(
        accepted.reference.as_deref(),
        Some("eabeae54-14a8-11e5-b60b-1697f925ec7b")
    );

    let asked = set.fake.only();
    assert_eq!(asked.version, Version::HTTP_2);
    assert_eq!(asked.method, "POST");
    assert_eq!(asked.path, format!("/3/device/{DEVICE}"));
    assert_eq!(asked.header("apns-topic"), Some("org.example.chat"));
    assert_eq!(asked.header("apns-push-type"), Some("alert"));
    assert_eq!(asked.header("apns-priority"), Some("10"));
    assert_eq!(asked.header("apns-collapse-id"), Some("room:1"));
    assert_eq!(
        asked.header("apns-id"),
        Some("01923e6a-7b2c-7000-8000-000000000001")
    );
    let expiration: u64 = asked.header("apns-expiration").unwrap().parse().unwrap();
    assert!((before + 3600..=push::unix_now() + 3600).contains(&expiration));
    assert_eq!(
        asked.json(),
        json!({
            "aps": {
                "alert": {"title": "Ann", "body": "Hello"},
                "badge": 3,
                "sound": "default",
                "thread-id": "room:1",
                "category": "mention",
            },
            "category": "mention",
            "channel": "room:1",
            "link": "https://chat.example.org/room/1",
        })
    );
}

#[tokio::test]
async fn a_plain_message_has_nothing_that_was_not_said() {
    let set = set(vec![Reply::new(200, "")]).await;
    let message = Outgoing {
        urgency: Urgency::Low,
        expires_in: Some(Duration::ZERO),
        ..hello()
    };
    let accepted = set.send(&message).await.unwrap();
    assert_eq!(
        accepted.reference.as_deref(),
        Some("01923e6a-7b2c-7000-8000-000000000001"),
        "APNs goes by the id that it was given"
    );
    let asked = set.fake.only();
    assert_eq!(asked.header("apns-priority"), Some("5"));
    assert_eq!(asked.header("apns-expiration"), Some("0"), "now or never");
    assert_eq!(asked.header("apns-collapse-id"), None);
    assert_eq!(
        asked.json(),
        json!({"aps": {"alert": {"title": "Ann", "body": "Hello"}, "interruption-level": "passive"}})
    );
}

#[tokio::test]
async fn the_token_is_signed_as_apple_wants_it() {
    let set = set(vec![sent()]).await;
    let before = push::unix_now();
    set.send(&hello()).await.unwrap();
    let mut validation = Validation::new(Algorithm::ES256);
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    let decoded = jsonwebtoken::decode::<Value>(
        token(&set.fake.only()),
        &DecodingKey::from_ec_der(&key().public),
        &validation,
    )
    .unwrap();
    assert_eq!(decoded.header.alg, Algorithm::ES256);
    assert_eq!(decoded.header.kid.as_deref(), Some("ABC123DEFG"));
    assert_eq!(decoded.claims["iss"], "DEF123GHIJ");
    let issued = decoded.claims["iat"].as_u64().unwrap();
    assert!((before..=push::unix_now()).contains(&issued));
    assert_eq!(
        decoded.claims.as_object().unwrap().len(),
        2,
        "Apple names no other claim"
    );
}

#[tokio::test]
async fn a_token_is_used_for_forty_minutes() {
    let set = set(vec![sent(); 4]).await;
    set.send(&hello()).await.unwrap();
    later(Duration::from_secs(39 * 60)).await;
    set.send(&hello()).await.unwrap();
    later(Duration::from_secs(2 * 60)).await;
    set.send(&hello()).await.unwrap();
    set.send(&hello()).await.unwrap();
    let used: Vec<String> = set.fake.asked().iter().map(token).collect();
    assert_eq!(used[0], used[1]);
    assert_ne!(used[1], used[2]);
    assert_eq!(used[2], used[3]);
}

#[tokio::test]
async fn a_token_that_is_too_old_is_replaced_at_once_but_seldom() {
    let expired = || refused(403, "ExpiredProviderToken");
    let set = set(vec![expired(), sent(), expired(), expired(), sent()]).await;
    set.send(&hello()).await.unwrap();
    // The new one is refused too: another one would be one too many.
    let error = set.send(&hello()).await.unwrap_err();
    assert!(matches!(error, SendError::Account { .. }), "{error}");
    assert_eq!(set.fake.asked().len(), 3);
    later(Duration::from_secs(21 * 60)).await;
    set.send(&hello()).await.unwrap();
    let used: Vec<String> = set.fake.asked().iter().map(token).collect();
    assert_eq!(used.len(), 5);
    assert_ne!(used[0], used[1]);
    assert_eq!((&used[1], &used[1]), (&used[2], &used[3]));
    assert_ne!(used[3], used[4]);
}

#[tokio::test]
async fn messages_at_once_replace_a_token_once() {
    let set = set(vec![]).await;
    let old = set.provider.token().unwrap();
    let one = set.provider.replaced(&old).unwrap().unwrap();
    // Another message met the same refusal: it takes the new token, and makes none.
    let other = set.provider.replaced(&old).unwrap().unwrap();
    assert!(Arc::ptr_eq(&one, &other) && !Arc::ptr_eq(&one, &old));
    assert!(set.provider.replaced(&one).unwrap().is_none());
    assert!(Arc::ptr_eq(&one, &set.provider.token().unwrap()));
}

#[tokio::test]
async fn a_device_that_is_gone_is_forgotten() {
    for reply in [
        Reply::new(410, r#"{"reason":"Unregistered","timestamp":1454402113000}"#),
        Reply::new(410, r#"{"reason":"ExpiredToken","timestamp":1454402113000}"#),
    ] {
        let error = answered(reply.clone()).await;
        assert!(matches!(error, SendError::Gone { .. }), "{reply:?}: {error}");
    }
}

/// With the sandbox instead of production, or another app's topic, each token seems to be bad: none is forgotten for that.
#[tokio::test]
async fn a_token_is_bad_only_where_settings_are_known_to_be_right() {
    for word in ["BadDeviceToken", "DeviceTokenNotForTopic"] {
        let error = answered(refused(400, word)).await;
        assert!(matches!(error, SendError::Refused { .. }), "{word}: {error}");
        let set = set(vec![Reply::new(200, ""), refused(400, word)]).await;
        set.send(&hello()).await.unwrap();
        let error = set.send(&hello()).await.unwrap_err();
        assert!(matches!(error, SendError::Gone { .. }), "{word}: {error}");
    }
}

#[tokio::test]
async fn what_concerns_the_account_is_said_to_be_so() {
    for reply in [
        refused(403, "InvalidProviderToken"),
        refused(403, "MissingProviderToken"),
        refused(403, "BadCertificateEnvironment"),
        refused(403, "UnrelatedKeyIdInToken"),
        refused(403, "Forbidden"),
        refused(400, "TopicDisallowed"),
        refused(400, "BadTopic"),
        refused(400, "MissingTopic"),
        Reply::new(403, "<html>"),
    ] {
        let error = answered(reply.clone()).await;
        assert!(matches!(error, SendError::Account { .. }), "{reply:?}: {error}");
    }
}

#[tokio::test]
async fn what_apns_cannot_do_now_is_tried_again_when_it_says() {
    for (reply, wanted) in [
        (refused(429, "TooManyRequests"), None),
        (
            refused(429, "TooManyProviderTokenUpdates").with("retry-after", "600"),
            Some(600),
        ),
        (refused(500, "InternalServerError"), None),
        (
            refused(503, "ServiceUnavailable").with("retry-after", "9"),
            Some(9),
        ),
        (refused(503, "Shutdown"), None),
        (refused(400, "IdleTimeout"), None),
    ] {
        let error = answered(reply.clone()).await;
        let SendError::Retry { after, reason } = error else {
            panic!("{reply:?}: {error}");
        };
        assert_eq!(after, wanted.map(Duration::from_secs), "{reply:?}");
        let word = reason.split(' ').next_back().unwrap();
        assert!(format!("{reply:?}").contains(word), "{reason}");
    }
}

#[tokio::test]
async fn other_refusals_are_of_the_message() {
    for reply in [
        refused(400, "BadCollapseId"),
        refused(400, "BadExpirationDate"),
        refused(400, "PayloadEmpty"),
        refused(413, "PayloadTooLarge"),
        refused(404, "BadPath"),
        refused(405, "MethodNotAllowed"),
        // The word alone does not make it so.
        refused(413, "BadDeviceToken"),
        Reply::new(400, ""),
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
    assert_eq!(set.fake.asked().len(), 1);
}

#[tokio::test]
async fn what_is_too_large_is_refused_before_anything_is_sent() {
    let set = set(vec![sent()]).await;
    let frame = body(&Outgoing {
        body: "x".to_owned(),
        ..Outgoing::default()
    })
    .unwrap()
    .len()
        - 1;
    let message = |bytes| Outgoing {
        body: "x".repeat(bytes),
        ..Outgoing::default()
    };
    let error = set.send(&message(LARGEST - frame + 1)).await.unwrap_err();
    assert!(matches!(error, SendError::Refused { .. }), "{error}");
    assert!(set.fake.asked().is_empty());
    set.send(&message(LARGEST - frame)).await.unwrap();
    assert_eq!(set.fake.only().body.len(), LARGEST);
}

#[tokio::test]
async fn data_cannot_take_the_place_of_apns_own() {
    let set = set(vec![sent()]).await;
    let message = Outgoing {
        data: BTreeMap::from([("aps".to_owned(), "x".to_owned())]),
        ..hello()
    };
    let error = set.send(&message).await.unwrap_err();
    assert!(matches!(error, SendError::Refused { .. }), "{error}");
    assert!(set.fake.asked().is_empty());
}

#[tokio::test]
async fn what_is_no_device_token_is_not_sent() {
    let set = set(vec![]).await;
    for bad in ["", "xyz", "../../x", "00fc 13", &"0".repeat(201)] {
        let to = Address::Apns {
            token: bad.to_owned(),
        };
        let error = set.provider.send(&to, &hello()).await.unwrap_err();
        assert!(matches!(error, SendError::Gone { .. }), "{bad}: {error}");
    }
    let to = Address::Fcm {
        token: DEVICE.to_owned(),
    };
    let error = set.provider.send(&to, &hello()).await.unwrap_err();
    assert!(matches!(error, SendError::Refused { .. }), "{error}");
    assert!(set.fake.asked().is_empty());
    assert_eq!(set.provider.name(), "apns");
    assert_eq!(set.provider.way(), Way::Apns);
}

#[test]
fn a_long_or_odd_collapse_key_is_hashed() {
    assert_eq!(collapse_id("room:1"), "room:1");
    assert_eq!(collapse_id(&"x".repeat(64)), "x".repeat(64));
    for odd in [&"x".repeat(65), "two words", "ü", "line\nbreak", ""] {
        assert_eq!(collapse_id(odd), push::hashed(odd));
    }
}

#[tokio::test]
async fn a_server_without_http2_or_with_another_certificate_is_not_told_anything() {
    let old = Fake::speaking(Speaks::Tls(&["http/1.1"]), [sent()]).await;
    let other = Fake::speaking(H2, []).await;
    let strange = Fake::speaking(H2, [sent()]).await;
    for (fake, roots) in [(&old, old.root.clone()), (&strange, other.root.clone())] {
        let settings = Settings {
            base_url: fake.url(),
            roots,
            ..settings()
        };
        let set = Apns::new(settings).unwrap();
        let to = Address::Apns {
            token: DEVICE.to_owned(),
        };
        let error = set.send(&to, &hello()).await.unwrap_err();
        assert!(matches!(error, SendError::Retry { .. }), "{error}");
        assert!(fake.asked().is_empty());
    }
}

#[tokio::test]
async fn many_messages_share_a_connection() {
    let set = set(vec![sent(); 50]).await;
    let message = hello();
    set.send(&message).await.unwrap();
    let all = futures_util::future::join_all((1..50).map(|_| set.send(&message))).await;
    assert!(all.iter().all(Result::is_ok), "{all:?}");
    assert_eq!(set.fake.asked().len(), 50);
    assert_eq!(set.fake.connections(), 1);
}

#[test]
fn settings_say_what_is_wrong_with_them_and_no_secret() {
    let read = |pem: &str, key_id: &str, team_id: &str| {
        SigningKey::read(&SecretString::from(pem.to_owned()), key_id, team_id)
    };
    let good = &key().pem;
    let secret = good.lines().nth(1).unwrap();
    assert!(read(good, "ABC123DEFG", "DEF123GHIJ").is_ok());
    for id in ["", "ABC123DEF", "ABC123DEFGH", "ABC123DEF-", "ABC123DEÖ"] {
        assert!(
            matches!(read(good, id, "DEF123GHIJ"), Err(SettingsError::Id { .. })),
            "{id}"
        );
        assert!(
            matches!(read(good, "ABC123DEFG", id), Err(SettingsError::Id { .. })),
            "{id}"
        );
    }
    let p384 =
        aws_lc_rs::signature::EcdsaKeyPair::generate(&aws_lc_rs::signature::ECDSA_P384_SHA384_FIXED_SIGNING)
            .unwrap();
    let cut = format!(
        "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
        &secret[..20]
    );
    for bad in [
        "",
        "x",
        &cut,
        &pem(p384.to_pkcs8v1().unwrap().as_ref()),
        &TestKey::rsa().pem,
    ] {
        let error = read(bad, "ABC123DEFG", "DEF123GHIJ").unwrap_err();
        assert!(matches!(error, SettingsError::Key), "{error:?}");
        assert!(!format!("{error} {error:?}").contains(secret));
    }
    let with = |change: fn(&mut Settings)| {
        let mut settings = settings();
        change(&mut settings);
        Apns::new(settings)
    };
    assert!(with(|_| {}).is_ok());
    assert!(with(|settings| settings.base_url = SANDBOX.to_owned()).is_ok());
    for topic in ["", "two words", "a\nb", "ü"] {
        let settings = Settings {
            topic: topic.to_owned(),
            ..settings()
        };
        assert!(
            matches!(Apns::new(settings), Err(SettingsError::Topic)),
            "{topic}"
        );
    }
    let in_the_clear = with(|settings| settings.base_url = "http://api.push.apple.com".to_owned());
    assert!(matches!(in_the_clear, Err(SettingsError::Url)));
    for bad in ["", "x", "-----BEGIN CERTIFICATE-----\nx\n"] {
        let settings = Settings {
            roots: Some(bad.to_owned()),
            ..settings()
        };
        assert!(matches!(Apns::new(settings), Err(SettingsError::Roots)), "{bad}");
    }

    let shown = format!("{:?} {:?}", settings(), Apns::new(settings()).unwrap());
    assert!(shown.contains("ABC123DEFG"));
    assert!(!shown.contains(secret), "{shown}");
}
