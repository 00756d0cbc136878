//! The server API over gRPC, with reflection and health beside it, which need no key.

use std::sync::Arc;

use axum::Router;
use switchboard_proto::api;
use switchboard_proto::api::centrifugo_api_server::{CentrifugoApi, CentrifugoApiServer};
use tokio::time::Instant;
use tonic::service::Routes;
use tonic::service::interceptor::InterceptedService;
use tonic::{Request, Response, Status};

use super::{Api, Caller, Transport};

pub(super) fn router(api: &Arc<Api>) -> Router {
    let service =
        CentrifugoApiServer::new(Grpc(Arc::clone(api))).max_decoding_message_size(api.config.request_size);
    let guard = Arc::clone(api);
    let guarded = InterceptedService::new(service, move |mut request: Request<()>| {
        let headers = request.metadata().clone().into_headers();
        let Some(key) = guard.keys.given(&headers) else {
            guard.gateway.metrics.api_unauthorized.inc();
            return Err(Status::unauthenticated(
                "no key that is accepted: authorization: apikey KEY",
            ));
        };
        request.extensions_mut().insert(Caller {
            key,
            transport: Transport::Grpc,
            arrived: Instant::now(),
        });
        Ok(request)
    });
    let (reporter, health) = tonic_health::server::health_reporter();
    drop(reporter);
    let mut routes = Routes::new(guarded).add_service(health);
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(api::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1();
    match reflection {
        Ok(reflection) => routes = routes.add_service(reflection),
        // Its descriptors are part of the program, and a test asks for them.
        Err(error) => tracing::error!(%error, "no gRPC reflection"),
    }
    routes.prepare().into_axum_router()
}

struct Grpc(Arc<Api>);

fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    let caller = request.extensions().get::<Caller>().copied();
    caller.ok_or_else(|| Status::unauthenticated("no key"))
}

macro_rules! service {
    ($($name:ident: $request:ident -> $response:ident,)+) => {
        #[tonic::async_trait]
        impl CentrifugoApi for Grpc {
            $(async fn $name(
                &self,
                request: Request<api::$request>,
            ) -> Result<Response<api::$response>, Status> {
                let caller = caller(&request)?;
                let response = match self.0.call(request.into_inner(), caller).await {
                    Ok(result) => api::$response { error: None, result: Some(result) },
                    Err(failure) => api::$response { error: Some(failure.into()), result: None },
                };
                Ok(Response::new(response))
            })+

            async fn batch(
                &self,
                request: Request<api::BatchRequest>,
            ) -> Result<Response<api::BatchResponse>, Status> {
                let caller = caller(&request)?;
                match self.0.batch(request.into_inner(), caller).await {
                    Ok(response) => Ok(Response::new(response)),
                    // There is no place for an error in it.
                    Err(failure) => Err(Status::resource_exhausted(api::Error::from(failure).message)),
                }
            }
        }
    };
}

service! {
    publish: PublishRequest -> PublishResponse,
    broadcast: BroadcastRequest -> BroadcastResponse,
    subscribe: SubscribeRequest -> SubscribeResponse,
    unsubscribe: UnsubscribeRequest -> UnsubscribeResponse,
    disconnect: DisconnectRequest -> DisconnectResponse,
    refresh: RefreshRequest -> RefreshResponse,
    presence: PresenceRequest -> PresenceResponse,
    presence_stats: PresenceStatsRequest -> PresenceStatsResponse,
    history: HistoryRequest -> HistoryResponse,
    history_remove: HistoryRemoveRequest -> HistoryRemoveResponse,
    channels: ChannelsRequest -> ChannelsResponse,
    info: InfoRequest -> InfoResponse,
    rpc: RpcRequest -> RpcResponse,
    system_message: SystemMessageRequest -> SystemMessageResponse,
    channel_members_add: ChannelMembersAddRequest -> ChannelMembersAddResponse,
    channel_members_remove: ChannelMembersRemoveRequest -> ChannelMembersRemoveResponse,
    channel_members_list: ChannelMembersListRequest -> ChannelMembersListResponse,
    message_edit: MessageEditRequest -> MessageEditResponse,
    message_delete: MessageDeleteRequest -> MessageDeleteResponse,
    block_user: BlockUserRequest -> BlockUserResponse,
    unblock_user: UnblockUserRequest -> UnblockUserResponse,
    mute_user: MuteUserRequest -> MuteUserResponse,
    unmute_user: UnmuteUserRequest -> UnmuteUserResponse,
    revoke_token: RevokeTokenRequest -> RevokeTokenResponse,
    invalidate_user_tokens: InvalidateUserTokensRequest -> InvalidateUserTokensResponse,
    moderation_log: ModerationLogRequest -> ModerationLogResponse,
    moderation_state: ModerationStateRequest -> ModerationStateResponse,
}
