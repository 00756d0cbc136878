//! The section `[presence]`.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use switchboard_proto::presence::Visibility;
use switchboard_service_kit::config::Document;
use switchboard_service_kit::grpc::{GrpcConfig, Sections};

use crate::service::Settings;
use crate::user::Rules;

/// What the service can be told.
#[derive(Debug, Clone)]
pub struct Config {
    pub(crate) settings: Settings,
    /// Between two looks at what time did.
    pub(crate) look_interval: Duration,
    /// Questions at work, at most.
    pub(crate) questions: usize,
    /// What a question may take.
    pub(crate) question_timeout: Duration,
    /// `None`: backends cannot ask over gRPC.
    pub(crate) grpc: Option<GrpcConfig>,
    /// Streams of changes over gRPC, at most.
    pub(crate) watches: usize,
}

impl Config {
    /// Reads the section.
    pub fn read(document: &mut Document) -> Self {
        let mut section = document.section("presence");
        let seconds = Duration::from_secs;
        let grace = section.duration(
            "grace",
            seconds(5),
            Duration::ZERO..=seconds(300),
            "How long a user whose last connection ended stays what she was: who reloads a page is not seen to leave.",
        );
        let away_after = section.duration(
            "away_after",
            seconds(300),
            seconds(1)..=seconds(24 * 3600),
            "After so long without a command on any of her connections a user who is online is away.",
        );
        let lease = section.duration(
            "lease",
            seconds(3),
            seconds(2)..=seconds(60),
            "How long what a gateway reported holds after it was heard of last; it is heard of every second.",
        );
        let devices = section.integer(
            "device_history",
            10,
            0..=100,
            "Devices that are remembered of a user, the last ones; 0: none.",
        );
        let remembered = section.duration(
            "remembered",
            seconds(90 * 24 * 3600),
            seconds(60)..=seconds(10 * 366 * 24 * 3600),
            "How long it is known of a user who does not come back when she was seen last, and what she chose.",
        );
        let visibilities = [
            ("everybody", Visibility::Everybody),
            ("shared", Visibility::Shared),
            ("nobody", Visibility::Nobody),
        ];
        let visibility = section.choice(
            "visibility",
            &visibilities,
            "everybody",
            "Who sees the status of a user who did not say: everybody, who is a member of a channel with her, or nobody.",
        );
        let channel_members = section.integer(
            "channel_members",
            1_000,
            1..=100_000,
            "Connections in a channel that are told one by one, at most; in a larger channel it is told how many there are.",
        );
        let told_to = section.integer(
            "joins_told_to",
            1_000,
            0..=1_000_000,
            "Connections in a channel in which joins and leaves are told, at most; 0: nowhere.",
        );
        let look_interval = section.duration(
            "look_interval",
            Duration::from_millis(250),
            Duration::from_millis(20)..=seconds(5),
            "How often is looked for gateways that are gone and for users whose grace, text or activity is over.",
        );
        let questions = section.integer(
            "questions",
            512,
            1..=100_000,
            "Reports and questions at work, at most; a further one is refused for the time being.",
        );
        let question_timeout = section.duration(
            "question_timeout",
            seconds(3),
            Duration::from_millis(10)..=seconds(60),
            "What a report or a question may take.",
        );
        let watches = section.integer(
            "grpc_watches",
            256,
            1..=10_000,
            "Streams of changes over gRPC at a time, at most; a further one is refused.",
        );
        let sections = Sections {
            grpc: "presence.grpc",
            tls: "presence.grpc.tls",
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8010)),
            enabled: "Whether backends can ask PresenceService over gRPC: who is where, of everybody. See presence.md.",
        };
        let grpc = GrpcConfig::read(document, sections);
        let size = |number| usize::try_from(number).unwrap_or(usize::MAX);
        Self {
            settings: Settings {
                rules: Rules {
                    grace,
                    away_after,
                    devices: size(devices),
                    remembered,
                    visibility,
                },
                lease,
                channel_members: size(channel_members),
                told_to,
            },
            look_interval,
            questions: size(questions),
            question_timeout,
            grpc,
            watches: size(watches),
        }
    }
}
