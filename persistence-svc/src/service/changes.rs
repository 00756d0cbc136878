//! What became of messages, and threads.

use switchboard_bus::messages::AskError;
use switchboard_proto::ids::Offset;
use switchboard_proto::messages::{
    Fold, FoldAt, FoldedMessage, FoldsRequest, FoldsResponse, MessageRequest, MessageResponse, Place,
    Reaction, ThreadRequest, ThreadResponse,
};

use super::{Service, fault};
use crate::store::{self, Stored};

/// Messages of one page of a thread, at most, and about how many bytes of them.
const THREAD_LIMIT: u32 = 1000;
const THREAD_BYTES: usize = 256 * 1024;

impl Service {
    /// # Errors
    /// [`AskError::Invalid`] for no place, [`AskError::Unavailable`].
    pub(crate) async fn message(&self, request: MessageRequest) -> Result<MessageResponse, AskError> {
        let place = place(request.place.as_ref())?;
        let made_us = (request.made_us > 0).then_some(request.made_us);
        let stored = self
            .store
            .message(&request.channel, place, made_us)
            .await
            .map_err(|error| fault(&error))?;
        let message = match stored {
            Some(stored) => self.folded(&request.channel, vec![stored]).await?.pop(),
            None => None,
        };
        Ok(MessageResponse { message })
    }

    /// # Errors
    /// [`AskError::Invalid`] for more than 10,000 places or one that is none, [`AskError::Unavailable`].
    pub(crate) async fn folds(&self, request: FoldsRequest) -> Result<FoldsResponse, AskError> {
        let places: Vec<store::Place> = request
            .places
            .iter()
            .map(|at| place(Some(at)))
            .collect::<Result<_, _>>()?;
        let folds = self
            .store
            .folds(&request.channel, &places)
            .await
            .map_err(|error| fault(&error))?;
        let folds = folds.into_iter().map(|(place, fold)| FoldAt {
            place: Some(place_told(place)),
            fold: Some(fold_told(fold)),
        });
        Ok(FoldsResponse {
            folds: folds.collect(),
        })
    }

    /// # Errors
    /// [`AskError::Invalid`] for no place or no limit, [`AskError::Unavailable`].
    pub(crate) async fn thread(&self, request: ThreadRequest) -> Result<ThreadResponse, AskError> {
        let root = place(request.root.as_ref())?;
        let after = request.after.as_ref().map(|at| place(Some(at))).transpose()?;
        if !(1..=THREAD_LIMIT).contains(&request.limit) {
            return Err(AskError::Invalid(format!("limit: 1 to {THREAD_LIMIT}")));
        }
        let limit = usize::try_from(request.limit).unwrap_or(usize::MAX);
        let bytes = match usize::try_from(request.bytes) {
            Ok(bytes @ 1..THREAD_BYTES) => bytes,
            Ok(_) | Err(_) => THREAD_BYTES,
        };
        let page = self
            .store
            .thread(&request.channel, root, after, limit, bytes)
            .await
            .map_err(|error| fault(&error))?;
        Ok(ThreadResponse {
            messages: self.folded(&request.channel, page.messages).await?,
            more: page.more,
        })
    }

    /// Messages of one channel with what became of each.
    ///
    /// # Errors
    /// [`AskError::Unavailable`].
    pub(super) async fn folded(
        &self,
        channel: &str,
        messages: Vec<Stored>,
    ) -> Result<Vec<FoldedMessage>, AskError> {
        let places: Vec<store::Place> = messages.iter().map(|stored| stored.place).collect();
        let mut folds = self
            .store
            .folds(channel, &places)
            .await
            .map_err(|error| fault(&error))?;
        let messages = messages.into_iter().map(|stored| FoldedMessage {
            fold: folds.remove(&stored.place).map(fold_told),
            place: Some(place_told(stored.place)),
            time_us: stored.time_us,
            message: stored.message,
        });
        Ok(messages.collect())
    }
}

fn place(at: Option<&Place>) -> Result<store::Place, AskError> {
    let at = at.ok_or_else(|| AskError::Invalid("place: missing".to_owned()))?;
    Ok(store::Place {
        log: at
            .log_epoch
            .parse()
            .map_err(|_| AskError::Invalid("epoch: not the one of a log".to_owned()))?,
        offset: Offset::from_u64(at.offset),
    })
}

fn place_told(place: store::Place) -> Place {
    Place {
        log_epoch: place.log.to_string(),
        offset: place.offset.get(),
    }
}

fn fold_told(fold: store::Fold) -> Fold {
    Fold {
        edited_us: fold.edited_us.unwrap_or(0),
        edits: fold.edits,
        deleted_us: fold.deleted_us.unwrap_or(0),
        reactions: fold
            .reactions
            .into_iter()
            .map(|reaction| Reaction {
                reaction: reaction.reaction,
                count: reaction.count,
                users: reaction.users,
            })
            .collect(),
        replies: fold.replies,
        replied_us: fold.replied_us.unwrap_or(0),
    }
}
