//! Real servers for tests: the programs that Switchboard runs with, on free ports of the loopback
//! address, with their data in folders that go away.
//!
//! NATS ([`NatsServer`], [`NatsCluster`]), Redis ([`RedisServer`], [`RedisCluster`]), PostgreSQL
//! ([`PostgresServer`], a [database](PostgresServer::database) of it for each test) and an S3 server
//! ([`S3Server`]).
//!
//! A missing program is an error that says how to get it, never a skipped test.

mod disk;
mod logged;
mod nats;
mod postgres;
mod program;
mod redis;
mod s3;

use std::time::Duration;

use anyhow::{Result, bail};

pub use disk::SmallDisk;
pub use logged::Logged;
pub use nats::{NatsCluster, NatsServer};
pub use postgres::PostgresServer;
pub use redis::{RedisCluster, RedisServer, RedisTls};
pub use s3::{S3Keys, S3Server};

/// Waits until `condition` holds, asking a hundred times a second. For tests: instead of a sleep
/// that hopes.
///
/// # Errors
/// If it does not hold within `deadline`.
pub async fn wait_until(deadline: Duration, mut condition: impl AsyncFnMut() -> bool) -> Result<()> {
    let asking = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    if tokio::time::timeout(deadline, asking).await.is_err() {
        bail!("not within {deadline:?}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waits_no_longer_than_needed_and_not_for_ever() {
        let mut asked = 0;
        let third = wait_until(Duration::from_secs(1), async || {
            asked += 1;
            asked == 3
        });
        third.await.unwrap();
        assert_eq!(asked, 3);
        assert!(wait_until(Duration::from_secs(1), async || false).await.is_err());
    }
}
