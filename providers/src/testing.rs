//! A server that stands for a provider's: it answers as it is told, and keeps what it was asked.

use std::collections::{BTreeMap, VecDeque};
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::agreement::{self, ECDH_P256, PrivateKey, UnparsedPublicKey};
use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
use aws_lc_rs::hmac;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, Version};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::{Address, Outgoing, Urgency};

/// A message with the least.
pub(crate) fn hello() -> Outgoing {
    Outgoing {
        id: uuid::Uuid::from_u128(0x0192_3e6a_7b2c_7000_8000_0000_0000_0001),
        title: "Ann".to_owned(),
        body: "Hello".to_owned(),
        ..Outgoing::default()
    }
}

/// A message with all that a device can be told.
pub(crate) fn mention() -> Outgoing {
    Outgoing {
        category: "mention".to_owned(),
        data: BTreeMap::from([("channel".to_owned(), "room:1".to_owned())]),
        link: Some("https://chat.example.org/room/1".to_owned()),
        collapse: Some("room:1".to_owned()),
        badge: Some(3),
        urgency: Urgency::High,
        expires_in: Some(Duration::from_secs(3600)),
        ..hello()
    }
}

/// What the server was asked.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) version: Version,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Asked {
    /// A header that is there once, as text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.get_all(name).iter();
        let value = values.next()?.to_str().unwrap();
        assert!(values.next().is_none(), "{name} is there twice");
        Some(value)
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// What the server answers.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: String,
    is_never: bool,
}

impl Reply {
    pub(crate) fn new(status: u16, body: impl Into<String>) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: body.into(),
            is_never: false,
        }
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// The request is taken and not answered.
    pub(crate) fn never() -> Self {
        Self {
            is_never: true,
            ..Self::new(200, "")
        }
    }
}

#[derive(Default)]
struct Board {
    replies: Mutex<VecDeque<Reply>>,
    asked: Mutex<Vec<Asked>>,
    connections: AtomicUsize,
}

/// The server. It ends with the test's runtime.
pub(crate) struct Fake {
    board: Arc<Board>,
    pub(crate) address: SocketAddr,
    /// Its certificate in PEM, where it speaks TLS.
    pub(crate) root: Option<String>,
}

/// What a server speaks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speaks {
    Http,
    /// TLS, and what its client chooses of the protocols.
    Tls(&'static [&'static str]),
}

impl Fake {
    /// HTTP/1.1 on this machine; answers in order. Without an answer left it says 599, which no provider knows.
    pub(crate) async fn start(replies: impl IntoIterator<Item = Reply>) -> Self {
        Self::speaking(Speaks::Http, replies).await
    }

    pub(crate) async fn speaking(speaks: Speaks, replies: impl IntoIterator<Item = Reply>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let board = Arc::new(Board::default());
        board.replies.lock().extend(replies);
        let router = Router::new().fallback(answer).with_state(Arc::clone(&board));
        let root = match speaks {
            Speaks::Http => {
                spawn(async move { axum::serve(listener, router).await.unwrap() });
                None
            }
            Speaks::Tls(protocols) => {
                let (acceptor, root) = tls(protocols);
                spawn(serve_tls(listener, acceptor, router, Arc::clone(&board)));
                Some(root)
            }
        };
        Self { board, address, root }
    }

    /// `http://127.0.0.1:…` or `https://localhost:…`.
    pub(crate) fn url(&self) -> String {
        match self.root {
            None => format!("http://{}", self.address),
            Some(_) => format!("https://localhost:{}", self.address.port()),
        }
    }

    /// More answers.
    pub(crate) fn replies(&self, replies: impl IntoIterator<Item = Reply>) {
        self.board.replies.lock().extend(replies);
    }

    /// All it was asked so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.board.asked.lock().clone()
    }

    /// Connections so far, where it speaks TLS.
    pub(crate) fn connections(&self) -> usize {
        self.board.connections.load(Ordering::Relaxed)
    }

    /// What it was asked, which is one thing.
    pub(crate) fn only(&self) -> Asked {
        let mut asked = self.asked();
        assert_eq!(asked.len(), 1, "{asked:?}");
        asked.remove(0)
    }
}

async fn answer(State(board): State<Arc<Board>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let reply = board
        .replies
        .lock()
        .pop_front()
        .unwrap_or_else(|| Reply::new(599, "no answer left"));
    board.asked.lock().push(Asked {
        method: parts.method,
        path: parts.uri.path_and_query().unwrap().to_string(),
        version: parts.version,
        headers: parts.headers,
        body,
    });
    if reply.is_never {
        std::future::pending::<()>().await;
    }
    let mut response = Response::builder().status(StatusCode::from_u16(reply.status).unwrap());
    for (name, value) in reply.headers {
        response = response.header(name, value);
    }
    response.body(Body::from(reply.body)).unwrap()
}

fn tls(protocols: &[&str]) -> (TlsAcceptor, String) {
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    (TlsAcceptor::from(Arc::new(config)), certified.cert.pem())
}

async fn serve_tls(listener: TcpListener, acceptor: TlsAcceptor, router: Router, board: Arc<Board>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        board.connections.fetch_add(1, Ordering::Relaxed);
        let (acceptor, router) = (acceptor.clone(), router.clone());
        spawn(async move {
            // A client that does not like the certificate or the protocols ends the handshake.
            let Ok(stream) = acceptor.accept(stream).await else {
                return;
            };
            let service = TowerToHyperService::new(router);
            let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            drop(server.serve_connection(TokioIo::new(stream), service).await);
        });
    }
}

/// Python with the libraries that tests ask for an opinion of their own.
pub(crate) fn python() -> Command {
    let libraries = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools/python");
    assert!(libraries.join("aiosmtpd").is_dir(), "run testkit/install-tools");
    let mut python = Command::new("python3");
    python.env("PYTHONPATH", libraries);
    python
}

