//! The sections `[gateway.tokens]` and `[gateway.tokens.subscription]`.

use std::time::Duration;

use reqwest::Url;
use secrecy::{ExposeSecret as _, SecretString};
use switchboard_service_kit::config::{Document, Section};

use super::jwks::JwksSettings;
use super::keys::{Checks, Key, VerifyingKey};

const KIB: u64 = 1024;

/// Signs and verifies on a machine of one's own, where no configuration names a secret. Known to
/// everybody, so it proves nothing.
const FOR_THIS_MACHINE: &str = "for-this-machine-only-not-a-secret";

/// Public keys of one kind of token, at most: each may be tried on each token.
const PUBLIC_KEYS: usize = 16;

/// Bytes below which a secret can be found by trying.
const SHORT_SECRET: usize = 32;

/// Who may connect without saying who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Anonymous {
    /// A token is needed, and it names a user.
    Nobody,
    /// A token is needed; one that names nobody makes an anonymous user.
    WithToken,
    /// Also without a token.
    Everybody,
}

/// How tokens are verified.
#[derive(Debug, Clone)]
pub struct TokensConfig {
    pub(super) connection: KeysConfig,
    /// `None`: as connection tokens.
    pub(super) subscription: Option<KeysConfig>,
    pub(super) anonymous: Anonymous,
    pub(super) leeway: Duration,
    pub(super) info_size: usize,
    pub(super) jwks: JwksSettings,
    /// From the expiry of a connection or subscription to its end.
    pub(crate) grace: Duration,
}

/// The keys of one kind of token.
#[derive(Debug, Clone)]
pub(super) struct KeysConfig {
    pub(super) secret: Option<SecretString>,
    previous: Option<SecretString>,
    public_keys: Vec<Key>,
    pub(super) jwks_url: Option<Url>,
    pub(super) issuer: Option<String>,
    pub(super) audience: Option<String>,
}

impl TokensConfig {
    /// Reads the sections. `answer_timeout` is what any command may take.
    pub(crate) fn read(document: &mut Document, answer_timeout: Duration) -> Self {
        let seconds = Duration::from_secs;
        let mut tokens = document.section("gateway.tokens");
        let connection = KeysConfig::read(&mut tokens);
        let anonymous = tokens.choice(
            "anonymous",
            &[
                ("nobody", Anonymous::Nobody),
                ("with-token", Anonymous::WithToken),
                ("everybody", Anonymous::Everybody),
            ],
            "with-token",
            "Who may be anonymous: nobody, who has a token that names no user, or everybody, also without a token.",
        );
        let leeway = tokens.duration(
            "leeway",
            seconds(5),
            Duration::ZERO..=seconds(300),
            "How far the clocks of whoever signs tokens and of a gateway may be apart.",
        );
        let grace = tokens.duration(
            "expiry_grace",
            seconds(25),
            Duration::ZERO..=seconds(600),
            "How long after its expiry a connection waits for a fresh token before it is closed with 3005, a \
             subscription before it ends with 2501.",
        );
        let info_size = tokens.bytes(
            "info_size",
            4 * KIB,
            0..=16 * KIB,
            "Bytes of a token's `info`, and of its `data`, at most; one with more is refused. `info` goes with every \
             message.",
        );
        let timeout = tokens.duration(
            "jwks_timeout",
            seconds(2),
            Duration::from_millis(50)..=seconds(4),
            "What one request for a key set may take; shorter than gateway.answer_timeout.",
        );
        if connection.jwks_url.is_some() && timeout >= answer_timeout {
            tokens.fault(
                "jwks_timeout",
                format!("not shorter than gateway.answer_timeout, {answer_timeout:?}"),
                "shorten it, or lengthen gateway.answer_timeout",
            );
        }
        let size = tokens.bytes(
            "jwks_size",
            256 * KIB,
            KIB..=4096 * KIB,
            "Bytes of a key set, at most; a larger one is not taken.",
        );
        let refresh = tokens.duration(
            "jwks_refresh",
            seconds(3600),
            seconds(1)..=seconds(7 * 24 * 3600),
            "Between two regular requests for a key set.",
        );
        let refetch = tokens.duration(
            "jwks_refetch",
            seconds(30),
            Duration::from_millis(100)..=seconds(3600),
            "Between two requests because a token names an unknown key, or the last request failed, at least; who \
             comes with such a token meanwhile is told to try again.",
        );
        let keep = tokens.duration(
            "jwks_keep",
            seconds(24 * 3600),
            seconds(1)..=seconds(30 * 24 * 3600),
            "How long a key set stays in use that cannot be fetched anew; longer than jwks_refresh.",
        );
        if keep <= refresh {
            tokens.fault(
                "jwks_keep",
                format!("{keep:?} is not longer than gateway.tokens.jwks_refresh, {refresh:?}"),
                "lengthen jwks_keep, or shorten jwks_refresh",
            );
        }
        let mut subscription = document.section("gateway.tokens.subscription");
        let keys = KeysConfig::read(&mut subscription);
        let has_checks = keys.issuer.is_some() || keys.audience.is_some();
        if !keys.is_any() && has_checks {
            subscription.fault(
                "issuer",
                "issuer or audience for subscription tokens, but no key of their own",
                "add a key to [gateway.tokens.subscription], or remove issuer and audience from it",
            );
        }
        Self {
            connection,
            subscription: keys.is_any().then_some(keys),
            anonymous,
            leeway,
            info_size: usize::try_from(info_size).unwrap_or(usize::MAX),
            jwks: JwksSettings {
                timeout,
                size: usize::try_from(size).unwrap_or(usize::MAX),
                refresh,
                refetch,
                keep,
            },
            grace,
        }
    }

