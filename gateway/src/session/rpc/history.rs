//! `history.list`: what was said in a channel, page by page, over all lives of its log.
//!
//! What stands in the life of the log that is in force its owner tells, who joins window, log and store and so has all
//! that was acknowledged (R6). Older lives are in the message store alone, and do not change any more.

use bytes::Bytes;
use prost::Message as _;
use serde::{Deserialize, Serialize};
use switchboard_proto::bus::Message;
use switchboard_proto::channel::ChannelName;
use switchboard_proto::client::{Error, StreamPosition};
use switchboard_proto::codes::ErrorCode;
use switchboard_proto::ids::{LogEpoch, Offset};
use switchboard_proto::messages::{self, HistoryRequest, method};

use super::cursor::{Cursor, Place};
use super::listed::Listed;
use super::{Asking, bad};
use crate::links::HistoryQuery;

/// Messages in a page where the client does not say.
const USUAL: u32 = 50;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    channel: String,
    after: Option<At>,
    before: Option<At>,
    /// Unix milliseconds.
    since: Option<u64>,
    #[serde(default)]
    reverse: bool,
    limit: Option<u32>,
    cursor: Option<String>,
}

/// A place as clients name it. Without an epoch: in the life of the log that is in force.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct At {
    #[serde(default)]
    epoch: String,
    offset: u64,
}

/// What is asked of whom, and how much of it.
struct Asked {
    channel: ChannelName,
    cursor: Cursor,
    /// The life of the log that is in force.
    log: LogEpoch,
    limit: usize,
    bytes: usize,
}

/// A message of a page.
struct Found {
    place: Place,
    time_us: u64,
    message: Bytes,
}

/// A page in the making.
#[derive(Default)]
struct Page {
    found: Vec<Found>,
    bytes: usize,
    /// There is nothing more.
    ended: bool,
}

#[derive(Serialize)]
struct Answer<'a> {
    messages: Vec<Listed<'a>>,
    /// Where to go on; none: that was all.
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<String>,
    /// The life of the log that is in force, and the channel's newest place in it.
    epoch: String,
    offset: u64,
}

/// Answers the rpc.
pub(super) async fn list(asking: Asking, data: Bytes) -> Result<Bytes, Error> {
    let request: Request = asking.parse(
        &data,
        "history.list wants {channel, after?, before?, since?, reverse?, limit?} or {channel, cursor, limit?}",
    )?;
    let config = &asking.gateway.config;
    let channel = asking.channel(&request.channel)?;
    asking.may_read_history(&channel).await?;
    if !config.policy.now().is_durable(&channel) {
        return Err(ErrorCode::NotAvailable.into());
    }
    if request.limit == Some(0) {
        return Err(bad("a limit of 0"));
    }
    // What is in force tells which places are meant, and whether there are older lives.
    let links = &asking.gateway.links;
    let nothing = HistoryQuery::default();
    let seen = links.history_page(&channel, &nothing, asking.arrived).await?;
    let log: LogEpoch = seen.log_epoch.parse().map_err(|_| ErrorCode::Internal)?;
    let asked = Asked {
        cursor: cursor(&request, &channel, log)?,
        channel,
        log,
        limit: request.limit.unwrap_or(USUAL).min(config.history_limit) as usize,
        // A session has room for an answer as long as less than a quarter of its queue waits.
        bytes: config.history_bytes.min(config.outgoing_queue / 4).max(1),
    };
    let page = read(&asking, &asked).await?;
    answer(&asked, &page, seen.log_epoch, seen.head)
}

