//! Who gets a WebSocket.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Error;

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

#[tokio::test]
async fn the_encoding_that_is_asked_for_is_given_or_refused() {
    let node = Node::insecure("").await;
    let protocol = "sec-websocket-protocol";
    assert_eq!(status(&node, "", &[(protocol, "centrifuge-json")]).await, 101);
    assert_eq!(status(&node, "?cf_protocol_version=v2", &[]).await, 101);
    assert_eq!(status(&node, "?cf_protocol=protobuf", &[]).await, 400);
    assert_eq!(status(&node, "?format=protobuf", &[]).await, 400);
    assert_eq!(status(&node, "", &[(protocol, "centrifuge-protobuf")]).await, 400);
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
