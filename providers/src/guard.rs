//! Where requests may go whose address a user wrote: to public addresses alone.
//!
//! A name is looked up once, by the client itself, and what was looked up is what is connected to: an answer that is another one the
//! next time (DNS rebinding) does not help. IP literals never reach a resolver, so [`Guard::check`] looks at them in the URL: every
//! request needs both. Redirects are not followed and the environment's proxy is not used.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use ipnet::IpNet;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Client, Url};

use crate::{SendError, http};

/// Bytes of a URL, at most.
pub const LONGEST_URL: usize = 2048;

/// How a name becomes addresses.
type Lookup = Arc<dyn Fn(String) -> BoxFuture<'static, std::io::Result<Vec<SocketAddr>>> + Send + Sync>;

/// What may be asked: everything public, and the networks that the operator allows besides.
#[derive(Clone)]
pub struct Guard {
    allowed: Arc<[IpNet]>,
    lookup: Lookup,
}

impl std::fmt::Debug for Guard {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Guard")
            .field("allowed", &self.allowed)
            .finish_non_exhaustive()
    }
}

impl Guard {
    /// Public addresses alone.
    #[must_use]
    pub fn public() -> Self {
        Self::allowing(Vec::new())
    }

    /// Public addresses, and those in `networks`: servers of the operator's own. To these also without TLS where the URL has an IP
    /// address, or `localhost` where loopback is among them.
    #[must_use]
    pub fn allowing(networks: Vec<IpNet>) -> Self {
        Self::looking_up(networks, |name| {
            Box::pin(async move { Ok(tokio::net::lookup_host((name, 0)).await?.collect()) })
        })
    }

    fn looking_up(
        networks: Vec<IpNet>,
        lookup: impl Fn(String) -> BoxFuture<'static, std::io::Result<Vec<SocketAddr>>> + Send + Sync + 'static,
    ) -> Self {
        Self {
            allowed: networks.into(),
            lookup: Arc::new(lookup),
        }
    }

    /// A client that connects names to nothing else: a name that leads elsewhere alone is [`SendError::Refused`]. `limit`: how long a
    /// request may take with its answer.
    ///
    /// # Errors
    /// Where the system's roots of trust cannot be read.
    pub fn client(&self, limit: Duration) -> Result<Client, reqwest::Error> {
        http::builder(limit)
            .dns_resolver(Arc::new(Resolver(self.clone())))
            .build()
    }

    /// The URL as it is asked, without its fragment.
    ///
    /// # Errors
    /// [`SendError::Refused`]: no URL of at most [`LONGEST_URL`] bytes, not https, with a user or a password, or an IP address that
    /// is not public in any of the forms that browsers know (decimal, hexadecimal, octal).
    pub fn check(&self, url: &str) -> Result<Url, SendError> {
        let refused = |reason: &str| SendError::Refused {
            reason: reason.to_owned(),
        };
        if url.len() > LONGEST_URL {
            return Err(refused("the URL is too long"));
        }
        let mut url = Url::parse(url).map_err(|_| refused("not a URL"))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(refused("the URL has a user"));
        }
        let host = url.host_str().unwrap_or_default();
        let host = host.strip_suffix('.').unwrap_or(host);
        if host.is_empty() || url.port() == Some(0) {
            return Err(refused("the URL has no host"));
        }
        // The parser has made every form of an IPv4 address the usual one.
        let literal = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .parse::<IpAddr>();
        let is_own = match literal {
            Ok(address) => {
                let is_own = self.is_allowed(address);
                if !is_own && !is_public(address) {
                    return Err(refused("the URL's address is not public"));
                }
                is_own
            }
            Err(_) if host == "localhost" || host.ends_with(".localhost") => {
                if !self.is_allowed(IpAddr::V4(Ipv4Addr::LOCALHOST)) {
                    return Err(refused("the URL's address is not public"));
                }
                true
            }
            Err(_) => false,
        };
        if url.scheme() != "https" && !(url.scheme() == "http" && is_own) {
            return Err(refused("the URL is not https"));
        }
        url.set_fragment(None);
        Ok(url)
    }

    fn is_allowed(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.allowed.iter().any(|network| network.contains(&address))
    }
}

/// A name that leads to private addresses alone: so it is meant, and another try is of no use.
#[derive(Debug, thiserror::Error)]
#[error("not a public address")]
pub(crate) struct NotPublic;

struct Resolver(Guard);

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = self.0.clone();
        Box::pin(async move {
            let mut found = (guard.lookup)(name.as_str().to_owned()).await?;
            if found.is_empty() {
                return Err("the name has no address".into());
            }
            found.retain(|address| is_public(address.ip()) || guard.is_allowed(address.ip()));
            if found.is_empty() {
                return Err(NotPublic.into());
            }
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// Whether the address is anybody's on the internet: what IANA's registries of special-purpose addresses (RFC 6890) do not name.
#[must_use]
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let is_special = match (a, b, c) {
        // This network (RFC 791), and all of class E with broadcast (RFC 1112).
        (0 | 240.., _, _) => true,
        // Shared by a carrier's customers (RFC 6598).
        (100, 64..=127, _) => true,
        // IETF protocol assignments (RFC 6890), the relays of 6to4 (RFC 7526), AS112 (RFC 7534, 7535) and AMT (RFC 7450).
        (192, 0, 0) | (192, 88, 99) | (192, 175, 48) | (192, 31, 196) | (192, 52, 193) => true,
        // Benchmarks (RFC 2544).
        (198, 18 | 19, _) => true,
        _ => false,
    };
    // 169.254.169.254, where clouds keep credentials, is link-local.
    !(is_special
        || address.is_loopback()
        || address.is_private()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_documentation())
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    if let Some(mapped) = address.to_ipv4_mapped() {
        return is_public_v4(mapped);
    }
    match address.segments() {
        // NAT64 (RFC 6052): how a public IPv4 address is reached where there is no IPv4.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            is_public_v4(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)))
        }
        // IETF protocol assignments, Teredo among them (RFC 2928, 4380), documentation (RFC 3849, 9637), 6to4 (RFC 7526).
        // Tunnels carry an IPv4 address that is nobody's business: no server of today is reached through them.
        [0x2001, 0..=0x1ff | 0xdb8, ..] | [0x2002, ..] | [0x3fff, 0..=0xfff, ..] => false,
        // Global unicast (RFC 4291) is the only other space that is given out: loopback, ULA, link-local, site-local and multicast are not.
        [0x2000..=0x3fff, ..] => true,
        _ => false,
    }
}

#[cfg(test)]
pub(crate) mod tests;
