use std::collections::BTreeMap;
use std::sync::OnceLock;

use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::json;

use super::*;
use crate::Urgency;
use crate::testing::{Fake, Reply, TestKey, hello, later, mention};

const DEVICE: &str = "dGVzdC1kZXZpY2U:APA91bE-not-a-real-token_0123456789";

fn key() -> &'static TestKey {
    static KEY: OnceLock<TestKey> = OnceLock::new();
    KEY.get_or_init(TestKey::rsa)
}

fn account_json(token_uri: &str) -> Value {
    json!({
        "type": "service_account",
        "project_id": "switchboard-test",
        "private_key_id": "0123456789abcdef",
        "private_key": key().pem,
        "client_email": "sender@switchboard-test.iam.gserviceaccount.com",
        "client_id": "100000000000000000000",
        "auth_uri": "https://accounts.google.com/o/oauth2/auth",
        "token_uri": token_uri,
        "universe_domain": "googleapis.com",
    })
}

fn read(json: &Value) -> Result<ServiceAccount, SettingsError> {
    ServiceAccount::read(&SecretString::from(json.to_string()))
}

fn granted(token: &str, seconds: u64) -> Reply {
    let body = json!({"access_token": token, "expires_in": seconds, "token_type": "Bearer"});
    Reply::new(200, body.to_string()).with("content-type", "application/json; charset=UTF-8")
}

fn sent() -> Reply {
    let body = json!({"name": "projects/switchboard-test/messages/0:1500415314455276%31bd1c9631bd1c96"});
    Reply::new(200, body.to_string())
}

/// A `google.rpc.Status` as FCM answers it.
fn status(http: u16, message: &str, status: &str, details: Value) -> Reply {
    let body = json!({"error": {"code": http, "message": message, "status": status, "details": details}});
    Reply::new(http, body.to_string())
}

fn fcm_error(code: &str) -> Value {
    json!({"@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": code})
}

fn violation(fields: &[&str]) -> Value {
    let violations: Vec<Value> = fields
        .iter()
        .map(|field| json!({"field": field, "description": "Invalid value"}))
        .collect();
    json!({"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": violations})
}

struct Set {
    google: Fake,
    fcm: Fake,
    provider: Fcm,
}

async fn set(tokens: Vec<Reply>, replies: Vec<Reply>) -> Set {
    set_within(Duration::from_secs(10), tokens, replies).await
}

async fn set_within(limit: Duration, tokens: Vec<Reply>, replies: Vec<Reply>) -> Set {
    let google = Fake::start(tokens).await;
    let fcm = Fake::start(replies).await;
    let account = read(&account_json(&format!("{}/token", google.url()))).unwrap();
    let settings = Settings {
        base_url: fcm.url(),
        limit,
        ..Settings::new(account)
    };
    Set {
        provider: Fcm::new(settings).unwrap(),
        google,
        fcm,
    }
}

impl Set {
    async fn send(&self, message: &Outgoing) -> Result<Accepted, SendError> {
        let to = Address::Fcm {
            token: DEVICE.to_owned(),
        };
        self.provider.send(&to, message).await
    }
}

/// What FCM's answer comes to.
async fn answered(reply: Reply) -> SendError {
    let set = set(vec![granted("first", 3599)], vec![reply]).await;
    let error = set.send(&hello()).await.unwrap_err();
    assert_eq!(set.fcm.asked().len(), 1, "it is not tried again here");
    assert!(!error.to_string().contains(DEVICE), "{error}");
    error
}

