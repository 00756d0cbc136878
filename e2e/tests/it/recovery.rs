//! The promise of whoever comes back: what was said meanwhile is given to it, once and in order, or it is told that it lost something.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::client::Client;
use crate::system::{Pings, System};

/// What a client holds of a channel: where it left off.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Place {
    pub(crate) epoch: String,
    pub(crate) offset: u64,
}

impl Place {
    /// Of a subscribe result.
    pub(crate) fn of(result: &Value) -> Result<Self> {
        let epoch = result["epoch"].as_str().context("a result without epoch")?;
        Ok(Self {
            epoch: epoch.to_owned(),
            offset: result["offset"].as_u64().unwrap_or(0),
        })
    }

    pub(crate) fn at(&self, offset: u64) -> Self {
        Self {
            epoch: self.epoch.clone(),
            offset,
        }
    }

    pub(crate) fn request(&self, channel: &str) -> Value {
        json!({ "channel": channel, "recover": true, "epoch": self.epoch, "offset": self.offset })
    }
}

/// Subscribes from `place` on; the result.
pub(crate) async fn recover(client: &mut Client, channel: &str, place: &Place) -> Result<Value> {
    client.must("subscribe", place.request(channel)).await
}

/// What came with a subscribe result.
pub(crate) fn recovered(result: &Value) -> Result<Vec<(u64, Value)>> {
    let mut messages = Vec::new();
    for publication in result["publications"].as_array().into_iter().flatten() {
        let offset = publication["offset"].as_u64().context("no offset")?;
        messages.push((offset, publication["data"].clone()));
    }
    Ok(messages)
}

/// Subscribes from `place` on and reads up to the message `last`: all that came, in order.
pub(crate) async fn recover_up_to(
    client: &mut Client,
    channel: &str,
    place: &Place,
    last: &Value,
) -> Result<Vec<(u64, Value)>> {
    let result = recover(client, channel, place).await?;
    ensure!(result["recovered"] == true, "not recovered: {result}");
    let mut messages = recovered(&result)?;
    while messages.last().is_none_or(|(_, data)| data != last) {
        let publication = client.publication().await?;
        ensure!(
            publication.channel == channel,
            "a message of {}",
            publication.channel
        );
        messages.push((publication.offset, publication.data));
    }
    Ok(messages)
}

/// Publishes and returns where it stands, by a subscriber's copy.
async fn publish(witness: &mut Client, channel: &str, data: Value) -> Result<u64> {
    witness.publish(channel, data.clone()).await?;
    let publication = witness.publication().await?;
    ensure!(publication.data == data, "something else came: {publication:?}");
    Ok(publication.offset)
}

/// A subscribe result has exactly these keys besides `epoch` and `offset`, all `true`.
fn assert_flags(result: &Value, flags: &[&str]) {
    let mut keys: Vec<&str> = result
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(key, _)| !["epoch", "offset", "publications"].contains(&key.as_str()))
        .map(|(key, value)| {
            assert_eq!(*value, json!(true), "{key} of {result}");
            key.as_str()
        })
        .collect();
    keys.sort_unstable();
    assert_eq!(keys, flags, "{result}");
}

const LIVE: &[&str] = &["positioned", "recoverable"];
const LOST: &[&str] = &["positioned", "recoverable", "was_recovering"];
const RECOVERED: &[&str] = &["positioned", "recoverable", "recovered", "was_recovering"];

