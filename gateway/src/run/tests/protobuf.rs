//! Bad input in the Protobuf encoding, on a real socket. Like bad input in JSON, it ends its own
//! connection, with the protocol's code, and nobody else's.

use switchboard_proto::client::{
    Command, ConnectRequest, FilterNode, HistoryRequest, PingRequest, PresenceRequest, PresenceStatsRequest,
    PublishRequest, RpcRequest, SendRequest, StreamPosition, SubscribeRequest, UnsubscribeRequest,
};
use switchboard_proto::protobuf;
use tokio_tungstenite::tungstenite::Message;

use super::harness::{Client, Node};

const BAD_REQUEST: (u16, &str) = (3501, "bad request");

fn none() -> Command {
    Command::default()
}

fn rpc(id: u32, method: &str) -> Command {
    Command {
        id,
        rpc: Some(RpcRequest {
            method: method.to_owned(),
            ..RpcRequest::default()
        }),
        ..none()
    }
}

fn subscribe(id: u32, request: SubscribeRequest) -> Command {
    Command {
        id,
        subscribe: Some(request),
        ..none()
    }
}

fn publish(id: u32, channel: &str, data: &[u8]) -> Command {
    Command {
        id,
        publish: Some(PublishRequest {
            channel: channel.to_owned(),
            data: data.to_vec().into(),
            ..PublishRequest::default()
        }),
        ..none()
    }
}

fn connect(id: u32) -> Command {
    Command {
        id,
        connect: Some(ConnectRequest::default()),
        ..none()
    }
}

fn frame(commands: &[Command]) -> Vec<u8> {
    let mut frame = Vec::new();
    for command in commands {
        protobuf::write_command(command, &mut frame);
    }
    frame
}

async fn send(client: &mut Client, frame: &[u8]) {
    client.send_message(Message::binary(frame.to_vec())).await;
}

async fn assert_lives(client: &mut Client) {
    client.send_commands(&[rpc(4_000_000_000, "any")]).await;
    let reply = client.protobuf_reply().await;
    assert_eq!(reply.id, 4_000_000_000);
    assert_eq!(reply.error.unwrap().code, 108);
}

