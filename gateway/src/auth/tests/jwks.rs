//! Key sets, from a real HTTP server.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use parking_lot::Mutex;
use switchboard_service_kit::tasks::TaskKind;
use tokio::sync::Semaphore;

use super::*;

/// An identity provider, as far as it matters.
struct Provider {
    url: String,
    answer: Arc<Mutex<(StatusCode, String)>>,
    requests: Arc<AtomicUsize>,
    /// A permit is one answer.
    gate: Arc<Semaphore>,
    tasks: Tasks,
    metrics: Metrics,
}

impl Provider {
    async fn start(keys: &[Value]) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/keys", listener.local_addr().unwrap());
        let answer = Arc::new(Mutex::new((StatusCode::OK, String::new())));
        let requests = Arc::new(AtomicUsize::new(0));
        let gate = Arc::new(Semaphore::new(Semaphore::MAX_PERMITS));
        let (answers, counted, gated) = (Arc::clone(&answer), Arc::clone(&requests), Arc::clone(&gate));
        let router = Router::new().route(
            "/keys",
            get(async move || {
                counted.fetch_add(1, Ordering::SeqCst);
                gated.acquire().await.unwrap().forget();
                answers.lock().clone()
            }),
        );
        let metrics = Metrics::new();
        let tasks = Tasks::new(&metrics);
        tasks.spawn("provider", TaskKind::Replaceable, async move {
            axum::serve(listener, router).await.unwrap();
        });
        let provider = Self {
            url,
            answer,
            requests,
            gate,
            tasks,
            metrics,
        };
        provider.serve(keys);
        provider
    }

    fn serve(&self, keys: &[Value]) {
        *self.answer.lock() = (StatusCode::OK, json!({ "keys": keys }).to_string());
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    fn tokens(&self, keys: &str) -> Tokens {
        let text = format!("[gateway.tokens]\njwks_url = \"{}\"\n{keys}", self.url);
        Tokens::start(&config(&text).unwrap(), 255, &self.metrics, &self.tasks).unwrap()
    }

    /// As [`Provider::tokens`], once the first set has been fetched.
    async fn ready(&self, keys: &str) -> Tokens {
        let tokens = self.tokens(keys);
        let mut set = tokens.connection.jwks.as_ref().unwrap().watch();
        tokio::time::timeout(DEADLINE, set.changed())
            .await
            .unwrap()
            .unwrap();
        tokens
    }
}

const DEADLINE: Duration = Duration::from_secs(10);

fn signed_by(pair: &Pair, algorithm: Algorithm, kid: Option<&str>) -> String {
    let mut header = Header::new(algorithm);
    header.kid = kid.map(str::to_owned);
    pair.sign(&header, &json!({"sub": "alice"}))
}

async fn verify(tokens: &Tokens, token: &str) -> Result<String, TokenError> {
    let verified = tokio::time::timeout(DEADLINE, tokens.connection(token, now()));
    verified.await.unwrap().map(|identity| identity.user)
}

#[tokio::test]
async fn keys_are_chosen_by_name() {
    let (rsa, p256, ed) = (Pair::rsa(), Pair::p256(), Pair::ed25519());
    let provider = Provider::start(&[
        rsa.jwk(Algorithm::RS256, "rsa"),
        p256.jwk(Algorithm::ES256, "p256"),
        ed.jwk(Algorithm::EdDSA, "ed"),
    ])
    .await;
    let tokens = provider.tokens("");
    for (pair, algorithm, kid) in [
        (&rsa, Algorithm::RS256, "rsa"),
        (&p256, Algorithm::ES256, "p256"),
        (&ed, Algorithm::EdDSA, "ed"),
    ] {
        let token = signed_by(pair, algorithm, Some(kid));
        assert_eq!(verify(&tokens, &token).await, Ok("alice".to_owned()), "{kid}");
    }
    // The name of another key, an algorithm that the key does not name, and no name among several.
    for token in [
        signed_by(&p256, Algorithm::ES256, Some("ed")),
        signed_by(&rsa, Algorithm::RS512, Some("rsa")),
        signed_by(&rsa, Algorithm::PS256, Some("rsa")),
    ] {
        assert!(matches!(
            verify(&tokens, &token).await,
            Err(TokenError::Invalid(_))
        ));
    }
    assert_eq!(provider.requests(), 1);
    assert!(
        verify(&tokens, &signed_by(&rsa, Algorithm::RS256, None))
            .await
            .is_err()
    );
}

