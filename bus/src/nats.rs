//! The NATS backend.
