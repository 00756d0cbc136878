use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::client::*;
use crate::codes::ErrorCode;
use crate::json::tests::{any_command, any_reply};

fn written(reply: &Reply) -> Vec<u8> {
    let mut out = Vec::new();
    write_reply(reply, &mut out);
    out
}

fn read(frame: &[u8]) -> Vec<Result<Command, DecodeError>> {
    commands(frame).collect()
}

fn only(frame: &[u8]) -> Result<Command, DecodeError> {
    let mut read = read(frame);
    assert_eq!(read.len(), 1, "{read:?}");
    read.remove(0)
}

/// `message` behind its length, which has one byte.
fn framed(message: &[u8]) -> Vec<u8> {
    let mut frame = vec![u8::try_from(message.len()).unwrap()];
    assert!(frame[0] < 0x80);
    frame.extend_from_slice(message);
    frame
}

// ---- reading

/// Written by hand, after the field numbers that SDKs use.
#[test]
fn a_frame_of_several_commands() {
    let frame = [
        // id 1, connect (4) { token (1) "t", data (2) ff 00, name (4) "js!" }
        &[0x10, 0x08, 1, 0x22, 12][..],
        &[0x0a, 1, b't', 0x12, 2, 0xff, 0x00, 0x22, 3, b'j', b's', b'!'],
        // id 300, subscribe (5) { channel (1) "a", recover (3), epoch (6) "e", offset (7) 128 }
        &[0x10, 0x08, 0xac, 0x02, 0x2a, 11],
        &[0x0a, 1, b'a', 0x18, 1, 0x32, 1, b'e', 0x38, 0x80, 0x01],
        // A pong.
        &[0],
        // id 3, publish (7) { channel (1) "a", data (2) without a byte }
        &[0x09, 0x08, 3, 0x3a, 5, 0x0a, 1, b'a', 0x12, 0],
    ]
    .concat();
    let commands: Vec<Command> = commands(&frame).collect::<Result<_, _>>().unwrap();
    assert_eq!(
        commands,
        [
            Command {
                id: 1,
                connect: Some(ConnectRequest {
                    token: "t".into(),
                    data: Bytes::from_static(&[0xff, 0x00]),
                    name: "js!".into(),
                    ..ConnectRequest::default()
                }),
                ..Command::default()
            },
            Command {
                id: 300,
                subscribe: Some(SubscribeRequest {
                    channel: "a".into(),
                    recover: true,
                    epoch: "e".into(),
                    offset: 128,
                    ..SubscribeRequest::default()
                }),
                ..Command::default()
            },
            Command::default(),
            Command {
                id: 3,
                publish: Some(PublishRequest {
                    channel: "a".into(),
                    ..PublishRequest::default()
                }),
                ..Command::default()
            },
        ]
    );
}

#[test]
fn an_empty_frame_is_an_error_and_an_empty_message_is_none() {
    assert_eq!(only(&[]), Err(DecodeError::Empty));
    assert_eq!(only(&[0]), Ok(Command::default()));
    assert_eq!(read(&[0, 0]), [Ok(Command::default()), Ok(Command::default())]);
}

#[test]
fn lengths_that_are_none() {
    // The frame ends inside of it.
    assert_eq!(only(&[0x80]), Err(DecodeError::Length { at: 0 }));
    assert_eq!(
        read(&[0, 0xff, 0xff]),
        [Ok(Command::default()), Err(DecodeError::Length { at: 1 })]
    );
    // Longer than any number.
    assert_eq!(only(&[0xff; 11]), Err(DecodeError::Length { at: 0 }));
    assert_eq!(only(&[0x80; 64]), Err(DecodeError::Length { at: 0 }));
}

#[test]
fn a_message_that_would_end_behind_the_frame() {
    assert_eq!(only(&[1]), Err(DecodeError::Truncated { length: 1, left: 0 }));
    assert_eq!(
        only(&[3, 0x08, 1]),
        Err(DecodeError::Truncated { length: 3, left: 2 })
    );
    let huge = [
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, 0x08, 1,
    ];
    assert_eq!(
        only(&huge),
        Err(DecodeError::Truncated {
            length: usize::MAX,
            left: 2
        })
    );
}

