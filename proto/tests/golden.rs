//! What an earlier release wrote is still read, to the same values.
//!
//! `tests/golden/` holds the bytes of everything that is written down or sent between processes, one
//! file each, as the release that introduced them wrote them. A file is never changed: a new format
//! gets new files beside the old. `WRITE_GOLDEN=1 cargo test -p switchboard-proto` adds missing ones.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::PathBuf;

use bytes::Bytes;
use switchboard_proto::bus::{
    Answer, Applied, Batch, BetweenOwners, Change, ChannelMember, Closed, Delete, Deleted, Delivered,
    Delivery, Derivation, Derive, Derived, DerivedAt, Down, DownBeat, DownItem, Edit, Entry, Ephemeral,
    Fence, Header, InForce, Interest, Layout, MemberBeat, MemberRole, MembersChanged, Message, MessageAt,
    Open, OpenEnd, Opened, Origin, OwnerBeat, PayloadKind, Position, Priority, Publish, React, Record,
    Recover, Recovered, RecoveredOutcome, Refusal, Removed, Reset, Role, SendChannels, Sender, Series, State,
    StoredPosition, Unknown, Up, UpBeat, UpItem, Wait, answer, between_owners, change, down_item, record,
    up_item,
};
use switchboard_proto::format;
use switchboard_proto::ids::{Incarnation, SHARD_HASH};
use switchboard_proto::registry::{RegisteredSession, StoredSubscription};

#[expect(
    clippy::disallowed_methods,
    reason = "a switch for whoever adds a format, no configuration"
)]
fn writes_missing_files() -> bool {
    std::env::var_os("WRITE_GOLDEN").is_some()
}

/// The bytes in the file are today's encoding of `value`, and decode to it.
fn golden<M: prost::Message + Default + PartialEq + Debug>(name: &str, value: &M) {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(format!("{name}.v1"));
    let encoded = format::encode(value);
    if !file.exists() && writes_missing_files() {
        std::fs::write(&file, &encoded).unwrap();
    }
    let written = std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    assert_eq!(
        &format::decode::<M>(Bytes::from(written.clone())).unwrap(),
        value,
        "{name} reads otherwise"
    );
    assert_eq!(
        written, encoded,
        "{name} is written otherwise than its readers expect"
    );
}

fn life(number: u128) -> Bytes {
    Incarnation::from_u128(number).to_bytes()
}

