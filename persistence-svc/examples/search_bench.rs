//! Measures search over many messages in a real PostgreSQL: `./bench search` runs it.
//!
//! Messages are stretches of a text of yours (a folder of UTF-8 files), of 5 to 40 words, spread over ten days and over
//! channels of which some are busy and most are not. Everything goes the ways of the service: messages are written through the store,
//! indexed by its follower, and searched with ranks, snippets and pages of 20.
//!
//!     search_bench CORPUS MESSAGES [SECONDS]
//!
//! SECONDS: so long 10,000 messages a second are written and indexed at the same time, at the end. Prints JSON.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a measurement, run by hand"
)]

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use prost::Message as _;
use secrecy::SecretString;
use serde_json::{Value, json};
use switchboard_persistence_svc::follow::{Follower as _, STEP};
use switchboard_persistence_svc::search::analyser::Analyser;
use switchboard_persistence_svc::search::language::Language;
use switchboard_persistence_svc::search::text::Fields;
use switchboard_persistence_svc::search::{Indexer, Question, Searching};
use switchboard_persistence_svc::store::{
    Behind, PostgresSettings, PostgresStore, Row, Step, Store, Written,
};
use switchboard_proto::bus::{Message, PayloadKind};
use switchboard_proto::ids::{LogEpoch, Offset, OwnerEpoch, Sequence, ShardId};
use switchboard_proto::time::now_us;
use switchboard_testkit::PostgresServer;

const SHARDS: usize = 16;
const CHANNELS: f64 = 5000.0;
const DAYS: u64 = 10;
const DAY_US: u64 = 24 * 60 * 60 * 1_000_000;
const RATE: u64 = 10_000;
const QUERIES: usize = 100;
const LOG: LogEpoch = LogEpoch {
    ordinal: 1,
    random: 7,
};

/// A small generator: the same numbers in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}

struct Words {
    text: String,
    /// Where words begin and end.
    places: Vec<(usize, usize)>,
}

impl Words {
    fn read(folder: &Path) -> Self {
        let mut text = String::new();
        let mut folders = vec![folder.to_owned()];
        while let Some(folder) = folders.pop() {
            let mut entries: Vec<_> = std::fs::read_dir(folder)
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .collect();
            entries.sort();
            for path in entries {
                if path.is_dir() {
                    folders.push(path);
                } else if let Ok(file) = std::fs::read_to_string(&path) {
                    text.push_str(&file);
                    text.push('\n');
                }
            }
        }
        let mut places = Vec::new();
        let mut begin = None;
        for (at, letter) in text.char_indices() {
            match (letter.is_whitespace(), begin) {
                (true, Some(from)) => {
                    places.push((from, at));
                    begin = None;
                }
                (false, None) => begin = Some(at),
                _ => {}
            }
        }
        assert!(places.len() > 1000, "the corpus has no text");
        Self { text, places }
    }

    fn stretch(&self, random: &mut Random) -> &str {
        let words = 5 + random.below(36);
        let first = random.below(self.places.len() - words);
        &self.text[self.places[first].0..self.places[first + words - 1].1]
    }
}

struct Writing {
    words: Words,
    random: Random,
    sequences: [u64; SHARDS],
}

impl Writing {
    fn row(&mut self, time_us: u64) -> (usize, Row) {
        let text = self.words.stretch(&mut self.random);
        // A few channels have most of the messages.
        let draw = self.random.below(1 << 20) as f64 / f64::from(1 << 20);
        let channel = format!("room:{}", CHANNELS.powf(draw) as u64);
        let shard = self.random.below(1 << 20) % SHARDS;
        self.sequences[shard] += 1;
        let mut message = Message {
            channel: channel.clone(),
            payload: json!({ "text": text }).to_string().into(),
            ..Message::default()
        };
        message.set_kind(PayloadKind::Json);
        let row = Row {
            offset: Offset::new(Sequence(self.sequences[shard]), 0),
            time_us,
            channel,
            sender: Some(format!("user{}", self.random.below(2000))),
            message: message.encode_to_vec().into(),
        };
        (shard, row)
    }

    async fn write(&mut self, store: &dyn Store, count: u64, time: impl Fn(u64) -> u64) {
        let mut shards: Vec<Vec<Row>> = (0..SHARDS).map(|_| Vec::new()).collect();
        for number in 0..count {
            let (shard, row) = self.row(time(number));
            shards[shard].push(row);
        }
        let writes = shards
            .into_iter()
            .enumerate()
            .filter(|(_, rows)| !rows.is_empty())
            .map(|(shard, rows)| {
                let up_to = rows.last().unwrap().offset.sequence();
                let after = Sequence(rows[0].offset.sequence().0 - 1);
                Written {
                    shard: ShardId::new(shard as u32).unwrap(),
                    log: LOG,
                    read_after: after,
                    after,
                    up_to,
                    owner_epoch: OwnerEpoch(1),
                    rows,
                    dead: Vec::new(),
                }
            });
        futures_util::stream::iter(writes)
            .map(|written| async move { store.write(&written).await.unwrap() })
            .buffer_unordered(2)
            .count()
            .await;
    }
}

