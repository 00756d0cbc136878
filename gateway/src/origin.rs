//! Which web pages may open a connection.
//!
//! Browsers send cookies and reach private addresses on behalf of any page, so a page's origin is
//! checked at the upgrade. Other clients send none.

use std::net::IpAddr;

/// The origins that may connect.
#[derive(Debug, Clone)]
pub struct Origins {
    allowed: Vec<String>,
    insecure: bool,
}

impl Origins {
    /// `allowed` holds origins in which `*` stands for any characters. With `insecure` a client is
    /// not asked who it is.
    pub fn new(allowed: Vec<String>, insecure: bool) -> Self {
        let allowed = allowed.iter().map(|origin| origin.to_ascii_lowercase()).collect();
        Self { allowed, insecure }
    }

    /// Whether a page of `origin` may connect to the host that it calls `host`, both as in the
    /// headers of the request.
    ///
    /// Without a list, it may where it was loaded from that same host. That is not enough where no
    /// token is asked for: a name that was made to point at this machine passes as the same host. So
    /// there the page has to come from a host that always is this machine.
    pub fn allow(&self, origin: &str, host: Option<&str>) -> bool {
        let origin = origin.to_ascii_lowercase();
        if self.allowed.iter().any(|pattern| matches(pattern, &origin)) {
            return true;
        }
        let Some((_, authority)) = origin.split_once("://") else {
            return false;
        };
        if self.insecure {
            return is_loopback(authority);
        }
        self.allowed.is_empty() && host.is_some_and(|host| host.eq_ignore_ascii_case(authority))
    }
}

fn is_loopback(authority: &str) -> bool {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    };
    let address = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    host == "localhost"
        || address
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// `*` in the pattern stands for any characters, also none.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let Some(mut text) = text.strip_prefix(first) else {
        return false;
    };
    let (middle, last) = rest.rsplit_once('*').unwrap_or(("", rest));
    // The first place is as good as any: whatever it leaves is the most there can be.
    for part in middle.split('*') {
        match text.split_once(part) {
            Some((_, after)) => text = after,
            None => return false,
        }
    }
    text.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origins(allowed: &[&str], insecure: bool) -> Origins {
        Origins::new(
            allowed.iter().map(|origin| (*origin).to_owned()).collect(),
            insecure,
        )
    }

    #[test]
    fn without_a_list_pages_of_the_same_host() {
        let origins = origins(&[], false);
        assert!(origins.allow("https://Chat.example.com", Some("chat.example.com")));
        assert!(origins.allow("http://127.0.0.1:8000", Some("127.0.0.1:8000")));
        assert!(!origins.allow("https://evil.example", Some("chat.example.com")));
        assert!(!origins.allow("https://chat.example.com:444", Some("chat.example.com")));
        assert!(!origins.allow("https://chat.example.com", None));
        assert!(!origins.allow("null", Some("null")));
    }

    #[test]
    fn without_tokens_only_pages_of_this_machine() {
        let origins = origins(&[], true);
        for origin in [
            "http://localhost:3000",
            "http://127.0.0.1",
            "http://127.8.9.10:80",
            "http://[::1]:8000",
            "http://[::1]",
        ] {
            assert!(origins.allow(origin, Some("anything")), "{origin}");
        }
        // A name that was made to point here (DNS rebinding) sends itself as the host.
        assert!(!origins.allow("http://evil.example:8000", Some("evil.example:8000")));
        for origin in [
            "http://localhost.evil.example",
            "http://127.0.0.1.evil.example",
            "http://evil.example",
            "null",
            "",
            "http://",
        ] {
            assert!(!origins.allow(origin, Some("127.0.0.1:8000")), "{origin}");
        }
    }

    #[test]
    fn a_list_replaces_the_same_host_and_adds_to_this_machine() {
        let listed = origins(&["https://app.example.com"], false);
        assert!(listed.allow("https://app.example.com", Some("rt.example.com")));
        assert!(!listed.allow("https://rt.example.com", Some("rt.example.com")));
        let listed = origins(&["https://app.example.com"], true);
        assert!(listed.allow("https://app.example.com", None));
        assert!(listed.allow("http://localhost:1", None));
    }

    #[test]
    fn a_star_is_any_characters() {
        for (pattern, text, matched) in [
            ("*", "", true),
            ("*", "null", true),
            ("https://*.example.com", "https://a.b.example.com", true),
            ("https://*.example.com", "https://example.com", false),
            ("https://*.example.com", "https://a.example.com.evil", false),
            ("http://localhost:*", "http://localhost:1", true),
            ("a*b*c", "aXbXbXc", true),
            ("a*b*c", "aXc", false),
            ("a*a", "a", false),
            ("a**a", "aa", true),
            ("a", "ab", false),
        ] {
            assert_eq!(matches(pattern, text), matched, "{pattern} {text}");
        }
    }
}
