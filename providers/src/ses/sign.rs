//! Signature Version 4, as [AWS describes it](https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html),
//! for requests without a query and with a path that needs no encoding.

use aws_lc_rs::digest::{self, SHA256};
use aws_lc_rs::hmac;
use secrecy::{ExposeSecret as _, SecretString};
use time::OffsetDateTime;

/// Who signs.
#[derive(Debug, Clone)]
pub struct Keys {
    /// `AKIA…`, or `ASIA…` of a temporary one.
    pub access_key: String,
    /// The secret that belongs to it.
    pub secret_key: SecretString,
    /// Of temporary keys alone.
    pub session_token: Option<SecretString>,
}

/// What is signed of a request besides its time.
pub(super) struct Signed<'a> {
    pub(super) method: &'a str,
    /// Letters, digits, `-`, `.`, `_`, `~` and `/`.
    pub(super) path: &'a str,
    /// Names in lower case and in order, values trimmed.
    pub(super) headers: &'a [(&'a str, &'a str)],
    pub(super) body: &'a [u8],
}

/// Where the signature is good.
pub(super) struct Scope<'a> {
    pub(super) region: &'a str,
    pub(super) service: &'a str,
}

/// The header `x-amz-date`: `20150830T123600Z`.
pub(super) fn date(now: OffsetDateTime) -> String {
    let (date, time) = (now.date(), now.time());
    format!(
        "{:04}{:02}{:02}T{:02}{:02}{:02}Z",
        date.year(),
        u8::from(date.month()),
        date.day(),
        time.hour(),
        time.minute(),
        time.second()
    )
}

/// The header `Authorization` of a request whose `x-amz-date` is `date`, which is among the headers.
pub(super) fn authorization(keys: &Keys, scope: &Scope<'_>, date: &str, request: &Signed<'_>) -> String {
    let day = date.split('T').next().unwrap_or_default();
    let scope_text = format!("{day}/{}/{}/aws4_request", scope.region, scope.service);
    let names: Vec<&str> = request.headers.iter().map(|(name, _)| *name).collect();
    let names = names.join(";");
    let mut canonical = format!("{}\n{}\n\n", request.method, request.path);
    for (name, value) in request.headers {
        canonical.push_str(&format!("{name}:{value}\n"));
    }
    canonical.push_str(&format!("\n{names}\n{}", hashed(request.body)));
    let to_sign = format!(
        "AWS4-HMAC-SHA256\n{date}\n{scope_text}\n{}",
        hashed(canonical.as_bytes())
    );

    let first = format!("AWS4{}", keys.secret_key.expose_secret());
    let mut key = mac(first.as_bytes(), day);
    for part in [scope.region, scope.service, "aws4_request"] {
        key = mac(key.as_ref(), part);
    }
    let signature = hex(mac(key.as_ref(), &to_sign).as_ref());
    format!(
        "AWS4-HMAC-SHA256 Credential={}/{scope_text}, SignedHeaders={names}, Signature={signature}",
        keys.access_key
    )
}

fn mac(key: &[u8], text: &str) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes())
}

fn hashed(bytes: &[u8]) -> String {
    hex(digest::digest(&SHA256, bytes).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What AWS published as its test suite for version 4 has in common.
    const DATE: &str = "20150830T123600Z";
    const HOST: (&str, &str) = ("host", "example.amazonaws.com");
    const SCOPE: Scope<'static> = Scope {
        region: "us-east-1",
        service: "service",
    };
    const BEGINS: &str =
        "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, SignedHeaders=";

    fn signed(method: &str, headers: &[(&str, &str)], body: &[u8]) -> String {
        let keys = Keys {
            access_key: "AKIDEXAMPLE".to_owned(),
            secret_key: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".into(),
            session_token: None,
        };
        assert!(!format!("{keys:?}").contains("wJalr"));
        let request = Signed {
            method,
            path: "/",
            headers,
            body,
        };
        let header = authorization(&keys, &SCOPE, DATE, &request);
        header.strip_prefix(BEGINS).unwrap().to_owned()
    }

    #[test]
    fn signatures_are_those_of_the_published_suite() {
        let date = ("x-amz-date", DATE);
        // get-vanilla
        assert_eq!(
            signed("GET", &[HOST, date], b""),
            "host;x-amz-date, Signature=5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"
        );
        // post-vanilla
        assert_eq!(
            signed("POST", &[HOST, date], b""),
            "host;x-amz-date, Signature=5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"
        );
        // post-header-key-sort
        assert_eq!(
            signed("POST", &[HOST, ("my-header1", "value1"), date], b""),
            "host;my-header1;x-amz-date, Signature=c5410059b04c1ee005303aed430f6e6645f61f4dc9e1461ec8f8916fdf18852c"
        );
        // post-x-www-form-urlencoded
        let form = ("content-type", "application/x-www-form-urlencoded");
        assert_eq!(
            signed("POST", &[form, HOST, date], b"Param1=value1"),
            "content-type;host;x-amz-date, Signature=ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a"
        );
    }

    #[test]
    fn dates_have_two_digits_each() {
        let at = OffsetDateTime::from_unix_timestamp(1_440_938_160).unwrap();
        assert_eq!(date(at), DATE);
        let early = OffsetDateTime::from_unix_timestamp(1_420_158_906).unwrap();
        assert_eq!(date(early), "20150102T003506Z");
    }
}
