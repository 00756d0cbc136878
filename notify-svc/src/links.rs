//! Links in e-mails that switch a category off: who has the link may use it, without signing in (RFC 8058). A tag signs user and
//! category, so nobody can make one for another user.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::{ExposeSecret as _, SecretString};

use crate::model::Way;

/// Bytes of a tag: 128 bits are as many as anybody guesses in vain.
const TAG: usize = 16;

/// Makes and checks links. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Links {
    base: String,
    key: hmac::Key,
}

/// What a link switches off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unsubscribe {
    pub(crate) user: String,
    pub(crate) category: String,
    pub(crate) way: Way,
}

impl Links {
    pub(crate) fn new(base: &str, secret: &SecretString) -> Self {
        Self {
            base: base.trim_end_matches('/').to_owned(),
            key: hmac::Key::new(hmac::HMAC_SHA256, secret.expose_secret().as_bytes()),
        }
    }

    /// Where the outside reaches us.
    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    /// The link.
    pub(crate) fn unsubscribe(&self, what: &Unsubscribe) -> String {
        let text = encode(what);
        let tag = hmac::sign(&self.key, text.as_bytes());
        let tag = tag.as_ref().get(..TAG).unwrap_or_default();
        format!(
            "{}/unsubscribe/{}.{}",
            self.base,
            URL_SAFE_NO_PAD.encode(text),
            URL_SAFE_NO_PAD.encode(tag)
        )
    }

    /// What the last part of a link's path says; `None`: we did not make it.
    pub(crate) fn read(&self, part: &str) -> Option<Unsubscribe> {
        if part.len() > 2_048 {
            return None;
        }
        let (text, tag) = part.split_once('.')?;
        let (text, tag) = (
            URL_SAFE_NO_PAD.decode(text).ok()?,
            URL_SAFE_NO_PAD.decode(tag).ok()?,
        );
        let signed = hmac::sign(&self.key, &text);
        let expected = signed.as_ref().get(..TAG)?;
        aws_lc_rs::constant_time::verify_slices_are_equal(expected, &tag).ok()?;
        decode(&String::from_utf8(text).ok()?)
    }
}

/// Lengths stand before what is free text, so that no two say the same.
fn encode(what: &Unsubscribe) -> String {
    format!(
        "1:{}:{}:{}{}",
        what.way,
        what.user.len(),
        what.user,
        what.category
    )
}

fn decode(text: &str) -> Option<Unsubscribe> {
    let (way, rest) = text.strip_prefix("1:")?.split_once(':')?;
    let (length, rest) = rest.split_once(':')?;
    let (user, category) = rest.split_at_checked(length.parse().ok()?)?;
    Some(Unsubscribe {
        user: user.to_owned(),
        category: category.to_owned(),
        way: Way::from_word(way)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn links(secret: &str) -> Links {
        Links::new(
            "https://notify.example.org/",
            &SecretString::from(secret.to_owned()),
        )
    }

    fn part(link: &str) -> &str {
        link.strip_prefix("https://notify.example.org/unsubscribe/")
            .unwrap()
    }

    #[test]
    fn a_link_says_whom_and_what_and_no_other_does() {
        let what = Unsubscribe {
            user: "al:ice.ä".to_owned(),
            category: "news".to_owned(),
            way: Way::Email,
        };
        let (ours, theirs) = (links("one secret"), links("another secret"));
        let link = ours.unsubscribe(&what);
        assert_eq!(ours.read(part(&link)), Some(what));
        assert_eq!(theirs.read(part(&link)), None);
        for at in 0..part(&link).len() {
            let mut changed = part(&link).to_owned().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            // The last character of base64 may hold bits that nobody reads.
            if let Some(read) = ours.read(&changed) {
                assert_eq!(read.user, "al:ice.ä", "{changed}");
            }
        }
        for hostile in ["", ".", "a.b", "MTpl", &"A".repeat(5_000)] {
            assert_eq!(ours.read(hostile), None);
        }
    }
}
