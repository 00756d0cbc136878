//! The persistence service as a process of its own.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;

use switchboard_bus::config::BusConfig;
use switchboard_persistence_svc::{Config, Deps, start};
use switchboard_service_kit::run::{self, Program, StartFailure};

const PROGRAM: Program = Program {
    name: "switchboard-persistence-svc",
    version: env!("CARGO_PKG_VERSION"),
    about: "will store and search messages; today it only joins the bus",
    admin: SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8003),
    other_sections: &[
        "channels",
        "gateway",
        "namespaces",
        "notify",
        "presence",
        "registry",
        "router",
        "switchboard",
    ],
};

fn main() -> ExitCode {
    run::main(
        PROGRAM,
        |document| (BusConfig::read_shared(document), Config::read(document)),
        |(bus, config), context| async move {
            let bus = bus.open_bus(PROGRAM.name).await?;
            let running = start(config, Deps { bus: bus.clone() }, context).await?;
            Ok::<_, StartFailure>((running, bus))
        },
    )
}
