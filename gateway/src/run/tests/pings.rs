//! Who is pinged how.

use tokio_tungstenite::tungstenite::Message;

use super::harness::{Client, Node};

const QUICK: &str = "ping_interval = \"1s\"\npong_timeout = \"300ms\"";

#[tokio::test]
async fn protobuf_pings_are_one_zero_both_ways() {
    let node = Node::insecure(QUICK).await;
    let zero = || Message::binary(vec![0]);
    let mut client = node.protobuf_connected().await;
    for _ in 0..2 {
        assert_eq!(client.message().await.unwrap().unwrap(), zero());
        client.send_message(zero()).await;
    }
    client.send_message(zero()).await;
    assert_eq!(client.closed().await.0, 3501, "a pong without a ping");
    let mut client = node.protobuf_connected().await;
    assert_eq!(client.message().await.unwrap().unwrap(), zero());
    assert_eq!(client.closed().await, (3012, "no pong".to_owned()));
}

async fn pinged_by_websocket(node: &Node, more: &str) -> Client {
    let url = format!("{}?cf_ws_frame_ping_pong=true{more}", node.url());
    Client::open(&url, &[]).await.unwrap()
}

#[tokio::test]
async fn who_asks_for_websockets_own_pings_gets_these_and_no_others() {
    let node = Node::insecure(QUICK).await;
    let mut json = pinged_by_websocket(&node, "").await;
    json.send(r#"{"id":1,"connect":{}}"#).await;
    let connected = json.reply().await;
    assert!(
        !connected.contains("ping") && !connected.contains("pong"),
        "{connected}"
    );
    let mut protobuf = pinged_by_websocket(&node, "&cf_protocol=protobuf").await;
    protobuf
        .send_message(Message::binary(b"\x04\x08\x01\x22\x00".to_vec()))
        .await;
    let connected = protobuf.protobuf_reply().await.connect.unwrap();
    assert_eq!((connected.ping, connected.pong), (0, false));

    // The client's library answers what it reads. A second one comes only where the first was answered.
    let two_pings = async |client: &mut Client, pong: Message| {
        // Pongs that nobody asked for are none of ours.
        client.send_message(Message::Pong(Vec::new().into())).await;
        for _ in 0..2 {
            let ping = client.message().await.unwrap().unwrap();
            assert_eq!(ping, Message::Ping(Vec::new().into()));
        }
        // The protocol's own pong does not answer them. It leaves before the library's.
        client.send_message(pong).await;
        assert_eq!(client.closed().await.0, 3501);
    };
    tokio::join!(
        two_pings(&mut json, Message::text("{}")),
        two_pings(&mut protobuf, Message::binary(vec![0])),
    );
}

#[tokio::test]
async fn websockets_own_pings_have_to_be_answered() {
    let node = Node::insecure(QUICK).await;
    let mut client = pinged_by_websocket(&node, "").await;
    client.send(r#"{"id":1,"connect":{}}"#).await;
    client.reply().await;
    // Its library answers what it reads, and nothing is read.
    node.until(
        "switchboard_gateway_disconnects_total{by=\"gateway\",code=\"3012\"}",
        1,
    )
    .await;
}
