//! Starts a gateway: listens, joins the bus, opens its links, and drains when it stops.
//!
//! A stop goes from the outside in: no new connections; every session is asked to come back, spread
//! over `gateway.drain_spread`, and is still served until its turn; the links end when the last
//! session has.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use futures_util::FutureExt as _;
use switchboard_bus::membership::{Membership, MembershipSettings};
use switchboard_bus::{Bus, Pattern, Subject};
use switchboard_proto::bus::Role;
use switchboard_proto::ids::{Incarnation, ShardCount};
use switchboard_registry::config::OpenRegistry;
use switchboard_registry::{Announcer, AnnouncerSettings};
use switchboard_service_kit::admin;
use switchboard_service_kit::service::Context;
use switchboard_service_kit::summary;
use switchboard_service_kit::tasks::{TaskKind, Tasks};
use tokio::time::Instant;

use crate::api::{self, Answering, ApiRunning, Gateways};
use crate::auth::Tokens;
use crate::config::Config;
use crate::conversations::{self, Events, MembershipMetrics, Memberships, ReceiptMetrics, Receipts};
use crate::error::StartError;
use crate::gateway::{Conversations, Gateway};
use crate::links::{Links, LinksConfig};
use crate::listener::Door;
use crate::metrics::{GatewayMetrics, LinkMetrics, Reload};
use crate::moderation::{self, Moderation, ModerationMetrics};
use crate::policy::reload;
use crate::presence::{self, Presence, PresenceMetrics, Reporting};
use crate::statistics::{self, Deliveries};
use crate::typing::{self, TypingMetrics};
use crate::{listener, upgrade};
use switchboard_service_kit::tls::Tls;

/// What a gateway needs of the outside.
pub struct Deps {
    /// The bus.
    pub bus: Arc<dyn Bus>,
    /// Shards of the layout.
    pub shards: ShardCount,
    /// Who is connected to which gateway.
    pub registry: OpenRegistry,
    /// Where this machine keeps what it is told nowhere, such as the server API's key; `None` in a cluster, whose
    /// gateways share one that is configured.
    pub data: Option<PathBuf>,
    /// Other pages on the same address, such as the demo.
    pub extra: Router,
}

/// A gateway that runs until its context's tasks are stopped.
#[derive(Debug, Clone)]
pub struct Running {
    /// Where clients connect.
    pub address: SocketAddr,
    /// Whether they have to speak TLS.
    pub tls: bool,
    /// The server API; `None`: it is off.
    pub api: Option<ApiRunning>,
    /// This life of the gateway.
    pub incarnation: Incarnation,
}

/// What links get to end in once no session is left.
const LINKS_STOP: Duration = Duration::from_secs(1);

/// Questions of other gateways, and answers of theirs, that wait. Above, the newest is lost, and who asked is told.
const CONTROL_QUEUE: usize = 4096;

/// Starts a gateway. It is ready once its links are up.
///
/// # Errors
/// [`StartError`] where it cannot listen or the bus cannot be used.
pub async fn start(config: Config, deps: Deps, context: Context) -> Result<Running, StartError> {
    let (running, _) = open(config, deps, context).await?;
    Ok(running)
}

