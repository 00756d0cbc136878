use super::*;
use crate::testing::{Fake, Reply};

async fn sent(reply: Reply) -> (Fake, Result<Accepted, SendError>) {
    let server = Fake::start([reply]).await;
    let twilio = Twilio::new(Settings {
        account: "AC1".to_owned(),
        auth_token: "hidden".into(),
        sender: Sender::From("+15005550006".to_owned()),
        status_callback: Some("https://example.org/status".to_owned()),
        endpoint: Some(server.url()),
        limit: Duration::from_secs(10),
    })
    .unwrap();
    assert!(!format!("{twilio:?}").contains("hidden"));
    let to = Address::Sms {
        number: "+4915112345678".to_owned(),
    };
    let message = Outgoing {
        title: "Hello & welcome".to_owned(),
        body: "wörld".to_owned(),
        ..Outgoing::default()
    };
    let sent = twilio.send(&to, &message).await;
    (server, sent)
}

#[tokio::test]
async fn form_has_all_and_the_reference_comes_back() {
    let (server, sent) = sent(Reply::new(201, r#"{"sid": "SM7", "status": "queued"}"#)).await;
    assert_eq!(sent.unwrap().reference.as_deref(), Some("SM7"));
    let asked = server.only();
    assert_eq!(asked.path, "/2010-04-01/Accounts/AC1/Messages.json");
    let basic = format!("Basic {}", STANDARD.encode("AC1:hidden"));
    assert_eq!(asked.header("authorization"), Some(basic.as_str()));
    assert_eq!(
        asked.body,
        "To=%2B4915112345678&Body=Hello+%26+welcome%0Aw%C3%B6rld&From=%2B15005550006&StatusCallback=https%3A%2F%2Fexample.org%2Fstatus"
    );
}

#[tokio::test]
async fn what_answers_mean() {
    for (status, code, is) in [
        (400, 21211, "nobody"),
        (400, 21614, "nobody"),
        (400, 21610, "nobody"),
        (400, 21635, "nobody"),
        (400, 21408, "refused:"),
        (400, 21606, "refused:"),
        (400, 21608, "refused:"),
        (400, 21612, "refused:"),
        (400, 21617, "refused:"),
        (400, 21659, "refused:"),
        (400, 21660, "the provider"),
        (400, 21661, "the provider"),
        (401, 20003, "the provider"),
        (401, 20005, "the provider"),
        (403, 0, "the provider"),
        (404, 20404, "the provider"),
        (400, 21611, "not now"),
        (429, 20429, "not now"),
        (429, 63038, "not now"),
        (429, 0, "not now"),
        (408, 0, "not now"),
        (500, 20500, "not known"),
        (500, 0, "not known"),
        (502, 0, "not known"),
        (503, 20503, "not known"),
        (504, 0, "not known"),
    ] {
        let body = format!(r#"{{"code": {code}, "message": "+4915112345678 is wrong"}}"#);
        let (_server, sent) = sent(Reply::new(status, body)).await;
        let error = sent.unwrap_err().to_string();
        assert!(
            error.starts_with(is) && !error.contains("+49"),
            "{status} {code}: {error}"
        );
    }
}

#[test]
fn long_texts_end_at_a_word() {
    for word in ["word ", "wörd\n", "🦀🦀 ", "unbroken"] {
        let message = Outgoing {
            body: word.repeat(1000),
            ..Outgoing::default()
        };
        let text = text(&message);
        let length = text.encode_utf16().count();
        assert!((LONGEST - 20..=LONGEST).contains(&length), "{length}");
        let rest = text.strip_suffix("...").unwrap();
        assert!(message.body.starts_with(rest));
        assert!(word == "unbroken" || rest.ends_with(word.trim()), "{rest}");
    }
}

#[test]
fn what_status_callbacks_mean() {
    for (code, is) in [
        (30001, "not now"),
        (30002, "the provider"),
        (30003, "not now"),
        (30004, "refused:"),
        (30005, "nobody"),
        (30006, "nobody"),
        (30007, "refused:"),
        (30008, "not now"),
        (30022, "not now"),
    ] {
        let error = meaning(code, None).unwrap().to_string();
        assert!(error.starts_with(is), "{error}");
    }
    assert_eq!(meaning(30009, None), None);
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    let owned = pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    owned.collect()
}

#[test]
fn signatures_are_the_published_ones() {
    // The example of Twilio's documentation for webhooks, in the order in which it stands there.
    let (token, url) = ("12345".into(), "https://mycompany.com/myapp.php?foo=1&bar=2");
    let params = pairs(&[
        ("Digits", "1234"),
        ("To", "+18005551212"),
        ("From", "+14158675309"),
        ("Caller", "+14158675309"),
        ("CallSid", "CA1234567890ABCDE"),
    ]);
    let signature = "RSOYDt4T1cUTdK1PDd93/VVr8B8=";
    assert!(verify_signature(&token, url, &params, signature));
    assert!(!verify_signature(&token, url, &params[1..], signature));
    // That of its libraries for parameters that come more than once, and for names that begin alike.
    let params = pairs(&[
        ("Sid", "CA123"),
        ("SidAccount", "AC123"),
        ("Digits", "5678"),
        ("Digits", "1234"),
        ("Digits", "1234"),
    ]);
    let signature = "IK+Dwps556ElfBT0I3Rgjkr1wJU=";
    assert!(verify_signature(&token, url, &params, signature));
}

#[test]
fn callbacks_are_verified_and_read() {
    let token = SecretString::from("12345");
    let url = "https://example.org/status?a=b";
    let params = pairs(&[
        ("MessageStatus", "undelivered"),
        ("ErrorCode", "30005"),
        ("MessageSid", "SM7"),
    ]);
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, b"12345");
    let signed = format!("{url}ErrorCode30005MessageSidSM7MessageStatusundelivered");
    let signature = STANDARD.encode(hmac::sign(&key, signed.as_bytes()));
    assert!(verify_signature(&token, url, &params, &signature));
    assert!(!verify_signature(&"12346".into(), url, &params, &signature));
    assert!(!verify_signature(
        &token,
        "https://example.org/status",
        &params,
        &signature
    ));
    assert!(!verify_signature(&token, url, &params[1..], &signature));
    assert!(!verify_signature(&token, url, &params, "") && !verify_signature(&token, url, &params, "??"));
    let status = Status::read(&params).unwrap();
    assert_eq!((status.state, status.code), (State::Undelivered, Some(30005)));
    assert_eq!(
        Status::read(&pairs(&[("MessageSid", "SM7"), ("MessageStatus", "new")])),
        None
    );
    assert_eq!(Status::read(&pairs(&[("MessageStatus", "sent")])), None);
}
