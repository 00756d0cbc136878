//! The suite of search and of followers: the same messages are found in every store, by the same questions.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use serde_json::json;
use switchboard_proto::bus::change::What;
use switchboard_proto::bus::{Change, Delete, Edit, Message, MessageAt, PayloadKind};
use switchboard_proto::ids::{LogEpoch, Offset, Sequence, ShardId};

use super::{StoreFixture, log, now_us, opened, shard, written};
use crate::follow::Follower as _;
use crate::search::analyser::Analyser;
use crate::search::language::Language;
use crate::search::text::Fields;
use crate::search::{Found, Indexer, Question, SearchError, Searching};
use crate::store::{Behind, Place, Row, Step, Store, StoreError};

const SETTINGS: &str = "of the suite";

/// Texts in the order of their sequences, in turn of two channels.
const TEXTS: [&str; 20] = [
    "The quick brown foxes are running over the hills",
    "A fox ran; the dog slept.",
    "running shoes for sale: size 42, price 3.50",
    "Die Häuser an der Straße sind alt",
    "Ein altes Haus in der Altstadt",
    "Le café est fermé, l'été prochain peut-être",
    "cafe latte and résumé writing",
    "東京都に住んでいます",
    "京都は東の方ですか",
    "Deploy failed 🚀 again",
    "the deployment of example.com succeeded",
    "snake_case and kebab-case are cases",
    "Привет, как дела? Ёлка стоит",
    "ПРИВЕТ елки",
    "to be or not to be, that is the question",
    "question: to be that or be not",
    "<script>alert('fox & dog')</script>",
    "don't stop believing",
    "한국어 검색 테스트",
    "مُحَمَّد كَتَبَ الرسالة",
];

fn analyser() -> Arc<Analyser> {
    Arc::new(Analyser::new(
        &[Language::English, Language::German, Language::Russian],
        Fields::default(),
    ))
}

fn said(sequence: u64, channel: &str, text: &str) -> Row {
    let mut message = Message {
        channel: channel.to_owned(),
        payload: json!({ "text": text, "number": sequence }).to_string().into(),
        ..Message::default()
    };
    message.set_kind(PayloadKind::Json);
    let begin = now_us() / 100_000_000 * 100_000_000 - 200_000_000;
    Row {
        offset: Offset::new(Sequence(sequence), 0),
        time_us: begin + sequence * 1_000_000,
        channel: channel.to_owned(),
        sender: Some(
            if sequence.is_multiple_of(3) {
                "bob"
            } else {
                "alice"
            }
            .to_owned(),
        ),
        message: message.encode_to_vec().into(),
        change: None,
    }
}

fn channel_of(sequence: u64) -> &'static str {
    if sequence.is_multiple_of(2) {
        "room:even"
    } else {
        "room:odd"
    }
}

/// Writes rows behind the record `after`.
async fn store_rows(store: &dyn Store, of: (ShardId, LogEpoch), after: u64, rows: Vec<Row>) {
    let mut batch = written(after, after + 1);
    (batch.shard, batch.log) = of;
    batch.up_to = rows.last().unwrap().offset.sequence();
    batch.rows = rows;
    store.write(&batch).await.unwrap();
}

async fn corpus(store: &dyn Store) {
    let rows = TEXTS
        .iter()
        .zip(1..)
        .map(|(text, sequence)| said(sequence, channel_of(sequence), text))
        .collect();
    store_rows(store, (shard(3), log(1, 7)), 0, rows).await;
}

fn indexer(store: &Arc<dyn Store>) -> Indexer {
    Indexer::new(Arc::clone(store), analyser(), SETTINGS)
}

fn whole(behind: &Behind) -> Step {
    Step {
        name: "search",
        shard: behind.shard,
        log: behind.log,
        from: behind.done_to,
        to: behind.stored_to,
    }
}

/// Indexes all that is stored.
async fn index_all(store: &Arc<dyn Store>) {
    let indexer = indexer(store);
    indexer.prepare().await.unwrap();
    for behind in store.behind("search").await.unwrap() {
        let log = (behind.shard, behind.log);
        let rows = store
            .log_rows(log, behind.done_to, behind.stored_to, 10_000)
            .await
            .unwrap();
        assert!(indexer.apply(&whole(&behind), rows).await.unwrap());
    }
    assert_eq!(store.behind("search").await.unwrap(), []);
}