/// As the service does it: two logs at a time, a step each. How many messages were done, and the age of the oldest.
async fn index(store: &Arc<dyn Store>, indexer: &Indexer) -> (usize, Duration) {
    let behind = store.behind("search").await.unwrap();
    let done: Vec<(usize, u64)> = futures_util::stream::iter(behind)
        .map(|behind| async move {
            let Behind {
                shard,
                log,
                done_to,
                stored_to,
            } = behind;
            let rows = store
                .log_rows((shard, log), done_to, stored_to, STEP)
                .await
                .unwrap();
            let (count, age) = (
                rows.len(),
                rows.first().map_or(0, |row| now_us().saturating_sub(row.time_us)),
            );
            let to = if count == STEP {
                rows.last().unwrap().offset
            } else {
                stored_to
            };
            let step = Step {
                name: "search",
                shard,
                log,
                from: done_to,
                to,
            };
            assert!(indexer.apply(&step, rows).await.unwrap());
            (count, age)
        })
        .buffer_unordered(2)
        .collect()
        .await;
    let count = done.iter().map(|(count, _)| count).sum();
    let age = done.iter().map(|(_, age)| *age).max().unwrap_or(0);
    (count, Duration::from_micros(age))
}

/// Of processor time, not of the clock's: others may be at work on this machine.
fn analysed_per_second(words: &Words) -> f64 {
    const COUNT: u32 = 20_000;
    let analyser = Analyser::new(&[Language::English], Fields::default());
    let mut random = Random(5);
    let texts: Vec<String> = (0..COUNT)
        .map(|_| words.stretch(&mut random).to_owned())
        .collect();
    let spent = || {
        let times = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
        times.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e9
    };
    let begin = spent();
    let mut forms = 0;
    for text in texts {
        forms += analyser.texts(vec![text]).forms().len();
    }
    assert!(forms > 0);
    f64::from(COUNT) / (spent() - begin)
}

/// In how many of a thousand messages each word is; and which words stand beside each other.
fn frequencies(words: &Words) -> HashMap<String, f64> {
    const SAMPLE: u32 = 50_000;
    let mut random = Random(99);
    let mut counts: HashMap<String, u32> = HashMap::new();
    for _ in 0..SAMPLE {
        let mut seen: Vec<String> = words
            .stretch(&mut random)
            .split(|letter: char| !letter.is_alphabetic())
            .filter(|word| word.len() > 1)
            .map(str::to_lowercase)
            .collect();
        seen.sort_unstable();
        seen.dedup();
        for word in seen {
            *counts.entry(word).or_default() += 1;
        }
    }
    counts
        .into_iter()
        .map(|(word, count)| (word, f64::from(count) / f64::from(SAMPLE)))
        .collect()
}

