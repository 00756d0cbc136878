//! The names of all keys, and nothing else names one.
//!
//! Keys of one user share a hash tag, `{user}`, and so do those of one gateway: Redis Cluster then keeps them on
//! one node, and a script may use them together. `docs/registry.md` has the list.

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use switchboard_proto::ids::Incarnation;

/// What would end a hash tag early, or cannot be typed where an operator looks at keys.
const ESCAPED: &AsciiSet = &CONTROLS
    .add(b'{')
    .add(b'}')
    .add(b'%')
    .add(b' ')
    .add(b'"')
    .add(b'\\');

/// The keys of one installation.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    prefix: String,
}

/// Two keys that a script uses together.
pub(super) type Pair = [String; 2];

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        Self {
            prefix: format!("{prefix}:reg"),
        }
    }

    /// A user's sessions by connection, and when each was announced last.
    pub(super) fn sessions(&self, user: &str) -> Pair {
        self.pair(&escape(user), ["sessions", "seen"])
    }

    /// A user's kept subscriptions by channel, and when each ends.
    pub(super) fn kept(&self, user: &str) -> Pair {
        self.pair(&escape(user), ["kept", "until"])
    }

    /// A gateway's lease, and its users.
    pub(super) fn gateway(&self, gateway: Incarnation) -> Pair {
        self.pair(&gateway.to_string(), ["lease", "users"])
    }

    fn pair(&self, tag: &str, names: [&str; 2]) -> Pair {
        names.map(|name| format!("{}:{{{tag}}}:{name}", self.prefix))
    }
}

fn escape(user: &str) -> String {
    utf8_percent_encode(user, ESCAPED).to_string()
}

#[cfg(test)]
mod tests {
    use percent_encoding::percent_decode_str;

    use super::*;

    #[test]
    fn keys_of_a_user_share_a_tag_that_nothing_in_its_name_ends() {
        let keys = Keys::new("sb");
        assert_eq!(
            keys.sessions("alice"),
            ["sb:reg:{alice}:sessions", "sb:reg:{alice}:seen"]
        );
        for user in ["}", "{}", "a}b{c", "%7D", "{", "ü}"] {
            let [one, other] = keys.kept(user);
            let tag = |key: &str| {
                let (_, rest) = key.split_once('{').unwrap();
                rest.split_once('}').unwrap().0.to_owned()
            };
            assert_eq!(tag(&one), tag(&other));
            let decoded = percent_decode_str(&tag(&one)).decode_utf8().unwrap().into_owned();
            assert_eq!(decoded, user, "no two users share keys");
        }
    }
}
