//! Which address counts behind proxies. What is seen of it is the limit of connections by address.

use switchboard_testkit::Logged;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::{WebSocketStream, client_async};

use super::harness::{DEADLINE, Node};

/// Opens a WebSocket as a proxy would pass it on: `preface` first, then the request with
/// `forwarded_for`. Its status, and the socket if there is one.
async fn open(
    node: &Node,
    preface: &[u8],
    forwarded_for: Option<&str>,
) -> (u16, Option<WebSocketStream<TcpStream>>) {
    let mut stream = TcpStream::connect(node.address).await.unwrap();
    stream.write_all(preface).await.unwrap();
    let mut request = node.url().into_client_request().unwrap();
    if let Some(chain) = forwarded_for {
        request
            .headers_mut()
            .insert("x-forwarded-for", chain.parse().unwrap());
    }
    match client_async(request, stream).await {
        Ok((socket, _)) => (101, Some(socket)),
        Err(Error::Http(response)) => (response.status().as_u16(), None),
        Err(other) => panic!("{other}"),
    }
}

fn version_2(source: [u8; 4]) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    header.extend(source);
    header.extend([10, 0, 0, 1, 0x12, 0x67, 1, 0xbb]);
    header
}

#[tokio::test]
async fn a_trusted_proxy_names_the_client() {
    let node = Node::insecure(
        "[gateway.proxies]\ntrusted = [\"127.0.0.1\", \"10.0.0.0/8\"]\n[gateway.limits]\nconnections_per_address = 1",
    )
    .await;
    let mut open_sockets = Vec::new();
    for (chain, expected) in [
        ("192.0.2.1", 101),
        ("192.0.2.1", 429),
        // Not the client's own invention, and through a second proxy.
        ("198.51.100.1, 192.0.2.1", 429),
        ("198.51.100.1, 192.0.2.1, 10.0.0.7", 429),
        ("192.0.2.2", 101),
    ] {
        let (status, socket) = open(&node, b"", Some(chain)).await;
        assert_eq!(status, expected, "{chain}");
        open_sockets.extend(socket);
    }
    assert_eq!(
        node.metric("switchboard_gateway_refused_total{reason=\"address_limit\"}"),
        3
    );
}

#[tokio::test]
async fn new_connections_through_a_proxy_count_for_the_client() {
    let node = Node::insecure(
        "[gateway.proxies]\ntrusted = [\"127.0.0.1\"]\n[gateway.limits]\nconnect_rate = 1\nconnect_burst = 1",
    )
    .await;
    for client in ["192.0.2.1", "192.0.2.2", "192.0.2.3"] {
        assert_eq!(open(&node, b"", Some(client)).await.0, 101, "{client}");
    }
    let refused = async { while open(&node, b"", Some("192.0.2.3")).await.0 != 429 {} };
    tokio::time::timeout(DEADLINE, refused).await.unwrap();
}

#[tokio::test]
async fn nobody_else_is_believed() {
    let node = Node::insecure(
        "[gateway.proxies]\ntrusted = [\"10.0.0.0/8\"]\nproxy_protocol = true\n[gateway.limits]\nconnections_per_address = 1",
    )
    .await;
    let (status, _socket) = open(&node, b"", Some("192.0.2.1")).await;
    assert_eq!(status, 101);
    assert_eq!(open(&node, b"", Some("192.0.2.2")).await.0, 429);
    // Not even listened to: to HTTP this is nonsense.
    assert_eq!(
        open(&node, b"PROXY TCP4 192.0.2.3 10.0.0.1 1 2\r\n", None)
            .await
            .0,
        400
    );
}

#[tokio::test]
async fn the_proxy_protocol_names_the_client() {
    let node = Node::insecure(
        "[gateway.proxies]\ntrusted = [\"127.0.0.1\"]\nproxy_protocol = true\n[gateway.limits]\nconnections_per_address = 1",
    )
    .await;
    let version_1 = b"PROXY TCP4 192.0.2.1 10.0.0.1 4711 443\r\n";
    let mut open_sockets = Vec::new();
    for (header, chain, expected) in [
        (version_1.to_vec(), None, 101),
        (version_1.to_vec(), None, 429),
        (version_2([192, 0, 2, 1]), None, 429),
        (version_2([192, 0, 2, 2]), None, 101),
        // Whoever is no proxy is not believed behind one either.
        (version_2([192, 0, 2, 2]), Some("192.0.2.3"), 429),
        // One proxy behind the other.
        (version_2([127, 0, 0, 1]), Some("192.0.2.4"), 101),
        (version_2([127, 0, 0, 1]), Some("192.0.2.4"), 429),
        (b"PROXY UNKNOWN\r\n".to_vec(), Some("192.0.2.4"), 429),
    ] {
        let (status, socket) = open(&node, &header, chain).await;
        assert_eq!(status, expected, "{header:?} {chain:?}");
        open_sockets.extend(socket);
    }
}

#[tokio::test]
async fn without_its_header_a_proxys_connection_is_closed() {
    let node = Node::insecure(
        "[gateway.proxies]\ntrusted = [\"127.0.0.1\"]\nproxy_protocol = true\n[gateway.limits]\nhandshake_timeout = \"200ms\"",
    )
    .await;
    for (preface, refused) in [
        (&b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"[..], 1),
        (
            b"PROXY TCP4 no 10.0.0.1 1 2\r\nGET / HTTP/1.1\r\nhost: x\r\n\r\n",
            2,
        ),
        // And one that does not come.
        (b"PROXY TCP4 192", 3),
        (b"", 4),
    ] {
        let mut stream = TcpStream::connect(node.address).await.unwrap();
        stream.write_all(preface).await.unwrap();
        let mut answer = Vec::new();
        let read = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer));
        drop(read.await.expect("closed in time"));
        assert_eq!(answer, b"");
        node.until(
            "switchboard_gateway_refused_total{reason=\"proxy_header\"}",
            refused,
        )
        .await;
    }
}

/// The operator is told who it is and what to look at; a flood does not fill the log.
#[tokio::test]
async fn refusals_are_logged_with_the_clients_address_and_not_all_of_them() {
    let logged = Logged::on_this_thread();
    let node = Node::insecure(
        "[gateway.proxies]\ntrusted = [\"127.0.0.1\"]\n[gateway.limits]\nconnections_per_address = 1",
    )
    .await;
    let (_, _held) = open(&node, b"", Some("192.0.2.1")).await;
    for _ in 0..30 {
        let (status, _) = open(&node, b"", Some("secret, 192.0.2.1")).await;
        assert_eq!(status, 429);
    }
    let text = logged.text();
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| line.contains("connection refused"))
        .collect();
    assert_eq!(lines.len(), 10, "{text}");
    for line in lines {
        for words in [
            "192.0.2.1",
            "address_limit",
            "gateway.limits.connections_per_address",
        ] {
            assert!(line.contains(words), "{words} in {line}");
        }
    }
    assert!(!text.contains("secret"), "{text}");
    assert_eq!(
        node.metric("switchboard_gateway_refused_total{reason=\"address_limit\"}"),
        30
    );
}
