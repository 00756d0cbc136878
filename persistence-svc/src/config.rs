//! The section `[persistence]`.

use switchboard_service_kit::config::Document;

/// What the service can be told: nothing yet, since its duty is not built yet. An empty section is
/// accepted, a key in it is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Config {}

impl Config {
    /// Reads the section.
    pub fn read(document: &mut Document) -> Self {
        document.section("persistence");
        Self {}
    }
}
