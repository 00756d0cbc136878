use serde_json::json;

use super::*;
use crate::testing::{headers, hello, letter, read_mail};

fn from() -> Sender {
    Sender::new(Some("Switchboard für alle"), "no-reply@example.org").unwrap()
}

fn made(message: &Outgoing) -> Mail {
    mail(&from(), "rgen@example.org", message, LARGEST).unwrap()
}

fn is_refused(to: &str, message: &Outgoing) -> bool {
    match mail(&from(), to, message, LARGEST) {
        Err(SendError::Refused { reason }) => {
            assert!(!to.contains('@') || !reason.contains(to), "{reason}");
            true
        }
        Err(error) => panic!("{error}"),
        Ok(_) => false,
    }
}

#[test]
fn a_mail_client_reads_what_was_meant() {
    let message = letter();
    let read = read_mail(&made(&message).bytes);
    assert_eq!(read["defects"], json!([]));
    assert_eq!(read["is_ascii"], true);
    assert_eq!(read["is_crlf"], true);
    assert!(read["longest_line"].as_u64().unwrap() <= 998);
    assert_eq!(headers(&read, "Subject"), [message.title.as_str()]);
    assert_eq!(
        read["from"],
        json!(["Switchboard für alle", "no-reply@example.org"])
    );
    assert_eq!(read["to"], json!(["rgen@example.org"]));
    let date = read["date"].as_f64().unwrap();
    let now = crate::push::unix_now() as f64;
    assert!((now - 60.0..=now + 1.0).contains(&date), "{date} {now}");
    assert_eq!(
        headers(&read, "Message-ID"),
        ["<01923e6a-7b2c-7000-8000-000000000001@example.org>"]
    );
    assert_eq!(headers(&read, "Auto-Submitted"), ["auto-generated"]);
    assert_eq!(headers(&read, "MIME-Version"), ["1.0"]);
    assert_eq!(
        headers(&read, "List-Unsubscribe"),
        ["<https://chat.example.org/unsubscribe?token=a.b-c_d%2F&user=1>"]
    );
    assert_eq!(
        headers(&read, "List-Unsubscribe-Post"),
        ["List-Unsubscribe=One-Click"]
    );
    assert_eq!(read["type"], "multipart/alternative");
    let plain = "Hallo Jürgen,\n.\n..zwei Punkte\nkommst du?\n\nhttps://chat.example.org/room/1";
    assert_eq!(
        read["parts"],
        json!([["text/plain", plain], ["text/html", message.html.unwrap()]])
    );
}

#[test]
fn a_plain_mail_has_nothing_that_was_not_said() {
    let read = read_mail(&made(&hello()).bytes);
    assert_eq!(read["defects"], json!([]));
    assert_eq!(read["type"], "text/plain");
    assert_eq!(read["parts"], json!([["text/plain", "Hello"]]));
    for name in [
        "List-Unsubscribe",
        "List-Unsubscribe-Post",
        "Reply-To",
        "Cc",
        "Bcc",
    ] {
        assert!(headers(&read, name).is_empty(), "{name}");
    }
    // The link is there once.
    let message = Outgoing {
        body: "See https://chat.example.org/room/1.".to_owned(),
        link: Some("https://chat.example.org/room/1".to_owned()),
        ..hello()
    };
    let read = read_mail(&made(&message).bytes);
    assert_eq!(read["parts"][0][1], "See https://chat.example.org/room/1.");
    let message = Outgoing {
        body: String::new(),
        ..message
    };
    assert_eq!(
        read_mail(&made(&message).bytes)["parts"][0][1],
        "https://chat.example.org/room/1"
    );
}

#[test]
fn the_same_message_has_the_same_id_and_another_one_another() {
    let id = |message: &Outgoing| {
        let read = read_mail(&made(message).bytes);
        headers(&read, "Message-ID")[0].to_owned()
    };
    assert_eq!(id(&hello()), id(&letter()));
    let other = Outgoing {
        id: uuid::Uuid::from_u128(7),
        ..hello()
    };
    assert_ne!(id(&hello()), id(&other));
}

