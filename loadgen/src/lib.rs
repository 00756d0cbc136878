//! Puts load on a server of the Centrifuge client protocol, and checks what it is promised.
//!
//! It speaks the protocol and nothing else, so the same run can be pointed at another server. Every message says
//! whose it is and which, so that a [`checker`] can tell afterwards what was lost, doubled or out of order.

pub mod checker;
pub mod message;
pub mod rooms;
