//! Rust types from the `.proto` files: protox compiles, prost writes.

use std::path::Path;

use anyhow::Context as _;
use prost::Message as _;
use prost_build::Config;
use protox::prost_reflect::prost_types::field_descriptor_proto::{Label, Type};
use protox::prost_reflect::prost_types::{FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet};

/// The server API.
const API: &str = "centrifugal/centrifugo/api/api.proto";

/// What the persistence service answers; imports the files beside it.
const MESSAGES: &str = "switchboard/messages/service.proto";

/// What the presence service answers; imports the files beside it.
const PRESENCE: &str = "switchboard/presence/service.proto";

/// What the notify service answers.
const NOTIFICATIONS: &str = "switchboard/notifications/service.proto";

const FILES: &[&str] = &[
    "switchboard/client/client.proto",
    "switchboard/bus/message.proto",
    "switchboard/bus/record.proto",
    "switchboard/bus/reader.proto",
    "switchboard/bus/link.proto",
    "switchboard/bus/derive.proto",
    "switchboard/bus/history.proto",
    "switchboard/bus/member.proto",
    "switchboard/bus/control.proto",
    "switchboard/bus/question.proto",
    "switchboard/bus/publish.proto",
    "switchboard/registry/registry.proto",
    MESSAGES,
    PRESENCE,
    NOTIFICATIONS,
    API,
];

/// Writes one Rust file per package into `into`.
pub(crate) fn generate(root: &Path, into: &Path) -> anyhow::Result<()> {
    let descriptors =
        protox::compile(FILES, [root.join("proto/protos")]).context("compiling proto/protos")?;
    std::fs::create_dir_all(into).with_context(|| format!("creating {}", into.display()))?;
    // JSON is read by serde straight into the same types. An absent field is its default, and a
    // payload keeps its bytes.
    let client = ".switchboard.client";
    let mut config = prost_build::Config::new();
    config
        .bytes(["."])
        .btree_map(["."])
        .type_attribute(client, "#[derive(serde::Deserialize)]")
        .type_attribute(client, "#[serde(default)]");
    for payload in [
        "ClientInfo.conn_info",
        "ClientInfo.chan_info",
        "Publication.data",
        "Subscribe.data",
        "Message.data",
        "Connect.data",
        "ConnectRequest.data",
        "ConnectResult.data",
        "SubscribeRequest.data",
        "SubscribeResult.data",
        "PublishRequest.data",
        "RpcRequest.data",
        "RpcResult.data",
        "SendRequest.data",
    ] {
        config.field_attribute(
            format!("{client}.{payload}"),
            "#[serde(deserialize_with = \"crate::json::payload\")]",
        );
    }
    as_json(&mut config, &descriptors, API)?;
    as_json(&mut config, &descriptors, NOTIFICATIONS)?;
    describe(&descriptors, API, into)?;
    describe(&descriptors, MESSAGES, into)?;
    describe(&descriptors, PRESENCE, into)?;
    describe(&descriptors, NOTIFICATIONS, into)?;
    tonic_prost_build::configure()
        .build_client(false)
        .build_transport(false)
        .server_mod_attribute(".", "#[cfg(feature = \"grpc\")]")
        .out_dir(into)
        .compile_fds_with_config(descriptors, config)
        .context("generating Rust from the descriptors")
}

/// The types of what backends and clients ask are read and written as JSON too.
fn as_json(config: &mut Config, descriptors: &FileDescriptorSet, name: &str) -> anyhow::Result<()> {
    let file = descriptors.file.iter().find(|file| file.name() == name);
    let file = file.with_context(|| format!("{name} was not compiled"))?;
    let package = format!(".{}", file.package());
    config
        .type_attribute(&package, "#[derive(serde::Serialize, serde::Deserialize)]")
        .type_attribute(&package, "#[serde(default)]");
    for (path, field) in fields(file) {
        config.field_attribute(path, format!("#[serde({})]", json(field)));
    }
    Ok(())
}

/// Writes the descriptors of a file's package, which reflection answers with.
fn describe(descriptors: &FileDescriptorSet, name: &str, into: &Path) -> anyhow::Result<()> {
    let of = |name: &str| descriptors.file.iter().find(|file| file.name() == name);
    let package = of(name)
        .with_context(|| format!("{name} was not compiled"))?
        .package();
    // In the order of the set: what is imported comes first.
    let file = descriptors
        .file
        .iter()
        .filter(|file| file.package() == package)
        .cloned()
        .collect();
    let described = FileDescriptorSet { file };
    let path = into.join(format!("{package}.descriptors"));
    std::fs::write(&path, described.encode_to_vec()).with_context(|| format!("writing {}", path.display()))
}

/// The fields of a file's messages, with their paths.
fn fields(file: &FileDescriptorProto) -> impl Iterator<Item = (String, &FieldDescriptorProto)> {
    file.message_type.iter().flat_map(|message| {
        message.field.iter().map(|field| {
            let path = format!(".{}.{}.{}", file.package(), message.name(), field.name());
            (path, field)
        })
    })
}

/// How a field is read and written as JSON: a payload keeps its text, `null` is the default.
fn json(field: &FieldDescriptorProto) -> &'static str {
    match (field.r#type(), field.label()) {
        (Type::Bytes, _) => {
            "deserialize_with = \"crate::json::payload\", serialize_with = \"crate::json::as_it_stands\", \
             skip_serializing_if = \"bytes::Bytes::is_empty\""
        }
        (Type::Message, label) if label != Label::Repeated => "skip_serializing_if = \"Option::is_none\"",
        _ => "deserialize_with = \"crate::json::or_default\"",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A changed `.proto` without its generated code would build the old types in silence.
    #[test]
    fn committed_code_is_what_the_proto_files_generate() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let fresh = tempfile::tempdir().unwrap();
        generate(root, fresh.path()).unwrap();
        let mut compared = 0;
        for file in std::fs::read_dir(fresh.path()).unwrap() {
            let file = file.unwrap();
            let committed = root.join("proto/src/generated").join(file.file_name());
            assert!(
                std::fs::read(file.path()).unwrap() == std::fs::read(&committed).unwrap(),
                "{} is out of date: cargo run -p xtask -- proto",
                committed.display()
            );
            compared += 1;
        }
        assert_eq!(compared, 11, "one file per package, and the descriptors");
    }
}
