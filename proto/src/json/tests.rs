use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::client::*;
use crate::codes::{ErrorCode, UnsubscribeCode};

fn written(reply: &Reply) -> String {
    let mut out = Vec::new();
    write_reply(reply, &mut out);
    String::from_utf8(out).unwrap()
}

fn one(frame: &str) -> Result<Command, DecodeError> {
    let mut commands = commands(frame);
    let first = commands.next().unwrap();
    assert!(commands.next().is_none(), "more than one in {frame}");
    first
}

fn reply(id: u32) -> Reply {
    Reply {
        id,
        ..Reply::default()
    }
}

// ---- reading

#[test]
fn a_frame_of_several_commands() {
    let frame = concat!(
        r#"{"id":1,"connect":{"token":"t","name":"js","data":{"a": [1, "}"]}}}"#,
        "\n",
        r#"{"id":2,"subscribe":{"channel":"room:1","recover":true,"epoch":"1-00000001","offset":7,"flag":1}}"#,
        "\n",
        "{}",
    );
    let commands: Vec<Command> = commands(frame).collect::<Result<_, _>>().unwrap();
    assert_eq!(
        commands,
        [
            Command {
                id: 1,
                connect: Some(ConnectRequest {
                    token: "t".into(),
                    name: "js".into(),
                    data: Bytes::from_static(br#"{"a": [1, "}"]}"#),
                    ..ConnectRequest::default()
                }),
                ..Command::default()
            },
            Command {
                id: 2,
                subscribe: Some(SubscribeRequest {
                    channel: "room:1".into(),
                    recover: true,
                    epoch: "1-00000001".into(),
                    offset: 7,
                    flag: 1,
                    ..SubscribeRequest::default()
                }),
                ..Command::default()
            },
            Command::default(),
        ]
    );
}

#[test]
fn one_newline_at_the_end_is_tolerated_two_and_none_at_all_are_not() {
    assert_eq!(one("{}\n"), Ok(Command::default()));
    assert_eq!(one(""), Err(DecodeError::Empty));
    assert_eq!(one("\n"), Err(DecodeError::Empty));
    let errors: Vec<_> = commands("{}\n\n").collect();
    assert_eq!(errors, [Ok(Command::default()), Err(DecodeError::Empty)]);
    let errors: Vec<_> = commands("{}\n\n{}").collect();
    assert_eq!(
        errors,
        [
            Ok(Command::default()),
            Err(DecodeError::Empty),
            Ok(Command::default())
        ]
    );
}

#[test]
fn what_newer_sdks_add_is_ignored() {
    let command = r#"{"id":1,"later":{"x":[1]},"connect":{"dict":"d","profile":"p"}}"#;
    assert_eq!(
        one(command),
        Ok(Command {
            id: 1,
            connect: Some(ConnectRequest::default()),
            ..Command::default()
        })
    );
    assert_eq!(
        one(r#"{"id":4,"newer":{}}"#),
        Ok(Command {
            id: 4,
            ..Command::default()
        })
    );
}

#[test]
fn a_null_request_is_none_and_a_null_payload_is_a_payload() {
    let command = one(r#"{"id":3,"connect":null,"publish":{"channel":"a","data":null}}"#).unwrap();
    assert_eq!(command.connect, None);
    assert_eq!(command.publish.unwrap().data, "null");
}

#[test]
fn a_payload_keeps_its_text_and_none_of_the_frame() {
    let frame = r#"{"id":3,"publish":{"channel":"a","data": {"b":  1.50, "a":"\u00e4"} }}"#.to_owned();
    let command = one(&frame).unwrap();
    drop(frame);
    assert_eq!(command.publish.unwrap().data, r#"{"b":  1.50, "a":"\u00e4"}"#);
    let absent = one(r#"{"id":3,"publish":{"channel":"a"}}"#).unwrap();
    assert!(absent.publish.unwrap().data.is_empty());
}

#[test]
fn faults_say_where_and_nothing_of_what() {
    let secret = r#"{"id":"secret"}"#;
    let error = one(secret).unwrap_err();
    assert_eq!(
        error,
        DecodeError::Message {
            fault: Fault::Type,
            column: 14
        }
    );
    assert_eq!(
        error.to_string(),
        "a field of another type at byte 14 of the message"
    );
    let fault = |frame| match one(frame) {
        Err(DecodeError::Message { fault, .. }) => fault,
        other => panic!("{frame}: {other:?}"),
    };
    for frame in [
        "x",
        "{}{}",
        r#"{"id":1,}"#,
        r#"{id:1}"#,
        r#"{"id":01}"#,
        r#"{"publish":{"data":boom}}"#,
    ] {
        assert_eq!(fault(frame), Fault::Syntax, "{frame}");
    }
    for frame in [
        "[]",
        "[1]",
        "1",
        "null",
        r#"{"id":-1}"#,
        r#"{"id":1.5}"#,
        r#"{"id":4294967296}"#,
        r#"{"id":1,"id":2}"#,
        r#"{"connect":7}"#,
        r#"{"subscribe":{"channel":5}}"#,
        r#"{"subscribe":{"channel":null}}"#,
        r#"{"connect":{"subs":{"a":1}}}"#,
    ] {
        assert_eq!(fault(frame), Fault::Type, "{frame}");
    }
    for frame in ["{", r#"{"id":1"#, r#"{"publish":{"data":[1"#, " "] {
        assert_eq!(fault(frame), Fault::Truncated, "{frame}");
    }
}

#[test]
fn nesting_of_payloads_is_bounded_without_recursion() {
    let publish = |data: &str| format!(r#"{{"id":9,"publish":{{"channel":"a","data":{data}}}}}"#);
    let nested = |depth| "[".repeat(depth) + &"]".repeat(depth);
    assert!(one(&publish(&nested(MAX_NESTING))).is_ok());
    for depth in [MAX_NESTING + 1, 100_000] {
        assert_eq!(one(&publish(&nested(depth))), Err(DecodeError::TooDeep { id: 9 }));
    }
    let in_a_sub = format!(
        r#"{{"id":9,"connect":{{"subs":{{"a":{{"data":{}}}}}}}}}"#,
        nested(200)
    );
    assert_eq!(one(&in_a_sub), Err(DecodeError::TooDeep { id: 9 }));
    // An ignored field and a filter do not overflow the stack either.
    assert!(one(&format!(r#"{{"other":{}}}"#, nested(100_000))).is_ok());
    let filter = r#"{"nodes":["#.repeat(10_000);
    assert!(one(&format!(r#"{{"subscribe":{{"tf":{filter}"#)).is_err());
}

#[test]
fn brackets_in_strings_do_not_nest() {
    assert_eq!(nesting(br#"{"[[[\"[[[\\":[1,"{{{"]}"#), 2);
    assert_eq!(nesting(br#"[[],[[]],{}]"#), 3);
    assert_eq!(nesting(b"1"), 0);
}

#[test]
fn what_is_a_payload_of_the_json_encoding() {
    let nested = |depth| "[".repeat(depth) + &"]".repeat(depth);
    for json in [
        "null",
        "1",
        " {\"a\":\n[1, 2]}\r\n",
        r#""\u00e4 \n""#,
        "\"ä\"",
        &nested(MAX_NESTING),
    ] {
        assert!(is_payload(json.as_bytes()), "{json}");
    }
    for other in [
        "",
        " ",
        "boom",
        "1 2",
        "{}{}",
        "[1,]",
        "'a'",
        "\"a\nb\"",
        "\u{feff}1",
        "NaN",
        "[1",
    ] {
        assert!(!is_payload(other.as_bytes()), "{other}");
    }
    assert!(!is_payload(b"\"\xff\""), "not UTF-8");
    assert!(!is_payload(nested(MAX_NESTING + 1).as_bytes()));
    assert!(!is_payload("[".repeat(1_000_000).as_bytes()));
}

// ---- writing

#[test]
fn a_ping_is_an_empty_object() {
    assert_eq!(written(&Reply::default()), "{}");
}

#[test]
fn empty_results_are_present() {
    let published = Reply {
        publish: Some(PublishResult {}),
        ..reply(3)
    };
    assert_eq!(written(&published), r#"{"id":3,"publish":{}}"#);
    let unsubscribed = Reply {
        unsubscribe: Some(UnsubscribeResult {}),
        ..reply(4)
    };
    assert_eq!(written(&unsubscribed), r#"{"id":4,"unsubscribe":{}}"#);
    let subscribed = Reply {
        subscribe: Some(SubscribeResult::default()),
        ..reply(2)
    };
    assert_eq!(written(&subscribed), r#"{"id":2,"subscribe":{}}"#);
    let called = Reply {
        rpc: Some(RpcResult::default()),
        ..reply(5)
    };
    assert_eq!(written(&called), r#"{"id":5,"rpc":{}}"#);
}

#[test]
fn a_connect_result() {
    let connected = Reply {
        connect: Some(ConnectResult {
            client: "b7c0".into(),
            version: "0.1.0".into(),
            expires: true,
            ping: 25,
            pong: true,
            subs: [("#42".to_owned(), SubscribeResult::default())].into(),
            data: Bytes::from_static(b"[1, 2]"),
            ..ConnectResult::default()
        }),
        ..reply(1)
    };
    assert_eq!(
        written(&connected),
        r##"{"id":1,"connect":{"client":"b7c0","version":"0.1.0","expires":true,"ttl":0,"data":[1, 2],"subs":{"#42":{}},"ping":25,"pong":true}}"##
    );
}

#[test]
fn a_recovered_subscription() {
    let recovered = Reply {
        subscribe: Some(SubscribeResult {
            recoverable: true,
            positioned: true,
            epoch: "1-9f3ac0de".into(),
            recovered: true,
            was_recovering: true,
            offset: 4096,
            publications: vec![
                Publication {
                    data: Bytes::from_static(br#"{"n":1}"#),
                    offset: 8192,
                    ..Publication::default()
                },
                Publication {
                    data: Bytes::from_static(b"2"),
                    offset: 12288,
                    ..Publication::default()
                },
            ],
            ..SubscribeResult::default()
        }),
        ..reply(2)
    };
    assert_eq!(
        written(&recovered),
        r#"{"id":2,"subscribe":{"recoverable":true,"epoch":"1-9f3ac0de","publications":[{"data":{"n":1},"offset":8192},{"data":2,"offset":12288}],"recovered":true,"offset":4096,"positioned":true,"was_recovering":true}}"#
    );
}

#[test]
fn errors_have_code_and_message_and_temporary_only_when_true() {
    let denied = Reply {
        error: Some(ErrorCode::PermissionDenied.into()),
        ..reply(3)
    };
    assert_eq!(
        written(&denied),
        r#"{"id":3,"error":{"code":103,"message":"permission denied"}}"#
    );
    let trouble = Reply {
        error: Some(ErrorCode::Internal.into()),
        ..reply(3)
    };
    assert_eq!(
        written(&trouble),
        r#"{"id":3,"error":{"code":100,"message":"internal server error","temporary":true}}"#
    );
}

#[test]
fn the_fields_that_are_never_left_out() {
    let joined = Reply {
        push: Some(Push {
            channel: "a".into(),
            join: Some(Join {
                info: Some(ClientInfo::default()),
            }),
            ..Push::default()
        }),
        ..reply(0)
    };
    assert_eq!(
        written(&joined),
        r#"{"push":{"channel":"a","join":{"info":{"user":"","client":""}}}}"#
    );
    let presence = Reply {
        presence: Some(PresenceResult::default()),
        ..reply(1)
    };
    assert_eq!(written(&presence), r#"{"id":1,"presence":{"presence":{}}}"#);
    let stats = Reply {
        presence_stats: Some(PresenceStatsResult::default()),
        ..reply(1)
    };
    assert_eq!(
        written(&stats),
        r#"{"id":1,"presence_stats":{"num_clients":0,"num_users":0}}"#
    );
    let history = Reply {
        history: Some(HistoryResult::default()),
        ..reply(1)
    };
    assert_eq!(
        written(&history),
        r#"{"id":1,"history":{"publications":[],"epoch":"","offset":0}}"#
    );
    let refreshed = Reply {
        refresh: Some(RefreshResult {
            expires: true,
            ..RefreshResult::default()
        }),
        ..reply(1)
    };
    assert_eq!(
        written(&refreshed),
        r#"{"id":1,"refresh":{"expires":true,"ttl":0}}"#
    );
}

#[test]
fn pushes() {
    let publication = Reply {
        push: Some(Push {
            channel: "room:1".into(),
            r#pub: Some(Publication {
                data: Bytes::from_static(br#"{"text":"hi"}"#),
                info: Some(ClientInfo {
                    user: "bob".into(),
                    client: "c1".into(),
                    ..ClientInfo::default()
                }),
                offset: 13,
                tags: [("k".to_owned(), "v\n\"".to_owned())].into(),
                ..Publication::default()
            }),
            ..Push::default()
        }),
        ..reply(0)
    };
    assert_eq!(
        written(&publication),
        r#"{"push":{"channel":"room:1","pub":{"data":{"text":"hi"},"info":{"user":"bob","client":"c1"},"offset":13,"tags":{"k":"v\n\""}}}}"#
    );
    let ended = Reply {
        push: Some(Push {
            channel: "room:1".into(),
            unsubscribe: Some(UnsubscribeCode::InsufficientState.into()),
            ..Push::default()
        }),
        ..reply(0)
    };
    assert_eq!(
        written(&ended),
        r#"{"push":{"channel":"room:1","unsubscribe":{"code":2500,"reason":"insufficient state"}}}"#
    );
    let gone = Reply {
        push: Some(Push {
            disconnect: Some(Disconnect::default()),
            ..Push::default()
        }),
        ..reply(0)
    };
    assert_eq!(
        written(&gone),
        r#"{"push":{"disconnect":{"code":0,"reason":""}}}"#
    );
}

#[test]
fn raw_line_breaks_of_a_payload_are_taken_out() {
    let pretty = Reply {
        rpc: Some(RpcResult {
            data: Bytes::from_static(b"{\r\n  \"a\": \"x\\ny\"\n}"),
        }),
        ..reply(1)
    };
    assert_eq!(written(&pretty), r#"{"id":1,"rpc":{"data":{  "a": "x\ny"}}}"#);
}

// ---- both

fn payload_text() -> impl Strategy<Value = Bytes> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<String>().prop_map(Into::into),
    ];
    let value = leaf.prop_recursive(4, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(serde_json::Value::from),
            prop::collection::btree_map(any::<String>(), inner, 0..4)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    });
    prop_oneof![
        Just(Bytes::new()),
        value.prop_map(|value| value.to_string().into())
    ]
}

fn texts() -> impl Strategy<Value = std::collections::BTreeMap<String, String>> {
    prop::collection::btree_map(any::<String>(), any::<String>(), 0..3)
}

prop_compose! {
    fn client_info()(user: String, client: String, conn_info in payload_text(), chan_info in payload_text())
        -> ClientInfo { ClientInfo { user, client, conn_info, chan_info } }
}

prop_compose! {
    fn publication()(
        data in payload_text(), info in prop::option::of(client_info()), offset: u64, tags in texts(), delta: bool,
        time: i64,
    ) -> Publication { Publication { data, info, offset, tags, delta, time } }
}

prop_compose! {
    fn subscribe_result()(
        (expires, recoverable, recovered, positioned, was_recovering, delta) in any::<(bool, bool, bool, bool, bool, bool)>(),
        ttl: u32, epoch: String, offset: u64, data in payload_text(),
        publications in prop::collection::vec(publication(), 0..3),
    ) -> SubscribeResult {
        SubscribeResult {
            expires, ttl, recoverable, epoch, publications, recovered, offset, positioned, data, was_recovering,
            delta,
        }
    }
}

prop_compose! {
    fn connect_result()(
        (client, version, session, node) in any::<(String, String, String, String)>(), (expires, pong) in any::<(bool, bool)>(),
        (ttl, ping) in any::<(u32, u32)>(), time: i64, data in payload_text(),
        subs in prop::collection::btree_map(any::<String>(), subscribe_result(), 0..3),
    ) -> ConnectResult {
        ConnectResult { client, version, expires, ttl, data, subs, ping, pong, session, node, time }
    }
}

fn any_push() -> impl Strategy<Value = Push> {
    let body = prop_oneof![
        publication().prop_map(|publication| Push {
            r#pub: Some(publication),
            ..Push::default()
        }),
        prop::option::of(client_info()).prop_map(|info| Push {
            join: Some(Join { info }),
            ..Push::default()
        }),
        prop::option::of(client_info()).prop_map(|info| Push {
            leave: Some(Leave { info }),
            ..Push::default()
        }),
        (any::<u32>(), any::<String>()).prop_map(|(code, reason)| Push {
            unsubscribe: Some(Unsubscribe { code, reason }),
            ..Push::default()
        }),
        payload_text().prop_map(|data| Push {
            message: Some(Message { data }),
            ..Push::default()
        }),
        (any::<(bool, String, u64, bool)>(), payload_text()).prop_map(
            |((recoverable, epoch, offset, positioned), data)| Push {
                subscribe: Some(Subscribe {
                    recoverable,
                    epoch,
                    offset,
                    positioned,
                    data
                }),
                ..Push::default()
            }
        ),
        connect_result().prop_map(|c| Push {
            connect: Some(Connect {
                client: c.client,
                version: c.version,
                data: c.data,
                subs: c.subs,
                expires: c.expires,
                ttl: c.ttl,
                ping: c.ping,
                pong: c.pong,
                session: c.session,
                node: c.node,
                time: c.time,
            }),
            ..Push::default()
        }),
        any::<(u32, String, bool)>().prop_map(|(code, reason, reconnect)| Push {
            disconnect: Some(Disconnect {
                code,
                reason,
                reconnect
            }),
            ..Push::default()
        }),
        any::<(bool, u32)>().prop_map(|(expires, ttl)| Push {
            refresh: Some(Refresh { expires, ttl }),
            ..Push::default()
        }),
    ];
    (any::<i64>(), any::<String>(), body).prop_map(|(id, channel, body)| Push { id, channel, ..body })
}

pub(crate) fn any_reply() -> impl Strategy<Value = Reply> {
    let body = prop_oneof![
        Just(Reply::default()),
        any::<(u32, String, bool)>().prop_map(|(code, message, temporary)| Reply {
            error: Some(Error {
                code,
                message,
                temporary
            }),
            ..Reply::default()
        }),
        any_push().prop_map(|push| Reply {
            push: Some(push),
            ..Reply::default()
        }),
        connect_result().prop_map(|result| Reply {
            connect: Some(result),
            ..Reply::default()
        }),
        subscribe_result().prop_map(|result| Reply {
            subscribe: Some(result),
            ..Reply::default()
        }),
        Just(Reply {
            unsubscribe: Some(UnsubscribeResult {}),
            publish: Some(PublishResult {}),
            ping: Some(PingResult {}),
            ..Reply::default()
        }),
        (
            prop::collection::btree_map(any::<String>(), client_info(), 0..3),
            any::<(u32, u32)>()
        )
            .prop_map(|(presence, (num_clients, num_users))| Reply {
                presence: Some(PresenceResult { presence }),
                presence_stats: Some(PresenceStatsResult {
                    num_clients,
                    num_users
                }),
                ..Reply::default()
            }),
        (prop::collection::vec(publication(), 0..3), any::<(String, u64)>()).prop_map(
            |(publications, (epoch, offset))| Reply {
                history: Some(HistoryResult {
                    publications,
                    epoch,
                    offset
                }),
                ..Reply::default()
            }
        ),
        payload_text().prop_map(|data| Reply {
            rpc: Some(RpcResult { data }),
            ..Reply::default()
        }),
        any::<(String, String, bool, u32)>().prop_map(|(client, version, expires, ttl)| Reply {
            refresh: Some(RefreshResult {
                client,
                version,
                expires,
                ttl
            }),
            sub_refresh: Some(SubRefreshResult { expires, ttl }),
            ..Reply::default()
        }),
    ];
    (any::<u32>(), body).prop_map(|(id, body)| Reply { id, ..body })
}

fn filter() -> impl Strategy<Value = FilterNode> {
    let leaf = (
        any::<(String, String, String, String)>(),
        prop::collection::vec(any::<String>(), 0..3),
    )
        .prop_map(|((op, key, cmp, val), vals)| FilterNode {
            op,
            key,
            cmp,
            val,
            vals,
            nodes: Vec::new(),
        });
    leaf.prop_recursive(3, 8, 3, |inner| {
        (any::<String>(), prop::collection::vec(inner, 0..3)).prop_map(|(op, nodes)| FilterNode {
            op,
            nodes,
            ..FilterNode::default()
        })
    })
}

prop_compose! {
    fn subscribe_request()(
        (channel, token, epoch, delta) in any::<(String, String, String, String)>(),
        (recover, positioned, recoverable, join_leave) in any::<(bool, bool, bool, bool)>(),
        offset: u64, flag: i64, r#type: i32, data in payload_text(), tf in prop::option::of(filter()),
    ) -> SubscribeRequest {
        SubscribeRequest {
            channel, token, recover, epoch, offset, data, positioned, recoverable, join_leave, delta, tf, flag,
            r#type,
        }
    }
}

pub(crate) fn any_command() -> impl Strategy<Value = Command> {
    let body = prop_oneof![
        Just(Command::default()),
        (
            any::<(String, String, String, i64)>(),
            payload_text(),
            texts(),
            prop::collection::btree_map(any::<String>(), subscribe_request(), 0..3)
        )
            .prop_map(|((token, name, version, flag), data, headers, subs)| Command {
                connect: Some(ConnectRequest {
                    token,
                    data,
                    subs,
                    name,
                    version,
                    headers,
                    flag
                }),
                ..Command::default()
            }),
        subscribe_request().prop_map(|request| Command {
            subscribe: Some(request),
            ..Command::default()
        }),
        any::<(String, String)>().prop_map(|(channel, token)| Command {
            unsubscribe: Some(UnsubscribeRequest {
                channel: channel.clone()
            }),
            presence: Some(PresenceRequest {
                channel: channel.clone()
            }),
            presence_stats: Some(PresenceStatsRequest {
                channel: channel.clone()
            }),
            ping: Some(PingRequest {}),
            refresh: Some(RefreshRequest { token: token.clone() }),
            sub_refresh: Some(SubRefreshRequest { channel, token }),
            ..Command::default()
        }),
        (any::<(String, i32)>(), payload_text()).prop_map(|((channel, r#type), data)| Command {
            publish: Some(PublishRequest {
                channel,
                data,
                r#type
            }),
            ..Command::default()
        }),
        (
            any::<(String, i32, bool)>(),
            prop::option::of(any::<(u64, String)>())
        )
            .prop_map(|((channel, limit, reverse), since)| Command {
                history: Some(HistoryRequest {
                    channel,
                    limit,
                    since: since.map(|(offset, epoch)| StreamPosition { offset, epoch }),
                    reverse,
                }),
                ..Command::default()
            }),
        (any::<String>(), payload_text()).prop_map(|(method, data)| Command {
            rpc: Some(RpcRequest {
                data: data.clone(),
                method
            }),
            send: Some(SendRequest { data }),
            ..Command::default()
        }),
    ];
    (any::<u32>(), body).prop_map(|(id, body)| Command { id, ..body })
}

proptest! {
    #[test]
    fn replies_read_back_as_they_were(replies_sent in prop::collection::vec(any_reply(), 1..4)) {
        let mut frame = Vec::new();
        for reply in &replies_sent {
            let begin = frame.len();
            write_reply(reply, &mut frame);
            prop_assert!(!frame[begin..].contains(&b'\n'));
            frame.push(b'\n');
        }
        let read: Vec<Reply> = replies(str::from_utf8(&frame).unwrap()).collect::<Result<_, _>>().unwrap();
        prop_assert_eq!(read, replies_sent);
    }

    #[test]
    fn commands_read_back_as_they_were(commands_sent in prop::collection::vec(any_command(), 1..4)) {
        let mut frame = Vec::new();
        for command in &commands_sent {
            write_command(command, &mut frame);
            frame.push(b'\n');
        }
        let read: Vec<Command> = commands(str::from_utf8(&frame).unwrap()).collect::<Result<_, _>>().unwrap();
        prop_assert_eq!(read, commands_sent);
    }

    #[test]
    fn any_text_is_read_or_refused(frame: String) {
        commands(&frame).for_each(drop);
    }

    #[test]
    fn a_payload_is_what_a_parser_takes(payload in prop_oneof![payload_text(), any::<Vec<u8>>().prop_map(Bytes::from)]) {
        prop_assert_eq!(is_payload(&payload), serde_json::from_slice::<serde_json::Value>(&payload).is_ok());
    }

    #[test]
    fn nesting_is_what_a_parser_counts(payload in payload_text()) {
        fn depth(value: &serde_json::Value) -> usize {
            match value {
                serde_json::Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
                serde_json::Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
                _ => 0,
            }
        }
        prop_assume!(!payload.is_empty());
        prop_assert_eq!(nesting(&payload), depth(&serde_json::from_slice(&payload).unwrap()));
    }
}
