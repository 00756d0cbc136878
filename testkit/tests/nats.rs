//! The servers start, go and come back.

use std::time::Duration;

use switchboard_testkit::{NatsCluster, NatsServer, wait_until};
use tokio::net::TcpStream;

async fn accepts(url: &str) -> bool {
    let address = url.trim_start_matches("nats://");
    TcpStream::connect(address).await.is_ok()
}

#[tokio::test]
async fn server_goes_and_comes_back_where_it_was() {
    let mut server = NatsServer::start().await.unwrap();
    let url = server.url();
    assert!(accepts(&url).await);
    server.stop().await.unwrap();
    assert!(!accepts(&url).await);
    server.restart().await.unwrap();
    assert_eq!(server.url(), url);
    server.pause().unwrap();
    server.resume().unwrap();
    server.kill().unwrap();
    assert!(!accepts(&url).await);
    server.restart().await.unwrap();
    drop(server);
    assert!(!accepts(&url).await);
}

#[tokio::test]
async fn wrong_configuration_is_told() {
    let error = NatsServer::start_with("nonsense: 1")
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("nonsense"), "{error}");
}

#[tokio::test]
async fn cluster_survives_a_node() {
    let mut cluster = NatsCluster::start(3).await.unwrap();
    cluster.kill(0).unwrap();
    let urls = cluster.urls();
    assert!(!accepts(&urls[0]).await && accepts(&urls[1]).await);
    cluster.restart(0).await.unwrap();
    wait_until(Duration::from_secs(10), async || accepts(&urls[0]).await)
        .await
        .unwrap();
    assert_eq!(cluster.stream_leader("NONE").await, None);
}