#[tokio::test]
async fn a_message_is_sent_with_all_that_devices_need() {
    let set = set(vec![granted("ya29.first", 3599)], vec![sent()]).await;
    let before = push::unix_now();
    let accepted = set.send(&mention()).await.unwrap();
    assert_eq!(
        accepted.reference.as_deref(),
        Some("projects/switchboard-test/messages/0:1500415314455276%31bd1c9631bd1c96")
    );

    let asked = set.fcm.only();
    assert_eq!(asked.method, "POST");
    assert_eq!(asked.path, "/v1/projects/switchboard-test/messages:send");
    assert_eq!(asked.header("authorization"), Some("Bearer ya29.first"));
    assert_eq!(asked.header("content-type"), Some("application/json"));
    let mut json = asked.json();
    let expiration = json["message"]["apns"]["headers"]["apns-expiration"].take();
    let expiration: u64 = expiration.as_str().unwrap().parse().unwrap();
    assert!((before + 3600..=push::unix_now() + 3600).contains(&expiration));
    let topic = push::hashed("room:1");
    assert_eq!(
        json,
        json!({"message": {
            "token": DEVICE,
            "notification": {"title": "Ann", "body": "Hello"},
            "data": {"category": "mention", "channel": "room:1", "link": "https://chat.example.org/room/1"},
            "android": {
                "priority": "HIGH",
                "ttl": "3600s",
                "collapse_key": "room:1",
                "notification": {"notification_count": 3},
            },
            "apns": {
                "headers": {"apns-priority": "10", "apns-expiration": null, "apns-collapse-id": topic},
                "payload": {"aps": {"badge": 3, "sound": "default"}},
            },
            "webpush": {
                "headers": {"TTL": "3600", "Urgency": "high", "Topic": topic},
                "fcm_options": {"link": "https://chat.example.org/room/1"},
            },
        }})
    );
}

#[tokio::test]
async fn a_plain_message_has_nothing_that_was_not_said() {
    let set = set(vec![granted("first", 3599)], vec![sent()]).await;
    let message = Outgoing {
        urgency: Urgency::Low,
        expires_in: Some(Duration::ZERO),
        ..hello()
    };
    set.send(&message).await.unwrap();
    assert_eq!(
        set.fcm.only().json(),
        json!({"message": {
            "token": DEVICE,
            "notification": {"title": "Ann", "body": "Hello"},
            "android": {"priority": "NORMAL", "ttl": "0s"},
            "apns": {"headers": {"apns-priority": "5", "apns-expiration": "0"}, "payload": {"aps": {}}},
            "webpush": {"headers": {"TTL": "0", "Urgency": "low"}},
        }})
    );
}

#[tokio::test]
async fn what_the_application_says_in_data_is_kept() {
    let set = set(vec![granted("first", 3599)], vec![sent()]).await;
    let message = Outgoing {
        category: "mention".to_owned(),
        link: Some("http://insecure.example.org".to_owned()),
        data: BTreeMap::from([("category".to_owned(), "own".to_owned())]),
        ..Outgoing::default()
    };
    set.send(&message).await.unwrap();
    let json = set.fcm.only().json();
    assert_eq!(
        json["message"]["data"],
        json!({"category": "own", "link": "http://insecure.example.org"})
    );
    assert!(json["message"].get("notification").is_none());
    assert!(
        json["message"]["webpush"].get("fcm_options").is_none(),
        "FCM takes https alone"
    );
}

#[tokio::test]
async fn the_token_is_asked_for_as_rfc_7523_has_it() {
    let set = set(vec![granted("first", 3599)], vec![sent()]).await;
    let before = push::unix_now();
    set.send(&hello()).await.unwrap();
    let after = push::unix_now();

    let asked = set.google.only();
    assert_eq!((asked.method.as_str(), asked.path.as_str()), ("POST", "/token"));
    assert_eq!(
        asked.header("content-type"),
        Some("application/x-www-form-urlencoded")
    );
    let form: BTreeMap<String, String> = Url::parse(&format!(
        "http://form/?{}",
        std::str::from_utf8(&asked.body).unwrap()
    ))
    .unwrap()
    .query_pairs()
    .into_owned()
    .collect();
    assert_eq!(form["grant_type"], "urn:ietf:params:oauth:grant-type:jwt-bearer");
    assert_eq!(form.len(), 2);

    let mut validation = Validation::new(Algorithm::RS256);
    validation.set_audience(&[format!("{}/token", set.google.url())]);
    let decoded = jsonwebtoken::decode::<Value>(
        &form["assertion"],
        &DecodingKey::from_rsa_der(&key().public),
        &validation,
    )
    .unwrap();
    assert_eq!(decoded.header.kid.as_deref(), Some("0123456789abcdef"));
    assert_eq!(decoded.header.typ.as_deref(), Some("JWT"));
    let claims = decoded.claims;
    assert_eq!(claims["iss"], "sender@switchboard-test.iam.gserviceaccount.com");
    assert_eq!(
        claims["scope"],
        "https://www.googleapis.com/auth/firebase.messaging"
    );
    let issued = claims["iat"].as_u64().unwrap();
    assert!((before..=after).contains(&issued));
    assert_eq!(
        claims["exp"].as_u64(),
        Some(issued + 3600),
        "Google takes an hour at most"
    );
}

