//! All five services in one process, as a library and behind the operator's command line.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let config = switchboard::Config::from_toml("gateway.insecure = true")?;
//! let running = switchboard::Switchboard::start(config).await?;
//! println!("{}", running.websocket_url().unwrap_or_default());
//! running.stop().await;
//! # Ok(())
//! # }
//! ```
//!
//! There is no logic here but that of the operator's commands: what needs a decision belongs into a service.

pub mod cli;
mod config;
pub mod log_life;
mod system;

pub use config::{Config, Service};
pub use switchboard_service_kit::config::{Effective, Faults};
pub use system::{StartError, Stopped, Switchboard};
