//! `publish` and `listen`: an operator says something, or hears what is said, as a client of the gateway.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::json;
use serde_json::value::RawValue;
use switchboard_client::{Client, ClientError, Event, Options, Place, Tls};
use switchboard_gateway::TokenRequest;
use switchboard_proto::client::{Command, Publication, RpcRequest};
use tokio::time::sleep;

use super::say;
use crate::Config;

/// Until a gateway that is not there is tried again.
const BACK_OFF: Duration = Duration::from_secs(1);

/// What a token of ours is good for: a command that runs for longer connects anew with another.
const TOKEN_LIFE: Duration = Duration::from_secs(24 * 3600);

/// Whom to talk to, and as who.
#[derive(Debug, Clone, Args)]
pub(super) struct As {
    /// The gateway, as ws://… or wss://…; by default the one of the configuration, on this machine.
    #[arg(long)]
    url: Option<String>,
    /// PEM file of the certificate authorities to believe for wss://, instead of those that this machine trusts.
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// The user, for whom a token is signed with gateway.tokens.hmac_secret; "" for an anonymous one.
    #[arg(long, default_value = "operator")]
    user: String,
    /// A connection token to use instead.
    #[arg(long)]
    token: Option<String>,
}

/// What is said.
#[derive(Debug, Clone, Args)]
pub(super) struct Said {
    /// The channel's name.
    channel: String,
    /// What to say, as JSON.
    data: String,
    /// An idempotency key: with the same one again nothing more is stored.
    #[arg(long)]
    key: Option<String>,
    /// A tag, as `name=value`; may be given more than once.
    #[arg(long = "tag", value_name = "NAME=VALUE")]
    tags: Vec<String>,
    /// low, normal, high or critical.
    #[arg(long)]
    priority: Option<String>,
}

/// What is heard.
#[derive(Debug, Clone, Args)]
pub(super) struct Heard {
    /// The channels' names.
    #[arg(required = true)]
    channels: Vec<String>,
    /// End after so many publications.
    #[arg(long)]
    count: Option<u64>,
}

/// Publishes once, and prints where it stands.
pub(super) async fn publish(config: &Config, who: &As, said: &Said) -> anyhow::Result<ExitCode> {
    let data: &RawValue = serde_json::from_str(&said.data)
        .context("the data is not JSON: put quotes around text, as in '\"hello\"'")?;
    let mut tags = BTreeMap::new();
    for tag in &said.tags {
        let (name, value) = tag.split_once('=').context("a tag is written as name=value")?;
        tags.insert(name, value);
    }
    let mut request = json!({ "channel": said.channel, "data": data, "tags": tags });
    for (name, value) in [("key", &said.key), ("priority", &said.priority)] {
        if let (Some(value), Some(object)) = (value, request.as_object_mut()) {
            object.insert(name.to_owned(), json!(value));
        }
    }
    let mut client = connect(config, who).await?;
    let command = Command {
        rpc: Some(RpcRequest {
            method: "message.send".to_owned(),
            data: request.to_string().into(),
        }),
        ..Command::default()
    };
    let reply = client
        .command(command)
        .await
        .map_err(|error| told(error, &said.channel))?;
    let answer = reply.rpc.unwrap_or_default().data;
    Ok(say(&format!("{}\n", String::from_utf8_lossy(&answer))))
}

