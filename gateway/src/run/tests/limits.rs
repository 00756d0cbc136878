//! What one address, one user and one connection get, and that the others do not notice.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, client_async};

use serde_json::json;

use super::harness::{Client, DEADLINE, Node};
use super::tokens::{SECRET, token};

/// A TCP connection from another address of this machine.
async fn tcp_from(node: &Node, last: u8) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    let address = IpAddr::V4(Ipv4Addr::new(127, 0, 0, last));
    socket.bind(SocketAddr::new(address, 0)).unwrap();
    socket.connect(node.address).await.unwrap()
}

/// The status that a WebSocket from 127.0.0.`last` is answered with, and the socket if it got one.
async fn websocket_from(node: &Node, last: u8) -> (u16, Option<WebSocketStream<MaybeTlsStream<TcpStream>>>) {
    let stream = MaybeTlsStream::Plain(tcp_from(node, last).await);
    match client_async(node.url(), stream).await {
        Ok((socket, _)) => (101, Some(socket)),
        Err(Error::Http(response)) => (response.status().as_u16(), None),
        Err(other) => panic!("{other}"),
    }
}

/// What comes until the other side closes.
async fn rest(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    let read = tokio::time::timeout(DEADLINE, stream.read_to_string(&mut text));
    match read.await.expect("closed in time") {
        Ok(_) => {}
        // Closed with something of ours unread.
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
    }
    text
}

fn refused(node: &Node, reason: &str) -> u64 {
    node.metric(&format!(
        "switchboard_gateway_refused_total{{reason=\"{reason}\"}}"
    ))
}

#[tokio::test]
async fn connections_of_one_address_are_bounded() {
    let node = Node::insecure("[gateway.limits]\nconnections_per_address = 2").await;
    let one = node.connected().await;
    let mut other = node.connected().await;
    assert_eq!(websocket_from(&node, 1).await.0, 429);
    let (status, _elsewhere) = websocket_from(&node, 2).await;
    assert_eq!(status, 101, "another address");
    drop(one);
    node.until("switchboard_gateway_connections", 2).await;
    let _again = node.connected().await;
    assert_eq!(websocket_from(&node, 1).await.0, 429);
    assert_eq!(refused(&node, "address_limit"), 2);
    other.assert_lives().await;
}

#[tokio::test]
async fn connections_of_one_user_are_bounded() {
    let node = Node::insecure(&format!(
        "[gateway.limits]\nconnections_per_user = 2\n[gateway.tokens]\nhmac_secret = \"{SECRET}\""
    ))
    .await;
    let connect = |user: &str| {
        let token = token(&json!({"sub": user}));
        json!({"id": 1, "connect": {"token": token}}).to_string()
    };
    let mut clients = Vec::new();
    for user in ["alice", "alice", "bob"] {
        let mut client = node.client().await;
        client.send(&connect(user)).await;
        assert!(client.reply().await.contains("client"), "{user}");
        clients.push(client);
    }
    let mut third = node.client().await;
    third.send(&connect("alice")).await;
    assert_eq!(third.closed().await, (3504, "connection limit".to_owned()));
    assert_eq!(refused(&node, "user_limit"), 1);
    drop(third);
    drop(clients.remove(0));
    node.until("switchboard_gateway_connections", 2).await;
    let mut again = node.client().await;
    again.send(&connect("alice")).await;
    assert!(again.reply().await.contains("client"));
    // Who has no user is nobody's connection.
    let _anonymous = [
        node.connected().await,
        node.connected().await,
        node.connected().await,
    ];
}

#[tokio::test]
async fn an_address_that_comes_too_quickly_is_told_to_wait() {
    let node = Node::insecure("[gateway.limits]\nconnect_rate = 1\nconnect_burst = 3").await;
    let mut clients = Vec::new();
    let refusal = loop {
        match Client::open(&node.url(), &[]).await {
            Ok(client) => clients.push(client),
            Err(Error::Http(response)) => break response.status().as_u16(),
            Err(other) => panic!("{other}"),
        }
    };
    assert_eq!(refusal, 429);
    assert!((3..10).contains(&clients.len()), "{}", clients.len());
    assert_eq!(refused(&node, "address_rate"), 1);
    let (status, _elsewhere) = websocket_from(&node, 2).await;
    assert_eq!(status, 101);
    // A second later there is a place again.
    let again = async { while Client::open(&node.url(), &[]).await.is_err() {} };
    tokio::time::timeout(DEADLINE, again).await.unwrap();
}

