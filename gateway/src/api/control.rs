//! Asking all gateways about their sessions, this one among them: a user may be connected to any.
//!
//! An answer is complete when every gateway that was a member as the question was asked has answered. Where one has not
//! in time, or is no member any more before it has, the whole is an error rather than a part.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use switchboard_bus::membership::{Membership, MembershipSettings};
use switchboard_bus::{Bus, Subject, Subscription};
use switchboard_proto::bus::control::Question;
use switchboard_proto::bus::control_answer::Answer;
use switchboard_proto::bus::{Control, ControlAnswer, Role};
use switchboard_proto::codes::ErrorCode;
use switchboard_proto::format;
use switchboard_proto::ids::Incarnation;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::failure::Failure;

/// Parts of answers that may wait for one question; a further one is lost, and the question fails.
const WAITING: usize = 4096;

/// See the module.
pub(crate) struct Gateways {
    me: Incarnation,
    bus: Arc<dyn Bus>,
    membership: Membership,
    timeout: Duration,
    last: AtomicU64,
    /// From then on every gateway that was there before this one has been heard of.
    knows_all: Instant,
    /// Who waits for the answers to which question.
    waiting: Mutex<HashMap<u64, mpsc::Sender<ControlAnswer>>>,
}

/// What one gateway answers, all its parts in order.
pub(crate) type Answered = (Incarnation, Vec<Answer>);

impl Gateways {
    /// `timeout`: from a question to its answers, at most.
    pub(crate) fn new(
        me: Incarnation,
        bus: Arc<dyn Bus>,
        membership: Membership,
        timeout: Duration,
    ) -> Arc<Self> {
        Arc::new(Self {
            me,
            bus,
            membership,
            timeout,
            knows_all: Instant::now() + MembershipSettings::default().interval * 2,
            last: AtomicU64::new(0),
            waiting: Mutex::default(),
        })
    }

    /// Hands answers to who waits for them, until the bus is closed.
    pub(crate) async fn hear(self: Arc<Self>, mut answers: Subscription) {
        while let Some(answer) = answers.next().await {
            match format::decode::<ControlAnswer>(answer.payload) {
                Ok(answer) => {
                    let waits = self.waiting.lock().get(&answer.number).cloned();
                    // One that is full fails its question, and nobody waits for one that is over.
                    if let Some(waits) = waits {
                        waits.try_send(answer).ok();
                    }
                }
                Err(error) => tracing::warn!(%error, "answer of a gateway dropped"),
            }
        }
    }

    /// Asks all, and waits for all their answers. Cancel safe; what was asked is done all the same.
    ///
    /// # Errors
    /// Error 100, temporary: one gateway did not answer in time, or went away before. It may be done at the others.
    pub(crate) async fn ask(&self, question: Question) -> Result<Vec<Answered>, Failure> {
        let deadline = Instant::now() + self.timeout;
        tokio::time::sleep_until(self.knows_all).await;
        let number = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let (sender, mut answers) = mpsc::channel(WAITING);
        self.waiting.lock().insert(number, sender);
        let _entry = Entry {
            gateways: self,
            number,
        };
        let mut members = self.membership.watch();
        let asked: BTreeSet<Incarnation> = self.membership.of_role(Role::Gateway).into_iter().collect();
        let control = Control {
            gateway: self.me.to_bytes(),
            number,
            question: Some(question),
        };
        let unavailable = Failure::because(ErrorCode::Internal, "a gateway did not answer in time");
        if let Err(error) = self.bus.publish(Subject::Control, format::encode(&control)).await {
            tracing::warn!(%error, "gateways cannot be asked");
            return Err(unavailable);
        }
        let mut parts: BTreeMap<Incarnation, Parts> = BTreeMap::new();
        loop {
            let open: Vec<Incarnation> = {
                let members = members.borrow_and_update();
                let is_there = |gateway: &Incarnation| {
                    members
                        .iter()
                        .any(|member| member.role == Role::Gateway && member.incarnation == *gateway)
                };
                let is_open = |gateway: &Incarnation| !parts.get(gateway).is_some_and(Parts::is_complete);
                asked
                    .iter()
                    .copied()
                    .filter(|gateway| is_open(gateway) && is_there(gateway))
                    .collect()
            };
            if open.is_empty() {
                break;
            }
            tokio::select! {
                answer = answers.recv() => {
                    let Some(answer) = answer else { break };
                    if let Ok(gateway) = Incarnation::try_from(&*answer.gateway) {
                        parts.entry(gateway).or_default().enter(answer);
                    }
                }
                changed = members.changed() => if changed.is_err() {
                    return Err(unavailable);
                },
                () = tokio::time::sleep_until(deadline) => {
                    tracing::warn!(gateways = ?open, "did not answer the server API in time");
                    return Err(unavailable);
                }
            }
        }
        // It may be dead, or only stand still, with its sessions (see `Answering`): who is told that all is done
        // must be able to rely on it. The next call is not sent to it.
        if let Some(gateway) = asked
            .iter()
            .find(|gateway| !parts.get(gateway).is_some_and(Parts::is_complete))
        {
            tracing::warn!(%gateway, "went away before it answered the server API");
            return Err(unavailable);
        }
        // Those that are there though nobody knew of them count too.
        let complete = parts.into_iter().filter(|(_, parts)| parts.is_complete());
        Ok(complete
            .map(|(gateway, parts)| (gateway, parts.parts.into_values().collect()))
            .collect())
    }
}

/// The parts of one gateway's answer that are there.
#[derive(Default)]
struct Parts {
    expected: usize,
    parts: BTreeMap<u32, Answer>,
}

impl Parts {
    fn enter(&mut self, answer: ControlAnswer) {
        self.expected = usize::try_from(answer.parts).unwrap_or(usize::MAX);
        if let Some(part) = answer.answer.filter(|_| answer.part < answer.parts) {
            self.parts.insert(answer.part, part);
        }
    }

    fn is_complete(&self) -> bool {
        self.expected > 0 && self.parts.len() == self.expected
    }
}

/// A question's place among those that wait.
struct Entry<'a> {
    gateways: &'a Gateways,
    number: u64,
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.gateways.waiting.lock().remove(&self.number);
    }
}