#[tokio::test]
async fn one_token_does_for_many_messages_until_shortly_before_its_end() {
    let set = set(
        vec![granted("first", 3600), granted("second", 3600)],
        vec![sent(); 4],
    )
    .await;
    set.send(&hello()).await.unwrap();
    later(Duration::from_secs(3600 - 400)).await;
    set.send(&hello()).await.unwrap();
    assert_eq!(set.google.asked().len(), 1);
    later(Duration::from_secs(200)).await;
    set.send(&hello()).await.unwrap();
    set.send(&hello()).await.unwrap();
    assert_eq!(set.google.asked().len(), 2);
    let used: Vec<String> = set
        .fcm
        .asked()
        .iter()
        .map(|asked| asked.header("authorization").unwrap().to_owned())
        .collect();
    assert_eq!(
        used,
        ["Bearer first", "Bearer first", "Bearer second", "Bearer second"]
    );
}

#[tokio::test]
async fn messages_at_once_ask_for_one_token() {
    let set = set(vec![granted("first", 3600)], vec![sent(); 20]).await;
    let message = hello();
    let all = futures_util::future::join_all((0..20).map(|_| set.send(&message))).await;
    assert!(all.iter().all(Result::is_ok), "{all:?}");
    assert_eq!(set.google.asked().len(), 1);
    assert_eq!(set.fcm.asked().len(), 20);
}

#[tokio::test]
async fn whoever_waited_for_a_token_that_did_not_come_does_not_ask_again() {
    let set = set(vec![Reply::new(503, "")], vec![]).await;
    let message = hello();
    let all = futures_util::future::join_all((0..20).map(|_| set.send(&message))).await;
    for sent in all {
        assert!(matches!(sent, Err(SendError::Retry { .. })), "{sent:?}");
    }
    assert_eq!(set.google.asked().len(), 1);

    set.google.replies([granted("second", 3600)]);
    set.fcm.replies([sent()]);
    set.send(&message).await.unwrap();
}

#[tokio::test]
async fn a_token_that_is_still_good_is_used_while_there_is_no_new_one() {
    let tokens = vec![
        granted("first", 3600),
        Reply::new(503, ""),
        granted("second", 3600),
    ];
    let set = set(tokens, vec![sent(); 4]).await;
    set.send(&hello()).await.unwrap();
    later(Duration::from_secs(3600 - 120)).await;
    set.send(&hello()).await.unwrap();
    set.send(&hello()).await.unwrap();
    assert_eq!(set.google.asked().len(), 2, "not asked again at once");
    later(Duration::from_secs(40)).await;
    set.send(&hello()).await.unwrap();
    assert_eq!(set.google.asked().len(), 3);
    assert_eq!(set.fcm.asked()[2].header("authorization"), Some("Bearer first"));
    assert_eq!(set.fcm.asked()[3].header("authorization"), Some("Bearer second"));
}

