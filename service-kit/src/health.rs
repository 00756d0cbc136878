//! Who is ready to work. A node is ready while every component says so and no stop has begun.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

/// The health of one node. Cloning shares it.
#[derive(Debug, Clone, Default)]
pub struct Health(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    stopping: bool,
    /// Why each component is not ready; `None`: it is. Bounded: names are written in the code.
    components: BTreeMap<&'static str, Option<String>>,
}

/// One part of a node that must be ready before work is sent to it. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Component {
    health: Health,
    name: &'static str,
}

/// The health at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Whether work may be sent to this node. Not before a component has registered.
    pub ready: bool,
    /// Whether a stop has begun.
    pub stopping: bool,
    /// By name.
    pub components: Vec<ComponentReport>,
}

/// A component at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ComponentReport {
    /// Its name.
    pub name: &'static str,
    /// Why it is not ready; `None`: it is.
    pub not_ready: Option<String>,
}

impl Health {
    /// Nothing registered, not ready.
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers a component, which is not ready ("starting"). The same name is the same component.
    pub fn component(&self, name: &'static str) -> Component {
        let component = Component {
            health: self.clone(),
            name,
        };
        component.not_ready("starting");
        component
    }

    /// The node is not ready from now on, whatever components say: the first step of every stop.
    pub fn stop(&self) {
        self.0.lock().stopping = true;
    }

    /// The health now.
    pub fn report(&self) -> Report {
        let state = self.0.lock();
        let components: Vec<ComponentReport> = state
            .components
            .iter()
            .map(|(name, not_ready)| ComponentReport {
                name,
                not_ready: not_ready.clone(),
            })
            .collect();
        let all_ready = components.iter().all(|component| component.not_ready.is_none());
        Report {
            ready: !state.stopping && !components.is_empty() && all_ready,
            stopping: state.stopping,
            components,
        }
    }
}

impl Component {
    /// It works.
    pub fn ready(&self) {
        self.set(None);
    }

    /// It does not work, and `why` tells an operator where to look.
    pub fn not_ready(&self, why: impl Into<String>) {
        self.set(Some(why.into()));
    }

    fn set(&self, not_ready: Option<String>) {
        self.health.0.lock().components.insert(self.name, not_ready);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_when_all_components_are() {
        let health = Health::new();
        assert!(!health.report().ready, "nothing has registered");
        let (one, two) = (health.component("one"), health.component("two"));
        one.ready();
        assert!(!health.report().ready);
        two.ready();
        assert!(health.report().ready);
        one.not_ready("lost its server");
        let report = health.report();
        assert!(!report.ready);
        let whys: Vec<_> = report.components.iter().map(|c| c.not_ready.as_deref()).collect();
        assert_eq!(whys, [Some("lost its server"), None]);
    }

    #[test]
    fn not_ready_once_stopping() {
        let health = Health::new();
        let component = health.component("one");
        component.ready();
        health.stop();
        component.ready();
        assert!(!health.report().ready);
        assert!(health.report().stopping);
    }
}
