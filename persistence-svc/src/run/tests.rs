use std::time::Duration;

use switchboard_bus::SubjectPrefix;
use switchboard_bus::embedded::EmbeddedBus;
use switchboard_service_kit::config::Document;

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
    let config = Config::read(
        &mut Document::parse("", []).unwrap(),
        &switchboard_database::config::Defaults::of_many(crate::config::SQLITE_PATH),
    );
    let deps = || Deps {
        bus: Arc::clone(&bus),
        log: None,
        shards: ShardCount::new(1).unwrap(),
        data: None,
    };
    let first = start(config.clone(), deps(), one.clone()).await.unwrap();
    let mut second = start(config.clone(), deps(), other.clone()).await.unwrap();
    assert!(one.health.report().ready && other.health.report().ready);

    until(&mut second.membership, |there| there.contains(&first.incarnation)).await;
    assert!(one.tasks.stop(DEADLINE).await.forced.is_empty());
    let me = second.incarnation;
    until(&mut second.membership, |there| there == [me]).await;
    assert!(other.tasks.stop(DEADLINE).await.forced.is_empty());
}
