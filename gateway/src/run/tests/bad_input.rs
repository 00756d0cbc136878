//! What no SDK sends. Each ends its own connection, with the protocol's code, and nobody else's.

use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{Frame, FrameHeader};

use super::harness::Node;

const BAD_REQUEST: (u16, &str) = (3501, "bad request");

#[tokio::test]
async fn frames_that_are_no_commands_end_the_connection() {
    let node = Node::insecure("").await;
    let mut bystander = node.connected().await;
    for frame in [
        // Not JSON, not commands, wrong types.
        "",
        "\n",
        "boom",
        "{",
        "[]",
        "null",
        "{}{}",
        r#"{"id":"1","rpc":{}}"#,
        r#"{"id":-1,"rpc":{}}"#,
        r#"{"id":2,"publish":{"channel":7}}"#,
        r#"{"id":2,"publish":{"channel":"a","data":boom}}"#,
        r#"{"id":2,"subscribe":[1]}"#,
        "{\"id\":2,\"rpc\":{}}\n\n{\"id\":3,\"rpc\":{}}",
        // Commands that the protocol does not allow.
        r#"{"id":2}"#,
        r#"{"id":2,"later":{}}"#,
        r#"{"id":2,"ping":{}}"#,
        r#"{"ping":{}}"#,
        "{}",
        r#"{"rpc":{}}"#,
        r#"{"subscribe":{"channel":"a"}}"#,
        r#"{"id":2,"connect":{}}"#,
        r#"{"id":2,"subscribe":{}}"#,
        r#"{"id":2,"subscribe":{"channel":"a","delta":"xdelta"}}"#,
        r#"{"id":2,"publish":{"data":1}}"#,
    ] {
        let mut client = node.connected().await;
        client.send(frame).await;
        let (code, reason) = client.closed().await;
        assert_eq!((code, reason.as_str()), BAD_REQUEST, "{frame}");
    }
    bystander.assert_lives().await;
}

#[tokio::test]
async fn nothing_goes_before_connect() {
    let node = Node::insecure("").await;
    for frame in [
        r#"{"id":1,"subscribe":{"channel":"a"}}"#,
        r#"{"id":1,"publish":{"channel":"a","data":1}}"#,
        r#"{"id":1,"rpc":{"method":"a"}}"#,
        r#"{"send":{"data":1}}"#,
        "{}",
        r#"{"connect":{}}"#,
        "{\"id\":1,\"rpc\":{\"method\":\"a\"}}\n{\"id\":2,\"connect\":{}}",
    ] {
        let mut client = node.client().await;
        client.send(frame).await;
        let (code, reason) = client.closed().await;
        assert_eq!((code, reason.as_str()), BAD_REQUEST, "{frame}");
    }
}

