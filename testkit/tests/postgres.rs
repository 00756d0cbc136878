//! Servers start, go and come back with what they were told, and do not know of each other.

use std::path::Path;
use std::time::Duration;

use switchboard_testkit::{PostgresServer, wait_until};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::process::Command;

const DEADLINE: Duration = Duration::from_secs(30);

/// `HOST:PORT` of a URL.
fn address(url: &str) -> &str {
    url.split(['@', '/']).nth(3).unwrap_or_default()
}

async fn listens(url: &str) -> bool {
    TcpStream::connect(address(url)).await.is_ok()
}

/// The System V segments on this machine, as a table.
async fn segments() -> std::io::Result<String> {
    let output = Command::new("ipcs").arg("-m").output().await?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[tokio::test]
async fn server_comes_back_with_its_data() {
    let mut server = PostgresServer::start().await.unwrap();
    let url = server.database().await.unwrap();
    server.psql(&url, "CREATE TABLE kept (name text)").await.unwrap();
    server
        .psql(&url, "INSERT INTO kept VALUES ('stopped')")
        .await
        .unwrap();
    server.stop().await.unwrap();
    assert!(!listens(&url).await);
    server.restart().await.unwrap();

    server
        .psql(&url, "INSERT INTO kept VALUES ('killed')")
        .await
        .unwrap();
    // A connection that is busy does not see by itself that the server is gone, and would keep it from coming back.
    let busy = server.psql(&url, "DO $$ BEGIN LOOP END LOOP; END $$");
    let is_busy = wait_until(DEADLINE, async || {
        let count = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'DO %'";
        server.psql(&server.url(), count).await.unwrap() == "1"
    });
    tokio::select! {
        answer = busy => panic!("{answer:?}"),
        is_busy = is_busy => is_busy.unwrap(),
    }
    server.kill().unwrap();
    assert!(!listens(&url).await);
    server.restart().await.unwrap();
    let rows = server
        .psql(&url, "SELECT name FROM kept ORDER BY name")
        .await
        .unwrap();
    assert_eq!(rows, "killed\nstopped");

    // Running, it is killed first.
    server.restart().await.unwrap();
    let count = server.psql(&url, "SELECT count(*) FROM kept").await.unwrap();
    assert_eq!(count, "2");
}

#[tokio::test]
async fn nothing_is_left_of_a_dropped_server() {
    let server = PostgresServer::start().await.unwrap();
    let (url, folder) = (server.url(), server.folder().to_owned());
    let lock_file = std::fs::read_to_string(folder.join("data/postmaster.pid")).unwrap();
    let segment = lock_file
        .lines()
        .nth(6)
        .unwrap()
        .split_whitespace()
        .nth(1)
        .unwrap();
    let backend: u32 = server
        .psql(
            &url,
            "SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'",
        )
        .await
        .unwrap()
        .parse()
        .unwrap();
    let is_there = |table: String| {
        table
            .lines()
            .any(|line| line.split_whitespace().nth(1) == Some(segment))
    };
    assert!(is_there(segments().await.unwrap()));
    drop(server);
    assert!(!listens(&url).await);
    assert!(!folder.exists());
    assert!(!is_there(segments().await.unwrap()));
    let command = format!("/proc/{backend}/cmdline");
    // What nobody has taken note of the end of has no command line.
    assert_eq!(
        std::fs::read_to_string(Path::new(&command)).unwrap_or_default(),
        ""
    );
}

#[tokio::test]
async fn paused_server_answers_when_it_goes_on() {
    let server = PostgresServer::start().await.unwrap();
    let url = server.url();
    server.pause().unwrap();
    // The system still accepts connections for it.
    let mut stream = TcpStream::connect(address(&url)).await.unwrap();
    stream.write_all(&[0, 0, 0, 8, 4, 210, 22, 47]).await.unwrap();
    let answered = tokio::time::timeout(Duration::from_millis(300), stream.readable()).await;
    assert!(answered.is_err(), "a paused server answers");
    server.resume().unwrap();
    tokio::time::timeout(DEADLINE, stream.readable())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(server.psql(&url, "SELECT 1").await.unwrap(), "1");
}

#[tokio::test]
async fn servers_and_databases_side_by_side_know_nothing_of_each_other() {
    let (one, other) = tokio::join!(PostgresServer::start(), PostgresServer::start_with(&["fsync=on"]));
    let (one, other) = (one.unwrap(), other.unwrap());
    let urls = [
        one.url(),
        one.database().await.unwrap(),
        one.database().await.unwrap(),
        other.url(),
    ];
    for (url, server) in urls.iter().zip([&one, &one, &one, &other]) {
        // Fails where the table is there already.
        server.psql(url, "CREATE TABLE same (name text)").await.unwrap();
    }
    assert_eq!(one.psql(&one.url(), "SHOW fsync").await.unwrap(), "off");
    assert_eq!(other.psql(&other.url(), "SHOW fsync").await.unwrap(), "on");
    let wrong = one.url().replacen(&one.url()[23..27], "zzzz", 1);
    let error = one.psql(&wrong, "SELECT 1").await.unwrap_err().to_string();
    assert!(error.contains("password authentication failed"), "{error}");
}

#[tokio::test]
async fn wrong_settings_are_told() {
    let error = PostgresServer::start_with(&["nonsense=1"])
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("nonsense"), "{error}");
}