/// What the request asks for, where `log` is in force.
fn cursor(request: &Request, channel: &ChannelName, log: LogEpoch) -> Result<Cursor, Error> {
    if let Some(text) = &request.cursor {
        let is_alone = request.after.is_none()
            && request.before.is_none()
            && request.since.is_none()
            && !request.reverse;
        if !is_alone {
            return Err(bad(
                "a cursor says itself where to go on: give channel and limit beside it",
            ));
        }
        let cursor = Cursor::parse(text, channel);
        return known(
            cursor.ok_or_else(|| bad("the cursor is of another channel, or was changed"))?,
            log,
        );
    }
    let place = |at: &Option<At>| -> Result<Option<Place>, Error> {
        let Some(at) = at else { return Ok(None) };
        let of = match at.epoch.as_str() {
            "" => log,
            epoch => epoch.parse().map_err(|_| ErrorCode::UnrecoverablePosition)?,
        };
        Ok(Some(Place {
            log: of,
            offset: Offset::from_u64(at.offset),
        }))
    };
    let (after, before) = (place(&request.after)?, place(&request.before)?);
    let (from, bound) = if request.reverse {
        (before, after)
    } else {
        (after, before)
    };
    let cursor = Cursor {
        reverse: request.reverse,
        from,
        bound,
        since_us: request.since.map(|since| since.saturating_mul(1000)),
    };
    known(cursor, log)
}

/// Nobody was told of a place in a log that never was.
fn known(cursor: Cursor, log: LogEpoch) -> Result<Cursor, Error> {
    let is_known = |place: &Place| place.log == log || place.log.ordinal < log.ordinal;
    if [cursor.from, cursor.bound].iter().flatten().all(is_known) {
        Ok(cursor)
    } else {
        Err(ErrorCode::UnrecoverablePosition.into())
    }
}

/// The owner's part and the store's, in the order that is asked for.
async fn read(asking: &Asking, asked: &Asked) -> Result<Page, Error> {
    let mut page = Page {
        ended: true,
        ..Page::default()
    };
    let is_older = |place: Option<Place>| place.is_some_and(|place| place.log != asked.log);
    let Cursor {
        reverse, from, bound, ..
    } = asked.cursor;
    if reverse {
        if !is_older(from) {
            of_owner(asking, asked, &mut page).await?;
        }
        // Lives of a log count from 1.
        let goes_on = asked.log.ordinal > 1 && bound.is_none_or(|bound| bound.log != asked.log);
        if goes_on && page.goes_on(asked) {
            of_store(asking, asked, &mut page).await?;
        }
    } else {
        if is_older(from) || (from.is_none() && asked.log.ordinal > 1) {
            of_store(asking, asked, &mut page).await?;
        }
        if !is_older(bound) && page.goes_on(asked) {
            of_owner(asking, asked, &mut page).await?;
        }
    }
    page.ended &= !page.is_full(asked);
    Ok(page)
}

/// What the owner tells: of the life of the log that is in force.
async fn of_owner(asking: &Asking, asked: &Asked, page: &mut Page) -> Result<(), Error> {
    let log = asked.log;
    let since = asked.cursor.from.filter(|from| from.log == log);
    let query = HistoryQuery {
        since: since.map(|since| StreamPosition {
            offset: since.offset.get(),
            epoch: log.to_string(),
        }),
        reverse: asked.cursor.reverse,
        limit: u32::try_from(asked.limit - page.found.len()).unwrap_or(u32::MAX),
        bytes: asked.bytes - page.bytes,
        since_us: asked.cursor.since_us,
        times: true,
        exact: false,
    };
    let links = &asking.gateway.links;
    let answer = match links.history_page(&asked.channel, &query, asking.arrived).await {
        Ok(answer) => answer,
        Err(error) => return page.or(error.into()),
    };
    if answer.log_epoch != log.to_string() {
        // Another log follows since we looked.
        return page.or(ErrorCode::Internal.into());
    }
    let times = answer.times_us.into_iter().chain(std::iter::repeat(0));
    let found = answer
        .messages
        .into_iter()
        .zip(times)
        .map(|(delivered, time_us)| Found {
            place: Place {
                log,
                offset: Offset::from_u64(delivered.offset),
            },
            time_us,
            message: delivered.message,
        });
    page.fill(found, asked, answer.ended);
    Ok(())
}

