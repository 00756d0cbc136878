//! Rules that a simulation may switch off, to see that it notices.
//!
//! A test that never fails proves nothing: the simulation in `simulation/` also runs with each of these rules
//! broken and has to find the harm. In any other build [`is_kept`] is `true` and costs nothing.

/// See `docs/rules.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(
    not(feature = "simulation"),
    expect(unreachable_pub, dead_code, reason = "public and whole in the simulation")
)]
pub enum Rule {
    /// A gap in a link's numbers resets it.
    K1,
    /// No publish before the tail is read to the own fence.
    O2,
    /// Stored numbers are recognised.
    P2,
    /// Keys enter the table when queued.
    P5,
    /// `recovered` only where nothing was removed.
    R5,
    /// A target applies only what follows its applied position.
    D1,
}

/// Whether the rule is in force.
#[cfg(not(feature = "simulation"))]
pub(crate) const fn is_kept(_: Rule) -> bool {
    true
}

#[cfg(feature = "simulation")]
pub use switchable::break_rule;
#[cfg(feature = "simulation")]
pub(crate) use switchable::is_kept;

#[cfg(feature = "simulation")]
mod switchable {
    use std::cell::Cell;

    use super::Rule;

    thread_local! {
        static BROKEN: Cell<Option<Rule>> = const { Cell::new(None) };
    }

    /// Switches a rule off for this thread; `None`: all are kept.
    pub fn break_rule(rule: Option<Rule>) {
        BROKEN.set(rule);
    }

    pub(crate) fn is_kept(rule: Rule) -> bool {
        BROKEN.get() != Some(rule)
    }
}
