use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

const DEADLINE: Duration = Duration::from_secs(20);

struct Served {
    address: SocketAddr,
    health: Health,
    tasks: Tasks,
}

async fn served() -> Served {
    let (health, metrics) = (Health::new(), Metrics::new());
    let tasks = Tasks::new(&metrics);
    let listener = bind("admin.listen", "127.0.0.1:0".parse().unwrap())
        .await
        .unwrap();
    let address = listener.local_addr().unwrap();
    serve(listener, router(health.clone(), metrics), &tasks).await;
    Served {
        address,
        health,
        tasks,
    }
}

async fn get_path(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(DEADLINE, stream.read_to_string(&mut answer))
        .await
        .unwrap()
        .unwrap();
    answer
}

#[tokio::test]
async fn alive_ready_and_metrics() {
    let served = served().await;
    assert!(
        get_path(served.address, "/health/live")
            .await
            .starts_with("HTTP/1.1 200 ")
    );

    let component = served.health.component("bus");
    let answer = get_path(served.address, "/health/ready").await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(
        answer.contains("\r\ncontent-type: application/json\r\n"),
        "{answer}"
    );
    assert!(
        answer.contains(r#"{"name":"bus","ready":false,"why":"starting"}"#),
        "{answer}"
    );

    component.ready();
    let answer = get_path(served.address, "/health/ready").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");

    let answer = get_path(served.address, "/metrics").await;
    assert!(
        answer.contains(&format!("\r\ncontent-type: {CONTENT_TYPE}\r\n")),
        "{answer}"
    );
    assert!(answer.ends_with("# EOF\n"), "{answer}");

    assert!(
        get_path(served.address, "/other")
            .await
            .starts_with("HTTP/1.1 404 ")
    );
    assert!(served.tasks.stop(DEADLINE).await.forced.is_empty());
}

#[tokio::test]
async fn a_client_that_says_nothing_is_let_go() {
    let served = served().await;
    let mut silent = TcpStream::connect(served.address).await.unwrap();
    silent
        .write_all(b"GET /health/live HTTP/1.1\r\nhost")
        .await
        .unwrap();
    let mut rest = Vec::new();
    // The server's time for a head, and then the end of the connection.
    tokio::time::timeout(DEADLINE, silent.read_to_end(&mut rest))
        .await
        .expect("closed")
        .ok();
    assert!(!rest.starts_with(b"HTTP/1.1 200"), "{rest:?}");
}

#[tokio::test]
async fn clients_beyond_the_limit_wait_their_turn() {
    let served = served().await;
    let mut silent = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        silent.push(TcpStream::connect(served.address).await.unwrap());
    }
    let waiting = get_path(served.address, "/health/live");
    drop(silent);
    assert!(waiting.await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn an_address_in_use_names_the_key() {
    let taken = bind("admin.listen", "127.0.0.1:0".parse().unwrap())
        .await
        .unwrap();
    let address = taken.local_addr().unwrap();
    let error = bind("admin.listen", address).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "cannot listen on {address}: end the process that has this address, or set admin.listen to another"
        )
    );
}

/// Nobody accepts here: what is heard is what may wait.
#[tokio::test]
async fn hundreds_that_come_at_one_moment_are_heard() {
    let listener = bind("some.listen", "127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut open = Vec::new();
    for number in 0..500 {
        let opening = tokio::time::timeout(DEADLINE, TcpStream::connect(address));
        let opened = opening
            .await
            .unwrap_or_else(|_| panic!("connection {number} is not heard"));
        open.push(opened.unwrap());
    }
}