/// Each way to come back, and what the result says.
async fn results_say_what_became_of_the_place(system: &System) -> Result<()> {
    const CHANNEL: &str = "room:results";
    const ERROR_IF_LOST: i64 = 2;
    let urls = system.websocket_urls();
    let mut witness = Client::connect(&urls[0]).await?;
    let result = witness.subscribe(CHANNEL).await?;
    assert_flags(&result, LIVE);
    let begin = Place::of(&result)?;
    let mut offsets = Vec::new();
    for number in 0..4 {
        offsets.push(publish(&mut witness, CHANNEL, json!(number)).await?);
    }
    let top = offsets[3];
    let all: Vec<(u64, Value)> = offsets.iter().copied().zip((0..4).map(Value::from)).collect();

    let other_epoch = Place {
        epoch: format!("{}0", begin.epoch),
        offset: offsets[1],
    };
    let never = Place {
        epoch: "_".to_owned(),
        offset: top,
    };
    let any_epoch = Place {
        epoch: String::new(),
        offset: 0,
    };
    // Where it left off; whether that is recovered, and with which messages.
    let cases = [
        ("nothing missed", begin.at(top), Some(&all[4..])),
        ("two missed", begin.at(offsets[1]), Some(&all[2..])),
        ("all since it subscribed", begin.clone(), Some(&all[..])),
        ("all there is", begin.at(0), Some(&all[..])),
        ("all there is, whatever the epoch", any_epoch, Some(&all[..])),
        ("beyond the end", begin.at(top + (1 << 30)), None),
        ("as far beyond the end as numbers go", begin.at(u64::MAX), None),
        ("another epoch", other_epoch, None),
        ("the epoch that never is", never, None),
    ];
    let mut next = 4;
    for (index, (what, place, expected)) in cases.iter().enumerate() {
        // From a gateway that holds the channel, and from one that does not.
        for url in &urls {
            let mut client = Client::connect(url).await?;
            let request = place.request(CHANNEL);
            let context = || format!("{what}, case {index}");
            let result = client
                .must("subscribe", request.clone())
                .await
                .with_context(context)?;
            assert_eq!(client.kept(), 0, "{what}: messages came before the result");
            assert_eq!(result["epoch"], json!(begin.epoch), "{what}");
            let got = recovered(&result)?;
            match expected {
                Some(expected) => {
                    assert_flags(&result, RECOVERED);
                    // Others have published since.
                    let old: Vec<_> = got.iter().filter(|(offset, _)| *offset <= top).cloned().collect();
                    assert_eq!(old, *expected, "{what}");
                    let expected = usize::try_from(next - 4)? + expected.len();
                    assert_eq!(got.len(), expected, "{what}: {result}");
                    assert_eq!(result["offset"].as_u64().unwrap_or(0), place.offset, "{what}");
                }
                None => {
                    assert_flags(&result, LOST);
                    assert_eq!(got, [], "{what}");
                    let newest = result["offset"].as_u64().unwrap_or(0);
                    assert!(
                        newest >= top && newest < top + (1 << 30),
                        "{what}: not the top: {result}"
                    );
                }
            }
            // It is live either way.
            let offset = publish(&mut witness, CHANNEL, json!(next)).await?;
            let publication = client.publication().await.with_context(context)?;
            assert_eq!(
                (publication.offset, publication.data),
                (offset, json!(next)),
                "{what}"
            );
            next += 1;

            // A second client asks for an error instead.
            let mut client = Client::connect(url).await?;
            let mut with_flag = request;
            with_flag["flag"] = json!(ERROR_IF_LOST);
            let reply = client.command("subscribe", with_flag).await?;
            match expected {
                Some(_) => assert_flags(&reply["subscribe"], RECOVERED),
                None => {
                    assert_eq!(reply["error"]["code"], 112, "{what}: {reply}");
                    // It does not have the channel now, and may subscribe.
                    publish(&mut witness, CHANNEL, json!(next)).await?;
                    next += 1;
                    assert_flags(&client.subscribe(CHANNEL).await?, LIVE);
                    assert_eq!(client.kept(), 0, "{what}: what it did not subscribe to came");
                }
            }
        }
    }
    Ok(())
}

/// Several megabytes, so many pages; and it goes on while they come.
async fn a_long_absence_is_made_good(system: &System) -> Result<()> {
    const CHANNEL: &str = "room:long-absence";
    const MISSED: usize = 300;
    const LIVE: usize = 100;
    let urls = system.websocket_urls();
    let mut publisher = Client::connect(&urls[0]).await?;
    let place = Place::of(&publisher.subscribe(CHANNEL).await?)?;
    publisher
        .must("unsubscribe", json!({ "channel": CHANNEL }))
        .await?;
    let payload = |number: usize| json!({ "number": number, "text": "x".repeat(10_000) });
    for number in 0..MISSED {
        publisher.publish(CHANNEL, payload(number)).await?;
    }
    let publishing = async {
        for number in MISSED..MISSED + LIVE {
            publisher.publish(CHANNEL, payload(number)).await?;
        }
        publisher.publish(CHANNEL, json!("last")).await
    };
    let mut readers = JoinSet::new();
    for url in urls.iter().chain(&urls) {
        let (url, place) = (url.clone(), place.clone());
        readers.spawn(async move {
            let mut client = Client::connect(&url).await?;
            recover_up_to(&mut client, CHANNEL, &place, &json!("last")).await
        });
    }
    publishing.await?;
    while let Some(received) = readers.join_next().await {
        let received = received??;
        let numbers: Vec<u64> = received
            .iter()
            .filter_map(|(_, data)| data["number"].as_u64())
            .collect();
        let expected: Vec<u64> = (0..(MISSED + LIVE) as u64).collect();
        assert_eq!(numbers, expected);
        assert!(received.is_sorted_by(|a, b| a.0 < b.0), "offsets do not grow");
    }
    Ok(())
}

