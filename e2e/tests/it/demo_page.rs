//! The demo page in a real Chromium, served by the system that a newcomer starts.

use anyhow::Result;

use crate::system::{Pings, System};
use crate::tools;

#[tokio::test(flavor = "multi_thread")]
async fn two_tabs_talk() -> Result<()> {
    let system = System::embedded(Pings::EverySecond).await?;
    let screenshots = tools::screenshots()?;
    let environment = [
        ("SWITCHBOARD_ENDPOINTS", system.websocket_urls().join(",")),
        ("SWITCHBOARD_PAGE", system.page_url()?),
        ("SWITCHBOARD_SCREENSHOTS", screenshots.display().to_string()),
    ];
    let environment: Vec<(&str, &str)> = environment
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    tools::node("demo.test.js", &environment).await?;
    system.stop().await
}
