//! The application's key pair, which browsers subscribe with and push services check (RFC 8292).

use aws_lc_rs::agreement::{ECDH_P256, PrivateKey};
use aws_lc_rs::encoding::AsBigEndian as _;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;

/// Why a key pair cannot be used. Texts hold no secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VapidError {
    /// Not 32 bytes in base64url, or not between 0 and the curve's order.
    #[error("the private key is not 32 bytes of a P-256 key in base64url without padding")]
    Private,
    /// Not what follows from the private key.
    #[error("the public key does not belong to the private key")]
    Public,
    /// The cryptographic library failed.
    #[error("no key pair could be made")]
    Made,
}

/// A key pair on P-256: the public half as browsers take it for `applicationServerKey`, the private one to keep.
pub struct VapidKeys {
    public: String,
    private: SecretString,
    signing: EncodingKey,
}

impl std::fmt::Debug for VapidKeys {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("VapidKeys")
            .field("public", &self.public)
            .finish_non_exhaustive()
    }
}

impl VapidKeys {
    /// Makes a new pair.
    ///
    /// # Errors
    /// [`VapidError::Made`].
    pub fn generate() -> Result<Self, VapidError> {
        let key = PrivateKey::generate(&ECDH_P256).map_err(|_| VapidError::Made)?;
        let bytes: aws_lc_rs::encoding::EcPrivateKeyBin<'_> =
            key.as_be_bytes().map_err(|_| VapidError::Made)?;
        Self::read(&SecretString::from(URL_SAFE_NO_PAD.encode(bytes.as_ref())), None)
    }

    /// Reads what [`Self::private`] and [`Self::public`] gave: 32 and 65 bytes in base64url without padding. The public half follows
    /// from the private one; where it is given it must be the same.
    ///
    /// # Errors
    /// [`VapidError`] says which half is wrong.
    pub fn read(private: &SecretString, public: Option<&str>) -> Result<Self, VapidError> {
        let mut bytes = URL_SAFE_NO_PAD
            .decode(private.expose_secret())
            .map_err(|_| VapidError::Private)?;
        let key = PrivateKey::from_private_key(&ECDH_P256, &bytes).map_err(|_| VapidError::Private);
        let point = key.and_then(|key| key.compute_public_key().map_err(|_| VapidError::Private))?;
        let pair = EcdsaKeyPair::from_private_key_and_public_key(
            &ECDSA_P256_SHA256_FIXED_SIGNING,
            &bytes,
            point.as_ref(),
        );
        bytes.fill(0);
        let pkcs8 = pair
            .ok()
            .and_then(|pair| pair.to_pkcs8v1().ok())
            .ok_or(VapidError::Private)?;
        let derived = URL_SAFE_NO_PAD.encode(point.as_ref());
        if public.is_some_and(|public| public != derived) {
            return Err(VapidError::Public);
        }
        Ok(Self {
            public: derived,
            private: private.clone(),
            signing: EncodingKey::from_ec_der(pkcs8.as_ref()),
        })
    }

    /// What browsers subscribe with: 65 bytes of an uncompressed point, in base64url without padding.
    #[must_use]
    pub fn public(&self) -> &str {
        &self.public
    }

    /// What to keep: 32 bytes, in base64url without padding.
    #[must_use]
    pub fn private(&self) -> &SecretString {
        &self.private
    }

    /// The value of `Authorization` for the push service at `origin`, good until `exp` (Unix seconds).
    pub(super) fn sign(&self, origin: &str, exp: u64, contact: &str) -> Option<SecretString> {
        #[derive(Serialize)]
        struct Claims<'a> {
            aud: &'a str,
            exp: u64,
            sub: &'a str,
        }
        let claims = Claims {
            aud: origin,
            exp,
            sub: contact,
        };
        let token = jsonwebtoken::encode(&Header::new(Algorithm::ES256), &claims, &self.signing).ok()?;
        Some(SecretString::from(format!("vapid t={token}, k={}", self.public)))
    }
}

#[cfg(test)]
mod tests;
