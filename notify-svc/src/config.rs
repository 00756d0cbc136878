//! The section `[notify]` and what is below it.

mod categories;
mod providers;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

pub(crate) use categories::{Category, Recipients, Rule, Tell};
pub(crate) use providers::{EmailProvider, ProviderSettings, Security};
use switchboard_database::config::{self as database, DatabaseSettings, Defaults, KINDS};
use switchboard_service_kit::config::Document;
use switchboard_service_kit::grpc::{GrpcConfig, Sections};

/// Where the file is, unless configured.
pub const SQLITE_PATH: &str = "./data/notifications.db";

/// What the service can be told.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where notifications are kept; `None`: nobody is told.
    pub store: Option<DatabaseSettings>,
    pub(crate) migrate: bool,
    pub(crate) questions: usize,
    pub(crate) question_timeout: Duration,
    /// `None`: backends cannot ask over gRPC.
    pub(crate) grpc: Option<GrpcConfig>,
    pub(crate) limits: Limits,
    pub(crate) queue: QueueSettings,
    pub(crate) categories: BTreeMap<String, Category>,
    /// By namespace.
    pub(crate) rules: BTreeMap<String, Rule>,
    pub(crate) providers: ProviderSettings,
    pub(crate) public: PublicSettings,
}

/// What users and backends may have.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    pub(crate) devices: u64,
    pub(crate) mutes: u64,
    pub(crate) templates: u64,
    /// Deliveries that wait; further notifications are refused.
    pub(crate) waiting: u64,
}

/// How the queue is worked off.
#[derive(Debug, Clone)]
pub(crate) struct QueueSettings {
    /// Deliveries that are being sent by this process, at most.
    pub(crate) at_once: usize,
    /// After this a claim is over.
    pub(crate) lease: Duration,
    /// How often is looked for what is due.
    pub(crate) poll: Duration,
    /// Tries, at most.
    pub(crate) attempts: u32,
    /// What follows the first failure, doubled with each further one up to `longest`.
    pub(crate) pause: Duration,
    pub(crate) longest: Duration,
    /// A device to which nothing gets through for so long is not used any more.
    pub(crate) failing: Duration,
    /// How long what was told is kept.
    pub(crate) keep: Duration,
    /// Failures of a provider, one after the other, after which it is left alone for `rest`.
    pub(crate) breaks_after: u32,
    pub(crate) rest: Duration,
}

/// What the outside may reach: unsubscribing, and providers' reports.
#[derive(Debug, Clone)]
pub(crate) struct PublicSettings {
    pub(crate) listen: SocketAddr,
    /// How it is reached from outside; `None`: it is not.
    pub(crate) url: Option<String>,
    /// Signs what users are sent.
    pub(crate) secret: Option<secrecy::SecretString>,
}