#[tokio::test]
async fn the_only_key_needs_no_name() {
    let (pair, other) = (Pair::p256(), Pair::p256());
    let mut key = pair.jwk(Algorithm::ES256, "");
    key.as_object_mut().unwrap().remove("kid");
    let provider = Provider::start(&[key]).await;
    let tokens = provider.ready("").await;
    assert!(
        verify(&tokens, &signed_by(&pair, Algorithm::ES256, None))
            .await
            .is_ok()
    );
    assert!(
        verify(&tokens, &signed_by(&other, Algorithm::ES256, None))
            .await
            .is_err()
    );
}

#[tokio::test]
async fn a_new_key_is_found_and_the_old_one_goes() {
    let (old, new) = (Pair::ed25519(), Pair::ed25519());
    let provider = Provider::start(&[old.jwk(Algorithm::EdDSA, "old")]).await;
    let tokens = provider.ready("").await;
    let by_old = signed_by(&old, Algorithm::EdDSA, Some("old"));
    let by_new = signed_by(&new, Algorithm::EdDSA, Some("new"));
    assert!(verify(&tokens, &by_old).await.is_ok());
    provider.serve(&[new.jwk(Algorithm::EdDSA, "new")]);
    assert!(verify(&tokens, &by_new).await.is_ok());
    assert_eq!(provider.requests(), 2);
    // The next request is not allowed yet, so whether the old key is back cannot be told.
    assert_eq!(verify(&tokens, &by_old).await, Err(TokenError::Unavailable));
    assert_eq!(provider.requests(), 2);
}

#[tokio::test]
async fn unknown_names_cost_one_request_an_interval_however_many_ask() {
    let pair = Pair::ed25519();
    let provider = Provider::start(&[pair.jwk(Algorithm::EdDSA, "known")]).await;
    let tokens = provider.ready("jwks_refetch = \"1h\"").await;
    let made_up: Vec<String> = (0..20)
        .map(|index| signed_by(&pair, Algorithm::EdDSA, Some(&format!("made-up-{index}"))))
        .collect();
    let answers = futures_util::future::join_all(made_up.iter().map(|token| verify(&tokens, token))).await;
    for answer in answers {
        assert!(matches!(answer, Err(TokenError::Invalid(_))), "{answer:?}");
    }
    assert_eq!(provider.requests(), 2);
    assert_eq!(verify(&tokens, &made_up[0]).await, Err(TokenError::Unavailable));
    assert!(
        verify(&tokens, &signed_by(&pair, Algorithm::EdDSA, Some("known")))
            .await
            .is_ok()
    );
    assert_eq!(provider.requests(), 2);
}

