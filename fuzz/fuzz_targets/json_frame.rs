//! What a client may send over a JSON connection. What is read can be written, in one line, and
//! reads back as it was, in both encodings.
#![no_main]

use libfuzzer_sys::fuzz_target;
use switchboard_proto::client::Command;
use switchboard_proto::{json, protobuf};

fn written(command: &Command) -> String {
    let mut text = Vec::new();
    json::write_command(command, &mut text);
    String::from_utf8(text).expect("JSON is text")
}

fuzz_target!(|frame: &str| {
    for read in json::commands(frame) {
        let command = match read {
            Ok(command) => command,
            Err(error) => {
                assert!(!error.to_string().is_empty());
                continue;
            }
        };
        let text = written(&command);
        assert!(!text.contains(['\n', '\r']), "clients split there: {text:?}");
        let again: Vec<Command> = json::commands(&text)
            .collect::<Result<_, _>>()
            .expect("it was written");
        // Line breaks of payloads are gone by now, so the text is what can be compared.
        assert_eq!(again.iter().map(written).collect::<Vec<_>>(), [text]);

        let mut bytes = Vec::new();
        protobuf::write_command(&command, &mut bytes);
        let again: Vec<Command> = protobuf::commands(&bytes)
            .collect::<Result<_, _>>()
            .expect("it was written");
        assert_eq!(again, [command.clone()]);

        if let Some(publish) = command.publish.filter(|publish| !publish.data.is_empty()) {
            assert!(
                json::is_payload(&publish.data),
                "both decoders agree on what is JSON"
            );
        }
    }
});
