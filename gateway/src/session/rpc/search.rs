//! `history.search`: messages that hold given words, in channels whose history the caller may read.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message as _;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use switchboard_proto::bus::Message;
use switchboard_proto::client::Error;
use switchboard_proto::codes::ErrorCode;
use switchboard_proto::messages::{SearchChannels, SearchMatch, SearchRequest, method};

use super::{Asking, bad};

/// Channels of one search, at most; the store allows as many.
const CHANNELS: usize = 256;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Search {
    query: String,
    channels: Option<Vec<String>>,
    #[serde(default)]
    sender: String,
    /// Unix milliseconds.
    from: Option<u64>,
    to: Option<u64>,
    #[serde(default)]
    limit: u32,
    #[serde(default)]
    cursor: String,
    #[serde(default)]
    language: String,
}

#[derive(Serialize)]
struct Answer {
    matches: Vec<Told>,
    #[serde(skip_serializing_if = "String::is_empty")]
    cursor: String,
}

#[derive(Serialize)]
struct Told {
    channel: String,
    offset: u64,
    epoch: String,
    /// Unix milliseconds.
    time: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    user: String,
    data: Box<RawValue>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    tags: BTreeMap<String, String>,
    score: u32,
    snippet: String,
}

pub(super) async fn search(asking: Asking, data: Bytes) -> Result<Bytes, Error> {
    let Search {
        query,
        channels,
        sender,
        from,
        to,
        limit,
        cursor,
        language,
    } = serde_json::from_slice(&data).map_err(|_| {
        bad("history.search wants {query, channels?, sender?, from?, to?, limit?, cursor?, language?}")
    })?;
    let names = match channels {
        Some(names) => named(&asking, names).await?,
        None => subscribed(&asking).await?,
    };
    let request = SearchRequest {
        query,
        channels: Some(SearchChannels { names }),
        sender,
        from_ms: from,
        to_ms: to,
        limit,
        cursor,
        language,
        bytes: asking.answer_bytes(),
    };
    let found = asking.ask::<method::Search>(&request).await?;
    let answer = Answer {
        matches: found.matches.into_iter().filter_map(told).collect(),
        cursor: found.cursor,
    };
    let answer = serde_json::to_vec(&answer).map_err(|_| ErrorCode::Internal)?;
    Ok(answer.into())
}

/// Channels that the caller named. One that it may not read refuses all of the search.
async fn named(asking: &Asking, names: Vec<String>) -> Result<Vec<String>, Error> {
    if names.len() > CHANNELS {
        return Err(bad("a search takes 256 channels"));
    }
    for name in &names {
        let channel = asking.channel(name)?;
        asking.may_read_history(&channel).await?;
    }
    Ok(names)
}

/// The caller's own channels, as far as it may read their history.
async fn subscribed(asking: &Asking) -> Result<Vec<String>, Error> {
    let mut names = Vec::new();
    for (channel, _) in asking.session.subscriptions.all() {
        match asking.may_read_history(&channel).await {
            Ok(()) => {}
            // A part that looks like all would be worse than none.
            Err(error) if error.temporary => return Err(error),
            Err(_) => continue,
        }
        if names.len() == CHANNELS {
            return Err(bad(
                "a search takes 256 channels, and more are subscribed: name those to search in",
            ));
        }
        names.push(channel.as_str().to_owned());
    }
    // A cursor holds for the same channels.
    names.sort_unstable();
    Ok(names)
}

/// `None`: it is not readable, which is nobody's fault here.
fn told(found: SearchMatch) -> Option<Told> {
    let message = Message::decode(found.message).ok()?;
    let place = found.place?;
    let payload = String::from_utf8(message.payload.to_vec()).ok()?;
    Some(Told {
        channel: found.channel,
        offset: place.offset,
        epoch: place.log_epoch,
        time: found.time_ms,
        user: message.sender.map(|sender| sender.user).unwrap_or_default(),
        data: RawValue::from_string(payload).ok()?,
        tags: message.tags,
        score: found.score,
        snippet: found.snippet,
    })
}
