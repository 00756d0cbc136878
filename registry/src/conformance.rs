//! The suite every backend must pass: the contract of [`crate::Registry`] as tests.
//!
//! A backend's tests implement [`RegistryFixture`] and call [`crate::registry_conformance`], which makes a test
//! of each case.

pub mod kept;
pub mod sessions;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use switchboard_proto::ids::Incarnation;
use uuid::Uuid;

use crate::{Announced, Change, Device, Lease, NewSession, Registry, Session};

/// A registry to test.
#[async_trait]
pub trait RegistryFixture: Send + Sync + Sized {
    /// A store that holds nothing, and keeps [`KEPT_PER_USER`] subscriptions for a user.
    async fn start() -> Self;

    /// Opens it as one more process would.
    fn open(&self) -> Arc<dyn Registry>;
}

/// Subscriptions that a registry to test keeps for a user, at most.
pub const KEPT_PER_USER: usize = 3;

/// Longer than anything here takes on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// A lease that outlasts a test.
pub const LONG: Duration = Duration::from_secs(120);

/// Waits until `condition` holds, but not for ever.
///
/// # Panics
/// If it does not hold in time.
pub async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let asking = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let waited = tokio::time::timeout(DEADLINE, asking).await;
    assert!(waited.is_ok(), "{what}: not within {DEADLINE:?}");
}

/// The first lease of a gateway.
pub fn lease(gateway: u128) -> Lease {
    Lease {
        gateway: Incarnation::from_u128(gateway),
        number: 1,
    }
}

/// A session, as new as its number says.
pub fn session(number: u128) -> NewSession {
    NewSession {
        client: Uuid::from_u128(number),
        device: Device::new("js", "5.1"),
        since_us: u64::try_from(number).unwrap(),
    }
}

/// That sessions of a user began.
pub fn began(user: &str, sessions: impl IntoIterator<Item = u128>) -> Change {
    Change {
        user: user.to_owned(),
        connected: sessions.into_iter().map(session).collect(),
        disconnected: Vec::new(),
        is_here: true,
    }
}

/// That the user's last sessions ended.
pub fn ended(user: &str, sessions: impl IntoIterator<Item = u128>) -> Change {
    Change {
        user: user.to_owned(),
        connected: Vec::new(),
        disconnected: sessions.into_iter().map(Uuid::from_u128).collect(),
        is_here: false,
    }
}

/// What an announcement under a lease in force says where all had room.
pub const DONE: Announced = Announced {
    held: true,
    left_out: 0,
};

/// A user's sessions by number, with the number of their gateway.
pub async fn found(registry: &dyn Registry, user: &str) -> Vec<(u128, u128)> {
    let sessions = registry.sessions(user).await.unwrap();
    let mut found: Vec<(u128, u128)> = sessions
        .iter()
        .map(|Session { client, gateway, .. }| (client.as_u128(), u128::from_be_bytes(*gateway.as_bytes())))
        .collect();
    found.sort_unstable();
    found
}

/// Makes a test of each case of the suite.
#[macro_export]
macro_rules! registry_conformance {
    ($fixture:ty) => {
        $crate::registry_conformance!(
            $fixture: sessions:
            session_is_found_from_its_announcement_to_its_end,
            user_is_found_on_all_gateways,
            announcing_again_changes_nothing,
            lease_that_ends_takes_all_sessions_in_one_step,
            renewed_lease_goes_on,
            what_was_said_under_an_earlier_lease_never_comes_back,
            without_a_lease_nobody_sees_what_is_announced,
            released_lease_takes_all_sessions,
            racing_admissions_keep_to_the_limit,
            session_is_admitted_once,
            sessions_of_a_gateway_that_is_gone_do_not_count,
            users_of_a_gateway_come_in_pages,
            any_text_is_a_user,
            sessions_of_a_user_are_bounded,
        );
        $crate::registry_conformance!(
            $fixture: kept:
            subscription_is_kept_until_it_is_forgotten,
            subscription_is_replaced,
            subscriptions_end_by_themselves,
            subscriptions_of_a_user_are_bounded,
            large_subscription_is_refused,
        );
    };
    ($fixture:ty: $suite:ident: $($case:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let fixture = <$fixture as $crate::conformance::RegistryFixture>::start().await;
                $crate::conformance::$suite::$case(&fixture).await;
            }
        )*
    };
}
