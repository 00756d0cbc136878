//! One search: candidates from the store, a ranked stretch of matches, a page of it.
//!
//! Ranking looks at the newest matches only: a stretch of [`STRETCH`] of them is ranked, given page by page, and followed by the next
//! stretch, which is older. So no question costs more the more is stored, and pages leave nothing out and give nothing twice.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use switchboard_proto::bus::{Message, PayloadKind};
use xxhash_rust::xxh3::Xxh3;

use super::analyser::{Analysed, Analyser};
use super::cursor::{Cursor, Given};
use super::language::Language;
use super::matching::Match;
use super::query::{Query, QueryError};
use super::snippet::snippet;
use crate::store::search::{Find, Hits, Loaded, MAX_CHANNELS, Mark};
use crate::store::{Place, Store, StoreError};

/// Matches that are ranked together.
pub const STRETCH: usize = 256;

/// Matches of one page, at most.
pub const MAX_PAGE: usize = 100;

/// Bytes of messages of one page, at most: no bus takes much more.
pub const MAX_BYTES: usize = 512 << 10;

/// Entries of the index that one page looks at, about.
const EFFORT: usize = 12_000;

/// Messages that one page looks at, about.
const MESSAGES: usize = 2048;

/// What is searched for.
#[derive(Debug, Clone, Default)]
pub struct Question {
    /// As its user wrote it; see [`Query`].
    pub query: String,
    /// Only in these channels; `None`: in all.
    pub channels: Option<Vec<String>>,
    /// Only of this user.
    pub sender: Option<String>,
    /// Only of this time on, in Unix microseconds.
    pub from_us: Option<u64>,
    /// Only before this time.
    pub to_us: Option<u64>,
    /// Matches on a page; 0, or more than [`MAX_PAGE`]: that many.
    pub limit: usize,
    /// Bytes of messages after which a page ends, but for its first; 0, or more than [`MAX_BYTES`]: that many.
    pub bytes: usize,
    /// Where a page before ended.
    pub cursor: Option<String>,
    /// Only stems of this language, one of those of the configuration.
    pub language: Option<String>,
}

/// A page of matches.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Found {
    /// The best first, among the newest [`STRETCH`].
    pub matches: Vec<Shown>,
    /// Where the next page begins; `None`: this is the last one. A page may hold fewer than was asked for, or none, and be
    /// followed by another.
    pub cursor: Option<String>,
}

/// A match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// Its channel.
    pub channel: String,
    /// Its place there.
    pub place: Place,
    /// Unix microseconds.
    pub time_us: u64,
    /// Up to 1,000,000.
    pub score: u32,
    /// What was found, as HTML.
    pub snippet: String,
    /// The encoded `Message`.
    pub message: Bytes,
}

/// Why nothing was searched.
#[derive(Debug, thiserror::Error)]
pub enum SearchError {
    /// The query is none.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// Too many channels.
    #[error("{0} channels are named, {MAX_CHANNELS} are allowed")]
    Channels(usize),
    /// Another language.
    #[error("messages are not searched by stems of {0:?} (persistence.search.languages)")]
    Language(String),
    /// The cursor was not made for this.
    #[error(
        "the cursor is not one of this search: give the same query, channels, sender, times and language with it"
    )]
    Cursor,
    /// The store's trouble.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Searches a store.
pub struct Searching {
    store: Arc<dyn Store>,
    analyser: Arc<Analyser>,
}

struct Candidate {
    loaded: Loaded,
    text: Analysed,
    found: Match,
}

impl Candidate {
    /// The better, and among equals the newer, comes first.
    fn rank(&self) -> (u32, Mark) {
        (self.found.score, self.loaded.hit.mark)
    }
}

impl Searching {
    /// Searches `store`, whose messages were indexed with `analyser`.
    pub fn new(store: Arc<dyn Store>, analyser: Arc<Analyser>) -> Self {
        Self { store, analyser }
    }

