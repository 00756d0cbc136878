//! E-mail through a server of the operator's: SMTP (RFC 5321) with STARTTLS (RFC 3207) or TLS from the start (RFC 8314).
//!
//! Commands are sent one by one, so that it is known which of them failed: until the message itself goes out it was not taken for
//! sure. Connections are kept for a while, as a new one with TLS and a login takes many round trips. Every answer must have the code
//! that belongs to its command: an answer that somebody slipped in before TLS began shifts all later ones, and is noticed by that.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use async_trait::async_trait;
use lettre::transport::smtp::Error;
use lettre::transport::smtp::authentication::{self, Mechanism};
use lettre::transport::smtp::client::{
    AsyncSmtpConnection, Certificate, CertificateStore, TlsParameters, TlsParametersBuilder,
};
use lettre::transport::smtp::commands;
use lettre::transport::smtp::extension::ClientId;
use parking_lot::Mutex;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use crate::mail::{self, Mail, Sender};
use crate::{Accepted, Address, Outgoing, Provider, SendError, Way};

mod answers;

use answers::{Failed, Step, code, reference, retry, said, unreachable};

/// Connections at most, whatever settings say: servers take so many of one client for an attack.
pub const MOST_CONNECTIONS: usize = 100;

/// How long a server may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(1);

/// How the connection is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Security {
    /// It begins in the clear and nothing is said before TLS is there; a server without STARTTLS gets no mail. Port 587.
    StartTls,
    /// TLS from the start. Port 465.
    Tls,
    /// In the clear, password and mail.
    None {
        /// Also to another machine: the operator knows that nobody reads along there.
        anywhere: bool,
    },
}

/// Who logs in.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// As the server knows it.
    pub username: String,
    /// Its password.
    pub password: SecretString,
}

/// How the server is reached.
#[derive(Debug, Clone)]
pub struct Settings {
    /// A name, which its certificate has, or an IP address.
    pub host: String,
    /// 587, 465 or 25.
    pub port: u16,
    /// How the connection is protected.
    pub security: Security,
    /// `None`: the server lets this machine in without.
    pub credentials: Option<Credentials>,
    /// Who mails are from, also on the envelope: what cannot be delivered comes back there.
    pub from: Sender,
    /// What we call ourselves; `None`: the name of this machine.
    pub hello: Option<String>,
    /// Certificates in PEM that are trusted instead of the system's.
    pub roots: Option<String>,
    /// How long one message may take, waiting for a free connection included.
    pub limit: Duration,
    /// Connections at most, 1 to [`MOST_CONNECTIONS`].
    pub connections: usize,
    /// Connections that are kept while nothing is sent, at most.
    pub idle: usize,
    /// How long each of them is used after its last message. Servers close it after some minutes.
    pub idle_for: Duration,
    /// Bytes of a message with its headers, at most.
    pub largest: usize,
}

impl Settings {
    /// STARTTLS on port 587, 30 seconds for each message, four connections of which two are kept for a minute, and [`mail::LARGEST`].
    #[must_use]
    pub fn new(host: String, from: Sender) -> Self {
        Self {
            host,
            port: 587,
            security: Security::StartTls,
            credentials: None,
            from,
            hello: None,
            roots: None,
            limit: Duration::from_secs(30),
            connections: 4,
            idle: 2,
            idle_for: Duration::from_secs(60),
            largest: mail::LARGEST,
        }
    }
}

/// Why settings cannot be used. Texts hold no secret.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// Neither a name nor an address.
    #[error("the server must be a host name or an IP address, and its port not 0")]
    Host,
    /// The password and every mail would go there in the clear.
    #[error("without TLS only a server on this machine is used, unless that is allowed for others too")]
    InTheClear,
    /// It goes into a command.
    #[error("the name for EHLO must be a host name: letters, digits, hyphens and dots, 255 at most")]
    Hello,
    /// A number of connections that makes no sense.
    #[error("the connections must be 1 to {MOST_CONNECTIONS}, and no more of them kept")]
    Connections,
    /// Not PEM of certificates.
    #[error("the roots are not certificates in PEM")]
    Roots,
    /// No TLS, as where the system has no root certificates.
    #[error("no TLS client")]
    Tls(#[source] Error),
}