#[test]
fn nobody_adds_a_header() {
    const EVIL: &str =
        "Hi\r\nBcc: victim@example.org\r\n\r\nbody\nX-A: b\rX-B: c\u{85}X-C: d\u{2028}X-D: e\0";
    let message = Outgoing {
        title: EVIL.to_owned(),
        body: EVIL.to_owned(),
        html: Some(EVIL.to_owned()),
        link: Some(format!("https://example.org/{EVIL}")),
        unsubscribe: Some(format!("https://example.org/{EVIL}")),
        ..hello()
    };
    let read = read_mail(&made(&message).bytes);
    assert_eq!(read["defects"], json!([]));
    assert_eq!(read["is_crlf"], true);
    let names: Vec<&str> = read["headers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|header| header[0].as_str().unwrap())
        .collect();
    let known = [
        "From",
        "To",
        "Subject",
        "Message-ID",
        "Auto-Submitted",
        "List-Unsubscribe",
        "List-Unsubscribe-Post",
        "MIME-Version",
        "Date",
        "Content-Type",
    ];
    assert!(names.iter().all(|name| known.contains(name)), "{names:?}");
    assert_eq!(names.len(), known.len(), "{names:?}");
    assert_eq!(
        headers(&read, "Subject"),
        ["Hi  Bcc: victim@example.org    body X-A: b X-B: c X-C: d X-D: e"]
    );
    let unsubscribe = headers(&read, "List-Unsubscribe")[0].to_owned();
    assert!(unsubscribe.bytes().all(|b| b.is_ascii_graphic()), "{unsubscribe}");
    assert_eq!(read["to"], json!(["rgen@example.org"]));
    // Nor by the sender's name.
    for name in [
        "a\r\nBcc: x",
        "a\nb",
        "a\0",
        "",
        " ",
        &"x".repeat(LONGEST_NAME + 1),
    ] {
        assert!(matches!(
            Sender::new(Some(name), "no-reply@example.org"),
            Err(SenderError::Name)
        ));
    }
}

#[test]
fn names_and_lines_of_all_kinds_come_through() {
    for name in [
        "Ann",
        "Ann \"the\" B.",
        "Ann, B; <c@d>",
        "Änn (x) \\ y",
        "日本語 チャット",
    ] {
        let from = Sender::new(Some(name), "no-reply@example.org").unwrap();
        let read = read_mail(&mail(&from, "a@example.org", &hello(), LARGEST).unwrap().bytes);
        assert_eq!(read["from"], json!([name, "no-reply@example.org"]));
        assert_eq!(read["defects"], json!([]), "{name}");
    }
    let from = Sender::new(None, "no-reply@example.org").unwrap();
    let read = read_mail(&mail(&from, "a@example.org", &hello(), LARGEST).unwrap().bytes);
    assert_eq!(read["from"], json!(["", "no-reply@example.org"]));
    for body in [
        "x".repeat(5000),
        "ä".repeat(5000),
        format!("{}\r\n.\r\nend\r", "y ".repeat(900)),
    ] {
        let message = Outgoing {
            title: body.clone(),
            body: body.clone(),
            unsubscribe: Some(format!("https://example.org/{}", "u".repeat(LONGEST_URL - 20))),
            ..hello()
        };
        let read = read_mail(&made(&message).bytes);
        assert_eq!(read["defects"], json!([]));
        assert!(read["longest_line"].as_u64().unwrap() <= 998, "{read}");
        assert_eq!(read["is_ascii"], true);
        let subject = headers(&read, "Subject")[0].to_owned();
        assert!(
            subject.chars().count() <= LONGEST_SUBJECT && subject.ends_with('…'),
            "{subject}"
        );
        let wanted = body.replace("\r\n", "\n").replace('\r', "\n");
        assert!(
            read["parts"][0][1] == wanted.trim_end_matches('\n'),
            "{:.60}…",
            wanted
        );
    }
}

#[test]
fn addresses_are_held_to_the_plain_form() {
    for bad in [
        "",
        "a",
        "@example.org",
        "a@",
        "a@b@example.org",
        "a b@example.org",
        "\"a b\"@example.org",
        "a@example.org\r\nRCPT TO:<b@example.org>",
        "a\r\n@example.org",
        "a@exam ple.org",
        "a@example.org>",
        "<a@example.org>",
        "Ann <a@example.org>",
        "a@example.org,b@example.org",
        "jürgen@example.org",
        "a@127.0.0.1",
        "a@[127.0.0.1]",
        "a@[IPv6:::1]",
        "a@[::1]",
        "a@2130706433",
        "a@127.1",
        "a@-example.org",
        "a@example..org",
        "a@exa_mple.org",
        "a@example.org:25",
        "a@example.org/x",
        "a@example.org?x",
        "a@example%2Eorg",
        "a@１２７.0.0.1",
        ".a@example.org",
        "a..b@example.org",
        &format!("{}@example.org", "x".repeat(65)),
        &format!("a@{}.org", "x".repeat(64)),
        &format!("a@{}org", "xxxxxxxxx.".repeat(25)),
    ] {
        assert!(is_refused(bad, &hello()), "{bad}");
        assert!(
            matches!(Sender::new(None, bad), Err(SenderError::Address)),
            "{bad}"
        );
    }
    for (good, is) in [
        ("a@example.org", "a@example.org"),
        ("A.b+c=d/e@Example.ORG", "A.b+c=d/e@example.org"),
        ("a@mailhost", "a@mailhost"),
        ("a@bücher.example", "a@xn--bcher-kva.example"),
    ] {
        let to = mail(&from(), good, &hello(), LARGEST).unwrap().to;
        assert_eq!(to.to_string(), is);
    }
}

#[test]
fn links_to_unsubscribe_are_https_and_fit_into_a_line() {
    let with = |url: &str| Outgoing {
        unsubscribe: Some(url.to_owned()),
        ..hello()
    };
    for bad in [
        "",
        "http://example.org/",
        "mailto:a@example.org",
        "/unsubscribe",
        &format!("https://example.org/{}", "x".repeat(LONGEST_URL)),
    ] {
        assert!(is_refused("a@example.org", &with(bad)), "{bad}");
    }
    let read = read_mail(&made(&with("https://bücher.example/<a> b?c=<ü>")).bytes);
    assert_eq!(
        headers(&read, "List-Unsubscribe"),
        ["<https://xn--bcher-kva.example/%3Ca%3E%20b?c=%3C%C3%BC%3E>"]
    );
}

#[test]
fn what_is_too_large_is_refused() {
    let of = |bytes: usize| Outgoing {
        body: "x".repeat(bytes),
        html: Some("y".repeat(bytes)),
        ..hello()
    };
    assert!(!is_refused("a@example.org", &of(LARGEST / 4)));
    // Only what is encoded is too large.
    assert!(is_refused("a@example.org", &of(LARGEST / 2)));
    assert!(is_refused("a@example.org", &of(LARGEST)));
}
