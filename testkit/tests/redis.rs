//! The servers start, go and come back, with nothing.

use switchboard_testkit::{RedisCluster, RedisServer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// What a command on one line is answered with.
async fn ask(url: &str, command: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(url.trim_start_matches("redis://")).await?;
    stream.write_all(format!("{command}\r\n").as_bytes()).await?;
    let mut answer = vec![0; 4096];
    let read = stream.read(&mut answer).await?;
    answer.truncate(read);
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[tokio::test]
async fn server_comes_back_empty_where_it_was() {
    let mut server = RedisServer::start().await.unwrap();
    let url = server.url();
    assert_eq!(ask(&url, "SET key value").await.unwrap(), "+OK\r\n");
    server.stop().await.unwrap();
    assert!(ask(&url, "PING").await.is_err());
    server.restart().await.unwrap();
    assert_eq!(server.url(), url);
    assert_eq!(ask(&url, "GET key").await.unwrap(), "$-1\r\n", "nothing is left");
    server.pause().unwrap();
    server.resume().unwrap();
    server.kill().unwrap();
    assert!(ask(&url, "PING").await.is_err());
    server.restart().await.unwrap();
    drop(server);
    assert!(ask(&url, "PING").await.is_err());
}

#[tokio::test]
async fn wrong_arguments_are_told() {
    let error = RedisServer::start_with(&["--nonsense", "1"])
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("nonsense"), "{error}");
}

#[tokio::test]
async fn nodes_of_a_cluster_send_clients_to_each_other() {
    let cluster = RedisCluster::start().await.unwrap();
    let mut moved = 0;
    for url in cluster.urls() {
        let answer = ask(&url, "SET key value").await.unwrap();
        assert!(answer == "+OK\r\n" || answer.starts_with("-MOVED"), "{answer}");
        moved += usize::from(answer.starts_with("-MOVED"));
    }
    assert_eq!(moved, 2, "one of three has the key");
}
