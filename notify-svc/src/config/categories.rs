//! Categories of notifications, `[notify.categories.NAME]`, and which messages of channels are told, `[notify.namespaces.NAME]`.

use std::collections::BTreeMap;
use std::time::Duration;

use switchboard_service_kit::config::{Document, Section};

use crate::model::{Priority, Unless, Way};

/// What holds for notifications of one kind where neither the request nor the user says otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Category {
    /// How much it matters.
    pub(crate) priority: Priority,
    /// Ways that are taken at once.
    pub(crate) ways: Vec<Way>,
    /// Ways that are taken later, where it was not seen or read by then.
    pub(crate) later: Vec<(Way, Duration, Unless)>,
    /// What is told together.
    pub(crate) digest: Option<Digest>,
    /// On one way to one user in an hour, at most; the rest waits for the next one. 0: no limit.
    pub(crate) hourly: u64,
    /// After so long nobody wants it any more.
    pub(crate) expires: Option<Duration>,
    /// Who is told.
    pub(crate) tell: Tell,
    /// Critical ones are told in quiet hours and of muted conversations, too.
    pub(crate) overrides: bool,
}

/// What is told together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Digest {
    /// How long the first one waits for others.
    pub(crate) window: Duration,
    /// As soon as there are so many they are told.
    pub(crate) most: u32,
    /// Of one conversation; otherwise of the category.
    pub(crate) by_conversation: bool,
    /// On these ways.
    pub(crate) ways: Vec<Way>,
}

/// Who is told by other ways than the app.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tell {
    /// Everybody.
    Always,
    /// Who is away or offline.
    Away,
    /// Who is offline.
    Offline,
}

/// Which messages of a namespace's channels are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule {
    /// To whom.
    pub(crate) recipients: Recipients,
    /// As which category.
    pub(crate) category: String,
    /// As which, those who are mentioned.
    pub(crate) mention: String,
    /// The field of JSON payloads in which the text stands.
    pub(crate) text: String,
    /// The field of JSON payloads that lists who is mentioned.
    pub(crate) mentions: String,
    /// Members, at most: in a larger channel only those mentioned are told.
    pub(crate) most: usize,
}

/// Who is told of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Recipients {
    /// All members but the sender.
    Members,
    /// Members who are mentioned.
    Mentioned,
}

impl Category {
    /// What holds for a category of which nothing else is said.
    pub(crate) fn plain() -> Self {
        Self {
            priority: Priority::Normal,
            ways: vec![Way::InApp, Way::Push],
            later: Vec::new(),
            digest: None,
            hourly: 0,
            expires: None,
            tell: Tell::Always,
            overrides: true,
        }
    }
}

const NAMES: &str = "in_app, push, email, sms or webhook";

