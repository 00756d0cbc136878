use std::time::Duration;

use switchboard_bus::SubjectPrefix;
use switchboard_bus::embedded::EmbeddedBus;

use super::*;

const DEADLINE: Duration = Duration::from_secs(20);

async fn until(membership: &mut Membership, wanted: impl Fn(&[Incarnation]) -> bool) {
    let seen = async {
        while !wanted(&membership.of_role(Role::Persistence)) {
            membership.changed().await;
        }
    };
    tokio::time::timeout(DEADLINE, seen).await.expect("seen in time");
}

#[tokio::test]
async fn joins_is_ready_and_leaves_at_the_stop() {
    let bus: Arc<dyn Bus> = EmbeddedBus::new(SubjectPrefix::default());
    let (one, other) = (Context::new(), Context::new());
    let deps = || Deps {
        bus: Arc::clone(&bus),
    };
    let first = start(Config::default(), deps(), one.clone()).await.unwrap();
    let mut second = start(Config::default(), deps(), other.clone()).await.unwrap();
    assert!(one.health.report().ready && other.health.report().ready);

    until(&mut second.membership, |there| there.contains(&first.incarnation)).await;
    assert!(one.tasks.stop(DEADLINE).await.forced.is_empty());
    let me = second.incarnation;
    until(&mut second.membership, |there| there == [me]).await;
    assert!(other.tasks.stop(DEADLINE).await.forced.is_empty());
}
