//! Questions that come over the bus: taken by any replica of a service, answered side by side, and refused where too many are at
//! work.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use prometheus_client::metrics::counter::Counter;
use switchboard_proto::bus::Question;
use switchboard_proto::format;
use switchboard_proto::questions::Service;
use switchboard_service_kit::metrics::Metrics;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Status;

use crate::bus::{Bus, BusError, BusMessage};
use crate::messages::{AskError, answered, place};
use crate::subject::Pattern;

/// Questions that wait to be looked at; a further one is lost, and its asker waits in vain.
const QUEUE: usize = 4096;

/// Who knows the answers.
#[async_trait]
pub trait Answers: Send + Sync + 'static {
    /// Answers the method of this name.
    ///
    /// # Errors
    /// [`AskError`], in words for who asked.
    async fn answer(&self, method: &str, request: Bytes) -> Result<Bytes, AskError>;
}

/// Answers over the bus. Cheap to clone.
#[derive(Clone)]
pub struct Answering {
    /// The bus.
    pub bus: Arc<dyn Bus>,
    /// Which service this process is a replica of.
    pub service: Service,
    /// Who knows.
    pub answers: Arc<dyn Answers>,
    /// What is counted.
    pub metrics: AnsweringMetrics,
    /// Places of questions at work; without one a question is refused for the time being.
    pub places: Arc<Semaphore>,
    /// What a question may take, whatever its asker would wait.
    pub limit: Duration,
}

/// Handles; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct AnsweringMetrics {
    /// Questions that were begun.
    pub questions: Counter,
    /// Questions that found no place.
    pub refused: Counter,
    /// Questions that were answered with a fault.
    pub unanswered: Counter,
}

/// Why a question that did not come over the bus has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unanswered {
    /// As many others are at work as there may be.
    NoPlace,
    /// It took too long.
    TooLate,
    /// A fault.
    Fault(AskError),
}

impl AnsweringMetrics {
    /// Metrics of the service of this name.
    pub fn register(service: &'static str, metrics: &Metrics) -> Self {
        let counts = Self::default();
        metrics.register(service, |registry| {
            registry.register(
                "questions",
                "Questions of other services, and over gRPC, that were begun",
                counts.questions.clone(),
            );
            registry.register(
                "refused_questions",
                "Questions that found as many others at work as there may be",
                counts.refused.clone(),
            );
            registry.register(
                "unanswered_questions",
                "Questions that were answered with a fault",
                counts.unanswered.clone(),
            );
        });
        counts
    }
}

impl Answering {
    /// Answers until the stop, and ends what is at work by then.
    ///
    /// # Errors
    /// [`BusError`] where the bus takes no subscription.
    pub async fn run(self, stop: CancellationToken) -> Result<(), BusError> {
        let (subject, group) = place(self.service);
        let mut questions = self
            .bus
            .subscribe_group(Pattern::Exactly(subject), group, QUEUE)
            .await?;
        let at_work = TaskTracker::new();
        while let Some(Some(question)) = stop.run_until_cancelled(questions.next()).await {
            match Arc::clone(&self.places).try_acquire_owned() {
                Ok(place) => {
                    let answering = self.clone();
                    at_work.spawn(async move {
                        answering.answer(question).await;
                        drop(place);
                    });
                }
                Err(_) => {
                    self.metrics.refused.inc();
                    let busy = "too many questions are at work".to_owned();
                    self.reply(&question, Err(AskError::Unavailable(busy))).await;
                }
            }
        }
        at_work.close();
        at_work.wait().await;
        Ok(())
    }

    /// Waits for the answer to a question that came on another way than the bus, in a place and within the time that one over the
    /// bus has.
    ///
    /// # Errors
    /// [`Unanswered`].
    pub async fn beside<T>(
        &self,
        answer: impl Future<Output = Result<T, AskError>>,
    ) -> Result<T, Unanswered> {
        let Ok(_place) = self.places.try_acquire() else {
            self.metrics.refused.inc();
            return Err(Unanswered::NoPlace);
        };
        self.metrics.questions.inc();
        let answer = match tokio::time::timeout(self.limit, answer).await {
            Ok(answer) => answer.map_err(Unanswered::Fault),
            Err(_) => Err(Unanswered::TooLate),
        };
        if answer.is_err() {
            self.metrics.unanswered.inc();
        }
        answer
    }

    /// As who asked over gRPC is told it.
    pub fn status(&self, unanswered: Unanswered) -> Status {
        let (_, service) = place(self.service);
        match unanswered {
            Unanswered::NoPlace => {
                Status::resource_exhausted(format!("too many questions are at work ({service}.questions)"))
            }
            Unanswered::TooLate => {
                Status::deadline_exceeded(format!("it took too long ({service}.question_timeout)"))
            }
            Unanswered::Fault(error) => match error {
                AskError::Invalid(words) => Status::invalid_argument(words),
                AskError::NotFound(words) => Status::not_found(words),
                AskError::Unavailable(words) => Status::unavailable(words),
                AskError::Denied(words) => Status::permission_denied(words),
                AskError::NotAvailable(words) => Status::unimplemented(words),
                AskError::Internal(words) => Status::internal(words),
            },
        }
    }

    async fn answer(&self, message: BusMessage) {
        self.metrics.questions.inc();
        let answer = match format::decode::<Question>(message.payload.clone()) {
            Err(error) => Err(AskError::Invalid(format!("question not read: {error}"))),
            Ok(question) => {
                let within = Duration::from_millis(question.within_ms.into()).min(self.limit);
                let answer = self.answers.answer(&question.method, question.request);
                tokio::time::timeout(within, answer)
                    .await
                    .unwrap_or_else(|_| Err(AskError::Unavailable("it took too long".to_owned())))
            }
        };
        if answer.is_err() {
            self.metrics.unanswered.inc();
        }
        self.reply(&message, answer).await;
    }

    async fn reply(&self, to: &BusMessage, answer: Result<Bytes, AskError>) {
        let Some(subject) = &to.reply else { return };
        let mut answer = answered(answer);
        if answer.len() > self.bus.max_payload() {
            let words = "the answer is larger than the bus takes: ask for less".to_owned();
            answer = answered(Err(AskError::Invalid(words)));
        }
        if let Err(error) = self.bus.reply(subject, answer).await {
            tracing::warn!(%error, "answer not sent");
        }
    }
}
