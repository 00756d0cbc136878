use std::process::{Child, Stdio};

use serde_json::json;

use super::*;
use crate::testing::{Asked, Fake, Reply, asked_python, headers, hello, letter, python, read_mail, source};

const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
const READER: &str = "reader.secret@example.net";

fn settings(endpoint: String) -> Settings {
    Settings {
        keys: Keys {
            access_key: "AKIAIOSFODNN7EXAMPLE".to_owned(),
            secret_key: SECRET.into(),
            session_token: None,
        },
        region: "eu-central-1".to_owned(),
        from: Sender::new(Some("Switchboard für alle"), "no-reply@example.org").unwrap(),
        configuration_set: None,
        endpoint: Some(endpoint),
        limit: Duration::from_secs(10),
        largest: mail::LARGEST,
    }
}

fn reader() -> Address {
    Address::Email {
        address: READER.to_owned(),
    }
}

fn taken() -> Reply {
    Reply::new(200, r#"{"MessageId": "0107018f-7c1e-000000"}"#)
}

/// Whether the signature is the one that AWS's own library makes of what the server got.
fn is_signed(asked: &Asked, secret: &str) -> bool {
    let headers: serde_json::Map<String, Value> = asked
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap().into()))
        .collect();
    let given = json!({
        "method": asked.method.as_str(),
        "url": format!("http://{}{}", asked.header("host").unwrap(), asked.path),
        "headers": headers,
        "body": std::str::from_utf8(&asked.body).unwrap(),
        "secret": secret,
    });
    let said = asked_python(&source("ses/verify.py"), given.to_string().as_bytes());
    said.as_bool().unwrap()
}

async fn answered(reply: Reply) -> SendError {
    let fake = Fake::start([reply]).await;
    let ses = Ses::new(settings(fake.url())).unwrap();
    let error = ses.send(&reader(), &hello()).await.unwrap_err();
    assert_eq!(fake.asked().len(), 1, "it is not tried again here");
    let text = format!("{error} {error:?}");
    for hidden in ["reader", "secret", "no-reply", "example.", SECRET] {
        assert!(!text.contains(hidden), "{text}");
    }
    error
}

#[tokio::test]
async fn a_mail_is_handed_over_with_a_signature_that_aws_makes_too() {
    let fake = Fake::start([taken(), taken()]).await;
    let ses = Ses::new(Settings {
        configuration_set: Some("events".to_owned()),
        ..settings(fake.url())
    })
    .unwrap();
    assert_eq!((ses.name(), ses.way()), ("ses", Way::Email));
    let accepted = ses.send(&reader(), &letter()).await.unwrap();
    assert_eq!(accepted.reference.as_deref(), Some("0107018f-7c1e-000000"));
    let asked = fake.only();
    assert_eq!(asked.method, "POST");
    assert_eq!(asked.path, "/v2/email/outbound-emails");
    assert_eq!(asked.header("content-type"), Some("application/json"));
    assert_eq!(asked.header("x-amz-security-token"), None);
    let authorization = asked.header("authorization").unwrap();
    let day = asked.header("x-amz-date").unwrap().get(..8).unwrap();
    let wanted = format!(
        "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/{day}/eu-central-1/ses/aws4_request, \
         SignedHeaders=content-type;host;x-amz-date, Signature="
    );
    assert!(authorization.starts_with(&wanted), "{authorization}");
    assert!(is_signed(&asked, SECRET));
    assert!(!is_signed(&asked, "another"));
    let mut changed = asked.clone();
    changed.body = changed.body.iter().rev().copied().collect::<Vec<u8>>().into();
    assert!(!is_signed(&changed, SECRET));

    let body = asked.json();
    assert_eq!(body["FromEmailAddress"], "no-reply@example.org");
    assert_eq!(body["Destination"], json!({"ToAddresses": [READER]}));
    assert_eq!(body["ConfigurationSetName"], "events");
    assert_eq!(
        body["EmailTags"],
        json!([{"Name": "category", "Value": "mention"}])
    );
    assert_eq!(body.as_object().unwrap().len(), 5);
    let raw = STANDARD
        .decode(body["Content"]["Raw"]["Data"].as_str().unwrap())
        .unwrap();
    let read = read_mail(&raw);
    assert_eq!(read["defects"], json!([]));
    assert_eq!(headers(&read, "Subject"), [letter().title.as_str()]);
    assert_eq!(
        read["from"],
        json!(["Switchboard für alle", "no-reply@example.org"])
    );
    assert_eq!(read["to"], json!([READER]));
    assert_eq!(
        headers(&read, "List-Unsubscribe-Post"),
        ["List-Unsubscribe=One-Click"]
    );
    assert_eq!(read["type"], "multipart/alternative");
}

