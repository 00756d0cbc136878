//! The whole system inside a program of your own.
//!
//! `cargo run --example embed` starts it on free ports with data in a temporary folder, waits until
//! messages can cross, says where it is, and stops it.

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let config = switchboard::Config::from_toml(&format!(
        "gateway.insecure = true\n\
         gateway.listen = \"127.0.0.1:0\"\n\
         gateway.api.listen = \"127.0.0.1:0\"\n\
         admin.listen = \"127.0.0.1:0\"\n\
         bus.embedded.path = {:?}",
        folder.path()
    ))?;
    let system = switchboard::Switchboard::start(config).await?;
    system.ready().await;
    println!(
        "clients connect to {}",
        system.websocket_url().unwrap_or_default()
    );
    let stopped = system.stop().await;
    anyhow::ensure!(
        stopped.forced.is_empty(),
        "did not stop by themselves: {:?}",
        stopped.forced
    );
    Ok(())
}
