use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use switchboard_proto::bus::{PayloadKind, Priority};
use switchboard_proto::client::{Message as Data, Push, Reply};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::*;
use crate::session::encoding::Encoding;
use crate::session::{Limits, SharedReply};

const DEADLINE: Duration = Duration::from_secs(20);

#[expect(clippy::disallowed_methods, reason = "it ends with its test")]
fn spawn<F>(future: F) -> tokio::task::JoinHandle<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    tokio::spawn(future)
}

/// A session whose wire is open, its stream, and the client's end of it.
async fn connected(outgoing: usize) -> (Arc<SessionHandle>, ClientStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    let limits = Limits {
        outgoing,
        channels: 1,
        system_messages: false,
    };
    let session = SessionHandle::new(1, IpAddr::V4(Ipv4Addr::LOCALHOST), Encoding::Json, limits);
    let (read, write) = accepted.unwrap().0.into_split();
    session.wire.open(write);
    let stream = ClientStream::Plain {
        before: Bytes::new(),
        read,
        session: Arc::clone(&session),
    };
    (session, stream, client.unwrap())
}

fn push(data: &str) -> SharedReply {
    let push = Push {
        message: Some(Data {
            data: Bytes::copy_from_slice(data.as_bytes()),
        }),
        ..Push::default()
    };
    let reply = Reply {
        push: Some(push),
        ..Reply::default()
    };
    SharedReply::stored(reply, PayloadKind::Json, "a", Priority::Normal)
}

async fn texts(client: TcpStream, count: usize) -> Vec<String> {
    let mut socket = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
    let mut texts = Vec::new();
    while texts.len() < count {
        match tokio::time::timeout(DEADLINE, socket.next())
            .await
            .expect("in time")
        {
            Some(Ok(Message::Text(text))) => texts.extend(text.lines().map(str::to_owned)),
            other => panic!("{other:?}"),
        }
    }
    texts
}

#[tokio::test]
async fn frames_of_every_length_arrive_as_websocket_has_them() {
    let (session, _stream, client) = connected(1 << 20).await;
    let lengths = [0, 1, 60, 90, 200, 65_000, 66_000, 200_000];
    let sent: Vec<String> = lengths
        .iter()
        .map(|length| format!("\"{}\"", "x".repeat(*length)))
        .collect();
    let reading = spawn(texts(client, sent.len()));
    for data in &sent {
        assert!(session.queue_shared(&push(data)));
        session.write_out();
        // What the socket does not take at once the task would send.
        let mut writing = std::future::poll_fn(|context| session.wire.0.lock().poll_rest(context));
        tokio::time::timeout(DEADLINE, &mut writing)
            .await
            .unwrap()
            .unwrap();
    }
    let expected: Vec<String> = sent
        .iter()
        .map(|data| format!(r#"{{"push":{{"message":{{"data":{data}}}}}}}"#))
        .collect();
    assert!(reading.await.unwrap() == expected);
}

#[tokio::test]
async fn what_the_socket_does_not_take_is_the_tasks_to_send() {
    let (session, mut stream, client) = connected(64 << 20).await;
    let data = format!("\"{}\"", "x".repeat(50_000));
    let mut sent = 0;
    // Until the kernel's buffers are full.
    while sent < 2000 {
        let has_to_be_written = session.queue_shared(&push(&data));
        sent += 1;
        if has_to_be_written {
            session.write_out();
        }
        if !session.wire.0.lock().rest.is_empty() {
            break;
        }
    }
    assert!(!session.wire.0.lock().rest.is_empty(), "after {sent}");
    assert!(session.queue_shared(&push("1")));
    assert_eq!(session.write_out(), Written::default(), "behind what is left");
    tokio::time::timeout(DEADLINE, session.outgoing.changed())
        .await
        .expect("the task is told");
    let reading = spawn(texts(client, sent + 1));
    // As the task does.
    loop {
        let (progress, _) = session.wire.write(&session.outgoing);
        tokio::time::timeout(DEADLINE, stream.flush())
            .await
            .unwrap()
            .unwrap();
        if progress == Progress::All {
            break;
        }
    }
    let texts = reading.await.unwrap();
    assert_eq!(texts.len(), sent + 1);
    assert_eq!(texts.last().unwrap(), r#"{"push":{"message":{"data":1}}}"#);
}

/// A client that pings and never reads gets no more of our memory than the bound.
#[tokio::test]
async fn what_websocket_answers_by_itself_is_bounded() {
    let (session, mut stream, mut client) = connected(1 << 20).await;
    let answer = [0_u8; 16 * 1024];
    let mut taken = 0_usize;
    let full = async {
        loop {
            stream.write_all(&answer).await.unwrap();
            taken += answer.len();
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(2), full).await.is_err());
    let rest = session.wire.0.lock().rest.len();
    assert!((MOST_REST..MOST_REST + answer.len()).contains(&rest), "{rest}");
    let mut read = vec![0; taken];
    let reading = spawn(async move {
        client.read_exact(&mut read).await.unwrap();
        client
    });
    tokio::time::timeout(DEADLINE, stream.flush())
        .await
        .unwrap()
        .unwrap();
    reading.await.unwrap();
    assert_eq!(session.wire.0.lock().rest.capacity(), 0);
}

/// Many who deliver, the session's own task, and answers to the client's pings, all at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_lost_torn_or_out_of_order_whoever_writes() {
    const EACH: u32 = 3000;
    let (session, stream, client) = connected(1 << 30).await;
    let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
    let task = {
        let session = Arc::clone(&session);
        spawn(async move {
            loop {
                tokio::select! {
                    () = session.outgoing.changed() => {}
                    message = socket.next() => match message {
                        Some(Ok(Message::Ping(_))) => {}
                        _ => return,
                    },
                }
                let (progress, _) = session.wire.write(&session.outgoing);
                if socket.flush().await.is_err() {
                    return;
                }
                if progress != Progress::All {
                    session.outgoing.come_back();
                }
            }
        })
    };
    let deliverers: Vec<_> = (0..3)
        .map(|who| {
            let session = Arc::clone(&session);
            std::thread::spawn(move || {
                for number in 0..EACH {
                    let padding = "x".repeat(usize::try_from(number % 7).unwrap() * 100);
                    let data = format!(r#"[{who},{number},"{padding}"]"#);
                    if session.queue_shared(&push(&data)) {
                        session.write_out();
                    }
                }
            })
        })
        .collect();
    let mut client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
    let (mut next, mut pongs) = ([0_u32; 3], 0);
    let reading = async {
        while next != [EACH; 3] || pongs == 0 {
            match client.next().await.unwrap().unwrap() {
                Message::Text(text) => {
                    for line in text.lines() {
                        let start = line.find("data\":").unwrap() + 6;
                        let data = line.get(start..line.len() - 3).unwrap();
                        let (who, number, _): (usize, u32, String) = serde_json::from_str(data).unwrap();
                        assert_eq!(number, next[who], "of {who}");
                        next[who] += 1;
                        if number % 100 == 0 {
                            client
                                .send(Message::Ping(Bytes::from_static(b"p")))
                                .await
                                .unwrap();
                        }
                    }
                }
                Message::Pong(_) => pongs += 1,
                other => panic!("{other:?}"),
            }
        }
    };
    tokio::time::timeout(DEADLINE, reading).await.expect("all of it");
    deliverers
        .into_iter()
        .for_each(|deliverer| deliverer.join().unwrap());
    drop(client);
    tokio::time::timeout(DEADLINE, task).await.unwrap().unwrap();
}
