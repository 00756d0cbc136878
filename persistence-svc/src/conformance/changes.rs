//! Changes: what is folded is what the log says, in whatever order and however often its records come.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use prost::Message as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use switchboard_bus::fold::{self, Does, Target};
use switchboard_proto::bus::{
    Change, Delete, Edit, Message, MessageAt, Origin, PayloadKind, React, Sender, change,
};
use switchboard_proto::ids::{Offset, OwnerEpoch, Sequence};

use super::{StoreFixture, log, now_us, opened, place, shard};
use crate::store::{Fold, History, Place, Reaction, Row, Store, Written};

const CHANNEL: &str = "room:changes";

/// A message as a gateway makes it, at `sequence`.
fn message(sequence: u64, user: &str, payload: &str) -> Message {
    let mut id = [7; 16];
    id[6] = 0x77;
    id[..6].copy_from_slice(&(time_us(sequence) / 1000).to_be_bytes()[2..]);
    id[8..].copy_from_slice(&sequence.to_be_bytes());
    Message {
        id: Bytes::copy_from_slice(&id),
        channel: CHANNEL.to_owned(),
        kind: PayloadKind::Json.into(),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        sender: Some(Sender {
            user: user.to_owned(),
            ..Sender::default()
        }),
        ..Message::default()
    }
}

fn at(sequence: u64) -> Option<MessageAt> {
    Some(MessageAt {
        offset: Offset::new(Sequence(sequence), 0).get(),
        log_epoch: log(1, 7).to_string(),
        id: message(sequence, "", "").id,
    })
}

fn changing(sequence: u64, user: &str, payload: &str, what: change::What) -> Message {
    Message {
        change: Some(Change { what: Some(what) }),
        ..message(sequence, user, payload)
    }
}

fn edit(sequence: u64, target: u64, payload: &str) -> Message {
    changing(
        sequence,
        "alice",
        payload,
        change::What::Edit(Edit { target: at(target) }),
    )
}

fn delete(sequence: u64, target: u64) -> Message {
    changing(
        sequence,
        "alice",
        "null",
        change::What::Delete(Delete { target: at(target) }),
    )
}

fn react(sequence: u64, user: &str, target: u64, reaction: &str, remove: bool) -> Message {
    let react = React {
        target: at(target),
        reaction: reaction.to_owned(),
        remove,
    };
    changing(sequence, user, "{}", change::What::React(react))
}

fn reply(sequence: u64, root: u64) -> Message {
    Message {
        thread: at(root),
        ..message(sequence, "bob", "\"reply\"")
    }
}

/// The record at `sequence`, which holds this message.
fn record(sequence: u64, message: &Message) -> Written {
    Written {
        shard: shard(3),
        log: log(1, 7),
        read_after: Sequence(0),
        after: Sequence(sequence - 1),
        up_to: Sequence(sequence),
        owner_epoch: OwnerEpoch(1),
        rows: vec![Row {
            offset: Offset::new(Sequence(sequence), 0),
            time_us: time_us(sequence),
            channel: message.channel.clone(),
            sender: message.sender.as_ref().map(|sender| sender.user.clone()),
            message: message.encode_to_vec().into(),
            change: message.change.clone(),
        }],
        dead: Vec::new(),
    }
}

fn time_us(sequence: u64) -> u64 {
    // Over midnight, so that a message and its change stand in two partitions.
    now_us() / super::DAY_US * super::DAY_US - 8 + sequence
}

fn here(sequence: u64) -> Place {
    place(1, 7, sequence, 0)
}

/// Writes these messages, the first as record 1, in one batch.
async fn write(store: &dyn Store, messages: &[Message]) {
    let mut all = record(1, &messages[0]);
    all.up_to = Sequence(messages.len() as u64);
    all.rows = (1..)
        .zip(messages)
        .flat_map(|(sequence, message)| record(sequence, message).rows)
        .collect();
    store.write(&all).await.unwrap();
}

async fn shown(store: &dyn Store, channel: &str) -> Vec<(Place, Message)> {
    let page = store.history(&History::of(channel, 1000)).await.unwrap();
    let messages = page.messages.into_iter();
    messages
        .map(|stored| (stored.place, Message::decode(stored.message).unwrap()))
        .collect()
}

async fn fold_of(store: &dyn Store, sequence: u64) -> Option<Fold> {
    let mut folds = store.folds(CHANNEL, &[here(sequence)]).await.unwrap();
    folds.remove(&here(sequence))
}

