//! Questions about users, and what users choose.

use std::collections::BTreeMap;
use std::time::Duration;

use switchboard_bus::messages::AskError;
use switchboard_proto::presence::{
    GetUserRequest, GetUserResponse, GetUsersRequest, GetUsersResponse, Presence, SetUserRequest,
    SetUserResponse, Status, Visibility,
};

use super::{Service, check_count, check_user, fault};
use crate::store::{Loaded, MAX_BATCH, Partition, StoreError};
use crate::user::{LONGEST_TEXT, MAX_TEXT, User};

impl Service {
    /// What others see of users.
    ///
    /// # Errors
    /// [`AskError`].
    pub async fn get_users(&self, request: GetUsersRequest) -> Result<GetUsersResponse, AskError> {
        check_count("users", request.users.len())?;
        for user in &request.users {
            check_user(user)?;
        }
        let mut partitions: BTreeMap<Partition, Vec<&str>> = BTreeMap::new();
        for user in &request.users {
            partitions.entry(Partition::of(user)).or_default().push(user);
        }
        let found = partitions.into_iter().map(|(partition, mut users)| async move {
            users.sort_unstable();
            users.dedup();
            let mut found = Vec::with_capacity(users.len());
            for batch in users.chunks(MAX_BATCH) {
                let loaded = self.store.load(partition, batch).await?;
                found.extend(
                    batch
                        .iter()
                        .enumerate()
                        .map(|(at, user)| (*user, self.seen(user, at, &loaded))),
                );
            }
            Ok(found)
        });
        let found = futures_util::future::try_join_all(found).await;
        let found = found.map_err(|error: StoreError| fault(&error))?;
        let found: BTreeMap<&str, Presence> = found.into_iter().flatten().collect();
        let users = request
            .users
            .iter()
            .filter_map(|user| found.get(user.as_str()).cloned());
        Ok(GetUsersResponse {
            users: users.collect(),
        })
    }

    /// All that is known of one user. Sessions whose lease is over are not among them.
    ///
    /// # Errors
    /// [`AskError`].
    pub async fn get_user(&self, request: GetUserRequest) -> Result<GetUserResponse, AskError> {
        let name = &request.user;
        check_user(name)?;
        let loaded = self.store.load(Partition::of(name), &[name]).await;
        let loaded = loaded.map_err(|error| fault(&error))?;
        let mut user = self.user(0, &loaded).map_err(|error| fault(&error))?;
        let presence = self.seen(name, 0, &loaded);
        user.settle(name, &loaded.leases, loaded.now_ms, &self.settings.rules);
        let kept = user.kept();
        Ok(GetUserResponse {
            presence: Some(presence),
            chosen: kept.chosen,
            text_until_ms: kept.text_until_ms,
            sessions: kept.sessions.clone(),
            devices: kept.devices.clone(),
        })
    }

    /// Changes what a user chose, and tells it.
    ///
    /// # Errors
    /// [`AskError`].
    pub async fn set_user(&self, request: SetUserRequest) -> Result<SetUserResponse, AskError> {
        check_user(&request.user)?;
        check(&request)?;
        let name = request.user.as_str();
        let partition = Partition::of(name);
        let change = |_: &str, user: &mut User, now_ms| user.set(&request, now_ms);
        self.change(partition, None, vec![(name, Vec::new())], &change)
            .await
            .map_err(|error| fault(&error))?;
        let loaded = self.store.load(partition, &[name]).await;
        let loaded = loaded.map_err(|error| fault(&error))?;
        Ok(SetUserResponse {
            presence: Some(self.seen(name, 0, &loaded)),
        })
    }

    fn user(&self, at: usize, loaded: &Loaded) -> Result<User, StoreError> {
        match loaded.users.get(at).and_then(Option::as_ref) {
            Some(stored) => {
                User::decode(stored.value.clone()).map_err(|error| StoreError::Damaged(error.to_string()))
            }
            None => Ok(User::default()),
        }
    }

    /// What others see of a user: what they were told last.
    fn seen(&self, name: &str, at: usize, loaded: &Loaded) -> Presence {
        let user = self.user(at, loaded).unwrap_or_default();
        user.presence(name, loaded.now_ms, &self.settings.rules)
    }
}

fn check(request: &SetUserRequest) -> Result<(), AskError> {
    let invalid = |words: String| Err(AskError::Invalid(words));
    let chosen = request.status.map(|_| request.status());
    if matches!(chosen, Some(Status::Unspecified | Status::Offline)) {
        return invalid("status is one of online, away, busy and invisible".to_owned());
    }
    let visibility = request.visibility.map(Visibility::try_from);
    if matches!(visibility, Some(Err(_))) {
        return invalid("visibility is one of everybody, shared and nobody".to_owned());
    }
    if let Some(text) = &request.text
        && (text.chars().count() > MAX_TEXT || text.chars().any(char::is_control))
    {
        return invalid(format!(
            "a status text has {MAX_TEXT} characters at most, and no control characters"
        ));
    }
    if Duration::from_millis(request.text_lasts_ms) > LONGEST_TEXT {
        return invalid("a status text lasts a year at most".to_owned());
    }
    if request.text.is_none() && request.text_lasts_ms != 0 {
        return invalid("a time without a text".to_owned());
    }
    Ok(())
}
