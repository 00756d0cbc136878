//! What a process finds in the log: a record of whatever release, or of a disk that lost its mind.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use prost::Message as _;
use switchboard_proto::bus::{Message, Record, record::Body};
use switchboard_proto::format;

fuzz_target!(|stored: &[u8]| {
    let record = match format::decode::<Record>(Bytes::copy_from_slice(stored)) {
        Ok(record) => record,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    let again: Record = format::decode(format::encode(&record)).expect("it was written");
    assert_eq!(again, record);
    if let Some(Body::Batch(batch)) = record.body {
        for entry in batch.entries {
            if let Ok(message) = Message::decode(entry.message) {
                let again = Message::decode(message.encode_to_vec().as_slice()).expect("it was written");
                assert_eq!(again, message);
            }
        }
    }
});