#[test]
fn a_field_that_claims_more_than_its_message_costs_nothing() {
    for claim in [3, 0x7f] {
        // publish { data, longer than the rest } with a second command behind it.
        let frame = [framed(&[0x3a, 2, 0x12, claim]), framed(&[0x08, 2])].concat();
        assert!(matches!(only(&frame), Err(DecodeError::Message { at: 0, .. })));
    }
    // 2^60 bytes of payload, 2^60 bytes of text.
    for field in [0x12, 0x0a] {
        let inner = [field, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x10];
        let frame = framed(&[&[0x3a, 10][..], &inner].concat());
        assert!(matches!(only(&frame), Err(DecodeError::Message { at: 0, .. })));
    }
}

#[test]
fn what_is_not_a_command_ends_the_frame() {
    for message in [
        // id as bytes; publish as a number; channel as a number.
        &[0x0a, 1, b'1'][..],
        &[0x38, 1],
        &[0x3a, 2, 0x08, 1],
        // Field number 0; a wire type that does not exist; an end of a group without its begin.
        &[0x00, 1],
        &[0x0f, 1],
        &[0x0c],
        // Ends inside a number; a number over 64 bits.
        &[0x08, 0x80],
        &[
            0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01,
        ],
        // A channel's name that is not UTF-8.
        &[0x2a, 4, 0x0a, 2, 0xc3, 0x28],
    ] {
        let frame = [framed(&[0x08, 1]), framed(message), framed(&[0x08, 2])].concat();
        let read = read(&frame);
        assert_eq!(read.len(), 2, "{message:x?}: {read:?}");
        assert!(read[0].is_ok());
        assert!(
            matches!(read[1], Err(DecodeError::Message { at: 3, .. })),
            "{message:x?}: {read:?}"
        );
    }
}

#[test]
fn faults_hold_nothing_of_what_came() {
    // subscribe { channel "secret" with a byte that is not UTF-8 }
    let frame = framed(&[&[0x2a, 9, 0x0a, 7][..], b"secret\xff"].concat());
    let error = only(&frame).unwrap_err().to_string();
    assert!(error.starts_with("message at byte 0 of the frame: "), "{error}");
    assert!(error.contains("channel"), "{error}");
    assert!(!error.contains("secret"), "{error}");
}

#[test]
fn what_newer_sdks_add_is_skipped() {
    let message = [
        // Unknown fields of each wire type: 50 a number, 51 eight bytes, 52 bytes, 53 four bytes, 54 a group.
        &[0x90, 0x03, 7][..],
        &[0x99, 0x03, 1, 2, 3, 4, 5, 6, 7, 8],
        &[0xa2, 0x03, 2, 0xff, 0xff],
        &[0xad, 0x03, 1, 2, 3, 4],
        &[0xb3, 0x03, 0x08, 1, 0xb4, 0x03],
        // id 5, connect { dict (8) "d", name (4) "js" }
        &[0x08, 5, 0x22, 7, 0x42, 1, b'd', 0x22, 2, b'j', b's'],
    ]
    .concat();
    assert_eq!(
        only(&framed(&message)),
        Ok(Command {
            id: 5,
            connect: Some(ConnectRequest {
                name: "js".into(),
                ..ConnectRequest::default()
            }),
            ..Command::default()
        })
    );
}

#[test]
fn nesting_is_bounded() {
    // subscribe { tf { nodes { nodes { … } } } }, and an unknown group in a group in …
    let mut filter = Vec::new();
    for _ in 0..10_000 {
        let mut outer = vec![0x32];
        prost::encoding::encode_varint(filter.len() as u64, &mut outer);
        outer.extend_from_slice(&filter);
        filter = outer;
    }
    let command = Command {
        id: 1,
        subscribe: Some(SubscribeRequest::default()),
        ..Command::default()
    };
    let mut deep = vec![0x2a];
    let mut subscribe = vec![0x6a];
    prost::encoding::encode_varint(filter.len() as u64, &mut subscribe);
    subscribe.extend_from_slice(&filter);
    prost::encoding::encode_varint(subscribe.len() as u64, &mut deep);
    deep.extend_from_slice(&subscribe);
    let groups = [0xb3, 0x03].repeat(10_000);
    for message in [deep, groups] {
        let mut frame = Vec::new();
        prost::encoding::encode_varint(message.len() as u64, &mut frame);
        frame.extend_from_slice(&message);
        write_command(&command, &mut frame);
        assert!(matches!(only(&frame), Err(DecodeError::Message { at: 0, .. })));
    }
}

// ---- writing

#[test]
fn a_ping_is_one_zero() {
    assert_eq!(written(&Reply::default()), [0]);
}