/// Symmetric keys would make everybody who reads the set a signer.
#[tokio::test]
async fn keys_that_cannot_verify_are_not_taken() {
    let (good, other) = (Pair::p256(), Pair::rsa());
    let secret = json!({"kty": "oct", "kid": "oct", "k": URL_SAFE_NO_PAD.encode(SECRET), "alg": "HS256"});
    let mut for_encryption = other.jwk(Algorithm::RS256, "enc");
    for_encryption["use"] = json!("enc");
    let mut of_another_kind = other.jwk(Algorithm::RS256, "mixed");
    of_another_kind["alg"] = json!("ES256");
    let provider = Provider::start(&[
        json!("not a key"),
        json!({"kty": "new", "kid": "new"}),
        secret,
        for_encryption,
        of_another_kind,
        good.jwk(Algorithm::ES256, "good"),
    ])
    .await;
    let tokens = provider.ready("").await;
    let header = Header {
        kid: Some("oct".to_owned()),
        ..Header::default()
    };
    let by_secret = jsonwebtoken::encode(
        &header,
        &json!({"sub": "root"}),
        &EncodingKey::from_secret(SECRET.as_bytes()),
    )
    .unwrap();
    for token in [
        by_secret,
        signed_by(&other, Algorithm::RS256, Some("enc")),
        signed_by(&other, Algorithm::RS256, Some("mixed")),
    ] {
        assert!(verify(&tokens, &token).await.is_err());
    }
    assert!(
        verify(&tokens, &signed_by(&good, Algorithm::ES256, Some("good")))
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn a_set_that_cannot_be_fetched_leaves_the_one_at_hand() {
    let pair = Pair::ed25519();
    let good = [pair.jwk(Algorithm::EdDSA, "known")];
    let token = signed_by(&pair, Algorithm::EdDSA, Some("known"));
    let unknown = signed_by(&pair, Algorithm::EdDSA, Some("unknown"));
    let oversized = json!({"keys": good, "filler": "x".repeat(8000)}).to_string();
    for (status, body) in [
        (StatusCode::OK, oversized),
        (StatusCode::OK, "{\"keys\":".to_owned()),
        (StatusCode::OK, "[]".to_owned()),
        (StatusCode::OK, "{\"keys\":[]}".to_owned()),
        (
            StatusCode::INTERNAL_SERVER_ERROR,
            json!({"keys": good}).to_string(),
        ),
        (StatusCode::FOUND, String::new()),
    ] {
        let provider = Provider::start(&good).await;
        let tokens = provider
            .ready("jwks_size = \"4KiB\"\njwks_refetch = \"100ms\"")
            .await;
        *provider.answer.lock() = (status, body.clone());
        assert_eq!(
            verify(&tokens, &unknown).await,
            Err(TokenError::Unavailable),
            "{status} {body}"
        );
        assert!(verify(&tokens, &token).await.is_ok(), "{status} {body}");
        let page = provider.metrics.encode();
        let failed = "switchboard_gateway_jwks_fetches_total{outcome=\"failed\"} ";
        assert!(page.lines().any(|line| line.starts_with(failed)), "{page}");
    }
    // Never there.
    let provider = Provider::start(&[]).await;
    let tokens = provider.tokens("");
    assert_eq!(verify(&tokens, &token).await, Err(TokenError::Unavailable));
}

#[tokio::test]
async fn a_provider_that_does_not_answer_holds_nobody_for_long() {
    let pair = Pair::ed25519();
    let provider = Provider::start(&[pair.jwk(Algorithm::EdDSA, "known")]).await;
    provider.gate.forget_permits(Semaphore::MAX_PERMITS);
    let tokens = provider.tokens("jwks_timeout = \"100ms\"\njwks_refetch = \"100ms\"");
    let token = signed_by(&pair, Algorithm::EdDSA, Some("known"));
    assert_eq!(verify(&tokens, &token).await, Err(TokenError::Unavailable));
    // It comes back, and nobody has to be restarted.
    provider.gate.add_permits(1000);
    let recovered = async {
        while verify(&tokens, &token).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(DEADLINE, recovered).await.unwrap();
}

#[tokio::test]
async fn a_secret_beside_a_key_set_still_counts_and_asks_nobody() {
    let pair = Pair::ed25519();
    let provider = Provider::start(&[pair.jwk(Algorithm::EdDSA, "known")]).await;
    let tokens = provider.ready(&format!("hmac_secret = \"{SECRET}\"")).await;
    let header = Header {
        kid: Some("a name of its own".to_owned()),
        ..Header::default()
    };
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let named = jsonwebtoken::encode(&header, &json!({"sub": "alice"}), &key).unwrap();
    for token in [
        named,
        signed(&json!({"sub": "alice"})),
        signed_by(&pair, Algorithm::EdDSA, Some("known")),
    ] {
        assert!(verify(&tokens, &token).await.is_ok(), "{token}");
    }
    assert_eq!(provider.requests(), 1);
}
