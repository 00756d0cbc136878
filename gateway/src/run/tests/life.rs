//! A connection from its opening to its end.

use std::time::Duration;

use futures_util::SinkExt as _;
use switchboard_proto::bus::up_item;
use switchboard_proto::channel::ChannelName;
use switchboard_proto::codes::DisconnectCode;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

use super::harness::{Client, DEADLINE, Node};
use super::owner::Owner;

#[tokio::test]
async fn connect_says_who_and_how() {
    let node = Node::insecure("ping_interval = \"30s\"").await;
    let mut client = node.client().await;
    client
        .send(r##"{"id":7,"connect":{"name":"js","subs":{"#a":{"recover":true}},"flag":1}}"##)
        .await;
    let reply = client.reply().await;
    let version = env!("CARGO_PKG_VERSION");
    let (start, end) = (
        r#"{"id":7,"connect":{"client":""#,
        format!(r#"","version":"{version}","ping":30,"pong":true}}}}"#),
    );
    let client_id = reply
        .strip_prefix(start)
        .and_then(|rest| rest.strip_suffix(end.as_str()));
    let client_id = client_id.unwrap_or_else(|| panic!("{reply}"));
    assert_eq!(uuid::Uuid::try_parse(client_id).unwrap().get_version_num(), 4);
    assert_eq!(node.metric("switchboard_gateway_connects_total"), 1);
}

#[tokio::test]
async fn commands_may_follow_connect_in_its_own_frame() {
    let node = Node::insecure("").await;
    let mut client = node.client().await;
    client
        .send("{\"id\":1,\"connect\":{}}\n{\"id\":2,\"unsubscribe\":{\"channel\":\"a\"}}\n{\"id\":3,\"rpc\":{}}\n")
        .await;
    assert!(client.reply().await.starts_with(r#"{"id":1,"connect":"#));
    assert_eq!(client.reply().await, r#"{"id":2,"unsubscribe":{}}"#);
    assert!(client.reply().await.starts_with(r#"{"id":3,"error":"#));
}

#[tokio::test]
async fn without_tokens_only_insecure_gateways_let_anybody_in() {
    let node = Node::start("").await;
    let mut client = node.client().await;
    client.send(r#"{"id":1,"connect":{}}"#).await;
    assert_eq!(client.closed().await, (3501, "bad request".to_owned()));
    // A token is never taken on trust.
    for node in [node, Node::insecure("").await] {
        let mut client = node.client().await;
        client.send(r#"{"id":1,"connect":{"token":"x.y.z"}}"#).await;
        assert_eq!(client.closed().await, (3500, "invalid token".to_owned()));
    }
}

#[tokio::test]
async fn who_never_connects_gets_stale() {
    let node = Node::insecure("connect_timeout = \"100ms\"").await;
    let mut silent = node.client().await;
    let mut connected = node.connected().await;
    assert_eq!(silent.closed().await, (3502, "stale".to_owned()));
    connected.assert_lives().await;
}

#[tokio::test]
async fn pings_are_answered_once_or_the_connection_ends() {
    let node = Node::insecure("ping_interval = \"1s\"\npong_timeout = \"300ms\"").await;
    let mut client = node.connected().await;
    for _ in 0..2 {
        assert_eq!(client.reply().await, "{}");
        client.send("{}").await;
    }
    client.send("{}").await;
    assert_eq!(client.closed().await.0, 3501, "a pong without a ping");
    let mut client = node.connected().await;
    assert_eq!(client.reply().await, "{}");
    assert_eq!(client.closed().await, (3012, "no pong".to_owned()));
}

/// There is no owner, so nothing is ever answered by one.
#[tokio::test]
async fn a_channel_is_held_once_and_up_to_the_limit_and_every_command_is_answered() {
    let node =
        Node::insecure("system_messages = false\nchannels_per_connection = 2\nanswer_timeout = \"500ms\"")
            .await;
    let mut client = node.connected().await;
    let subscribe =
        |id: u32, channel: &str| format!(r#"{{"id":{id},"subscribe":{{"channel":"{channel}","flag":1}}}}"#);
    client
        .send(
            &[
                subscribe(2, "a"),
                subscribe(3, "a"),
                subscribe(4, "b"),
                subscribe(5, "c"),
            ]
            .join("\n"),
        )
        .await;
    let error = |id: u32, code: u32, words: &str| {
        format!(r#"{{"id":{id},"error":{{"code":{code},"message":"{words}"}}}}"#)
    };
    assert_eq!(client.reply().await, error(3, 105, "already subscribed"));
    assert_eq!(client.reply().await, error(5, 106, "limit exceeded"));
    client
        .send(r#"{"id":6,"publish":{"channel":"a","data":{"n":1}}}"#)
        .await;
    let late = |id: u32| {
        format!(r#"{{"id":{id},"error":{{"code":100,"message":"internal server error","temporary":true}}}}"#)
    };
    let mut replies = Vec::new();
    for _ in 0..3 {
        replies.push(client.reply().await);
    }
    replies.sort();
    assert_eq!(replies, [late(2), late(4), late(6)]);
    // What failed may be tried again, and what was given up makes room.
    client.send(&subscribe(7, "a")).await;
    client.send(r#"{"id":8,"unsubscribe":{"channel":"a"}}"#).await;
    let mut reply = client.reply().await;
    if !reply.starts_with(r#"{"id":8,"#) {
        reply = client.reply().await;
    }
    assert_eq!(reply, r#"{"id":8,"unsubscribe":{}}"#);
    client
        .send(&[subscribe(9, "a"), subscribe(10, "b"), subscribe(11, "b")].join("\n"))
        .await;
    assert_eq!(client.reply().await, error(11, 105, "already subscribed"));
}

#[tokio::test]
async fn who_asks_for_more_than_it_takes_is_slow() {
    let node = Node::insecure("outgoing_queue = \"64KiB\"\npublish_size = 1000").await;
    let mut bystander = node.connected().await;
    let mut client = node.connected().await;
    client.send(&vec![r#"{"id":2,"rpc":{}}"#; 2000].join("\n")).await;
    assert_eq!(client.closed().await, (3008, "slow".to_owned()));
    bystander.assert_lives().await;
    node.until(
        "switchboard_gateway_disconnects_total{by=\"gateway\",code=\"3008\"}",
        1,
    )
    .await;
    assert_eq!(node.metric("switchboard_gateway_outgoing_peak_bytes"), 65_536);
}

/// More than is written in one turn.
#[tokio::test]
async fn a_long_queue_is_written_to_its_end() {
    let node = Node::insecure("limits.command_rate = 0").await;
    let mut client = node.connected().await;
    client.send(&vec![r#"{"id":2,"rpc":{}}"#; 3000].join("\n")).await;
    for _ in 0..3000 {
        assert!(client.reply().await.starts_with(r#"{"id":2,"error":"#));
    }
    client.assert_lives().await;
}

/// All of them wait when the first is written.
#[tokio::test]
async fn answers_that_wait_together_share_a_frame() {
    let node = Node::insecure("").await;
    let mut client = node.connected().await;
    client.send(&vec![r#"{"id":2,"rpc":{}}"#; 30].join("\n")).await;
    let answer = r#"{"id":2,"error":{"code":108,"message":"not available"}}"#;
    assert_eq!(
        client.message().await.unwrap().unwrap(),
        Message::text(vec![answer; 30].join("\n"))
    );
    // Up to a bound.
    client.send(&vec![r#"{"id":2,"rpc":{}}"#; 3000].join("\n")).await;
    let mut frames = Vec::new();
    while frames
        .iter()
        .map(|frame: &Message| frame.len() + 1)
        .sum::<usize>()
        < 3000 * (answer.len() + 1)
    {
        frames.push(client.message().await.unwrap().unwrap());
    }
    assert!(frames.iter().all(|frame| frame.len() <= 64 * 1024));
    assert_eq!(frames.len(), 3);
}

#[tokio::test]
async fn who_does_not_read_blocks_nobody_and_is_let_go() {
    let node = Node::insecure(
        "limits.command_rate = 0\noutgoing_queue = \"256MiB\"\nwrite_timeout = \"50ms\"\nmax_frame = \"64KiB\"\npublish_size = 1000",
    )
    .await;
    let mut bystander = node.connected().await;
    let mut client = node.connected().await;
    let frame = vec![r#"{"id":2,"rpc":{}}"#; 3000].join("\n");
    // Both sides' kernels take some before the gateway's write has to wait.
    let flooded = async { while client.socket.send(Message::text(frame.as_str())).await.is_ok() {} };
    tokio::time::timeout(DEADLINE, flooded)
        .await
        .expect("the gateway closes the socket");
    node.until(
        "switchboard_gateway_disconnects_total{by=\"gateway\",code=\"3009\"}",
        1,
    )
    .await;
    bystander.assert_lives().await;
}

#[tokio::test]
async fn a_client_that_leaves_is_answered_and_forgotten() {
    let node = Node::insecure("").await;
    let mut client = node.connected().await;
    client.socket.close(None).await.unwrap();
    let end = tokio::time::timeout(DEADLINE, futures_util::StreamExt::next(&mut client.socket)).await;
    assert!(matches!(end, Ok(None | Some(Ok(Message::Close(_))))), "{end:?}");
    node.until(
        "switchboard_gateway_disconnects_total{by=\"client\",code=\"0\"}",
        1,
    )
    .await;
    // Without a word.
    drop(node.connected().await);
    node.until(
        "switchboard_gateway_disconnects_total{by=\"network\",code=\"0\"}",
        1,
    )
    .await;
    node.until("switchboard_gateway_connections", 0).await;
}

#[tokio::test]
async fn a_stop_asks_everybody_to_come_back() {
    let node = Node::insecure("drain_spread = \"200ms\"").await;
    let mut clients = Vec::new();
    for _ in 0..5 {
        clients.push(node.connected().await);
    }
    let told = async {
        for client in &mut clients {
            assert_eq!(client.closed().await, (3001, "shutdown".to_owned()));
        }
    };
    let (stopped, ()) = tokio::join!(node.context.tasks.stop(DEADLINE), told);
    assert!(stopped.forced.is_empty(), "{stopped:?}");
    assert!(
        Client::open(&node.url(), &[]).await.is_err(),
        "it does not listen any more"
    );
}

/// The close frame's answer is waited for, but not for ever.
#[tokio::test]
async fn a_stop_does_not_wait_for_a_client_that_does_not_answer() {
    let node = Node::insecure("drain_spread = \"0s\"").await;
    let client = node.connected().await;
    let stopped = node.context.tasks.stop(Duration::from_secs(5)).await;
    assert!(stopped.forced.is_empty(), "{stopped:?}");
    drop(client);
}

/// A socket that is written to and never read blocks the server's writes; it must not block its stop.
#[tokio::test]
async fn a_stop_does_not_wait_for_who_does_not_read_over_http() {
    let node = Node::insecure("drain_spread = \"0s\"").await;
    let mut socket = TcpStream::connect(node.address).await.unwrap();
    let requests = "GET / HTTP/1.1\r\nhost: x\r\n\r\n".repeat(1000);
    // Until the gateway reads no more either.
    while let Ok(written) =
        tokio::time::timeout(Duration::from_secs(1), socket.write_all(requests.as_bytes())).await
    {
        written.unwrap();
    }
    let stopped = node.context.tasks.stop(Duration::from_secs(5)).await;
    assert!(stopped.forced.is_empty(), "{stopped:?}");
}

/// The link would hold the session, and the owner the interest, for ever.
#[tokio::test]
async fn who_ends_while_an_unsubscribe_waits_for_a_full_link_is_forgotten() {
    let node = Node::insecure("link_queue = 1").await;
    let mut owner = Owner::of(&node, "a", 1, 0).await;
    let mut client = node.connected().await;
    client.send(r#"{"id":2,"subscribe":{"channel":"a"}}"#).await;
    owner.in_force(0).await;
    assert!(client.reply().await.starts_with(r#"{"id":2,"subscribe":"#));
    let full = node
        .gateway
        .links
        .occupy(&ChannelName::parse("a", 255).unwrap())
        .await;
    client.send(r#"{"id":3,"unsubscribe":{"channel":"a"}}"#).await;
    node.until("switchboard_gateway_commands_total{command=\"unsubscribe\"}", 1)
        .await;
    for session in node.gateway.sessions.all() {
        session.close(DisconnectCode::Slow);
    }
    assert_eq!(client.closed().await.0, 3008);
    drop(full);
    let (_, item) = owner.item().await;
    assert!(
        matches!(&item, up_item::Item::Interest(interest) if interest.remove == ["a"]),
        "{item:?}"
    );
}
