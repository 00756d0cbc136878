//! E-mails as they go over the wire (RFC 5322, MIME): the same for every way to hand them over.
//!
//! What comes from users cannot add a header: control characters become spaces in all that goes into one, and addresses are held to
//! the plain form that every server takes. The Message-ID is made of [`Outgoing::id`], so that a second copy can be known as one.

use std::net::IpAddr;
use std::str::FromStr as _;

use lettre::message::header::{HeaderName, HeaderValue};
use lettre::message::{Mailbox, MultiPart, SinglePart};
use lettre::{Address, Message};
use reqwest::Url;

use crate::{Outgoing, SendError};

/// Bytes of a message with its headers, where settings do not say otherwise.
pub const LARGEST: usize = 1 << 20;

/// Characters of a subject; the rest is left out.
const LONGEST_SUBJECT: usize = 200;

/// Characters of a display name.
const LONGEST_NAME: usize = 100;

/// Bytes of an address (RFC 5321, section 4.5.3.1.3, without the angle brackets).
const LONGEST_ADDRESS: usize = 254;

/// Bytes before the `@` (RFC 5321, section 4.5.3.1.1).
const LONGEST_LOCAL: usize = 64;

/// Bytes of a URL in a header: with its name it stays within the 998 bytes of a line (RFC 5322, section 2.1.1).
const LONGEST_URL: usize = 900;

/// Why a sender cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SenderError {
    /// Not an address that every server takes.
    #[error("the sender is not an address like name@example.org")]
    Address,
    /// A name that cannot go into a header.
    #[error("the sender's name must have 1 to 100 characters, none of them a control character")]
    Name,
}

/// Who mail is from: an address, and the name that readers see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sender(Mailbox);

impl Sender {
    /// Reads both. The domain may be an internationalised one.
    ///
    /// # Errors
    /// [`SenderError`].
    pub fn new(name: Option<&str>, address: &str) -> Result<Self, SenderError> {
        let name = name.map(str::trim);
        let is_name = |name: &str| {
            !name.chars().any(char::is_control) && (1..=LONGEST_NAME).contains(&name.chars().count())
        };
        if !name.is_none_or(is_name) {
            return Err(SenderError::Name);
        }
        let address = read(address).ok_or(SenderError::Address)?;
        Ok(Self(Mailbox::new(name.map(str::to_owned), address)))
    }

    pub(crate) fn address(&self) -> &Address {
        &self.0.email
    }
}

/// A message that is ready: what the envelope has and what goes after it.
#[derive(Debug)]
pub(crate) struct Mail {
    pub(crate) to: Address,
    /// ASCII, lines of at most 998 bytes that end with CR LF.
    pub(crate) bytes: Vec<u8>,
}

/// Makes the message for one reader.
///
/// # Errors
/// [`SendError::Refused`]: no address, an unsubscribe link that is none, more than `largest` bytes.
pub(crate) fn mail(from: &Sender, to: &str, message: &Outgoing, largest: usize) -> Result<Mail, SendError> {
    let to = read(to).ok_or_else(|| refused("not an address that mail can be sent to"))?;
    let html = message.html.as_deref().map(printable);
    // What does not fit as it is does not fit encoded.
    let raw = message.body.len() + html.as_ref().map_or(0, String::len);
    if raw > largest {
        return Err(refused("the mail is too large"));
    }
    let mut plain = printable(&message.body);
    let link = message.link.as_deref().filter(|link| !plain.contains(link));
    if let Some(link) = link {
        if !plain.is_empty() {
            plain.push_str("\n\n");
        }
        plain.push_str(&one_line(link));
    }

    let id = format!("<{}@{}>", message.id.hyphenated(), from.address().domain());
    let mut builder = Message::builder()
        .from(from.0.clone())
        .to(Mailbox::new(None, to.clone()))
        .subject(subject(&message.title))
        .message_id(Some(id))
        // Nobody's out-of-office answers this (RFC 3834).
        .raw_header(header("Auto-Submitted", "auto-generated".to_owned()));
    if let Some(url) = &message.unsubscribe {
        let url = unsubscribe(url).ok_or_else(|| refused("the link to unsubscribe is not an https URL"))?;
        // RFC 8058: one click, which is a POST.
        builder = builder.raw_header(header("List-Unsubscribe", format!("<{url}>")));
        let one_click = "List-Unsubscribe=One-Click".to_owned();
        builder = builder.raw_header(header("List-Unsubscribe-Post", one_click));
    }
    let built = match html {
        Some(html) => builder.multipart(MultiPart::alternative_plain_html(plain, html)),
        None => builder.singlepart(SinglePart::plain(plain)),
    };
    let bytes = built
        .map_err(|_| refused("not a mail that can be made"))?
        .formatted();
    if bytes.len() > largest {
        return Err(refused("the mail is too large"));
    }
    Ok(Mail { to, bytes })
}

