//! The seeds of the fuzz targets still are what they are meant to be: a fuzzer that starts from
//! garbage stays there.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::Path;

use prost::Message as _;
use switchboard_proto::bus::{Message, Record, record::Body};
use switchboard_proto::channel::{ChannelName, MAX_CHANNEL_LENGTH};
use switchboard_proto::{format, json, protobuf};

/// By file name.
fn seeds(target: &str) -> BTreeMap<String, Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../fuzz/seeds")
        .join(target);
    let files = std::fs::read_dir(&folder).unwrap();
    let seeds: BTreeMap<_, _> = files
        .map(|file| file.unwrap())
        .map(|file| {
            let name = file.file_name().into_string().unwrap();
            (name, std::fs::read(file.path()).unwrap())
        })
        .collect();
    assert!(!seeds.is_empty(), "{} is empty", folder.display());
    seeds
}

#[test]
fn json_frames() {
    for (name, seed) in seeds("json_frame") {
        let frame = String::from_utf8(seed).unwrap();
        let faults = json::commands(&frame).filter(Result::is_err).count();
        assert_eq!(faults > 0, name == "faults", "{name}");
    }
}

#[test]
fn protobuf_frames() {
    for (name, seed) in seeds("protobuf_frame") {
        let faults = if name == "reply" {
            protobuf::replies(&seed).filter(Result::is_err).count()
        } else {
            protobuf::commands(&seed).filter(Result::is_err).count()
        };
        assert_eq!(faults > 0, name == "truncated", "{name}");
    }
}

#[test]
fn channel_names() {
    let valid = |seed: &Vec<u8>| {
        let name = str::from_utf8(seed).unwrap();
        ChannelName::parse(name, MAX_CHANNEL_LENGTH).is_ok()
    };
    let (valid, invalid): (Vec<_>, Vec<_>) = seeds("channel_name").into_values().partition(valid);
    assert!(valid.len() >= 5 && !invalid.is_empty());
}

#[test]
fn log_records() {
    let mut messages = 0;
    for (name, seed) in seeds("log_record") {
        let record: Record = format::decode(seed.into()).unwrap_or_else(|error| panic!("{name}: {error}"));
        if let Some(Body::Batch(batch)) = record.body {
            for entry in batch.entries {
                Message::decode(entry.message).unwrap();
                messages += 1;
            }
        }
    }
    assert!(messages > 0);
}