async fn indexed(fixture: &impl StoreFixture) -> (Arc<dyn Store>, Searching) {
    let store = opened(fixture).await;
    corpus(&*store).await;
    index_all(&store).await;
    let searching = Searching::new(Arc::clone(&store), analyser());
    (store, searching)
}

fn question(query: &str) -> Question {
    Question {
        query: query.to_owned(),
        ..Question::default()
    }
}

fn sequences(found: &Found) -> Vec<u64> {
    found
        .matches
        .iter()
        .map(|one| one.place.offset.sequence().0)
        .collect()
}

/// The numbers of the texts that are found.
async fn numbers(searching: &Searching, question: &Question) -> BTreeSet<u64> {
    let found = searching.search(question).await.unwrap();
    assert_eq!(found.cursor, None);
    let numbers = sequences(&found);
    let set: BTreeSet<u64> = numbers.iter().copied().collect();
    assert_eq!(set.len(), numbers.len(), "one twice");
    set
}

/// Words in all their forms, phrases, beginnings, exclusions, alternatives, in several languages and scripts.
pub async fn questions_find_the_same_everywhere(fixture: &impl StoreFixture) {
    let (_store, searching) = indexed(fixture).await;
    let cases: [(&str, &[u64]); 45] = [
        ("fox", &[1, 2, 17]),
        ("FOXES", &[1, 2, 17]),
        ("fox -dog", &[1]),
        ("run", &[1, 3]),
        ("\"quick brown\"", &[1]),
        ("\"brown quick\"", &[]),
        ("\"brown fox running\"", &[]),
        ("\"foxes are running\"", &[1]),
        ("fox OR shoes", &[1, 2, 3, 17]),
        ("fox OR shoes running", &[1, 3]),
        ("dep*", &[10, 11]),
        ("deploym*", &[11]),
        ("runni*", &[1, 3]),
        ("fox* -foxes", &[]),
        ("\"to be or not\"", &[15]),
        ("question -\"to be or not\"", &[16]),
        ("häuser", &[4, 5]),
        ("hauser", &[4, 5]),
        ("STRASSE", &[4]),
        ("alt*", &[4, 5]),
        ("café", &[6, 7]),
        ("ferme", &[6]),
        ("ete", &[6]),
        ("resume", &[7]),
        ("東京", &[8]),
        ("京都", &[8, 9]),
        ("東", &[8, 9]),
        ("🚀", &[10]),
        ("example.com", &[11]),
        ("example", &[11]),
        ("case", &[12]),
        ("\"kebab case\"", &[12]),
        ("kebab-ca*", &[12]),
        ("привет", &[13, 14]),
        ("ёлки", &[13, 14]),
        ("don't", &[18]),
        ("dont", &[]),
        ("3.50", &[3]),
        ("script", &[17]),
        ("검색", &[19]),
        ("محمد", &[20]),
        ("the", &[1, 2, 11, 15]),
        ("number", &[]),
        ("nowhere", &[]),
        ("fox nowhere", &[]),
    ];
    for (query, expected) in cases {
        let expected: BTreeSet<u64> = expected.iter().copied().collect();
        assert_eq!(numbers(&searching, &question(query)).await, expected, "{query}");
    }
    let german = Question {
        language: Some("german".to_owned()),
        ..question("running")
    };
    assert_eq!(numbers(&searching, &german).await, [1, 3].into());
}

/// Only what was asked for: by channel, sender and time.
pub async fn filters_hold(fixture: &impl StoreFixture) {
    let (_store, searching) = indexed(fixture).await;
    let of = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
    let within = |channels| Question {
        channels,
        ..question("the OR fox")
    };
    assert_eq!(
        numbers(&searching, &within(None)).await,
        [1, 2, 11, 15, 17].into()
    );
    let odd = within(of(&["room:odd"]));
    assert_eq!(numbers(&searching, &odd).await, [1, 11, 15, 17].into());
    let even = within(of(&["room:even", "room:x"]));
    assert_eq!(numbers(&searching, &even).await, [2].into());
    for nowhere in [of(&["room:x"]), of(&[])] {
        assert_eq!(numbers(&searching, &within(nowhere)).await, [].into());
    }
    let bob = Question {
        sender: Some("bob".to_owned()),
        ..question("the OR fox")
    };
    assert_eq!(numbers(&searching, &bob).await, [15].into());
    let times = |from: u64, to: u64| Question {
        from_us: Some(said(from, "", "").time_us),
        to_us: Some(said(to, "", "").time_us),
        ..question("the OR fox")
    };
    assert_eq!(numbers(&searching, &times(2, 15)).await, [2, 11].into());
    assert_eq!(numbers(&searching, &times(15, 2)).await, [].into());
    let prefix = Question {
        channels: of(&["room:odd"]),
        ..question("th*")
    };
    assert_eq!(numbers(&searching, &prefix).await, [1, 11, 15].into());
}

