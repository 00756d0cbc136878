//! The layout in force, followed as it changes (L5, L7): one question to the log each second, whatever the
//! number of shards.

use std::sync::Arc;
use std::time::Duration;

use switchboard_bus::Log;
use switchboard_proto::bus::Layout;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

/// Between two looks.
const LOOK: Duration = Duration::from_secs(1);

/// Follows the layout until nobody listens any more. Cancel safe.
pub(crate) async fn follow(log: Arc<dyn Log>, layout: watch::Sender<Arc<Layout>>) {
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = look.tick() => {}
            () = layout.closed() => return,
        }
        match log.layout().await {
            Ok(Some(found)) => {
                layout.send_if_modified(|known| {
                    let is_new = found.revision > known.revision;
                    if is_new {
                        *known = Arc::new(found);
                    }
                    is_new
                });
            }
            // What was in force stays so, and no claim succeeds meanwhile.
            Ok(None) => tracing::warn!("the layout of the log is gone"),
            Err(error) => tracing::debug!(%error, "the layout of the log is not readable"),
        }
    }
}
