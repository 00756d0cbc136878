//! The least that a fan-out takes: a loop that writes the same bytes to as many TCP sockets, in one thread, with
//! readers in another process.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::io::AsyncReadExt as _;
use tokio::task::JoinSet;

use super::Floor;
use crate::server;
use crate::times::Times;

/// The argument with which this program is the readers: address and count follow.
pub const DRAIN: &str = "drain";

/// Writes to all sockets `rate` times a second, for so long; `rate` 0: as often as possible.
///
/// # Errors
/// Sockets that cannot be opened or written to.
pub fn run(sockets: usize, rate: f64, size: usize, duration: Duration) -> anyhow::Result<Floor> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut readers = Command::new(std::env::current_exe()?)
        .args([DRAIN, &listener.local_addr()?.to_string(), &sockets.to_string()])
        .stdin(Stdio::piped())
        .spawn()
        .context("starting the readers")?;
    let result = write(&listener, sockets, rate, size, duration);
    readers.kill()?;
    readers.wait()?;
    result
}

fn write(
    listener: &TcpListener,
    sockets: usize,
    rate: f64,
    size: usize,
    duration: Duration,
) -> anyhow::Result<Floor> {
    let mut streams = Vec::with_capacity(sockets);
    for _ in 0..sockets {
        let (stream, _) = listener.accept().context("accepting: see `ulimit -n`")?;
        stream.set_nodelay(true)?;
        streams.push(stream);
    }
    let bytes = vec![b'x'; size];
    let times = Times::default();
    let own = [std::process::id()];
    let before = server::read(&own)?;
    let begin = Instant::now();
    let mut due = begin;
    let mut writes = 0_u64;
    while begin.elapsed() < duration {
        for (number, stream) in (0_u32..).zip(&mut streams) {
            stream.write_all(&bytes)?;
            times.note(number, u64::try_from(due.elapsed().as_micros())?);
            writes += 1;
        }
        if rate > 0.0 {
            due += Duration::from_secs_f64(1.0 / rate);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        } else {
            due = Instant::now();
        }
    }
    let took = begin.elapsed().as_secs_f64();
    let after = server::read(&own)?;
    let used: Duration = before
        .iter()
        .zip(&after)
        .map(|(before, after)| after.processor.saturating_sub(before.processor))
        .sum();
    Ok(Floor {
        floor: format!("write loop of {size} bytes to {sockets} sockets"),
        per_second: writes as f64 / took,
        latency: times.counts().latency(),
        processor_us: used.as_secs_f64() * 1e6 / writes.max(1) as f64,
    })
}

/// Opens so many connections to `to` and reads them, until standard input ends.
///
/// # Errors
/// A connection that cannot be opened.
pub async fn drain(to: SocketAddr, sockets: usize) -> anyhow::Result<()> {
    let mut reading = JoinSet::new();
    for _ in 0..sockets {
        let stream = TcpStream::connect(to)?;
        stream.set_nonblocking(true)?;
        let mut stream = tokio::net::TcpStream::from_std(stream)?;
        reading.spawn(async move {
            let mut buffer = vec![0; 4096];
            while matches!(stream.read(&mut buffer).await, Ok(1..)) {}
        });
    }
    // Whoever started this may end without a word.
    tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await??;
    Ok(())
}
