//! Whole systems on free ports: everything in one process, or gateways and routers that meet over a real NATS.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use switchboard::{Config, Switchboard};
use switchboard_testkit::{NatsCluster, PostgresServer};
use tempfile::TempDir;
use tokio::time::timeout;

/// Every node here: any free port, quick to stop. Keys of `[gateway]` follow.
const NODE: &str = r#"
[admin]
listen = "127.0.0.1:0"

[channels]
publication_data_format = "any"

[gateway]
listen = "127.0.0.1:0"
drain_spread = "100ms"
limits.connections_per_address = 0
limits.connect_rate = 0
api.listen = "127.0.0.1:0"
api.key = "a-key-of-tests-that-is-long-enough"
"#;

/// What backends prove themselves with.
/// Sections of a cluster whose messages are stored there; keys of `[persistence.postgres]` may follow.
pub(crate) fn stored_in(database: &PostgresServer) -> String {
    let url = database.url();
    format!(
        "[router]\nreaders = [\"persistence\"]\n[persistence]\nstore = \"postgres\"\n[persistence.postgres]\nurl = {url:?}\n"
    )
}

pub(crate) const API_KEY: &str = "a-key-of-tests-that-is-long-enough";

/// Signs and verifies tokens.
pub(crate) const SECRET: &str = "a secret of tests that is long enough to be none";

/// What clients with tokens may do.
const NAMESPACES: &str = r#"
[namespaces.room]
allow_subscribe_for_client = true
allow_publish_for_subscriber = true

[namespaces.news]
allow_subscribe_for_client = true
allow_subscribe_for_anonymous = true

[namespaces.raw]
publication_data_format = "any"

[namespaces.dm]
allow_user_limited_channels = true
allow_publish_for_subscriber = true
"#;

/// How clients are let in.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Access {
    /// Without a token, and they may do everything.
    Insecure,
    /// With a token signed with [`SECRET`]; [`NAMESPACES`] says what they may do then. No leeway, and three seconds of grace
    /// behind an expiry.
    Tokens,
}

impl Access {
    /// Keys of `[gateway]`, and sections below it.
    fn config(self) -> String {
        match self {
            Self::Insecure => "insecure = true\n".to_owned(),
            Self::Tokens => format!(
                "[gateway.tokens]\nhmac_secret = {SECRET:?}\nleeway = \"0s\"\nexpiry_grace = \"3s\"\n{NAMESPACES}"
            ),
        }
    }
}

/// How often clients are pinged.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Pings {
    /// As configured by default: never, within a test. For clients that do other things than read.
    Seldom,
    /// Often enough for a test to see some come, and one that is not answered.
    EverySecond,
}

impl Pings {
    /// Keys of `[gateway]`.
    fn config(self) -> &'static str {
        match self {
            Self::Seldom => "",
            Self::EverySecond => "ping_interval = \"1s\"\npong_timeout = \"800ms\"\n",
        }
    }
}

/// Fewer than the default of 16: three servers and their replicas share the test's machine.
const CLUSTER_SHARDS: u32 = 6;

/// How long a system may take until it serves.
const READY: Duration = Duration::from_secs(30);

pub(crate) struct System {
    /// In the order they are stopped.
    nodes: Vec<Switchboard>,
    // Dropped after the nodes.
    _nats: Option<NatsCluster>,
    _data: Option<TempDir>,
}

impl System {
    /// What `cargo run` starts: all services in one process, embedded bus and log.
    pub(crate) async fn embedded(pings: Pings) -> Result<Self> {
        Self::embedded_for(Access::Insecure, pings).await
    }

    /// As [`Self::embedded`].
    pub(crate) async fn embedded_for(access: Access, pings: Pings) -> Result<Self> {
        let data = tempfile::tempdir()?;
        let bus = format!(
            "[bus]\nbackend = \"embedded\"\n[bus.embedded]\npath = {:?}\n",
            data.path()
        );
        let config = format!("{NODE}{}{}{bus}", pings.config(), access.config());
        let node = start(&config).await?;
        let system = Self {
            nodes: vec![node],
            _nats: None,
            _data: Some(data),
        };
        system.ready().await?;
        Ok(system)
    }