/// Kinds of questions, with some of each.
fn questions(words: &Words) -> Vec<(&'static str, Vec<Question>)> {
    let frequencies = frequencies(words);
    let mut random = Random(7);
    let mut with = |from: f64, to: f64| {
        let mut some: Vec<String> = frequencies
            .iter()
            .filter(|(word, part)| (from..to).contains(*part) && word.len() > 1 && word.is_ascii())
            .map(|(word, _)| word.clone())
            .collect();
        some.sort_unstable();
        assert!(!some.is_empty(), "no words of {from} to {to}");
        (0..QUERIES)
            .map(|_| some[random.below(some.len())].clone())
            .collect::<Vec<String>>()
    };
    let (common, usual, rare) = (with(0.1, 1.0), with(0.005, 0.05), with(0.0, 0.0001));
    let mut random = Random(8);
    // Words that stand beside each other in the text.
    let mut phrases = |wanted: &dyn Fn(f64) -> bool| {
        let mut found = Vec::new();
        while found.len() < QUERIES {
            let first = random.below(words.places.len() - 2);
            let text = &words.text[words.places[first].0..words.places[first + 1].1];
            let parts: Vec<&str> = text.split_whitespace().collect();
            let is_plain = parts.len() == 2
                && parts
                    .iter()
                    .all(|part| part.chars().all(|letter| letter.is_ascii_lowercase()));
            if is_plain
                && parts
                    .iter()
                    .all(|part| wanted(frequencies.get(*part).copied().unwrap_or(0.0)))
            {
                found.push(format!("\"{}\"", parts.join(" ")));
            }
        }
        found
    };
    let rare_phrases = phrases(&|part| part < 0.01);
    let common_phrases = phrases(&|part| part > 0.1);
    let ask = |queries: Vec<String>| -> Vec<Question> {
        queries
            .into_iter()
            .map(|query| Question {
                query,
                limit: 20,
                ..Question::default()
            })
            .collect()
    };
    let pairs = |one: &[String], other: &[String], between: &str| -> Vec<String> {
        one.iter()
            .zip(other)
            .map(|(one, other)| format!("{one}{between}{other}"))
            .collect()
    };
    let cut = |words: &[String], letters: usize| -> Vec<String> {
        words
            .iter()
            .map(|word| format!("{}*", word.chars().take(letters).collect::<String>()))
            .collect()
    };
    let mut shuffled = common.clone();
    shuffled.rotate_left(17);
    let within = |queries: Vec<String>, channel: &dyn Fn(usize) -> Vec<String>| -> Vec<Question> {
        let mut asked = ask(queries);
        for (number, question) in asked.iter_mut().enumerate() {
            question.channels = Some(channel(number));
        }
        asked
    };
    let quiet = |number: usize| vec![format!("room:{}", 1000 + number * 39)];
    let busy = |number: usize| vec![format!("room:{}", 1 + number % 5)];
    let many = |number: usize| {
        (0..200)
            .map(|channel| format!("room:{}", 10 + number + channel * 20))
            .collect::<Vec<_>>()
    };
    vec![
        ("rare word", ask(rare.clone())),
        ("usual word", ask(usual.clone())),
        ("common word (over 10 % of messages)", ask(common.clone())),
        ("two common words", ask(pairs(&common, &shuffled, " "))),
        ("common and rare word", ask(pairs(&common, &rare, " "))),
        ("common word without another", ask(pairs(&common, &usual, " -"))),
        ("one OR other", ask(pairs(&usual, &rare, " OR "))),
        ("phrase", ask(rare_phrases)),
        ("phrase of common words", ask(common_phrases)),
        (
            "phrase of common words that is nowhere",
            ask(vec!["\"the of\"".to_owned(), "\"of and\"".to_owned()]),
        ),
        ("prefix of 3 letters", ask(cut(&usual, 3))),
        (
            "prefix of 5 letters",
            ask(cut(
                &rare
                    .iter()
                    .filter(|word| word.len() > 5)
                    .cloned()
                    .collect::<Vec<_>>(),
                5,
            )),
        ),
        ("common word in a quiet channel", within(common.clone(), &quiet)),
        ("common word in a busy channel", within(common.clone(), &busy)),
        ("rare word in a busy channel", within(rare, &busy)),
        ("usual word in 200 channels", within(usual.clone(), &many)),
        ("prefix in a quiet channel", within(cut(&usual, 3), &quiet)),
    ]
}

fn quantile(times: &mut [f64], part: f64) -> f64 {
    times.sort_unstable_by(f64::total_cmp);
    times[((times.len() - 1) as f64 * part).round() as usize]
}