/// One client with many channels, each of which it missed much of: more than may wait for it at once.
async fn a_client_with_many_channels_comes_back(system: &System) -> Result<()> {
    const CHANNELS: usize = 60;
    const EACH: usize = 10;
    let urls = system.websocket_urls();
    let mut publisher = Client::connect(&urls[0]).await?;
    let channels: Vec<String> = (0..CHANNELS)
        .map(|number| format!("room:many-{number}"))
        .collect();
    let mut places = Vec::new();
    for channel in &channels {
        places.push(Place::of(&publisher.subscribe(channel).await?)?);
        publisher
            .must("unsubscribe", json!({ "channel": channel }))
            .await?;
    }
    let mut ids = Vec::new();
    for number in 0..EACH {
        for channel in &channels {
            let data = json!({ "number": number, "text": "x".repeat(10_000) });
            let request = json!({ "channel": channel, "data": data });
            ids.push(publisher.send("publish", request).await?);
        }
    }
    for id in ids {
        let reply = publisher.reply(id).await?;
        ensure!(reply["publish"].is_object(), "{reply}");
    }
    let mut client = Client::connect(&urls[urls.len() - 1]).await?;
    // As SDKs do it, all at once.
    let mut ids = Vec::new();
    for (channel, place) in channels.iter().zip(&places) {
        ids.push(client.send("subscribe", place.request(channel)).await?);
    }
    let mut received: Vec<Vec<(u64, Value)>> = Vec::new();
    for id in ids {
        let reply = client.reply(id).await?;
        assert_flags(&reply["subscribe"], RECOVERED);
        received.push(recovered(&reply["subscribe"])?);
    }
    let mut missing = CHANNELS * EACH - received.iter().map(Vec::len).sum::<usize>();
    while missing > 0 {
        let publication = client.publication().await?;
        let index = channels
            .iter()
            .position(|channel| *channel == publication.channel);
        received[index.context("a channel of these")?].push((publication.offset, publication.data));
        missing -= 1;
    }
    for (channel, received) in channels.iter().zip(received) {
        let numbers: Vec<u64> = received
            .iter()
            .filter_map(|(_, data)| data["number"].as_u64())
            .collect();
        let expected: Vec<u64> = (0..EACH as u64).collect();
        assert_eq!(numbers, expected, "{channel}");
    }
    assert_eq!(client.ended, []);
    Ok(())
}

/// 200 clients come back at once, to a busy channel, from different places.
async fn a_herd_comes_back(system: &System) -> Result<()> {
    const CHANNEL: &str = "room:herd";
    const CLIENTS: usize = 200;
    const MISSED: usize = 50;
    let urls = system.websocket_urls();
    let mut witness = Client::connect(&urls[0]).await?;
    let begin = Place::of(&witness.subscribe(CHANNEL).await?)?;
    let mut offsets = vec![begin.offset];
    for number in 0..MISSED {
        offsets.push(publish(&mut witness, CHANNEL, json!(number)).await?);
    }
    let mut herd = JoinSet::new();
    for number in 0..CLIENTS {
        let url = urls[number % urls.len()].clone();
        // Most at one place, the others anywhere.
        let has = if number % 4 == 0 { number % MISSED } else { 0 };
        let place = begin.at(offsets[has]);
        herd.spawn(async move {
            let mut client = Client::connect(&url).await?;
            let received = recover_up_to(&mut client, CHANNEL, &place, &json!("last")).await;
            let received = received.with_context(|| format!("client {number}"))?;
            anyhow::Ok((has, received))
        });
    }
    for number in MISSED..2 * MISSED {
        witness.publish(CHANNEL, json!(number)).await?;
    }
    witness.publish(CHANNEL, json!("last")).await?;
    while let Some(received) = herd.join_next().await {
        let (has, received) = received??;
        let numbers: Vec<u64> = received.iter().filter_map(|(_, data)| data.as_u64()).collect();
        let expected: Vec<u64> = (has as u64..2 * MISSED as u64).collect();
        assert_eq!(numbers, expected);
        assert!(received.is_sorted_by(|a, b| a.0 < b.0), "offsets do not grow");
    }
    Ok(())
}