/// What a program in Python says, as JSON, of what it is given.
pub(crate) fn asked_python(script: &Path, input: &[u8]) -> serde_json::Value {
    let mut child = python()
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", script.display());
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A file beside the sources.
pub(crate) fn source(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(path)
}

/// A mail as a mail client reads it: see `mail/read.py`.
pub(crate) fn read_mail(mail: &[u8]) -> serde_json::Value {
    asked_python(&source("mail/read.py"), mail)
}

/// All of a mail that a reader can see.
pub(crate) fn letter() -> Outgoing {
    Outgoing {
        title: "Grüße von Ann: 3 новых сообщения 🦀, und noch ein recht langer Betreff dazu".to_owned(),
        body: "Hallo Jürgen,\n.\n..zwei Punkte\nkommst du?".to_owned(),
        html: Some("<p>Hallo <b>Jürgen</b>,<br>kommst du?</p>".to_owned()),
        unsubscribe: Some("https://chat.example.org/unsubscribe?token=a.b-c_d%2F&user=1".to_owned()),
        ..mention()
    }
}

/// The headers of that name in what [`read_mail`] says.
pub(crate) fn headers<'a>(mail: &'a serde_json::Value, name: &str) -> Vec<&'a str> {
    let all = mail["headers"].as_array().unwrap();
    let named = all.iter().filter(|header| header[0] == name);
    named.map(|header| header[1].as_str().unwrap()).collect()
}

/// Moves the clock of tokio on; the wall clock stays.
pub(crate) async fn later(by: Duration) {
    tokio::time::pause();
    tokio::time::advance(by).await;
    tokio::time::resume();
}

/// A private key in PEM (PKCS#8) and its public half as `DecodingKey` takes it.
pub(crate) struct TestKey {
    pub(crate) pem: String,
    pub(crate) public: Vec<u8>,
}

impl TestKey {
    pub(crate) fn rsa() -> Self {
        let pair = aws_lc_rs::rsa::KeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048).unwrap();
        let der: Pkcs8V1Der<'_> = pair.as_der().unwrap();
        Self {
            pem: pem(der.as_ref()),
            public: pair.public_key().as_ref().to_vec(),
        }
    }

    pub(crate) fn p256() -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        Self {
            pem: pem(pair.to_pkcs8v1().unwrap().as_ref()),
            public: pair.public_key().as_ref().to_vec(),
        }
    }
}

pub(crate) fn pem(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> = text
        .as_bytes()
        .chunks(64)
        .map(|line| std::str::from_utf8(line).unwrap())
        .collect();
    format!(
        "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
        lines.join("\n")
    )
}

#[expect(clippy::disallowed_methods, reason = "it ends with its test")]
fn spawn(future: impl Future<Output = ()> + Send + 'static) {
    drop(tokio::spawn(future));
}

/// A browser with a subscription: it reads what was sealed for it, by the letter of RFC 8291 and RFC 8188 and without the code under test.
pub(crate) struct Browser {
    key: PrivateKey,
    auth: [u8; 16],
}

impl Browser {
    pub(crate) fn new() -> Self {
        let mut auth = [0; 16];
        aws_lc_rs::rand::fill(&mut auth).unwrap();
        Self::with(PrivateKey::generate(&ECDH_P256).unwrap(), auth)
    }

    pub(crate) fn with(key: PrivateKey, auth: [u8; 16]) -> Self {
        Self { key, auth }
    }

    pub(crate) fn p256dh(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.key.compute_public_key().unwrap())
    }

    pub(crate) fn auth(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.auth)
    }

    pub(crate) fn address(&self, endpoint: &str) -> Address {
        Address::WebPush {
            endpoint: endpoint.to_owned(),
            p256dh: self.p256dh(),
            auth: self.auth(),
        }
    }

    /// The plain text, and bytes of padding.
    pub(crate) fn read(&self, body: &[u8]) -> (Vec<u8>, usize) {
        let mac = |key: &[u8], parts: &[&[u8]]| {
            let key = hmac::Key::new(hmac::HMAC_SHA256, key);
            hmac::sign(&key, &parts.concat()).as_ref().to_vec()
        };
        let (salt, rest) = body.split_at(16);
        let (size, rest) = rest.split_at(4);
        let size = usize::try_from(u32::from_be_bytes(size.try_into().unwrap())).unwrap();
        let (theirs, sealed) = rest[1..].split_at(usize::from(rest[0]));
        assert!(sealed.len() <= size, "more than one record");
        let own = self.key.compute_public_key().unwrap();
        let peer = UnparsedPublicKey::new(&ECDH_P256, theirs);
        let secret = agreement::agree(&self.key, peer, (), |secret| Ok(secret.to_vec())).unwrap();

        let prk = mac(&self.auth, &[&secret]);
        let keying = mac(&prk, &[b"WebPush: info\0", own.as_ref(), theirs, &[1]]);
        let prk = mac(salt, &[&keying]);
        let key = mac(&prk, &[b"Content-Encoding: aes128gcm\0", &[1]]);
        let nonce = mac(&prk, &[b"Content-Encoding: nonce\0", &[1]]);

        let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &key[..16]).unwrap());
        let nonce = Nonce::try_assume_unique_for_key(&nonce[..12]).unwrap();
        let mut sealed = sealed.to_vec();
        let open = key.open_in_place(nonce, Aad::empty(), &mut sealed).unwrap();
        let end = open.iter().rposition(|byte| *byte != 0).unwrap();
        assert_eq!(open[end], 2, "not the last record");
        (open[..end].to_vec(), open.len() - end - 1)
    }
}
