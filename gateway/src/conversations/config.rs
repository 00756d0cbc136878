//! The section `[gateway.conversations]`.

use std::num::NonZeroUsize;
use std::time::Duration;

use switchboard_service_kit::config::Document;

/// See the module.
#[derive(Debug, Clone)]
pub struct ConversationsConfig {
    /// Users and channels of which it is known whether they are members, at most.
    pub members_cached: NonZeroUsize,
    /// For how long that is believed.
    pub members_ttl: Duration,
    /// For how long receipts are collected.
    pub receipts_window: Duration,
    /// Receipts that wait to be written, at most.
    pub receipts_waiting: usize,
    /// Members of a channel in which others are told of receipts, at most.
    pub receipts_told_to: u64,
    /// Between two times that others are told of one user's receipts in one channel.
    pub receipts_told_every: Duration,
}

impl ConversationsConfig {
    pub(crate) fn read(document: &mut Document) -> Self {
        let mut section = document.section("gateway.conversations");
        let members_cached = section.integer(
            "members_cached",
            100_000,
            1..=10_000_000,
            "Users and channels of which it is kept in mind whether they are members, at most; about 200 bytes each.",
        );
        let members_ttl = section.duration(
            "members_ttl",
            Duration::from_secs(10),
            Duration::from_millis(100)..=Duration::from_secs(300),
            "For how long that is believed. A removed member is locked out everywhere at once, and after this time in any case.",
        );
        let receipts_window = section.duration(
            "receipts_window",
            Duration::from_millis(50),
            Duration::from_millis(1)..=Duration::from_secs(1),
            "For how long receipts are collected that are written together.",
        );
        let receipts_waiting = section.integer(
            "receipts_waiting",
            16_384,
            1..=1_048_576,
            "Receipts that wait for that, at most; further ones are refused with error 111.",
        );
        let receipts_told_to = section.integer(
            "receipts_told_to",
            100,
            0..=10_000,
            "Members of a channel are told of each other's receipts where it has so many at most; 0: nowhere.",
        );
        let receipts_told_every = section.duration(
            "receipts_told_every",
            Duration::from_secs(1),
            Duration::from_millis(10)..=Duration::from_secs(60),
            "Between two times that others are told of one user's receipts in one channel.",
        );
        let size = |number| usize::try_from(number).unwrap_or(usize::MAX);
        Self {
            members_cached: NonZeroUsize::new(size(members_cached)).unwrap_or(NonZeroUsize::MIN),
            members_ttl,
            receipts_window,
            receipts_waiting: size(receipts_waiting),
            receipts_told_to,
            receipts_told_every,
        }
    }
}
