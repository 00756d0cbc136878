//! What a client may send over a Protobuf connection. What is read can be written and reads back as
//! it was; what it publishes reaches a JSON connection as one readable line, or not at all.
#![no_main]

use libfuzzer_sys::fuzz_target;
use switchboard_proto::client::{Command, Publication, Push, Reply};
use switchboard_proto::{json, protobuf};

fuzz_target!(|frame: &[u8]| {
    let mut failed = false;
    for read in protobuf::commands(frame) {
        assert!(!failed, "nothing is read behind an error");
        let command = match read {
            Ok(command) => command,
            Err(error) => {
                assert!(!error.to_string().is_empty());
                failed = true;
                continue;
            }
        };
        let mut bytes = Vec::new();
        protobuf::write_command(&command, &mut bytes);
        let again: Vec<Command> = protobuf::commands(&bytes)
            .collect::<Result<_, _>>()
            .expect("it was written");
        assert_eq!(again, [command.clone()]);

        if let Some(publish) = command.publish.filter(|publish| json::is_payload(&publish.data)) {
            let publication = Publication {
                data: publish.data,
                offset: 1,
                ..Publication::default()
            };
            let push = Push {
                channel: publish.channel,
                r#pub: Some(publication),
                ..Push::default()
            };
            let reply = Reply {
                push: Some(push),
                ..Reply::default()
            };
            let mut text = Vec::new();
            json::write_reply(&reply, &mut text);
            let text = String::from_utf8(text).expect("JSON is text");
            let replies: Vec<Reply> = json::replies(&text)
                .collect::<Result<_, _>>()
                .expect("it was written");
            assert_eq!(replies.len(), 1, "{text:?}");
        }
    }
    // The decoder that clients of ours would use.
    for reply in protobuf::replies(frame) {
        drop(reply);
    }
});
