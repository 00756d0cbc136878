//! What gateways are asked by services that have no links of their own.

use crate::bus::{PublishForRequest, PublishForResponse};
use crate::questions::{Service, methods};

methods! {
    Service::Publishing;
    /// Publishes for a service.
    PublishFor: PublishForRequest => PublishForResponse,
}
