use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use serde_json::{Value, json};

use super::*;
use crate::testing::{headers, hello, later, letter, python, source};

const PASSWORD: &str = "correct horse battery";
const READER: &str = "reader.secret@example.net";

/// aiosmtpd in a process of its own: see `smtp/server.py`. Killed when dropped.
struct Server {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    port: u16,
    root: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Server {
    fn starttls() -> Self {
        Self::start(&json!({"tls": "starttls"}))
    }

    fn clear() -> Self {
        Self::start(&json!({"tls": "none", "username": null}))
    }

    /// `with`: what is else than with most servers.
    fn start(with: &Value) -> Self {
        let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let root = certified.cert.pem();
        let mut settings = json!({
            "certificate": root,
            "key": certified.signing_key.serialize_pem(),
            "username": "app",
            "password": PASSWORD,
            "without": [],
            "most": 2_000_000,
        });
        for (name, value) in with.as_object().unwrap() {
            settings[name] = value.clone();
        }
        let mut child = python()
            .arg(source("smtp/server.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut server = Self {
            input: child.stdin.take().unwrap(),
            output: BufReader::new(child.stdout.take().unwrap()),
            child,
            port: 0,
            root,
        };
        server.port = server.ask(&settings)["port"]
            .as_u64()
            .unwrap()
            .try_into()
            .unwrap();
        server
    }

    fn ask(&mut self, request: &Value) -> Value {
        writeln!(self.input, "{request}").unwrap();
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    /// What it answers next to a command.
    fn answers(&mut self, command: &str, answers: &[&str]) {
        self.ask(&json!({"answers": {command: answers}}));
    }

    /// What happened since the last time; connections since the start.
    fn seen(&mut self) -> Seen {
        let seen = self.ask(&json!({}));
        let list = |name: &str| seen[name].as_array().unwrap().clone();
        let text = |value: Value| value.as_str().unwrap().to_owned();
        Seen {
            mails: list("mails"),
            commands: list("commands").into_iter().map(text).collect(),
            connections: seen["connections"].as_u64().unwrap(),
        }
    }

    fn settings(&self, security: Security) -> Settings {
        let from = Sender::new(Some("Switchboard"), "no-reply@example.org").unwrap();
        Settings {
            port: self.port,
            security,
            credentials: Some(Credentials {
                username: "app".to_owned(),
                password: PASSWORD.into(),
            }),
            hello: Some("app.example.org".to_owned()),
            roots: Some(self.root.clone()),
            limit: Duration::from_secs(20),
            ..Settings::new("localhost".to_owned(), from)
        }
    }

    fn smtp(&self) -> Smtp {
        Smtp::new(self.settings(Security::StartTls)).unwrap()
    }

    /// In the clear and without a login.
    fn clear_settings(&self) -> Settings {
        Settings {
            credentials: None,
            ..self.settings(Security::None { anywhere: false })
        }
    }
}

#[derive(Debug)]
struct Seen {
    mails: Vec<Value>,
    /// As `RCPT TO:<…>`; without a login's secrets.
    commands: Vec<String>,
    connections: u64,
}

impl Seen {
    /// The first words of the commands.
    fn verbs(&self) -> Vec<&str> {
        let first = |command: &'_ String| command.find(' ').unwrap_or(command.len());
        self.commands
            .iter()
            .map(|command| &command[..first(command)])
            .collect()
    }
}

fn reader() -> Address {
    Address::Email {
        address: READER.to_owned(),
    }
}

/// What an error comes to. Nothing in it is personal or a secret.
fn kind(error: &SendError) -> &'static str {
    let text = format!("{error} {error:?}");
    for hidden in ["reader", "secret", "example.net", "no-reply", PASSWORD] {
        assert!(!text.contains(hidden), "{text}");
    }
    match error {
        SendError::Retry { .. } => "retry",
        SendError::Unknown { .. } => "unknown",
        SendError::Refused { .. } => "refused",
        SendError::Gone { .. } => "gone",
        SendError::Account { .. } => "account",
    }
}

async fn failed(smtp: &Smtp) -> SendError {
    smtp.send(&reader(), &hello()).await.unwrap_err()
}

#[tokio::test]
async fn a_mail_arrives_as_it_was_meant() {
    let mut server = Server::starttls();
    let smtp = server.smtp();
    assert_eq!((smtp.name(), smtp.way()), ("smtp", Way::Email));
    let message = letter();
    let accepted = smtp.send(&reader(), &message).await.unwrap();
    assert_eq!(accepted.reference.as_deref(), Some("Ok: queued as 4XyZ"));
    let seen = server.seen();
    let [mail] = seen.mails.as_slice() else {
        panic!("{seen:?}")
    };
    assert_eq!(mail["envelope"], json!(["no-reply@example.org", [READER]]));
    assert_eq!((&mail["tls"], &mail["login"]), (&json!(true), &json!("app")));
    assert_eq!(mail["defects"], json!([]));
    assert_eq!(headers(mail, "Subject"), [message.title.as_str()]);
    assert_eq!(mail["from"], json!(["Switchboard", "no-reply@example.org"]));
    assert_eq!(mail["to"], json!([READER]));
    assert_eq!(
        headers(mail, "List-Unsubscribe"),
        ["<https://chat.example.org/unsubscribe?token=a.b-c_d%2F&user=1>"]
    );
    assert_eq!(
        headers(mail, "List-Unsubscribe-Post"),
        ["List-Unsubscribe=One-Click"]
    );
    assert_eq!(
        mail["parts"],
        json!([
            [
                "text/plain",
                "Hallo Jürgen,\n.\n..zwei Punkte\nkommst du?\n\nhttps://chat.example.org/room/1"
            ],
            ["text/html", message.html.unwrap()],
        ])
    );
    let rcpt = format!("RCPT TO:<{READER}>");
    assert_eq!(
        seen.commands,
        [
            "GREETING",
            "EHLO app.example.org",
            "STARTTLS",
            "EHLO app.example.org",
            "AUTH PLAIN",
            "MAIL FROM:<no-reply@example.org>",
            &rcpt,
            "DATA",
            "MESSAGE"
        ]
    );
}

#[tokio::test]
async fn tls_from_the_start_and_the_older_login_do_as_well() {
    let mut server = Server::start(&json!({"tls": "tls", "without": ["PLAIN"]}));
    let smtp = Smtp::new(server.settings(Security::Tls)).unwrap();
    smtp.send(&reader(), &letter()).await.unwrap();
    let seen = server.seen();
    assert_eq!(seen.mails[0]["login"], "app");
    assert_eq!(seen.mails[0]["tls"], true);
    assert_eq!(seen.commands[2], "AUTH LOGIN");
}

#[tokio::test]
async fn in_the_clear_and_without_a_login_on_this_machine() {
    let mut server = Server::clear();
    let smtp = Smtp::new(server.clear_settings()).unwrap();
    smtp.send(&reader(), &letter()).await.unwrap();
    let seen = server.seen();
    assert_eq!(
        (&seen.mails[0]["tls"], &seen.mails[0]["login"]),
        (&json!(false), &json!(""))
    );
    assert_eq!(
        seen.verbs(),
        ["GREETING", "EHLO", "MAIL", "RCPT", "DATA", "MESSAGE"]
    );
}

#[tokio::test]
async fn a_connection_does_for_many_messages_until_it_is_idle_for_too_long() {
    let mut server = Server::starttls();
    let smtp = server.smtp();
    for _ in 0..3 {
        smtp.send(&reader(), &hello()).await.unwrap();
    }
    // One message that is not taken does not end it.
    server.answers("RCPT", &["550 5.1.1 No such user"]);
    assert_eq!(kind(&failed(&smtp).await), "gone");
    smtp.send(&reader(), &hello()).await.unwrap();
    let seen = server.seen();
    assert_eq!((seen.connections, seen.mails.len()), (1, 4));
    assert_eq!(seen.verbs().iter().filter(|verb| **verb == "RSET").count(), 4);
    later(Duration::from_secs(61)).await;
    smtp.send(&reader(), &hello()).await.unwrap();
    let seen = server.seen();
    assert_eq!(seen.connections, 2);
    assert!(!seen.verbs().contains(&"RSET"), "{seen:?}");
}

#[tokio::test]
async fn a_connection_that_the_server_ended_is_replaced() {
    let mut server = Server::starttls();
    let smtp = Smtp::new(Settings {
        limit: Duration::from_secs(8),
        ..server.settings(Security::StartTls)
    })
    .unwrap();
    smtp.send(&reader(), &hello()).await.unwrap();
    for (turn, answer) in (2..).zip(["close", "421 4.4.2 Timeout, closing", "never"]) {
        server.answers("RSET", &[answer]);
        smtp.send(&reader(), &hello()).await.unwrap();
        let seen = server.seen();
        assert_eq!(seen.connections, turn, "{answer}");
    }
}

#[tokio::test]
async fn a_connection_that_is_not_kept_ends_with_goodbye() {
    let mut server = Server::clear();
    let smtp = Smtp::new(Settings {
        idle: 0,
        ..server.clear_settings()
    })
    .unwrap();
    for turn in 1..3 {
        smtp.send(&reader(), &hello()).await.unwrap();
        let seen = server.seen();
        assert_eq!(seen.connections, turn);
        assert_eq!(seen.verbs().last(), Some(&"QUIT"));
    }
}

/// One row: what is answered to a command, and what that means.
type Row = (&'static str, &'static str, &'static str);

async fn meanings(server: &mut Server, smtp: &Smtp, rows: &[Row]) {
    for (command, answer, is) in rows {
        server.answers(command, &[answer]);
        let error = failed(smtp).await;
        assert_eq!(kind(&error), *is, "{command} {answer}: {error}");
        let code = answer.get(..3).filter(|code| code.parse::<u16>().is_ok());
        assert!(error.to_string().contains(code.unwrap_or_default()), "{error}");
        let seen = server.seen();
        assert_eq!(seen.mails.len(), 0, "{command} {answer}");
        // A message that was not taken is not tried again here.
        assert!(seen.verbs().iter().filter(|verb| *verb == command).count() <= 2);
    }
    // None of them spoiled anything.
    smtp.send(&reader(), &hello()).await.unwrap();
}

#[tokio::test]
async fn what_answers_to_commands_mean() {
    let mut server = Server::clear();
    let smtp = Smtp::new(server.clear_settings()).unwrap();
    let rows = [
        ("MAIL", "421 4.3.2 Shutting down", "retry"),
        ("MAIL", "451 4.7.1 Greylisted", "retry"),
        ("MAIL", "452 4.3.1 Out of disk", "retry"),
        ("MAIL", "550 5.7.1 no-reply@example.org may not send", "account"),
        (
            "MAIL",
            "553 5.1.8 <no-reply@example.org> not owned by app",
            "account",
        ),
        ("MAIL", "530 5.7.0 Authentication required", "account"),
        ("MAIL", "501 Syntax", "account"),
        ("MAIL", "552 5.3.4 Message too big", "refused"),
        ("MAIL", "555 Parameters not recognised", "refused"),
        ("MAIL", "close", "retry"),
        ("MAIL", "nonsense", "retry"),
        ("RCPT", "421 Too many", "retry"),
        ("RCPT", "450 4.2.1 reader.secret@example.net is busy", "retry"),
        ("RCPT", "452 4.2.2 Mailbox full", "retry"),
        (
            "RCPT",
            "550 5.1.1 <reader.secret@example.net>: no such user",
            "gone",
        ),
        ("RCPT", "550 5.1.2 No such domain", "gone"),
        ("RCPT", "556 5.1.10 Null MX", "gone"),
        ("RCPT", "551 5.1.6 reader.secret@example.net has moved", "gone"),
        ("RCPT", "550 5.2.1 Mailbox disabled", "gone"),
        ("RCPT", "550 reader.secret@example.net unknown", "gone"),
        ("RCPT", "551 User not local", "gone"),
        ("RCPT", "553 Mailbox name not allowed", "gone"),
        ("RCPT", "550 5.0.0 reader.secret@example.net unknown", "gone"),
        (
            "RCPT",
            "550 5.7.1 reader.secret@example.net blocked you",
            "refused",
        ),
        (
            "RCPT",
            "554 5.7.1 <reader.secret@example.net>: Relay access denied",
            "refused",
        ),
        ("RCPT", "552 5.2.2 Mailbox full", "refused"),
        ("RCPT", "554 Transaction failed", "refused"),
        (
            "RCPT",
            "553 5.1.8 <no-reply@example.org>: sender rejected",
            "account",
        ),
        ("RCPT", "530 Authentication required", "account"),
        ("RCPT", "354 Go ahead", "retry"),
        ("RCPT", "close", "retry"),
        ("DATA", "451 4.3.0 Try later", "retry"),
        ("DATA", "554 5.5.1 No valid recipients", "refused"),
        ("DATA", "250 fine", "retry"),
        ("DATA", "close", "retry"),
        ("MESSAGE", "421 4.3.2 Shutting down", "retry"),
        (
            "MESSAGE",
            "451 4.3.0 reader.secret@example.net: try later",
            "retry",
        ),
        (
            "MESSAGE",
            "550 5.7.1 Looks like spam to reader.secret@example.net",
            "refused",
        ),
        ("MESSAGE", "552 5.3.4 Too large", "refused"),
        ("MESSAGE", "554 5.6.0 Bad content", "refused"),
        ("MESSAGE", "550 5.1.1 No such user after all", "gone"),
        ("MESSAGE", "close", "unknown"),
        ("MESSAGE", "354 Go ahead", "unknown"),
        ("MESSAGE", "nonsense", "unknown"),
    ];
    meanings(&mut server, &smtp, &rows).await;
}

#[tokio::test]
async fn what_answers_before_a_message_mean() {
    let mut server = Server::starttls();
    let smtp = Smtp::new(Settings {
        idle: 0,
        ..server.settings(Security::StartTls)
    })
    .unwrap();
    let rows = [
        ("GREETING", "421 4.3.2 Busy", "retry"),
        ("GREETING", "554 5.7.1 Not you", "retry"),
        ("GREETING", "close", "retry"),
        ("GREETING", "nonsense", "retry"),
        ("EHLO", "502 5.5.1 Unknown", "retry"),
        ("EHLO", "close", "retry"),
        ("STARTTLS", "454 4.7.0 Not now", "retry"),
        ("STARTTLS", "501 5.5.4 Never", "retry"),
        ("STARTTLS", "close", "retry"),
        ("AUTH", "454 4.7.0 Not now", "retry"),
        ("AUTH", "421 4.7.0 Too many logins", "retry"),
        ("AUTH", "535 5.7.8 app is wrong", "account"),
        ("AUTH", "534 5.7.9 Too weak", "account"),
        ("AUTH", "538 5.7.11 Not encrypted", "account"),
        ("AUTH", "close", "retry"),
        ("AUTH", "250 fine", "retry"),
    ];
    meanings(&mut server, &smtp, &rows).await;
}

#[tokio::test]
async fn a_wrong_password_and_a_login_that_is_not_offered_are_of_the_account() {
    let mut server = Server::starttls();
    let with = |password: &str| {
        let mut settings = server.settings(Security::StartTls);
        settings.credentials.as_mut().unwrap().password = password.into();
        Smtp::new(settings).unwrap()
    };
    let error = failed(&with("wrong secret")).await;
    assert_eq!(kind(&error), "account");
    assert!(error.to_string().contains("535 5.7.8"), "{error}");
    assert_eq!(server.seen().mails.len(), 0);
    let mut server = Server::start(&json!({"tls": "starttls", "without": ["PLAIN", "LOGIN"]}));
    assert_eq!(kind(&failed(&server.smtp()).await), "account");
    assert!(!server.seen().verbs().contains(&"MAIL"));
}

#[tokio::test]
async fn nothing_is_said_to_a_server_that_cannot_prove_who_it_is() {
    let mut server = Server::starttls();
    let stranger = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let untrusted = |roots: Option<String>| {
        Smtp::new(Settings {
            roots,
            ..server.settings(Security::StartTls)
        })
        .unwrap()
    };
    let smtps = [untrusted(Some(stranger.cert.pem())), untrusted(None)];
    for smtp in smtps {
        let error = failed(&smtp).await;
        assert_eq!(kind(&error), "retry");
        assert!(error.to_string().contains("no TLS"), "{error}");
    }
    // Another name than the certificate's.
    let smtp = Smtp::new(Settings {
        host: "127.0.0.1".to_owned(),
        ..server.settings(Security::StartTls)
    })
    .unwrap();
    assert_eq!(kind(&failed(&smtp).await), "retry");
    let seen = server.seen();
    assert!(
        seen.verbs()
            .iter()
            .all(|verb| ["GREETING", "EHLO", "STARTTLS"].contains(verb)),
        "{seen:?}"
    );

    let mut server = Server::clear();
    let error = failed(&server.smtp()).await;
    assert_eq!(kind(&error), "retry");
    assert!(error.to_string().contains("STARTTLS"), "{error}");
    assert_eq!(server.seen().verbs(), ["GREETING", "EHLO"]);
}

#[tokio::test]
async fn an_answer_slipped_in_before_tls_is_noticed() {
    let mut server = Server::starttls();
    server.answers("STARTTLS", &["slip in"]);
    let error = failed(&server.smtp()).await;
    assert_eq!(kind(&error), "retry");
    assert!(error.to_string().contains("250 is no answer to it"), "{error}");
    assert_eq!(server.seen().mails.len(), 0);
    // Also where nobody logs in.
    let mut server = Server::start(&json!({"tls": "starttls", "username": null}));
    server.answers("STARTTLS", &["slip in"]);
    let smtp = Smtp::new(Settings {
        credentials: None,
        ..server.settings(Security::StartTls)
    })
    .unwrap();
    let error = failed(&smtp).await;
    assert!(error.to_string().contains("250 is no answer to it"), "{error}");
    assert_eq!(kind(&error), "retry");
    assert_eq!(server.seen().mails.len(), 0);
}

#[tokio::test]
async fn no_answer_in_time_leaves_open_only_what_was_sent() {
    let mut server = Server::clear();
    let smtp = Smtp::new(Settings {
        limit: Duration::from_secs(2),
        ..server.clear_settings()
    })
    .unwrap();
    for (command, is) in [
        ("GREETING", "retry"),
        ("EHLO", "retry"),
        ("MAIL", "retry"),
        ("RCPT", "retry"),
        ("DATA", "retry"),
        ("MESSAGE", "unknown"),
    ] {
        server.answers(command, &["never"]);
        let before = Instant::now();
        let error = failed(&smtp).await;
        assert_eq!(kind(&error), is, "{command}: {error}");
        assert!(error.to_string().contains("in time"), "{error}");
        assert!(before.elapsed() < Duration::from_secs(10), "{command}");
    }
    assert_eq!(server.seen().mails.len(), 0);
}

#[tokio::test]
async fn there_are_no_more_connections_than_allowed() {
    let mut server = Server::clear();
    let smtp = Smtp::new(Settings {
        connections: 2,
        idle: 2,
        ..server.clear_settings()
    })
    .unwrap();
    let (to, message) = (reader(), hello());
    let sends = (0..12).map(|_| smtp.send(&to, &message));
    for sent in futures_util::future::join_all(sends).await {
        sent.unwrap();
    }
    let seen = server.seen();
    assert_eq!((seen.mails.len(), seen.connections), (12, 2));
    assert_eq!(smtp.idle.lock().len(), 2);
}

#[tokio::test]
async fn who_waits_for_a_connection_waits_no_longer_than_the_limit() {
    let mut server = Server::clear();
    let smtp = Smtp::new(Settings {
        connections: 1,
        idle: 1,
        limit: Duration::from_secs(1),
        ..server.clear_settings()
    })
    .unwrap();
    let held = smtp.free.acquire().await.unwrap();
    let error = smtp.send(&reader(), &hello()).await.unwrap_err();
    assert_eq!(kind(&error), "retry");
    assert!(error.to_string().contains("in use"), "{error}");
    assert_eq!(server.seen().connections, 0);
    drop(held);
    smtp.send(&reader(), &hello()).await.unwrap();
}

#[tokio::test]
async fn a_message_that_is_given_up_leaves_no_connection_behind() {
    let mut server = Server::clear();
    let smtp = Smtp::new(server.clear_settings()).unwrap();
    smtp.send(&reader(), &hello()).await.unwrap();
    server.answers("DATA", &["never"]);
    let (to, message) = (reader(), hello());
    let given_up = tokio::time::timeout(Duration::from_millis(300), smtp.send(&to, &message)).await;
    assert!(given_up.is_err());
    assert!(smtp.idle.lock().is_empty());
    assert_eq!(smtp.free.available_permits(), smtp.settings.connections);
    smtp.send(&reader(), &hello()).await.unwrap();
    assert_eq!(server.seen().mails.len(), 2);
}

#[tokio::test]
async fn what_cannot_be_sent_is_refused_before_a_connection_is_made() {
    let mut server = Server::clear();
    let smtp = Smtp::new(Settings {
        largest: 10_000,
        ..server.clear_settings()
    })
    .unwrap();
    for address in ["", "secret", "secret@127.0.0.1", "secret@example.org\r\nDATA"] {
        let to = Address::Email {
            address: address.to_owned(),
        };
        assert_eq!(kind(&smtp.send(&to, &hello()).await.unwrap_err()), "refused");
    }
    let to = Address::Sms {
        number: "+4915112345678".to_owned(),
    };
    assert_eq!(kind(&smtp.send(&to, &hello()).await.unwrap_err()), "refused");
    let large = Outgoing {
        body: "x".repeat(10_000),
        ..hello()
    };
    assert_eq!(kind(&smtp.send(&reader(), &large).await.unwrap_err()), "refused");
    assert_eq!(server.seen().connections, 0);
}

#[tokio::test]
async fn where_nobody_listens_is_tried_again() {
    let server = Server::clear();
    let settings = server.clear_settings();
    drop(server);
    let error = failed(&Smtp::new(settings).unwrap()).await;
    assert_eq!(kind(&error), "retry");
    assert!(error.to_string().contains("no connection"), "{error}");
}

#[test]
fn settings_are_looked_at() {
    let from = Sender::new(None, "no-reply@example.org").unwrap();
    let base = Settings::new("mail.example.org".to_owned(), from);
    let with = |change: &dyn Fn(&mut Settings)| {
        let mut settings = base.clone();
        change(&mut settings);
        Smtp::new(settings).map(drop)
    };
    assert!(with(&|_| {}).is_ok());
    for host in ["", "a b", "a\r\nb", "user@host", "ho/st", "[::1]"] {
        let error = with(&|settings| settings.host = host.to_owned());
        assert!(matches!(error, Err(SettingsError::Host)), "{host}");
    }
    assert!(matches!(
        with(&|settings| settings.port = 0),
        Err(SettingsError::Host)
    ));
    for (host, is_fine) in [
        ("mail.example.org", false),
        ("10.0.0.1", false),
        ("localhost.example.org", false),
        ("localhost", true),
        ("127.0.0.2", true),
        ("::1", true),
    ] {
        let none = |anywhere| {
            with(&|settings: &mut Settings| {
                settings.host = host.to_owned();
                settings.security = Security::None { anywhere };
            })
        };
        assert_eq!(none(false).is_ok(), is_fine, "{host}");
        assert!(is_fine || matches!(none(false), Err(SettingsError::InTheClear)));
        assert!(none(true).is_ok(), "{host}");
    }
    for hello in ["", "a b", "a\r\nMAIL", &"x".repeat(256)] {
        let error = with(&|settings| settings.hello = Some(hello.to_owned()));
        assert!(matches!(error, Err(SettingsError::Hello)), "{hello}");
    }
    for roots in [
        "",
        "no PEM",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    ] {
        let error = with(&|settings| settings.roots = Some(roots.to_owned()));
        assert!(matches!(error, Err(SettingsError::Roots)), "{roots}");
    }
    for (connections, idle) in [(0, 0), (1, 2), (MOST_CONNECTIONS + 1, 1)] {
        let error = with(&|settings| (settings.connections, settings.idle) = (connections, idle));
        assert!(matches!(error, Err(SettingsError::Connections)));
    }
}

#[test]
fn debug_shows_no_secret() {
    let from = Sender::new(None, "no-reply@example.org").unwrap();
    let mut settings = Settings::new("mail.example.org".to_owned(), from);
    settings.credentials = Some(Credentials {
        username: "app".to_owned(),
        password: PASSWORD.into(),
    });
    let shown = format!("{settings:?} {:?}", Smtp::new(settings.clone()).unwrap());
    assert!(
        shown.contains("mail.example.org") && !shown.contains(PASSWORD),
        "{shown}"
    );
}
