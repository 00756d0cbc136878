//! Reads the header with which a proxy of layer 4 says whose connection it passes on: the PROXY
//! protocol, versions 1 (a line of text) and 2 (binary).
//!
//! By hand: of the crates that parse it, one builds a second `thiserror`, the other is at 0.1, and
//! what is needed is two small formats and the rule to take no byte that belongs to the client.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tokio::io::{AsyncRead, AsyncReadExt as _};

/// What version 2 begins with.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// What version 1 begins with.
const LINE_START: &[u8] = b"PROXY ";

/// The longest line of version 1, with its end.
const MAX_LINE: usize = 107;

/// Bytes behind the fixed part of version 2, at most: the longest addresses, and room for what
/// proxies add behind them (TLVs). The format would allow 64 KiB.
const MAX_VARIABLE: usize = 2048;

/// Whose connection it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// The client's address.
    Client(IpAddr),
    /// The proxy's own (it looks whether we live), or one that it cannot name.
    Proxy,
}

/// Why a header is not understood.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HeaderError {
    #[error("the connection ended or broke within the PROXY header")]
    Io(#[from] std::io::Error),
    #[error("no PROXY header; does the proxy send one? Otherwise turn gateway.proxies.proxy_protocol off")]
    Missing,
    #[error("a PROXY header that is not well formed: {0}")]
    Malformed(&'static str),
}

/// Reads a header, and nothing behind it. Not cancel safe: what was read is lost. The time is the
/// caller's to limit.
///
/// # Errors
/// [`HeaderError`]; the connection is of no use then.
pub(crate) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Source, HeaderError> {
    // Both versions are longer than this, and differ within it.
    let mut start = [0; SIGNATURE.len()];
    stream.read_exact(&mut start).await?;
    if start == SIGNATURE {
        version_2(stream).await
    } else if start.starts_with(LINE_START) {
        version_1(stream, start.to_vec()).await
    } else {
        Err(HeaderError::Missing)
    }
}

/// `PROXY TCP4 192.0.2.1 192.0.2.2 4711 443\r\n`. Read byte by byte, as nobody knows where it ends.
async fn version_1(stream: &mut (impl AsyncRead + Unpin), mut line: Vec<u8>) -> Result<Source, HeaderError> {
    while !line.ends_with(b"\r\n") {
        if line.len() == MAX_LINE {
            return Err(HeaderError::Malformed("its line has no end"));
        }
        line.push(stream.read_u8().await?);
    }
    let line = str::from_utf8(&line)
        .ok()
        .and_then(|line| line.strip_suffix("\r\n"))
        .ok_or(HeaderError::Malformed("it is not text"))?;
    let mut words = line.split(' ').skip(1);
    let family = words.next().unwrap_or_default();
    let mut address = || words.next().unwrap_or_default();
    let source: IpAddr = match family {
        "UNKNOWN" => return Ok(Source::Proxy),
        "TCP4" => address().parse::<Ipv4Addr>().map(Into::into),
        "TCP6" => address().parse::<Ipv6Addr>().map(Into::into),
        _ => return Err(HeaderError::Malformed("neither TCP4 nor TCP6 nor UNKNOWN")),
    }
    .map_err(|_| HeaderError::Malformed("its source is not an address of the family"))?;
    Ok(Source::Client(source.to_canonical()))
}

/// Version and command, family and protocol, length, addresses, and what is not for us.
async fn version_2(stream: &mut (impl AsyncRead + Unpin)) -> Result<Source, HeaderError> {
    let version_and_command = stream.read_u8().await?;
    let family = stream.read_u8().await? >> 4;
    let length = usize::from(stream.read_u16().await?);
    if length > MAX_VARIABLE {
        return Err(HeaderError::Malformed("longer than 2 KiB"));
    }
    let mut variable = vec![0; length];
    stream.read_exact(&mut variable).await?;
    match version_and_command {
        // LOCAL: what stands in the rest does not count.
        0x20 => return Ok(Source::Proxy),
        0x21 => {}
        _ => return Err(HeaderError::Malformed("neither LOCAL nor PROXY of version 2")),
    }
    let short = HeaderError::Malformed("too short for its addresses");
    let source: IpAddr = match family {
        1 if length >= 12 => variable
            .first_chunk::<4>()
            .map(|bytes| Ipv4Addr::from(*bytes).into()),
        2 if length >= 36 => variable
            .first_chunk::<16>()
            .map(|bytes| Ipv6Addr::from(*bytes).into()),
        1 | 2 => None,
        // AF_UNSPEC, AF_UNIX: somebody without an address.
        _ => return Ok(Source::Proxy),
    }
    .ok_or(short)?;
    Ok(Source::Client(source.to_canonical()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a header says, and what is left of the stream behind it.
    async fn read_all(bytes: &[u8]) -> (Result<Source, String>, Vec<u8>) {
        let mut stream = bytes;
        let source = read(&mut stream).await.map_err(|error| error.to_string());
        (source, stream.to_vec())
    }

    fn client(address: &str) -> Result<Source, String> {
        Ok(Source::Client(address.parse().unwrap()))
    }

    fn version_2(command: u8, family: u8, variable: &[u8]) -> Vec<u8> {
        let length = u16::try_from(variable.len()).unwrap();
        [
            &SIGNATURE[..],
            &[command, family],
            &length.to_be_bytes(),
            variable,
        ]
        .concat()
    }

    #[tokio::test]
    async fn version_1_and_not_a_byte_more() {
        for (header, source) in [
            ("PROXY TCP4 192.0.2.1 10.0.0.1 4711 443\r\n", client("192.0.2.1")),
            (
                "PROXY TCP6 2001:db8::1 2001:db8::2 4711 443\r\n",
                client("2001:db8::1"),
            ),
            (
                "PROXY TCP6 ::ffff:192.0.2.1 ::1 4711 443\r\n",
                client("192.0.2.1"),
            ),
            ("PROXY UNKNOWN\r\n", Ok(Source::Proxy)),
            ("PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", Ok(Source::Proxy)),
        ] {
            let (read, left) = read_all(format!("{header}GET / HTTP/1.1\r\n").as_bytes()).await;
            assert_eq!(read, source, "{header}");
            assert_eq!(left, b"GET / HTTP/1.1\r\n");
        }
    }

    #[tokio::test]
    async fn version_2_and_not_a_byte_more() {
        let v4 = [192, 0, 2, 1, 10, 0, 0, 1, 0x12, 0x67, 1, 0xbb];
        let mut v6 = [0; 36];
        v6[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
        v6[15] = 1;
        let with_tlv = [&v4[..], &[0x04, 0, 2, 1, 2]].concat();
        for (header, source) in [
            (version_2(0x21, 0x11, &v4), client("192.0.2.1")),
            (version_2(0x21, 0x11, &with_tlv), client("192.0.2.1")),
            (version_2(0x21, 0x21, &v6), client("2001:db8::1")),
            (version_2(0x20, 0, &[]), Ok(Source::Proxy)),
            (version_2(0x20, 0x11, &v4), Ok(Source::Proxy)),
            (version_2(0x21, 0x31, &[0; 216]), Ok(Source::Proxy)),
        ] {
            let (read, left) = read_all(&[&header[..], b"GET"].concat()).await;
            assert_eq!(read, source, "{header:?}");
            assert_eq!(left, b"GET");
        }
    }

    #[tokio::test]
    async fn what_is_no_header_is_refused() {
        let endless = [b"PROXY TCP4 ".to_vec(), vec![b'1'; 200]].concat();
        for (bytes, words) in [
            (b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_vec(), "no PROXY header"),
            (b"PROXY TCP4 192.0.2.1".to_vec(), "ended"),
            (b"PROXY".to_vec(), "ended"),
            (endless, "no end"),
            (b"PROXY TCP4 ::1 ::1 1 2\r\n".to_vec(), "not an address"),
            (b"PROXY TCP4 192.0.2.1:1\r\n".to_vec(), "not an address"),
            (b"PROXY UDP4 192.0.2.1 1 2\r\n".to_vec(), "neither"),
            (b"PROXY TCP4 \xff\xff\r\n".to_vec(), "not text"),
            (version_2(0x21, 0x11, &[1, 2, 3, 4]), "too short"),
            (version_2(0x21, 0x21, &[0; 12]), "too short"),
            (version_2(0x31, 0x11, &[0; 12]), "version 2"),
            (version_2(0x2f, 0x11, &[0; 12]), "version 2"),
            (version_2(0x21, 0x11, &vec![0; 4096]), "longer"),
        ] {
            let (read, _) = read_all(&bytes).await;
            let error = read.unwrap_err();
            assert!(error.contains(words), "{words} in {error}");
        }
    }
}
