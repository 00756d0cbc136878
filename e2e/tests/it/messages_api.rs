//! `MessageService` over gRPC, asked by a Python client that is generated from our `.proto`: with a key, and with certificates.

use std::path::Path;

use anyhow::{Context as _, Result};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use crate::system::{API_KEY, System};
use crate::tools;

const KEY: &str = "a-key-of-tests-for-the-message-store";

async fn asked(grpc: &str, environment: &[(&str, &str)]) -> Result<()> {
    let data = tempfile::tempdir()?;
    let sections = format!(
        "[bus.embedded]\npath = {:?}\n[persistence]\nstore = \"sqlite\"\n[persistence.sqlite]\npath = {:?}\n\
         [persistence.grpc]\nenabled = true\nlisten = \"127.0.0.1:0\"\n{grpc}\n",
        data.path().join("log"),
        data.path().join("messages.db")
    );
    let system = System::one(&sections).await?;
    let (apis, address) = (system.api_urls(), system.messages_address()?);
    let mut all = vec![
        ("SWITCHBOARD_MESSAGES", address.as_str()),
        ("SWITCHBOARD_API_ENDPOINT", apis.first().context("an API")?),
        ("SWITCHBOARD_API_KEY", API_KEY),
    ];
    all.extend(environment);
    tools::python("messages_test", &all).await?;
    system.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_told_to_who_has_the_key() -> Result<()> {
    asked(&format!("key = {KEY:?}"), &[("SWITCHBOARD_MESSAGES_KEY", KEY)]).await
}

/// Writes an authority, and two certificates that it signed: the server's and a client's.
fn certificates(folder: &Path) -> Result<()> {
    let mut params = CertificateParams::new(Vec::new())?;
    // Another name than what it signs has by default, which would pass for signed by itself.
    params
        .distinguished_name
        .push(DnType::CommonName, "authority of tests");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate()?;
    std::fs::write(folder.join("ca.pem"), params.self_signed(&key)?.pem())?;
    let authority = Issuer::new(params, key);
    for (name, subject) in [("server", "127.0.0.1"), ("client", "backend")] {
        let key = KeyPair::generate()?;
        let signed = CertificateParams::new(vec![subject.to_owned()])?.signed_by(&key, &authority)?;
        std::fs::write(folder.join(format!("{name}.pem")), signed.pem())?;
        std::fs::write(folder.join(format!("{name}-key.pem")), key.serialize_pem())?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_told_to_who_shows_a_certificate() -> Result<()> {
    let folder = tempfile::tempdir()?;
    certificates(folder.path())?;
    let tls = format!(
        "[persistence.grpc.tls]\ncertificate_file = {:?}\nkey_file = {:?}\nclient_ca_file = {:?}\n",
        folder.path().join("server.pem"),
        folder.path().join("server-key.pem"),
        folder.path().join("ca.pem")
    );
    let path = folder.path().to_string_lossy();
    asked(&tls, &[("SWITCHBOARD_MESSAGES_TLS", &path)]).await
}