    /// Takes a secret that everybody knows where no key is configured, so that tokens can be tried
    /// out. Only for a gateway that lets everybody in anyway.
    pub fn for_this_machine(&mut self) {
        if !self.connection.is_any() {
            self.connection.secret = Some(FOR_THIS_MACHINE.into());
        }
    }

    /// The secret that signs the tokens of connections or, if `subscription`, of subscriptions.
    pub(super) fn signing_secret(&self, subscription: bool) -> (&'static str, Option<&SecretString>) {
        match &self.subscription {
            Some(keys) if subscription => ("gateway.tokens.subscription", keys.secret.as_ref()),
            _ => ("gateway.tokens", self.connection.secret.as_ref()),
        }
    }

    /// Whether nobody can have a valid token, and nobody may come without one.
    pub(crate) fn lets_nobody_in(&self) -> bool {
        !self.connection.is_any() && self.anonymous != Anonymous::Everybody
    }

    /// What an operator should know, though it is no fault.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let kinds = [
            ("gateway.tokens", Some(&self.connection)),
            ("gateway.tokens.subscription", self.subscription.as_ref()),
        ];
        let mut warnings = Vec::new();
        for (section, keys) in kinds {
            let Some(keys) = keys else { continue };
            for (key, secret) in [
                ("hmac_secret", &keys.secret),
                ("hmac_secret_previous", &keys.previous),
            ] {
                let is_short = |secret: &SecretString| {
                    let secret = secret.expose_secret();
                    secret.len() < SHORT_SECRET && secret != FOR_THIS_MACHINE
                };
                if secret.as_ref().is_some_and(is_short) {
                    warnings.push(format!(
                        "{section}.{key} has fewer than {SHORT_SECRET} bytes: whoever has a token can find it by trying"
                    ));
                }
            }
        }
        warnings
    }
}

impl KeysConfig {
    fn read(section: &mut Section<'_>) -> Self {
        let secret = section.secret(
            "hmac_secret",
            "Secret of tokens signed with HS256, HS384 or HS512; 32 random bytes or more.",
        );
        let previous = section.secret(
            "hmac_secret_previous",
            "The secret before; tokens signed with it stay valid while the secret is changed.",
        );
        if secret.is_none() && previous.is_some() {
            section.fault(
                "hmac_secret_previous",
                "given without hmac_secret",
                "set hmac_secret, or remove it",
            );
        }
        let files = section.list(
            "public_keys",
            &[],
            "Files with one public key each (PEM): RSA for RS256 to PS512, ECDSA P-256 for ES256, P-384 for ES384, Ed25519 \
             for EdDSA.",
        );
        if files.len() > PUBLIC_KEYS {
            section.fault(
                "public_keys",
                format!("{} files, more than {PUBLIC_KEYS}", files.len()),
                "serve them as a key set, see jwks_url",
            );
        }
        let public_keys = files
            .iter()
            .filter_map(|file| {
                let fault = match std::fs::read(file) {
                    Ok(pem) => match Key::pem(&pem) {
                        Ok(key) => return Some(key),
                        Err(why) => (
                            format!("the key in {file} {why}"),
                            "name a file with a public key in PEM",
                        ),
                    },
                    Err(error) => (format!("cannot read {file}: {error}"), "name a readable file"),
                };
                section.fault("public_keys", fault.0, fault.1);
                None
            })
            .collect();
        let jwks_url = section.optional_text(
            "jwks_url",
            "Where an identity provider serves its public keys (JWKS). https, or http on a loopback address.",
        );
        let jwks_url = jwks_url.and_then(|text| match Url::parse(&text) {
            Ok(url) if is_trustworthy(&url) => Some(url),
            Ok(_) => {
                section.fault(
                    "jwks_url",
                    "whoever sits in between could put keys of their own there",
                    "write an https:// address; http is for loopback addresses only",
                );
                None
            }
            Err(error) => {
                section.fault(
                    "jwks_url",
                    format!("not a URL: {error}"),
                    "write an https:// address",
                );
                None
            }
        });
        let issuer = section.optional_text("issuer", "What `iss` of a token has to be; not set: anything.");
        let audience = section.optional_text(
            "audience",
            "What `aud` of a token has to be or to hold; not set: anything.",
        );
        Self {
            secret,
            previous,
            public_keys,
            jwks_url,
            issuer,
            audience,
        }
    }

    fn is_any(&self) -> bool {
        self.secret.is_some() || !self.public_keys.is_empty() || self.jwks_url.is_some()
    }

    /// All but those of the key set.
    pub(super) fn verifying_keys(&self, checks: &Checks) -> Vec<VerifyingKey> {
        let secrets = self.secret.iter().chain(&self.previous);
        secrets
            .map(|secret| Key::secret(secret.expose_secret().as_bytes()))
            .chain(self.public_keys.iter().cloned())
            .map(|key| key.with(checks))
            .collect()
    }
}

fn is_trustworthy(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .parse::<std::net::IpAddr>();
    match url.scheme() {
        "https" => !host.is_empty(),
        "http" => host == "localhost" || address.is_ok_and(|address| address.is_loopback()),
        _ => false,
    }
}
