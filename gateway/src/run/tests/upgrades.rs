//! Who gets a WebSocket.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::harness::{Client, Node};

async fn status(node: &Node, query: &str, headers: &[(&'static str, &str)]) -> u16 {
    match Client::open(&format!("{}{query}", node.url()), headers).await {
        Ok(mut client) => {
            client.send(r#"{"id":1,"connect":{}}"#).await;
            assert!(client.reply().await.contains("client"));
            101
        }
        Err(Error::Http(response)) => response.status().as_u16(),
        Err(other) => panic!("{other}"),
    }
}

#[tokio::test]
async fn pages_of_other_hosts_are_refused() {
    let node = Node::insecure("allowed_origins = [\"https://*.example.com\"]").await;
    for (origin, expected) in [
        ("https://app.example.com", 101),
        ("http://localhost:1234", 101),
        ("https://evil.example", 403),
        ("null", 403),
    ] {
        assert_eq!(
            status(&node, "", &[("origin", origin)]).await,
            expected,
            "{origin}"
        );
    }
    assert_eq!(status(&node, "", &[]).await, 101);
    assert_eq!(
        node.metric("switchboard_gateway_refused_total{reason=\"origin\"}"),
        2
    );
}

/// In which encoding a `connect` is answered, with the subprotocol that was selected.
async fn encoding(node: &Node, query: &str, offered: &str) -> (&'static str, Option<String>) {
    let header = [("sec-websocket-protocol", offered)];
    let headers = if offered.is_empty() { &[][..] } else { &header };
    let mut client = Client::open(&format!("{}{query}", node.url()), headers)
        .await
        .unwrap();
    // Each is wrong in the other encoding.
    let encoding = match client.subprotocol.as_deref() {
        Some("centrifuge-protobuf") => "protobuf",
        None if query.contains("=protobuf") => "protobuf",
        _ => "json",
    };
    if encoding == "protobuf" {
        client
            .send_message(Message::binary(b"\x04\x08\x01\x22\x00".to_vec()))
            .await;
        assert!(client.protobuf_reply().await.connect.is_some());
    } else {
        client.send(r#"{"id":1,"connect":{}}"#).await;
        assert!(client.reply().await.contains("client"));
    }
    (encoding, client.subprotocol)
}

#[tokio::test]
async fn the_encoding_that_is_asked_for_is_given() {
    let node = Node::insecure("").await;
    let (json, protobuf) = ("centrifuge-json", "centrifuge-protobuf");
    for (query, offered, expected, selected) in [
        ("", "", "json", None),
        ("?cf_protocol_version=v2", "", "json", None),
        ("?cf_protocol=json", "", "json", None),
        ("?cf_protocol=protobuf", "", "protobuf", None),
        ("?format=protobuf", "", "protobuf", None),
        ("", json, "json", Some(json)),
        ("", protobuf, "protobuf", Some(protobuf)),
        (
            "?cf_protocol=protobuf",
            "centrifuge-json, centrifuge-protobuf",
            "protobuf",
            Some(protobuf),
        ),
        ("", "centrifuge-json, centrifuge-protobuf", "json", Some(json)),
        (
            "",
            "chat,centrifuge-protobuf,centrifuge-json",
            "protobuf",
            Some(protobuf),
        ),
    ] {
        let given = encoding(&node, query, offered).await;
        assert_eq!(
            given,
            (expected, selected.map(str::to_owned)),
            "{query} {offered}"
        );
    }
}

#[tokio::test]
async fn two_encodings_at_once_are_refused() {
    let node = Node::insecure("").await;
    let json = ("sec-websocket-protocol", "centrifuge-json");
    assert_eq!(status(&node, "?cf_protocol=protobuf", &[json]).await, 400);
    assert_eq!(
        node.metric("switchboard_gateway_refused_total{reason=\"encoding\"}"),
        1
    );
}

#[tokio::test]
async fn connections_are_bounded() {
    let node = Node::insecure("max_connections = 2").await;
    let one = node.connected().await;
    let _other = node.connected().await;
    assert_eq!(status(&node, "", &[]).await, 503);
    drop(one);
    node.until("switchboard_gateway_connections", 1).await;
    let _third = node.connected().await;
    assert_eq!(node.metric("switchboard_gateway_connections"), 2);
    assert_eq!(
        node.metric("switchboard_gateway_refused_total{reason=\"limit\"}"),
        1
    );
}

async fn plain(node: &Node, request: &str) -> String {
    let mut stream = TcpStream::connect(node.address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(super::harness::DEADLINE, stream.read_to_string(&mut answer))
        .await
        .unwrap()
        .unwrap();
    answer
}

#[tokio::test]
async fn plain_http() {
    let node = Node::insecure("").await;
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    assert!(plain(&node, &get("/")).await.ends_with("demo"));
    assert!(
        plain(&node, &get("/connection/websocket"))
            .await
            .starts_with("HTTP/1.1 400")
    );
    assert!(plain(&node, &get("/other")).await.starts_with("HTTP/1.1 404"));
    assert!(plain(&node, "boom\r\n\r\n").await.starts_with("HTTP/1.1 400"));
}
