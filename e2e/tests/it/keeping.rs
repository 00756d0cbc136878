//! Retention and erasure as an operator runs them: what expired is in an archive, and an erased user's words come back neither from
//! the log, into a database that is made anew, nor from the archive.

use anyhow::{Context as _, Result, ensure};
use switchboard_testkit::{PostgresServer, wait_until};

use crate::client::DEADLINE;
use switchboard_e2e::process::{Process, command};

const SECRET: &str = "a secret of thirty-two characters";
const ARGUMENTS: [&str; 2] = ["--config", "switchboard.toml"];

/// Messages of `chat:1` as `offset|sender|1`, where the last says whether the row holds what was said; in order.
async fn rows(database: &PostgresServer) -> Result<Vec<String>> {
    let sql = "SELECT \"offset\", sender, CASE WHEN position('words of' IN encode(message, 'escape')) > 0 THEN 1 ELSE 0 END \
               FROM messages WHERE channel = 'chat:1' ORDER BY log, \"offset\"";
    let printed = database.psql(&database.url(), sql).await?;
    Ok(printed.lines().map(ToOwned::to_owned).collect())
}

/// Waits until the rows are such.
async fn until(
    database: &PostgresServer,
    what: &str,
    is_so: impl Fn(&[String]) -> bool,
) -> Result<Vec<String>> {
    let mut found = Vec::new();
    wait_until(DEADLINE, async || {
        found = rows(database).await.unwrap_or_default();
        is_so(&found)
    })
    .await
    .with_context(|| format!("{what}: {found:?}"))?;
    Ok(found)
}

fn is_blank(row: &str) -> bool {
    row.ends_with("||0")
}

fn is_of_bob(row: &str) -> bool {
    row.ends_with("|bob|1")
}

#[tokio::test(flavor = "multi_thread")]
async fn erased_words_come_back_neither_from_the_log_nor_from_the_archive() -> Result<()> {
    let database = PostgresServer::start().await?;
    let folder = tempfile::tempdir()?;
    let config = format!(
        "[gateway.tokens]\nhmac_secret = {SECRET:?}\n[namespaces.chat]\nallow_publish_for_client = true\n\
         [persistence]\nstore = \"postgres\"\n[persistence.postgres]\nurl = {:?}\n[persistence.archive]\nfolder = \"archive\"\n\
         [persistence.retention]\ninterval = \"1s\"\n[persistence.retention.chat]\ncount = 4\n",
        database.url()
    );
    std::fs::write(folder.path().join("switchboard.toml"), config)?;
    let run = async |arguments: &[&str]| -> Result<String> {
        let (is_done, printed) =
            command("switchboard", folder.path(), &[&ARGUMENTS, arguments].concat()).await?;
        ensure!(is_done, "{arguments:?}: {printed}");
        Ok(printed)
    };
    let system = Process::start("switchboard", folder.path(), &ARGUMENTS).await?;
    let url = system.websocket_url();
    for number in 0..5 {
        for user in ["alice", "bob"] {
            let said = format!("\"words of {user} {number}\"");
            run(&["publish", "--url", &url, "--user", user, "chat:1", &said]).await?;
        }
    }
    // Ten were said, four are kept, six are in the archive.
    until(&database, "expired", |rows| rows.len() == 4).await?;
    let listed = run(&["archive", "list"]).await?;
    ensure!(listed.contains("messages"), "{listed}");
    run(&["archive", "verify"]).await?;

    run(&["hold", "add", "user", "alice", "--reason", "a case"]).await?;
    let refused = command(
        "switchboard",
        folder.path(),
        &[&ARGUMENTS[..], &["erase", "alice"]].concat(),
    )
    .await?;
    ensure!(!refused.0 && refused.1.contains("legal hold"), "{refused:?}");
    run(&["hold", "remove", "user", "alice"]).await?;
    run(&["erase", "alice"]).await?;
    let found = rows(&database).await?;
    ensure!(
        found.len() == 4 && found.iter().filter(|row| is_blank(row)).count() == 2,
        "{found:?}"
    );
    ensure!(
        found.iter().filter(|row| is_of_bob(row)).count() == 2,
        "{found:?}"
    );

    // The database is lost. The log has everything.
    ensure!(system.terminate().await?.success(), "it does not end well");
    let drop = "DROP SCHEMA public CASCADE; CREATE SCHEMA public";
    database.psql(&database.url(), drop).await?;
    let system = Process::start("switchboard", folder.path(), &ARGUMENTS).await?;
    let anew = until(&database, "made anew", |rows| rows == found).await?;
    ensure!(!anew.iter().any(|row| row.contains("alice")), "{anew:?}");

    // A hold keeps what is read back from being over at once.
    run(&["hold", "add", "channel", "chat:1"]).await?;
    run(&["archive", "restore"]).await?;
    let back = rows(&database).await?;
    ensure!(back.len() == 10, "{back:?}");
    ensure!(back.iter().filter(|row| is_blank(row)).count() == 5, "{back:?}");
    ensure!(back.iter().filter(|row| is_of_bob(row)).count() == 5, "{back:?}");
    ensure!(system.terminate().await?.success(), "it does not end well");
    Ok(())
}

/// An erasure that only the database knows of would be undone where that is lost.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_erased_without_an_archive_unawares() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let system = Process::start("switchboard", folder.path(), &[]).await?;
    let (is_done, printed) = command("switchboard", folder.path(), &["erase", "alice"]).await?;
    ensure!(!is_done && printed.contains("[persistence.archive]"), "{printed}");
    let knowing = ["erase", "alice", "--without-archive"];
    let (is_done, printed) = command("switchboard", folder.path(), &knowing).await?;
    ensure!(is_done && printed.contains("0 messages are blank"), "{printed}");
    ensure!(system.terminate().await?.success(), "it does not end well");
    Ok(())
}