/// The rows themselves are what is to be shown.
pub async fn what_was_edited_or_deleted_is_shown_so(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    let messages = [
        message(1, "alice", "\"secret one\""),
        message(2, "alice", "\"secret two\""),
        edit(3, 1, "\"secret, edited\""),
        edit(4, 2, "\"better\""),
        delete(5, 1),
        edit(6, 1, "\"secret, too late\""),
    ];
    write(&*store, &messages).await;
    let shown = shown(&*store, CHANNEL).await;
    let payloads: Vec<&[u8]> = shown
        .iter()
        .map(|(_, message)| message.payload.as_ref())
        .collect();
    let expected: [&[u8]; 6] = [b"null", b"\"better\"", b"null", b"\"better\"", b"null", b"null"];
    assert_eq!(
        payloads, expected,
        "places stay, and of what is deleted no edit says what it was"
    );
    let deleted = fold_of(&*store, 1).await.unwrap();
    assert_eq!(deleted.deleted_us, Some(time_us(5)));
    assert_eq!((deleted.edited_us, deleted.edits), (None, 0));
    let edited = fold_of(&*store, 2).await.unwrap();
    assert_eq!((edited.edited_us, edited.edits), (Some(time_us(4)), 1));
    assert_eq!(fold_of(&*store, 3).await, None);
    let one = store
        .message(CHANNEL, here(2), fold::made_us(&messages[1].id))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(Message::decode(one.message).unwrap().payload, "\"better\"");
    assert_eq!(store.message("room:other", here(2), None).await.unwrap(), None);
    assert_eq!(store.message(CHANNEL, here(7), None).await.unwrap(), None);
}

/// What a user feels counts once, until it is taken back; a deleted message is felt about no more.
pub async fn reactions_are_sets_of_users(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    let messages = [
        message(1, "alice", "1"),
        react(2, "bob", 1, "👍", false),
        react(3, "bob", 1, "👍", false),
        react(4, "carol", 1, "👍", false),
        react(5, "carol", 1, "🎉", false),
        react(6, "alice", 1, "🎉", false),
        react(7, "alice", 1, "🎉", true),
        react(8, "bob", 1, "😡", false),
        react(9, "bob", 1, "😡", true),
        message(10, "alice", "2"),
        react(11, "bob", 10, "👍", false),
        delete(12, 10),
        react(13, "carol", 10, "👍", false),
        react(14, "bob", 99, "👍", false),
        react(15, "", 1, "👍", false),
    ];
    write(&*store, &messages).await;
    let reaction = |reaction: &str, users: &[&str]| Reaction {
        reaction: reaction.to_owned(),
        count: users.len() as u64,
        users: users.iter().map(|user| (*user).to_owned()).collect(),
    };
    let felt = fold_of(&*store, 1).await.unwrap().reactions;
    assert_eq!(
        felt,
        [reaction("👍", &["bob", "carol"]), reaction("🎉", &["carol"])]
    );
    assert_eq!(fold_of(&*store, 10).await.unwrap().reactions, []);
}

/// However many users and reactions there are, a bounded number is told.
pub async fn reactions_are_told_in_bounds(fixture: &impl StoreFixture) {
    use crate::store::{MAX_REACTIONS, MAX_USERS};
    let store = opened(fixture).await;
    let mut messages = vec![message(1, "alice", "1")];
    for number in 0..100 {
        let sequence = messages.len() as u64 + 1;
        messages.push(react(sequence, &format!("user{number:03}"), 1, "👍", false));
        messages.push(react(
            sequence + 1,
            "bob",
            1,
            &format!("reaction{number:03}"),
            false,
        ));
    }
    write(&*store, &messages).await;
    let felt = fold_of(&*store, 1).await.unwrap().reactions;
    assert_eq!(felt.len(), MAX_REACTIONS);
    assert_eq!((felt[0].reaction.as_str(), felt[0].count), ("👍", 100));
    assert_eq!(felt[0].users.len(), MAX_USERS);
    assert_eq!(felt[0].users[0], "user000");
    let many: Vec<Place> = (1..=crate::store::MAX_FOLDS as u64 + 1).map(here).collect();
    assert!(store.folds(CHANNEL, &many).await.is_err());
    assert_eq!(store.folds(CHANNEL, &many[1..]).await.unwrap().len(), 0);
}

/// What a backend removed (`history_remove`) is in no thread.
pub async fn hidden_messages_are_in_no_thread(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    let mut messages = vec![message(1, "alice", "1")];
    messages.extend((2..6).map(|sequence| reply(sequence, 1)));
    write(&*store, &messages).await;
    let mark = (CHANNEL.to_owned(), here(3).offset);
    store.hide(here(3).log, &[mark]).await.unwrap();
    let page = store.thread(CHANNEL, here(1), None, 9, usize::MAX).await.unwrap();
    let read: Vec<u64> = page
        .messages
        .iter()
        .map(|stored| stored.place.offset.sequence().0)
        .collect();
    assert_eq!(read, [4, 5]);
}

