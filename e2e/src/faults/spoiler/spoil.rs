//! What is done to the frames of one connection so that a promise is broken.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use switchboard_proto::client::{Command, Error, PublishResult, Reply, RpcResult};
use tokio::time::Instant;

/// How a promise is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spoil {
    /// A publication is not passed on.
    Lose,
    /// It is passed on again.
    Double,
    /// The one behind it goes first.
    Swap,
    /// A message is acknowledged, and the gateway never sees it.
    Pocket,
    /// Who comes back is told that it is not recovered, although it is.
    Deny,
    /// Who comes back is told that it is recovered, without what it missed.
    Pretend,
    /// History is told without some of what was said.
    Forget,
    /// Messages are refused, for longer than is allowed.
    Refuse,
    /// Messages are refused, and it is said that trying again is of no use.
    Reject,
    /// Nobody is let in, for longer than is allowed.
    Shut,
}

/// Every so many messages of a connection.
const EVERY: usize = 20;

/// Publications until a connection is cut, so that its client comes back.
const UNTIL_CUT: usize = 40;

/// Longer than [`super::super::Verdict::allowed`] where Redis is the victim.
const REFUSED: Duration = Duration::from_secs(4);

/// From the first message that was acknowledged on.
const BEFORE_REFUSED: Duration = Duration::from_millis(500);

/// One connection's.
pub(super) struct Spoiling {
    spoil: Spoil,
    publications: usize,
    messages: usize,
    /// A publication that another one overtakes.
    kept: Option<Reply>,
    /// When the first message of all connections was acknowledged.
    first: Arc<OnceLock<Instant>>,
}

impl Spoiling {
    pub(super) fn new(spoil: Spoil, first: Arc<OnceLock<Instant>>) -> Self {
        Self {
            spoil,
            publications: 0,
            messages: 0,
            kept: None,
            first,
        }
    }

    /// What the gateway is sent for this command, or the client is answered by us.
    pub(super) fn command(&mut self, command: Command) -> Result<Command, Box<Reply>> {
        let (publish, rpc) = (command.publish.is_some(), command.rpc.is_some());
        self.messages += usize::from(publish || rpc);
        if self.spoil != Spoil::Pocket || !(publish || rpc) || !self.messages.is_multiple_of(EVERY) {
            return Ok(command);
        }
        Err(Box::new(Reply {
            id: command.id,
            publish: publish.then(PublishResult::default),
            rpc: rpc.then(RpcResult::default),
            ..Reply::default()
        }))
    }

    /// What the client is sent for this reply.
    pub(super) fn reply(&mut self, mut reply: Reply, out: &mut Vec<Reply>) {
        if reply.push.as_ref().is_some_and(|push| push.r#pub.is_some()) {
            return self.publication(reply, out);
        }
        let acknowledges = reply.error.is_none() && (reply.publish.is_some() || reply.rpc.is_some());
        if acknowledges {
            self.first.get_or_init(Instant::now);
            let refuses = match self.spoil {
                Spoil::Refuse => self.refuses(),
                Spoil::Reject => true,
                _ => false,
            };
            if refuses {
                reply = Reply {
                    id: reply.id,
                    error: Some(Error {
                        code: 100,
                        message: "internal server error".to_owned(),
                        temporary: self.spoil == Spoil::Refuse,
                    }),
                    ..Reply::default()
                };
            }
        }
        if let Some(history) = reply.history.as_mut().filter(|_| self.spoil == Spoil::Forget)
            && history.publications.len() > 2
        {
            history.publications.remove(1);
        }
        if let Some(subscribed) = reply.subscribe.as_mut().filter(|one| one.recovered) {
            match self.spoil {
                Spoil::Deny => subscribed.recovered = false,
                Spoil::Pretend => subscribed.publications.clear(),
                _ => {}
            }
        }
        out.push(reply);
    }

    fn publication(&mut self, reply: Reply, out: &mut Vec<Reply>) {
        self.publications += 1;
        match self.spoil {
            Spoil::Lose if self.publications.is_multiple_of(EVERY) => {}
            Spoil::Double if self.publications.is_multiple_of(EVERY) => out.extend([reply.clone(), reply]),
            Spoil::Swap if self.publications.is_multiple_of(EVERY) && self.kept.is_none() => {
                self.kept = Some(reply);
            }
            _ => {
                out.push(reply);
                out.extend(self.kept.take());
            }
        }
    }

    /// Whether this is the time in which everybody is refused.
    pub(super) fn refuses(&self) -> bool {
        let since = self.first.get().map(Instant::elapsed);
        since.is_some_and(|since| since > BEFORE_REFUSED && since < BEFORE_REFUSED + REFUSED)
    }

    pub(super) fn is_cut(&self) -> bool {
        matches!(self.spoil, Spoil::Deny | Spoil::Pretend) && self.publications >= UNTIL_CUT
    }
}