/// What the store has of older lives of the log.
async fn of_store(asking: &Asking, asked: &Asked, page: &mut Page) -> Result<(), Error> {
    let Cursor {
        reverse, from, bound, ..
    } = asked.cursor;
    let begin = Place {
        log: asked.log,
        offset: Offset::ZERO,
    };
    let (after, before) = if reverse { (bound, from) } else { (from, bound) };
    let request = HistoryRequest {
        channel: asked.channel.as_str().to_owned(),
        after: after.map(place),
        before: Some(place(before.map_or(begin, |before| before.min(begin)))),
        since_us: asked.cursor.since_us,
        reverse,
        limit: u32::try_from(asked.limit - page.found.len()).unwrap_or(u32::MAX),
        bytes: (asked.bytes - page.bytes) as u64,
        ..HistoryRequest::default()
    };
    let answer = match asking.ask::<method::History>(&request).await {
        Ok(answer) => answer,
        // Nothing is stored in this installation: there is nothing older.
        Err(error)
            if error.code == ErrorCode::NotAvailable.code()
                && from.is_none_or(|from| from.log == asked.log) =>
        {
            return Ok(());
        }
        Err(error) => return page.or(error),
    };
    let found = answer.messages.into_iter().filter_map(|stored| {
        let place = stored.place?;
        Some(Found {
            place: Place {
                log: place.log_epoch.parse().ok()?,
                offset: Offset::from_u64(place.offset),
            },
            time_us: stored.time_us,
            message: stored.message,
        })
    });
    page.fill(found, asked, !answer.more);
    Ok(())
}

fn place(place: Place) -> messages::Place {
    messages::Place {
        log_epoch: place.log.to_string(),
        offset: place.offset.get(),
    }
}

impl Page {
    fn is_full(&self, asked: &Asked) -> bool {
        self.found.len() >= asked.limit || self.bytes >= asked.bytes
    }

    /// Where this part comes from there is nothing more, and there is room.
    fn goes_on(&self, asked: &Asked) -> bool {
        self.ended && !self.is_full(asked)
    }

    /// Takes what lies within the bound. `ended`: there is nothing more where it comes from.
    fn fill(&mut self, found: impl Iterator<Item = Found>, asked: &Asked, ended: bool) {
        self.ended = ended;
        for found in found {
            let is_beyond = |bound: Place| {
                if asked.cursor.reverse {
                    found.place <= bound
                } else {
                    found.place >= bound
                }
            };
            if asked.cursor.bound.is_some_and(is_beyond) {
                self.ended = true;
                return;
            }
            self.bytes += found.message.len();
            self.found.push(found);
        }
    }

    /// What is there is told, and the rest with the next page; an error where nothing is.
    fn or(&mut self, error: Error) -> Result<(), Error> {
        self.ended = false;
        if self.found.is_empty() { Err(error) } else { Ok(()) }
    }
}

fn answer(asked: &Asked, page: &Page, epoch: String, offset: u64) -> Result<Bytes, Error> {
    // One that does not decode is passed over, as it is when it is delivered.
    let messages: Vec<(&Found, Message)> = page
        .found
        .iter()
        .filter_map(|found| Some((found, Message::decode(found.message.clone()).ok()?)))
        .collect();
    let told = messages.iter().map(|(found, message)| {
        let place = (found.place.log.to_string(), found.place.offset.get());
        Listed::new(place, found.time_us, message)
    });
    let last = page.found.last().map(|found| found.place);
    let answer = Answer {
        messages: told.collect(),
        cursor: (!page.ended).then(|| {
            let cursor = Cursor {
                from: last.or(asked.cursor.from),
                ..asked.cursor
            };
            cursor.to_text(&asked.channel)
        }),
        epoch,
        offset,
    };
    serde_json::to_vec(&answer)
        .map(Bytes::from)
        .map_err(|_| ErrorCode::Internal.into())
}