/// Mailboxes, through a server that takes mail for them.
pub struct Smtp {
    settings: Settings,
    tls: Option<TlsParameters>,
    hello: ClientId,
    free: Semaphore,
    /// The one used last at the back.
    idle: Mutex<VecDeque<Idle>>,
}

impl std::fmt::Debug for Smtp {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Smtp")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

struct Idle {
    connection: AsyncSmtpConnection,
    since: Instant,
}

impl Smtp {
    /// Connects only with the first message.
    ///
    /// # Errors
    /// [`SettingsError`], if settings are not usable or there is no TLS client.
    pub fn new(settings: Settings) -> Result<Self, SettingsError> {
        let address = settings.host.parse::<IpAddr>();
        if (address.is_err() && !is_host(&settings.host)) || settings.port == 0 {
            return Err(SettingsError::Host);
        }
        let is_here = settings.host == "localhost" || address.is_ok_and(|address| address.is_loopback());
        if settings.security == (Security::None { anywhere: false }) && !is_here {
            return Err(SettingsError::InTheClear);
        }
        let connections = settings.connections;
        if !(1..=MOST_CONNECTIONS).contains(&connections) || settings.idle > connections {
            return Err(SettingsError::Connections);
        }
        let hello = match &settings.hello {
            Some(name) if !is_host(name) => return Err(SettingsError::Hello),
            Some(name) => ClientId::Domain(name.clone()),
            None => match ClientId::default() {
                ClientId::Domain(name) if !is_host(&name) => ClientId::Ipv4(Ipv4Addr::LOCALHOST),
                hello => hello,
            },
        };
        let tls = match settings.security {
            Security::None { .. } => None,
            Security::StartTls | Security::Tls => Some(tls(&settings)?),
        };
        Ok(Self {
            tls,
            hello,
            free: Semaphore::new(connections),
            idle: Mutex::default(),
            settings,
        })
    }

    /// A connection that waits for a message.
    async fn connection(&self, deadline: Instant) -> Result<AsyncSmtpConnection, SendError> {
        while let Some(mut connection) = self.kept() {
            // Ends what the last message left, and shows that the server is still there. A new connection can be had in the rest of the time.
            let soon = Instant::now() + self.settings.limit / 4;
            match timeout_at(soon.min(deadline), connection.command("RSET\r\n")).await {
                Ok(Ok(answer)) if code(&answer) == 250 => return Ok(connection),
                // The server ended this one.
                Ok(_) => {}
                // It is not even told so: the others will be no better.
                Err(_) => self.idle.lock().clear(),
            }
        }
        match timeout_at(deadline, self.connect()).await {
            Ok(connected) => connected,
            Err(_) => Err(retry("no connection in time")),
        }
    }

    /// The one used last, of those that are not too old.
    fn kept(&self) -> Option<AsyncSmtpConnection> {
        let mut idle = self.idle.lock();
        idle.retain(|idle| idle.since.elapsed() < self.settings.idle_for);
        idle.pop_back().map(|idle| idle.connection)
    }

    /// A new connection, up to the login.
    async fn connect(&self) -> Result<AsyncSmtpConnection, SendError> {
        let Settings { host, port, .. } = &self.settings;
        let at_once = match self.settings.security {
            Security::Tls => self.tls.clone(),
            Security::StartTls | Security::None { .. } => None,
        };
        // A third, as a name may have addresses that do not answer.
        let each = Some(self.settings.limit / 3);
        let connected =
            AsyncSmtpConnection::connect_tokio1((host.as_str(), *port), each, &self.hello, at_once, None);
        let mut connection = connected
            .await
            .map_err(|error| unreachable("no connection", &error))?;
        if self.settings.security == Security::StartTls {
            if !connection.can_starttls() {
                return Err(retry("the server offers no STARTTLS"));
            }
            let Some(tls) = self.tls.clone() else {
                return Err(retry("no TLS client"));
            };
            let started = connection.starttls(tls, &self.hello).await;
            started.map_err(|error| unreachable("no TLS", &error))?;
        }
        if let Some(credentials) = &self.settings.credentials {
            login(&mut connection, credentials).await?;
        }
        Ok(connection)
    }