#[test]
fn empty_results_are_present() {
    let published = Reply {
        id: 3,
        publish: Some(PublishResult {}),
        ..Reply::default()
    };
    assert_eq!(written(&published), [4, 0x08, 3, 0x42, 0]);
}

#[test]
fn errors() {
    let refused = Reply {
        id: 9,
        error: Some(ErrorCode::NotAvailable.into()),
        ..Reply::default()
    };
    let expected = [
        &[21, 0x08, 9, 0x12, 17, 0x08, 108, 0x12, 13][..],
        b"not available",
    ];
    assert_eq!(written(&refused), expected.concat());
}

#[test]
fn a_publication() {
    let push = Reply {
        push: Some(Push {
            channel: "a".into(),
            r#pub: Some(Publication {
                data: Bytes::from_static(b"\xff\n\x00"),
                info: Some(ClientInfo {
                    client: "c".into(),
                    ..ClientInfo::default()
                }),
                offset: 4096,
                ..Publication::default()
            }),
            ..Push::default()
        }),
        ..Reply::default()
    };
    let expected = [
        // push (4) { channel (2) "a", pub (4) {
        &[20, 0x22, 18, 0x12, 1, b'a', 0x22, 13][..],
        // data (4), info (5) { client (2) "c" }, offset (6) 4096 } }
        &[0x22, 3, 0xff, b'\n', 0, 0x2a, 3, 0x12, 1, b'c', 0x30, 0x80, 0x20],
    ];
    assert_eq!(written(&push), expected.concat());
}

#[test]
fn a_message_longer_than_one_byte_of_length_can_say() {
    let long = Reply {
        rpc: Some(RpcResult {
            data: vec![7; 300].into(),
        }),
        ..Reply::default()
    };
    let mut frame = written(&long);
    assert_eq!(frame[..2], [0xb2, 0x02], "306 bytes");
    assert_eq!(frame.len(), 308);
    frame.extend(written(&Reply::default()));
    let read: Vec<Reply> = replies(&frame).collect::<Result<_, _>>().unwrap();
    assert_eq!(read, [long, Reply::default()]);
}

// ---- both

proptest! {
    #[test]
    fn replies_read_back_as_they_were(sent in prop::collection::vec(any_reply(), 1..4)) {
        let mut frame = Vec::new();
        for reply in &sent {
            write_reply(reply, &mut frame);
        }
        let read: Vec<Reply> = replies(&frame).collect::<Result<_, _>>().unwrap();
        prop_assert_eq!(read, sent);
    }

    #[test]
    fn commands_read_back_as_they_were(
        mut sent in prop::collection::vec(any_command(), 1..4),
        channel: String,
        payload: Vec<u8>,
    ) {
        // Payloads of the strategy are JSON; here any bytes are one.
        sent.push(Command {
            id: 1,
            publish: Some(PublishRequest { channel, data: payload.into(), ..PublishRequest::default() }),
            ..Command::default()
        });
        let mut frame = Vec::new();
        for command in &sent {
            write_command(command, &mut frame);
        }
        let read: Vec<Command> = commands(&frame).collect::<Result<_, _>>().unwrap();
        prop_assert_eq!(read, sent);
    }

    #[test]
    fn any_bytes_are_read_or_refused(frame: Vec<u8>) {
        let read: Vec<_> = commands(&frame).collect();
        prop_assert!(!read.is_empty());
        prop_assert!(read[..read.len() - 1].iter().all(Result::is_ok), "nothing is read behind an error");
    }

    /// Cut anywhere, what was whole is read, and what was cut is an error, or nothing is left of it.
    #[test]
    fn a_frame_that_is_cut(sent in prop::collection::vec(any_command(), 1..4), cut: prop::sample::Index) {
        let mut frame = Vec::new();
        let mut ends = Vec::new();
        for command in &sent {
            write_command(command, &mut frame);
            ends.push(frame.len());
        }
        let cut = cut.index(frame.len());
        let whole = ends.iter().filter(|end| **end <= cut).count();
        let read: Vec<_> = commands(&frame[..cut]).collect();
        let read_whole: Vec<Command> = read.iter().filter_map(|read| read.clone().ok()).collect();
        prop_assert_eq!(&read_whole[..], &sent[..whole]);
        prop_assert_eq!(read.len() - whole, usize::from(cut == 0 || !ends.contains(&cut)));
    }
}