    /// So many gateways and routers, each a node of its own, over three nats-servers with three replicas of each log.
    pub(crate) async fn cluster(gateways: usize, routers: usize, pings: Pings) -> Result<Self> {
        Self::cluster_for(Access::Insecure, gateways, routers, pings).await
    }

    /// As [`Self::cluster`].
    pub(crate) async fn cluster_for(
        access: Access,
        gateways: usize,
        routers: usize,
        pings: Pings,
    ) -> Result<Self> {
        let nats = NatsCluster::start(3).await?;
        let mut nodes = Vec::new();
        let services = std::iter::repeat_n("gateway", gateways).chain(std::iter::repeat_n("router", routers));
        for service in services {
            let bus = format!(
                "[bus]\nbackend = \"nats\"\ncreate = true\nshards = {CLUSTER_SHARDS}\n[bus.nats]\nurls = {:?}\nmax_bytes = \"64MiB\"\nreplicas = 3\n",
                nats.urls()
            );
            let config = format!(
                "switchboard.services = [{service:?}]\n{NODE}{}{}{bus}",
                pings.config(),
                access.config()
            );
            nodes.push(start(&config).await?);
        }
        let system = Self {
            nodes,
            _nats: Some(nats),
            _data: None,
        };
        system.ready().await?;
        Ok(system)
    }

    /// All services in one process, with these sections besides, which name the bus.
    pub(crate) async fn one(sections: &str) -> Result<Self> {
        let config = format!("{NODE}{}{sections}", Access::Insecure.config());
        let system = Self {
            nodes: vec![start(&config).await?],
            _nats: None,
            _data: None,
        };
        system.ready().await?;
        Ok(system)
    }

    /// As [`Self::one`], for users with tokens.
    pub(crate) async fn one_with_tokens(channels: &str, sections: &str) -> Result<Self> {
        let node = NODE.replace("[channels]\n", &format!("[channels]\n{channels}"));
        let config = format!("{node}{}{sections}", Access::Tokens.config());
        let system = Self {
            nodes: vec![start(&config).await?],
            _nats: None,
            _data: None,
        };
        system.ready().await?;
        Ok(system)
    }

    /// Where health and metrics of the first node are.
    pub(crate) fn admin_url(&self) -> Result<String> {
        Ok(self.nodes.first().context("no node")?.admin_url())
    }

    /// Where clients connect, one for each gateway.
    pub(crate) fn websocket_urls(&self) -> Vec<String> {
        self.nodes.iter().filter_map(Switchboard::websocket_url).collect()
    }

    /// Where backends ask, one for each gateway.
    pub(crate) fn api_urls(&self) -> Vec<String> {
        self.nodes.iter().filter_map(Switchboard::api_url).collect()
    }

    /// Where `MessageService` is asked.
    pub(crate) fn messages_address(&self) -> Result<String> {
        let running = self.nodes.iter().find_map(Switchboard::messages);
        Ok(running.context("no node is asked over gRPC")?.address.to_string())
    }

    /// Where the demo page is.
    pub(crate) fn page_url(&self) -> Result<String> {
        self.nodes
            .iter()
            .find_map(Switchboard::demo_url)
            .context("no gateway, so no page")
    }

    /// Until every node can serve: shards have owners, gateways their links.
    async fn ready(&self) -> Result<()> {
        for node in &self.nodes {
            if timeout(READY, node.ready()).await.is_err() {
                let report = reqwest::get(format!("{}/health/ready", node.admin_url())).await?;
                bail!("not ready within {READY:?}: {}", report.text().await?);
            }
        }
        Ok(())
    }

    /// Stops every node, gateways first; each must stop cleanly.
    pub(crate) async fn stop(self) -> Result<()> {
        for node in self.nodes {
            let stopped = node.stop().await;
            ensure!(
                stopped.forced.is_empty(),
                "these had to be stopped by force: {:?}",
                stopped.forced
            );
        }
        Ok(())
    }
}

async fn start(config: &str) -> Result<Switchboard> {
    let parsed = Config::from_toml(config).with_context(|| format!("configuration:\n{config}"))?;
    Ok(Box::pin(Switchboard::start(parsed)).await?)
}