    /// A page of matches. Cancel safe.
    ///
    /// # Errors
    /// [`SearchError`].
    pub async fn search(&self, question: &Question) -> Result<Found, SearchError> {
        let language = match question.language.as_deref() {
            None | Some("") => None,
            Some(name) => {
                let known = Language::named(name).filter(|language| self.analyser.has(*language));
                Some(known.ok_or_else(|| SearchError::Language(name.to_owned()))?)
            }
        };
        let query = Query::parse(&question.query, &self.analyser, language)?;
        let channels = question.channels.as_deref();
        if let Some(channels) = channels.filter(|channels| channels.len() > MAX_CHANNELS) {
            return Err(SearchError::Channels(channels.len()));
        }
        let digest = digest(question);
        let cursor = match question.cursor.as_deref() {
            None | Some("") => None,
            Some(text) => {
                let cursor = Cursor::decode(text).filter(|cursor| cursor.digest == digest);
                Some(cursor.ok_or(SearchError::Cursor)?)
            }
        };
        if channels.is_some_and(<[String]>::is_empty) {
            return Ok(Found::default());
        }
        let before = cursor.and_then(|cursor| cursor.before);
        let given = cursor.and_then(|cursor| cursor.given);
        let find = Find {
            query: &query,
            channels,
            sender: question.sender.as_deref().filter(|sender| !sender.is_empty()),
            from_us: question.from_us.unwrap_or(0),
            to_us: question.to_us.unwrap_or(i64::MAX.cast_unsigned()),
            before: before.unwrap_or(Mark::END),
            most: STRETCH,
            effort: EFFORT,
        };
        let (mut matches, end) = self.stretch(find, given.map(|given| given.lowest)).await?;
        // What is said meanwhile does not move the stretch.
        let newest = matches.iter().map(|one| one.loaded.hit.mark).max();
        let before = before.or(newest.map(Mark::next));
        matches.sort_unstable_by_key(|one| std::cmp::Reverse(one.rank()));
        let left = matches
            .into_iter()
            .skip_while(|one| given.is_some_and(|given| one.rank() >= (given.score, given.mark)));
        let limit = match question.limit {
            0 => MAX_PAGE,
            limit => limit.min(MAX_PAGE),
        };
        let mut bytes = match question.bytes {
            0 => MAX_BYTES,
            bytes => bytes.min(MAX_BYTES),
        };
        let mut page: Vec<Candidate> = Vec::new();
        let mut is_more = false;
        for one in left {
            let size = one.loaded.message.len();
            is_more = page.len() == limit || (size > bytes && !page.is_empty());
            if is_more {
                break;
            }
            bytes = bytes.saturating_sub(size);
            page.push(one);
        }
        let next = match page.last() {
            Some(last) if is_more => Some(Cursor {
                digest,
                before,
                given: Some(Given {
                    lowest: end,
                    score: last.found.score,
                    mark: last.loaded.hit.mark,
                }),
            }),
            _ if end == Mark::START => None,
            _ => Some(Cursor {
                digest,
                before: Some(end),
                given: None,
            }),
        };
        Ok(Found {
            matches: page.into_iter().map(shown).collect(),
            cursor: next.map(|cursor| cursor.encode()),
        })
    }

    /// The newest matches, and the place from which on these are all. `down_to`: where the stretch ended before.
    async fn stretch(
        &self,
        find: Find<'_>,
        down_to: Option<Mark>,
    ) -> Result<(Vec<Candidate>, Mark), SearchError> {
        let mut find = find;
        let mut matches: Vec<Candidate> = Vec::new();
        let mut looked_at = 0;
        loop {
            let Hits {
                hits,
                looked_to,
                effort,
            } = self.store.find(&find).await?;
            looked_at += hits.len();
            let mut end = looked_to;
            let mut loaded = self.store.load(&hits).await?;
            loaded.sort_unstable_by_key(|loaded| std::cmp::Reverse(loaded.hit.mark));
            for loaded in loaded {
                if down_to.is_some_and(|lowest| loaded.hit.mark < lowest) {
                    break;
                }
                matches.extend(candidate(&self.analyser, &find, loaded));
                // Where the stretch ended before it ends again.
                if matches.len() == STRETCH && down_to.is_none() {
                    end = matches.last().map_or(end, |last| last.loaded.hit.mark);
                    return Ok((matches, end));
                }
            }
            if let Some(lowest) = down_to {
                if end <= lowest {
                    return Ok((matches, lowest));
                }
            } else if end == Mark::START || effort >= find.effort || looked_at >= MESSAGES {
                return Ok((matches, end));
            }
            find.before = end;
            find.effort = match down_to {
                None => find.effort - effort,
                Some(_) => EFFORT,
            };
        }
    }
}

/// `None`: it is not what is looked for.
fn candidate(analyser: &Analyser, find: &Find<'_>, loaded: Loaded) -> Option<Candidate> {
    if find
        .channels
        .is_some_and(|channels| !channels.contains(&loaded.channel))
    {
        return None;
    }
    if find.sender.is_some() && find.sender != loaded.sender.as_deref() {
        return None;
    }
    let message = Message::decode(loaded.message.clone()).ok()?;
    if message.change.is_some() || message.kind() != PayloadKind::Json {
        return None;
    }
    let text = analyser.message(&message);
    let found = find.query.matches(&text)?;
    Some(Candidate { loaded, text, found })
}

fn shown(candidate: Candidate) -> Shown {
    let Candidate { loaded, text, found } = candidate;
    Shown {
        channel: loaded.channel,
        place: loaded.hit.place,
        time_us: loaded.hit.time_us,
        score: found.score,
        snippet: snippet(&text, &found.words),
        message: loaded.message,
    }
}

/// Of all that decides what is found. Channels count in any order.
fn digest(question: &Question) -> u64 {
    let mut digest = Xxh3::new();
    let mut put = |part: &str| {
        digest.update(&part.len().to_be_bytes());
        digest.update(part.as_bytes());
    };
    put(&question.query);
    put(question.sender.as_deref().unwrap_or_default());
    put(question.language.as_deref().unwrap_or_default());
    put(&format!("{:?} {:?}", question.from_us, question.to_us));
    match &question.channels {
        None => put("all"),
        Some(channels) => {
            let mut channels: Vec<&str> = channels.iter().map(String::as_str).collect();
            channels.sort_unstable();
            channels.iter().for_each(|channel| put(channel));
        }
    }
    digest.digest()
}