/// Ranks, snippets and what a match tells.
pub async fn matches_are_ranked_and_shown(fixture: &impl StoreFixture) {
    let (_store, searching) = indexed(fixture).await;
    let found = searching.search(&question("fox dog")).await.unwrap();
    assert_eq!(sequences(&found), [17, 2], "what is closer together comes first");
    assert_eq!(
        found.matches[0].snippet,
        "&lt;script&gt;alert(&#39;<mark>fox</mark> &amp; <mark>dog</mark>&#39;)&lt;/script&gt;"
    );
    let second = &found.matches[1];
    assert_eq!(
        second.snippet,
        "A <mark>fox</mark> ran; the <mark>dog</mark> slept."
    );
    let row = said(2, "room:even", TEXTS[1]);
    assert_eq!(
        (second.channel.as_str(), second.time_us),
        ("room:even", row.time_us)
    );
    assert_eq!(second.place.log, log(1, 7));
    assert_eq!(second.message, row.message);
}

/// Pages follow each other without a hole and without doubles, also over more matches than are ranked together, while
/// more is said.
pub async fn pages_of_matches_are_complete(fixture: &impl StoreFixture) {
    const MANY: u64 = 700;
    let store = opened(fixture).await;
    // Several records of one time, and another shard's of the same times.
    let begin = now_us() / 1_000_000 * 1_000_000 - 9_000_000_000;
    for number in [3, 4] {
        let rows = (1..=MANY)
            .map(|sequence| {
                let words = "word ".repeat(usize::try_from(sequence % 7).unwrap());
                Row {
                    time_us: begin + sequence / 50 * 1_000_000,
                    ..said(sequence, channel_of(sequence), &format!("page {words}"))
                }
            })
            .collect();
        store_rows(&*store, (shard(number), log(1, 7)), 0, rows).await;
    }
    index_all(&store).await;
    let searching = Searching::new(Arc::clone(&store), analyser());
    let mut late = 0;
    for (query, limit, expected) in [
        ("page", 70, MANY * 2),
        ("page", 100, MANY * 2),
        ("word", 33, (MANY - MANY / 7) * 2),
        ("pag*", 100, MANY * 2),
        ("page word", 60, (MANY - MANY / 7) * 2),
        ("\"word word\"", 50, MANY / 7 * 5 * 2),
    ] {
        let mut asked = Question {
            limit,
            // Pages of one question end by their size.
            bytes: if limit == 60 { 2000 } else { 0 },
            ..question(query)
        };
        let mut seen: HashMap<(u64, u64), u64> = HashMap::new();
        for page in 0.. {
            let found = searching.search(&asked).await.unwrap();
            assert!(found.matches.len() <= limit && page < 200);
            for one in found.matches.iter().filter(|one| one.channel != "room:late") {
                *seen.entry((one.time_us, one.place.offset.get())).or_default() += 1;
            }
            if page == 1 {
                late += 1;
                let row = said(late, "room:late", "page no more");
                store_rows(&*store, (shard(5), log(1, 7)), late - 1, vec![row]).await;
                index_all(&store).await;
            }
            asked.cursor = found.cursor;
            if asked.cursor.is_none() {
                break;
            }
        }
        assert!(
            seen.values().all(|count| *count == 2),
            "one in each of two shards: {query}"
        );
        assert_eq!(seen.len() as u64 * 2, expected, "{query}");
    }
}