    /// One message over a connection that waits for one.
    async fn converse(
        &self,
        connection: &mut AsyncSmtpConnection,
        mail: &Mail,
        deadline: Instant,
    ) -> Result<Accepted, Failed> {
        let from = commands::Mail::new(Some(self.settings.from.address().clone()), Vec::new());
        said(Step::Sender, timeout_at(deadline, connection.command(from)).await)?;
        let to = commands::Rcpt::new(mail.to.clone(), Vec::new());
        said(
            Step::Recipient,
            timeout_at(deadline, connection.command(to)).await,
        )?;
        let data = connection.command(commands::Data);
        said(Step::Data, timeout_at(deadline, data).await)?;
        let message = connection.message(&mail.bytes);
        let answer = said(Step::Message, timeout_at(deadline, message).await)?;
        Ok(Accepted {
            reference: reference(&answer, mail.to.as_ref()),
        })
    }

    /// Keeps the connection for another message, or says goodbye.
    async fn put_back(&self, mut connection: AsyncSmtpConnection, deadline: Instant) {
        {
            let mut idle = self.idle.lock();
            idle.retain(|idle| idle.since.elapsed() < self.settings.idle_for);
            if idle.len() < self.settings.idle && !self.settings.idle_for.is_zero() {
                let since = Instant::now();
                idle.push_back(Idle { connection, since });
                return;
            }
        }
        // Whether the server answers that changes nothing any more.
        let soon = Instant::now() + GOODBYE;
        drop(timeout_at(soon.min(deadline), connection.quit()).await);
    }
}

#[async_trait]
impl Provider for Smtp {
    fn name(&self) -> &'static str {
        "smtp"
    }

    fn way(&self) -> Way {
        Way::Email
    }

    async fn send(&self, to: &Address, message: &Outgoing) -> Result<Accepted, SendError> {
        let Address::Email { address } = to else {
            return Err(SendError::Refused {
                reason: "not an e-mail address".to_owned(),
            });
        };
        let deadline = Instant::now() + self.settings.limit;
        let mail = mail::mail(&self.settings.from, address, message, self.settings.largest)?;
        let Ok(Ok(_free)) = timeout_at(deadline, self.free.acquire()).await else {
            return Err(retry("all connections are in use"));
        };
        let mut connection = self.connection(deadline).await?;
        // Dropped with this future where that is cancelled: nobody finds it in the middle of a message.
        let (sent, keep) = match self.converse(&mut connection, &mail, deadline).await {
            Ok(accepted) => (Ok(accepted), true),
            Err(Failed { error, keep }) => (Err(error), keep),
        };
        if keep {
            self.put_back(connection, deadline).await;
        }
        sent
    }
}

/// Letters, digits, hyphens and dots.
fn is_host(name: &str) -> bool {
    (1..=255).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'))
}

fn tls(settings: &Settings) -> Result<TlsParameters, SettingsError> {
    let mut tls = TlsParametersBuilder::new(settings.host.clone());
    if let Some(roots) = &settings.roots {
        // Nothing in it is no certificate either, and would trust nobody.
        let is_pem = roots.contains("-----BEGIN CERTIFICATE-----");
        let roots = Certificate::from_pem(roots.as_bytes()).map_err(|_| SettingsError::Roots)?;
        if !is_pem {
            return Err(SettingsError::Roots);
        }
        tls = tls
            .certificate_store(CertificateStore::None)
            .add_root_certificate(roots);
    }
    tls.build().map_err(|error| match &settings.roots {
        Some(_) => SettingsError::Roots,
        None => SettingsError::Tls(error),
    })
}

async fn login(connection: &mut AsyncSmtpConnection, credentials: &Credentials) -> Result<(), SendError> {
    const KNOWN: [Mechanism; 2] = [Mechanism::Plain, Mechanism::Login];
    if connection.server_info().get_auth_mechanism(&KNOWN).is_none() {
        return Err(SendError::Account {
            reason: "the server offers no login by PLAIN or LOGIN".to_owned(),
        });
    }
    let password = credentials.password.expose_secret().to_owned();
    let pair = authentication::Credentials::new(credentials.username.clone(), password);
    // The deadline is the caller's.
    let answer = connection.auth(&KNOWN, &pair).await;
    match said(Step::Login, Ok(answer)) {
        Ok(_) => Ok(()),
        Err(failed) => Err(failed.error),
    }
}

#[cfg(test)]
mod tests;