#[tokio::test]
async fn frames_that_are_no_commands_end_the_connection() {
    let node = Node::insecure("").await;
    let mut bystander = node.protobuf_connected().await;
    let mut json_bystander = node.connected().await;
    // Deeper than anybody means it.
    let mut filter = FilterNode::default();
    for _ in 0..200 {
        filter = FilterNode {
            nodes: vec![filter],
            ..FilterNode::default()
        };
    }
    let deep = subscribe(
        2,
        SubscribeRequest {
            channel: "a".into(),
            tf: Some(filter),
            ..SubscribeRequest::default()
        },
    );
    for (what, bytes) in [
        ("empty", &b""[..]),
        ("JSON", br#"{"id":2,"rpc":{}}"#),
        ("a length cut short", &[0x80]),
        ("a length over all numbers", &[0xff; 16]),
        (
            "a length of 2^63",
            b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01\x08\x02",
        ),
        ("longer than the frame", b"\x05\x08\x02\x6a\x00"),
        ("a field longer than its message", b"\x04\x08\x02\x6a\x7f\x00\x00"),
        ("a number cut short", b"\x02\x08\x80"),
        (
            "a number over 64 bits",
            b"\x0c\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        ),
        ("the id as text", b"\x05\x0a\x01\x32\x6a\x00"),
        ("a request as a number", b"\x04\x08\x02\x68\x01"),
        ("the channel as a number", b"\x06\x08\x02\x2a\x02\x08\x01"),
        ("field number 0", b"\x04\x00\x01\x08\x02"),
        ("an unknown wire type", b"\x04\x08\x02\x6f\x00"),
        ("the end of no group", b"\x03\x08\x02\x0c"),
        ("a group without end", b"\x06\x08\x02\xb3\x03\x08\x01"),
        (
            "a channel that is not UTF-8",
            b"\x08\x08\x02\x2a\x04\x0a\x02\xc3\x28",
        ),
        ("a method that is not UTF-8", b"\x07\x08\x02\x6a\x03\x12\x01\xff"),
        ("filters in filters", &frame(&[deep])),
        // Commands that the protocol does not allow.
        ("no request", b"\x02\x08\x02"),
        ("an unknown request", b"\x05\x08\x02\xa2\x03\x00"),
        (
            "a ping",
            &frame(&[Command {
                id: 2,
                ping: Some(PingRequest {}),
                ..none()
            }]),
        ),
        ("a pong without a ping", &[0]),
        ("a request without id", &frame(&[rpc(0, "a")])),
        ("a second connect", &frame(&[connect(2)])),
        (
            "no channel to subscribe to",
            &frame(&[subscribe(2, SubscribeRequest::default())]),
        ),
        ("no channel to publish to", &frame(&[publish(2, "", b"1")])),
        (
            "an unknown delta",
            &frame(&[subscribe(
                2,
                SubscribeRequest {
                    channel: "a".into(),
                    delta: "xdelta".into(),
                    ..SubscribeRequest::default()
                },
            )]),
        ),
    ] {
        let mut client = node.protobuf_connected().await;
        send(&mut client, bytes).await;
        let (code, reason) = client.closed().await;
        assert_eq!((code, reason.as_str()), BAD_REQUEST, "{what}");
    }
    assert_lives(&mut bystander).await;
    json_bystander.assert_lives().await;
}

#[tokio::test]
async fn nothing_goes_before_connect() {
    let node = Node::insecure("").await;
    let send_command = Command {
        send: Some(SendRequest::default()),
        ..none()
    };
    for commands in [
        vec![subscribe(
            1,
            SubscribeRequest {
                channel: "a".into(),
                ..SubscribeRequest::default()
            },
        )],
        vec![publish(1, "a", b"1")],
        vec![rpc(1, "a")],
        vec![send_command],
        vec![none()],
        vec![connect(0)],
        vec![rpc(1, "a"), connect(2)],
    ] {
        let mut client = node.protobuf_client().await;
        client.send_commands(&commands).await;
        let (code, reason) = client.closed().await;
        assert_eq!((code, reason.as_str()), BAD_REQUEST, "{commands:?}");
    }
}

#[tokio::test]
async fn what_stands_before_a_wrong_command_is_answered() {
    let node = Node::insecure("").await;
    let mut client = node.protobuf_client().await;
    let mut bytes = frame(&[connect(1), rpc(2, "a")]);
    bytes.extend_from_slice(b"\x02\x08\x80");
    bytes.extend_from_slice(&frame(&[rpc(3, "a")]));
    send(&mut client, &bytes).await;
    assert!(client.protobuf_reply().await.connect.is_some());
    assert_eq!(client.protobuf_reply().await.error.unwrap().code, 108);
    assert_eq!(client.closed().await.0, BAD_REQUEST.0);
}

#[tokio::test]
async fn several_commands_in_a_frame_and_unknown_fields() {
    let node = Node::insecure("").await;
    let mut client = node.protobuf_client().await;
    let unsubscribe = Command {
        id: 3,
        unsubscribe: Some(UnsubscribeRequest {
            channel: "never".into(),
        }),
        ..none()
    };
    // connect with an unknown field in the request and one of each wire type in the command.
    let mut bytes = vec![44, 0x08, 1, 0x22, 3, 0x42, 1, b'd'];
    bytes.extend_from_slice(&[0x90, 0x03, 7, 0x99, 0x03, 1, 2, 3, 4, 5, 6, 7, 8, 0xa2, 0x03, 6]);
    bytes.extend_from_slice(b"\xff\xfe\x00abc");
    bytes.extend_from_slice(&[
        0xad, 0x03, 1, 2, 3, 4, 0xb3, 0x03, 0x08, 1, 0xb4, 0x03, 0x90, 0x03, 8,
    ]);
    assert_eq!(bytes.len(), 45);
    bytes.extend_from_slice(&frame(&[rpc(2, "a"), unsubscribe]));
    send(&mut client, &bytes).await;
    let connected = client.protobuf_reply().await;
    assert_eq!(connected.id, 1);
    let result = connected.connect.unwrap();
    assert_eq!((result.ping, result.pong), (25, true));
    assert!(!result.version.is_empty());
    let refused = client.protobuf_reply().await;
    assert_eq!((refused.id, refused.error.unwrap().code), (2, 108));
    let unsubscribed = client.protobuf_reply().await;
    assert_eq!(unsubscribed.id, 3);
    assert!(unsubscribed.unsubscribe.is_some(), "an empty result is there");
    // All of it in one frame, since it waited together.
    client.send_commands(&vec![rpc(2, "a"); 30]).await;
    let Message::Binary(together) = client.message().await.unwrap().unwrap() else {
        panic!("not binary");
    };
    assert_eq!(protobuf::replies(&together).map(Result::unwrap).count(), 30);
}

#[tokio::test]
async fn a_frame_over_the_limit_closes_with_websockets_own_code() {
    let node = Node::insecure("max_frame = \"2KiB\"\npublish_size = 512").await;
    let exactly = |bytes: usize| {
        let mut method = "x".repeat(bytes);
        while frame(&[rpc(2, &method)]).len() > bytes {
            method.pop();
        }
        let frame = frame(&[rpc(2, &method)]);
        assert_eq!(frame.len(), bytes);
        frame
    };
    let mut client = node.protobuf_connected().await;
    send(&mut client, &exactly(2048)).await;
    assert_eq!(client.protobuf_reply().await.error.unwrap().code, 108);
    send(&mut client, &exactly(2049)).await;
    assert_eq!(client.closed().await, (1009, "message size limit".to_owned()));
    // More than the gateway ever reads.
    let mut client = node.protobuf_connected().await;
    send(&mut client, &vec![0xff; 8 * 1024 * 1024]).await;
    assert_eq!(client.closed().await.0, 1009);
}

#[tokio::test]
async fn a_text_frame_is_none_of_this_connection() {
    let node = Node::insecure("").await;
    for text in ["", "{}", r#"{"id":2,"rpc":{}}"#, "\u{0}"] {
        let mut client = node.protobuf_connected().await;
        client.send(text).await;
        let (code, reason) = client.closed().await;
        assert_eq!((code, reason.as_str()), BAD_REQUEST, "{text:?}");
    }
}

#[tokio::test]
async fn commands_that_are_refused_leave_the_connection_as_it_is() {
    let node =
        Node::insecure("channels_per_connection = 2\nchannel_name_length = 20\npublish_size = 10").await;
    let mut client = node.protobuf_connected().await;
    let to = |channel: &str| SubscribeRequest {
        channel: channel.to_owned(),
        ..SubscribeRequest::default()
    };
    let channel = || "a".to_owned();
    for (id, (mut command, code)) in (2..).zip([
        (subscribe(0, to("123456789012345678901")), 107),
        (subscribe(0, to("mü")), 107),
        (subscribe(0, to("a b")), 107),
        (subscribe(0, SubscribeRequest { r#type: 1, ..to("a") }), 108),
        (
            subscribe(
                0,
                SubscribeRequest {
                    tf: Some(FilterNode::default()),
                    ..to("a")
                },
            ),
            107,
        ),
        (
            subscribe(
                0,
                SubscribeRequest {
                    token: "t".into(),
                    ..to("a")
                },
            ),
            103,
        ),
        (publish(0, "a", b""), 107),
        (publish(0, "a", b"12345678901"), 106),
        (publish(0, "dm:#b,a", b"\xff"), 107),
        (
            Command {
                presence: Some(PresenceRequest { channel: channel() }),
                ..none()
            },
            108,
        ),
        (
            Command {
                presence_stats: Some(PresenceStatsRequest { channel: channel() }),
                ..none()
            },
            108,
        ),
        (
            Command {
                history: Some(HistoryRequest {
                    channel: channel(),
                    reverse: true,
                    since: Some(StreamPosition::default()),
                    ..HistoryRequest::default()
                }),
                ..none()
            },
            107,
        ),
        (rpc(0, "a"), 108),
    ]) {
        command.id = id;
        client.send_commands(std::slice::from_ref(&command)).await;
        let reply = client.protobuf_reply().await;
        assert_eq!(
            (reply.id, reply.error.map(|error| error.code)),
            (id, Some(code)),
            "{command:?}"
        );
    }
    assert_lives(&mut client).await;
}
