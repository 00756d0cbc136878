//! What a gateway counts.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use switchboard_proto::codes::ErrorCode;
use switchboard_proto::ids::ShardId;
use switchboard_service_kit::metrics::Metrics;

use crate::links::{Missed, Reset};
use crate::session::Written;

/// Connections, what comes in and what goes out. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct GatewayMetrics {
    pub(crate) connections: Gauge,
    pub(crate) http_connections: Gauge,
    pub(crate) connects: Counter,
    pub(crate) frames_in: Counter,
    pub(crate) bytes_in: Counter,
    pub(crate) frames_out: Counter,
    pub(crate) bytes_out: Counter,
    pub(crate) commands_over_rate: Counter,
    pub(crate) outgoing_dropped: Counter,
    pub(crate) idle_disconnects: Counter,
    pub(crate) api_unauthorized: Counter,
    outgoing_peak: Gauge,
    families: Arc<Families>,
}

#[derive(Default)]
struct Families {
    refused: Family<RefusedLabel, Counter>,
    disconnects: Family<DisconnectLabel, Counter>,
    commands: Family<CommandLabel, Counter>,
    errors: Family<ErrorLabel, Counter>,
    tls_reloads: Family<ReloadLabel, Counter>,
    policy_reloads: Family<ReloadLabel, Counter>,
    api_calls: Family<ApiLabel, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusedLabel {
    reason: Refused,
}

/// Why a connection was refused before its client was connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Refused {
    /// There are as many as the configuration allows.
    Limit,
    /// The page's origin may not.
    Origin,
    /// Two encodings at once.
    Encoding,
    /// Not a WebSocket handshake.
    Handshake,
    /// The gateway stops.
    Stopping,
    /// The address has as many WebSockets as it may.
    AddressLimit,
    /// The address opens connections more quickly than it may.
    AddressRate,
    /// The address has as many other connections as it may.
    HttpAddressLimit,
    /// The user has as many connections as it may.
    UserLimit,
    /// A trusted proxy did not say whose connection it is.
    ProxyHeader,
    /// TLS failed or took too long.
    TlsHandshake,
    /// No request came in time.
    HeadTimeout,
    /// It was no WebSocket in time.
    HttpLifetime,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReloadLabel {
    result: Reload,
}

/// How it went when the files of a certificate, or the policy's, had changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Reload {
    /// It is in force.
    Done,
    /// It is no good, the one before stays in force.
    Failed,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DisconnectLabel {
    by: EndedBy,
    /// What we closed with, one of ours or of WebSocket's own; 0 where others ended it.
    code: u16,
}

/// Who ended a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum EndedBy {
    /// We did, with a code.
    Gateway,
    /// The client did.
    Client,
    /// Nobody, it broke.
    Network,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CommandLabel {
    command: Method,
}

/// The commands of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Method {
    Connect,
    Subscribe,
    Unsubscribe,
    Publish,
    Presence,
    PresenceStats,
    History,
    Rpc,
    Send,
    Refresh,
    SubRefresh,
    Pong,
    /// None of the above.
    Unknown,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ApiLabel {
    method: ApiMethod,
    /// Of the error; 0: there was a result.
    code: u32,
}

/// The calls of the server API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum ApiMethod {
    Batch,
    Publish,
    Broadcast,
    Subscribe,
    Unsubscribe,
    Disconnect,
    Refresh,
    Presence,
    PresenceStats,
    History,
    HistoryRemove,
    Channels,
    Info,
    Rpc,
    SystemMessage,
    ChannelMembersAdd,
    ChannelMembersRemove,
    ChannelMembersList,
    MessageEdit,
    MessageDelete,
    BlockUser,
    UnblockUser,
    MuteUser,
    UnmuteUser,
    RevokeToken,
    InvalidateUserTokens,
    ModerationLog,
    ModerationState,
    NotificationSend,
    NotificationCancel,
    NotificationGet,
    NotificationInbox,
    NotificationMark,
    NotificationPreferences,
    NotificationSetPreferences,
    NotificationMute,
    NotificationStatistics,
    DeviceRegister,
    DeviceRemove,
    DeviceList,
    TemplatePut,
    TemplateDelete,
    TemplateList,
    DeadLetterList,
    DeadLetterRetry,
    DeadLetterDrop,
    UserForgetNotifications,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ErrorLabel {
    code: u32,
}

/// Label values in the words that the wire and the configuration use.
macro_rules! label_values {
    ($type:ident { $($variant:ident = $text:literal,)+ }) => {
        impl $type {
            /// The word for it.
            pub(crate) fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }

        impl EncodeLabelValue for $type {
            fn encode(&self, encoder: &mut LabelValueEncoder) -> Result<(), std::fmt::Error> {
                self.as_str().encode(encoder)
            }
        }
    };
}

label_values!(Refused {
    Limit = "limit",
    Origin = "origin",
    Encoding = "encoding",
    Handshake = "handshake",
    Stopping = "stopping",
    AddressLimit = "address_limit",
    AddressRate = "address_rate",
    HttpAddressLimit = "http_address_limit",
    UserLimit = "user_limit",
    ProxyHeader = "proxy_header",
    TlsHandshake = "tls_handshake",
    HeadTimeout = "head_timeout",
    HttpLifetime = "http_lifetime",
});

label_values!(Reload {
    Done = "done",
    Failed = "failed",
});

label_values!(EndedBy {
    Gateway = "gateway",
    Client = "client",
    Network = "network",
});

label_values!(Method {
    Connect = "connect",
    Subscribe = "subscribe",
    Unsubscribe = "unsubscribe",
    Publish = "publish",
    Presence = "presence",
    PresenceStats = "presence_stats",
    History = "history",
    Rpc = "rpc",
    Send = "send",
    Refresh = "refresh",
    SubRefresh = "sub_refresh",
    Pong = "pong",
    Unknown = "unknown",
});

label_values!(ApiMethod {
    Batch = "batch",
    Publish = "publish",
    Broadcast = "broadcast",
    Subscribe = "subscribe",
    Unsubscribe = "unsubscribe",
    Disconnect = "disconnect",
    Refresh = "refresh",
    Presence = "presence",
    PresenceStats = "presence_stats",
    History = "history",
    HistoryRemove = "history_remove",
    Channels = "channels",
    Info = "info",
    Rpc = "rpc",
    SystemMessage = "system_message",
    ChannelMembersAdd = "channel_members_add",
    ChannelMembersRemove = "channel_members_remove",
    ChannelMembersList = "channel_members_list",
    MessageEdit = "message_edit",
    MessageDelete = "message_delete",
    BlockUser = "block_user",
    UnblockUser = "unblock_user",
    MuteUser = "mute_user",
    UnmuteUser = "unmute_user",
    RevokeToken = "revoke_token",
    InvalidateUserTokens = "invalidate_user_tokens",
    ModerationLog = "moderation_log",
    ModerationState = "moderation_state",
    NotificationSend = "notification_send",
    NotificationCancel = "notification_cancel",
    NotificationGet = "notification_get",
    NotificationInbox = "notification_inbox",
    NotificationMark = "notification_mark",
    NotificationPreferences = "notification_preferences",
    NotificationSetPreferences = "notification_set_preferences",
    NotificationMute = "notification_mute",
    NotificationStatistics = "notification_statistics",
    DeviceRegister = "device_register",
    DeviceRemove = "device_remove",
    DeviceList = "device_list",
    TemplatePut = "template_put",
    TemplateDelete = "template_delete",
    TemplateList = "template_list",
    DeadLetterList = "dead_letter_list",
    DeadLetterRetry = "dead_letter_retry",
    DeadLetterDrop = "dead_letter_drop",
    UserForgetNotifications = "user_forget_notifications",
});

label_values!(Reset {
    Gap = "gap",
    NewOwner = "new_owner",
    Silence = "silence",
    Disruption = "disruption",
    Asked = "asked",
});

label_values!(Recovered {
    Yes = "true",
    No = "false",
});

impl GatewayMetrics {
    pub(crate) fn register(metrics: &Metrics) -> Self {
        let gateway = Self::default();
        let families = &gateway.families;
        metrics.register("gateway", |registry| {
            registry.register(
                "connections",
                "WebSocket connections now",
                gateway.connections.clone(),
            );
            registry.register(
                "http_connections",
                "Connections that are not WebSockets now",
                gateway.http_connections.clone(),
            );
            registry.register(
                "connects",
                "Clients that connected successfully",
                gateway.connects.clone(),
            );
            registry.register(
                "refused",
                "Connections refused, by reason",
                families.refused.clone(),
            );
            registry.register(
                "disconnects",
                "Ended connections, by who ended them and the code we closed with",
                families.disconnects.clone(),
            );
            registry.register(
                "commands",
                "Commands from clients, by kind",
                families.commands.clone(),
            );
            registry.register(
                "errors",
                "Commands that the session itself answered with an error, by code",
                families.errors.clone(),
            );
            registry.register(
                "commands_over_rate",
                "Commands that came more quickly than gateway.limits.command_rate allows",
                gateway.commands_over_rate.clone(),
            );
            registry.register(
                "tls_reloads",
                "Times that the TLS certificate's files had changed, by whether it is in force",
                families.tls_reloads.clone(),
            );
            registry.register(
                "policy_reloads",
                "Times that [channels] or [namespaces] had changed in the configuration file, or it was faulty, by whether it is in force",
                families.policy_reloads.clone(),
            );
            registry.register(
                "api_calls",
                "Calls of the server API, by method and the error's code, 0 where it succeeded",
                families.api_calls.clone(),
            );
            registry.register(
                "api_unauthorized",
                "Requests to the server API without a key that is accepted",
                gateway.api_unauthorized.clone(),
            );
            registry.register("frames_in", "Frames from clients", gateway.frames_in.clone());
            registry.register(
                "bytes_in",
                "Bytes of frames from clients",
                gateway.bytes_in.clone(),
            );
            registry.register("frames_out", "Frames to clients", gateway.frames_out.clone());
            registry.register(
                "bytes_out",
                "Bytes of frames to clients",
                gateway.bytes_out.clone(),
            );
            registry.register(
                "idle_disconnects",
                "Connections closed because they did nothing for gateway.limits.idle_timeout",
                gateway.idle_disconnects.clone(),
            );
            registry.register(
                "outgoing_dropped",
                "Publications of low priority that are not stored, dropped for clients whose queue was full",
                gateway.outgoing_dropped.clone(),
            );
            registry.register(
                "outgoing_peak_bytes",
                "The most bytes that ever waited for one client in this life of the gateway",
                gateway.outgoing_peak.clone(),
            );
        });
        gateway
    }

