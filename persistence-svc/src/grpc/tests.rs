//! On a real socket, with a real client.

use std::sync::Arc;
use std::time::Duration;

use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use prost::Message;
use switchboard_bus::embedded::EmbeddedBus;
use switchboard_bus::{Bus, SubjectPrefix};
use switchboard_proto::ids::ShardCount;
use switchboard_proto::messages::{
    HeadsRequest, HeadsResponse, HistoryRequest, HistoryResponse, Place, SearchRequest, SearchResponse,
    StandingsRequest, StandingsResponse,
};
use switchboard_service_kit::config::Document;
use switchboard_testkit::wait_until;
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_prost::ProstCodec;

use super::*;
use switchboard_database::config::Defaults;

use crate::config::{Config, SQLITE_PATH};
use crate::store::Written;
use crate::{Deps, run};

const DEADLINE: Duration = Duration::from_secs(20);
const KEY: &str = "a-key-of-tests-for-backends";

type Transport = Client<HttpConnector, tonic::body::Body>;

struct Node {
    context: Context,
    client: tonic::client::Grpc<Transport>,
    running: GrpcRunning,
    _folder: tempfile::TempDir,
}

/// A service with a store in a file that holds one message.
async fn node(more: &str) -> Node {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("messages.db");
    let text = format!(
        "[persistence]\nstore = \"sqlite\"\n{more}\n[persistence.sqlite]\npath = {path:?}\n\
         [persistence.grpc]\nenabled = true\nlisten = \"127.0.0.1:0\"\nkey = \"{KEY}\"\nrequest_size = \"4KiB\"\n"
    );
    let mut document = Document::parse(&text, []).unwrap();
    let config = Config::read(&mut document, &Defaults::of_many(SQLITE_PATH));
    document.finish().unwrap();
    let store = config.store.as_ref().unwrap().open().unwrap();
    store.migrate().await.unwrap();
    store.write(&written()).await.unwrap();
    start(config, folder).await.unwrap()
}

fn written() -> Written {
    use switchboard_proto::ids::{LogEpoch, Offset, OwnerEpoch, Sequence, ShardId};
    Written {
        shard: ShardId::new(0).unwrap(),
        log: LogEpoch {
            ordinal: 1,
            random: 2,
        },
        read_after: Sequence(0),
        after: Sequence(0),
        up_to: Sequence(1),
        owner_epoch: OwnerEpoch(1),
        rows: vec![crate::store::Row {
            offset: Offset::new(Sequence(1), 0),
            time_us: 1,
            channel: "room:1".to_owned(),
            sender: None,
            message: bytes::Bytes::from_static(b"m"),
            change: None,
        }],
        dead: Vec::new(),
    }
}

async fn start(config: Config, folder: tempfile::TempDir) -> Result<Node, crate::StartError> {
    let bus = EmbeddedBus::new(SubjectPrefix::default());
    let context = Context::new();
    let deps = Deps {
        bus: Arc::clone(&bus) as Arc<dyn Bus>,
        log: None,
        shards: ShardCount::new(1).unwrap(),
        data: None,
    };
    let running = run::start(config, deps, context.clone()).await?.grpc.unwrap();
    let transport = Client::builder(TokioExecutor::new())
        .http2_only(true)
        .build_http();
    let origin = format!("http://{}", running.address).parse().unwrap();
    Ok(Node {
        context,
        client: tonic::client::Grpc::with_origin(transport, origin),
        running,
        _folder: folder,
    })
}

impl Node {
    async fn call<Q, A>(&self, path: &'static str, key: Option<&str>, request: Q) -> Result<A, Status>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        let mut client = self.client.clone();
        client.ready().await.unwrap();
        let mut request = Request::new(request);
        if let Some(key) = key {
            let value = format!("apikey {key}").parse().unwrap();
            request.metadata_mut().insert("authorization", value);
        }
        let path = axum::http::uri::PathAndQuery::from_static(path);
        let answer = client.unary(request, path, ProstCodec::default());
        let answer = tokio::time::timeout(DEADLINE, answer).await.unwrap();
        answer.map(Response::into_inner)
    }

    async fn heads(&self, key: Option<&str>, channels: &[&str]) -> Result<HeadsResponse, Status> {
        let request = HeadsRequest {
            of: None,
            channels: channels.iter().map(|name| (*name).to_owned()).collect(),
        };
        self.call("/switchboard.messages.MessageService/Heads", key, request)
            .await
    }
}

