//! Rust types from the `.proto` files: protox compiles, prost writes.

use std::path::Path;

use anyhow::Context as _;

const FILES: &[&str] = &[
    "switchboard/client/client.proto",
    "switchboard/bus/message.proto",
    "switchboard/bus/record.proto",
    "switchboard/bus/reader.proto",
    "switchboard/bus/link.proto",
    "switchboard/bus/derive.proto",
    "switchboard/bus/history.proto",
    "switchboard/bus/member.proto",
    "switchboard/registry/registry.proto",
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
        .out_dir(into)
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
    config
        .compile_fds(descriptors)
        .context("generating Rust from the descriptors")?;
    Ok(())
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
            assert_eq!(
                std::fs::read_to_string(file.path()).unwrap(),
                std::fs::read_to_string(&committed).unwrap(),
                "{} is out of date: cargo run -p xtask -- proto",
                committed.display()
            );
            compared += 1;
        }
        assert_eq!(compared, 3, "one file per package");
    }
}