#[tokio::test]
async fn a_token_that_is_not_taken_any_more_is_replaced_once() {
    let unauthorized = || {
        status(
            401,
            "Request had invalid authentication credentials. Expected OAuth 2 access token.",
            "UNAUTHENTICATED",
            json!([{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "ACCESS_TOKEN_EXPIRED",
                    "domain": "googleapis.com"}]),
        )
    };
    let tokens = vec![
        granted("first", 3600),
        granted("second", 3600),
        granted("third", 3600),
    ];
    let set = set(
        tokens,
        vec![unauthorized(), sent(), unauthorized(), unauthorized()],
    )
    .await;
    set.send(&hello()).await.unwrap();
    assert_eq!(set.fcm.asked()[0].header("authorization"), Some("Bearer first"));
    assert_eq!(set.fcm.asked()[1].header("authorization"), Some("Bearer second"));
    assert_eq!(set.fcm.asked()[0].body, set.fcm.asked()[1].body);

    let error = set.send(&hello()).await.unwrap_err();
    assert!(matches!(error, SendError::Account { .. }), "{error}");
    assert_eq!(set.fcm.asked().len(), 4, "and no more");
    assert_eq!(set.google.asked().len(), 3);
}

#[tokio::test]
async fn no_token_means_that_nothing_was_sent() {
    let invalid = json!({"error": "invalid_grant", "error_description": "Invalid JWT Signature."});
    let cases = [
        (Reply::new(400, invalid.to_string()), "account"),
        (Reply::new(401, r#"{"error":"invalid_client"}"#), "account"),
        (Reply::new(302, "").with("location", "/elsewhere"), "account"),
        (Reply::new(429, "").with("retry-after", "7"), "retry"),
        (Reply::new(500, ""), "retry"),
        (Reply::new(502, ""), "retry"),
        (Reply::new(200, "<html>"), "retry"),
        (Reply::new(200, "{}"), "retry"),
    ];
    for (reply, wanted) in cases {
        let set = set(vec![reply.clone()], vec![]).await;
        let error = set.send(&hello()).await.unwrap_err();
        let got = match &error {
            SendError::Account { .. } => "account",
            SendError::Retry { .. } => "retry",
            _ => "else",
        };
        assert_eq!(got, wanted, "{reply:?}: {error}");
        assert!(set.fcm.asked().is_empty());
    }
    let set = set(vec![Reply::new(429, "").with("retry-after", "7")], vec![]).await;
    let Err(SendError::Retry { after, .. }) = set.send(&hello()).await else {
        panic!("not a retry");
    };
    assert_eq!(after, Some(Duration::from_secs(7)));
}

#[tokio::test]
async fn the_time_limit_is_for_the_token_and_the_message_together() {
    let limit = Duration::from_millis(300);
    let set = set_within(
        limit,
        vec![Reply::never(), granted("second", 3600)],
        vec![Reply::never()],
    )
    .await;
    let begin = Instant::now();
    let message = hello();
    let (one, other) = tokio::join!(set.send(&message), set.send(&message));
    assert!(matches!(one, Err(SendError::Retry { .. })), "{one:?}");
    assert!(matches!(other, Err(SendError::Retry { .. })), "{other:?}");
    assert!(set.fcm.asked().is_empty());

    let error = set.send(&message).await.unwrap_err();
    assert!(matches!(error, SendError::Unknown { .. }), "{error}");
    assert!(begin.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_device_that_is_gone_is_forgotten() {
    for reply in [
        status(
            404,
            "Requested entity was not found.",
            "NOT_FOUND",
            json!([fcm_error("UNREGISTERED")]),
        ),
        // As FCM's documentation has it, and as it answers today.
        status(
            400,
            BAD_TOKEN,
            "INVALID_ARGUMENT",
            json!([fcm_error("INVALID_ARGUMENT")]),
        ),
        status(
            400,
            "Request contains an invalid argument.",
            "INVALID_ARGUMENT",
            json!([fcm_error("INVALID_ARGUMENT"), violation(&["message.token"])]),
        ),
    ] {
        let error = answered(reply.clone()).await;
        assert!(matches!(error, SendError::Gone { .. }), "{reply:?}: {error}");
    }
}

#[tokio::test]
async fn a_device_is_not_forgotten_for_what_is_wrong_with_the_message_or_the_settings() {
    for reply in [
        status(
            403,
            "SenderId mismatch",
            "PERMISSION_DENIED",
            json!([fcm_error("SENDER_ID_MISMATCH")]),
        ),
        status(
            400,
            "Invalid value at 'message.data[0].value' (TYPE_STRING), 12",
            "INVALID_ARGUMENT",
            json!([violation(&["message.data[0].value"])]),
        ),
        status(
            400,
            BAD_TOKEN,
            "INVALID_ARGUMENT",
            json!([
                fcm_error("INVALID_ARGUMENT"),
                violation(&["message.token", "message.data[0].value"])
            ]),
        ),
        status(
            400,
            "Request contains an invalid argument.",
            "INVALID_ARGUMENT",
            json!([]),
        ),
        status(
            400,
            "Android message is too big",
            "INVALID_ARGUMENT",
            json!([fcm_error("INVALID_ARGUMENT")]),
        ),
        // A wrong project or path, not a device.
        status(404, "Requested entity was not found.", "NOT_FOUND", json!([])),
        Reply::new(404, "<html>"),
    ] {
        let error = answered(reply.clone()).await;
        assert!(matches!(error, SendError::Refused { .. }), "{reply:?}: {error}");
    }
}

#[tokio::test]
async fn what_fcm_cannot_do_now_is_tried_again_when_it_says() {
    let cases = [
        (
            status(
                429,
                "Quota exceeded",
                "RESOURCE_EXHAUSTED",
                json!([fcm_error("QUOTA_EXCEEDED")]),
            )
            .with("retry-after", "90"),
            Some(90),
        ),
        (
            status(
                429,
                "Quota exceeded",
                "RESOURCE_EXHAUSTED",
                json!([fcm_error("QUOTA_EXCEEDED")]),
            ),
            Some(60),
        ),
        (
            status(
                503,
                "The service is unavailable.",
                "UNAVAILABLE",
                json!([fcm_error("UNAVAILABLE")]),
            )
            .with("retry-after", "30"),
            Some(30),
        ),
        (
            status(
                500,
                "Internal error encountered.",
                "INTERNAL",
                json!([fcm_error("INTERNAL")]),
            ),
            None,
        ),
        (Reply::new(503, "<html>").with("retry-after", "5"), Some(5)),
    ];
    for (reply, wanted) in cases {
        let error = answered(reply.clone()).await;
        let SendError::Retry { after, .. } = error else {
            panic!("{reply:?}: {error}");
        };
        assert_eq!(after, wanted.map(Duration::from_secs), "{reply:?}");
    }
}

#[tokio::test]
async fn a_gateway_that_fails_leaves_it_open() {
    let error = answered(Reply::new(
        502,
        "<!DOCTYPE html><title>Error 502 (Server Error)!!1</title>",
    ))
    .await;
    assert!(matches!(error, SendError::Unknown { .. }), "{error}");
}

#[tokio::test]
async fn what_concerns_the_account_is_said_to_be_so() {
    for reply in [
        status(
            401,
            "Auth error from APNS or Web Push Service",
            "UNAUTHENTICATED",
            json!([fcm_error("THIRD_PARTY_AUTH_ERROR")]),
        ),
        status(
            403,
            "Firebase Cloud Messaging API has not been used in project 1 before or it is disabled.",
            "PERMISSION_DENIED",
            json!([]),
        ),
        Reply::new(403, ""),
    ] {
        let error = answered(reply.clone()).await;
        assert!(matches!(error, SendError::Account { .. }), "{reply:?}: {error}");
    }
}

#[tokio::test]
async fn what_is_too_large_is_refused_before_anything_is_sent() {
    let set = set(vec![granted("first", 3600)], vec![sent()]).await;
    // "title" and "body" are counted too.
    let message = |bytes| Outgoing {
        body: "x".repeat(bytes),
        data: BTreeMap::from([("key".to_owned(), "value".to_owned())]),
        ..Outgoing::default()
    };
    let error = set.send(&message(LARGEST - 16)).await.unwrap_err();
    assert!(matches!(error, SendError::Refused { .. }), "{error}");
    assert!(set.google.asked().is_empty() && set.fcm.asked().is_empty());
    set.send(&message(LARGEST - 17)).await.unwrap();
}

#[tokio::test]
async fn another_kind_of_address_is_refused() {
    let set = set(vec![], vec![]).await;
    let to = Address::Email {
        address: "ann@example.org".to_owned(),
    };
    let error = set.provider.send(&to, &hello()).await.unwrap_err();
    assert!(matches!(error, SendError::Refused { .. }), "{error}");
    assert_eq!(set.provider.name(), "fcm");
    assert_eq!(set.provider.way(), Way::Fcm);
}

#[tokio::test]
async fn a_service_that_is_not_there_means_later() {
    let set = set(vec![granted("first", 3600)], vec![]).await;
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = closed.local_addr().unwrap();
    drop(closed);
    let account = read(&account_json(&format!("{}/token", set.google.url()))).unwrap();
    let provider = Fcm::new(Settings {
        base_url: format!("http://{address}"),
        ..Settings::new(account)
    })
    .unwrap();
    let to = Address::Fcm {
        token: DEVICE.to_owned(),
    };
    let error = provider.send(&to, &hello()).await.unwrap_err();
    assert!(matches!(error, SendError::Retry { .. }), "{error}");
}

#[test]
fn settings_say_what_is_wrong_with_them_and_no_secret() {
    let good = account_json("https://oauth2.googleapis.com/token");
    assert_eq!(read(&good).unwrap().project_id(), "switchboard-test");
    let secret = key().pem.lines().nth(1).unwrap();

    let without = |name: &str| {
        let mut json = good.clone();
        json.as_object_mut().unwrap().remove(name);
        json
    };
    let with = |name: &str, value: Value| {
        let mut json = good.clone();
        json[name] = value;
        json
    };
    for name in ["client_email", "private_key", "token_uri", "project_id"] {
        assert!(
            matches!(read(&without(name)), Err(SettingsError::Json { .. })),
            "{name}"
        );
    }
    assert!(read(&without("type")).is_ok());
    assert!(read(&without("private_key_id")).is_ok());
    let of_person = with("type", json!("authorized_user"));
    assert!(matches!(read(&of_person), Err(SettingsError::Kind)));
    for bad in ["http://oauth2.googleapis.com/token", "x"] {
        assert!(matches!(
            read(&with("token_uri", json!(bad))),
            Err(SettingsError::Url { .. })
        ));
    }
    for bad in ["", "..", "a/b", "a b", "-a"] {
        let read = read(&with("project_id", json!(bad)));
        assert!(
            matches!(read, Err(SettingsError::Field { key: "project_id" })),
            "{bad}"
        );
    }
    let no_address = with("client_email", json!("sender"));
    assert!(matches!(
        read(&no_address),
        Err(SettingsError::Field { key: "client_email" })
    ));
    let cut = format!("-----BEGIN PRIVATE KEY-----\n{secret}\n-----END PRIVATE KEY-----\n");
    let wrong_keys = ["", "x", cut.as_str(), &TestKey::p256().pem];
    for bad in wrong_keys {
        let error = read(&with("private_key", json!(bad))).unwrap_err();
        assert!(matches!(error, SettingsError::PrivateKey), "{error}");
    }
    // A key in the wrong place is not shown.
    for json in [
        with("private_key", json!({"pem": secret})),
        json!(secret),
        json!({"type": [secret]}),
    ] {
        let error = read(&json).unwrap_err();
        assert!(!format!("{error} {error:?}").contains(secret), "{error}");
    }
}

#[tokio::test]
async fn debug_shows_no_secret() {
    let set = set(vec![granted("ya29.first", 3600)], vec![sent()]).await;
    set.send(&hello()).await.unwrap();
    let secret = key().pem.lines().nth(1).unwrap();
    let shown = format!("{:?}", set.provider);
    assert!(shown.contains("switchboard-test"));
    assert!(!shown.contains(secret) && !shown.contains("ya29"), "{shown}");
}

#[test]
fn the_url_of_fcm_is_checked() {
    let settings = |base_url: &str| Settings {
        base_url: base_url.to_owned(),
        ..Settings::new(read(&account_json("https://oauth2.googleapis.com/token")).unwrap())
    };
    assert!(Fcm::new(settings(BASE_URL)).is_ok());
    assert!(matches!(
        Fcm::new(settings("http://fcm.googleapis.com")),
        Err(SettingsError::Url { .. })
    ));
}
