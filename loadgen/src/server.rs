//! What the server's processes use, as Linux tells it.

use std::time::Duration;

use anyhow::Context as _;

/// What Linux counts processor time in: USER_HZ.
const TICK: Duration = Duration::from_millis(10);

/// What one process has used up to now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Processor time, of user and system.
    pub(crate) processor: Duration,
    /// Resident memory.
    pub(crate) bytes: u64,
}

/// Reads all of them.
///
/// # Errors
/// A process that is not there.
pub(crate) fn read(pids: &[u32]) -> anyhow::Result<Vec<Usage>> {
    pids.iter()
        .map(|pid| usage(*pid).with_context(|| format!("process {pid} (--pid) cannot be looked at")))
        .collect()
}

fn usage(pid: u32) -> anyhow::Result<Usage> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name, in brackets, may hold spaces. Behind it user and system time are the 12th and 13th field.
    let (_, behind) = stat.rsplit_once(')').context("no name in stat")?;
    let mut fields = behind.split_whitespace().skip(11);
    let mut ticks = || -> anyhow::Result<u32> { Ok(fields.next().context("a short stat")?.parse()?) };
    let ticks = ticks()? + ticks()?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let resident = resident.context("no VmRSS in status")?;
    let kib: u64 = resident.trim().trim_end_matches("kB").trim().parse()?;
    Ok(Usage {
        processor: TICK * ticks,
        bytes: kib * 1024,
    })
}

/// Files that this process may have open.
pub(crate) fn open_files() -> Option<u64> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_there_and_another_is_not() {
        let before = usage(std::process::id()).unwrap();
        assert!(before.bytes > 1 << 20, "{before:?}");
        let begun = std::time::Instant::now();
        let used = loop {
            let now = usage(std::process::id()).unwrap().processor;
            if now > before.processor || begun.elapsed() > Duration::from_secs(10) {
                break now;
            }
        };
        assert!(used > before.processor, "a loop takes processor time");
        assert!(read(&[u32::MAX]).is_err());
        assert!(open_files().unwrap() > 0);
    }
}
