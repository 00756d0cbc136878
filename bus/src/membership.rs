//! Who else is there.
//!
//! Every service of every process says a few times a second that it lives, and from that each works
//! out who should own what. Membership says only who should try: no safety rests on it, two
//! processes may see different members for a while, and whoever is told too late or too early loses
//! a race at the log and nothing else.

mod isolation;
mod owners;
mod table;

use std::sync::Arc;
use std::time::Duration;

use switchboard_proto::bus::{MemberBeat, Role};
use switchboard_proto::format::{self, FormatError};
use switchboard_proto::ids::Incarnation;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::bus::{Bus, BusError, BusMessage, Subscription};
use crate::subject::{Pattern, Subject};

use self::isolation::Isolation;
pub use owners::owners;
pub use table::{Member, MembershipTable};

/// Beats of others that may wait to be read. A lost one is made up for by the next.
const BEATS: usize = 4096;

/// How often a member beats, and when it is taken for gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MembershipSettings {
    /// Between two beats.
    pub interval: Duration,
    /// Intervals without a beat after which a member is gone. Few make a busy machine flap.
    pub missed: u32,
    /// The most members, this one included. More are ignored, and logged once.
    pub max_members: usize,
}

impl Default for MembershipSettings {
    fn default() -> Self {
        Self {
            interval: Duration::from_millis(300),
            missed: 4,
            max_members: 1024,
        }
    }
}

/// Why a membership could not begin.
#[derive(Debug, thiserror::Error)]
pub enum MembershipError {
    /// The bus did not take the subscription or the first beat.
    #[error("cannot join the members on the bus: {0}")]
    Bus(#[from] BusError),
}

/// This service among the others. Cloning is cheap; the membership lasts until the token that was
/// given to [`Membership::join`] is cancelled.
#[derive(Debug, Clone)]
pub struct Membership {
    members: watch::Receiver<Arc<Vec<Member>>>,
}

impl Membership {
    /// Begins to beat as `role` and to listen to others, in a task on `tracker`, until `stop`; then
    /// says that it leaves. Returns once the first beat is on the bus.
    ///
    /// # Errors
    /// [`MembershipError`] where the bus cannot be used.
    pub async fn join(
        bus: Arc<dyn Bus>,
        role: Role,
        incarnation: Incarnation,
        settings: MembershipSettings,
        tracker: &TaskTracker,
        stop: CancellationToken,
    ) -> Result<Self, MembershipError> {
        let beats = bus
            .subscribe(Pattern::Exactly(Subject::MemberBeat), BEATS)
            .await?;
        let beat = MemberBeat {
            role: role.into(),
            incarnation: incarnation.to_bytes(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            interval_ms: u32::try_from(settings.interval.as_millis()).unwrap_or(u32::MAX),
            leaving: false,
        };
        bus.publish(Subject::MemberBeat, format::encode(&beat)).await?;
        let me = Member {
            role,
            incarnation,
            version: beat.version.clone(),
        };
        let table = MembershipTable::new(me, settings.missed, settings.max_members);
        let (sender, members) = watch::channel(Arc::new(table.members()));
        let task = Task {
            bus,
            beat,
            settings,
            table,
            sender,
            isolation: Isolation::default(),
            logged: Logged::default(),
            begun: Instant::now(),
        };
        tracker.spawn(task.run(beats, stop));
        Ok(Self { members })
    }

    /// All members, this one included, sorted by role and incarnation.
    pub fn members(&self) -> Arc<Vec<Member>> {
        self.members.borrow().clone()
    }

    /// The incarnations of all members with `role`, sorted.
    pub fn of_role(&self, role: Role) -> Vec<Incarnation> {
        let members = self.members.borrow();
        let with_role = members.iter().filter(|member| member.role == role);
        with_role.map(|member| member.incarnation).collect()
    }

    /// Waits until the members are others than when this was last called; for ever once the
    /// membership ended. Cancel safe.
    pub async fn changed(&mut self) {
        if self.members.changed().await.is_err() {
            std::future::pending().await
        }
    }

    /// For those who wait by themselves.
    pub fn watch(&self) -> watch::Receiver<Arc<Vec<Member>>> {
        self.members.clone()
    }
}

struct Task {
    bus: Arc<dyn Bus>,
    beat: MemberBeat,
    settings: MembershipSettings,
    table: MembershipTable,
    sender: watch::Sender<Arc<Vec<Member>>>,
    isolation: Isolation,
    logged: Logged,
    begun: Instant,
}

/// What was said already: each only once, as it comes with every beat.
#[derive(Default)]
struct Logged {
    newer: bool,
    undecodable: bool,
    full: bool,
}

impl Task {
    async fn run(mut self, mut beats: Subscription, stop: CancellationToken) {
        let mut tick = tokio::time::interval(self.settings.interval);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last_tick = self.begun.elapsed();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = tick.tick() => {
                    self.publish().await;
                    // What waits in the queue was sent in time, however late this task is.
                    while let Some(beat) = beats.try_next() {
                        self.hear(beat);
                    }
                    let now = self.begun.elapsed();
                    // A process that was stopped heard nobody meanwhile and must not take all for
                    // gone: what they sent is still on its way through the sockets.
                    if now.saturating_sub(last_tick) <= self.settings.interval * 2 {
                        self.expire(now).await;
                    }
                    last_tick = now;
                    self.announce();
                }
                beat = beats.next() => match beat {
                    Some(beat) => {
                        self.hear(beat);
                        self.announce();
                    }
                    None => {
                        tracing::warn!("bus is closed, members are no longer followed");
                        return;
                    }
                },
            }
        }
        self.beat.leaving = true;
        self.publish().await;
    }

