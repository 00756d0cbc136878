//! TLS of what a service serves, with a certificate that is replaced while the service runs.
//!
//! Certificates are renewed every few weeks, and a gateway should hold its clients' connections for
//! longer than that. So the files are looked at every few seconds (their contents: what orchestrators
//! mount changes by a link far above it), and on SIGHUP. New connections get what is new; those that
//! are open keep what they have. A file that is no good changes nothing.
//!
//! Where there is a file of authorities, who connects has to show a certificate that one of them signed.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{self, Digest};
use parking_lot::RwLock;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::AsyncReadExt as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::config::Section;
use crate::run::chain;

/// What a certificate or key file holds, at most: some chains are long, none is this long.
const MAX_FILE: u64 = 1024 * 1024;

/// What is spoken behind TLS where only HTTP/1.1 is.
pub const HTTP1: &[&[u8]] = &[b"http/1.1"];

/// What is spoken where gRPC is.
pub const HTTP: &[&[u8]] = &[b"h2", b"http/1.1"];

/// A section such as `[gateway.tls]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsConfig {
    section: String,
    certificate: PathBuf,
    key: PathBuf,
    authorities: Option<PathBuf>,
    reload_interval: Duration,
    spoken: &'static [&'static [u8]],
}

impl TlsConfig {
    /// Reads the section; `None`: the service speaks without TLS. `spoken`: such as [`HTTP1`]; `with_it`: what the certificate means, in
    /// words.
    pub fn read(section: &mut Section<'_>, spoken: &'static [&'static [u8]], with_it: &str) -> Option<Self> {
        let certificate = section.optional_text(
            "certificate_file",
            &format!("PEM file of the certificate and its chain, the server's own first. {with_it}"),
        );
        let key = section.optional_text("key_file", "PEM file of the certificate's private key.");
        let reload_interval = section.duration(
            "reload_interval",
            Duration::from_secs(10),
            Duration::from_millis(50)..=Duration::from_secs(3600),
            "How often the files are looked at; a change is in force for new connections, without a restart. SIGHUP looks at \
             once.",
        );
        match (certificate, key) {
            (Some(certificate), Some(key)) => Some(Self {
                section: section.path_in_document().to_owned(),
                certificate: certificate.into(),
                key: key.into(),
                authorities: None,
                reload_interval,
                spoken,
            }),
            (None, None) => None,
            (Some(_), None) => {
                section.fault(
                    "key_file",
                    "missing beside certificate_file",
                    "name the file of its private key",
                );
                None
            }
            (None, Some(_)) => {
                section.fault(
                    "certificate_file",
                    "missing beside key_file",
                    "name the file of its certificate",
                );
                None
            }
        }
    }

    /// As [`Self::read`], also of who may connect.
    pub fn read_mutual(
        section: &mut Section<'_>,
        spoken: &'static [&'static [u8]],
        with_it: &str,
    ) -> Option<Self> {
        let tls = Self::read(section, spoken, with_it);
        let authorities = section.optional_text(
            "client_ca_file",
            "PEM file of authorities. With it who connects has to show a certificate that one of them signed (mTLS). Not set: none is asked for.",
        );
        match (tls, authorities) {
            (Some(tls), authorities) => Some(Self {
                authorities: authorities.map(PathBuf::from),
                ..tls
            }),
            (None, Some(_)) => {
                section.fault(
                    "client_ca_file",
                    "given without certificate_file and key_file",
                    "name them too, or remove it",
                );
                None
            }
            (None, None) => None,
        }
    }

    fn named(&self, key: &str) -> String {
        format!("{}.{key}", self.section)
    }

    /// Whether who connects has to show a certificate.
    pub fn is_mutual(&self) -> bool {
        self.authorities.is_some()
    }
}

/// Why a certificate cannot be used. Holds nothing of a key.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{key} {} cannot be read", path.display())]
    Read {
        /// The configuration's key.
        key: String,
        /// What it names.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file does not hold what it should.
    #[error("{key} {} {problem}", path.display())]
    Content {
        /// The configuration's key.
        key: String,
        /// What it names.
        path: PathBuf,
        /// What is wrong, and what to do.
        problem: &'static str,
    },
    /// Certificate and key are not usable, or not a pair.
    #[error(
        "certificate {} and key {} cannot be used together; are they of the same issue?",
        certificate.display(), key.display()
    )]
    Pair {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What rustls says.
        #[source]
        source: rustls::Error,
    },
}

const CERTIFICATE: &str = "certificate_file";
const KEY: &str = "key_file";
const AUTHORITIES: &str = "client_ca_file";

/// See the module.
pub struct Tls {
    config: TlsConfig,
    current: RwLock<Arc<ServerConfig>>,
}

/// What the files held when they were last looked at; `None`: they could not be read.
pub struct Seen(Option<Digest>);

impl Tls {
    /// Reads certificate and key for the first time.
    ///
    /// # Errors
    /// [`TlsError`]; there is nothing to keep yet.
    pub async fn load(config: TlsConfig) -> Result<(Arc<Self>, Seen), TlsError> {
        let files = Files::read(&config).await?;
        let seen = Seen(Some(files.digest()));
        let current = RwLock::new(files.server(&config)?);
        Ok((Arc::new(Self { config, current }), seen))
    }

