//! `thread.list`: the messages of a thread, in order, as far as they are in the message store.

use bytes::Bytes;
use prost::Message as _;
use serde::{Deserialize, Serialize};
use switchboard_proto::bus::Message;
use switchboard_proto::client::Error;
use switchboard_proto::codes::ErrorCode;
use switchboard_proto::ids::LogEpoch;
use switchboard_proto::messages::{FoldedMessage, Place, ThreadRequest, method};

use super::changes::{Folded, folded};
use super::listed::Listed;
use super::{Asking, bad};

/// Messages in a page: where the client does not say, and at most.
const USUAL: u32 = 50;
const MOST: u32 = 1000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    channel: String,
    offset: u64,
    #[serde(default)]
    epoch: String,
    limit: Option<u32>,
    #[serde(default)]
    cursor: String,
}

/// Answers the rpc.
pub(super) async fn list(asking: Asking, data: Bytes) -> Result<Bytes, Error> {
    let request: Request = asking.parse(
        &data,
        "thread.list wants {channel, offset, epoch?, limit?, cursor?}",
    )?;
    let channel = asking.channel(&request.channel)?;
    asking.may_read_history(&channel).await?;
    if !asking.gateway.config.policy.now().is_durable(&channel) {
        return Err(ErrorCode::NotAvailable.into());
    }
    let limit = request.limit.unwrap_or(USUAL).min(MOST);
    if limit == 0 || request.offset == 0 {
        return Err(bad("a limit or an offset of 0"));
    }
    // A cursor names the thread that it is of.
    let (epoch, after) = match request.cursor.as_str() {
        "" if request.epoch.is_empty() => {
            let links = &asking.gateway.links;
            let before = request.offset.saturating_sub(1);
            (
                links.message_behind(&channel, before, asking.arrived).await?.0,
                None,
            )
        }
        "" => (request.epoch, None),
        cursor => {
            let place = place_behind(cursor, request.offset);
            let (epoch, after) = place.ok_or_else(|| bad("a cursor of another thread"))?;
            (epoch, Some(after))
        }
    };
    let asked = ThreadRequest {
        channel: channel.as_str().to_owned(),
        root: Some(Place {
            log_epoch: epoch.clone(),
            offset: request.offset,
        }),
        after,
        limit,
        bytes: asking.answer_bytes(),
    };
    let page = asking.ask::<method::Thread>(&asked).await?;
    let last = page.messages.last().and_then(|message| message.place.as_ref());
    let cursor = last
        .filter(|_| page.more)
        .map(|last| format!("{}.{epoch}.{}.{}", request.offset, last.offset, last.log_epoch));
    let decoded: Vec<(FoldedMessage, Message)> = page
        .messages
        .into_iter()
        .filter_map(|stored| {
            let message = Message::decode(stored.message.clone()).ok()?;
            Some((stored, message))
        })
        .collect();
    let messages = decoded
        .iter()
        .map(|(stored, message)| told(stored, message))
        .collect();
    let answer = serde_json::to_vec(&Answer { messages, cursor }).map_err(|_| ErrorCode::Internal)?;
    Ok(answer.into())
}

/// Of which life of the log the thread at `offset` is, and where its page ended.
fn place_behind(cursor: &str, offset: u64) -> Option<(String, Place)> {
    let mut parts = cursor.split('.');
    let root: u64 = parts.next()?.parse().ok()?;
    let epoch: LogEpoch = parts.next()?.parse().ok()?;
    let last: u64 = parts.next()?.parse().ok()?;
    let last_epoch: LogEpoch = parts.next()?.parse().ok()?;
    let is_whole = root == offset && parts.next().is_none();
    is_whole.then(|| {
        let after = Place {
            log_epoch: last_epoch.to_string(),
            offset: last,
        };
        (epoch.to_string(), after)
    })
}

#[derive(Serialize)]
struct Answer<'a> {
    messages: Vec<Told<'a>>,
    /// Where to go on; none: that was all.
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<String>,
}

#[derive(Serialize)]
struct Told<'a> {
    #[serde(flatten)]
    message: Listed<'a>,
    #[serde(flatten)]
    fold: Folded<'a>,
}

fn told<'a>(stored: &'a FoldedMessage, message: &'a Message) -> Told<'a> {
    let place = stored.place.clone().unwrap_or_default();
    Told {
        message: Listed::new((place.log_epoch, place.offset), stored.time_us, message),
        fold: stored.fold.as_ref().map(folded).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_of_one_thread() {
        let (epoch, after) = place_behind("4096.1-9f3ac0de.8192.2-00000001", 4096).unwrap();
        assert_eq!(epoch, "1-9f3ac0de");
        assert_eq!((after.offset, after.log_epoch.as_str()), (8192, "2-00000001"));
        for wrong in [
            "4097.1-9f3ac0de.8192.2-00000001",
            "4096.1-9f3ac0de.8192",
            "4096.1-9f3ac0de.8192.2-00000001.",
            "4096.x.8192.2-00000001",
            "",
            "....",
        ] {
            assert_eq!(place_behind(wrong, 4096), None, "{wrong}");
        }
    }
}