async fn ask(searching: &Searching, kind: &str, questions: &[Question]) -> Value {
    let (mut times, mut matches, mut more) = (Vec::new(), 0, 0);
    for question in questions {
        let begin = Instant::now();
        let found = searching.search(question).await.unwrap();
        times.push(begin.elapsed().as_secs_f64() * 1e3);
        matches += found.matches.len();
        more += usize::from(found.cursor.is_some());
    }
    let figures = json!({
        "kind": kind,
        "p50_ms": quantile(&mut times, 0.5),
        "p95_ms": quantile(&mut times, 0.95),
        "max_ms": quantile(&mut times, 1.0),
        "matches": matches as f64 / questions.len() as f64,
        "with_more_pages": more as f64 / questions.len() as f64,
    });
    eprintln!(
        "{kind:45} p50 {:7.1} ms  p95 {:7.1} ms  max {:7.1} ms  {matches} matches",
        quantile(&mut times, 0.5),
        quantile(&mut times, 0.95),
        quantile(&mut times, 1.0)
    );
    figures
}

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let (corpus, count) = (&arguments[1], arguments[2].parse::<u64>().unwrap());
    let seconds: u64 = arguments.get(3).map_or(0, |text| text.parse().unwrap());
    let words = Words::read(Path::new(corpus));
    eprintln!("{} words of text", words.places.len());
    let questions = questions(&words);
    let analysed = analysed_per_second(&words);
    eprintln!("{analysed:.0} messages/s analysed by one core");
    let server = PostgresServer::start_with(&[
        "fsync=on",
        "shared_buffers=1GB",
        "max_wal_size=4GB",
        "checkpoint_timeout=15min",
    ])
    .await
    .unwrap();
    let settings = PostgresSettings {
        url: SecretString::from(server.url()),
        password: None,
        connections: 8,
        wait: Duration::from_secs(30),
        statement: Duration::from_secs(60),
    };
    let store: Arc<dyn Store> = Arc::new(PostgresStore::new(&settings).unwrap());
    store.migrate().await.unwrap();
    let analyser = Arc::new(Analyser::new(&[Language::English], Fields::default()));
    let indexer = Indexer::new(Arc::clone(&store), Arc::clone(&analyser), "bench");
    indexer.prepare().await.unwrap();
    let searching = Searching::new(Arc::clone(&store), analyser);

    // Storing and indexing in turn, so that logs are as they are in a running installation.
    let mut writing = Writing {
        words,
        random: Random(1),
        sequences: [0; SHARDS],
    };
    let (begin, spacing) = (now_us() - DAYS * DAY_US, DAYS * DAY_US / count.max(1));
    let (mut storing, mut indexing, mut written) = (Duration::ZERO, Duration::ZERO, 0_u64);
    while written < count {
        let part = (count - written).min(30_000);
        let now = Instant::now();
        writing
            .write(&*store, part, |number| begin + (written + number) * spacing)
            .await;
        storing += now.elapsed();
        let now = Instant::now();
        while index(&store, &indexer).await.0 > 0 {}
        indexing += now.elapsed();
        written += part;
        if written % 300_000 == 0 {
            eprintln!(
                "{written} messages: {:.0}/s stored, {:.0}/s indexed",
                written as f64 / storing.as_secs_f64(),
                written as f64 / indexing.as_secs_f64()
            );
        }
    }
    // As autovacuum does within a minute or so.
    server.psql(&server.url(), "VACUUM ANALYZE search").await.unwrap();
    server
        .psql(&server.url(), "VACUUM ANALYZE messages")
        .await
        .unwrap();
    let sizes = "SELECT pg_size_pretty(sum(pg_total_relation_size(oid))) FROM pg_class WHERE relkind = 'r' AND relname LIKE";
    let messages = server
        .psql(&server.url(), &format!("{sizes} 'messages%'"))
        .await
        .unwrap();
    let index_size = server
        .psql(&server.url(), &format!("{sizes} 'search%'"))
        .await
        .unwrap();
    let mut kinds = Vec::new();
    for round in ["first", "second"] {
        eprintln!("{round} round");
        kinds.clear();
        for (kind, questions) in &questions {
            kinds.push(ask(&searching, kind, questions).await);
        }
    }
    let live = if seconds == 0 {
        Value::Null
    } else {
        live(&store, &indexer, &mut writing, seconds).await
    };
    let report = json!({
        "messages": count,
        "analysed_per_second_and_core": analysed,
        "stored_per_second": count as f64 / storing.as_secs_f64(),
        "indexed_per_second": count as f64 / indexing.as_secs_f64(),
        "size_of_messages": messages.trim(),
        "size_of_index": index_size.trim(),
        "questions": kinds,
        "live": live,
    });
    println!("{}", serde_json::to_string_pretty(&report).unwrap());
    store.close().await;
}

/// Writes at [`RATE`] and indexes beside it.
async fn live(store: &Arc<dyn Store>, indexer: &Indexer, writing: &mut Writing, seconds: u64) -> Value {
    let is_over = AtomicBool::new(false);
    let begin = Instant::now();
    let write = async {
        // Ten writes a second, as a reader of the log gathers them.
        for number in 1..=seconds * 10 {
            writing.write(&**store, RATE / 10, |_| now_us()).await;
            let due = Duration::from_millis(number * 100);
            tokio::time::sleep(due.saturating_sub(begin.elapsed())).await;
        }
        is_over.store(true, Ordering::Relaxed);
        begin.elapsed()
    };
    let follow = async {
        let (mut lags, mut done) = (Vec::new(), 0);
        while !is_over.load(Ordering::Relaxed) {
            let (count, age) = index(store, indexer).await;
            done += count;
            lags.push(age.as_secs_f64());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        (lags, done)
    };
    let (took, (mut lags, done)) = tokio::join!(write, follow);
    json!({
        "wanted_per_second": RATE,
        "stored_per_second": (RATE * seconds) as f64 / took.as_secs_f64(),
        "indexed_per_second": done as f64 / took.as_secs_f64(),
        "lag_p50_s": quantile(&mut lags, 0.5),
        "lag_max_s": quantile(&mut lags, 1.0),
    })
}