#[tokio::test]
async fn who_has_the_key_is_told_what_is_stored() {
    let node = node("").await;
    let heads = node.heads(Some(KEY), &["room:1", "room:2"]).await.unwrap();
    let [head] = heads.heads.as_slice() else {
        panic!("{heads:?}")
    };
    assert_eq!(head.channel, "room:1");
    let history = HistoryRequest {
        channel: "room:1".to_owned(),
        limit: 10,
        ..HistoryRequest::default()
    };
    let history: HistoryResponse = node
        .call("/switchboard.messages.MessageService/History", Some(KEY), history)
        .await
        .unwrap();
    assert_eq!(history.messages.len(), 1);
    assert_eq!(history.messages[0].message.as_ref(), b"m");
    for key in [
        None,
        Some(""),
        Some(&KEY[1..]),
        Some("another-key-of-the-same-length"),
    ] {
        let refused = node.heads(key, &["room:1"]).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "{key:?}");
    }
    assert!(node.context.tasks.stop(DEADLINE).await.forced.is_empty());
}

#[tokio::test]
async fn what_makes_no_sense_has_a_code_and_words() {
    let node = node("[persistence.search]\nenabled = false").await;
    let history = |limit| HistoryRequest {
        channel: "room:1".to_owned(),
        limit,
        ..HistoryRequest::default()
    };
    let path = "/switchboard.messages.MessageService/History";
    let refused = node
        .call::<_, HistoryResponse>(path, Some(KEY), history(10_001))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("10000"), "{refused:?}");
    let far = HistoryRequest {
        at_least: Some(Place {
            log_epoch: "nonsense".to_owned(),
            offset: 1,
        }),
        ..history(1)
    };
    let refused = node
        .call::<_, HistoryResponse>(path, Some(KEY), far)
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let search = SearchRequest {
        query: "word".to_owned(),
        ..SearchRequest::default()
    };
    let refused = node
        .call::<_, SearchResponse>("/switchboard.messages.MessageService/Search", Some(KEY), search)
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented, "{refused:?}");
    let long = "x".repeat(5000);
    let refused = node.heads(Some(KEY), &[&long]).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange, "{refused:?}");
    let refused = node
        .call::<_, StandingsResponse>(
            "/switchboard.messages.MessageService/Nothing",
            Some(KEY),
            StandingsRequest::default(),
        )
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
}

#[tokio::test]
async fn a_question_that_takes_too_long_is_ended() {
    let node = node("question_timeout = \"100ms\"").await;
    // Never stored, so it waits.
    let history = HistoryRequest {
        channel: "room:1".to_owned(),
        limit: 1,
        at_least: Some(Place {
            log_epoch: "1-00000002".to_owned(),
            offset: 1 << 40,
        }),
        ..HistoryRequest::default()
    };
    let refused = node
        .call::<_, HistoryResponse>("/switchboard.messages.MessageService/History", Some(KEY), history)
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::DeadlineExceeded, "{refused:?}");
}

#[tokio::test]
async fn health_is_told_without_a_key() {
    let node = node("").await;
    let status = async |service: &str| {
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        node.call::<_, HealthCheckResponse>("/grpc.health.v1.Health/Check", None, request)
            .await
            .map(|answer| answer.status())
    };
    use tonic_health::pb::health_check_response::ServingStatus;
    for service in ["", messages::SERVICE] {
        wait_until(DEADLINE, async || {
            status(service).await.ok() == Some(ServingStatus::Serving)
        })
        .await
        .unwrap();
    }
    node.context.health.component(run::COMPONENT).not_ready("a test");
    wait_until(DEADLINE, async || {
        status(messages::SERVICE).await.ok() == Some(ServingStatus::NotServing)
    })
    .await
    .unwrap();
    assert_eq!(status("nobody").await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn nobody_is_let_in_where_nothing_is_asked_for() {
    let text = "[persistence.grpc]\nenabled = true\nlisten = \"127.0.0.1:0\"";
    let config = Config::read(
        &mut Document::parse(text, []).unwrap(),
        &Defaults::of_many(SQLITE_PATH),
    );
    let refused = start(config, tempfile::tempdir().unwrap()).await;
    let refused = refused.err().unwrap().to_string();
    assert!(refused.contains("persistence.grpc.key"), "{refused}");
    let running = node("").await.running;
    assert!(running.address.ip().is_loopback() && running.key_file.is_none() && !running.tls);
}
