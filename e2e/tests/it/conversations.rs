//! Members, receipts and lists of conversations: with the unchanged SDK over both stores, and what is left of acknowledged
//! changes when the persistence service is killed.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use switchboard_testkit::{PostgresServer, wait_until};

use crate::backend;
use crate::client::DEADLINE;
use crate::system::{API_KEY, SECRET, stored_in};
use switchboard_e2e::cluster::Cluster;
use switchboard_e2e::process::Process;

/// Keys of `[gateway]` and sections below it.
fn gateway() -> String {
    format!(
        "typing_timeout = \"1500ms\"\ntyping_interval = \"500ms\"\n\
         limits.connections_per_address = 0\nlimits.connect_rate = 0\napi.key = {API_KEY:?}\n\
         [gateway.tokens]\nhmac_secret = {SECRET:?}\n"
    )
}

const NAMESPACES: &str = r#"
[namespaces.team]
members = true
allow_create_for_client = true
allow_subscribe_for_client = true
allow_publish_for_client = true
allow_history_for_client = true

[namespaces.club]
members = true
members_changed_by = "server"
allow_subscribe_for_client = true

[namespaces.open]
allow_subscribe_for_client = true

[namespaces.dm]
allow_user_limited_channels = true
allow_publish_for_subscriber = true
allow_history_for_subscriber = true
"#;

#[tokio::test(flavor = "multi_thread")]
async fn conversations_on_embedded() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let config = format!(
        "[persistence]\nstore = \"sqlite\"\n[gateway]\n{}{NAMESPACES}",
        gateway()
    );
    std::fs::write(folder.path().join("switchboard.toml"), config)?;
    let process = Process::start("switchboard", folder.path(), &["--config", "switchboard.toml"]).await?;
    backend::node("conversations.test.js", &[&process]).await?;
    let status = process.terminate().await?;
    ensure!(status.success(), "{status}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn conversations_on_a_cluster() -> Result<()> {
    let database = PostgresServer::start().await?;
    let more = format!("{NAMESPACES}{}", stored_in(&database));
    let cluster = Cluster::start_as(&gateway(), &more).await?;
    let replicas = cluster.join_all(&["switchboard-persistence-svc"; 2]).await?;
    backend::node(
        "conversations.test.js",
        &cluster.gateways.iter().collect::<Vec<_>>(),
    )
    .await?;
    cluster.stop_with(replicas).await
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_members_outlast_the_killing_of_who_keeps_them() -> Result<()> {
    const CHANNEL: &str = "club:kept";
    const USERS: usize = 60;
    let database = PostgresServer::start_with(&["fsync=on"]).await?;
    let more = format!("{NAMESPACES}{}", stored_in(&database));
    let cluster = Cluster::start_as(&gateway(), &more).await?;
    let mut replica = cluster.join("switchboard-persistence-svc").await?;
    let mut members = BTreeSet::new();
    for number in 0..USERS {
        let gateway = cluster.gateways.get(number % 2).context("a gateway")?;
        let user = format!("user-{number:02}");
        let params = json!({ "channel": CHANNEL, "users": [user] });
        // An error says that it may be so or not, and asking again says that it is.
        let adding = async {
            let added = wait_until(DEADLINE, async || {
                let answer = backend::call(gateway, "channel_members_add", &params).await;
                answer.is_ok_and(|answer| answer.get("result").is_some())
            });
            added.await.with_context(|| format!("{user} is not added"))
        };
        if number % 10 == 5 {
            // While the change is on its way.
            let killing = async {
                tokio::task::yield_now().await;
                replica.kill_in_place()?;
                replica.respawn()?;
                replica.ready().await
            };
            tokio::try_join!(adding, killing)?;
        } else {
            adding.await?;
        }
        members.insert(user);
        if number % 7 == 6 {
            let gone = format!("user-{:02}", number - 3);
            let removed = json!({ "channel": CHANNEL, "users": [gone] });
            let answer = backend::call(gateway, "channel_members_remove", &removed).await?;
            ensure!(answer.get("result").is_some(), "{answer}");
            members.remove(&gone);
        }
        let expected = u64::try_from(members.len())?;
        let answer = backend::call(
            gateway,
            "channel_members_list",
            &json!({ "channel": CHANNEL, "limit": 1 }),
        )
        .await?;
        ensure!(
            answer["result"]["count"] == expected,
            "{expected} members, not {answer}"
        );
    }
    let gateway = cluster.gateways.first().context("a gateway")?;
    let answer = backend::call(gateway, "channel_members_list", &json!({ "channel": CHANNEL })).await?;
    let listed: BTreeSet<String> = answer["result"]["members"]
        .as_array()
        .context("members")?
        .iter()
        .filter_map(|member| Some(member["user"].as_str()?.to_owned()))
        .collect();
    ensure!(listed == members, "acknowledged {members:?}\nkept {listed:?}");
    ensure!(
        replica.terminate().await?.success(),
        "the replica does not end well"
    );
    cluster.stop().await
}
