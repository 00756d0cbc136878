//! The section `[gateway.moderation]`.

use std::time::Duration;

use switchboard_service_kit::config::Document;

/// See the module.
#[derive(Debug, Clone)]
pub struct ModerationConfig {
    /// Restrictions that are kept in memory, at most.
    pub restrictions: usize,
    /// Between two looks at the audit log.
    pub interval: Duration,
    /// After the start: how long whoever connects waits for what is in force.
    pub start_wait: Duration,
    /// Nobody is let in as long as it is not known what is in force.
    pub required: bool,
}

impl ModerationConfig {
    pub(crate) fn read(document: &mut Document) -> Self {
        let mut section = document.section("gateway.moderation");
        let restrictions = section.integer(
            "restrictions",
            200_000,
            10..=20_000_000,
            "Blocked users, mutes and revoked tokens that are kept in memory, at most; about 200 bytes each, and tokens take half of them \
             at most. For others the store is asked at each connect, or each publish.",
        );
        let interval = section.duration(
            "interval",
            Duration::from_millis(500),
            Duration::from_millis(50)..=Duration::from_secs(10),
            "How often the audit log is looked at, in case the gateway was not told of an act: keep it below a second.",
        );
        let start_wait = section.duration(
            "start_wait",
            Duration::from_secs(1),
            Duration::ZERO..=Duration::from_secs(60),
            "For so long after its start who connects waits where the gateway does not know yet who is blocked. Then they are let \
             in, and sent away once it is known.",
        );
        let required = section.boolean(
            "required",
            false,
            "Never let anybody in before it is known who is blocked: the message store is then needed to connect after a gateway's start.",
        );
        Self {
            restrictions: usize::try_from(restrictions).unwrap_or(usize::MAX),
            interval,
            start_wait,
            required,
        }
    }
}
