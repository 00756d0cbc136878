//! `NotificationService` over gRPC, for backends: what gateways ask over the bus, by the same handlers, in the same places and times.
//! See [`switchboard_service_kit::grpc`] for who may ask.

use std::path::Path;
use std::sync::Arc;

use switchboard_bus::answering::Answering;
use switchboard_bus::messages::AskError;
use switchboard_proto::notifications as wire;
use switchboard_proto::notifications::method;
use switchboard_proto::notifications::notification_service_server::{
    NotificationService, NotificationServiceServer,
};
use switchboard_proto::questions::Method;
use switchboard_service_kit::grpc::{self, GrpcConfig, GrpcError, GrpcMetrics, GrpcRunning};
use switchboard_service_kit::service::Context;
use tonic::{Request, Response, Status};

use crate::service::{Service, each_method};

/// Where a key that was made here stands in the data folder.
const KEY_FILE: &str = "notify-key";

/// What is asked over gRPC.
pub(crate) struct Asked {
    /// `None`: nobody is told here.
    pub(crate) service: Option<Arc<Service>>,
    pub(crate) answering: Answering,
    pub(crate) metrics: GrpcMetrics,
}

/// Listens, until the context's tasks are stopped. `data`: where a key may be kept; `None`: in a cluster.
///
/// # Errors
/// [`GrpcError`].
pub(crate) async fn start(
    config: GrpcConfig,
    asked: Asked,
    data: Option<&Path>,
    context: &Context,
) -> Result<GrpcRunning, GrpcError> {
    let metrics = asked.metrics.clone();
    let service = NotificationServiceServer::new(asked).max_decoding_message_size(config.request_size);
    let served = grpc::Grpc {
        service,
        name: wire::SERVICE,
        descriptors: wire::DESCRIPTORS,
        component: crate::run::COMPONENT,
        kept_key: data.map(|folder| (folder, KEY_FILE)),
        metrics,
    };
    grpc::start(config, served, context).await
}

type Asking<M> = Request<<M as Method>::Request>;
type Answer<M> = Result<Response<<M as Method>::Response>, Status>;

macro_rules! over_grpc {
    ($($method:ident: $function:ident,)*) => {
        #[tonic::async_trait]
        impl NotificationService for Asked {
            $(async fn $function(&self, request: Asking<method::$method>) -> Answer<method::$method> {
                let answer = async {
                    let Some(service) = &self.service else {
                        let words = "nobody is told here (notify.store)".to_owned();
                        return Err(AskError::NotAvailable(words));
                    };
                    service.$function(request.into_inner()).await
                };
                let answered = self.answering.beside(answer).await;
                answered.map(Response::new).map_err(|unanswered| self.answering.status(unanswered))
            })*
        }
    };
}
each_method!(over_grpc);