/// As [`start`], and what its sessions share.
async fn open(config: Config, deps: Deps, context: Context) -> Result<(Running, Arc<Gateway>), StartError> {
    let tls = match config.tls.clone() {
        Some(config) => Some(Tls::load(config).await?),
        None => None,
    };
    let listener = admin::bind("gateway.listen", config.listen).await?;
    let address = listener.local_addr().map_err(StartError::Address)?;
    let incarnation = Incarnation::random();
    let stop = context.tasks.stop_token();
    let health = context.health.component("gateway");
    // Before others know of this gateway, and so wait for its answers.
    let questions = deps
        .bus
        .subscribe(Pattern::Exactly(Subject::Control), CONTROL_QUEUE)
        .await?;
    let answers = Subject::ControlAnswer { gateway: incarnation };
    let answers = deps
        .bus
        .subscribe(Pattern::Exactly(answers), CONTROL_QUEUE)
        .await?;
    let joins = Subject::Joins { gateway: incarnation };
    let joins = deps.bus.subscribe(Pattern::Exactly(joins), CONTROL_QUEUE).await?;
    let changes = Pattern::Exactly(Subject::PresenceChanges);
    let changes = deps.bus.subscribe(changes, CONTROL_QUEUE).await?;
    let membership = Membership::join(
        Arc::clone(&deps.bus),
        Role::Gateway,
        incarnation,
        MembershipSettings::default(),
        &context.tasks.tracker(),
        stop.clone(),
    )
    .await?;

    // Links, and what announces sessions, are stopped by themselves, after the sessions that use them.
    let link_context = Context {
        tasks: context.tasks.separate(),
        ..context.clone()
    };
    let link_tasks = StoppedOnDrop(link_context.tasks.clone());
    let links_config = LinksConfig {
        answer_timeout: config.answer_timeout,
        queue: config.link_queue,
        frames: config.link_frames,
        unanswered: config.link_unanswered,
        unanswered_bytes: config.link_unanswered_bytes,
        unconfirmed_bytes: config.link_unconfirmed_bytes,
    };
    let metrics = GatewayMetrics::register(&context.metrics);
    let link_metrics = LinkMetrics::register(&context.metrics, &metrics);
    let memberships = Memberships::start(
        &config.conversations,
        Arc::clone(&deps.bus),
        MembershipMetrics::register(&context.metrics),
        &link_context.tasks,
    );
    let (events, removed) = Events::new(Arc::clone(&memberships));
    let deliveries = Arc::new(Deliveries::new(deps.shards));
    let (receipts, marks) = Receipts::new(&config.conversations);
    let links = Links::start(
        links_config,
        &deps.bus,
        deps.shards,
        incarnation,
        &link_context,
        &link_metrics,
        (health, events, Arc::clone(&deliveries)),
    )
    .await?;

    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
    let tokens = Tokens::start(
        &config.tokens,
        config.channel_name_length,
        &context.metrics,
        &context.tasks,
    )?;
    if config.insecure {
        tracing::warn!(%address, "gateway.insecure is on: whoever reaches this address may do everything");
    }
    let (counted, delivered) = (metrics.clone(), link_metrics.clone());
    summary::spawn(&context.tasks, "gateway", summary::INTERVAL, move || {
        vec![
            (
                "connections",
                u64::try_from(counted.connections.get()).unwrap_or(0),
            ),
            ("connects", counted.connects.get()),
            ("frames_in", counted.frames_in.get()),
            ("frames_out", counted.frames_out.get()),
            ("publications", delivered.publications()),
        ]
    });
    let (tls, watched) = tls.unzip();
    if let Some((tls, seen)) = tls.clone().zip(watched) {
        let counted = metrics.clone();
        let reloaded = move |is_good| {
            counted.tls_reload(if is_good { Reload::Done } else { Reload::Failed });
        };
        let watching = tls.watch(seen, reloaded, stop.clone());
        context.tasks.spawn("tls-reload", TaskKind::Essential, watching);
    }
    let speaks_tls = tls.is_some();
    let settings = AnnouncerSettings {
        lease: deps.registry.lease,
        capacity: config.max_connections,
    };
    let announcer = Announcer::start(deps.registry.registry, incarnation, settings, &link_context);
    let answer_timeout = config.answer_timeout;
    let gateways = Gateways::new(
        incarnation,
        Arc::clone(&deps.bus),
        membership.clone(),
        answer_timeout,
    );
    let presence = Presence::new(
        config.presence.clone(),
        PresenceMetrics::register(&context.metrics),
    );
    let moderation = Moderation::new(
        config.moderation.clone(),
        Arc::clone(&deps.bus),
        ModerationMetrics::register(&context.metrics),
    );
    let reporting = Reporting::new(Arc::clone(&presence), Arc::clone(&deps.bus), incarnation);
    link_context.tasks.spawn(
        "presence-reports",
        TaskKind::Essential,
        reporting.run(link_context.tasks.stop_token()),
    );
    let counted = statistics::Reporting {
        deliveries,
        bus: Arc::clone(&deps.bus),
        me: incarnation,
        interval: config.statistics_interval,
        metrics: statistics::ReportMetrics::register(&context.metrics),
    };
    link_context.tasks.spawn(
        "delivery-reports",
        TaskKind::Essential,
        counted.run(link_context.tasks.stop_token()),
    );
    let hearing = {
        let (presence, bus) = (Arc::clone(&presence), Arc::clone(&deps.bus));
        let stop = link_context.tasks.stop_token();
        async move {
            let both = async {
                tokio::join!(
                    presence::pass_on(Arc::clone(&presence), joins),
                    presence::keep_true(Arc::clone(&presence), bus, changes)
                )
            };
            stop.run_until_cancelled(both).await;
        }
    };
    link_context.tasks.spawn("presence", TaskKind::Essential, hearing);
    let gateway = Gateway::new(
        config,
        tokens,
        links,
        Conversations {
            gateways: Arc::clone(&gateways),
            memberships,
            receipts,
            moderation,
            presence,
            typing_metrics: TypingMetrics::register(&context.metrics),
        },
        announcer,
        metrics,
        stop.clone(),
    );
    let ending = conversations::watch(Arc::clone(&gateway), removed);
    let writing = conversations::write_receipts(
        Arc::clone(&gateway),
        marks,
        ReceiptMetrics::register(&context.metrics),
        link_context.tasks.clone(),
    );
    let telling = typing::tell_all(Arc::clone(&gateway));
    let (following, until_end) = (
        moderation::follow(Arc::clone(&gateway)),
        link_context.tasks.stop_token(),
    );
    // As long as there are sessions, which may have to go.
    link_context
        .tasks
        .spawn("moderation", TaskKind::Essential, async move {
            until_end.run_until_cancelled(following).await;
        });
    let until_links_stop = link_context.tasks.stop_token();
    link_context
        .tasks
        .spawn("conversations", TaskKind::Essential, async move {
            let all = async { tokio::join!(ending, writing, telling) };
            until_links_stop.run_until_cancelled(all).await;
        });
    if let Some(origin) = gateway.config.origin.clone() {
        let watching = reload::watch(Arc::clone(&gateway), origin, stop.clone());
        context
            .tasks
            .spawn("policy-reload", TaskKind::Essential, watching);
    }
    let answering = Answering {
        gateway: Arc::clone(&gateway),
        bus: Arc::clone(&deps.bus),
        me: incarnation,
        name: address.to_string(),
        begun: Instant::now(),
    };
    // As long as there are sessions, which may be asked about.
    link_context.tasks.spawn(
        "answering",
        TaskKind::Essential,
        answering.run(questions, link_context.tasks.clone()),
    );
    let hearing = {
        let stop = link_context.tasks.stop_token();
        let gateways = Arc::clone(&gateways);
        async move {
            stop.run_until_cancelled(gateways.hear(answers)).await;
        }
    };
    link_context
        .tasks
        .spawn("control-answers", TaskKind::Essential, hearing);
    api::answer_services(&gateway, Arc::clone(&deps.bus), &context);
    let api = api::start(
        Arc::clone(&gateway),
        gateways,
        deps.data.as_deref(),
        &context.tasks,
    )
    .await?;
    let router = upgrade::router(Arc::clone(&gateway), context.tasks.clone()).merge(deps.extra);
    let door = Door {
        gateway: Arc::clone(&gateway),
        router,
        tls,
        stop: stop.clone(),
    };
    context.tasks.spawn(
        "listener",
        TaskKind::Essential,
        listener::listen(listener, door, context.tasks.clone()),
    );
    let shared = Arc::clone(&gateway);
    context.tasks.spawn("gateway", TaskKind::Essential, async move {
        let _member = membership;
        let StoppedOnDrop(links) = &link_tasks;
        tokio::select! {
            () = stop.cancelled() => {}
            // Named in the log by who saw it fail; this task's end passes it on.
            _ = links.failed() => return,
        }
        gateway.session_tasks.close();
        gateway.session_tasks.wait().await;
        links.stop(LINKS_STOP).await;
    });
    tracing::info!(%address, tls = speaks_tls, path = upgrade::PATH, %incarnation, "gateway listens");
    let running = Running {
        address,
        tls: speaks_tls,
        api,
        incarnation,
    };
    Ok((running, shared))
}

/// Stops tasks also where nobody is left to wait for them: a start that failed, a stop by force.
struct StoppedOnDrop(Tasks);

impl Drop for StoppedOnDrop {
    fn drop(&mut self) {
        // The first poll tells them all.
        self.0.stop(Duration::ZERO).now_or_never();
    }
}

#[cfg(test)]
mod tests;
