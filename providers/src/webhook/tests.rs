use std::collections::BTreeMap;

use super::*;
use crate::guard::tests::answering;
use crate::testing::{Fake, Reply};

const LIMIT: Duration = Duration::from_secs(10);

fn secret(byte: u8) -> SecretString {
    format!("whsec_{}", STANDARD.encode([byte; 32])).into()
}

fn to(url: &str) -> Address {
    Address::Webhook {
        url: url.to_owned(),
        secrets: vec![secret(2), secret(1)],
    }
}

fn message() -> Outgoing {
    Outgoing {
        id: uuid::Uuid::from_u128(7),
        category: "mention".to_owned(),
        title: "Ä title".to_owned(),
        body: "text".to_owned(),
        data: BTreeMap::from([("channel".to_owned(), "chat:1".to_owned())]),
        ..Outgoing::default()
    }
}

fn webhook(guard: Guard) -> Webhook {
    Webhook::new(Settings { guard, limit: LIMIT }).unwrap()
}

fn own() -> Webhook {
    webhook(Guard::allowing(vec!["127.0.0.0/8".parse().unwrap()]))
}

#[test]
fn signature_is_the_published_one() {
    // The example of the standard's reference libraries.
    let secret = SecretString::from("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
    let body = r#"{"test": 2432232314}"#;
    let made = signature(&[secret], "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", body).unwrap();
    assert_eq!(made, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
}

#[tokio::test]
async fn receiver_gets_payload_and_can_verify_each_secret() {
    let server = Fake::start([Reply::new(204, ""), Reply::new(200, "")]).await;
    let mut message = message();
    message.payload = Some("{\"any\": [1]}".to_owned());
    let before = OffsetDateTime::now_utc().unix_timestamp();
    own().send(&to(&server.url()), &message).await.unwrap();
    let asked = server.only();
    assert_eq!(asked.body, "{\"any\": [1]}");
    assert_eq!(asked.header("content-type"), Some("application/json"));
    assert_eq!(asked.header("webhook-id"), Some(message.id.to_string().as_str()));
    let timestamp = asked.header("webhook-timestamp").unwrap();
    assert!((before..before + 60).contains(&timestamp.parse().unwrap()));
    let signed = format!("{}.{timestamp}.{{\"any\": [1]}}", message.id);
    let signatures: Vec<&str> = asked.header("webhook-signature").unwrap().split(' ').collect();
    for (byte, signature) in [2, 1].into_iter().zip(&signatures) {
        let tag = STANDARD.decode(signature.strip_prefix("v1,").unwrap()).unwrap();
        let key = hmac::Key::new(hmac::HMAC_SHA256, &[byte; 32]);
        hmac::verify(&key, signed.as_bytes(), &tag).unwrap();
    }
    assert_eq!(signatures.len(), 2);

    message.payload = None;
    own().send(&to(&server.url()), &message).await.unwrap();
    let body = server.asked()[1].json();
    assert_eq!(
        (&body["type"], &body["data"]["title"]),
        (&"mention".into(), &"Ä title".into())
    );
    assert_eq!(body["data"]["data"]["channel"], "chat:1");
    assert!(OffsetDateTime::parse(body["timestamp"].as_str().unwrap(), &Rfc3339).is_ok());
}

#[tokio::test]
async fn what_answers_mean() {
    let server = Fake::start([]).await;
    for (status, is) in [
        (410, "gone"),
        (301, "refused"),
        (302, "refused"),
        (307, "refused"),
        (304, "refused"),
        (400, "retry"),
        (401, "retry"),
        (404, "retry"),
        (429, "retry"),
        (500, "retry"),
        (502, "retry"),
        (503, "retry"),
        (504, "retry"),
    ] {
        // A redirect to the same server would be seen there.
        let reply = Reply::new(status, "a secret answer")
            .with("location", server.url())
            .with("retry-after", "17");
        server.replies([reply]);
        let before = server.asked().len();
        let error = own().send(&to(&server.url()), &message()).await.unwrap_err();
        assert!(!error.to_string().contains("secret"));
        let found = match error {
            SendError::Gone { .. } => "gone",
            SendError::Refused { .. } => "refused",
            SendError::Retry { after, .. } => {
                assert_eq!(after, Some(Duration::from_secs(17)));
                "retry"
            }
            SendError::Unknown { .. } | SendError::Account { .. } => "else",
        };
        assert_eq!(found, is, "{status}");
        assert_eq!(server.asked().len(), before + 1);
    }
}

#[tokio::test]
async fn nothing_goes_to_hostile_addresses() {
    let server = Fake::start([]).await;
    let port = server.address.port();
    for host in [
        "127.0.0.1",
        "localhost",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "2130706433",
        "0x7f.1",
        "[64:ff9b::7f00:1]",
        "0.0.0.0",
    ] {
        for scheme in ["http", "https"] {
            let sent = webhook(Guard::public())
                .send(&to(&format!("{scheme}://{host}:{port}/")), &message())
                .await;
            assert!(matches!(sent, Err(SendError::Refused { .. })), "{host}: {sent:?}");
        }
    }
    // Names: one that is private, and one that was public when somebody else asked.
    for answers in [
        &[&["127.0.0.1"][..]][..],
        &[&["::ffff:127.0.0.1", "10.0.0.1", "fc00::1"]],
    ] {
        let sent = webhook(answering(&[], answers))
            .send(&to(&format!("https://name.example:{port}/")), &message())
            .await;
        assert!(
            matches!(&sent, Err(SendError::Refused { reason }) if reason == "not a public address"),
            "{sent:?}"
        );
    }
    assert_eq!(server.asked().len(), 0);
    // A name that nothing is known of may get an address later.
    let sent = webhook(answering(&[], &[&[]]))
        .send(&to("https://name.example/"), &message())
        .await;
    assert!(matches!(sent, Err(SendError::Retry { .. })), "{sent:?}");
}

#[tokio::test]
async fn bad_secrets_and_large_bodies_are_refused_without_showing_them() {
    let is_refused = async |address: &Address, message: &Outgoing| {
        let error = own().send(address, message).await.unwrap_err();
        assert!(!format!("{error:?} {error} {address:?}").contains("hidden"));
        matches!(error, SendError::Refused { .. })
    };
    for secrets in [
        vec![],
        vec!["whsec_hidden".into()],
        vec![format!("whsec_{}", STANDARD.encode([1; 23])).into()],
        vec![secret(1); 5],
    ] {
        let address = Address::Webhook {
            url: "https://127.0.0.1/".to_owned(),
            secrets,
        };
        assert!(is_refused(&address, &message()).await);
    }
    let large = Outgoing {
        payload: Some(" ".repeat(LARGEST + 1)),
        ..message()
    };
    assert!(is_refused(&to("https://127.0.0.1/"), &large).await);
    assert!(
        is_refused(
            &Address::Sms {
                number: "+491".to_owned()
            },
            &message()
        )
        .await
    );
}

/// Whether the published library for receivers takes the request that the server was sent.
fn is_verified(asked: &crate::testing::Asked, secret: &SecretString) -> bool {
    const VERIFY: &str = "import json, sys\n\
        from standardwebhooks.webhooks import Webhook\n\
        given = json.loads(sys.argv[1])\n\
        Webhook(given['secret']).verify(given['body'], given['headers'])\n";
    let library = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools/python");
    assert!(
        library.join("standardwebhooks").is_dir(),
        "run testkit/install-tools"
    );
    let headers: BTreeMap<&str, &str> = ["webhook-id", "webhook-timestamp", "webhook-signature"]
        .into_iter()
        .map(|name| (name, asked.header(name).unwrap()))
        .collect();
    let given = serde_json::json!({
        "secret": secret.expose_secret(),
        "body": std::str::from_utf8(&asked.body).unwrap(),
        "headers": headers,
    });
    let python = std::process::Command::new("python3")
        .args(["-c", VERIFY, &given.to_string()])
        .env("PYTHONPATH", library)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&python.stderr);
    assert!(
        python.status.success() || said.contains("WebhookVerificationError"),
        "{said}"
    );
    python.status.success()
}

#[tokio::test]
async fn the_published_library_takes_our_signatures_and_no_other() {
    let server = Fake::start([Reply::new(204, "")]).await;
    own().send(&to(&server.url()), &message()).await.unwrap();
    let asked = server.asked();
    let [asked] = asked.as_slice() else {
        panic!("one request")
    };
    assert!(is_verified(asked, &secret(2)) && is_verified(asked, &secret(1)));
    assert!(!is_verified(asked, &secret(3)));
}