    /// Shakes hands with the certificate that is in force now.
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.current.read()))
    }

    /// Looks at the files until `stop`, and tells `reloaded` whether what is new is good.
    pub async fn watch(
        self: Arc<Self>,
        mut seen: Seen,
        reloaded: impl Fn(bool) + Send,
        stop: CancellationToken,
    ) {
        let mut hang_up = match signal(SignalKind::hangup()) {
            Ok(hang_up) => Some(hang_up),
            Err(error) => {
                tracing::warn!(%error, "SIGHUP is not listened to; certificates are reloaded by the clock alone");
                None
            }
        };
        loop {
            let asked = async {
                match &mut hang_up {
                    Some(hang_up) => hang_up.recv().await,
                    None => std::future::pending().await,
                }
            };
            let asked = tokio::select! {
                () = tokio::time::sleep(self.config.reload_interval) => false,
                _ = asked => true,
                () = stop.cancelled() => return,
            };
            let changed = self.look(&mut seen, &reloaded).await;
            if asked && !changed {
                tracing::info!("SIGHUP: the TLS certificate has not changed");
            }
        }
    }

    /// Takes over what is new, if it is good. Whether there was anything new.
    async fn look(&self, seen: &mut Seen, reloaded: &(impl Fn(bool) + Send)) -> bool {
        let files = Files::read(&self.config).await;
        let digest = files.as_ref().ok().map(Files::digest);
        if digest.as_ref().map(Digest::as_ref) == seen.0.as_ref().map(Digest::as_ref) {
            return false;
        }
        // Also where it is no good: that is said once.
        *seen = Seen(digest);
        match files.and_then(|files| files.server(&self.config)) {
            Ok(server) => {
                *self.current.write() = server;
                reloaded(true);
                tracing::info!(certificate = %self.config.certificate.display(), "TLS certificate reloaded; new connections get it");
            }
            Err(error) => {
                reloaded(false);
                tracing::warn!(
                    error = chain(&error),
                    "new TLS certificate is not used, the one before stays in force; put a good pair in its place"
                );
            }
        }
        true
    }
}

/// The contents of the files.
struct Files {
    certificate: Vec<u8>,
    key: Vec<u8>,
    authorities: Option<Vec<u8>>,
}

impl Files {
    async fn read(config: &TlsConfig) -> Result<Self, TlsError> {
        Ok(Self {
            certificate: read_file(config.named(CERTIFICATE), &config.certificate).await?,
            key: read_file(config.named(KEY), &config.key).await?,
            authorities: match &config.authorities {
                Some(path) => Some(read_file(config.named(AUTHORITIES), path).await?),
                None => None,
            },
        })
    }

    fn digest(&self) -> Digest {
        let mut all = digest::Context::new(&digest::SHA256);
        // The length keeps the end of one from passing for the beginning of the other.
        for file in [
            Some(&self.certificate),
            Some(&self.key),
            self.authorities.as_ref(),
        ]
        .into_iter()
        .flatten()
        {
            all.update(&file.len().to_le_bytes());
            all.update(file);
        }
        all.finish()
    }

    fn server(&self, config: &TlsConfig) -> Result<Arc<ServerConfig>, TlsError> {
        let content = |key, path: &Path, problem| TlsError::Content {
            key: config.named(key),
            path: path.to_owned(),
            problem,
        };
        // What the parser says would hold lines of the file.
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&self.certificate)
            .collect::<Result<_, _>>()
            .map_err(|_| content(CERTIFICATE, &config.certificate, "is not well-formed PEM"))?;
        if chain.is_empty() {
            let problem = "holds no certificate; it should begin with -----BEGIN CERTIFICATE-----";
            return Err(content(CERTIFICATE, &config.certificate, problem));
        }
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(|_| {
            let problem = "holds no private key that is not encrypted; it should begin with -----BEGIN PRIVATE KEY-----";
            content(KEY, &config.key, problem)
        })?;
        let pair = |source| TlsError::Pair {
            certificate: config.certificate.clone(),
            key: config.key.clone(),
            source,
        };
        let provider = Arc::new(default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(pair)?;
        let builder = match (&self.authorities, &config.authorities) {
            (Some(contents), Some(path)) => {
                let none = || {
                    content(
                        AUTHORITIES,
                        path,
                        "holds no certificate of an authority that can be used",
                    )
                };
                let mut roots = RootCertStore::empty();
                for authority in CertificateDer::pem_slice_iter(contents) {
                    roots.add(authority.map_err(|_| none())?).map_err(|_| none())?;
                }
                // Without any there is none, too.
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(verifier.build().map_err(|_| none())?)
            }
            _ => builder.with_no_client_auth(),
        };
        let mut server = builder.with_single_cert(chain, key).map_err(pair)?;
        server.alpn_protocols = config.spoken.iter().map(|name| name.to_vec()).collect();
        Ok(Arc::new(server))
    }
}

async fn read_file(key: String, path: &Path) -> Result<Vec<u8>, TlsError> {
    let failed = |source| TlsError::Read {
        key: key.clone(),
        path: path.to_owned(),
        source,
    };
    let file = tokio::fs::File::open(path).await.map_err(failed)?;
    let mut contents = Vec::new();
    file.take(MAX_FILE + 1)
        .read_to_end(&mut contents)
        .await
        .map_err(failed)?;
    if contents.len() as u64 > MAX_FILE {
        return Err(TlsError::Content {
            key,
            path: path.to_owned(),
            problem: "is larger than 1 MiB, so it is no PEM file of a certificate or key",
        });
    }
    Ok(contents)
}