/// Who opens connections and asks for nothing holds its own part of the places only.
#[tokio::test]
async fn connections_that_ask_for_nothing_are_bounded_by_address() {
    let node = Node::insecure("[gateway.limits]\nhttp_connections_per_address = 2").await;
    let idle = [tcp_from(&node, 3).await, tcp_from(&node, 3).await];
    node.until("switchboard_gateway_http_connections", 2).await;
    let mut third = tcp_from(&node, 3).await;
    assert_eq!(rest(&mut third).await, "");
    assert_eq!(refused(&node, "http_address_limit"), 1);
    node.connected().await.assert_lives().await;
    drop(idle);
    node.until("switchboard_gateway_http_connections", 0).await;
    // A WebSocket is none of them.
    for _ in 0..4 {
        assert_eq!(websocket_from(&node, 3).await.0, 101);
        node.until("switchboard_gateway_http_connections", 0).await;
    }
}

#[tokio::test]
async fn commands_that_come_too_quickly_are_refused_and_in_the_end_the_connection_too() {
    let node =
        Node::insecure("system_messages = false\n[gateway.limits]\ncommand_rate = 1\ncommand_burst = 4\ncommand_refusals = 50").await;
    let mut bystander = node.connected().await;
    let mut client = node.connected().await;
    let rpc = |id: u32| format!(r#"{{"id":{id},"rpc":{{}}}}"#);
    let frame: Vec<String> = (1..=20).map(rpc).collect();
    client.send(&frame.join("\n")).await;
    for id in 1..=20 {
        let code = if id <= 4 { 108 } else { 111 };
        let answer = format!(r#"{{"id":{id},"error":{{"code":{code},"#);
        let reply = client.reply().await;
        assert!(reply.starts_with(&answer), "{reply}");
        assert_eq!(reply.contains(r#""temporary":true"#), code == 111, "{reply}");
    }
    // SDKs would connect anew.
    client.send(r#"{"id":30,"unsubscribe":{"channel":"a"}}"#).await;
    assert_eq!(client.reply().await, r#"{"id":30,"unsubscribe":{}}"#);
    client.send(&vec![rpc(40); 60].join("\n")).await;
    assert_eq!(client.closed().await, (3013, "too many requests".to_owned()));
    assert!(node.metric("switchboard_gateway_commands_over_rate_total") >= 50);
    bystander.assert_lives().await;
}

#[tokio::test]
async fn a_request_that_does_not_come_ends_the_connection() {
    let node = Node::insecure("[gateway.limits]\nhandshake_timeout = \"100ms\"").await;
    let mut silent = TcpStream::connect(node.address).await.unwrap();
    assert_eq!(rest(&mut silent).await, "");
    let mut slow = TcpStream::connect(node.address).await.unwrap();
    slow.write_all(b"GET / HTTP/1.1\r\nhost:").await.unwrap();
    rest(&mut slow).await;
    node.until("switchboard_gateway_refused_total{reason=\"head_timeout\"}", 2)
        .await;
    node.until("switchboard_gateway_http_connections", 0).await;
}

#[tokio::test]
async fn a_connection_that_becomes_no_websocket_ends() {
    let node = Node::insecure("[gateway.limits]\nhttp_lifetime = \"300ms\"").await;
    let mut asking = TcpStream::connect(node.address).await.unwrap();
    let answered = async {
        let mut answer = [0; 64];
        while asking
            .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .is_ok()
            && matches!(asking.read(&mut answer).await, Ok(1..))
        {}
    };
    tokio::time::timeout(DEADLINE, answered)
        .await
        .expect("closed in time");
    node.until("switchboard_gateway_refused_total{reason=\"http_lifetime\"}", 1)
        .await;
}
