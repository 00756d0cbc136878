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
    Answer, Applied, Batch, Delivered, Delivery, Down, DownBeat, DownItem, Entry, Fence, Header, Interest,
    Layout, MemberBeat, Message, Open, OpenEnd, Opened, OwnerBeat, PayloadKind, Position, Priority, Publish,
    Record, Refusal, Role, Sender, Series, Up, UpBeat, UpItem, answer, down_item, record, up_item,
};
use switchboard_proto::format;
use switchboard_proto::ids::{Incarnation, SHARD_HASH};

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
    }
}

fn encoded_message() -> Bytes {
    prost::Message::encode_to_vec(&message()).into()
}

fn written_by(sequence: u64, body: record::Body) -> Record {
    Record {
        owner_epoch: 5,
        sequence,
        owner: life(9),
        append_number: 2,
        time_us: 1_790_000_000_000_000,
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
    };
    golden("record-batch", &written_by(6, record::Body::Batch(batch)));
    golden(
        "layout",
        &Layout {
            shards: 16,
            hash: SHARD_HASH.to_owned(),
            created_us: 1_790_000_000_000_000,
        },
    );
}

#[test]
fn link_frames() {
    let up = [
        up_item::Item::Open(Open {
            position: Some(Position {
                ordinal: 1,
                owner_epoch: 5,
                offset: 24_575,
            }),
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
        }),
        up_item::Item::Beat(UpBeat {}),
    ];
    let items = up.into_iter().map(|item| UpItem { item: Some(item) }).collect();
    golden(
        "link-up",
        &Up {
            gateway: life(1),
            open: 2,
            number: 1,
            items,
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
        down_item::Item::Applied(Applied { up_number: 1 }),
        down_item::Item::Answer(Answer {
            series: 0,
            number: 1,
            outcome: Some(answer::Outcome::Offset(28_672)),
        }),
        down_item::Item::Answer(Answer {
            series: 1,
            number: 2,
            outcome: Some(answer::Outcome::Refused(refused)),
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

#[test]
fn beats() {
    let owner = OwnerBeat {
        shard: 3,
        router: life(9),
        ordinal: 1,
        owner_epoch: 5,
        released: true,
    };
    golden("owner-beat", &owner);
    let member = MemberBeat {
        role: Role::Gateway.into(),
        incarnation: life(1),
        version: "0.1.0".to_owned(),
        interval_ms: 300,
        leaving: true,
    };
    golden("member-beat", &member);
}
