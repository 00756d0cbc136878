//! `./cluster`, as somebody who tries the system out types it: it starts, two clients talk through the load balancer, and
//! when it is stopped nothing is left.

use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::client::Client;
use switchboard_e2e::process::binary;

/// The last port that a cluster takes, from its first one on.
const PORTS: u16 = 62;

/// Stops it when dropped, also where the test fails.
struct Cluster {
    folder: PathBuf,
    port: u16,
    program: PathBuf,
}

impl Cluster {
    fn command(&self, name: &str) -> Result<Output> {
        let output = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../cluster"))
            .arg(name)
            .arg("--folder")
            .arg(&self.folder)
            .args(["--port", &self.port.to_string()])
            .arg("--binary")
            .arg(&self.program)
            .output()?;
        println!("./cluster {name}: {output:?}");
        Ok(output)
    }

    /// It has to succeed; what it prints.
    fn must(&self, name: &str) -> Result<String> {
        let output = self.command(name)?;
        ensure!(output.status.success(), "./cluster {name}: {output:?}");
        Ok(String::from_utf8(output.stdout)?)
    }

    fn state(&self) -> Result<Value> {
        let text = std::fs::read(self.folder.join("cluster.json"))?;
        Ok(serde_json::from_slice(&text)?)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Nothing is left to tell it to; where it was stopped already this does nothing.
        self.command("stop").ok();
    }
}

/// One that has ended and that nobody has asked about is a zombie: it holds nothing, and is the matter of its parent.
fn runs(pid: &Value) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

/// The first of 70 ports, below those that other tests and the system take of this address; `part` 0 or 1.
fn first_port(part: u16) -> Result<u16> {
    let number = u16::try_from(std::process::id() % 14)? * 2 + part;
    Ok(10_000 + number * 70)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_starts_serves_and_leaves_nothing() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let cluster = Cluster {
        folder: folder.path().to_owned(),
        port: first_port(0)?,
        program: binary("switchboard")?,
    };
    assert_eq!(
        cluster.command("status")?.status.code(),
        Some(1),
        "nothing runs yet"
    );
    cluster.must("start")?;
    cluster.must("status")?;
    let state = cluster.state()?;
    let url = state["client"].as_str().context("no URL")?;

    let mut listener = Client::connect(url).await?;
    listener.subscribe("room:cluster").await?;
    let mut speaker = Client::connect(url).await?;
    speaker.publish("room:cluster", json!("hello")).await?;
    assert_eq!(listener.publication().await?.data, json!("hello"));
    // And what is said is stored.
    let names = ["postgres", "persistence-1", "persistence-2"];
    for name in names {
        let runs = state["processes"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|each| each["name"] == name);
        ensure!(runs, "{name} is missing");
    }

    // Once more changes nothing.
    assert!(cluster.must("start")?.contains("runs already"));
    assert_eq!(cluster.state()?, state);

    let processes = state["processes"].as_array().context("no processes")?;
    assert!(processes.len() >= 10, "{processes:?}");
    let router = processes.iter().find(|process| process["name"] == "router-1");
    let router = router.context("no router")?["pid"].to_string();
    ensure!(Command::new("kill").args(["-9", &router]).status()?.success());
    let half = cluster.command("start")?;
    let said = String::from_utf8(half.stderr)?;
    assert!(
        !half.status.success() && said.contains("router-1") && said.lines().count() == 1,
        "{said}"
    );

    cluster.must("stop")?;
    for process in processes {
        assert!(!runs(&process["pid"]), "{process}");
    }
    for port in cluster.port..=cluster.port + PORTS {
        TcpListener::bind((Ipv4Addr::LOCALHOST, port)).with_context(|| format!("port {port} is taken"))?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_port_is_named() -> Result<()> {
    let folder = tempfile::tempdir()?;
    // One of its gateways'.
    let first = first_port(1)?;
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, first + 10))?;
    let cluster = Cluster {
        folder: folder.path().to_owned(),
        port: first,
        program: binary("switchboard")?,
    };
    let output = cluster.command("start")?;
    let said = String::from_utf8(output.stderr)?;
    let port = taken.local_addr()?.port().to_string();
    assert!(!output.status.success(), "it starts on a port that is taken");
    assert!(said.contains(&port) && said.lines().count() == 1, "{said}");
    assert!(!folder.path().join("cluster.json").exists());
    Ok(())
}