    /// A beat that cannot be sent is made up for by the next.
    async fn publish(&self) {
        let publish = self.bus.publish(Subject::MemberBeat, format::encode(&self.beat));
        match tokio::time::timeout(self.settings.interval, publish).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "member beat not sent"),
            Err(_) => tracing::debug!("member beat not sent: the bus is held up"),
        }
    }

    async fn expire(&mut self, now: Duration) {
        let others = self.table.others();
        self.table.expire(now);
        if self.isolation.advises(others, self.table.others(), now) {
            tracing::warn!(
                of = others,
                left = self.table.others(),
                "most members fell silent at once"
            );
            self.bus.connect_elsewhere().await;
        }
    }

    fn hear(&mut self, message: BusMessage) {
        match format::decode::<MemberBeat>(message.payload) {
            Ok(beat) => {
                self.table.on_beat(&beat, self.begun.elapsed());
                if self.table.ignored() > 0 && !self.logged.full {
                    self.logged.full = true;
                    let limit = self.settings.max_members;
                    tracing::warn!(limit, "more members than allowed, some are ignored");
                }
            }
            Err(error @ FormatError::Newer { .. }) if !self.logged.newer => {
                self.logged.newer = true;
                tracing::warn!(%error, "member of a newer release ignored");
            }
            Err(FormatError::Newer { .. }) => {}
            Err(error) if !self.logged.undecodable => {
                self.logged.undecodable = true;
                tracing::warn!(%error, "undecodable member beat ignored");
            }
            Err(_) => {}
        }
    }

    fn announce(&mut self) {
        if self.table.take_changed() {
            self.sender.send_replace(Arc::new(self.table.members()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use async_trait::async_trait;
    use bytes::Bytes;

    use super::*;
    use crate::bus::RequestError;
    use crate::embedded::EmbeddedBus;
    use crate::subject::{QueueGroup, SubjectPrefix};

    struct Node {
        membership: Membership,
        stop: CancellationToken,
        tracker: TaskTracker,
    }

    async fn join(bus: &Arc<EmbeddedBus>, role: Role, number: u128) -> Node {
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        let membership = Membership::join(
            Arc::clone(bus) as Arc<dyn Bus>,
            role,
            Incarnation::from_u128(number),
            MembershipSettings::default(),
            &tracker,
            stop.clone(),
        )
        .await
        .unwrap();
        Node {
            membership,
            stop,
            tracker,
        }
    }

    async fn until(node: &Node, count: usize) {
        let mut members = node.membership.watch();
        let reached = members.wait_for(|members| members.len() == count);
        tokio::time::timeout(Duration::from_secs(5), reached)
            .await
            .unwrap()
            .unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn members_see_each_other_and_who_leaves() {
        let bus = EmbeddedBus::new(SubjectPrefix::default());
        let one = join(&bus, Role::Router, 1).await;
        assert_eq!(one.membership.of_role(Role::Router), [Incarnation::from_u128(1)]);
        let two = join(&bus, Role::Router, 2).await;
        let three = join(&bus, Role::Gateway, 3).await;
        for node in [&one, &two, &three] {
            until(node, 3).await;
        }
        assert_eq!(one.membership.of_role(Role::Router).len(), 2);
        two.stop.cancel();
        two.tracker.close();
        two.tracker.wait().await;
        // At once, not after missed beats: the paused clock stands while messages wait.
        let before = Instant::now();
        until(&one, 2).await;
        assert!(before.elapsed() < Duration::from_millis(300));
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_silent_is_gone() {
        let bus = EmbeddedBus::new(SubjectPrefix::default());
        let one = join(&bus, Role::Router, 1).await;
        let beat = MemberBeat {
            role: Role::Router.into(),
            incarnation: Incarnation::from_u128(9).to_bytes(),
            interval_ms: 300,
            ..MemberBeat::default()
        };
        bus.publish(Subject::MemberBeat, format::encode(&beat))
            .await
            .unwrap();
        until(&one, 2).await;
        let before = Instant::now();
        until(&one, 1).await;
        let after = before.elapsed();
        assert!(
            (Duration::from_millis(1200)..Duration::from_millis(1800)).contains(&after),
            "{after:?}"
        );
    }

    /// Counts how often it is told that its server is of no use.
    struct Told(Arc<EmbeddedBus>, AtomicUsize);

    #[async_trait]
    impl Bus for Told {
        async fn publish(&self, subject: Subject, payload: Bytes) -> Result<(), BusError> {
            self.0.publish(subject, payload).await
        }

        async fn subscribe(&self, pattern: Pattern, capacity: usize) -> Result<Subscription, BusError> {
            self.0.subscribe(pattern, capacity).await
        }

        async fn subscribe_group(
            &self,
            pattern: Pattern,
            group: QueueGroup,
            capacity: usize,
        ) -> Result<Subscription, BusError> {
            self.0.subscribe_group(pattern, group, capacity).await
        }

        async fn request(
            &self,
            subject: Subject,
            payload: Bytes,
            timeout: Duration,
        ) -> Result<Bytes, RequestError> {
            self.0.request(subject, payload, timeout).await
        }

        async fn reply(&self, to: &str, payload: Bytes) -> Result<(), BusError> {
            self.0.reply(to, payload).await
        }

        async fn connect_elsewhere(&self) {
            self.1.fetch_add(1, Ordering::Relaxed);
        }

        fn disruptions(&self) -> watch::Receiver<u64> {
            self.0.disruptions()
        }

        fn is_private(&self) -> bool {
            self.0.is_private()
        }

        fn max_payload(&self) -> usize {
            self.0.max_payload()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_hears_most_others_no_more_looks_for_another_server() {
        let shared = EmbeddedBus::new(SubjectPrefix::default());
        let told = Arc::new(Told(Arc::clone(&shared), AtomicUsize::new(0)));
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        let membership = Membership::join(
            Arc::clone(&told) as Arc<dyn Bus>,
            Role::Gateway,
            Incarnation::from_u128(1),
            MembershipSettings::default(),
            &tracker,
            stop.clone(),
        )
        .await
        .unwrap();
        let one = Node {
            membership,
            stop,
            tracker,
        };
        let beat = |number, leaving| MemberBeat {
            role: Role::Router.into(),
            incarnation: Incarnation::from_u128(number).to_bytes(),
            interval_ms: 300,
            leaving,
            ..MemberBeat::default()
        };
        let say = async |beat: MemberBeat| {
            shared
                .publish(Subject::MemberBeat, format::encode(&beat))
                .await
                .unwrap();
        };
        for number in 2..=4 {
            say(beat(number, false)).await;
        }
        until(&one, 4).await;
        for number in 2..=4 {
            say(beat(number, true)).await;
        }
        until(&one, 1).await;
        assert_eq!(told.1.load(Ordering::Relaxed), 0, "they said that they leave");
        for number in 2..=4 {
            say(beat(number, false)).await;
        }
        until(&one, 4).await;
        until(&one, 1).await;
        assert_eq!(told.1.load(Ordering::Relaxed), 1, "they fell silent");
    }

    #[tokio::test(start_paused = true)]
    async fn beats_of_a_newer_format_are_ignored() {
        let bus = EmbeddedBus::new(SubjectPrefix::default());
        let mut one = join(&bus, Role::Router, 1).await;
        for payload in [&[format::FORMAT + 1, 1, 2][..], &[], &[1, 0xff]] {
            bus.publish(Subject::MemberBeat, Bytes::copy_from_slice(payload))
                .await
                .unwrap();
        }
        let two = join(&bus, Role::Router, 2).await;
        until(&two, 2).await;
        one.membership.changed().await;
        assert_eq!(one.membership.members().len(), 2);
    }
}