/// Replies are counted, and listed page by page.
pub async fn threads_are_listed_in_order(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    let mut messages = vec![message(1, "alice", "1"), message(2, "alice", "2")];
    for sequence in 3..10 {
        messages.push(reply(sequence, 1 + sequence % 2));
    }
    messages.push(delete(10, 4));
    write(&*store, &messages).await;
    let fold = fold_of(&*store, 1).await.unwrap();
    assert_eq!((fold.replies, fold.replied_us), (3, Some(time_us(8))));
    let mut read = Vec::new();
    let mut after = None;
    loop {
        let page = store
            .thread(CHANNEL, here(2), after, 2, usize::MAX)
            .await
            .unwrap();
        assert!((1..=2).contains(&page.messages.len()));
        read.extend(
            page.messages
                .iter()
                .map(|stored| stored.place.offset.sequence().0),
        );
        after = page.messages.last().map(|stored| stored.place);
        if !page.more {
            break;
        }
    }
    assert_eq!(read, [3, 5, 7, 9]);
    let page = store.thread(CHANNEL, here(1), None, 9, usize::MAX).await.unwrap();
    let first = Message::decode(page.messages[0].message.clone()).unwrap();
    assert!(fold::is_deleted(&first), "a deleted reply keeps its place");
    for (channel, root) in [
        ("room:other", here(1)),
        (CHANNEL, place(1, 8, 1, 0)),
        (CHANNEL, here(3)),
    ] {
        assert_eq!(
            store
                .thread(channel, root, None, 9, usize::MAX)
                .await
                .unwrap()
                .messages,
            []
        );
    }
}

/// A change of a message that is not stored, of another channel's, or of another life of the log.
pub async fn changes_of_what_is_elsewhere_are_harmless(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    write(
        &*store,
        &[message(1, "alice", "\"old life\""), message(2, "alice", "2")],
    )
    .await;
    let mut elsewhere = edit(2, 1, "\"of another channel\"");
    elsewhere.channel = "room:other".to_owned();
    let mut now = record(1, &edit(1, 1, "\"edited in the new life\""));
    now.log = log(2, 5);
    now.rows.extend(record(2, &elsewhere).rows);
    now.rows.extend(record(3, &delete(3, 77)).rows);
    now.up_to = Sequence(3);
    store.write(&now).await.unwrap();
    let shown = shown(&*store, CHANNEL).await;
    assert_eq!(shown[0].1.payload, "\"edited in the new life\"");
    assert_eq!(shown[1].1.payload, "2");
    assert!(shown.iter().all(|(_, message)| !fold::is_deleted(message)));
}

/// An inbox entry is changed by the change that was derived from the conversation's.
pub async fn inbox_entries_are_changed_with_their_messages(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    let derived = |message: Message| Message {
        channel: "#bob".to_owned(),
        origin: Some(Origin {
            channel: CHANNEL.to_owned(),
            hops: 1,
        }),
        ..message
    };
    // The offsets that they name are those of the conversation, in another shard.
    let said = [message(71, "alice", "\"one\""), message(72, "alice", "\"two\"")];
    let messages = [
        derived(said[0].clone()),
        derived(said[1].clone()),
        derived(edit(73, 71, "\"one, edited\"")),
        derived(edit(74, 72, "\"two, edited\"")),
        derived(delete(75, 71)),
        derived(reply(76, 71)),
    ];
    write(&*store, &messages).await;
    let shown = shown(&*store, "#bob").await;
    let payloads: Vec<&[u8]> = shown
        .iter()
        .map(|(_, message)| message.payload.as_ref())
        .collect();
    let expected: [&[u8]; 6] = [
        b"null",
        b"\"two, edited\"",
        b"null",
        b"\"two, edited\"",
        b"null",
        b"\"reply\"",
    ];
    assert_eq!(payloads, expected);
}

/// A log of messages and changes of all kinds, by a seed.
fn script(random: &mut StdRng, length: u64) -> Vec<Message> {
    let mut messages = vec![message(1, "alice", "\"1\"")];
    for sequence in 2..=length {
        let target = random.random_range(1..sequence);
        let is_said = |message: &Message| message.change.is_none();
        let is_message = messages.get(target as usize - 1).is_some_and(is_said);
        let user = ["alice", "bob", "carol"][random.random_range(0..3)];
        let reaction = ["👍", "🎉"][random.random_range(0..2)];
        let next = match random.random_range(0..12) {
            0..=2 if is_message => edit(sequence, target, &format!("\"edit {sequence}\"")),
            3 if is_message => delete(sequence, target),
            4..=6 if is_message => react(sequence, user, target, reaction, random.random_bool(0.3)),
            7..=8 if is_message => reply(sequence, target),
            _ => message(sequence, user, &format!("\"{sequence}\"")),
        };
        messages.push(next);
    }
    messages
}

