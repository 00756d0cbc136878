//! The registry in this process.

use std::sync::Arc;

use async_trait::async_trait;
use switchboard_registry::Registry;
use switchboard_registry::conformance::{KEPT_PER_USER, RegistryFixture};
use switchboard_registry::memory::MemoryRegistry;

struct OneProcess(Arc<MemoryRegistry>);

#[async_trait]
impl RegistryFixture for OneProcess {
    async fn start() -> Self {
        Self(Arc::new(MemoryRegistry::new(KEPT_PER_USER)))
    }

    fn open(&self) -> Arc<dyn Registry> {
        Arc::clone(&self.0) as Arc<dyn Registry>
    }
}

switchboard_registry::registry_conformance!(OneProcess);
