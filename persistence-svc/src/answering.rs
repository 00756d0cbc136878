//! Questions that come over the bus: taken by any replica, answered side by side, and refused where too many are at work.

use std::sync::Arc;
use std::time::Duration;

use switchboard_bus::messages::{ANSWERERS, AskError, answered};
use switchboard_bus::{Bus, BusError, BusMessage, Pattern, Subject};
use switchboard_proto::bus::Question;
use switchboard_proto::format;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::metrics::PersistenceMetrics;
use crate::service::Service;

/// Questions that wait to be looked at; a further one is lost, and its asker waits in vain.
const QUEUE: usize = 4096;

/// Answers over the bus.
#[derive(Clone)]
pub(crate) struct Answering {
    pub(crate) bus: Arc<dyn Bus>,
    /// `None`: nothing is stored, and everybody who asks is told so.
    pub(crate) service: Option<Arc<Service>>,
    pub(crate) metrics: PersistenceMetrics,
    /// Places of questions at work; without one a question is refused for the time being.
    pub(crate) places: Arc<Semaphore>,
    /// What a question may take, whatever its asker would wait.
    pub(crate) limit: Duration,
}

impl Answering {
    /// Answers until the stop, and ends what is at work by then.
    ///
    /// # Errors
    /// [`BusError`] where the bus takes no subscription.
    pub(crate) async fn run(self, stop: CancellationToken) -> Result<(), BusError> {
        let pattern = Pattern::Exactly(Subject::Messages);
        let mut questions = self.bus.subscribe_group(pattern, ANSWERERS, QUEUE).await?;
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
                    self.metrics.refused_questions.inc();
                    let busy = "too many questions are at work".to_owned();
                    self.reply(&question, Err(AskError::Unavailable(busy))).await;
                }
            }
        }
        at_work.close();
        at_work.wait().await;
        Ok(())
    }

    async fn answer(&self, message: BusMessage) {
        self.metrics.questions.inc();
        let answer = match (format::decode::<Question>(message.payload.clone()), &self.service) {
            (Err(error), _) => Err(AskError::Invalid(format!("question not read: {error}"))),
            (Ok(_), None) => Err(AskError::NotAvailable(
                "nothing is stored here (persistence.store)".to_owned(),
            )),
            (Ok(question), Some(service)) => {
                let within = Duration::from_millis(question.within_ms.into()).min(self.limit);
                let answer = service.answer(&question.method, question.request);
                tokio::time::timeout(within, answer)
                    .await
                    .unwrap_or_else(|_| Err(AskError::Unavailable("it took too long".to_owned())))
            }
        };
        if answer.is_err() {
            self.metrics.unanswered_questions.inc();
        }
        self.reply(&message, answer).await;
    }

    async fn reply(&self, to: &BusMessage, answer: Result<bytes::Bytes, AskError>) {
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

#[cfg(test)]
mod tests;
