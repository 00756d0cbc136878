//! The sections of providers: `[notify.fcm]` and so on. A provider exists once its section has what it cannot do without.

use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use secrecy::SecretString;
use switchboard_service_kit::config::{Document, Section};

/// What providers are told.
#[derive(Debug, Clone)]
pub(crate) struct ProviderSettings {
    /// Who is asked to mail, the first one first.
    pub(crate) email: Vec<EmailProvider>,
    /// How long one message may take.
    pub(crate) limit: Duration,
    /// Networks besides the public ones that webhooks and browsers' push services may be in.
    pub(crate) networks: Vec<IpNet>,
    pub(crate) fcm: Option<Fcm>,
    pub(crate) apns: Option<Apns>,
    pub(crate) web_push: Option<WebPush>,
    pub(crate) smtp: Option<Smtp>,
    pub(crate) ses: Option<Ses>,
    pub(crate) twilio: Option<Twilio>,
    /// Messages in a second, at most, of each provider; 0: no limit.
    pub(crate) rates: Rates,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EmailProvider {
    Smtp,
    Ses,
}

#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Rates {
    pub(crate) fcm: u32,
    pub(crate) apns: u32,
    pub(crate) web_push: u32,
    pub(crate) smtp: u32,
    pub(crate) ses: u32,
    pub(crate) twilio: u32,
    pub(crate) webhook: u32,
}

#[derive(Debug, Clone)]
pub(crate) struct Fcm {
    pub(crate) service_account: SecretString,
    pub(crate) endpoint: Option<String>,
}

#[derive(Debug, Clone)]
pub(crate) struct Apns {
    pub(crate) key: SecretString,
    pub(crate) key_id: String,
    pub(crate) team_id: String,
    pub(crate) topic: String,
    pub(crate) sandbox: bool,
    pub(crate) endpoint: Option<String>,
    pub(crate) roots: Option<PathBuf>,
}

#[derive(Debug, Clone)]
pub(crate) struct WebPush {
    pub(crate) private_key: SecretString,
    pub(crate) contact: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Security {
    StartTls,
    Tls,
    None,
}

#[derive(Debug, Clone)]
pub(crate) struct Smtp {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) security: Security,
    pub(crate) credentials: Option<(String, SecretString)>,
    pub(crate) connections: usize,
    pub(crate) from: String,
    pub(crate) from_name: Option<String>,
    pub(crate) roots: Option<PathBuf>,
}

#[derive(Debug, Clone)]
pub(crate) struct Ses {
    pub(crate) region: String,
    pub(crate) access_key: String,
    pub(crate) secret_key: SecretString,
    pub(crate) session_token: Option<SecretString>,
    pub(crate) from: String,
    pub(crate) from_name: Option<String>,
    pub(crate) configuration_set: Option<String>,
    pub(crate) endpoint: Option<String>,
}

#[derive(Debug, Clone)]
pub(crate) struct Twilio {
    pub(crate) account: String,
    pub(crate) auth_token: SecretString,
    pub(crate) from: Option<String>,
    pub(crate) messaging_service: Option<String>,
    pub(crate) endpoint: Option<String>,
}

const ENDPOINT: &str = "Where it is, else than at its usual place; for tests.";

fn rate(section: &mut Section<'_>) -> u32 {
    let help = "Messages in a second of this process, at most; further ones wait. 0: no limit.";
    u32::try_from(section.integer("rate", 0, 0..=100_000, help)).unwrap_or(u32::MAX)
}

/// A key that the provider cannot do without; `is_wanted`: the provider is configured.
fn needed(section: &mut Section<'_>, is_wanted: bool, key: &'static str, help: &str) -> String {
    let value = section.optional_text(key, help);
    if is_wanted && value.as_deref().is_none_or(str::is_empty) {
        section.fault(key, "is missing", format!("set it: {help}"));
    }
    value.unwrap_or_default()
}

