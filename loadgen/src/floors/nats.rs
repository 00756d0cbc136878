//! The least that a durable publish takes: a bare NATS client that publishes each message by itself to a JetStream
//! stream, with so many unanswered at a time.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use async_nats::jetstream::context::ContextBuilder;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{self, stream};
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;

use super::Floor;
use crate::server;
use crate::times::Times;

/// The stream, made for this and deleted behind it.
const STREAM: &str = "SWITCHBOARD_LOADGEN_FLOOR";

/// Publishes for so long to a new stream with so many `replicas`.
///
/// # Errors
/// NATS that is not there, or refuses.
pub async fn run(
    url: &str,
    replicas: usize,
    unanswered: usize,
    size: usize,
    duration: Duration,
) -> anyhow::Result<Floor> {
    let client = async_nats::connect(url)
        .await
        .with_context(|| format!("connecting to {url}"))?;
    // By default it takes fewer, and waits for an answer that nobody reads meanwhile.
    let jetstream = ContextBuilder::new()
        .max_ack_inflight(unanswered + 1)
        .build(client);
    let config = stream::Config {
        name: STREAM.to_owned(),
        subjects: vec![STREAM.to_lowercase()],
        num_replicas: replicas,
        max_bytes: 1 << 30,
        ..stream::Config::default()
    };
    jetstream
        .create_stream(config)
        .await
        .context("creating the stream")?;
    let result = publish(&jetstream, unanswered, size, duration).await;
    jetstream
        .delete_stream(STREAM)
        .await
        .context("deleting the stream")?;
    let (per_second, latency, processor_us) = result?;
    Ok(Floor {
        floor: format!("NATS client, {replicas} replicas, {size} bytes, {unanswered} unanswered"),
        per_second,
        latency,
        processor_us,
    })
}

async fn publish(
    jetstream: &jetstream::Context,
    unanswered: usize,
    size: usize,
    duration: Duration,
) -> anyhow::Result<(f64, crate::times::Latency, f64)> {
    let payload = Bytes::from(vec![b'x'; size]);
    let subject = STREAM.to_lowercase();
    let times = Times::default();
    let own = [std::process::id()];
    let before = server::read(&own)?;
    let begin = Instant::now();
    let mut waiting = FuturesUnordered::new();
    let mut done = 0_u64;
    loop {
        while waiting.len() < unanswered && begin.elapsed() < duration {
            let message = PublishMessage::build().payload(payload.clone());
            let sent = Instant::now();
            let answer = jetstream.send_publish(subject.clone(), message).await?;
            waiting.push(async move { (sent, answer.await) });
        }
        let Some((sent, answer)) = waiting.next().await else {
            break;
        };
        answer.context("a publish was refused")?;
        times.note(0, u64::try_from(sent.elapsed().as_micros())?);
        done += 1;
    }
    let took = begin.elapsed().as_secs_f64();
    let after = server::read(&own)?;
    let used: Duration = before
        .iter()
        .zip(&after)
        .map(|(before, after)| after.processor.saturating_sub(before.processor))
        .sum();
    let processor = used.as_secs_f64() * 1e6 / done.max(1) as f64;
    Ok((done as f64 / took, times.counts().latency(), processor))
}
