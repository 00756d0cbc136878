//! Edits, deletions and reactions as apps do them, with the unchanged SDK; what is deleted is in no row of the database.

use anyhow::{Result, ensure};
use switchboard_testkit::{PostgresServer, wait_until};

use crate::client::DEADLINE;
use crate::system::{SECRET, System};
use crate::tools;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_deleted_is_nowhere() -> Result<()> {
    let database = PostgresServer::start().await?;
    let data = tempfile::tempdir()?;
    let allowed = "allow_subscribe_for_client = true\nallow_publish_for_subscriber = true\nallow_history_for_subscriber = true\n\
                   allow_message_changes = true\n";
    let channels = "allow_history_for_subscriber = true\nallow_user_limited_channels = true\n";
    let sections = format!(
        "[namespaces.talk]\n{allowed}[namespaces.brief]\n{allowed}edit_within = \"1ms\"\n\
         [namespaces.pair]\n{allowed}allow_user_limited_channels = true\n\
         [bus]\nbackend = \"embedded\"\n[bus.embedded]\npath = {:?}\n\
         [persistence]\nstore = \"postgres\"\n[persistence.postgres]\nurl = {:?}\n",
        data.path(),
        database.url()
    );
    let system = System::one_with_tokens(channels, &sections).await?;
    let urls = system.websocket_urls().join(",");
    let environment = [
        ("SWITCHBOARD_ENDPOINTS", urls.as_str()),
        ("SWITCHBOARD_SECRET", SECRET),
    ];
    tools::node("changes.test.js", &environment).await?;

    let count = async |condition: &str| -> Result<u64> {
        let sql = format!("SELECT count(*) FROM messages WHERE {condition}");
        Ok(database.psql(&database.url(), &sql).await?.trim().parse()?)
    };
    let changes = "position('sb-change'::bytea IN message) > 0";
    wait_until(DEADLINE, async || {
        count("channel = '#bob' AND position('delete'::bytea IN message) > 0")
            .await
            .is_ok_and(|count| count > 0)
    })
    .await?;
    ensure!(count(changes).await? > 10, "changes are rows like others");
    let left = count("position('unsayable'::bytea IN message) > 0").await?;
    ensure!(left == 0, "{left} rows hold what was deleted");
    let stray = "SELECT count(*) FROM dead_letters";
    let stray = database.psql(&database.url(), stray).await?;
    ensure!(stray.trim() == "0", "{stray} dead letters");
    system.stop().await
}
