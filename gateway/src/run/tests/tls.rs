//! TLS as clients and operators see it.

use std::path::Path;
use std::sync::Arc;

use futures_util::{SinkExt as _, StreamExt as _};
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, client_async};

use super::super::*;
use super::harness::{DEADLINE, Node, own_registry};

/// A folder with a certificate and its key.
struct Files(TempDir);

impl Files {
    /// With a first pair, and that pair's certificate.
    fn new() -> (Self, CertificateDer<'static>) {
        let files = Self(tempfile::tempdir().unwrap());
        let certificate = files.issue();
        (files, certificate)
    }

    /// Puts a new pair in the place of what is there.
    fn issue(&self) -> CertificateDer<'static> {
        let issued = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        self.write("key.pem", issued.signing_key.serialize_pem().as_bytes());
        self.write("certificate.pem", issued.cert.pem().as_bytes());
        issued.cert.into()
    }

    /// At once, as tools that renew certificates do it.
    fn write(&self, name: &str, contents: &[u8]) {
        let new = self.path().join("new");
        std::fs::write(&new, contents).unwrap();
        std::fs::rename(new, self.path().join(name)).unwrap();
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn keys(&self) -> String {
        format!(
            "[gateway.tls]\ncertificate_file = {:?}\nkey_file = {:?}\nreload_interval = \"50ms\"\n",
            self.path().join("certificate.pem"),
            self.path().join("key.pem")
        )
    }
}

