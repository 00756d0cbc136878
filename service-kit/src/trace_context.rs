//! The trace context of the W3C recommendation: which trace something belongs to, and which step
//! of it caused it. Travels as a `traceparent` header or in 25 bytes.

use std::fmt;
use std::str::FromStr;

const SAMPLED: u8 = 1;
/// Bytes of the binary form: trace id, span id, flags.
pub const BINARY_LENGTH: usize = 25;

/// A place in a trace. Neither id is ever zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceContext {
    trace_id: [u8; 16],
    span_id: [u8; 8],
    flags: u8,
}

/// Why something is not a trace context. Whoever gets one goes on with [`TraceContext::random`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a trace context: expected 00-<32 hex digits>-<16 hex digits>-<2 hex digits>, ids not zero")]
pub struct InvalidTraceContext;

impl TraceContext {
    /// The beginning of a new trace.
    pub fn random(sampled: bool) -> Self {
        Self {
            trace_id: random_id(),
            span_id: random_id(),
            flags: if sampled { SAMPLED } else { 0 },
        }
    }

    /// The next step of the same trace: another span id, all else the same.
    #[must_use]
    pub fn child(&self) -> Self {
        Self {
            span_id: random_id(),
            ..*self
        }
    }

    /// Whether the caller may have recorded this trace.
    pub fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// What log lines carry as `correlation_id`: the trace id in 32 hexadecimal digits.
    pub fn correlation_id(&self) -> CorrelationId {
        CorrelationId(self.trace_id)
    }

    /// Trace id (16 bytes), span id (8), flags (1).
    pub fn to_bytes(&self) -> [u8; BINARY_LENGTH] {
        let mut bytes = [0; BINARY_LENGTH];
        let fields = self.trace_id.iter().chain(&self.span_id).chain([&self.flags]);
        for (byte, field) in bytes.iter_mut().zip(fields) {
            *byte = *field;
        }
        bytes
    }

    /// Reads [`TraceContext::to_bytes`].
    ///
    /// # Errors
    /// Another length, or an id that is zero.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, InvalidTraceContext> {
        let (trace_id, rest) = bytes.split_first_chunk().ok_or(InvalidTraceContext)?;
        let (span_id, rest) = rest.split_first_chunk().ok_or(InvalidTraceContext)?;
        let [flags] = rest else {
            return Err(InvalidTraceContext);
        };
        Self::checked(*trace_id, *span_id, *flags)
    }

    fn checked(trace_id: [u8; 16], span_id: [u8; 8], flags: u8) -> Result<Self, InvalidTraceContext> {
        if trace_id == [0; 16] || span_id == [0; 8] {
            return Err(InvalidTraceContext);
        }
        // Flags that we do not know must not be passed on.
        Ok(Self {
            trace_id,
            span_id,
            flags: flags & SAMPLED,
        })
    }
}

impl FromStr for TraceContext {
    type Err = InvalidTraceContext;

    /// Reads a `traceparent` header: version 00, and of a later version the part that 00 defines.
    fn from_str(header: &str) -> Result<Self, Self::Err> {
        let mut fields = header.splitn(5, '-');
        let mut next = || fields.next().ok_or(InvalidTraceContext);
        let [version] = decode_hex(next()?)?;
        let trace_id = decode_hex(next()?)?;
        let span_id = decode_hex(next()?)?;
        let [flags] = decode_hex(next()?)?;
        match (version, fields.next()) {
            (0xff, _) | (0, Some(_)) => Err(InvalidTraceContext),
            _ => Self::checked(trace_id, span_id, flags),
        }
    }
}

impl fmt::Display for TraceContext {
    /// The `traceparent` header, version 00.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{}-", Hex(&self.trace_id))?;
        write!(f, "{}-{:02x}", Hex(&self.span_id), self.flags)
    }
}

/// The trace id, as log lines carry it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CorrelationId([u8; 16]);

impl fmt::Display for CorrelationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Hex(&self.0).fmt(f)
    }
}

struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

fn random_id<const N: usize>() -> [u8; N] {
    loop {
        let mut id = [0; N];
        rand::fill(&mut id);
        if id != [0; N] {
            return id;
        }
    }
}

/// Exactly `N` bytes in lower-case digits: the recommendation forbids upper case.
fn decode_hex<const N: usize>(text: &str) -> Result<[u8; N], InvalidTraceContext> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Ok(byte - b'0'),
        b'a'..=b'f' => Ok(byte - b'a' + 10),
        _ => Err(InvalidTraceContext),
    };
    let mut bytes = [0; N];
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != N || !rest.is_empty() {
        return Err(InvalidTraceContext);
    }
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The recommendation's own example.
    const EXAMPLE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn example_of_the_recommendation() {
        let context: TraceContext = EXAMPLE.parse().unwrap();
        assert!(context.is_sampled());
        assert_eq!(
            context.correlation_id().to_string(),
            "0af7651916cd43dd8448eb211c80319c"
        );
        assert_eq!(context.to_string(), EXAMPLE);
    }

    #[test]
    fn refuses_what_the_recommendation_forbids() {
        let trace = "0af7651916cd43dd8448eb211c80319c";
        let span = "b7ad6b7169203331";
        for wrong in [
            String::new(),
            "00".to_owned(),
            format!("00-{trace}-{span}"),
            format!("00-{trace}-{span}-01-more"),
            format!("00-{trace}-{span}-01-"),
            format!("ff-{trace}-{span}-01"),
            format!("0-{trace}-{span}-01"),
            format!("00-{}-{span}-01", trace.to_uppercase()),
            format!("00-{}-{span}-01", "0".repeat(32)),
            format!("00-{trace}-{}-01", "0".repeat(16)),
            format!("00-{trace}-{span}-1"),
            format!("00-{trace}-{span}-0g"),
            format!("00-{trace}0-{span}-01"),
            format!("00-{trace}-{span}-01 "),
            format!("01-{trace}-{span}-011"),
        ] {
            assert_eq!(wrong.parse::<TraceContext>(), Err(InvalidTraceContext), "{wrong}");
        }
    }

    #[test]
    fn reads_the_known_part_of_a_later_version() {
        for later in [
            EXAMPLE.replacen("00", "cc", 1),
            EXAMPLE.replacen("00", "cc", 1) + "-what-the-future-brings",
        ] {
            assert_eq!(later.parse::<TraceContext>().unwrap().to_string(), EXAMPLE);
        }
    }

    #[test]
    fn unknown_flags_are_not_passed_on() {
        let context: TraceContext = EXAMPLE.replace("-01", "-fe").parse().unwrap();
        assert!(!context.is_sampled());
        assert!(context.to_string().ends_with("-00"));
    }

    #[test]
    fn binary_form() {
        let context: TraceContext = EXAMPLE.parse().unwrap();
        let bytes = context.to_bytes();
        assert_eq!(TraceContext::from_bytes(&bytes), Ok(context));
        assert_eq!((bytes[0], bytes[16], bytes[24]), (0x0a, 0xb7, 1));
        assert!(TraceContext::from_bytes(&bytes[..24]).is_err());
        assert!(TraceContext::from_bytes(&[&bytes[..], &[0]].concat()).is_err());
        assert!(TraceContext::from_bytes(&[0; BINARY_LENGTH]).is_err());
    }

    #[test]
    fn a_child_stays_in_the_trace() {
        let parent = TraceContext::random(true);
        let child = parent.child();
        assert_eq!(child.correlation_id(), parent.correlation_id());
        assert_ne!(child, parent);
        assert!(child.is_sampled());
        assert_ne!(
            TraceContext::random(false).correlation_id(),
            parent.correlation_id()
        );
    }
}
