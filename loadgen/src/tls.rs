//! Whom to trust behind `wss://`: exactly the certificates of a file, so that a run can be made against a server with one of
//! its own.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

/// # Errors
/// A file that cannot be read, or holds no certificate.
pub(crate) fn trust(file: &Path) -> anyhow::Result<Arc<ClientConfig>> {
    let what = || format!("certificates of {}", file.display());
    let mut trusted = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).with_context(what)? {
        trusted.add(certificate.with_context(what)?).with_context(what)?;
    }
    ensure!(!trusted.is_empty(), "{} holds no certificate", file.display());
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(trusted)
        .with_no_client_auth();
    Ok(Arc::new(config))
}