    pub(crate) fn refused(&self, reason: Refused) {
        self.families
            .refused
            .get_or_create(&RefusedLabel { reason })
            .inc();
    }

    pub(crate) fn tls_reload(&self, result: Reload) {
        self.families
            .tls_reloads
            .get_or_create(&ReloadLabel { result })
            .inc();
    }

    pub(crate) fn policy_reload(&self, result: Reload) {
        self.families
            .policy_reloads
            .get_or_create(&ReloadLabel { result })
            .inc();
    }

    pub(crate) fn disconnected(&self, by: EndedBy, code: u16) {
        self.families
            .disconnects
            .get_or_create(&DisconnectLabel { by, code })
            .inc();
    }

    pub(crate) fn command(&self, command: Method) {
        self.families
            .commands
            .get_or_create(&CommandLabel { command })
            .inc();
    }

    /// A call of the server API was answered; `code` 0: with a result.
    pub(crate) fn api_call(&self, method: ApiMethod, code: u32) {
        self.families
            .api_calls
            .get_or_create(&ApiLabel { method, code })
            .inc();
    }

    pub(crate) fn error(&self, code: ErrorCode) {
        self.error_number(code.code());
    }

    /// As [`GatewayMetrics::error`], where the error has words of its own.
    pub(crate) fn error_number(&self, code: u32) {
        self.families.errors.get_or_create(&ErrorLabel { code }).inc();
    }