impl Config {
    /// Reads the section and those below it.
    pub fn read(document: &mut Document, defaults: &Defaults) -> Self {
        let seconds = Duration::from_secs;
        let mut section = document.section("notify");
        let kind = section.choice(
            "store",
            &KINDS,
            defaults.kind(),
            "Where notifications are kept: nowhere, which is nobody is told, in a file of this one process, or in PostgreSQL. Routers must \
             name \"notify\" in router.readers where messages of channels are told; in one process with the router that is done. The \
             default is sqlite where one process runs everything on the embedded bus, none elsewhere.",
        );
        let migrate = section.boolean(
            "migrate",
            true,
            "Make the store's schema, or bring it up to this release's, at start. Otherwise run `switchboard migrate`.",
        );
        let questions = section.integer(
            "questions",
            256,
            1..=10_000,
            "Questions of gateways, and over gRPC, that are at work at a time, at most; further ones are refused for the time being.",
        );
        let question_timeout = section.duration(
            "question_timeout",
            seconds(3),
            Duration::from_millis(100)..=seconds(60),
            "What one of them may take. Clients wait 4 s for an answer.",
        );
        let limits = Limits {
            devices: section.integer("devices", 20, 1..=1_000, "Devices of a user, at most."),
            mutes: section.integer("mutes", 1_000, 1..=100_000, "Conversations that a user mutes, at most."),
            templates: section.integer("templates", 1_000, 1..=100_000, "Templates, at most; all are in memory."),
            waiting: section.integer(
                "waiting",
                1_000_000,
                100..=100_000_000,
                "Deliveries that wait, at most: beyond it requests are refused, and what channels would tell waits in the log. It is counted \
                 every second.",
            ),
        };
        let queue = QueueSettings {
            at_once: usize::try_from(section.integer(
                "sends",
                256,
                1..=10_000,
                "Deliveries that this process sends at a time, at most.",
            ))
            .unwrap_or(usize::MAX),
            lease: section.duration(
                "lease",
                seconds(60),
                seconds(40)..=seconds(3600),
                "After this another process takes what one has taken and not sent.",
            ),
            poll: section.duration(
                "poll",
                Duration::from_millis(500),
                Duration::from_millis(10)..=seconds(60),
                "How often is looked for what is due; what this process accepts is seen at once.",
            ),
            attempts: u32::try_from(section.integer(
                "attempts",
                12,
                1..=100,
                "Tries of one delivery, at most; then it is a dead letter.",
            ))
            .unwrap_or(u32::MAX),
            pause: section.duration(
                "retry",
                seconds(5),
                Duration::from_millis(10)..=seconds(3600),
                "What follows a try that failed, doubled with each further one, give or take a half.",
            ),
            longest: section.duration(
                "retry_longest",
                seconds(3600),
                seconds(1)..=seconds(24 * 3600),
                "The longest of these pauses.",
            ),
            failing: section.duration(
                "failing",
                seconds(5 * 24 * 3600),
                seconds(60)..=seconds(90 * 24 * 3600),
                "A webhook to which nothing gets through for so long is switched off, until it is registered anew.",
            ),
            keep: section.duration(
                "keep",
                seconds(30 * 24 * 3600),
                seconds(3600)..=seconds(3650 * 24 * 3600),
                "How long notifications are kept, with all that became of them.",
            ),
            breaks_after: u32::try_from(section.integer(
                "breaks_after",
                10,
                1..=1_000,
                "Failures of a provider, one after the other, after which it is left alone for a while.",
            ))
            .unwrap_or(u32::MAX),
            rest: section.duration(
                "rest",
                seconds(30),
                Duration::from_millis(10)..=seconds(3600),
                "This while. Where there is another provider for the way, that one is asked meanwhile.",
            ),
        };
        let public = PublicSettings {
            listen: section.address(
                "listen",
                SocketAddr::from((Ipv4Addr::LOCALHOST, 8011)),
                "Where the outside reaches this process where `url` is set: links that unsubscribe, and Twilio's reports.",
            ),
            url: section.optional_text(
                "url",
                "How it is reached from outside, as https://notify.example.org. Missing: e-mails have no link that unsubscribes, and nothing \
                 listens.",
            ),
            secret: section.secret(
                "secret",
                "Signs these links, the same in all processes; needed with `url`, 32 characters at least.",
            ),
        };
        if let Some(url) = &public.url
            && !url.starts_with("https://")
        {
            section.fault("url", "is no https URL", "write https://notify.example.org");
        }
        if public.url.is_some()
            && public
                .secret
                .as_ref()
                .is_none_or(|secret| secrecy::ExposeSecret::expose_secret(secret).len() < 32)
        {
            section.fault(
                "secret",
                "is missing or too short",
                "make one: openssl rand -base64 33",
            );
        }
        let sections = Sections {
            grpc: "notify.grpc",
            tls: "notify.grpc.tls",
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8012)),
            enabled: "Whether backends can ask NotificationService over gRPC. See notifications.md.",
        };
        let grpc = GrpcConfig::read(document, sections);
        let sections = ("notify.sqlite", "notify.postgres");
        let file = (defaults.path.as_path(), "notifications.db");
        let store = database::read(document, kind, sections, file);
        let categories = categories::read_categories(document);
        let rules = categories::read_rules(document, &categories);
        let providers = ProviderSettings::read(document);
        Self {
            store,
            migrate,
            questions: usize::try_from(questions).unwrap_or(usize::MAX),
            question_timeout,
            grpc,
            limits,
            queue,
            categories,
            rules,
            providers,
            public,
        }
    }

    /// Whether messages of channels are told.
    pub fn reads_the_log(&self) -> bool {
        self.store.is_some() && !self.rules.is_empty()
    }
}
