use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;

use super::*;
use crate::testing::{Fake, Reply};

/// A guard whose lookups are answered one after the other; the last answer again and again.
pub(crate) fn answering(networks: &[&str], answers: &[&[&str]]) -> Guard {
    let networks = networks.iter().map(|network| network.parse().unwrap()).collect();
    let answers: Vec<Vec<SocketAddr>> = answers
        .iter()
        .map(|answer| {
            answer
                .iter()
                .map(|ip| SocketAddr::new(ip.parse().unwrap(), 0))
                .collect()
        })
        .collect();
    let asked = AtomicUsize::new(0);
    Guard::looking_up(networks, move |_| {
        let turn = asked.fetch_add(1, Ordering::Relaxed).min(answers.len() - 1);
        let answer = answers[turn].clone();
        Box::pin(async move { Ok(answer) })
    })
}

/// Not public, as a registry would say it.
const SPECIAL: &[&str] = &[
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
];

fn special() -> impl Strategy<Value = Ipv4Addr> {
    (0..SPECIAL.len(), any::<u32>()).prop_map(|(at, bits)| {
        let network: ipnet::Ipv4Net = SPECIAL[at].parse().unwrap();
        let mask = u32::from(network.hostmask());
        Ipv4Addr::from(u32::from(network.network()) | (bits & mask))
    })
}

fn nat64(address: Ipv4Addr) -> Ipv6Addr {
    Ipv6Addr::from((0x64_ff9b_u128 << 96) | u128::from(u32::from(address)))
}

fn is_refused(guard: &Guard, url: &str) -> bool {
    matches!(guard.check(url), Err(SendError::Refused { .. }))
}

proptest! {
    #[test]
    fn special_addresses_are_not_public_in_any_form(address in special()) {
        let bits = u32::from(address);
        prop_assert!(!is_public(IpAddr::V4(address)));
        prop_assert!(!is_public(IpAddr::V6(address.to_ipv6_mapped())));
        prop_assert!(!is_public(IpAddr::V6(nat64(address))));
        let [a, b, c, d] = address.octets();
        for host in [
            format!("{address}"), format!("{address}."), format!("{bits}"), format!("{bits:#x}"), format!("0{bits:o}"),
            format!("{a:#x}.{b}.{c:#x}.{d}"), format!("0{a:o}.0{b:o}.0{c:o}.0{d:o}"), format!("{a}.{}", bits & 0xff_ffff),
            format!("[{}]", address.to_ipv6_mapped()), format!("[{}]", nat64(address)),
        ] {
            prop_assert!(is_refused(&Guard::public(), &format!("https://{host}/")), "{}", host);
        }
    }

    #[test]
    fn the_rest_of_ipv4_is_public(bits in any::<u32>()) {
        let address = Ipv4Addr::from(bits);
        let more = ["192.31.196.0/24", "192.52.193.0/24", "192.175.48.0/24"];
        let is_special = SPECIAL.iter().chain(&more).any(|network| {
            network.parse::<ipnet::Ipv4Net>().unwrap().contains(&address)
        });
        prop_assert_eq!(is_public(IpAddr::V4(address)), !is_special);
        prop_assert_eq!(is_public(IpAddr::V6(address.to_ipv6_mapped())), !is_special);
    }

    #[test]
    fn only_global_unicast_of_ipv6_is_public(bits in any::<u128>()) {
        let inside = Ipv6Addr::from((bits >> 3) | (1 << 125));
        let [first, second, ..] = inside.segments();
        let is_special = first == 0x2002 || (first == 0x2001 && (second < 0x200 || second == 0xdb8))
            || (first == 0x3fff && second < 0x1000);
        prop_assert_eq!(is_public(IpAddr::V6(inside)), !is_special);
        let outside = Ipv6Addr::from(bits | (1 << 127));
        prop_assert!(!is_public(IpAddr::V6(outside)));
        for prefix in [0x2001_0000_u128, 0x2002_0000, 0x2001_0db8] {
            let mask = if prefix == 0x2002_0000 { 112 } else { 96 };
            let tunnel = Ipv6Addr::from((prefix << 96) | (bits & ((1 << mask) - 1)));
            prop_assert!(!is_public(IpAddr::V6(tunnel)));
        }
    }

    #[test]
    fn no_text_breaks_it(text in ".{0,80}") {
        drop(Guard::public().check(&text));
        drop(Guard::public().check(&format!("https://{text}")));
    }
}

