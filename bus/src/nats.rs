//! The NATS backend: the bus on core NATS, the log on JetStream.

mod bus;
mod connection;
mod log;

pub use bus::NatsBus;
pub use connection::{ConnectError, NatsAuthentication, NatsConfig, NatsConnection};
pub use log::{NatsDurability, NatsLog, NatsLogConfig};