#[tokio::test]
async fn what_is_not_there_is_not_said_and_temporary_keys_are_signed_too() {
    let fake = Fake::start([taken()]).await;
    let mut settings = settings(fake.url());
    settings.keys.session_token = Some("IQoJb3JpZ2luX2VjEXAMPLE//token==".into());
    let message = Outgoing {
        category: "not a tag!".to_owned(),
        ..hello()
    };
    Ses::new(settings)
        .unwrap()
        .send(&reader(), &message)
        .await
        .unwrap();
    let asked = fake.only();
    assert_eq!(
        asked.header("x-amz-security-token"),
        Some("IQoJb3JpZ2luX2VjEXAMPLE//token==")
    );
    let authorization = asked.header("authorization").unwrap();
    assert!(
        authorization.contains("SignedHeaders=content-type;host;x-amz-date;x-amz-security-token,"),
        "{authorization}"
    );
    assert!(is_signed(&asked, SECRET));
    let body = asked.json();
    let names: Vec<&String> = body.as_object().unwrap().keys().collect();
    assert_eq!(names, ["Content", "Destination", "FromEmailAddress"]);
}

#[tokio::test]
async fn what_errors_mean() {
    let unverified = |who: &str| {
        format!(
            "Email address is not verified. The following identities failed the check in region EU-CENTRAL-1: {who}"
        )
    };
    let (sender, other) = (unverified("No-Reply@example.org"), unverified(READER));
    for (status, word, message, is) in [
        (400, "MessageRejected", "Bad content", "refused"),
        (400, "MessageRejected", sender.as_str(), "account"),
        (400, "MessageRejected", other.as_str(), "refused"),
        (400, "MailFromDomainNotVerifiedException", "", "account"),
        (400, "SendingPausedException", "", "account"),
        (400, "AccountSuspendedException", "", "account"),
        (400, "BadRequestException", READER, "refused"),
        (
            404,
            "NotFoundException",
            "Configuration set <x> does not exist.",
            "account",
        ),
        (
            429,
            "TooManyRequestsException",
            "Maximum sending rate exceeded.",
            "retry",
        ),
        (400, "TooManyRequestsException", "", "retry"),
        (
            400,
            "LimitExceededException",
            "Daily message quota exceeded.",
            "retry",
        ),
        (400, "ThrottlingException", "Rate exceeded", "retry"),
        (403, "SignatureDoesNotMatch", "", "account"),
        (403, "InvalidSignatureException", "", "account"),
        (403, "InvalidClientTokenId", "", "account"),
        (403, "UnrecognizedClientException", "", "account"),
        (403, "ExpiredTokenException", "", "account"),
        (
            403,
            "AccessDeniedException",
            "User: arn:aws:iam::1:user/reader",
            "account",
        ),
        (401, "", "", "account"),
        (413, "RequestEntityTooLarge", "", "refused"),
        (500, "InternalFailure", "", "unknown"),
        (502, "", "", "unknown"),
        (503, "ServiceUnavailable", "", "retry"),
        (504, "", "", "unknown"),
        (307, "", "", "refused"),
    ] {
        let text = json!({ "message": message }).to_string();
        // As it stands in a header, with AWS's URL behind it; in the body; and with its namespace.
        let replies = [
            Reply::new(status, text.clone()).with(
                "x-amzn-ErrorType",
                format!("{word}:http://internal.amazon.com/coral/com.amazonaws.ses/"),
            ),
            Reply::new(
                status,
                json!({"__type": format!("com.amazonaws.ses#{word}"), "message": message}).to_string(),
            ),
        ];
        for reply in replies {
            let error = answered(reply.with("retry-after", "17")).await;
            let found = match &error {
                SendError::Retry { after, .. } => {
                    assert_eq!(*after, Some(Duration::from_secs(17)));
                    "retry"
                }
                SendError::Unknown { .. } => "unknown",
                SendError::Refused { .. } => "refused",
                SendError::Gone { .. } => "gone",
                SendError::Account { .. } => "account",
            };
            assert_eq!(found, is, "{status} {word}: {error}");
            assert!(error.to_string().contains(word), "{error}");
        }
    }
    // A word that is none is not repeated.
    let error = answered(Reply::new(400, "").with("x-amzn-ErrorType", format!("to {READER}"))).await;
    assert_eq!(error.to_string(), "refused: HTTP 400");
}

#[tokio::test]
async fn no_answer_leaves_it_open_and_no_connection_does_not() {
    let fake = Fake::start([Reply::never()]).await;
    let ses = Ses::new(Settings {
        limit: Duration::from_millis(300),
        ..settings(fake.url())
    })
    .unwrap();
    let error = ses.send(&reader(), &hello()).await.unwrap_err();
    assert!(matches!(error, SendError::Unknown { .. }), "{error}");
    // Nobody listens there: the port was only just given back.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", free.local_addr().unwrap());
    drop(free);
    let ses = Ses::new(settings(url)).unwrap();
    let error = ses.send(&reader(), &hello()).await.unwrap_err();
    assert!(matches!(error, SendError::Retry { .. }), "{error}");
}