#[test]
fn urls_that_are_not_asked() {
    let public = Guard::public();
    for url in [
        "",
        "example.org",
        "http://example.org/",
        "ftp://example.org/",
        "file:///etc/passwd",
        "https://u@example.org/",
        "https://u:p@example.org/",
        "https://:p@example.org/",
        "https://localhost/",
        "https://LOCALHOST./",
        "https://a.localhost/",
        "https://[::1]/",
        "https://[::]/",
        "https://[fe80::1]/",
        "https://[fec0::1]/",
        "https://[fc00::1]/",
        "https://[ff02::1]/",
        "https://[::127.0.0.1]/",
        "https://[::ffff:7f00:1]/",
        "https://[2002:7f00:1::]/",
        "https://[64:ff9b:1::1]/",
        "https://127.1/",
        "https://0/",
        "https://１２７.0.0.1/",
        "https://127。0。0。1/",
        "https://169.254.169.254/latest",
        "https://%31%32%37.0.0.1/",
        "https://example.org:0/",
        "http://93.184.216.34/",
        "https://1.2.3.4.5/",
        "https://exa mple.org/",
    ] {
        assert!(is_refused(&public, url), "{url}");
    }
    assert!(is_refused(
        &public,
        &format!("https://example.org/{}", "a".repeat(2048))
    ));
    for url in [
        "https://example.org/a?b",
        "https://93.184.216.34:8443/",
        "https://[2606:4700::1]/",
        "https://xn--bcher-kva.example/",
    ] {
        assert_eq!(public.check(url).unwrap().as_str(), url);
    }
    assert_eq!(
        public.check("https://bücher.example/#x").unwrap().as_str(),
        "https://xn--bcher-kva.example/"
    );
    let own = Guard::allowing(vec!["10.1.0.0/16".parse().unwrap()]);
    assert!(own.check("http://10.1.2.3:80/").is_ok() && own.check("https://[::ffff:10.1.2.3]/").is_ok());
    assert!(
        is_refused(&own, "http://10.2.0.1/")
            && is_refused(&own, "http://localhost/")
            && is_refused(&own, "http://example.org/")
    );
}

#[tokio::test]
async fn what_was_looked_up_is_what_is_connected_to() {
    let server = Fake::start([Reply::new(200, "")]).await;
    let port = server.address.port();
    let url = format!("http://rebinding.example:{port}/");
    let limit = Duration::from_secs(10);
    for answer in [
        "127.0.0.1",
        "::ffff:127.0.0.1",
        "64:ff9b::7f00:1",
        "0.0.0.0",
        "::1",
    ] {
        let client = answering(&[], &[&[answer]]).client(limit).unwrap();
        let error = client.get(&url).send().await.unwrap_err();
        let error = format!("{error:?}");
        assert!(error.contains("NotPublic"), "{error}");
    }
    assert_eq!(server.asked().len(), 0);
    // The same name, where it is allowed: it would have been reached.
    let client = answering(&["127.0.0.0/8"], &[&["10.0.0.1", "127.0.0.1"]])
        .client(limit)
        .unwrap();
    assert_eq!(client.get(&url).send().await.unwrap().status(), 200);
    assert_eq!(server.asked().len(), 1);
}

#[tokio::test]
async fn a_later_answer_is_looked_at_as_the_first_was() {
    let server = Fake::start([Reply::new(200, "")]).await;
    let url = format!("http://rebinding.example:{}/", server.address.port());
    // The first answer stands for a public server, the second for what an attacker changes it to.
    let guard = answering(&["127.0.0.1/32"], &[&["127.0.0.1"], &["127.0.0.2"]]);
    let client = guard.client(Duration::from_secs(10)).unwrap();
    // No connection is kept: each request looks the name up.
    let ask = async || client.get(&url).header("connection", "close").send().await;
    assert_eq!(ask().await.unwrap().status(), 200);
    let error = format!("{:?}", ask().await.unwrap_err());
    assert!(error.contains("NotPublic"), "{error}");
    assert_eq!(server.asked().len(), 1);
}