#[tokio::test]
async fn a_frame_over_the_limit_closes_with_websockets_own_code() {
    let node = Node::insecure("max_frame = \"2KiB\"\npublish_size = 512").await;
    let exactly = |bytes: usize| {
        let padding = bytes - r#"{"id":2,"rpc":{"method":""}}"#.len();
        format!(r#"{{"id":2,"rpc":{{"method":"{}"}}}}"#, "x".repeat(padding))
    };
    let mut client = node.connected().await;
    client.send(&exactly(2048)).await;
    assert!(client.reply().await.contains("108"));
    client.send(&exactly(2049)).await;
    assert_eq!(client.closed().await, (1009, "message size limit".to_owned()));
    // Much more than the gateway ever reads: the code still gets through.
    let mut client = node.connected().await;
    client.send(&exactly(8 * 1024 * 1024)).await;
    assert_eq!(client.closed().await.0, 1009);
    // In small fragments.
    let mut client = node.connected().await;
    for (part, last) in [(0, false), (1, false), (2, true)] {
        let kind = if part == 0 { Data::Text } else { Data::Continue };
        let frame = Frame::message("x".repeat(800), OpCode::Data(kind), last);
        client.send_message(Message::Frame(frame)).await;
    }
    assert_eq!(client.closed().await.0, 1009);
    node.until(
        "switchboard_gateway_disconnects_total{by=\"gateway\",code=\"1009\"}",
        3,
    )
    .await;
}

#[tokio::test]
async fn frames_of_another_kind() {
    let node = Node::insecure("").await;
    let mut binary = node.connected().await;
    binary.send_message(Message::binary(b"{}".to_vec())).await;
    assert_eq!(binary.closed().await.0, BAD_REQUEST.0);

    let mut not_utf8 = node.connected().await;
    let frame = Frame::message(
        b"{\"id\":2,\"rpc\":{\"method\":\"\xff\"}}".to_vec(),
        OpCode::Data(Data::Text),
        true,
    );
    not_utf8.send_message(Message::Frame(frame)).await;
    assert_eq!(not_utf8.closed().await.0, BAD_REQUEST.0);

    let mut reserved = node.connected().await;
    let mut header = FrameHeader {
        rsv1: true,
        ..FrameHeader::default()
    };
    header.opcode = OpCode::Data(Data::Text);
    reserved
        .send_message(Message::Frame(Frame::from_payload(header, "{}".into())))
        .await;
    assert_eq!(reserved.closed().await.0, 1002);

    // WebSocket's own pings are answered and are none of ours.
    let mut pinging = node.connected().await;
    pinging.send_message(Message::Ping(b"p".to_vec().into())).await;
    pinging.send(r#"{"id":2,"rpc":{}}"#).await;
    let pong = futures_util::StreamExt::next(&mut pinging.socket)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(pong, Message::Pong(b"p".to_vec().into()));
}

#[tokio::test]
async fn commands_that_are_refused_leave_the_connection_as_it_is() {
    let node =
        Node::insecure("channels_per_connection = 2\nchannel_name_length = 20\npublish_size = 10").await;
    let mut client = node.connected().await;
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    let table = [
        (
            r#""subscribe":{"channel":"123456789012345678901"}"#.to_owned(),
            107,
        ),
        (r#""subscribe":{"channel":"mü"}"#.to_owned(), 107),
        (r#""subscribe":{"channel":"a b"}"#.to_owned(), 107),
        (r#""subscribe":{"channel":"a","type":1}"#.to_owned(), 108),
        (r#""subscribe":{"channel":"a","tf":{"op":""}}"#.to_owned(), 107),
        (r#""subscribe":{"channel":"a","token":"t"}"#.to_owned(), 103),
        (r#""publish":{"channel":"a"}"#.to_owned(), 107),
        (r#""publish":{"channel":"a","data":"123456789"}"#.to_owned(), 106),
        (format!(r#""publish":{{"channel":"a","data":{deep}}}"#), 107),
        (r#""publish":{"channel":"a","data":1,"type":1}"#.to_owned(), 108),
        (r#""publish":{"channel":"dm:#b,a","data":1}"#.to_owned(), 107),
        (r#""presence":{"channel":"a"}"#.to_owned(), 108),
        (r#""presence_stats":{"channel":"a"}"#.to_owned(), 108),
        (r#""history":{"channel":"a b"}"#.to_owned(), 107),
        (
            r#""history":{"channel":"a","limit":1,"reverse":true,"since":{"offset":0}}"#.to_owned(),
            107,
        ),
        (r#""rpc":{"method":"a"}"#.to_owned(), 108),
        (r#""sub_refresh":{"token":"a"}"#.to_owned(), 103),
    ];
    for (id, (request, code)) in (2..).zip(table) {
        client.send(&format!(r#"{{"id":{id},{request}}}"#)).await;
        let reply = client.reply().await;
        assert!(
            reply.starts_with(&format!(r#"{{"id":{id},"error":{{"code":{code},"#)),
            "{request}: {reply}"
        );
    }
    client.assert_lives().await;
}

#[tokio::test]
async fn several_commands_in_a_frame_and_unknown_fields() {
    let node = Node::insecure("").await;
    let mut client = node.client().await;
    let commands = [
        r#"{"later":{"x":[{}]},"id":1,"connect":{"dict":"d","profile":null}}"#,
        r#"{"id":2,"rpc":{"method":"a","later":[]}}"#,
        r#"{"id":3,"unsubscribe":{"channel":"never"}}"#,
    ];
    client.send(&commands.join("\n")).await;
    assert!(
        client
            .reply()
            .await
            .starts_with(r#"{"id":1,"connect":{"client":""#)
    );
    let refused = r#"{"id":2,"error":{"code":108,"message":"not available"}}"#;
    assert_eq!(client.reply().await, refused);
    assert_eq!(client.reply().await, r#"{"id":3,"unsubscribe":{}}"#);
}

#[tokio::test]
async fn send_is_not_available() {
    let node = Node::insecure("").await;
    let mut client = node.connected().await;
    client.send(r#"{"send":{"data":1}}"#).await;
    assert_eq!(client.closed().await, (3508, "not available".to_owned()));
}

#[tokio::test]
async fn a_panic_ends_its_own_session() {
    let node = Node::insecure("").await;
    let mut bystander = node.connected().await;
    let mut client = node.connected().await;
    client.send(r#"{"id":2,"rpc":{"method":"test.panic"}}"#).await;
    assert_eq!(client.closed().await, (3004, "internal server error".to_owned()));
    bystander.assert_lives().await;
    drop(client);
    node.until("switchboard_tasks_panics_total{task=\"session\"}", 1)
        .await;
    node.until("switchboard_gateway_connections", 1).await;
}