/// What is wrong with a question is said.
pub async fn odd_questions_are_refused(fixture: &impl StoreFixture) {
    let (_store, searching) = indexed(fixture).await;
    let refused = async |question: Question| searching.search(&question).await.unwrap_err();
    for query in ["-fox", "\"fox", "", "*"] {
        assert!(matches!(refused(question(query)).await, SearchError::Query(_)));
    }
    let other = Question {
        language: Some("french".to_owned()),
        ..question("fox")
    };
    assert!(matches!(refused(other).await, SearchError::Language(_)));
    let many = Question {
        channels: Some(vec!["x".to_owned(); 257]),
        ..question("fox")
    };
    assert!(matches!(refused(many).await, SearchError::Channels(257)));
    let first = Question {
        limit: 1,
        ..question("fox")
    };
    let cursor = searching.search(&first).await.unwrap().cursor;
    assert!(cursor.is_some());
    let next = |query: &str, cursor: Option<String>| Question {
        cursor,
        ..question(query)
    };
    assert_eq!(
        searching
            .search(&next("fox", cursor.clone()))
            .await
            .unwrap()
            .matches
            .len(),
        2
    );
    assert!(matches!(
        refused(next("foxes", cursor)).await,
        SearchError::Cursor
    ));
    let nonsense = next("fox", Some("nonsense".to_owned()));
    assert!(matches!(refused(nonsense).await, SearchError::Cursor));
}

/// Operators and signs of the stores' own languages are signs like any other.
pub async fn signs_of_the_stores_mean_nothing(fixture: &impl StoreFixture) {
    let (_store, searching) = indexed(fixture).await;
    for query in [
        "fox | dog",
        "fox:A",
        "fox') --",
        "fox\\",
        "fox <-> dog",
        "NEAR fox",
        "words:fox",
        "fox^2 NOT",
        "{fox}",
        "%fox%",
        "\u{e000}c0 fox",
        "fox\0",
    ] {
        searching.search(&question(query)).await.unwrap();
    }
    for query in ["fox & dog", "(fox) !dog", "'fox' + dog"] {
        assert_eq!(
            numbers(&searching, &question(query)).await,
            [2, 17].into(),
            "{query}"
        );
    }
}

/// Two replicas that do the same step: one writes.
pub async fn step_is_done_once(fixture: &impl StoreFixture) {
    let (one, two) = (opened(fixture).await, fixture.open());
    corpus(&*one).await;
    let behind = one.behind("search").await.unwrap();
    assert_eq!(behind.len(), 1);
    assert_eq!(behind[0].done_to, Offset::ZERO);
    let log = (shard(3), log(1, 7));
    let rows = one
        .log_rows(log, Offset::ZERO, behind[0].stored_to, 5)
        .await
        .unwrap();
    assert_eq!(rows.len(), 5);
    assert_eq!(
        (rows[0].channel.as_str(), rows[2].sender.as_deref()),
        ("room:odd", Some("bob"))
    );
    let (first, second) = (indexer(&one), indexer(&two));
    first.prepare().await.unwrap();
    second.prepare().await.unwrap();
    let step = Step {
        to: rows[4].offset,
        ..whole(&behind[0])
    };
    let (done, again) = tokio::join!(
        first.apply(&step, rows.clone()),
        second.apply(&step, rows.clone())
    );
    assert_ne!(done.unwrap(), again.unwrap());
    assert!(
        !first.apply(&step, rows).await.unwrap(),
        "the position is elsewhere"
    );
    let now = one.behind("search").await.unwrap();
    assert_eq!(now[0].done_to, Offset::new(Sequence(5), 0));
    let searching = Searching::new(Arc::clone(&one), analyser());
    assert_eq!(numbers(&searching, &question("fox")).await, [1, 2].into());
    index_all(&one).await;
    assert_eq!(numbers(&searching, &question("fox")).await, [1, 2, 17].into());
    let other = one.behind("another").await.unwrap();
    assert_eq!(
        other[0].done_to,
        Offset::ZERO,
        "each follower has its own position"
    );
}

