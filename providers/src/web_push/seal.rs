//! Encryption for one browser: the scheme of RFC 8291 in one record of RFC 8188's `aes128gcm`.

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::agreement::{self, ECDH_P256, ParsedPublicKey, PrivateKey, UnparsedPublicKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};
use base64::Engine as _;
// Browsers write it without padding; some libraries that hand it on add it.
use base64::engine::general_purpose::URL_SAFE_NO_PAD_INDIFFERENT as LENIENT;

use crate::SendError;

/// Bytes of plain text that fit: push services take 4096 bytes (RFC 8030, section 7.2), of which the header has 86, the end of the
/// plain text one and the tag 16 (RFC 8291, section 4).
pub const LARGEST: usize = 3993;

/// The size of a record; ours is the only one, and smaller.
const RECORD: u32 = 4096;

/// Plain text is filled up to a multiple of so many bytes: its length says less about what was written.
const PADDED: usize = 256;

/// Bytes of an uncompressed point on P-256.
const POINT: usize = 65;

/// The keys of one browser's subscription.
pub(super) struct Subscription {
    key: ParsedPublicKey,
    auth: Vec<u8>,
}

impl Subscription {
    /// Reads what the browser gave out: 65 and 16 bytes in base64url.
    pub(super) fn read(p256dh: &str, auth: &str) -> Result<Self, SendError> {
        let refused = |reason: &str| SendError::Refused {
            reason: reason.to_owned(),
        };
        let point = LENIENT
            .decode(p256dh)
            .ok()
            .filter(|point| point.len() == POINT && point.first() == Some(&4))
            .ok_or_else(|| refused("p256dh is not 65 bytes of an uncompressed point in base64url"))?;
        let key = ParsedPublicKey::try_from(UnparsedPublicKey::new(&ECDH_P256, point))
            .map_err(|_| refused("p256dh is not on the curve P-256"))?;
        let auth = LENIENT
            .decode(auth)
            .ok()
            .filter(|auth| auth.len() == 16)
            .ok_or_else(|| refused("auth is not 16 bytes in base64url"))?;
        Ok(Self { key, auth })
    }
}

/// What is used for one message alone.
pub(super) struct Sealing {
    key: PrivateKey,
    salt: [u8; 16],
}

/// A length for HKDF.
#[derive(Clone, Copy)]
struct Bytes(usize);

impl KeyType for Bytes {
    fn len(&self) -> usize {
        self.0
    }
}

impl Sealing {
    /// A new key and a new salt.
    pub(super) fn new() -> Result<Self, SendError> {
        let mut salt = [0; 16];
        aws_lc_rs::rand::fill(&mut salt).map_err(|_| failed())?;
        Ok(Self {
            key: PrivateKey::generate(&ECDH_P256).map_err(|_| failed())?,
            salt,
        })
    }

    #[cfg(test)]
    pub(super) fn with(key: PrivateKey, salt: [u8; 16]) -> Self {
        Self { key, salt }
    }

    /// The body of the request, in which the plain text has padding of zeros.
    pub(super) fn seal(self, to: &Subscription, plain: &[u8]) -> Result<Vec<u8>, SendError> {
        if plain.len() > LARGEST {
            return Err(SendError::Refused {
                reason: format!(
                    "{} bytes are more than the {LARGEST} that push services take",
                    plain.len()
                ),
            });
        }
        let padding = plain.len().next_multiple_of(PADDED).min(LARGEST) - plain.len();
        self.seal_with(to, plain, padding)
    }

    pub(super) fn seal_with(
        self,
        to: &Subscription,
        plain: &[u8],
        padding: usize,
    ) -> Result<Vec<u8>, SendError> {
        let ours = self.key.compute_public_key().map_err(|_| failed())?;
        let keying = agreement::agree(&self.key, to.key.clone(), failed(), |secret| {
            // RFC 8291, section 3.4.
            let prk = Salt::new(HKDF_SHA256, &to.auth).extract(secret);
            expanded::<32>(&prk, &[b"WebPush: info\0", to.key.as_ref(), ours.as_ref()])
        })?;
        // RFC 8188, sections 2.2 and 2.3.
        let prk = Salt::new(HKDF_SHA256, &self.salt).extract(&keying);
        let key: [u8; 16] = expanded(&prk, &[b"Content-Encoding: aes128gcm\0"])?;
        let nonce: [u8; 12] = expanded(&prk, &[b"Content-Encoding: nonce\0"])?;
        let key = UnboundKey::new(&AES_128_GCM, &key).map_err(|_| failed())?;

        let mut record = Vec::with_capacity(plain.len() + 1 + padding + AES_128_GCM.tag_len());
        record.extend_from_slice(plain);
        // The last record, and so the only one.
        record.push(2);
        record.resize(record.len() + padding, 0);
        LessSafeKey::new(key)
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut record)
            .map_err(|_| failed())?;

        let ours = ours.as_ref();
        let mut body = Vec::with_capacity(16 + 4 + 1 + ours.len() + record.len());
        body.extend_from_slice(&self.salt);
        body.extend_from_slice(&RECORD.to_be_bytes());
        body.push(u8::try_from(ours.len()).map_err(|_| failed())?);
        body.extend_from_slice(ours);
        body.append(&mut record);
        Ok(body)
    }
}

fn expanded<const N: usize>(prk: &Prk, info: &[&[u8]]) -> Result<[u8; N], SendError> {
    let mut out = [0; N];
    prk.expand(info, Bytes(N))
        .and_then(|okm| okm.fill(&mut out))
        .map_err(|_| failed())?;
    Ok(out)
}

fn failed() -> SendError {
    SendError::Refused {
        reason: "it could not be encrypted".to_owned(),
    }
}

#[cfg(test)]
mod tests;
