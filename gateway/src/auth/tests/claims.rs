//! What verified tokens say, and what they may not say.

use super::*;

async fn connection(claims: Value) -> Result<Identity, TokenError> {
    with_secret().connection(&signed(&claims), now()).await
}

async fn subscription(claims: Value) -> Result<SubscriptionGrant, TokenError> {
    let bearer = bearer("alice", Some("room:1"));
    with_secret().subscription(&signed(&claims), bearer, now()).await
}

#[tokio::test]
async fn a_connection_token_says_who_and_until_when() {
    let identity = connection(json!({
        "sub": "alice", "exp": NOW + 60, "info": {"name": "Alice"}, "channels": ["news"], "meta": {"any": 1}, "own": []
    }))
    .await
    .unwrap();
    assert_eq!(identity.user, "alice");
    assert_eq!(identity.expires_at, Some(UnixTime((NOW + 60) * 1000)));
    assert_eq!(identity.info, r#"{"name":"Alice"}"#);
    let channels: Vec<&str> = identity.subscriptions.keys().map(ChannelName::as_str).collect();
    assert_eq!(channels, ["news"]);
    // What only says that it is one.
    let nobody = |issued_at| Identity {
        stamp: Some(Stamp { id: None, issued_at }),
        ..Identity::default()
    };
    let now = Some(UnixTime(NOW * 1000));
    assert_eq!(connection(json!({"iat": NOW})).await, Ok(nobody(now)));
    assert_eq!(
        connection(json!({"sub": null, "info": null, "exp": null})).await,
        Ok(nobody(None))
    );
}

#[tokio::test]
async fn who_is_an_administrator_is_said_by_true_alone() {
    for (claim, is_admin) in [
        (json!(true), true),
        (json!(false), false),
        (json!("true"), false),
        (json!(1), false),
        (json!(null), false),
    ] {
        let identity = connection(json!({"sub": "alice", "sb_admin": claim}))
            .await
            .unwrap();
        assert_eq!(identity.is_admin, is_admin, "{claim}");
    }
    let anonymous = connection(json!({"sb_admin": true})).await.unwrap();
    assert!(!anonymous.is_admin);
}

#[tokio::test]
async fn subs_go_before_channels_and_carry_options() {
    let identity = connection(json!({
        "channels": ["ignored"],
        "subs": {
            "news": {},
            "room:1": {"info": {"role": "mod"}, "b64data": STANDARD.encode(r#"{"n":1}"#),
                "override": {"presence": {"value": false}, "force_recovery": {"value": true}}},
        },
    }))
    .await
    .unwrap();
    let room = ChannelName::parse("room:1", 255).unwrap();
    assert_eq!(identity.subscriptions.len(), 2);
    let options = &identity.subscriptions[&room];
    assert_eq!(
        (&options.info[..], &options.data[..]),
        (&br#"{"role":"mod"}"#[..], &br#"{"n":1}"#[..])
    );
    assert_eq!(
        options.overrides,
        Overrides {
            presence: Some(false),
            force_recovery: Some(true),
            ..Overrides::default()
        }
    );
}

#[tokio::test]
async fn times_are_kept_to_with_leeway() {
    // The leeway is 5 s.
    let cases = [
        (json!({"exp": NOW - 4}), Ok(Some(NOW - 4))),
        (json!({"exp": NOW - 5}), Err(TokenError::Expired)),
        (json!({"exp": 0}), Err(TokenError::Expired)),
        (json!({"exp": (NOW - 5) as f64 + 0.5}), Ok(None)),
        (json!({"nbf": NOW + 5}), Ok(None)),
        (json!({"nbf": NOW + 6}), Err(TokenError::NotYet)),
        (json!({"exp": NOW + 60, "expire_at": 0}), Ok(None)),
        (
            json!({"exp": NOW + 60, "expire_at": NOW + 600}),
            Ok(Some(NOW + 600)),
        ),
        (
            json!({"exp": NOW + 60, "expire_at": NOW - 5}),
            Err(TokenError::Over),
        ),
        (
            json!({"exp": NOW - 60, "expire_at": NOW + 600}),
            Err(TokenError::Expired),
        ),
        (json!({"expire_at": 1e300}), Ok(None)),
    ];
    for (claims, expected) in cases {
        let until = connection(claims.clone())
            .await
            .map(|identity| identity.expires_at.map(|at| at.0 / 1000));
        match expected {
            Ok(Some(_)) | Err(_) => assert_eq!(until, expected, "{claims}"),
            Ok(None) => assert!(until.is_ok(), "{claims}: {until:?}"),
        }
    }
}

#[tokio::test]
async fn claims_of_another_type_are_refused() {
    for claims in [
        json!({"sub": 42}),
        json!({"exp": "tomorrow"}),
        json!({"exp": -1}),
        json!({"channels": "news"}),
        json!({"channels": [1]}),
        json!({"channels": ["not a name"]}),
        json!({"subs": ["news"]}),
        json!({"subs": {"müll": {}}}),
        json!({"b64info": "%"}),
        json!({"b64info": STANDARD.encode("{\"a\":1},\"b\":2")}),
        json!({"b64info": STANDARD.encode(b"\xff")}),
        json!({"info": "x".repeat(5000)}),
        json!({"sub": "x".repeat(256)}),
        json!({"channel": "news"}),
        json!([]),
    ] {
        let answer = connection(claims.clone()).await;
        assert!(
            matches!(answer, Err(TokenError::Invalid(_))),
            "{claims}: {answer:?}"
        );
    }
    // Deeper than any receiver's parser goes; too deep for this test's own.
    let deep = format!("{{\"info\":{}{}}}", "[".repeat(200), "]".repeat(200));
    let deep: Box<serde_json::value::RawValue> = serde_json::from_str(&deep).unwrap();
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let token = jsonwebtoken::encode(&Header::default(), &deep, &key).unwrap();
    assert_eq!(
        with_secret().connection(&token, now()).await,
        Err(TokenError::Invalid("info or data nests too deep"))
    );
}

#[tokio::test]
async fn base64_goes_with_and_without_padding_and_before_plain() {
    for text in ["eyJhIjoxMX0=", "eyJhIjoxMX0"] {
        let identity = connection(json!({"info": 1, "b64info": text})).await.unwrap();
        assert_eq!(identity.info, r#"{"a":11}"#);
    }
}

#[tokio::test]
async fn issuer_and_audience_are_checked_where_they_are_configured() {
    let tokens = tokens(&format!(
        "hmac_secret = \"{SECRET}\"\nissuer = \"us\"\naudience = \"chat\""
    ));
    for (claims, is_good) in [
        (json!({"iss": "us", "aud": "chat"}), true),
        (json!({"iss": "us", "aud": ["mail", "chat"]}), true),
        (json!({"iss": "them", "aud": "chat"}), false),
        (json!({"iss": "us", "aud": "mail"}), false),
        (json!({"iss": "us", "aud": []}), false),
        (json!({"aud": "chat"}), false),
        (json!({"iss": "us"}), false),
        (json!({}), false),
        // That it has expired too does not make it worth a second try.
        (json!({"iss": "them", "aud": "chat", "exp": NOW - 60}), false),
    ] {
        let answer = tokens.connection(&signed(&claims), now()).await;
        assert_eq!(answer.is_ok(), is_good, "{claims}: {answer:?}");
        if !is_good {
            assert!(
                matches!(answer, Err(TokenError::Invalid(_))),
                "{claims}: {answer:?}"
            );
        }
    }
    assert!(
        connection(json!({"iss": "anybody", "aud": "anything"}))
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn who_may_be_anonymous_is_configured() {
    let key = format!("hmac_secret = \"{SECRET}\"\n");
    let nameless = signed(&json!({"sub": ""}));
    let strict = tokens(&format!("{key}anonymous = \"nobody\""));
    assert_eq!(
        strict.connection(&nameless, now()).await,
        Err(TokenError::Anonymous)
    );
    assert_eq!(
        with_secret()
            .connection(&nameless, now())
            .await
            .map(|who| who.user),
        Ok(String::new())
    );
}

#[tokio::test]
async fn a_subscription_token_is_for_one_channel_and_its_bearer() {
    let good = json!({"sub": "alice", "channel": "room:1", "exp": NOW + 60, "info": 1, "data": {"n": 2}});
    let grant = subscription(good).await.unwrap();
    assert_eq!(grant.channel.as_str(), "room:1");
    assert_eq!(grant.expires_at, Some(UnixTime((NOW + 60) * 1000)));
    assert_eq!(
        (&grant.info[..], &grant.data[..]),
        (&b"1"[..], &br#"{"n":2}"#[..])
    );
    for (claims, expected) in [
        (
            json!({"sub": "alice", "channel": "room:1", "client": "connection"}),
            None,
        ),
        (json!({"sub": "alice", "channel": "room:1", "client": ""}), None),
        (
            json!({"sub": "bob", "channel": "room:1"}),
            Some(TokenError::Foreign("user")),
        ),
        (json!({"channel": "room:1"}), Some(TokenError::Foreign("user"))),
        (
            json!({"sub": "alice", "channel": "room:2"}),
            Some(TokenError::Foreign("channel")),
        ),
        (
            json!({"sub": "alice", "channel": "room:1", "client": "another"}),
            Some(TokenError::Foreign("connection")),
        ),
        (
            json!({"sub": "alice", "channel": "room:1", "exp": NOW - 9}),
            Some(TokenError::Expired),
        ),
        (
            json!({"sub": "alice", "channel": "room:1", "expire_at": NOW - 9}),
            Some(TokenError::Over),
        ),
    ] {
        assert_eq!(subscription(claims.clone()).await.err(), expected, "{claims}");
    }
    for claims in [json!({"sub": "alice"}), json!({"sub": "alice", "channel": ""})] {
        let answer = subscription(claims.clone()).await;
        assert!(
            matches!(answer, Err(TokenError::Invalid(_))),
            "{claims}: {answer:?}"
        );
    }
    // A refresh without a channel: the token says which.
    let token = signed(&json!({"sub": "", "channel": "room:9"}));
    let grant = with_secret()
        .subscription(&token, bearer("", None), now())
        .await
        .unwrap();
    assert_eq!(grant.channel.as_str(), "room:9");
}

#[tokio::test]
async fn subscription_tokens_may_have_keys_of_their_own() {
    let tokens = tokens(&format!(
        "hmac_secret = \"{SECRET}\"\n[gateway.tokens.subscription]\nhmac_secret = \"another secret\""
    ));
    let claims = json!({"sub": "alice", "channel": "room:1"});
    let bearer = bearer("alice", Some("room:1"));
    let sign = |secret: &str| {
        jsonwebtoken::encode(
            &Header::default(),
            &claims,
            &EncodingKey::from_secret(secret.as_bytes()),
        )
        .unwrap()
    };
    assert!(
        tokens
            .subscription(&sign("another secret"), bearer, now())
            .await
            .is_ok()
    );
    assert!(matches!(
        tokens.subscription(&sign(SECRET), bearer, now()).await,
        Err(TokenError::Invalid(_))
    ));
}