/// An address in the form that every server takes: ASCII without quotes before the `@`, a name and no IP address behind it, an
/// internationalised one as its A-labels.
fn read(text: &str) -> Option<Address> {
    let (local, domain) = text.rsplit_once('@')?;
    let is_atom = |c: u8| c.is_ascii_alphanumeric() || b"!#$%&'*+/=?^_`{|}~-.".contains(&c);
    if !(1..=LONGEST_LOCAL).contains(&local.len()) || !local.bytes().all(is_atom) {
        return None;
    }
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.') || !c.is_ascii();
    if !domain.chars().all(is_name) {
        return None;
    }
    // The parser of URLs knows internationalised names, and every form of an IP address.
    let mut url = Url::parse("https://name.invalid").ok()?;
    url.set_host(Some(domain)).ok()?;
    let host = url.host_str()?;
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if host.parse::<IpAddr>().is_ok() || !host.split('.').all(is_label) {
        return None;
    }
    let address = format!("{local}@{host}");
    if address.len() > LONGEST_ADDRESS {
        return None;
    }
    Address::from_str(&address).ok()
}

fn subject(title: &str) -> String {
    let line = one_line(title);
    if line.chars().count() <= LONGEST_SUBJECT {
        return line;
    }
    let cut: String = line.chars().take(LONGEST_SUBJECT - 1).collect();
    format!("{}…", cut.trim_end())
}

/// Control characters, and what else ends a line in some programs, as spaces.
fn one_line(text: &str) -> String {
    let is_break = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}');
    let line: String = text.chars().map(|c| if is_break(c) { ' ' } else { c }).collect();
    line.trim().to_owned()
}

/// Without control characters but for tabs and the ends of lines, which are all one.
fn printable(text: &str) -> String {
    text.replace("\r\n", "\n")
        .chars()
        .map(|c| match c {
            '\r' => '\n',
            '\n' | '\t' => c,
            c if c.is_control() => ' ',
            c => c,
        })
        .collect()
}

/// An https URL as a header can have it: the parser leaves no control character, space or angle bracket.
fn unsubscribe(url: &str) -> Option<String> {
    let url = Url::parse(url).ok().filter(|url| url.scheme() == "https")?;
    let url = String::from(url);
    let is_plain = |b: u8| b.is_ascii_graphic() && !b"<>".contains(&b);
    (url.len() <= LONGEST_URL && url.bytes().all(is_plain)).then_some(url)
}

/// A header whose value is ASCII and has no place to fold, so it is written as it is.
fn header(name: &'static str, value: String) -> HeaderValue {
    let name = HeaderName::new_from_ascii_str(name);
    HeaderValue::dangerous_new_pre_encoded(name, value.clone(), value)
}

fn refused(reason: &str) -> SendError {
    SendError::Refused {
        reason: reason.to_owned(),
    }
}

#[cfg(test)]
mod tests;
