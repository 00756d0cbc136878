//! What the tests of this module share.

use std::net::Ipv4Addr;
use std::sync::Arc;

use crate::auth::Identity;
use crate::session::{Encoding, Limits, SessionHandle};

/// A session of `user`.
pub(super) fn session(user: &str) -> Arc<SessionHandle> {
    let limits = Limits {
        outgoing: 1 << 20,
        channels: 8,
        system_messages: true,
    };
    let session = SessionHandle::new(1, Ipv4Addr::LOCALHOST.into(), Encoding::Json, limits);
    session.admit(Identity {
        user: user.to_owned(),
        ..Identity::default()
    });
    session
}
