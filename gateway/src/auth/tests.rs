//! Tokens of every kind against every kind of key, made here.

mod algorithms;
mod claims;
mod config;
mod jwks;

use std::time::Duration;

use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
    Ed25519KeyPair, KeyPair as _,
};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use switchboard_service_kit::config::Document;

use super::*;

const SECRET: &str = "a secret of tests that is long enough to be none";

/// 2026-01-01, so that no clock of a machine matters.
const NOW: u64 = 1_767_225_600;

fn now() -> UnixTime {
    UnixTime(NOW * 1000)
}

fn config(keys: &str) -> Result<TokensConfig, String> {
    let mut document = Document::parse(keys, []).unwrap();
    let config = TokensConfig::read(&mut document, Duration::from_secs(4));
    document
        .finish()
        .map(|_| config)
        .map_err(|faults| faults.to_string())
}

/// With the keys `keys` of `[gateway.tokens]`.
fn tokens(keys: &str) -> Tokens {
    let config = config(&format!("[gateway.tokens]\n{keys}")).unwrap();
    let metrics = Metrics::new();
    Tokens::start(&config, 255, &metrics, &Tasks::new(&metrics)).unwrap()
}

fn with_secret() -> Tokens {
    tokens(&format!("hmac_secret = \"{SECRET}\""))
}

fn signed(claims: &Value) -> String {
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    jsonwebtoken::encode(&Header::default(), claims, &key).unwrap()
}

/// A token whose header is `header`, signed by nobody.
fn unsigned(header: &str, claims: &str, signature: &str) -> String {
    let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
    format!("{}.{}.{signature}", part(header), part(claims))
}

/// A key pair: the private half to sign with, the public half as PEM.
struct Pair {
    private: EncodingKey,
    public: String,
}

fn pem(label: &str, der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    let lines: Vec<&str> = body
        .as_bytes()
        .chunks(64)
        .map(|line| std::str::from_utf8(line).unwrap())
        .collect();
    format!(
        "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
        lines.join("\n")
    )
}

impl Pair {
    fn rsa() -> Self {
        let pair = aws_lc_rs::rsa::KeyPair::generate(KeySize::Rsa2048).unwrap();
        let private: Pkcs8V1Der<'_> = pair.as_der().unwrap();
        let public: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
        Self {
            private: EncodingKey::from_rsa_pem(pem("PRIVATE KEY", private.as_ref()).as_bytes()).unwrap(),
            public: pem("PUBLIC KEY", public.as_ref()),
        }
    }

    fn ecdsa(algorithm: &'static EcdsaSigningAlgorithm) -> Self {
        let pair = EcdsaKeyPair::generate(algorithm).unwrap();
        let public: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
        Self {
            private: EncodingKey::from_ec_der(pair.to_pkcs8v1().unwrap().as_ref()),
            public: pem("PUBLIC KEY", public.as_ref()),
        }
    }

    fn p256() -> Self {
        Self::ecdsa(&ECDSA_P256_SHA256_FIXED_SIGNING)
    }

    fn p384() -> Self {
        Self::ecdsa(&ECDSA_P384_SHA384_FIXED_SIGNING)
    }

    fn ed25519() -> Self {
        let pair = Ed25519KeyPair::generate().unwrap();
        let public: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
        let private = pair.to_pkcs8v1().unwrap();
        Self {
            private: EncodingKey::from_ed_der(private.as_ref()),
            public: pem("PUBLIC KEY", public.as_ref()),
        }
    }

    fn sign(&self, header: &Header, claims: &Value) -> String {
        jsonwebtoken::encode(header, claims, &self.private).unwrap()
    }

    /// The public half as a JWK.
    fn jwk(&self, algorithm: Algorithm, kid: &str) -> Value {
        let jwk = jsonwebtoken::jwk::Jwk::from_encoding_key(&self.private, algorithm).unwrap();
        let mut jwk = serde_json::to_value(jwk).unwrap();
        jwk["kid"] = json!(kid);
        jwk
    }
}

fn bearer<'a>(user: &'a str, channel: Option<&'a str>) -> Bearer<'a> {
    Bearer {
        user,
        client: "connection",
        channel,
    }
}
