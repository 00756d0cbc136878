//! The section `[gateway.notifications]`.

use std::time::Duration;

use switchboard_service_kit::config::Document;

/// See the module.
#[derive(Debug, Clone)]
pub struct NotificationsConfig {
    /// Clients may register addresses that nobody checked.
    pub allow_addresses: bool,
    /// How long the notify service is waited for.
    pub timeout: Duration,
    /// Messages of services that are published at a time, at most.
    pub publishes: usize,
}

impl NotificationsConfig {
    pub(crate) fn read(document: &mut Document) -> Self {
        let mut section = document.section("gateway.notifications");
        let allow_addresses = section.boolean(
            "allow_addresses",
            false,
            "Clients may register addresses for e-mail and telephone numbers as devices of their user. Nobody checks that these are the \
             user's own: whoever has a token can have messages sent to others. Off, backends alone register them.",
        );
        let timeout = section.duration(
            "timeout",
            Duration::from_secs(4),
            Duration::from_millis(100)..=Duration::from_secs(30),
            "How long the notify service is waited for. Clients are answered within gateway.answer_timeout, whatever stands here.",
        );
        let publishes = section.integer(
            "publishes",
            256,
            1..=65_536,
            "Messages of other services, such as what users are told in the app, that are published by this gateway at a time; a further \
             one is refused, and its service tries again.",
        );
        Self {
            allow_addresses,
            timeout,
            publishes: usize::try_from(publishes).unwrap_or(usize::MAX),
        }
    }
}
