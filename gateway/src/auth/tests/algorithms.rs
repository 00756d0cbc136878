//! Which keys accept which tokens.

use super::*;

fn header(algorithm: Algorithm) -> Header {
    Header::new(algorithm)
}

/// A configuration with the public keys, each in a file.
fn with_public_keys(pairs: &[&Pair], other: &str) -> (tempfile::TempDir, Tokens) {
    let folder = tempfile::tempdir().unwrap();
    let mut files = Vec::new();
    for (index, pair) in pairs.iter().enumerate() {
        let file = folder.path().join(format!("{index}.pem"));
        std::fs::write(&file, &pair.public).unwrap();
        files.push(file);
    }
    let tokens = tokens(&format!("public_keys = {files:?}\n{other}"));
    (folder, tokens)
}

#[tokio::test]
async fn each_algorithm_is_accepted_from_its_key() {
    use Algorithm::{ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};
    let claims = json!({"sub": "alice", "exp": NOW + 60});
    let (rsa, p256, p384, ed) = (Pair::rsa(), Pair::p256(), Pair::p384(), Pair::ed25519());
    let (_folder, tokens) = with_public_keys(&[&rsa, &p256, &p384, &ed], "");
    for (pair, algorithms) in [
        (&rsa, &[RS256, RS384, RS512, PS256, PS384, PS512][..]),
        (&p256, &[ES256]),
        (&p384, &[ES384]),
        (&ed, &[EdDSA]),
    ] {
        for algorithm in algorithms {
            let token = pair.sign(&header(*algorithm), &claims);
            let identity = tokens.connection(&token, now()).await;
            assert_eq!(
                identity.map(|identity| identity.user),
                Ok("alice".to_owned()),
                "{algorithm:?}"
            );
        }
    }
    let tokens = with_secret();
    for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
        let key = EncodingKey::from_secret(SECRET.as_bytes());
        let token = jsonwebtoken::encode(&header(algorithm), &claims, &key).unwrap();
        assert!(tokens.connection(&token, now()).await.is_ok(), "{algorithm:?}");
    }
}

#[tokio::test]
async fn another_key_of_the_same_kind_is_refused() {
    let claims = json!({"sub": "alice"});
    for (ours, theirs, algorithm) in [
        (Pair::rsa(), Pair::rsa(), Algorithm::RS256),
        (Pair::p256(), Pair::p256(), Algorithm::ES256),
        (Pair::p384(), Pair::p384(), Algorithm::ES384),
        (Pair::ed25519(), Pair::ed25519(), Algorithm::EdDSA),
    ] {
        let (_folder, tokens) = with_public_keys(&[&ours], "");
        let token = theirs.sign(&header(algorithm), &claims);
        assert!(
            matches!(
                tokens.connection(&token, now()).await,
                Err(TokenError::Invalid(_))
            ),
            "{algorithm:?}"
        );
    }
    let key = EncodingKey::from_secret(b"another secret");
    let token = jsonwebtoken::encode(&Header::default(), &claims, &key).unwrap();
    assert!(matches!(
        with_secret().connection(&token, now()).await,
        Err(TokenError::Invalid(_))
    ));
}

/// The oldest trick: sign with HMAC, and let the public key, which everybody knows, be the secret.
#[tokio::test]
async fn a_public_key_is_no_secret() {
    for pair in [Pair::rsa(), Pair::p256(), Pair::ed25519()] {
        let (_folder, tokens) = with_public_keys(&[&pair], &format!("hmac_secret = \"{SECRET}\""));
        for secret in [pair.public.as_bytes(), pair.public.trim_end().as_bytes()] {
            for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
                let key = EncodingKey::from_secret(secret);
                let token = jsonwebtoken::encode(&header(algorithm), &json!({"sub": "root"}), &key).unwrap();
                assert!(matches!(
                    tokens.connection(&token, now()).await,
                    Err(TokenError::Invalid(_))
                ));
            }
        }
    }
}

#[tokio::test]
async fn what_nobody_signed_is_refused() {
    let tokens = with_secret();
    let good = signed(&json!({"sub": "alice"}));
    assert!(tokens.connection(&good, now()).await.is_ok());
    let signature = good.rsplit('.').next().unwrap();
    let claims = r#"{"sub":"root"}"#;
    for token in [
        String::new(),
        "x".to_owned(),
        "..".to_owned(),
        "x.y.z".to_owned(),
        unsigned(r#"{"alg":"none"}"#, claims, ""),
        unsigned(r#"{"alg":"None","typ":"JWT"}"#, claims, ""),
        unsigned(r#"{"alg":"none"}"#, claims, signature),
        unsigned(r#"{"alg":"HS256"}"#, claims, ""),
        unsigned(r#"{"alg":"HS256"}"#, claims, signature),
        unsigned(r#"{"alg":"ES512"}"#, claims, signature),
        unsigned(r#"{"typ":"JWT"}"#, claims, signature),
        format!("{good}x"),
        format!("{good}.{signature}"),
        good.trim_end_matches(signature).to_owned(),
    ] {
        assert!(
            matches!(
                tokens.connection(&token, now()).await,
                Err(TokenError::Invalid(_))
            ),
            "{token}"
        );
    }
}

#[tokio::test]
async fn a_header_that_demands_understanding_is_refused() {
    let header = Header {
        crit: Some(vec!["exp".to_owned()]),
        ..Header::default()
    };
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let token = jsonwebtoken::encode(&header, &json!({"sub": "alice"}), &key).unwrap();
    assert_eq!(
        with_secret().connection(&token, now()).await,
        Err(TokenError::Invalid("its header has `crit`"))
    );
}

#[tokio::test]
async fn the_secret_before_stays_valid_and_signs_nothing_new() {
    let tokens = tokens(&format!(
        "hmac_secret = \"the new secret\"\nhmac_secret_previous = \"{SECRET}\""
    ));
    assert!(
        tokens
            .connection(&signed(&json!({"sub": "alice"})), now())
            .await
            .is_ok()
    );
    let config = config(&format!(
        "[gateway.tokens]\nhmac_secret = \"{SECRET}\"\nhmac_secret_previous = \"the old secret\""
    ))
    .unwrap();
    let issued = config
        .issue(TokenRequest {
            user: "alice",
            channel: None,
            ttl: Duration::from_secs(60),
            info: Some(r#"{"name":"Alice"}"#),
            admin: false,
        })
        .unwrap();
    let identity = tokens.connection(&issued, UnixTime::now()).await.unwrap();
    assert_eq!(
        (identity.user.as_str(), identity.info.as_ref()),
        ("alice", &br#"{"name":"Alice"}"#[..])
    );
}

#[tokio::test]
async fn without_a_key_no_token_is_good() {
    let tokens = tokens("");
    let token = signed(&json!({"sub": "alice"}));
    assert!(matches!(
        tokens.connection(&token, now()).await,
        Err(TokenError::Invalid(_))
    ));
}