pub(crate) async fn message_send(client: &mut Client, data: Value) -> Result<Value> {
    let request = json!({ "method": "message.send", "data": data });
    Ok(client.must("rpc", request).await?["data"].clone())
}

/// A key makes sending again harmless: for one connection, in one channel.
async fn a_key_is_stored_once(system: &System) -> Result<()> {
    const CHANNEL: &str = "room:keys";
    let urls = system.websocket_urls();
    let mut reader = Client::connect(&urls[urls.len() - 1]).await?;
    let epoch = reader.subscribe(CHANNEL).await?["epoch"].clone();
    let mut client = Client::connect(&urls[0]).await?;
    let first = message_send(
        &mut client,
        json!({ "channel": CHANNEL, "data": "first", "key": "k" }),
    )
    .await?;
    assert_eq!(first["duplicate"], false, "{first}");
    assert_eq!(first["epoch"], epoch);
    let copy = reader.publication().await?;
    assert_eq!(
        (json!(copy.offset), copy.data),
        (first["offset"].clone(), json!("first"))
    );

    // The same again, with whatever it says now.
    for data in ["first", "second"] {
        let again = message_send(
            &mut client,
            json!({ "channel": CHANNEL, "data": data, "key": "k" }),
        )
        .await?;
        let mut expected = first.clone();
        expected["duplicate"] = json!(true);
        assert_eq!(again, expected);
    }
    // Many at once: one of them is stored.
    let mut ids = Vec::new();
    for _ in 0..20 {
        let data = json!({ "channel": CHANNEL, "data": "herd", "key": "herd" });
        let request = json!({ "method": "message.send", "data": data });
        ids.push(client.send("rpc", request).await?);
    }
    let mut originals = 0;
    let mut places = Vec::new();
    for id in ids {
        let reply = client.reply(id).await?;
        let result = &reply["rpc"]["data"];
        originals += usize::from(result["duplicate"] == false);
        places.push((result["id"].clone(), result["offset"].clone()));
    }
    places.dedup();
    assert_eq!((originals, places.len()), (1, 1), "{places:?}");
    assert_eq!(reader.publication().await?.data, json!("herd"));

    // Another key, another channel, no key, another connection: others.
    for data in [
        json!({ "channel": CHANNEL, "data": "a", "key": "other" }),
        json!({ "channel": CHANNEL, "data": "b" }),
        json!({ "channel": CHANNEL, "data": "b" }),
    ] {
        let sent = message_send(&mut client, data.clone()).await?;
        assert_eq!(sent["duplicate"], false, "{data}");
        assert_ne!(sent["id"], first["id"]);
        assert_eq!(reader.publication().await?.data, data["data"]);
    }
    let elsewhere = json!({ "channel": "room:other-keys", "data": "c", "key": "k" });
    assert_eq!(message_send(&mut client, elsewhere).await?["duplicate"], false);
    let mut stranger = Client::connect(&urls[0]).await?;
    let data = json!({ "channel": CHANNEL, "data": "stranger's", "key": "k" });
    let sent = message_send(&mut stranger, data).await?;
    assert_eq!(sent["duplicate"], false, "keys of connections without a user");
    assert_eq!(reader.publication().await?.data, json!("stranger's"));
    Ok(())
}

macro_rules! on_both_backends {
    ($($test:ident = $embedded:ident, $cluster:ident;)+) => { $(
        #[tokio::test(flavor = "multi_thread")]
        async fn $embedded() -> Result<()> {
            let system = System::embedded(Pings::Seldom).await?;
            $test(&system).await?;
            system.stop().await
        }

        #[tokio::test(flavor = "multi_thread")]
        async fn $cluster() -> Result<()> {
            let system = System::cluster(2, 2, Pings::Seldom).await?;
            $test(&system).await?;
            system.stop().await
        }
    )+ };
}

on_both_backends! {
    results_say_what_became_of_the_place = embedded_results_say_what_became_of_the_place, cluster_results_say_what_became_of_the_place;
    a_long_absence_is_made_good = embedded_a_long_absence_is_made_good, cluster_a_long_absence_is_made_good;
    a_client_with_many_channels_comes_back = embedded_a_client_with_many_channels_comes_back, cluster_a_client_with_many_channels_comes_back;
    a_herd_comes_back = embedded_a_herd_comes_back, cluster_a_herd_comes_back;
    a_key_is_stored_once = embedded_a_key_is_stored_once, cluster_a_key_is_stored_once;
}
