//! The promise of every connected subscriber: each acknowledged message once, in order, whoever published it and wherever.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use crate::client::{Client, Publication};
use crate::system::{Pings, System};

const LAST: &str = "last";

/// What one subscriber was given: per channel, in order of arrival.
type Received = BTreeMap<String, Vec<(u64, Value)>>;

/// Reads until the last message of each of `channels` has come.
async fn read_to_the_end(client: &mut Client, channels: &[String]) -> Result<Received> {
    let mut received: Received = channels
        .iter()
        .map(|channel| (channel.clone(), Vec::new()))
        .collect();
    let mut open = channels.len();
    while open > 0 {
        let Publication {
            channel,
            offset,
            data,
        } = client.publication().await?;
        if data == LAST {
            open -= 1;
        }
        received
            .get_mut(&channel)
            .with_context(|| format!("a message of {channel}, which was not subscribed"))?
            .push((offset, data));
    }
    Ok(received)
}

fn assert_growing(messages: &[(u64, Value)]) {
    assert!(
        messages.is_sorted_by(|a, b| a.0 < b.0),
        "offsets do not grow: {messages:?}"
    );
}

/// 200 clients, each in two of ten channels, 20 of them publishing all at once without waiting for answers.
async fn everything_once_and_in_order(system: &System) -> Result<()> {
    const CLIENTS: usize = 200;
    const CHANNELS: usize = 10;
    const PUBLISHERS: usize = 20;
    const EACH: usize = 25;

    let urls = system.websocket_urls();
    let name = |channel: usize| format!("room:everything-{channel}");
    let subscribed = Arc::new(Barrier::new(CLIENTS + PUBLISHERS + 1));

    let mut subscribers: JoinSet<Result<Received>> = JoinSet::new();
    for number in 0..CLIENTS {
        let url = urls[number % urls.len()].clone();
        // Two different ones, and other pairs for neighbours.
        let first = number % CHANNELS;
        let channels = [
            name(first),
            name((first + 1 + number / CHANNELS % (CHANNELS - 1)) % CHANNELS),
        ];
        let subscribed = Arc::clone(&subscribed);
        subscribers.spawn(async move {
            let mut client = Client::connect(&url).await?;
            for channel in &channels {
                client.subscribe(channel).await?;
            }
            subscribed.wait().await;
            let received = read_to_the_end(&mut client, &channels).await;
            received.with_context(|| format!("subscriber {number}"))
        });
    }

    let mut publishers: JoinSet<Result<()>> = JoinSet::new();
    for publisher in 0..PUBLISHERS {
        let url = urls[publisher % urls.len()].clone();
        let subscribed = Arc::clone(&subscribed);
        publishers.spawn(async move {
            let mut client = Client::connect(&url).await?;
            subscribed.wait().await;
            let mut ids = Vec::new();
            for number in 0..EACH {
                for channel in 0..CHANNELS {
                    let data = json!({ "publisher": publisher, "number": number });
                    ids.push(
                        client
                            .send("publish", json!({ "channel": name(channel), "data": data }))
                            .await?,
                    );
                }
            }
            for id in ids {
                let reply = client
                    .reply(id)
                    .await
                    .with_context(|| format!("publisher {publisher}"))?;
                ensure!(reply["publish"].is_object(), "publisher {publisher}: {reply}");
            }
            Ok(())
        });
    }

    subscribed.wait().await;
    while let Some(published) = publishers.join_next().await {
        published??;
    }
    // All is acknowledged: whatever else was to come comes before these.
    let mut closing = Client::connect(&urls[0]).await?;
    for channel in 0..CHANNELS {
        closing.publish(&name(channel), json!(LAST)).await?;
    }

    let mut reference = Received::new();
    let mut readers = 0;
    while let Some(received) = subscribers.join_next().await {
        for (channel, messages) in received?? {
            readers += 1;
            let same = reference
                .entry(channel.clone())
                .or_insert_with(|| messages.clone());
            assert_eq!(
                *same, messages,
                "two subscribers of {channel} were given different things"
            );
        }
    }
    assert_eq!((readers, reference.len()), (2 * CLIENTS, CHANNELS));
    for (channel, messages) in reference {
        assert_growing(&messages);
        assert_eq!(messages.len(), PUBLISHERS * EACH + 1, "{channel}");
        for publisher in 0..PUBLISHERS {
            let numbers: Vec<u64> = messages
                .iter()
                .filter(|(_, data)| data["publisher"] == publisher)
                .filter_map(|(_, data)| data["number"].as_u64())
                .collect();
            let expected: Vec<u64> = (0..EACH as u64).collect();
            assert_eq!(numbers, expected, "{channel}: order of publisher {publisher}");
        }
    }
    Ok(())
}

/// The offset a subscriber was answered, and the offsets and payloads it was given after it.
type Given = (u64, Vec<(u64, Value)>);

