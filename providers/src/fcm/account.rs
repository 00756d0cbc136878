//! The service account: what may send for a project, and how it asks for a token.

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use reqwest::Url;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};

use super::SettingsError;
use crate::push;

/// What the access token is for.
const SCOPE: &str = "https://www.googleapis.com/auth/firebase.messaging";

/// How long a signed request for a token is good: the longest that Google takes.
const ASSERTION: u64 = 3600;

/// The service account that may send for a project.
pub struct ServiceAccount {
    client_email: String,
    key: EncodingKey,
    key_id: Option<String>,
    token_uri: Url,
    project_id: String,
}

impl std::fmt::Debug for ServiceAccount {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("ServiceAccount")
            .field("client_email", &self.client_email)
            .field("project_id", &self.project_id)
            .finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct RawAccount {
    r#type: Option<String>,
    client_email: String,
    private_key: SecretString,
    private_key_id: Option<String>,
    token_uri: String,
    project_id: String,
}

impl ServiceAccount {
    /// Reads the file that the Firebase console gives out: JSON with `client_email`, `private_key` (PEM of an RSA key, PKCS#8),
    /// `token_uri` and `project_id`; `private_key_id` is used if there.
    ///
    /// # Errors
    /// [`SettingsError`] says what is wrong with it, without its texts.
    pub fn read(json: &SecretString) -> Result<Self, SettingsError> {
        let raw: RawAccount =
            serde_json::from_str(json.expose_secret()).map_err(|error| SettingsError::Json {
                line: error.line(),
                column: error.column(),
                what: match error.classify() {
                    serde_json::error::Category::Data => "a text is missing or not a text",
                    serde_json::error::Category::Eof => "it ends too early",
                    serde_json::error::Category::Io | serde_json::error::Category::Syntax => "not JSON",
                },
            })?;
        if raw.r#type.is_some_and(|kind| kind != "service_account") {
            return Err(SettingsError::Kind);
        }
        if !raw.client_email.contains('@') || raw.client_email.len() > 320 {
            return Err(SettingsError::Field { key: "client_email" });
        }
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | ':');
        let is_project = raw.project_id.starts_with(|c: char| c.is_ascii_alphanumeric())
            && raw.project_id.chars().all(is_name)
            && raw.project_id.len() <= 100;
        if !is_project {
            return Err(SettingsError::Field { key: "project_id" });
        }
        let token_uri = push::base_url(&raw.token_uri).ok_or(SettingsError::Url { name: "`token_uri`" })?;
        let key = EncodingKey::from_rsa_pem(raw.private_key.expose_secret().as_bytes())
            .map_err(|_| SettingsError::PrivateKey)?;
        let account = Self {
            client_email: raw.client_email,
            key,
            key_id: raw.private_key_id.filter(|id| !id.is_empty()),
            token_uri,
            project_id: raw.project_id,
        };
        // What looks like a key may be none.
        account.assertion(0).ok_or(SettingsError::PrivateKey)?;
        Ok(account)
    }

    /// The project whose apps are reached.
    #[must_use]
    pub fn project_id(&self) -> &str {
        &self.project_id
    }

    /// Where tokens are asked for.
    pub(super) fn token_uri(&self) -> &Url {
        &self.token_uri
    }

    /// A signed request for a token (RFC 7523, section 3), good from `now` on for an hour.
    pub(super) fn assertion(&self, now: u64) -> Option<SecretString> {
        #[derive(Serialize)]
        struct Claims<'a> {
            iss: &'a str,
            scope: &'a str,
            aud: &'a str,
            iat: u64,
            exp: u64,
        }
        let mut header = Header::new(Algorithm::RS256);
        header.kid.clone_from(&self.key_id);
        let claims = Claims {
            iss: &self.client_email,
            scope: SCOPE,
            aud: self.token_uri.as_str(),
            iat: now,
            exp: now + ASSERTION,
        };
        let text = jsonwebtoken::encode(&header, &claims, &self.key).ok()?;
        Some(SecretString::from(text))
    }
}
