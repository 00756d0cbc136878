//! The policy that is in force now.

use std::sync::Arc;

use parking_lot::RwLock;

use super::Policy;

/// A policy that may be replaced while it is asked. Cloning shares it.
#[derive(Debug, Clone)]
pub struct CurrentPolicy(Arc<RwLock<Arc<Policy>>>);

impl CurrentPolicy {
    pub(crate) fn new(policy: Policy) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(policy))))
    }

    /// What is in force now. It stays as it is for who holds it.
    pub fn now(&self) -> Arc<Policy> {
        Arc::clone(&self.0.read())
    }

    pub(super) fn replace(&self, policy: Policy) {
        *self.0.write() = Arc::new(policy);
    }
}
