//! What the ways to a device have in common: how long a message is worth delivering, where test servers may be, what may be said of an
//! answer, and how old a token is.

use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest::Url;
use tokio::time::Instant;

use crate::{Outgoing, SendError};

/// No push service keeps a message for longer: four weeks, FCM's bound.
const LONGEST: Duration = Duration::from_secs(28 * 24 * 3600);

/// Characters of a service's words that go into an error.
const SAID: usize = 200;

/// Seconds in which the message is worth delivering: a part of a second counts as one, four weeks at most and where nothing is said.
/// With 0 it is now or never.
pub(crate) fn time_to_live(message: &Outgoing) -> u64 {
    let lasts = message.expires_in.unwrap_or(LONGEST).min(LONGEST);
    lasts.as_secs() + u64::from(lasts.subsec_nanos() > 0)
}

/// Seconds since 1970, as the claims of tokens count; 0 while the clock is before that.
pub(crate) fn unix_now() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

/// The same 24 bytes for the same key, as 32 characters of base64url: as many as RFC 8030 allows a topic (section 5.4).
pub(crate) fn hashed(key: &str) -> String {
    let hash = digest(&SHA256, key.as_bytes());
    URL_SAFE_NO_PAD.encode(hash.as_ref().get(..24).unwrap_or_default())
}

/// A URL that requests may be sent to with a token: https, or http to this machine, where tests listen. No user, query or fragment.
pub(crate) fn base_url(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    let is_here = match url.host_str()? {
        "localhost" => true,
        host => host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback()),
    };
    let is_safe = url.scheme() == "https" || (url.scheme() == "http" && is_here);
    let is_plain = url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    (is_safe && is_plain).then_some(url)
}

/// `base` with more segments of a path, each encoded as needed.
pub(crate) fn below<const N: usize>(base: &Url, segments: [&str; N]) -> Url {
    let mut url = base.clone();
    // Only a URL that cannot be a base has no path, and `base_url` lets none through.
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(segments);
    }
    url
}

/// What a service said, as an error may have it: one line of at most 200 characters, in which `hidden` texts do not occur.
pub(crate) fn said(text: &str, hidden: &[&str]) -> String {
    let mut text = text.to_owned();
    for hidden in hidden.iter().filter(|hidden| !hidden.is_empty()) {
        text = text.replace(hidden, "…");
    }
    let line = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(SAID)
        .collect::<String>();
    line.trim().to_owned()
}

/// The error of a request for a token: while there is none, no message was sent.
pub(crate) fn before_sending(error: SendError) -> SendError {
    match error {
        SendError::Unknown { reason } => SendError::Retry { reason, after: None },
        error => error,
    }
}

/// A moment by both clocks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    at: Instant,
    /// Seconds since 1970.
    pub(crate) unix: u64,
}

impl Moment {
    pub(crate) fn now() -> Self {
        Self {
            at: Instant::now(),
            unix: unix_now(),
        }
    }

    /// How long ago it was, by the clock that says more: the one stands still while a machine sleeps, the other may be set back.
    pub(crate) fn age(&self) -> Duration {
        let by_wall = Duration::from_secs(unix_now().saturating_sub(self.unix));
        self.at.elapsed().max(by_wall)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_lives_four_weeks_at_most_and_no_less_than_asked() {
        let lasting = |expires_in| {
            time_to_live(&Outgoing {
                expires_in,
                ..Outgoing::default()
            })
        };
        assert_eq!(lasting(None), 2_419_200);
        assert_eq!(lasting(Some(Duration::from_secs(u64::MAX))), 2_419_200);
        assert_eq!(lasting(Some(Duration::ZERO)), 0);
        assert_eq!(lasting(Some(Duration::from_millis(1))), 1);
        assert_eq!(lasting(Some(Duration::from_millis(2500))), 3);
    }

    #[test]
    fn a_token_goes_to_https_or_to_this_machine() {
        for good in [
            "https://fcm.googleapis.com",
            "https://push.internal:8443/below/",
            "http://127.0.0.1:80",
            "http://[::1]:8080",
            "http://localhost:1234/x",
        ] {
            assert!(base_url(good).is_some(), "{good}");
        }
        for bad in [
            "http://fcm.googleapis.com",
            "http://127.0.0.1.example.org",
            "http://localhost.example.org",
            "http://192.168.0.1",
            "https://user@fcm.googleapis.com",
            "https://:secret@fcm.googleapis.com",
            "https://fcm.googleapis.com/?x=1",
            "https://fcm.googleapis.com/#x",
            "ftp://127.0.0.1",
            "mailto:ops@example.org",
            "fcm.googleapis.com",
            "",
        ] {
            assert!(base_url(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn segments_are_added_below_the_base_and_stay_segments() {
        let base = base_url("https://example.org/a/").unwrap();
        assert_eq!(
            below(&base, ["b:c", "d/../e"]).as_str(),
            "https://example.org/a/b:c/d%2F..%2Fe"
        );
        let base = base_url("https://example.org").unwrap();
        assert_eq!(below(&base, ["3"]).as_str(), "https://example.org/3");
    }

    #[test]
    fn what_is_said_is_short_and_hides_what_is_hidden() {
        assert_eq!(said("bad token abc\r\nabc ", &["abc", ""]), "bad token …  …");
        assert_eq!(said(&"ä".repeat(500), &[]).chars().count(), 200);
    }

    #[test]
    fn topics_are_32_characters_of_base64url_and_the_same_for_the_same_key() {
        let topic = hashed("room:1");
        assert_eq!(topic.len(), 32);
        assert!(
            topic
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
        );
        assert_eq!(topic, hashed("room:1"));
        assert_ne!(topic, hashed("room:2"));
    }

    #[tokio::test]
    async fn age_is_by_the_clock_that_says_more() {
        tokio::time::pause();
        let mut moment = Moment::now();
        tokio::time::advance(Duration::from_secs(1000)).await;
        assert!(moment.age() >= Duration::from_secs(1000));
        moment.unix -= 5000;
        assert!(moment.age() >= Duration::from_secs(5000));
        moment.unix += 1_000_000;
        assert!(moment.age() >= Duration::from_secs(1000));
    }
}
