//! Channel names, the first text of a client that decides anything: where a message goes, and who
//! may be there.
#![no_main]

use libfuzzer_sys::fuzz_target;
use switchboard_proto::channel::{ChannelName, InvalidChannel, MAX_CHANNEL_LENGTH};

fuzz_target!(|name: &str| {
    match ChannelName::parse(name, MAX_CHANNEL_LENGTH) {
        Ok(channel) => {
            assert_eq!(channel.as_str(), name);
            assert!(!name.is_empty() && name.len() <= MAX_CHANNEL_LENGTH);
            assert!(name.bytes().all(|byte| byte.is_ascii_graphic()));
            if let Some(namespace) = channel.namespace() {
                assert!(!namespace.is_empty() && !namespace.contains([':', '#', ',']));
            }
            if let Some(users) = channel.users() {
                let users: Vec<&str> = users.collect();
                assert!(users.is_sorted_by(|one, other| one < other));
                assert!(
                    users
                        .iter()
                        .all(|user| !user.is_empty() && !user.contains(['#', ',']))
                );
                assert!(name.ends_with(&users.join(",")));
            }
            // A limit is a limit in bytes.
            let refused = ChannelName::parse(name, name.len() - 1);
            assert!(matches!(refused, Err(InvalidChannel::TooLong { .. })));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