impl ProviderSettings {
    pub(super) fn read(document: &mut Document) -> Self {
        let mut rates = Rates::default();
        let mut section = document.section("notify.providers");
        let limit = section.duration(
            "timeout",
            Duration::from_secs(10),
            Duration::from_millis(100)..=Duration::from_secs(15),
            "How long one message to a provider may take.",
        );
        let mut email = Vec::new();
        for name in section.list(
            "email",
            &["smtp", "ses"],
            "Who is asked to send e-mail, of those that are configured; where the first cannot, the next is asked.",
        ) {
            match name.as_str() {
                "smtp" => email.push(EmailProvider::Smtp),
                "ses" => email.push(EmailProvider::Ses),
                _ => section.fault("email", format!("there is no provider {name:?}"), "write smtp or ses"),
            }
        }
        let mut networks = Vec::new();
        for text in section.list(
            "allowed_networks",
            &[],
            "Networks besides the public ones in which webhooks and browsers' push services may be, as 10.1.0.0/16: of servers of your own.",
        ) {
            match text.parse() {
                Ok(network) => networks.push(network),
                Err(_) => section.fault(
                    "allowed_networks",
                    format!("{text:?} is no network"),
                    "write it as 10.1.0.0/16",
                ),
            }
        }
        let fcm = read_fcm(&mut document.section("notify.fcm"), &mut rates);
        let apns = read_apns(&mut document.section("notify.apns"), &mut rates);
        let web_push = read_web_push(&mut document.section("notify.web_push"), &mut rates);
        let smtp = read_smtp(&mut document.section("notify.smtp"), &mut rates);
        let ses = read_ses(&mut document.section("notify.ses"), &mut rates);
        let twilio = read_twilio(&mut document.section("notify.twilio"), &mut rates);
        rates.webhook = rate(&mut document.section("notify.webhook"));
        Self {
            email,
            limit,
            networks,
            fcm,
            apns,
            web_push,
            smtp,
            ses,
            twilio,
            rates,
        }
    }
}

fn read_fcm(section: &mut Section<'_>, rates: &mut Rates) -> Option<Fcm> {
    let account = section.secret(
        "service_account",
        "The service account's JSON, as the Firebase console gives it out; mostly as service_account_file.",
    );
    let endpoint = section.optional_text("endpoint", ENDPOINT);
    rates.fcm = rate(section);
    account.map(|service_account| Fcm {
        service_account,
        endpoint,
    })
}

fn read_apns(section: &mut Section<'_>, rates: &mut Rates) -> Option<Apns> {
    let key = section.secret(
        "key",
        "The signing key, the text of a .p8 file; mostly as key_file.",
    );
    let is_wanted = key.is_some();
    let key_id = needed(
        section,
        is_wanted,
        "key_id",
        "The id of this key, ten characters.",
    );
    let team_id = needed(
        section,
        is_wanted,
        "team_id",
        "The id of the team, ten characters.",
    );
    let topic = needed(section, is_wanted, "topic", "The app's bundle id.");
    let sandbox = section.boolean(
        "sandbox",
        false,
        "Whether devices have the app from a developer's machine and not from the store.",
    );
    let endpoint = section.optional_text("endpoint", ENDPOINT);
    let roots = section.optional_text(
        "roots",
        "A file of certificates in PEM that are trusted instead of the system's; for tests.",
    );
    rates.apns = rate(section);
    key.map(|key| Apns {
        key,
        key_id,
        team_id,
        topic,
        sandbox,
        endpoint,
        roots: roots.map(PathBuf::from),
    })
}

fn read_web_push(section: &mut Section<'_>, rates: &mut Rates) -> Option<WebPush> {
    let private_key = section.secret(
        "private_key",
        "The application's private key: 32 bytes in base64url. `switchboard web-push-keys` makes a pair.",
    );
    let help = "Whom a push service can ask: mailto:ops@example.org or an https URL.";
    let contact = needed(section, private_key.is_some(), "contact", help);
    rates.web_push = rate(section);
    private_key.map(|private_key| WebPush { private_key, contact })
}

