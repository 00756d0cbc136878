//! What is said in a conversation is in each member's inbox, to which the server subscribes her: at once, and after an absence.

use anyhow::{Context, Result, ensure};
use jsonwebtoken::{EncodingKey, Header};
use serde_json::{Value, json};

use crate::client::{Client, Event};
use crate::system::{Access, Pings, SECRET, System};

const CONVERSATION: &str = "dm:#alice,bob";

/// Connects a user; `subs` is what the client knows of its server-side subscriptions.
async fn connect(url: &str, user: &str, subs: Value) -> Result<(Client, Value)> {
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let token = jsonwebtoken::encode(&Header::default(), &json!({ "sub": user }), &key)?;
    let mut client = Client::open(url).await?;
    let reply = client
        .must("connect", json!({ "token": token, "subs": subs }))
        .await?;
    Ok((client, reply))
}

/// The next publication of `channel`.
async fn publication(client: &mut Client, channel: &str) -> Result<Value> {
    loop {
        match client.event().await? {
            Event::Push(push) if push["channel"] == channel && push["pub"].is_object() => {
                return Ok(push["pub"].clone());
            }
            Event::Ping | Event::Push(_) | Event::Reply(_) => {}
            Event::Closed(code) => anyhow::bail!("closed with {code:?}"),
        }
    }
}

/// Where an inbox stands, as the connect reply says.
fn place<'a>(reply: &'a Value, inbox: &str) -> Result<(&'a Value, &'a Value)> {
    let sub = &reply["subs"][inbox];
    ensure!(sub["recoverable"] == true && sub["positioned"] == true, "{reply}");
    Ok((&sub["epoch"], &sub["offset"]))
}

async fn conversations_are_in_inboxes(system: &System) -> Result<()> {
    let urls = system.websocket_urls();
    let (here, there) = (&urls[0], &urls[urls.len() - 1]);
    let (mut alice, reply) = connect(here, "alice", json!({})).await?;
    place(&reply, "#alice")?;
    let (mut phone, _) = connect(there, "alice", json!({})).await?;
    let (mut bob, reply) = connect(there, "bob", json!({})).await?;
    place(&reply, "#bob")?;
    // Who is not named has no part in it.
    let (mut eve, _) = connect(there, "eve", json!({})).await?;
    let refused = eve
        .command("subscribe", json!({ "channel": CONVERSATION }))
        .await?;
    assert_eq!(refused["error"]["code"], 103, "{refused}");
    let refused = eve.command("subscribe", json!({ "channel": "#bob" })).await?;
    assert_eq!(refused["error"]["code"], 103, "{refused}");

    alice.subscribe(CONVERSATION).await?;
    let mut last = json!({});
    for number in 0..3 {
        alice.publish(CONVERSATION, json!(number)).await?;
        last = publication(&mut bob, "#bob").await?;
        assert_eq!(last["data"], number);
        assert_eq!(last["tags"]["sb-channel"], CONVERSATION);
        assert_eq!(last["info"]["user"], "alice");
        let id = last["tags"]["sb-id"].as_str().context("an id")?;
        assert_eq!(id.len(), 36, "{id}");
    }
    for number in 0..3 {
        let own = publication(&mut phone, "#alice").await?;
        assert_eq!(own["data"], number, "on the sender's other devices, too");
    }

    // He is away, and comes back by the one offset of his inbox.
    let epoch = reply["subs"]["#bob"]["epoch"].clone();
    drop(bob);
    for number in 3..8 {
        alice.publish(CONVERSATION, json!(number)).await?;
    }
    let known = |offset: &Value| json!({ "#bob": { "recover": true, "epoch": epoch, "offset": offset } });
    let (mut bob, reply) = connect(here, "bob", known(&last["offset"])).await?;
    let sub = &reply["subs"]["#bob"];
    assert_eq!(
        (&sub["recovered"], &sub["was_recovering"]),
        (&json!(true), &json!(true)),
        "{reply}"
    );
    assert_eq!(sub["offset"], last["offset"], "{reply}");
    let mut missed = sub["publications"].as_array().cloned().unwrap_or_default();
    // The last of them may still have been on their way from one shard to the other.
    while missed.len() < 5 {
        missed.push(publication(&mut bob, "#bob").await?);
    }
    let numbers: Vec<&Value> = missed.iter().map(|publication| &publication["data"]).collect();
    assert_eq!(json!(numbers), json!([3, 4, 5, 6, 7]));

    // Another log's place is nobody's.
    let strange = json!({ "#bob": { "recover": true, "epoch": "1-00000000", "offset": 1 } });
    let (_bob, reply) = connect(there, "bob", strange).await?;
    let sub = &reply["subs"]["#bob"];
    assert_eq!(sub["was_recovering"], true, "{reply}");
    assert_eq!(
        (&sub["recovered"], &sub["publications"]),
        (&Value::Null, &Value::Null),
        "{reply}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn embedded_conversations_are_in_inboxes() -> Result<()> {
    let system = System::embedded_for(Access::Tokens, Pings::Seldom).await?;
    conversations_are_in_inboxes(&system).await?;
    system.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn cluster_conversations_are_in_inboxes() -> Result<()> {
    let system = System::cluster_for(Access::Tokens, 2, 2, Pings::Seldom).await?;
    conversations_are_in_inboxes(&system).await?;
    system.stop().await
}
