//! Whom to believe that a `wss://` server is who it says it is.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;

/// The authorities whose certificates are good. Read once, and cheap to clone: for many connections.
#[derive(Clone)]
pub struct Tls(Arc<ClientConfig>);

/// Why no authorities are there to believe.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// This machine has none, or they cannot be read.
    #[error("no certificate authorities are found on this machine: install ca-certificates, or name a file{}", details(.0))]
    NoneHere(Vec<String>),
    /// The file cannot be read, or is no PEM.
    #[error("certificate authorities of {}: {why}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The library refuses.
    #[error("TLS: {0}")]
    Rustls(#[from] rustls::Error),
}

fn details(errors: &[String]) -> String {
    match errors.first() {
        Some(first) => format!(" ({first})"),
        None => String::new(),
    }
}

impl Tls {
    /// What this machine trusts: the files that OpenSSL would read, or what SSL_CERT_FILE and SSL_CERT_DIR name.
    /// Reads files, and blocks for as long.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn of_this_machine() -> Result<Self, TlsError> {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        // Some machines hold one that is malformed; the others are still good.
        let (added, _) = roots.add_parsable_certificates(found.certs);
        if added == 0 {
            return Err(TlsError::NoneHere(
                found.errors.iter().map(ToString::to_string).collect(),
            ));
        }
        Self::new(roots)
    }

    /// The authorities of a PEM file, and no others. A server's own certificate, where it signed it itself, is one too.
    /// Reads the file, and blocks for as long.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn with_ca_file(path: &Path) -> Result<Self, TlsError> {
        let wrong = |why: String| TlsError::File {
            path: path.to_owned(),
            why,
        };
        let certificates = CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| wrong(error.to_string()))?;
        let mut roots = RootCertStore::empty();
        for certificate in certificates {
            roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
        }
        if roots.is_empty() {
            return Err(wrong(
                "no certificate in it; one begins with -----BEGIN CERTIFICATE-----".to_owned(),
            ));
        }
        Self::new(roots)
    }

    fn new(roots: RootCertStore) -> Result<Self, TlsError> {
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self(Arc::new(config)))
    }

    pub(crate) fn connector(&self) -> TlsConnector {
        TlsConnector::from(Arc::clone(&self.0))
    }
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls")
    }
}
