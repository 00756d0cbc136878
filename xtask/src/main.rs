//! Generators and checks that do not ship.
//!
//! `cargo run -p xtask -- proto` writes `proto/src/generated/` anew from `proto/protos/`, without a
//! `protoc` on the machine. `cargo test -p xtask` fails when the two differ.

use std::path::Path;

use anyhow::Context as _;

mod proto;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("xtask has no parent folder")?;
    match arguments
        .iter()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .as_slice()
    {
        ["proto"] => proto::generate(root, &root.join("proto/src/generated")),
        _ => anyhow::bail!("usage: cargo run -p xtask -- proto"),
    }
}