/// Prints a line of JSON for each publication, until it is told to end or has printed enough.
pub(super) async fn listen(config: &Config, who: &As, heard: &Heard) -> anyhow::Result<ExitCode> {
    let mut places: BTreeMap<String, Option<Place>> = heard
        .channels
        .iter()
        .map(|channel| (channel.clone(), None))
        .collect();
    let mut left = heard.count.unwrap_or(u64::MAX);
    // Only what may pass is tried again, and the first time nothing is.
    let mut client = Some(begin(config, who, &mut places, &mut left).await?);
    while left > 0 {
        let Some(connection) = &mut client else {
            sleep(BACK_OFF).await;
            match begin(config, who, &mut places, &mut left).await {
                Ok(connection) => client = Some(connection),
                Err(error) => eprintln!("switchboard: {error:#}; trying again"),
            }
            continue;
        };
        match connection.next().await {
            Ok(Event::Publication { channel, publication }) => {
                if let Some(place) = places.get_mut(&channel) {
                    print(&channel, &publication, place.as_mut(), &mut left)?;
                }
            }
            Ok(Event::Unsubscribed { channel, code }) => {
                eprintln!("switchboard: {channel} was ended by the server with {code}; connecting anew");
                client = None;
            }
            Ok(Event::Reply(_) | Event::Other(_)) => {}
            Err(error) => {
                eprintln!("switchboard: {error}; connecting anew");
                client = None;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Connects and subscribes to all, from where it left off.
async fn begin(
    config: &Config,
    who: &As,
    places: &mut BTreeMap<String, Option<Place>>,
    left: &mut u64,
) -> anyhow::Result<Client> {
    let mut client = connect(config, who).await?;
    for (channel, place) in places {
        let token = match &who.token {
            Some(_) => String::new(),
            None => sign(config, &who.user, Some(channel)).unwrap_or_default(),
        };
        let result = client.subscribe(channel, &token, place.as_ref()).await;
        let result = result.map_err(|error| told(error, channel))?;
        if result.was_recovering && !result.recovered {
            eprintln!("switchboard: {channel}: something that was said meanwhile is gone");
        }
        let place = place.insert(Place {
            epoch: result.epoch,
            offset: result.offset,
        });
        for publication in &result.publications {
            print(channel, publication, Some(place), left)?;
        }
    }
    Ok(client)
}

fn print(
    channel: &str,
    publication: &Publication,
    place: Option<&mut Place>,
    left: &mut u64,
) -> anyhow::Result<()> {
    if let Some(place) = place {
        place.offset = place.offset.max(publication.offset);
    }
    if *left == 0 {
        return Ok(());
    }
    *left -= 1;
    let data = serde_json::from_slice::<&RawValue>(&publication.data);
    let mut line = json!({ "channel": channel, "offset": publication.offset });
    if let Some(object) = line.as_object_mut() {
        match &data {
            Ok(data) => drop(object.insert("data".to_owned(), json!(data))),
            Err(_) => {
                let bytes: String = publication
                    .data
                    .iter()
                    .map(|byte| format!("{byte:02x}"))
                    .collect();
                object.insert("hex".to_owned(), json!(bytes));
            }
        }
        if !publication.tags.is_empty() {
            object.insert("tags".to_owned(), json!(publication.tags));
        }
        if let Some(info) = &publication.info {
            object.insert("user".to_owned(), json!(info.user));
            object.insert("client".to_owned(), json!(info.client));
        }
    }
    use std::io::Write as _;
    writeln!(std::io::stdout(), "{line}").context("standard output cannot be written")
}

async fn connect(config: &Config, who: &As) -> anyhow::Result<Client> {
    let url = match &who.url {
        Some(url) => url.clone(),
        None if config.gateway.tls.is_some() => {
            bail!(
                "the gateway of this configuration speaks TLS: name the host of its certificate with \
                 --url wss://HOST:PORT/connection/websocket, and its authority with --ca-file if this machine does not trust it"
            )
        }
        None => url_of(config),
    };
    let token = match &who.token {
        Some(token) => token.clone(),
        None => sign(config, &who.user, None).unwrap_or_default(),
    };
    let options = Options {
        token,
        name: "switchboard".to_owned(),
        tls: who.ca_file.as_deref().map(Tls::with_ca_file).transpose()?,
        ..Options::default()
    };
    Client::connect(&url, options).await.with_context(|| {
        format!("cannot connect to {url}: is a gateway there (--url), and does it know the token (--token, or gateway.tokens.hmac_secret in --config)?")
    })
}

/// Where the configured gateway is, seen from this machine.
fn url_of(config: &Config) -> String {
    let mut address = config.gateway.listen;
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    format!("ws://{address}/connection/websocket")
}

/// A token; `None`: the configuration has no secret to sign with, or nobody is to be named.
fn sign(config: &Config, user: &str, channel: Option<&str>) -> Option<String> {
    if user.is_empty() && channel.is_none() {
        return None;
    }
    let request = TokenRequest {
        user,
        channel,
        ttl: TOKEN_LIFE,
        info: None,
        admin: false,
    };
    config.gateway.tokens.issue(request).ok()
}

fn told(error: ClientError, channel: &str) -> anyhow::Error {
    let text = match &error {
        ClientError::Refused { code: 103, .. } => {
            format!(
                "{channel}: not allowed; `switchboard explain USER {channel}` says which setting decides it"
            )
        }
        ClientError::Refused { code: 102, .. } => format!("{channel}: its namespace is not configured"),
        ClientError::Refused { code: 107, .. } => format!("{channel}: the server does not take it"),
        _ => channel.to_owned(),
    };
    anyhow::Error::new(error).context(text)
}
