//! An application's backend: calls of the server API by its plain HTTP, and scripts that make such calls.

use anyhow::Result;
use serde_json::Value;
use switchboard_e2e::process::Process;

use crate::system::{API_KEY, SECRET};
use crate::tools;

/// The answer to a call of a gateway's server API, which [`API_KEY`] opens.
pub(crate) async fn call(gateway: &Process, method: &str, params: &Value) -> Result<Value> {
    let response = reqwest::Client::new()
        .post(format!("{}/{method}", gateway.api_url()))
        .header("X-API-Key", API_KEY)
        .body(params.to_string())
        .send()
        .await?;
    Ok(serde_json::from_str(&response.text().await?)?)
}

/// [`tools::node`], with clients and a backend of these gateways.
pub(crate) async fn node(script: &str, gateways: &[&Process]) -> Result<()> {
    let join = |urls: Vec<String>| urls.join(",");
    let urls = join(gateways.iter().map(|gateway| gateway.websocket_url()).collect());
    let apis = join(gateways.iter().map(|gateway| gateway.api_url()).collect());
    let environment = [
        ("SWITCHBOARD_ENDPOINTS", urls.as_str()),
        ("SWITCHBOARD_API_ENDPOINTS", apis.as_str()),
        ("SWITCHBOARD_API_KEY", API_KEY),
        ("SWITCHBOARD_SECRET", SECRET),
    ];
    tools::node(script, &environment).await
}