#[tokio::test]
async fn what_cannot_be_sent_is_refused_before_anything_is_asked() {
    let fake = Fake::start([]).await;
    let ses = Ses::new(settings(fake.url())).unwrap();
    let to = |address: &str| Address::Email {
        address: address.to_owned(),
    };
    let large = Outgoing {
        body: "x".repeat(mail::LARGEST),
        ..hello()
    };
    let number = Address::Sms {
        number: "+4915112345678".to_owned(),
    };
    for (to, message) in [
        (to("nobody"), hello()),
        (to("a@b\r\nc.example"), hello()),
        (reader(), large),
        (number, hello()),
    ] {
        let error = ses.send(&to, &message).await.unwrap_err();
        assert!(matches!(error, SendError::Refused { .. }), "{error}");
    }
    assert!(fake.asked().is_empty());
}

#[test]
fn settings_are_looked_at() {
    let with = |change: &dyn Fn(&mut Settings)| {
        let mut settings = settings("https://ses.example.org".to_owned());
        change(&mut settings);
        Ses::new(settings)
    };
    for (region, url) in [
        (
            "eu-central-1",
            "https://email.eu-central-1.amazonaws.com/v2/email/outbound-emails",
        ),
        (
            "us-gov-west-1",
            "https://email.us-gov-west-1.amazonaws.com/v2/email/outbound-emails",
        ),
        (
            "cn-north-1",
            "https://email.cn-north-1.amazonaws.com.cn/v2/email/outbound-emails",
        ),
    ] {
        let ses = with(&|settings| {
            settings.endpoint = None;
            settings.region = region.to_owned();
        });
        assert_eq!(ses.unwrap().url.as_str(), url);
    }
    for region in ["", "EU", "eu/central", "eu.evil.example", "eu-central-1\n"] {
        let error = with(&|settings| settings.region = region.to_owned());
        assert!(matches!(error, Err(SettingsError::Region)), "{region}");
    }
    for key in ["", "AKIA", "AKIAIOSFODNN7EXAMPL/", "AKIAIOSFODNN7EXAMPL\n"] {
        let error = with(&|settings| settings.keys.access_key = key.to_owned());
        assert!(matches!(error, Err(SettingsError::AccessKey)), "{key}");
    }
    for token in ["", "a b", "a\r\nb"] {
        let error = with(&|settings| settings.keys.session_token = Some(token.into()));
        assert!(matches!(error, Err(SettingsError::SessionToken)), "{token}");
    }
    for url in [
        "",
        "http://ses.example.org",
        "https://ses.example.org/below",
        "https://user@ses.example.org",
        "https://ses.example.org/?x",
    ] {
        let error = with(&|settings| settings.endpoint = Some(url.to_owned()));
        assert!(matches!(error, Err(SettingsError::Endpoint)), "{url}");
    }
}

#[test]
fn debug_shows_no_secret() {
    let mut settings = settings("https://ses.example.org".to_owned());
    settings.keys.session_token = Some("IQoJb3Jp".into());
    let shown = format!("{settings:?} {:?}", Ses::new(settings.clone()).unwrap());
    assert!(!shown.contains(SECRET) && !shown.contains("IQoJb3Jp"), "{shown}");
}

/// A program that speaks SES's API as AWS does: moto. Killed when dropped.
struct Moto {
    child: Child,
    url: String,
}

impl Drop for Moto {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Moto {
    async fn start() -> Self {
        // Given back at once and taken by the program: other tests ask the system for ports too, so more than one is tried.
        for _ in 0..5 {
            let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let port = free.local_addr().unwrap().port();
            drop(free);
            let mut moto = Self {
                child: python()
                    .args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &port.to_string()])
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .spawn()
                    .unwrap(),
                url: format!("http://127.0.0.1:{port}"),
            };
            let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
            while moto.child.try_wait().unwrap().is_none() && tokio::time::Instant::now() < deadline {
                if tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
                    return moto;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        panic!("moto does not start");
    }
}

#[tokio::test]
async fn another_program_that_speaks_ses_takes_it() {
    let moto = Moto::start().await;
    let ses = Ses::new(settings(moto.url.clone())).unwrap();
    let error = ses.send(&reader(), &letter()).await.unwrap_err();
    assert!(matches!(error, SendError::Refused { .. }), "{error}");
    assert!(error.to_string().contains("MessageRejected"), "{error}");
    let identity = json!({"EmailIdentity": "no-reply@example.org"}).to_string();
    let known = reqwest::Client::new()
        .post(format!("{}/v2/email/identities", moto.url))
        .header(
            "authorization",
            "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20260101/eu-central-1/ses/aws4_request, \
             SignedHeaders=host, Signature=x",
        )
        .header("content-type", "application/json")
        .body(identity)
        .send()
        .await
        .unwrap();
    assert_eq!(known.status(), 200);
    let accepted = ses.send(&reader(), &letter()).await.unwrap();
    assert!(!accepted.reference.unwrap().is_empty());
}
