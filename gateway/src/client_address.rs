//! Which address a client has, where proxies stand between it and the gateway.
//!
//! Logs and limits are only as good as the address they use, and anybody can write any address into a
//! header. So what a proxy says is believed where the configuration names the proxy, and only as far
//! as the chain of named proxies reaches.

use std::net::IpAddr;

use axum::http::HeaderMap;
use ipnet::IpNet;
use switchboard_service_kit::config::Document;

/// The header in which each proxy of a chain appends the address that it was called from.
const FORWARDED_FOR: &str = "x-forwarded-for";

/// Addresses of a chain that are looked at, at most. Longer chains are somebody's play.
const MAX_HOPS: usize = 32;

/// The proxies that are believed.
#[derive(Debug, Clone, Default)]
pub struct Proxies {
    trusted: Vec<IpNet>,
    header: bool,
}

impl Proxies {
    /// Reads the section `[gateway.proxies]`.
    pub(crate) fn read(document: &mut Document) -> Self {
        let mut section = document.section("gateway.proxies");
        let listed = section.list(
            "trusted",
            &[],
            "Addresses or networks (10.0.0.0/8) of the proxies in front of the gateway. Of these alone `X-Forwarded-For` and the \
             PROXY protocol are believed; the client is the last address that is none of them.",
        );
        let header = section.boolean(
            "proxy_protocol",
            false,
            "Trusted proxies begin each connection with a PROXY protocol header, version 1 or 2; one without is closed.",
        );
        let mut trusted = Vec::new();
        for text in &listed {
            match network(text) {
                Some(network) if network.prefix_len() == 0 => section.fault(
                    "trusted",
                    format!("\"{text}\" is every address, so that each client could say who it is"),
                    "name the networks of your proxies",
                ),
                Some(network) => trusted.push(network),
                None => section.fault(
                    "trusted",
                    format!("\"{text}\" is neither an address nor a network"),
                    "write an IP address such as \"10.0.0.7\", or a network such as \"10.0.0.0/8\"",
                ),
            }
        }
        if header && listed.is_empty() {
            section.fault(
                "proxy_protocol",
                "true, but no proxy is trusted, so no header would be read",
                "name your proxies in gateway.proxies.trusted, or remove the key",
            );
        }
        Self { trusted, header }
    }

    /// Whether `address` is a proxy that is believed.
    pub(crate) fn trusts(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.trusted.iter().any(|network| network.contains(&address))
    }

    /// Whether a connection from `peer` begins with a header of the PROXY protocol.
    pub(crate) fn expects_header(&self, peer: IpAddr) -> bool {
        self.header && self.trusts(peer)
    }

    /// The client of a request that came from `sender`: `sender` itself, unless that is a trusted
    /// proxy. Then it is the rightmost address of `X-Forwarded-For` that is none; where all of them
    /// are trusted, the leftmost; and where an entry is no address, whoever wrote it.
    pub(crate) fn client(&self, sender: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut client = sender.to_canonical();
        let chain = headers.get_all(FORWARDED_FOR).iter().rev();
        let hops = chain.flat_map(|line| line.to_str().unwrap_or_default().rsplit(','));
        for hop in hops.take(MAX_HOPS) {
            if !self.trusts(client) {
                break;
            }
            match hop_address(hop) {
                Some(address) => client = address,
                None => break,
            }
        }
        client
    }
}

fn network(text: &str) -> Option<IpNet> {
    let text = text.trim();
    match text.parse::<IpAddr>() {
        Ok(address) => Some(IpNet::from(address.to_canonical())),
        Err(_) => text.parse::<IpNet>().ok().map(|network| network.trunc()),
    }
}

/// An address as proxies write it: some add the port, and brackets around IPv6.
fn hop_address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let address = match text.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?.0.parse().ok()?,
        None => match text.parse::<IpAddr>() {
            Ok(address) => address,
            Err(_) => text.parse::<std::net::SocketAddr>().ok()?.ip(),
        },
    };
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(keys: &str) -> Result<Proxies, String> {
        let mut document = Document::parse(&format!("[gateway.proxies]\n{keys}"), []).unwrap();
        let proxies = Proxies::read(&mut document);
        document
            .finish()
            .map(|_| proxies)
            .map_err(|faults| faults.to_string())
    }

    fn client(proxies: &Proxies, sender: &str, lines: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(FORWARDED_FOR, line.parse().unwrap());
        }
        proxies.client(sender.parse().unwrap(), &headers).to_string()
    }

    #[test]
    fn nobody_is_believed_who_is_not_named() {
        let proxies = read("").unwrap();
        assert_eq!(client(&proxies, "127.0.0.1", &["192.0.2.1"]), "127.0.0.1");
        let proxies = read("trusted = [\"10.0.0.0/8\"]").unwrap();
        assert_eq!(client(&proxies, "192.0.2.9", &["192.0.2.1"]), "192.0.2.9");
    }

    #[test]
    fn the_client_is_the_last_that_is_no_proxy() {
        let proxies = read("trusted = [\"10.0.0.0/8\", \"2001:db8::7\", \"127.0.0.1\"]").unwrap();
        for (lines, expected) in [
            (&["192.0.2.1"][..], "192.0.2.1"),
            // What the client itself wrote stands on the left.
            (&["198.51.100.1, 192.0.2.1"], "192.0.2.1"),
            // A chain of proxies, in one header or several.
            (&["198.51.100.1, 192.0.2.1, 10.1.1.1"], "192.0.2.1"),
            (&["198.51.100.1, 192.0.2.1", "2001:db8::7,10.1.1.1"], "192.0.2.1"),
            // All of them are proxies: the first knows no client.
            (&["10.2.2.2, 10.1.1.1"], "10.2.2.2"),
            (&[], "10.0.0.1"),
            // Nonsense is believed no further than to who let it pass.
            (&["192.0.2.1, nonsense, 10.1.1.1"], "10.1.1.1"),
            (&["192.0.2.1, "], "10.0.0.1"),
            (&["unknown"], "10.0.0.1"),
            // With ports, in brackets, and IPv4 in an IPv6 coat.
            (&["192.0.2.1:4711"], "192.0.2.1"),
            (&["[2001:db8::1]:4711"], "2001:db8::1"),
            (&["2001:db8::1, [2001:db8::7]"], "2001:db8::1"),
            (&["192.0.2.1, ::ffff:10.1.1.1"], "192.0.2.1"),
        ] {
            assert_eq!(client(&proxies, "10.0.0.1", lines), expected, "{lines:?}");
        }
        assert_eq!(client(&proxies, "::ffff:10.0.0.1", &["192.0.2.1"]), "192.0.2.1");
    }

    #[test]
    fn a_chain_without_end_is_not_followed() {
        let proxies = read("trusted = [\"10.0.0.0/8\"]").unwrap();
        let chain = format!("192.0.2.1{}", ", 10.0.0.1".repeat(10_000));
        assert_eq!(client(&proxies, "10.0.0.2", &[&chain]), "10.0.0.1");
    }

    #[test]
    fn wrong_lists_are_faults() {
        for (keys, words) in [
            ("trusted = [\"10.0.0.0/8\", \"nginx\"]", "\"nginx\""),
            ("trusted = [\"10.0.0.0/33\"]", "10.0.0.0/33"),
            ("trusted = [\"0.0.0.0/0\"]", "every address"),
            ("proxy_protocol = true", "gateway.proxies.proxy_protocol"),
        ] {
            let faults = read(keys).unwrap_err();
            assert!(faults.contains(words), "{words} in {faults}");
        }
    }
}
