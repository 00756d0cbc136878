//! Who is let into channels with members, and who has to go.
//!
//! What must hold, each with a test in `run/tests/members.rs`:
//! * Nobody is let in of whom it is not known that he is a member.
//! * A removed member has the channel nowhere any more: the event itself ends his subscriptions at each gateway that has the channel,
//!   and whoever removes him asks all gateways to.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use switchboard_proto::bus::MembersChanged;
use switchboard_proto::channel::ChannelName;
use switchboard_proto::codes::ErrorCode;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::cache::Place;
use super::memberships::Memberships;
use crate::gateway::Gateway;
use crate::policy::{Action, Asking};
use crate::session::SessionHandle;

/// Events that wait until subscriptions are ended by them. Above, all sessions are looked at instead.
pub(crate) const WAITING: usize = 1024;

/// Sessions that are unsubscribed, or looked at, at a time.
const AT_ONCE: usize = 64;

/// Before a store that did not answer is asked again.
const PAUSE: Duration = Duration::from_secs(1);

/// What an event of a channel says of its members.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Told {
    pub(crate) channel: String,
    pub(crate) place: Place,
    pub(crate) event: MembersChanged,
}

/// Where links put the events that they deliver. Never waits.
#[derive(Clone)]
pub(crate) struct Events {
    memberships: Arc<Memberships>,
    removed: mpsc::Sender<Told>,
}

impl Events {
    pub(crate) fn new(memberships: Arc<Memberships>) -> (Self, mpsc::Receiver<Told>) {
        let (removed, waiting) = mpsc::channel(WAITING);
        (Self { memberships, removed }, waiting)
    }

    /// A link has delivered it.
    pub(crate) fn told(&self, told: Told) {
        self.memberships.told(&told.channel, told.place, &told.event);
        if !told.event.removed.is_empty() && self.removed.try_send(told).is_err() {
            self.memberships.look_again();
        }
    }
}

impl Gateway {
    /// Whether the user is let into the channel, as far as its members are concerned; everybody is where it has none. Answers
    /// within the time that commands have, counted from `arrived`. Cancel safe.
    ///
    /// # Errors
    /// [`ErrorCode::PermissionDenied`]: no member. Others as of [`Memberships::role`]: it is not known, so nobody is let in.
    pub(crate) async fn lets_in(
        &self,
        channel: &ChannelName,
        user: &str,
        arrived: Instant,
    ) -> Result<(), ErrorCode> {
        if !self.config.policy.now().is_for_members(channel) {
            return Ok(());
        }
        if user.is_empty() {
            return Err(ErrorCode::PermissionDenied);
        }
        let deadline = arrived + self.config.answer_timeout;
        match self.memberships.role(channel.as_str(), user, deadline).await? {
            Some(_) => Ok(()),
            None => Err(ErrorCode::PermissionDenied),
        }
    }

    /// Whether the user has been shut out since that was asked: what was begun meanwhile must not go on.
    pub(crate) fn has_shut_out(&self, channel: &ChannelName, user: &str) -> bool {
        self.config.policy.now().is_for_members(channel)
            && self.memberships.known(channel.as_str(), user) == Some(None)
    }

    /// Whether the client may read what was said in the channel, by its settings and by its members: what every answer from
    /// the message store has to be asked about. Cancel safe.
    ///
    /// # Errors
    /// What the client is to be told.
    pub(crate) async fn may_read(
        &self,
        session: &SessionHandle,
        channel: &ChannelName,
        arrived: Instant,
    ) -> Result<(), ErrorCode> {
        let who = Asking {
            user: session.user(),
            is_in: session.holds(channel),
        };
        let decision = self
            .config
            .policy
            .now()
            .decide(Action::History, channel, who)
            .outcome;
        // Who is subscribed is given everything that is said.
        if !who.is_in {
            decision?;
        }
        self.lets_in(channel, who.user, arrived).await
    }

    /// Ends what these users have of the channel at this gateway. How many subscriptions it was. Waits while a link's queue is full.
    pub(crate) async fn shut_out(&self, channel: &str, users: &[String]) -> usize {
        let sessions: Vec<_> = users
            .iter()
            .flat_map(|user| self.sessions.of_user(user))
            .collect();
        stream::iter(sessions)
            .map(async |session| session.unsubscribe_by_server(self, channel).await)
            .buffer_unordered(AT_ONCE)
            .filter(|ended| std::future::ready(*ended))
            .count()
            .await
    }

    /// Takes what an event says, and ends what removed members have here. How many subscriptions it was.
    pub(crate) async fn members_changed(&self, told: &Told) -> usize {
        self.memberships.told(&told.channel, told.place, &told.event);
        self.shut_out(&told.channel, &told.event.removed).await
    }

    /// Looks at all that sessions have, and ends what is not theirs any more. `false`: of some it is not known.
    async fn look_at_members(&self) -> bool {
        let mut knows_all = true;
        for session in self.sessions.all() {
            for channel in session.channels() {
                match self.lets_in(&channel, session.user(), Instant::now()).await {
                    Ok(()) => {}
                    Err(ErrorCode::PermissionDenied) => {
                        session.unsubscribe_by_server(self, channel.as_str()).await;
                    }
                    Err(_) => knows_all = false,
                }
            }
        }
        knows_all
    }
}

/// Ends subscriptions of removed members as events tell of them. Never ends.
pub(crate) async fn watch(gateway: Arc<Gateway>, mut removed: mpsc::Receiver<Told>) {
    loop {
        tokio::select! {
            told = removed.recv() => match told {
                Some(told) => drop(gateway.shut_out(&told.channel, &told.event.removed).await),
                None => return,
            },
            () = gateway.memberships.is_unsure() => {
                if !gateway.look_at_members().await {
                    tokio::time::sleep(PAUSE).await;
                    gateway.memberships.look_again();
                }
            }
        }
    }
}
