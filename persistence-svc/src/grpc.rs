//! `MessageService` over gRPC, for backends: the methods that other services ask over the bus, by the same handlers, in the same places
//! and times. Reflection and health stand beside it, and need no key.
//!
//! Who has the key, or a certificate that one of the configured authorities signed, may ask everything of everybody: no user's
//! rights are looked at.

use std::path::Path;

use switchboard_bus::messages::AskError;
use switchboard_proto::messages::message_service_server::{MessageService, MessageServiceServer};
use switchboard_proto::messages::{self, Method, method};
use switchboard_service_kit::grpc::{self, GrpcConfig, GrpcError, GrpcRunning};
use switchboard_service_kit::service::Context;
use tonic::{Request, Response, Status};

use crate::answering::Answering;
use crate::service::{Service, each_method};

/// Where a key that was made here stands in the data folder.
const KEY_FILE: &str = "persistence-key";

/// Listens, until the context's tasks are stopped. `data`: where a key may be kept; `None`: in a cluster.
///
/// # Errors
/// [`GrpcError`].
pub(crate) async fn start(
    config: GrpcConfig,
    answering: Answering,
    data: Option<&Path>,
    context: &Context,
) -> Result<GrpcRunning, GrpcError> {
    let metrics = answering.metrics.grpc.clone();
    let service = MessageServiceServer::new(Grpc(answering)).max_decoding_message_size(config.request_size);
    let served = grpc::Grpc {
        service,
        name: messages::SERVICE,
        descriptors: messages::DESCRIPTORS,
        component: crate::run::COMPONENT,
        kept_key: data.map(|folder| (folder, KEY_FILE)),
        metrics,
    };
    grpc::start(config, served, context).await
}

struct Grpc(Answering);

impl Grpc {
    fn service(&self) -> Result<&Service, Status> {
        let service = self.0.service.as_deref();
        service.ok_or_else(|| {
            status(AskError::NotAvailable(
                "nothing is stored here (persistence.store)".to_owned(),
            ))
        })
    }

    /// Waits for an answer, in a place and within the time that a question over the bus has.
    async fn answered<T>(
        &self,
        answer: impl Future<Output = Result<T, AskError>>,
    ) -> Result<Response<T>, Status> {
        let metrics = &self.0.metrics;
        let Ok(_place) = self.0.places.try_acquire() else {
            metrics.refused_questions.inc();
            return Err(Status::resource_exhausted(
                "too many questions are at work (persistence.questions)",
            ));
        };
        metrics.questions.inc();
        let answer = match tokio::time::timeout(self.0.limit, answer).await {
            Ok(answer) => answer.map_err(status),
            Err(_) => Err(Status::deadline_exceeded(
                "it took too long (persistence.question_timeout)",
            )),
        };
        if answer.is_err() {
            metrics.unanswered_questions.inc();
        }
        answer.map(Response::new)
    }
}

macro_rules! over_grpc {
    ($($method:ident => $answer:ident,)*) => {
        #[tonic::async_trait]
        impl MessageService for Grpc {
            $(async fn $answer(
                &self,
                request: Request<<method::$method as Method>::Request>,
            ) -> Result<Response<<method::$method as Method>::Response>, Status> {
                self.answered(self.service()?.$answer(request.into_inner())).await
            })*
        }
    };
}
each_method!(over_grpc);

fn status(error: AskError) -> Status {
    match error {
        AskError::Invalid(words) => Status::invalid_argument(words),
        AskError::NotFound(words) => Status::not_found(words),
        AskError::Unavailable(words) => Status::unavailable(words),
        AskError::Denied(words) => Status::permission_denied(words),
        AskError::NotAvailable(words) => Status::unimplemented(words),
        AskError::Internal(words) => Status::internal(words),
    }
}

#[cfg(test)]
mod tests;
