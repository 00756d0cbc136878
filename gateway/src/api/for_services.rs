//! What services that have no links of their own ask of any gateway: to publish for them (`switchboard/bus/publish.proto`).
//!
//! Answered whether there is a server API or not, and no more once the gateway begins to stop: its links end with its sessions, and
//! another gateway is asked meanwhile.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use switchboard_bus::Bus;
use switchboard_bus::answering::{Answering, AnsweringMetrics, Answers};
use switchboard_bus::messages::AskError;
use switchboard_proto::bus::{PayloadKind, PublishForRequest, PublishForResponse};
use switchboard_proto::codes::ErrorCode;
use switchboard_proto::json;
use switchboard_proto::publishing::method::PublishFor;
use switchboard_proto::questions::{Method as _, Service};
use switchboard_service_kit::service::Context;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::failure::Failure;
use super::publishing::{Letter, channel};
use crate::envelope::Envelope;
use crate::gateway::Gateway;

/// Who publishes for services.
struct ForServices(Arc<Gateway>);

/// Answers services until the stop.
pub(crate) fn answer_services(gateway: &Arc<Gateway>, bus: Arc<dyn Bus>, context: &Context) {
    let config = &gateway.config;
    let answering = Answering {
        bus,
        service: Service::Publishing,
        answers: Arc::new(ForServices(Arc::clone(gateway))),
        metrics: AnsweringMetrics::register("gateway_publishing", &context.metrics),
        places: Arc::new(Semaphore::new(config.notifications.publishes)),
        limit: config.answer_timeout,
    };
    let stop = context.tasks.stop_token();
    context.tasks.supervise("publishing-for-services", move || {
        let (answering, stop) = (answering.clone(), stop.clone());
        async move {
            if let Err(error) = answering.run(stop).await {
                tracing::warn!(%error, "what services ask to publish cannot be taken yet");
            }
        }
    });
}

#[tonic::async_trait]
impl Answers for ForServices {
    async fn answer(&self, method: &str, request: Bytes) -> Result<Bytes, AskError> {
        let arrived = Instant::now();
        if method != PublishFor::NAME {
            let words = "this gateway does not know the method";
            return Err(AskError::NotAvailable(words.to_owned()));
        }
        let request = PublishForRequest::decode(request)
            .map_err(|error| AskError::Invalid(format!("request not read: {error}")))?;
        let id = self.publish(request, arrived).await.map_err(refused)?;
        Ok(PublishForResponse { id }.encode_to_vec().into())
    }
}

impl ForServices {
    /// The id of the message; where its key was known, that of the first one with it.
    async fn publish(&self, request: PublishForRequest, arrived: Instant) -> Result<String, Failure> {
        if request.publisher.is_empty() {
            return Err(Failure::bad("nobody publishes"));
        }
        if !json::is_payload(&request.data) {
            return Err(Failure::bad("data is not JSON, or nests too deep"));
        }
        let channel = channel(&self.0, &request.channel)?;
        // A key is of use where messages are stored; elsewhere it is delivered as it is.
        let is_stored =
            !request.idempotency_key.is_empty() && self.0.config.policy.now().is_durable(&channel);
        let envelope = Envelope {
            key: match is_stored {
                true => request.idempotency_key,
                false => String::new(),
            },
            tags: request.tags,
            ..Envelope::default()
        };
        envelope.check_of_ours().map_err(Failure::bad)?;
        let letter = Letter {
            payload: request.data,
            kind: PayloadKind::Json,
            is_json: true,
            skip_history: !is_stored,
            envelope,
        };
        let published = letter
            .publish(&self.0, &channel, &request.publisher, arrived)
            .await?;
        Ok(published.id)
    }
}

/// As a service is told it. What may be better later is told apart from what will not.
fn refused(failure: Failure) -> AskError {
    let (code, words) = failure.into_parts();
    match ErrorCode::from_code(code) {
        Some(code) if code.is_temporary() => AskError::Unavailable(words),
        Some(ErrorCode::PermissionDenied) => AskError::Denied(words),
        Some(ErrorCode::NotAvailable) => AskError::NotAvailable(words),
        Some(_) => AskError::Invalid(words),
        // Of a router that knows more errors than this gateway.
        None => AskError::Unavailable(words),
    }
}
