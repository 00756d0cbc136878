//! Being as far as the audit log: one task reads it, in its order, and has what it says carried out.
//!
//! It reads when another gateway tells that there is more, and from time to time by itself, so that a word that was lost, or a bus that
//! was cut, delays an act by that time and no more.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use switchboard_bus::messages::{AskError, ask};
use switchboard_proto::messages::{
    ModerationKind, ModerationLogRequest, RestrictionKey, RestrictionsRequest, method,
};
use switchboard_proto::time::now_us;
use tokio::time::Instant;

use super::state::State;
use super::{Moderation, Standing};
use crate::gateway::Gateway;
use crate::session::SessionHandle;

/// What one question to the store may take.
const LIMIT: Duration = Duration::from_secs(1);

/// Entries, or restrictions, of one question.
const PAGE: u32 = 400;

/// Between two looks before anything is known, doubling: at the start of a whole system the store comes a moment later.
const FIRST: Duration = Duration::from_millis(50);
const LATER: Duration = Duration::from_secs(2);

/// Between two looks for whether there is a store now.
const NO_STORE: Duration = Duration::from_secs(5);

/// Between two times that what has ended is taken out, or that all is read because there may be room for it again.
const TIDY: Duration = Duration::from_secs(60);

/// In the order in which they are read: what there are most of, last.
const KINDS: [ModerationKind; 4] = [
    ModerationKind::BlockUser,
    ModerationKind::MuteUser,
    ModerationKind::InvalidateTokens,
    ModerationKind::RevokeToken,
];

/// Never ends.
pub(crate) async fn follow(gateway: Arc<Gateway>) {
    let moderation = &gateway.moderation;
    let mut tidied = Instant::now();
    let mut first = FIRST;
    let (mut is_failing, mut is_to_load) = (false, false);
    // Who was let in before it was known, and of whom it is not known here.
    let mut unknown = VecDeque::new();
    loop {
        // What is new comes first: all of it may take long, or fail.
        let mut done = catch_up(&gateway, false, &mut unknown).await;
        if done.is_ok() && is_to_load {
            done = catch_up(&gateway, true, &mut unknown).await;
        }
        match done {
            Ok(()) => {
                is_to_load = false;
                if std::mem::take(&mut is_failing) {
                    tracing::info!("the store says again who is blocked, muted and revoked");
                }
            }
            // Where it is required, the one that says so may be older than others.
            Err(AskError::NotAvailable(_)) if !moderation.knows() && !moderation.config.required => {
                moderation.standing.send_replace(Standing::NoStore);
            }
            Err(error) => {
                moderation.metrics.failures.inc();
                // At the start of a whole system the store comes a moment later, which is nothing to warn of.
                let is_early =
                    !moderation.knows() && moderation.begun.elapsed() < moderation.config.start_wait;
                if !is_early && !std::mem::replace(&mut is_failing, true) {
                    tracing::warn!(%error, "the store does not say who is blocked, muted and revoked; what is known holds");
                }
            }
        }
        if tidied.elapsed() > TIDY {
            tidied = Instant::now();
            is_to_load |= moderation.tidy();
        }
        if !unknown.is_empty() {
            gateway.look_at_some(&mut unknown).await;
            continue;
        }
        let pause = match *moderation.standing.borrow() {
            Standing::Unknown => {
                let pause = first;
                first = (first * 2).min(LATER);
                pause
            }
            Standing::NoStore => NO_STORE,
            Standing::UpTo(_) => moderation.config.interval,
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = moderation.wanted.notified() => {}
        }
    }
}

/// `is_to_load`: all is read, whatever is known. `unknown`: is given the sessions that were let in before anything was known, if it is not
/// known of them here.
async fn catch_up(
    gateway: &Gateway,
    is_to_load: bool,
    unknown: &mut VecDeque<Arc<SessionHandle>>,
) -> Result<(), AskError> {
    let moderation = &gateway.moderation;
    let standing = *moderation.standing.borrow();
    let (mut number, mut loading) = match standing {
        Standing::UpTo(number) if !is_to_load => (number, None),
        Standing::UpTo(_) | Standing::Unknown | Standing::NoStore => {
            let (state, number) = moderation.load().await?;
            (number, Some(state))
        }
    };
    loop {
        let request = ModerationLogRequest {
            after: number,
            limit: PAGE,
        };
        let page = ask::<method::ModerationLog>(&*moderation.bus, &request, LIMIT).await?;
        if page.last < number {
            tracing::error!(
                known = number,
                last = page.last,
                "the audit log of moderation went back: what a store that lost acts does not know holds no more"
            );
            let (state, to) = moderation.load().await?;
            number = to;
            loading = Some(state);
            continue;
        }
        let Some(last) = page.entries.last() else { break };
        number = last.number;
        match &mut loading {
            // Nothing of it is carried out until it is known what was lifted again.
            Some(state) => moderation.enter(state, &page.entries),
            None => {
                {
                    let mut state = moderation.state.write();
                    moderation.enter(&mut state, &page.entries);
                    moderation.changed(&state);
                }
                gateway.carry_out(&page.entries).await;
                moderation.metrics.carried_out.inc_by(page.entries.len() as u64);
                moderation.is_at(number);
            }
        }
    }
    if let Some(state) = loading {
        {
            let mut current = moderation.state.write();
            *current = state;
            moderation.changed(&current);
        }
        moderation.metrics.loads.inc();
        let (ended, not_known) = gateway.look_at_all().await;
        // Later on they were asked about as they came.
        if !matches!(standing, Standing::UpTo(_)) {
            *unknown = not_known;
        }
        tracing::info!(number, ended, "what is moderated is known");
        moderation.is_at(number);
    }
    Ok(())
}

impl Moderation {
    /// Whether anything was read from a store.
    fn knows(&self) -> bool {
        matches!(*self.standing.borrow(), Standing::UpTo(_))
    }

    fn is_at(&self, number: u64) {
        self.standing.send_replace(Standing::UpTo(number));
        self.metrics.number.set(i64::try_from(number).unwrap_or(i64::MAX));
    }

    /// Takes out what has ended. `true`: much was left out for want of room, and there is some now.
    fn tidy(&self) -> bool {
        let mut state = self.state.write();
        state.purge(now_us());
        self.changed(&state);
        state.could_have_more()
    }

    /// All that is in force, as of an entry of the log; later ones may be in it.
    async fn load(&self) -> Result<(State, u64), AskError> {
        let mut state = State::new(self.config.restrictions);
        let mut as_of = None;
        for kind in KINDS {
            let mut after = None;
            loop {
                let request = RestrictionsRequest {
                    kind: kind.into(),
                    user: String::new(),
                    after: after.take(),
                    limit: PAGE,
                };
                let page = ask::<method::Restrictions>(&*self.bus, &request, LIMIT).await?;
                as_of.get_or_insert(page.number);
                let last = page.restrictions.last().map(|last| RestrictionKey {
                    kind: last.kind,
                    user: last.user.clone(),
                    channel: last.channel.clone(),
                    token: last.token.clone(),
                });
                for restriction in &page.restrictions {
                    self.place(&mut state, restriction);
                }
                if !self.knows() {
                    // Who is let in before all is known is refused by what is known already.
                    let mut current = self.state.write();
                    for restriction in &page.restrictions {
                        current.place(restriction);
                    }
                    self.changed(&current);
                }
                if !page.more || last.is_none() || state.lacks(kind) {
                    break;
                }
                after = last;
            }
        }
        Ok((state, as_of.unwrap_or(0)))
    }
}
