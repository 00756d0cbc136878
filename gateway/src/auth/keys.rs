//! Keys, each with the algorithms that it may be used with, and what one key says to a token.

use std::collections::HashSet;

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Header, Validation};

use super::TokenError;
use super::claims::Claims;

/// What a token of these keys has to say of where it comes from and whom it is for.
#[derive(Debug, Clone, Default)]
pub(super) struct Checks {
    pub(super) issuer: Option<String>,
    pub(super) audience: Option<String>,
}

/// Why one key does not accept a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rejected {
    /// It did not sign it.
    Signature,
    /// It did, but the token will not do.
    Because(&'static str),
}

impl From<Rejected> for TokenError {
    fn from(rejected: Rejected) -> Self {
        match rejected {
            Rejected::Signature => Self::Invalid("no key of the configuration has signed it"),
            Rejected::Because(why) => Self::Invalid(why),
        }
    }
}

/// A public key or a secret, with the algorithms that are its kind's. The token has no say in that.
#[derive(Debug, Clone)]
pub(super) struct Key {
    key: DecodingKey,
    algorithms: Vec<Algorithm>,
}

/// Why a JWK or PEM is not taken as a key. In words that continue "the key".
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UnusableKey {
    /// Whoever can read it could sign tokens.
    #[error("is a secret; only public keys are taken from there")]
    Secret,
    /// Its owner means something else by it.
    #[error("is not for verifying signatures")]
    Purpose,
    /// Its kind and the algorithm it names do not go together, or nobody here knows the algorithm.
    #[error("names an algorithm that is unknown or not of its kind")]
    Algorithm,
    /// Of no kind that is known here, or not well-formed.
    #[error(
        "is not a public RSA, ECDSA (P-256, P-384) or Ed25519 key (PEM: \"PUBLIC KEY\" or \"RSA PUBLIC KEY\")"
    )]
    Kind,
}

const HMAC: [Algorithm; 3] = [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512];
const RSA: [Algorithm; 6] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
];

/// Bytes of an uncompressed point.
const P256_POINT: usize = 65;
const P384_POINT: usize = 97;

impl Key {
    pub(super) fn secret(secret: &[u8]) -> Self {
        Self {
            key: DecodingKey::from_secret(secret),
            algorithms: HMAC.to_vec(),
        }
    }

    /// The public key in a PEM text.
    pub(super) fn pem(pem: &[u8]) -> Result<Self, UnusableKey> {
        if contains(pem, b"PRIVATE KEY") {
            return Err(UnusableKey::Secret);
        }
        if contains(pem, b"CERTIFICATE") {
            return Err(UnusableKey::Kind);
        }
        let (key, algorithms) = if let Ok(key) = DecodingKey::from_ed_pem(pem) {
            (key, vec![Algorithm::EdDSA])
        } else if let Ok(key) = DecodingKey::from_ec_pem(pem) {
            let algorithm = match key.try_get_as_bytes().map(<[u8]>::len) {
                Ok(P256_POINT) => Algorithm::ES256,
                Ok(P384_POINT) => Algorithm::ES384,
                _ => return Err(UnusableKey::Kind),
            };
            (key, vec![algorithm])
        } else {
            let key = DecodingKey::from_rsa_pem(pem).map_err(|_| UnusableKey::Kind)?;
            (key, RSA.to_vec())
        };
        Ok(Self { key, algorithms })
    }

    /// A public key of a key set.
    pub(super) fn jwk(jwk: &Jwk) -> Result<Self, UnusableKey> {
        let fitting = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => RSA.to_vec(),
            AlgorithmParameters::EllipticCurve(key) => match key.curve {
                EllipticCurve::P256 => vec![Algorithm::ES256],
                EllipticCurve::P384 => vec![Algorithm::ES384],
                _ => return Err(UnusableKey::Kind),
            },
            AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
                vec![Algorithm::EdDSA]
            }
            AlgorithmParameters::OctetKey(_) => return Err(UnusableKey::Secret),
            _ => return Err(UnusableKey::Kind),
        };
        let is_for_signatures = match (&jwk.common.public_key_use, &jwk.common.key_operations) {
            (Some(purpose), _) => *purpose == PublicKeyUse::Signature,
            (None, Some(operations)) => operations.contains(&KeyOperations::Verify),
            (None, None) => true,
        };
        if !is_for_signatures {
            return Err(UnusableKey::Purpose);
        }
        let algorithms = match jwk.common.key_algorithm {
            None => fitting,
            Some(named) => {
                let named = Algorithm::try_from(named).map_err(|_| UnusableKey::Algorithm)?;
                if !fitting.contains(&named) {
                    return Err(UnusableKey::Algorithm);
                }
                vec![named]
            }
        };
        let key = DecodingKey::from_jwk(jwk).map_err(|_| UnusableKey::Kind)?;
        Ok(Self { key, algorithms })
    }

    pub(super) fn with(self, checks: &Checks) -> VerifyingKey {
        let mut validation = Validation {
            algorithms: self.algorithms,
            // Times are checked by whoever asks, because a token of a wrong issuer is to be refused
            // for that even if it has expired.
            validate_exp: false,
            required_spec_claims: HashSet::new(),
            validate_aud: checks.audience.is_some(),
            ..Validation::default()
        };
        if let Some(issuer) = &checks.issuer {
            validation.set_issuer(&[issuer]);
            validation.required_spec_claims.insert("iss".to_owned());
        }
        if let Some(audience) = &checks.audience {
            validation.set_audience(&[audience]);
            validation.required_spec_claims.insert("aud".to_owned());
        }
        VerifyingKey {
            key: self.key,
            validation,
        }
    }
}

/// A key that knows what to check.
#[derive(Debug, Clone)]
pub(super) struct VerifyingKey {
    key: DecodingKey,
    validation: Validation,
}

impl VerifyingKey {
    /// The token's claims, its signature, issuer and audience verified, its times not.
    pub(super) fn verify(&self, token: &str) -> Result<Claims, Rejected> {
        match jsonwebtoken::decode::<Claims>(token, &self.key, &self.validation) {
            Ok(token) => Ok(token.claims),
            Err(error) => Err(match error.kind() {
                ErrorKind::InvalidSignature
                | ErrorKind::InvalidAlgorithm
                | ErrorKind::InvalidKeyFormat
                | ErrorKind::InvalidEcdsaKey
                | ErrorKind::InvalidEddsaKey
                | ErrorKind::InvalidRsaKey(_) => Rejected::Signature,
                ErrorKind::InvalidIssuer => Rejected::Because("it is not of the configured issuer"),
                ErrorKind::InvalidAudience => Rejected::Because("it is not for the configured audience"),
                ErrorKind::MissingRequiredClaim(_) => {
                    Rejected::Because("it lacks iss or aud, which the configuration asks for")
                }
                _ => Rejected::Because("a claim is not of the type it must have"),
            }),
        }
    }
}

/// The token's header, unverified: good for its form and for choosing a key by name.
pub(super) fn header(token: &str) -> Result<Header, TokenError> {
    let header = jsonwebtoken::decode_header(token).map_err(|_| {
        TokenError::Invalid("not a JWT, or of an algorithm that is not accepted (`none`, ES512)")
    })?;
    // What a header calls critical has to be understood, and nothing is.
    if header.crit.is_some() {
        return Err(TokenError::Invalid("its header has `crit`"));
    }
    Ok(header)
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}
