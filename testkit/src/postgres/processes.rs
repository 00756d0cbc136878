//! The processes of a server: PostgreSQL has one for each connection and task. Each leaves the server's process
//! group, and outlives the server for a moment if that is killed, so they are looked for by their parent (in
//! Linux' `/proc`).

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long a process may take to stop or go after a signal that it cannot refuse.
const OBEYED: Duration = Duration::from_secs(30);

/// Stops a process (SIGSTOP), so that it makes no more children, and returns those that it has.
pub(super) fn freeze(pid: u32) -> Result<Vec<u32>> {
    signal("STOP", &[pid])?;
    until(|| state(pid).is_none_or(|(state, _)| matches!(state, 'T' | 'Z' | 'X')))?;
    Ok(children(pid))
}

/// Kills processes and returns when they are gone.
pub(super) fn kill(pids: &[u32]) -> Result<()> {
    signal("KILL", pids)?;
    // A zombie has let go of everything; whether anybody takes note of its end is not known.
    until(|| {
        pids.iter()
            .all(|pid| state(*pid).is_none_or(|(state, _)| matches!(state, 'Z' | 'X')))
    })
}

/// Sends a signal to processes. Those that are gone already are not missed.
pub(super) fn signal(signal: &str, pids: &[u32]) -> Result<()> {
    if !pids.is_empty() {
        let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
        let command = format!("kill -s {signal} {}", pids.join(" "));
        Command::new("sh")
            .args(["-c", &command])
            .stderr(Stdio::null())
            .status()?;
    }
    Ok(())
}

/// The processes whose parent this one is.
pub(super) fn children(parent: u32) -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| state(*pid).is_some_and(|(_, of)| of == parent))
        .collect()
}

/// The state of a process, a letter, and its parent; nothing where it is gone.
fn state(pid: u32) -> Option<(char, u32)> {
    let content = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before is in brackets, and may have brackets and blanks in it.
    let (_, after_name) = content.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

fn until(condition: impl Fn() -> bool) -> Result<()> {
    let start = Instant::now();
    while !condition() {
        if start.elapsed() > OBEYED {
            bail!("processes of PostgreSQL do not obey a signal");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}