fn message() -> Message {
    Message {
        id: life(0x0192_0000_0000_7000_8000_0000_0000_0001),
        channel: "room:42".to_owned(),
        kind: PayloadKind::Json.into(),
        payload: Bytes::from_static(br#"{"text":"hello"}"#),
        sender: Some(Sender {
            user: "alice".to_owned(),
            client: "3b241101-e2bb-4255-8caf-4136c566a962".to_owned(),
            conn_info: Bytes::from_static(br#"{"name":"Alice"}"#),
            chan_info: Bytes::new(),
        }),
        tags: BTreeMap::from([("lang".to_owned(), "en".to_owned())]),
        priority: Priority::High.into(),
        headers: vec![Header {
            name: "app".to_owned(),
            value: Bytes::from_static(b"1"),
        }],
        key: "order-7".to_owned(),
        trace: Bytes::from_static(&[7; 25]),
        origin: None,
        // A client published it.
        api_key: String::new(),
        thread: None,
        change: None,
    }
}

fn target() -> MessageAt {
    MessageAt {
        offset: 8_192,
        log_epoch: "1-00000007".to_owned(),
        id: life(0x0192_0000_0000_7000_8000_0000_0000_0002),
    }
}

fn encoded_message() -> Bytes {
    prost::Message::encode_to_vec(&message()).into()
}

fn applied() -> Applied {
    Applied {
        source: 3,
        at: Some(derived_at()),
        ordinal: 1,
        random: 7,
        owner_epoch: 5,
    }
}

fn derived_at() -> DerivedAt {
    DerivedAt {
        offset: 24_577,
        index: 1,
    }
}

fn written_by(sequence: u64, body: record::Body) -> Record {
    Record {
        owner_epoch: 5,
        sequence,
        owner: life(9),
        append_number: 2,
        time_us: 1_790_000_000_000_000,
        state_at: 0,
        body: Some(body),
    }
}

#[test]
fn log_records_and_layout() {
    golden("record-fence", &written_by(5, record::Body::Fence(Fence {})));
    let entry = Entry {
        message: encoded_message(),
        source: 0,
        series: Series::Keyed.into(),
        number: 3,
    };
    let batch = Batch {
        sources: vec![life(1)],
        entries: vec![entry],
        applied: Vec::new(),
    };
    golden("record-batch", &written_by(6, record::Body::Batch(batch)));
    let derived = Message {
        origin: Some(Origin {
            channel: "dm:#alice,bob".to_owned(),
            hops: 1,
        }),
        ..message()
    };
    let derived = Entry {
        message: prost::Message::encode_to_vec(&derived).into(),
        ..Entry::default()
    };
    let batch = Batch {
        sources: Vec::new(),
        entries: vec![derived],
        applied: vec![applied()],
    };
    let record = Record {
        state_at: 6,
        ..written_by(7, record::Body::Batch(batch))
    };
    golden("record-batch-derived", &record);
    let state = State {
        applied: vec![applied()],
        derived_up_to: 28_671,
        removed_up_to: 4_095,
        removed: vec![Removed {
            channel: "room:42".to_owned(),
            up_to: 8_192,
        }],
        purged_before: 3,
        frozen: false,
        hidden: Vec::new(),
        deleted: None,
    };
    golden("record-state", &written_by(8, record::Body::State(state.clone())));
    let frozen = State {
        frozen: true,
        ..state.clone()
    };
    golden("record-state-frozen", &written_by(8, record::Body::State(frozen)));
    let hidden = State {
        hidden: vec![Removed {
            channel: "room:7".to_owned(),
            up_to: 12_288,
        }],
        ..state.clone()
    };
    golden("record-state-hidden", &written_by(8, record::Body::State(hidden)));
    let deleted = State {
        deleted: Some(Deleted {
            offsets: vec![8_192, 1],
            until: vec![4_096, 0],
            copies: vec![7],
            copies_until: vec![12_288],
            floor: 4_096,
        }),
        ..state
    };
    golden(
        "record-state-deleted",
        &written_by(8, record::Body::State(deleted)),
    );
    for (name, change) in [
        (
            "edit",
            change::What::Edit(Edit {
                target: Some(target()),
            }),
        ),
        (
            "delete",
            change::What::Delete(Delete {
                target: Some(target()),
            }),
        ),
        (
            "react",
            change::What::React(React {
                target: Some(target()),
                reaction: "+1".to_owned(),
                remove: true,
            }),
        ),
        (
            "members",
            change::What::Members(MembersChanged {
                added: vec![ChannelMember {
                    user: "bob".to_owned(),
                    role: MemberRole::Owner.into(),
                }],
                removed: vec!["carol".to_owned()],
                claims: true,
            }),
        ),
    ] {
        let message = Message {
            thread: Some(target()),
            change: Some(Change { what: Some(change) }),
            ..message()
        };
        golden(&format!("message-{name}"), &message);
    }
    let closed = Closed {
        next_ordinal: 2,
        shards: 6,
    };
    golden("record-closed", &written_by(9, record::Body::Closed(closed)));
    let layout = Layout {
        shards: 4,
        hash: SHARD_HASH.to_owned(),
        created_us: 1_790_000_000_000_000,
        ..Layout::default()
    };
    golden(
        "layout",
        &Layout {
            shards: 16,
            ..layout.clone()
        },
    );
    golden(
        "reader-position",
        &StoredPosition {
            log_epoch: "3-000000ab".to_owned(),
            up_to: 4711,
        },
    );
    let changed = Layout {
        ordinals: vec![1, 3, 2, 300],
        key_window_ms: 60_000,
        changing_to: 6,
        revision: 5,
        ..layout
    };
    golden("layout-changed", &changed);
}

#[test]
fn link_frames() {
    let up = [
        up_item::Item::Open(Open {
            position: Some(Position {
                random: 0,
                ..position()
            }),
            ..Open::default()
        }),
        up_item::Item::Interest(Interest {
            add: vec!["a".to_owned()],
            remove: vec!["b".to_owned()],
        }),
        up_item::Item::OpenEnd(OpenEnd {}),
        up_item::Item::Publish(Publish {
            series: Series::Plain.into(),
            number: 1,
            message: encoded_message(),
            again: false,
        }),
        up_item::Item::Beat(UpBeat::default()),
    ];
    let items = up.into_iter().map(|item| UpItem { item: Some(item) }).collect();
    golden(
        "link-up",
        &Up {
            gateway: life(1),
            open: 2,
            number: 1,
            items,
            ..Up::default()
        },
    );
    let refused = Refusal {
        code: 111,
        message: "too many requests".to_owned(),
        temporary: true,
    };
    let down = [
        down_item::Item::Opened(Opened {
            log_epoch: "1-00000001".to_owned(),
            position: 24_575,
        }),
        down_item::Item::InForce(InForce {
            up_number: 1,
            heads: Vec::new(),
        }),
        down_item::Item::Answer(Answer {
            series: 0,
            number: 1,
            outcome: Some(answer::Outcome::Offset(28_672)),
            duplicate_of: Bytes::new(),
        }),
        down_item::Item::Answer(Answer {
            series: 1,
            number: 2,
            outcome: Some(answer::Outcome::Refused(refused)),
            duplicate_of: Bytes::new(),
        }),
        down_item::Item::Delivery(Delivery {
            after: 24_575,
            up_to: 28_671,
            messages: vec![Delivered {
                offset: 28_672,
                message: encoded_message(),
            }],
        }),
        down_item::Item::Beat(DownBeat {}),
    ];
    let items = down
        .into_iter()
        .map(|item| DownItem { item: Some(item) })
        .collect();
    golden(
        "link-down",
        &Down {
            shard: 3,
            ordinal: 1,
            owner_epoch: 5,
            open: 2,
            number: 1,
            items,
        },
    );
}

fn position() -> Position {
    Position {
        ordinal: 1,
        owner_epoch: 5,
        offset: 24_575,
        random: 7,
    }
}

/// What links carry besides: openings that continue, repeats, recoveries.
#[test]
fn link_frames_of_recovery() {
    let up = [
        up_item::Item::Open(Open {
            position: Some(position()),
            channels: 2,
            channels_hash: 0x1234_5678_9abc_def0,
            sent_since: Some(position()),
            credit: 1_048_576,
        }),
        up_item::Item::Publish(Publish {
            series: Series::Keyed.into(),
            number: 3,
            message: encoded_message(),
            again: true,
        }),
        up_item::Item::Beat(UpBeat {
            channels: 2,
            channels_hash: 0x1234_5678_9abc_def0,
        }),
        up_item::Item::Recover(Recover {
            question: 4,
            channel: "room:42".to_owned(),
            after: 24_576,
        }),
        up_item::Item::Ephemeral(Ephemeral {
            message: encoded_message(),
        }),
    ];
    golden(
        "link-up-recovery",
        &Up {
            gateway: life(1),
            open: 3,
            number: 1,
            items: up.into_iter().map(|item| UpItem { item: Some(item) }).collect(),
            confirmed: 24_575,
            open_plain: 8,
            open_keyed: 3,
        },
    );
    let down = [
        down_item::Item::Wait(Wait {}),
        down_item::Item::SendChannels(SendChannels {}),
        down_item::Item::InForce(InForce {
            up_number: 2,
            heads: vec![24_576, 4_095],
        }),
        down_item::Item::Answer(Answer {
            series: 1,
            number: 3,
            outcome: Some(answer::Outcome::Offset(24_577)),
            duplicate_of: life(2),
        }),
        down_item::Item::Answer(Answer {
            series: 0,
            number: 8,
            outcome: Some(answer::Outcome::Unknown(Unknown {})),
            duplicate_of: Bytes::new(),
        }),
        down_item::Item::Recovered(Recovered {
            question: 4,
            outcome: RecoveredOutcome::Complete.into(),
            up_to: 28_672,
            messages: vec![Delivered {
                offset: 28_672,
                message: encoded_message(),
            }],
            more: true,
        }),
        down_item::Item::Recovered(Recovered {
            question: 5,
            outcome: RecoveredOutcome::Lost.into(),
            up_to: 8_192,
            messages: Vec::new(),
            more: false,
        }),
        down_item::Item::Ephemeral(Ephemeral {
            message: encoded_message(),
        }),
        down_item::Item::Reset(Reset {}),
    ];
    golden(
        "link-down-recovery",
        &Down {
            shard: 3,
            ordinal: 1,
            owner_epoch: 5,
            open: 3,
            number: 2,
            items: down
                .into_iter()
                .map(|item| DownItem { item: Some(item) })
                .collect(),
        },
    );
}

#[test]
fn frames_between_owners() {
    let derive = Derive {
        source: 3,
        target: 0,
        router: life(9),
        ordinal: 1,
        random: 7,
        owner_epoch: 5,
        after: Some(derived_at()),
        entries: vec![Derived {
            at: Some(derived_at()),
            message: encoded_message(),
        }],
    };
    let derivation = Derivation {
        source: 3,
        target: 0,
        ordinal: 1,
        owner_epoch: 6,
        source_epoch: 5,
        applied: Some(derived_at()),
    };
    for (name, item) in [
        ("owners-derive", between_owners::Item::Derive(derive)),
        ("owners-derivation", between_owners::Item::Derivation(derivation)),
    ] {
        golden(name, &BetweenOwners { item: Some(item) });
    }
}

#[test]
fn beats() {
    let owner = OwnerBeat {
        shard: 3,
        router: life(9),
        ordinal: 1,
        owner_epoch: 5,
        released: true,
        ..OwnerBeat::default()
    };
    golden("owner-beat", &owner);
    let of_a_layout = OwnerBeat {
        shards: 16,
        hash: SHARD_HASH.to_owned(),
        ..owner
    };
    golden("owner-beat-layout", &of_a_layout);
    let member = MemberBeat {
        role: Role::Gateway.into(),
        incarnation: life(1),
        version: "0.1.0".to_owned(),
        interval_ms: 300,
        leaving: true,
    };
    golden("member-beat", &member);
}

#[test]
fn registry() {
    let session = RegisteredSession {
        gateway: life(3),
        lease: 2,
        since_us: 1_790_000_000_000_000,
        client_name: "js".to_owned(),
        client_version: "5.1".to_owned(),
    };
    golden("registry-session", &session);
    let subscription = StoredSubscription {
        info: Bytes::from_static(br#"{"role":"guest"}"#),
        data: Bytes::from_static(br#"{"topic":"rust"}"#),
        ..StoredSubscription::default()
    };
    golden("registry-subscription", &subscription);
    let overridden = StoredSubscription {
        presence: Some(true),
        join_leave: Some(false),
        force_recovery: Some(false),
        force_positioning: Some(true),
        force_push_join_leave: Some(false),
        ..subscription
    };
    golden("registry-subscription-overridden", &overridden);
}