/// Those that are always there, with what holds for them.
fn built_in() -> [(&'static str, Category); 3] {
    let of = |ways: &[Way]| Category {
        ways: ways.to_vec(),
        tell: Tell::Away,
        overrides: false,
        ..Category::plain()
    };
    [
        ("general", Category::plain()),
        ("message", of(&[Way::Push])),
        ("mention", of(&[Way::InApp, Way::Push])),
    ]
}

pub(super) fn read_categories(document: &mut Document) -> BTreeMap<String, Category> {
    let mut categories: BTreeMap<String, Category> = BTreeMap::new();
    for name in document.names("notify.categories") {
        categories.insert(name, Category::plain());
    }
    for (name, category) in built_in() {
        categories.insert(name.to_owned(), category);
    }
    for (name, category) in &mut categories {
        let path = format!("notify.categories.{name}");
        *category = read(&mut document.section(&path), category);
    }
    categories
}

fn ways(section: &mut Section<'_>, key: &'static str, default: &[Way], help: &str) -> Vec<Way> {
    let default: Vec<&str> = default.iter().map(|way| way.word()).collect();
    let mut ways = Vec::new();
    for name in section.list(key, &default, help) {
        match Way::from_word(&name) {
            Some(way) if !ways.contains(&way) => ways.push(way),
            Some(_) => {}
            None => section.fault(
                key,
                format!("there is no way {name:?}"),
                format!("choose among {NAMES}"),
            ),
        }
    }
    ways
}

fn read(section: &mut Section<'_>, default: &Category) -> Category {
    const DAY: Duration = Duration::from_secs(24 * 3600);
    let priorities = Priority::ALL.map(|priority| (priority.word(), priority));
    let priority = section.choice(
        "priority",
        &priorities,
        default.priority.word(),
        "Of notifications that name none.",
    );
    let at_once = ways(
        section,
        "ways",
        &default.ways,
        "Ways that are taken at once: in_app, push, email, sms, webhook.",
    );
    let zero = Duration::ZERO;
    let mut later = Vec::new();
    for (key, way, unless, help) in [
        (
            "push_after",
            Way::Push,
            Unless::Seen,
            "After so long without its being seen in the app it is pushed; 0s: not so.",
        ),
        (
            "email_after",
            Way::Email,
            Unless::Read,
            "After so long without its being read in the app it is mailed; 0s: not so.",
        ),
        (
            "sms_after",
            Way::Sms,
            Unless::Read,
            "After so long without its being read in the app it is sent as a text message, if it is critical; 0s: not so.",
        ),
    ] {
        let after = section.duration(key, zero, zero..=DAY * 30, help);
        if !after.is_zero() {
            later.push((way, after, unless));
        }
    }
    let window = section.duration(
        "digest_window",
        zero,
        zero..=DAY * 7,
        "How long the first one waits for others, to be told together; 0s: each is told by itself.",
    );
    let most = section.integer(
        "digest_most",
        20,
        2..=100,
        "As soon as there are so many they are told.",
    );
    let by = [("conversation", true), ("category", false)];
    let by_conversation = section.choice(
        "digest_by",
        &by,
        "conversation",
        "What is told together: what is of one conversation, or all of the category.",
    );
    let digest_ways = ways(
        section,
        "digest_ways",
        &[Way::Email],
        "On which ways it is told together; on the others each is told by itself.",
    );
    let hourly = section.integer(
        "hourly",
        default.hourly,
        0..=1_000_000,
        "Sent to one user on one way in an hour, at most; further ones wait for the next hour. 0: no limit. In the app there is none.",
    );
    let expires = section.duration(
        "expires",
        default.expires.unwrap_or_default(),
        zero..=DAY * 30,
        "After so long it is not sent any more; 0s: no end.",
    );
    let tells = [
        ("always", Tell::Always),
        ("away", Tell::Away),
        ("offline", Tell::Offline),
    ];
    let tell = section.choice(
        "tell",
        &tells,
        match default.tell {
            Tell::Always => "always",
            Tell::Away => "away",
            Tell::Offline => "offline",
        },
        "Who is told by other ways than in the app: everybody (always), who is away or offline (away), or who is offline. Needs the presence \
         service; while that does not answer, everybody is.",
    );
    let overrides = section.boolean(
        "overrides",
        default.overrides,
        "Whether critical ones are told in quiet hours, of muted conversations, and where the category is switched off.",
    );
    Category {
        priority,
        ways: at_once,
        later,
        digest: (!window.is_zero()).then(|| Digest {
            window,
            most: u32::try_from(most).unwrap_or(u32::MAX),
            by_conversation,
            ways: digest_ways,
        }),
        hourly,
        expires: (!expires.is_zero()).then_some(expires),
        tell,
        overrides,
    }
}

pub(super) fn read_rules(
    document: &mut Document,
    categories: &BTreeMap<String, Category>,
) -> BTreeMap<String, Rule> {
    let mut rules = BTreeMap::new();
    for name in document.names("notify.namespaces") {
        let mut section = document.section(&format!("notify.namespaces.{name}"));
        let who = [
            ("members", Recipients::Members),
            ("mentioned", Recipients::Mentioned),
        ];
        let recipients = section.choice(
            "recipients",
            &who,
            "members",
            "Who is told of messages in the namespace's channels: all members but the sender, or those of them who are mentioned. Members \
             are those whom a channel's name has behind a #, and where the namespace has members = true its members.",
        );
        let mut category = |key, default, help| {
            let category = section.text(key, default, help);
            if !categories.contains_key(&category) {
                let known: Vec<&str> = categories.keys().map(String::as_str).collect();
                section.fault(
                    key,
                    format!("there is no category {category:?}"),
                    format!(
                        "choose among {}, or write [notify.categories.{category}]",
                        known.join(", ")
                    ),
                );
            }
            category
        };
        let of_members = category("category", "message", "The category of what members are told.");
        let mention = category(
            "mention",
            "mention",
            "The category of what those are told who are mentioned.",
        );
        let text = section.text(
            "text",
            "text",
            "The field of JSON payloads in which the text stands, an inner one as \"body.text\".",
        );
        let mentions = section.text(
            "mentions",
            "mentions",
            "The field of JSON payloads that lists the ids of who is mentioned, an inner one as \"body.mentions\"; 100 count.",
        );
        let most = section.integer(
            "members",
            1_000,
            1..=100_000,
            "Members of a channel who are all told, at most: in a larger one only those mentioned are.",
        );
        rules.insert(
            name,
            Rule {
                recipients,
                category: of_members,
                mention,
                text,
                mentions,
                most: usize::try_from(most).unwrap_or(usize::MAX),
            },
        );
    }
    rules
}