/// Shakes hands as a client that trusts `certificates` alone.
async fn handshake(
    node: &Node,
    certificates: &[&CertificateDer<'static>],
    version: &'static rustls::SupportedProtocolVersion,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add((*certificate).clone()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(node.address).await?;
    let name = "localhost".try_into().unwrap();
    let connecting = TlsConnector::from(Arc::new(config)).connect(name, stream);
    tokio::time::timeout(DEADLINE, connecting)
        .await
        .expect("a handshake in time")
}

struct Client(WebSocketStream<TlsStream<TcpStream>>);

impl Client {
    async fn open(node: &Node, certificates: &[&CertificateDer<'static>]) -> Self {
        let stream = handshake(node, certificates, &rustls::version::TLS13)
            .await
            .unwrap();
        let (socket, _) = client_async(format!("wss://localhost{}", upgrade::PATH), stream)
            .await
            .unwrap();
        let mut client = Self(socket);
        assert!(client.ask(r#"{"id":1,"connect":{}}"#).await.contains("client"));
        client
    }

    async fn ask(&mut self, command: &str) -> String {
        self.0.send(Message::text(command)).await.unwrap();
        let answer = tokio::time::timeout(DEADLINE, self.0.next())
            .await
            .expect("an answer in time");
        answer.unwrap().unwrap().into_text().unwrap().to_string()
    }

    async fn assert_lives(&mut self) {
        assert!(self.ask(r#"{"id":2,"rpc":{}}"#).await.contains("108"));
    }

    fn certificate(&self) -> CertificateDer<'static> {
        let (_, session) = self.0.get_ref().get_ref();
        session.peer_certificates().unwrap()[0].clone()
    }
}

fn reloads(node: &Node, result: &str) -> u64 {
    node.metric(&format!(
        "switchboard_gateway_tls_reloads_total{{result=\"{result}\"}}"
    ))
}

#[tokio::test]
async fn websockets_and_pages_over_tls() {
    let (files, certificate) = Files::new();
    let node = Node::insecure(&files.keys()).await;
    Client::open(&node, &[&certificate]).await.assert_lives().await;
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let mut stream = handshake(&node, &[&certificate], version).await.unwrap();
        stream
            .write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
            .await
            .unwrap();
        let mut page = String::new();
        tokio::time::timeout(DEADLINE, stream.read_to_string(&mut page))
            .await
            .unwrap()
            .unwrap();
        assert!(page.ends_with("demo"), "{page}");
    }
}

#[tokio::test]
async fn a_new_certificate_is_for_new_connections() {
    let (files, before) = Files::new();
    let node = Node::insecure(&files.keys()).await;
    let mut old = Client::open(&node, &[&before]).await;
    let after = files.issue();
    assert_ne!(before, after);
    let reloaded = async {
        while Client::open(&node, &[&before, &after]).await.certificate() != after {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(DEADLINE, reloaded)
        .await
        .expect("the new certificate is served in time");
    assert!(
        handshake(&node, &[&before], &rustls::version::TLS13)
            .await
            .is_err()
    );
    old.assert_lives().await;
    assert_eq!(reloads(&node, "done"), 1);
}

#[tokio::test]
async fn a_bad_certificate_changes_nothing() {
    let (files, certificate) = Files::new();
    let node = Node::insecure(&files.keys()).await;
    let failed = "switchboard_gateway_tls_reloads_total{result=\"failed\"}";
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    for (number, (name, contents)) in (1..).zip([
        ("certificate.pem", "garbage"),
        ("certificate.pem", ""),
        (
            "certificate.pem",
            "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n",
        ),
        // Another's: no pair.
        ("certificate.pem", &other.cert.pem()),
        ("key.pem", "garbage"),
    ]) {
        files.write(name, contents.as_bytes());
        node.until(failed, number).await;
        Client::open(&node, &[&certificate]).await.assert_lives().await;
    }
    std::fs::remove_file(files.path().join("key.pem")).unwrap();
    node.until(failed, 6).await;
    let mut old = Client::open(&node, &[&certificate]).await;
    let after = files.issue();
    node.until("switchboard_gateway_tls_reloads_total{result=\"done\"}", 1)
        .await;
    assert_eq!(Client::open(&node, &[&after]).await.certificate(), after);
    old.assert_lives().await;
}

#[tokio::test]
async fn who_does_not_speak_tls_is_turned_away() {
    let (files, certificate) = Files::new();
    let keys = format!("{}[gateway.limits]\nhandshake_timeout = \"1s\"", files.keys());
    let node = Node::insecure(&keys).await;
    let mut bystander = Client::open(&node, &[&certificate]).await;
    // Plain HTTP, nonsense, and nothing at all.
    for (number, said) in (1..).zip([&b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"[..], &[0xff; 4096], b""]) {
        let mut stream = TcpStream::connect(node.address).await.unwrap();
        stream.write_all(said).await.unwrap();
        let mut answer = Vec::new();
        let read = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer));
        drop(read.await.expect("closed in time"));
        assert!(!answer.starts_with(b"HTTP"));
        node.until(
            "switchboard_gateway_refused_total{reason=\"tls_handshake\"}",
            number,
        )
        .await;
    }
    bystander.assert_lives().await;
    node.until("switchboard_gateway_http_connections", 0).await;
}

/// A handshake is what a flood of connections costs most, so it is not even begun.
#[tokio::test]
async fn who_comes_too_quickly_gets_no_handshake() {
    let (files, certificate) = Files::new();
    let keys = format!(
        "{}[gateway.limits]\nconnect_rate = 1\nconnect_burst = 1",
        files.keys()
    );
    let node = Node::insecure(&keys).await;
    let mut first = Client::open(&node, &[&certificate]).await;
    let refused = async {
        while handshake(&node, &[&certificate], &rustls::version::TLS13)
            .await
            .is_ok()
        {}
    };
    tokio::time::timeout(DEADLINE, refused).await.unwrap();
    assert_eq!(
        node.metric("switchboard_gateway_refused_total{reason=\"address_rate\"}"),
        1
    );
    assert_eq!(
        node.metric("switchboard_gateway_refused_total{reason=\"tls_handshake\"}"),
        0
    );
    first.assert_lives().await;
}

#[tokio::test]
async fn it_does_not_start_without_a_good_pair() {
    let (files, _) = Files::new();
    files.write("key.pem", b"garbage");
    let problem = |text: String| async move {
        let mut document = switchboard_service_kit::config::Document::parse(&text, []).unwrap();
        let config = Config::read(&mut document);
        document.finish().map_err(|faults| faults.to_string())?;
        let deps = Deps {
            data: None,
            bus: switchboard_bus::embedded::EmbeddedBus::new(
                switchboard_bus::SubjectPrefix::new("test").unwrap(),
            ),
            shards: ShardCount::new(1).unwrap(),
            registry: own_registry(),
            extra: Router::new(),
        };
        let started = start(config, deps, Context::new()).await.map(drop);
        started.map_err(|error| switchboard_service_kit::run::chain(&error))
    };
    let keys = |rest: &str| format!("[gateway]\nlisten = \"127.0.0.1:0\"\n{rest}");
    let refusal = problem(keys(&files.keys())).await.unwrap_err();
    assert!(
        refusal.contains("gateway.tls.key_file") && refusal.contains("key.pem"),
        "{refusal}"
    );
    let missing = files.keys().replace("certificate.pem", "missing.pem");
    let refusal = problem(keys(&missing)).await.unwrap_err();
    assert!(
        refusal.contains("missing.pem") && refusal.contains("No such file"),
        "{refusal}"
    );
    let half = "[gateway.tls]\ncertificate_file = \"a.pem\"";
    let refusal = problem(keys(half)).await.unwrap_err();
    assert!(refusal.contains("gateway.tls.key_file"), "{refusal}");
}