/// Who subscribes while a channel is busy is given everything from one message on: no hole behind the reply.
async fn nothing_slips_between_reply_and_first_message(system: &System) -> Result<()> {
    const SUBSCRIBERS: usize = 60;
    const CHANNEL: &str = "room:busy";

    let urls = system.websocket_urls();
    let mut publisher = Client::connect(&urls[0]).await?;
    let mut subscribers: JoinSet<Result<Given>> = JoinSet::new();
    let mut published = 0_u64;
    while subscribers.len() < SUBSCRIBERS {
        // A message or two between one subscriber's start and the next one's.
        let url = urls[subscribers.len() % urls.len()].clone();
        subscribers.spawn(async move {
            let mut client = Client::connect(&url).await?;
            let reply = client.subscribe(CHANNEL).await?;
            assert_eq!(client.kept(), 0, "messages came before the subscribe reply");
            let from = reply["offset"].as_u64().unwrap_or(0);
            let channels = [CHANNEL.to_owned()];
            let mut received = read_to_the_end(&mut client, &channels).await?;
            Ok((from, received.remove(CHANNEL).unwrap_or_default()))
        });
        for _ in 0..2 {
            published += 1;
            publisher.publish(CHANNEL, json!(published)).await?;
        }
    }
    // The slowest to connect has some messages to come, too.
    let mut witness = Client::connect(&urls[0]).await?;
    witness.subscribe(CHANNEL).await?;
    publisher.publish(CHANNEL, json!(published + 1)).await?;
    publisher.publish(CHANNEL, json!(LAST)).await?;
    let published = published + 1;

    let mut in_the_middle = 0;
    while let Some(received) = subscribers.join_next().await {
        let (from, messages) = received??;
        assert_growing(&messages);
        assert!(
            messages.first().is_none_or(|(offset, _)| *offset > from),
            "older than the reply's {from}: {messages:?}"
        );
        let mut numbers: Vec<u64> = messages.iter().filter_map(|(_, data)| data.as_u64()).collect();
        assert_eq!(
            messages.len(),
            numbers.len() + 1,
            "something else came: {messages:?}"
        );
        let first = numbers.first().copied().unwrap_or(published + 1);
        let expected: Vec<u64> = (first..=published).collect();
        assert_eq!(numbers, expected, "a hole or a repeat after the first message");
        in_the_middle += usize::from(first > 1 && numbers.pop().is_some());
    }
    assert!(
        in_the_middle > SUBSCRIBERS / 2,
        "only {in_the_middle} subscribed while the channel was busy"
    );
    Ok(())
}

/// Subscribers that leave and come back all the time neither disturb the others nor get what they did not ask for.
async fn an_unsubscribed_channel_is_silent(system: &System) -> Result<()> {
    const CHANNEL: &str = "room:coming-and-going";
    let urls = system.websocket_urls();
    let mut publisher = Client::connect(&urls[0]).await?;
    let mut witness = Client::connect(&urls[urls.len() - 1]).await?;
    witness.subscribe(CHANNEL).await?;
    let mut visitor = Client::connect(&urls[urls.len() - 1]).await?;
    for round in 0..20 {
        visitor.subscribe(CHANNEL).await?;
        publisher.publish(CHANNEL, json!({ "heard": round })).await?;
        assert_eq!(visitor.publication().await?.data, json!({ "heard": round }));
        visitor.must("unsubscribe", json!({ "channel": CHANNEL })).await?;
        publisher.publish(CHANNEL, json!({ "unheard": round })).await?;
        for kind in ["heard", "unheard"] {
            assert_eq!(witness.publication().await?.data, json!({ kind: round }));
        }
        // Behind the witness's copy, on the visitor's own connection: anything under way has come.
        visitor.subscribe("room:elsewhere").await?;
        assert_eq!(visitor.kept(), 0, "a message came after the unsubscribe reply");
        visitor
            .must("unsubscribe", json!({ "channel": "room:elsewhere" }))
            .await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn embedded_everything_once_and_in_order() -> Result<()> {
    let system = System::embedded(Pings::Seldom).await?;
    everything_once_and_in_order(&system).await?;
    system.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn cluster_everything_once_and_in_order() -> Result<()> {
    let system = System::cluster(2, 2, Pings::Seldom).await?;
    everything_once_and_in_order(&system).await?;
    system.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn embedded_nothing_slips_between_reply_and_first_message() -> Result<()> {
    let system = System::embedded(Pings::Seldom).await?;
    nothing_slips_between_reply_and_first_message(&system).await?;
    system.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn cluster_nothing_slips_between_reply_and_first_message() -> Result<()> {
    let system = System::cluster(2, 2, Pings::Seldom).await?;
    nothing_slips_between_reply_and_first_message(&system).await?;
    system.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn embedded_an_unsubscribed_channel_is_silent() -> Result<()> {
    let system = System::embedded(Pings::Seldom).await?;
    an_unsubscribed_channel_is_silent(&system).await?;
    system.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn cluster_an_unsubscribed_channel_is_silent() -> Result<()> {
    let system = System::cluster(2, 2, Pings::Seldom).await?;
    an_unsubscribed_channel_is_silent(&system).await?;
    system.stop().await
}
