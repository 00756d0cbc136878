//! The network between the nats-servers: each reaches each other through a proxy of its own.

use std::net::SocketAddr;

use anyhow::Result;

use super::proxy::{Proxy, Way};

/// See the module.
#[derive(Default)]
pub(super) struct Routes {
    routes: Vec<Route>,
}

struct Route {
    from: usize,
    to: usize,
    proxy: Proxy,
}

impl Routes {
    /// New ones between servers that listen for each other there; for each server, where it reaches the others.
    pub(super) async fn lay(&mut self, servers: &[SocketAddr]) -> Result<Vec<Vec<SocketAddr>>> {
        self.routes.clear();
        let mut addresses = Vec::new();
        for from in 0..servers.len() {
            let mut of_server = Vec::new();
            for (to, server) in servers.iter().enumerate().filter(|(to, _)| *to != from) {
                let proxy = Proxy::start(std::slice::from_ref(server)).await?;
                of_server.extend(proxy.addresses());
                self.routes.push(Route { from, to, proxy });
            }
            addresses.push(of_server);
        }
        Ok(addresses)
    }

    /// All that goes to this server and comes from it.
    pub(super) fn set(&self, server: usize, way: Way) {
        for Route { from, to, proxy } in &self.routes {
            if *from == server || *to == server {
                proxy.set(way);
            }
        }
    }
}