    /// Frames were handed to sockets.
    pub(crate) fn written(&self, written: Written) {
        self.frames_out.inc_by(written.frames);
        self.bytes_out.inc_by(written.bytes);
    }

    /// A session's queue held `bytes` at its fullest.
    pub(crate) fn outgoing_peak(&self, bytes: usize) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.outgoing_peak.inner().fetch_max(bytes, Ordering::Relaxed);
    }
}

/// Counts something as there for as long as it lives, however it ends.
pub(crate) struct Counted(Gauge);

impl Counted {
    pub(crate) fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Links and what they deliver. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct LinkMetrics {
    publications: Counter,
    /// Of the gateway: links write to sockets, too.
    gateway: GatewayMetrics,
    families: Arc<LinkFamilies>,
}

#[derive(Default)]
struct LinkFamilies {
    recoveries: Family<RecoveryLabel, Counter>,
    behind: Family<ShardLabel, Gauge>,
    resets: Family<ResetLabel, Counter>,
    channels: Family<ShardLabel, Gauge>,
    unanswered: Family<ShardLabel, Gauge>,
    errors: Family<ErrorLabel, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RecoveryLabel {
    recovered: Recovered,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Recovered {
    Yes,
    No,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResetLabel {
    reason: Reset,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ShardLabel {
    shard: u16,
}

impl LinkMetrics {
    pub(crate) fn register(metrics: &Metrics, gateway: &GatewayMetrics) -> Self {
        let links = Self {
            gateway: gateway.clone(),
            ..Self::default()
        };
        metrics.register("gateway_link", |registry| {
            registry.register(
                "publications",
                "Publications queued for clients, one for each receiver",
                links.publications.clone(),
            );
            registry.register(
                "resets",
                "Times that a link opened anew, by reason",
                links.families.resets.clone(),
            );
            registry.register(
                "channels",
                "Channels that some client is subscribed to",
                links.families.channels.clone(),
            );
            registry.register(
                "recoveries",
                "Subscriptions that asked for what they missed, by whether they got all of it",
                links.families.recoveries.clone(),
            );
            registry.register(
                "catching_up",
                "Subscriptions that are being given what they missed",
                links.families.behind.clone(),
            );
            registry.register(
                "unanswered_publishes",
                "Publishes that wait for the shard's owner",
                links.families.unanswered.clone(),
            );
            registry.register(
                "errors",
                "Commands that a link or an owner answered with an error, by code",
                links.families.errors.clone(),
            );
        });
        links
    }

    /// A publication was queued for so many clients.
    pub(crate) fn delivered(&self, receivers: u64) {
        self.publications.inc_by(receivers);
    }

    /// Publications handed to sessions since the start.
    pub(crate) fn publications(&self) -> u64 {
        self.publications.get()
    }

    /// Frames were handed to sockets.
    pub(crate) fn written(&self, written: Written) {
        self.gateway.written(written);
    }

    /// A command was answered with an error by a link or its owner.
    pub(crate) fn error(&self, code: u32) {
        self.families.errors.get_or_create(&ErrorLabel { code }).inc();
    }

    /// A subscription was answered.
    pub(crate) fn recovery(&self, missed: &Missed<'_>) {
        let recovered = match missed {
            Missed::NotAsked => return,
            Missed::All(..) => Recovered::Yes,
            Missed::Lost => Recovered::No,
        };
        self.families
            .recoveries
            .get_or_create(&RecoveryLabel { recovered })
            .inc();
    }

    /// A link opened anew.
    pub(crate) fn reset(&self, reason: Reset) {
        self.families.resets.get_or_create(&ResetLabel { reason }).inc();
    }

    /// What a shard's link holds.
    pub(crate) fn measure(&self, shard: ShardId, channels: usize, unanswered: usize, behind: usize) {
        let label = ShardLabel { shard: shard.get() };
        let set = |family: &Family<ShardLabel, Gauge>, value: usize| {
            family
                .get_or_create(&label)
                .set(i64::try_from(value).unwrap_or(i64::MAX));
        };
        set(&self.families.channels, channels);
        set(&self.families.unanswered, unanswered);
        set(&self.families.behind, behind);
    }
}
