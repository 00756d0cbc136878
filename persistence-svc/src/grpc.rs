//! `MessageService` over gRPC, for backends: the methods that other services ask over the bus, by the same handlers, in the same places
//! and times. Reflection and health stand beside it, and need no key.
//!
//! Who has the key, or a certificate that one of the configured authorities signed, may ask everything of everybody: no user's
//! rights are looked at.

use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, StreamExt as _, stream};
use switchboard_bus::answering::{Answering, Unanswered};
use switchboard_bus::messages::AskError;
use switchboard_bus::statistics::Ticking;
use switchboard_proto::messages::message_service_server::{MessageService, MessageServiceServer};
use switchboard_proto::messages::{
    self, LiveRequest, Method, StatisticsTick, WatchStatisticsRequest, method,
};
use switchboard_service_kit::grpc::{self, GrpcConfig, GrpcError, GrpcMetrics, GrpcRunning};
use switchboard_service_kit::service::Context;
use switchboard_service_kit::tasks::TaskKind;
use tonic::{Request, Response, Status};

use crate::service::{Service, each_method, nothing_stored};

/// What happens, second by second.
type Ticks = Pin<Box<dyn Stream<Item = Result<StatisticsTick, Status>> + Send>>;

/// Where a key that was made here stands in the data folder.
const KEY_FILE: &str = "persistence-key";

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
    if let Some(service) = asked.service.clone() {
        let (answering, ticking) = (asked.answering.clone(), asked.ticking.clone());
        let stop = context.tasks.stop_token();
        context
            .tasks
            .spawn("statistics-ticks", TaskKind::Essential, async move {
                let look = || {
                    let (answering, service) = (answering.clone(), Arc::clone(&service));
                    async move { answering.beside(service.live(LiveRequest {})).await.ok() }
                };
                stop.run_until_cancelled(ticking.run(look)).await;
            });
    }
    let service = MessageServiceServer::new(asked).max_decoding_message_size(config.request_size);
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

/// What is asked over gRPC.
pub(crate) struct Asked {
    /// `None`: nothing is stored.
    pub(crate) service: Option<Arc<Service>>,
    pub(crate) answering: Answering,
    pub(crate) metrics: GrpcMetrics,
    pub(crate) ticking: Ticking,
}

impl Asked {
    fn service(&self) -> Result<&Service, Status> {
        let service = self.service.as_deref();
        service.ok_or_else(|| self.answering.status(Unanswered::Fault(nothing_stored())))
    }

    async fn answered<T>(
        &self,
        answer: impl Future<Output = Result<T, AskError>>,
    ) -> Result<Response<T>, Status> {
        self.answering
            .beside(answer)
            .await
            .map(Response::new)
            .map_err(|unanswered| self.answering.status(unanswered))
    }
}

macro_rules! over_grpc {
    ($($method:ident => $answer:ident,)*) => {
        #[tonic::async_trait]
        impl MessageService for Asked {
            $(async fn $answer(
                &self,
                request: Request<<method::$method as Method>::Request>,
            ) -> Result<Response<<method::$method as Method>::Response>, Status> {
                self.answered(self.service()?.$answer(request.into_inner())).await
            })*

            type WatchStatisticsStream = Ticks;

            async fn watch_statistics(
                &self,
                _request: Request<WatchStatisticsRequest>,
            ) -> Result<Response<Ticks>, Status> {
                // Says at once where there is nothing to be told.
                self.answered(self.service()?.live(LiveRequest {})).await?;
                let ticks = self.ticking.watch().ok_or_else(|| {
                    Status::resource_exhausted("as many watch as may (persistence.statistics.watches)")
                })?;
                let missed = Err(Status::unavailable("seconds may have been missed: ask anew"));
                let ticks = ticks.map(Ok).chain(stream::once(async { missed }));
                Ok(Response::new(Box::pin(ticks)))
            }
        }
    };
}
each_method!(over_grpc);

#[cfg(test)]
mod tests;
