//! The router as a process of its own. See the library.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;

use switchboard_bus::config::BusConfig;
use switchboard_router_svc::{Config, Deps, start};
use switchboard_service_kit::run::{self, Program, StartFailure};

const PROGRAM: Program = Program {
    name: "switchboard-router-svc",
    version: env!("CARGO_PKG_VERSION"),
    about: "owns shards and writes their logs",
    admin: SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8002),
    other_sections: &[
        "switchboard",
        "gateway",
        "channels",
        "namespaces",
        "persistence",
        "presence",
        "notify",
        "registry",
    ],
};

fn main() -> ExitCode {
    run::main(
        PROGRAM,
        |document| {
            let (mut bus, config) = (BusConfig::read_shared(document), Config::read(document));
            bus.key_window = Some(config.key_window);
            (bus, config)
        },
        |(bus, config), context| async move {
            let backends = bus.open(PROGRAM.name).await?;
            let deps = Deps {
                bus: backends.bus,
                log: backends.log,
                shards: backends.shards,
            };
            start(config, deps, context).await.map_err(StartFailure::from)
        },
    )
}