fn read_smtp(section: &mut Section<'_>, rates: &mut Rates) -> Option<Smtp> {
    let host = section.optional_text("host", "The mail server.");
    let port = section.integer(
        "port",
        587,
        1..=65_535,
        "Its port: 587 with starttls, 465 with tls.",
    );
    let kinds = [
        ("starttls", Security::StartTls),
        ("tls", Security::Tls),
        ("none", Security::None),
    ];
    let security = section.choice(
        "security",
        &kinds,
        "starttls",
        "How the connection is protected: TLS after a beginning in the clear, TLS from the start, or not at all, which is for this machine \
         alone.",
    );
    let user = section.optional_text("user", "Who signs in; missing: nobody does.");
    let password = section.secret("password", "The password.");
    let from = needed(section, host.is_some(), "from", "Who mails are from: an address.");
    let from_name = section.optional_text("from_name", "As readers see who they are from.");
    let roots = section.optional_text(
        "roots",
        "A file of certificates in PEM that are trusted instead of the system's.",
    );
    let connections = section.integer(
        "connections",
        8,
        1..=64,
        "Connections to it of this process, at most, each with one mail at a time.",
    );
    rates.smtp = rate(section);
    if user.is_some() != password.is_some() {
        section.fault("user", "and password belong together", "set both, or neither");
    }
    host.map(|host| Smtp {
        host,
        port: u16::try_from(port).unwrap_or(587),
        security,
        credentials: user.zip(password),
        connections: usize::try_from(connections).unwrap_or(8),
        from,
        from_name,
        roots: roots.map(PathBuf::from),
    })
}

fn read_ses(section: &mut Section<'_>, rates: &mut Rates) -> Option<Ses> {
    let region = section.optional_text("region", "The region, such as eu-central-1.");
    let is_wanted = region.is_some();
    let access_key = needed(section, is_wanted, "access_key", "The id of an access key.");
    let secret_key = section.secret("secret_key", "The secret of the access key.");
    if is_wanted && secret_key.is_none() {
        section.fault("secret_key", "is missing", "set it: the secret of the access key");
    }
    let session_token = section.secret("session_token", "The token of a temporary access key.");
    let from = needed(
        section,
        is_wanted,
        "from",
        "Who mails are from: an address that SES knows as verified.",
    );
    let from_name = section.optional_text("from_name", "As readers see who they are from.");
    let configuration_set =
        section.optional_text("configuration_set", "A configuration set of SES for these mails.");
    let endpoint = section.optional_text("endpoint", ENDPOINT);
    rates.ses = rate(section);
    region.zip(secret_key).map(|(region, secret_key)| Ses {
        region,
        access_key,
        secret_key,
        session_token,
        from,
        from_name,
        configuration_set,
        endpoint,
    })
}

fn read_twilio(section: &mut Section<'_>, rates: &mut Rates) -> Option<Twilio> {
    let account = section.optional_text("account", "The account, AC….");
    let auth_token = section.secret(
        "auth_token",
        "The account's token; it also signs Twilio's reports.",
    );
    let from = section.optional_text(
        "from",
        "Who messages are from: a number of the account, or a name.",
    );
    let messaging_service =
        section.optional_text("messaging_service", "Or a messaging service, MG…, which chooses.");
    let endpoint = section.optional_text("endpoint", ENDPOINT);
    rates.twilio = rate(section);
    if account.is_some() {
        if auth_token.is_none() {
            section.fault("auth_token", "is missing", "set the account's token");
        }
        if from.is_some() == messaging_service.is_some() {
            section.fault("from", "or messaging_service is needed", "set one of them");
        }
    }
    account.zip(auth_token).map(|(account, auth_token)| Twilio {
        account,
        auth_token,
        from,
        messaging_service,
        endpoint,
    })
}
