//! What no SDK sends: frames that are wrong, commands out of turn, silence. A wrong one ends its own session, with the code that
//! the protocol gives it, and nobody else's.

use anyhow::Result;
use serde_json::json;

use crate::client::{Client, Event};
use crate::system::{Pings, System};

/// "Not this protocol": SDKs do not come back on it.
const BAD_REQUEST: Option<u16> = Some(3501);

#[tokio::test(flavor = "multi_thread")]
async fn wrong_frames_end_only_their_own_session() -> Result<()> {
    let system = System::embedded(Pings::Seldom).await?;
    let url = &system.websocket_urls()[0];
    let mut bystander = Client::connect(url).await?;
    bystander.subscribe("room:bystanders").await?;

    for frame in [
        "",
        "\n",
        "hello",
        "[]",
        "7",
        "null",
        "{",
        r#"{"id":"one","connect":{}}"#,
        r#"{"id":1}"#,
        r#"{"id":-1,"connect":{}}"#,
        r#"{"id":0,"connect":{}}"#,
        r#"{"id":1,"subscribe":{"channel":"room:1"}}"#,
        r#"{"id":1,"publish":{"channel":"room:1","data":{}}}"#,
        r#"{"id":1,"nonsense":{}}"#,
        "{}",
    ] {
        let mut client = Client::open(url).await?;
        client.send_frame(frame).await?;
        assert_eq!(client.closed().await?, BAD_REQUEST, "before connect: {frame:?}");
    }
    for frame in [
        "",
        "hello",
        r#"{"id":9,"connect":{}}"#,
        r#"{"id":9}"#,
        r#"{"id":9,"subscribe":{"channel":""}}"#,
        r#"{"id":9,"publish":{"channel":"","data":{}}}"#,
        r#"{"id":9,"publish":{"channel":"room:1","data":boom}}"#,
        // A pong, and no ping is outstanding.
        "{}",
    ] {
        let mut client = Client::connect(url).await?;
        client.send_frame(frame).await?;
        assert_eq!(client.closed().await?, BAD_REQUEST, "after connect: {frame:?}");
    }

    bystander.publish("room:bystanders", json!("still here")).await?;
    assert_eq!(bystander.publication().await?.data, json!("still here"));
    system.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_behind_connect_in_its_frame_are_served() -> Result<()> {
    let system = System::embedded(Pings::Seldom).await?;
    let mut client = Client::open(&system.websocket_urls()[0]).await?;
    client
        .send_frame(concat!(
            r#"{"id":1,"connect":{"name":"test","unknown_field":[1]}}"#,
            "\n",
            r#"{"id":2,"subscribe":{"channel":"room:first","flag":1}}"#,
            "\n",
            r#"{"id":3,"publish":{"channel":"room:first","data":{"n":1}}}"#,
            "\n",
            r#"{"id":4,"unsubscribe":{"channel":"room:never-subscribed"}}"#,
        ))
        .await?;
    for (id, result) in [
        (1, "connect"),
        (2, "subscribe"),
        (3, "publish"),
        (4, "unsubscribe"),
    ] {
        let reply = client.reply(id).await?;
        assert!(
            reply[result].is_object(),
            "an empty result is there, too: {reply}"
        );
        assert!(reply.get("error").is_none(), "{reply}");
    }
    system.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_is_held_once() -> Result<()> {
    let system = System::embedded(Pings::Seldom).await?;
    let mut client = Client::connect(&system.websocket_urls()[0]).await?;
    client.subscribe("room:once").await?;
    let again = client
        .command("subscribe", json!({ "channel": "room:once" }))
        .await?;
    assert_eq!(again["error"]["code"], 105, "{again}");

    // Both in one frame: the second comes while the first is under way.
    client
        .send_frame(concat!(
            r#"{"id":11,"subscribe":{"channel":"room:twice"}}"#,
            "\n",
            r#"{"id":12,"subscribe":{"channel":"room:twice"}}"#,
        ))
        .await?;
    let mut codes = Vec::new();
    for _ in 0..2 {
        match client.event().await? {
            Event::Reply(reply) => codes.push(reply["error"]["code"].as_u64()),
            other => panic!("expected two replies, got {other:?}"),
        }
    }
    codes.sort_unstable();
    assert_eq!(codes, [None, Some(105)]);

    client.publish("room:once", json!(1)).await?;
    client.publish("room:once", json!(2)).await?;
    assert_eq!(client.publication().await?.data, json!(1));
    assert_eq!(
        client.publication().await?.data,
        json!(2),
        "the second subscribe doubled the messages"
    );
    system.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_answer_pings_is_closed() -> Result<()> {
    let system = System::embedded(Pings::EverySecond).await?;
    let mut client = Client::connect(&system.websocket_urls()[0]).await?;
    let mut pings = 0;
    let code = loop {
        match client.event().await? {
            Event::Ping => pings += 1,
            Event::Closed(code) => break code,
            other => panic!("nothing else was due: {other:?}"),
        }
    };
    assert_eq!(code, Some(3012));
    assert!(pings >= 1);
    system.stop().await
}

/// A payload with newlines must not break the frame, in which a newline ends a message.
#[tokio::test(flavor = "multi_thread")]
async fn a_pretty_printed_payload_arrives() -> Result<()> {
    let system = System::embedded(Pings::Seldom).await?;
    let mut client = Client::connect(&system.websocket_urls()[0]).await?;
    client.subscribe("room:pretty").await?;
    // Between two commands a newline separates, so a client can send a pretty payload only as a string; a carriage return or a
    // tab between tokens is legal anywhere.
    client
        .send_frame("{\"id\":21,\"publish\":{\"channel\":\"room:pretty\",\"data\":{\t\"a\"\r:\t[1,\t2 ] }}}")
        .await?;
    client.reply(21).await?;
    client.publish("room:pretty", json!("line\nbreak")).await?;
    assert_eq!(client.publication().await?.data, json!({ "a": [1, 2] }));
    assert_eq!(client.publication().await?.data, json!("line\nbreak"));
    system.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_asks_clients_to_come_back() -> Result<()> {
    let system = System::embedded(Pings::Seldom).await?;
    let mut client = Client::connect(&system.websocket_urls()[0]).await?;
    let (code, stopped) = tokio::join!(client.closed(), system.stop());
    stopped?;
    // 3001, shutdown: SDKs reconnect, to another gateway if there is one.
    assert_eq!(code?, Some(3001));
    Ok(())
}