/// Other settings make the index anew; who has the old ones writes no more.
pub async fn index_of_other_settings_is_made_anew(fixture: &impl StoreFixture) {
    let (store, searching) = indexed(fixture).await;
    let newer = Indexer::new(Arc::clone(&store), analyser(), "others");
    newer.prepare().await.unwrap();
    newer.prepare().await.unwrap();
    assert_eq!(numbers(&searching, &question("fox")).await, [].into());
    let behind = store.behind("search").await.unwrap();
    let log = (shard(3), log(1, 7));
    let all = store
        .log_rows(log, Offset::ZERO, behind[0].stored_to, 100)
        .await
        .unwrap();
    let old = indexer(&store).apply(&whole(&behind[0]), all.clone()).await;
    assert!(matches!(old, Err(StoreError::OtherIndex)), "{old:?}");
    assert!(newer.apply(&whole(&behind[0]), all).await.unwrap());
    assert_eq!(numbers(&searching, &question("fox")).await, [1, 2, 17].into());
}

/// Messages can be taken out of the index and put in again, each by itself.
pub async fn messages_leave_the_index_and_come_back(fixture: &impl StoreFixture) {
    let (store, searching) = indexed(fixture).await;
    let indexer = indexer(&store);
    let at = |sequence: u64| Place {
        log: log(1, 7),
        offset: Offset::new(Sequence(sequence), 0),
    };
    indexer.remove("room:even", at(2)).await.unwrap();
    indexer.remove("room:even", at(2)).await.unwrap();
    indexer.remove("room:odd", at(2)).await.unwrap();
    assert_eq!(numbers(&searching, &question("fox")).await, [1, 17].into());
    indexer.reindex("room:even", at(2)).await.unwrap();
    indexer.reindex("room:even", at(2)).await.unwrap();
    assert_eq!(numbers(&searching, &question("fox")).await, [1, 2, 17].into());
    // What the follower has not reached is left to it.
    let late = said(21, "room:odd", "a late fox");
    store_rows(&*store, (shard(3), log(1, 7)), 20, vec![late]).await;
    indexer.reindex("room:odd", at(21)).await.unwrap();
    assert_eq!(numbers(&searching, &question("fox")).await, [1, 2, 17].into());
    index_all(&store).await;
    assert_eq!(numbers(&searching, &question("fox")).await, [1, 2, 17, 21].into());
}

/// Opaque and binary payloads, and messages that tell of changes, are not found.
pub async fn some_messages_are_not_searched(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    let kinds = [
        PayloadKind::Json,
        PayloadKind::Binary,
        PayloadKind::Opaque,
        PayloadKind::Json,
    ];
    let row = |kind: PayloadKind, sequence: u64| {
        let mut message = Message {
            channel: "room:kinds".to_owned(),
            payload: r#""secret""#.into(),
            ..Message::default()
        };
        message.set_kind(kind);
        if sequence == 4 {
            message.change = Some(Change::default());
        }
        Row {
            message: Bytes::from(message.encode_to_vec()),
            ..said(sequence, "room:kinds", "")
        }
    };
    let rows = kinds
        .into_iter()
        .zip(1..)
        .map(|(kind, sequence)| row(kind, sequence))
        .collect();
    store_rows(&*store, (shard(3), log(1, 7)), 0, rows).await;
    index_all(&store).await;
    let searching = Searching::new(Arc::clone(&store), analyser());
    assert_eq!(numbers(&searching, &question("secret")).await, [1].into());
}

/// What a message says after an edit is found, and what it said before is not; nor is what is deleted.
pub async fn edited_messages_are_found_by_what_they_say(fixture: &impl StoreFixture) {
    let (store, searching) = indexed(fixture).await;
    let target = |sequence| {
        Some(MessageAt {
            offset: Offset::new(Sequence(sequence), 0).get(),
            ..MessageAt::default()
        })
    };
    let change = |sequence: u64, payload: &'static str, what| {
        let mut message = Message {
            id: Bytes::copy_from_slice(&[7; 16]),
            channel: "room:odd".to_owned(),
            payload: payload.into(),
            change: Some(Change { what: Some(what) }),
            ..Message::default()
        };
        message.set_kind(PayloadKind::Json);
        Row {
            message: message.encode_to_vec().into(),
            change: message.change.clone(),
            ..said(sequence, "room:odd", "")
        }
    };
    let edit = What::Edit(Edit { target: target(1) });
    let delete = What::Delete(Delete { target: target(17) });
    let rows = vec![
        change(21, r#"{"text":"a brown badger"}"#, edit),
        change(22, "null", delete),
    ];
    store_rows(&*store, (shard(3), log(1, 7)), 20, rows).await;
    index_all(&store).await;
    assert_eq!(numbers(&searching, &question("badger")).await, [1].into());
    assert_eq!(numbers(&searching, &question("fox")).await, [2].into());
}