/// What became of each message, the slow way.
fn expected_folds(messages: &[(Offset, Message)]) -> HashMap<Place, Fold> {
    let mut folds = HashMap::new();
    for (offset, said) in messages.iter().filter(|(_, message)| message.change.is_none()) {
        let mut fold = Fold::default();
        let mut felt: BTreeMap<&str, Vec<(u64, &str)>> = BTreeMap::new();
        for (at, message) in messages {
            let time = time_us(at.sequence().0);
            if fold::thread(message, log(1, 7)) == Some(Target::Here(*offset)) {
                fold.replies += 1;
                fold.replied_us = Some(time);
            }
            let Some((target, does)) = fold::effect(message, log(1, 7)) else {
                continue;
            };
            if target != Target::Here(*offset) || message.channel != said.channel {
                continue;
            }
            let user = message.sender.as_ref().unwrap().user.as_str();
            match does {
                Does::Edit => {
                    fold.edits += 1;
                    fold.edited_us = Some(time);
                }
                Does::Delete => fold.deleted_us = fold.deleted_us.or(Some(time)),
                Does::React { reaction, remove } => {
                    let users = felt.entry(reaction).or_default();
                    users.retain(|(_, other)| *other != user);
                    if !remove {
                        users.push((at.get(), user));
                    }
                }
            }
        }
        felt.retain(|_, users| !users.is_empty());
        for (reaction, mut users) in felt {
            users.sort_unstable();
            fold.reactions.push(Reaction {
                reaction: reaction.to_owned(),
                count: users.len() as u64,
                users: users.into_iter().map(|(_, user)| user.to_owned()).collect(),
            });
        }
        fold.reactions
            .sort_by_key(|reaction| std::cmp::Reverse(reaction.count));
        if fold.deleted_us.is_some() {
            (fold.edited_us, fold.edits) = (None, 0);
            fold.reactions.clear();
        }
        if fold != Fold::default() {
            let place = Place {
                log: log(1, 7),
                offset: *offset,
            };
            folds.insert(place, fold);
        }
    }
    folds
}

/// The log is the truth: whatever order its records come in, how often, in what pieces, and from how many replicas.
pub async fn any_order_of_records_folds_to_the_same(fixture: &impl StoreFixture) {
    const LENGTH: u64 = 24;
    let store = opened(fixture).await;
    let replica = fixture.open();
    for seed in 0..12 {
        let mut random = StdRng::seed_from_u64(seed);
        let channel = format!("room:{seed}");
        let mut messages = script(&mut random, LENGTH);
        for message in &mut messages {
            message.channel.clone_from(&channel);
        }
        let life = |mut written: Written| {
            // Each seed has a shard of its own.
            written.shard = shard(seed as u32);
            written
        };
        let mut order: Vec<u64> = (1..=LENGTH).collect();
        match seed % 3 {
            // As it should be.
            0 => {}
            // Newest first, all the others being holes.
            1 => order.reverse(),
            _ => order.shuffle(&mut random),
        }
        let again: Vec<u64> = (0..8).map(|_| random.random_range(1..=LENGTH)).collect();
        for sequence in order.into_iter().chain(again) {
            let one = life(record(sequence, &messages[sequence as usize - 1]));
            if random.random_bool(0.3) {
                let (first, second) = tokio::join!(store.write(&one), replica.write(&one));
                first.unwrap();
                second.unwrap();
            } else {
                store.write(&one).await.unwrap();
            }
        }
        let in_log: Vec<(Offset, Message)> = (1..)
            .zip(messages)
            .map(|(sequence, message)| (Offset::new(Sequence(sequence), 0), message))
            .collect();
        let expected: Vec<(Place, Message)> = fold::folded_log(log(1, 7), &in_log)
            .into_iter()
            .map(|(offset, message)| {
                (
                    Place {
                        log: log(1, 7),
                        offset,
                    },
                    message,
                )
            })
            .collect();
        assert_eq!(shown(&*replica, &channel).await, expected, "seed {seed}");
        let places: Vec<Place> = expected.iter().map(|(place, _)| *place).collect();
        let folds = replica.folds(&channel, &places).await.unwrap();
        assert_eq!(folds, expected_folds(&in_log), "seed {seed}");
    }
}