/// In many channels all is found that is said in them, whether that is most of what is said or next to nothing.
pub async fn many_channels_are_searched(fixture: &impl StoreFixture) {
    const MANY: u64 = 12_000;
    let store = opened(fixture).await;
    // One of a thousand is said in a quiet channel, the others in twenty busy ones.
    let channel = |sequence: u64| match sequence % 1000 {
        0 => format!("quiet:{}", sequence / 1000),
        _ => format!("busy:{}", sequence % 20),
    };
    let rows: Vec<Row> = (1..=MANY)
        .map(|sequence| Row {
            time_us: now_us() / 1_000_000 * 1_000_000 - (MANY - sequence) * 10_000,
            ..said(sequence, &channel(sequence), "a word among others")
        })
        .collect();
    for (number, rows) in rows.chunks(2_000).enumerate() {
        store_rows(
            &*store,
            (shard(3), log(1, 7)),
            number as u64 * 2_000,
            rows.to_vec(),
        )
        .await;
    }
    let indexer = indexer(&store);
    indexer.prepare().await.unwrap();
    while let Some(behind) = store.behind("search").await.unwrap().first() {
        let of = (behind.shard, behind.log);
        let rows = store
            .log_rows(of, behind.done_to, behind.stored_to, 10_000)
            .await
            .unwrap();
        let step = Step {
            to: rows.last().map_or(behind.stored_to, |last| last.offset),
            ..whole(behind)
        };
        assert!(indexer.apply(&step, rows).await.unwrap());
    }
    let searching = Searching::new(Arc::clone(&store), analyser());
    let within = |kind: &str, most: u64| {
        let channels = (0..most).map(|number| format!("{kind}:{number}"));
        Question {
            channels: Some(channels.collect()),
            ..question("words")
        }
    };
    let numbers = async |question: Question| {
        let (mut question, mut numbers) = (question, Vec::new());
        loop {
            let found = searching.search(&question).await.unwrap();
            numbers.extend(sequences(&found));
            question.cursor = found.cursor;
            if question.cursor.is_none() {
                break;
            }
        }
        let set: BTreeSet<u64> = numbers.iter().copied().collect();
        assert_eq!(set.len(), numbers.len(), "one twice");
        set
    };
    let all = |wanted: &dyn Fn(u64) -> bool| -> BTreeSet<u64> {
        (1..=MANY).filter(|sequence| wanted(*sequence)).collect()
    };
    let quiet = numbers(within("quiet", 200)).await;
    assert_eq!(quiet, all(&|sequence| sequence % 1000 == 0));
    let busy = numbers(within("busy", 10)).await;
    assert_eq!(busy, all(&|sequence| sequence % 1000 != 0 && sequence % 20 < 10));
    let nowhere = numbers(within("none", 200)).await;
    assert_eq!(nowhere, BTreeSet::new());
}

/// What a backend removed (`history_remove`) is not found, though the index has it.
pub async fn hidden_messages_are_not_found(fixture: &impl StoreFixture) {
    let (store, searching) = indexed(fixture).await;
    let mark = ("room:odd".to_owned(), Offset::new(Sequence(1), 0));
    store.hide(log(1, 7), &[mark]).await.unwrap();
    assert_eq!(numbers(&searching, &question("fox")).await, [2, 17].into());
}

/// Makes a test of each case of the suite.
#[macro_export]
macro_rules! search_conformance {
    ($fixture:ty) => {
        $crate::search_conformance!(
            $fixture:
            questions_find_the_same_everywhere,
            filters_hold,
            matches_are_ranked_and_shown,
            pages_of_matches_are_complete,
            odd_questions_are_refused,
            signs_of_the_stores_mean_nothing,
            step_is_done_once,
            index_of_other_settings_is_made_anew,
            messages_leave_the_index_and_come_back,
            some_messages_are_not_searched,
            edited_messages_are_found_by_what_they_say,
            hidden_messages_are_not_found,
            many_channels_are_searched,
        );
    };
    ($fixture:ty: $($case:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let fixture = <$fixture as $crate::conformance::StoreFixture>::start().await;
                $crate::conformance::search::$case(&fixture).await;
            }
        )*
    };
}
