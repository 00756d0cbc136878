//! Connections shared out over several processes, which the first one tells what to do, in lines of JSON over their
//! standard input and output.

use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use switchboard_proto::time::now_us;
use tokio::io::{
    AsyncBufRead, AsyncBufReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader, Lines, stdin, stdout,
};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::{Instant, sleep};

use crate::generator::{Acknowledged, Generator, Progress, Seen, Share};

use crate::plan::Plan;

/// The argument with which this program is one of several processes.
pub const PART: &str = "part";

/// Between two words of how it stands.
const PROGRESS: Duration = Duration::from_millis(500);

/// To another process.
#[derive(Debug, Serialize, Deserialize)]
enum Order {
    Open {
        plan: Box<Plan>,
        run: String,
        share: Share,
    },
    /// At Unix microseconds.
    Load {
        begin_us: u64,
    },
    Settle(Acknowledged),
}

/// From another process.
#[derive(Debug, Serialize, Deserialize)]
enum Word {
    Opened,
    Progress(Progress),
    Loaded(Acknowledged),
    Settled(Box<Seen>),
}

async fn say(out: &mut (impl AsyncWrite + Unpin), what: &impl Serialize) -> anyhow::Result<()> {
    let mut line = serde_json::to_string(what)?;
    line.push('\n');
    out.write_all(line.as_bytes()).await?;
    Ok(out.flush().await?)
}

async fn hear<T: DeserializeOwned>(lines: &mut Lines<impl AsyncBufRead + Unpin>) -> anyhow::Result<T> {
    let line = lines.next_line().await?.context("the other process ended")?;
    Ok(serde_json::from_str(&line)?)
}

/// What a process does that was started with [`PART`].
///
/// # Errors
/// As [`crate::run`]; the first process prints them.
pub async fn part() -> anyhow::Result<()> {
    let (mut orders, mut out) = (BufReader::new(stdin()).lines(), stdout());
    let Order::Open { plan, run, share } = hear(&mut orders).await? else {
        bail!("told to begin before told what");
    };
    let mut generator = Generator::open(*plan, run, share).await?;
    say(&mut out, &Word::Opened).await?;
    let Order::Load { begin_us } = hear(&mut orders).await? else {
        bail!("not told when to begin");
    };
    let begin = Instant::now() + Duration::from_micros(begin_us.saturating_sub(now_us()));
    let watch = generator.watch();
    let acknowledged = {
        let mut loading = std::pin::pin!(generator.load(begin));
        loop {
            tokio::select! {
                acknowledged = &mut loading => break acknowledged?,
                () = sleep(PROGRESS) => {}
            }
            // Outside of the select, so that a line is written to its end.
            say(&mut out, &Word::Progress(watch())).await?;
        }
    };
    say(&mut out, &Word::Loaded(acknowledged)).await?;
    let Order::Settle(all) = hear(&mut orders).await? else {
        bail!("not told what was acknowledged");
    };
    let seen = generator.settle(all).await;
    say(&mut out, &Word::Settled(Box::new(seen))).await
}

/// The other processes. They end when this one does.
pub(crate) struct Children {
    parts: Vec<Part>,
}

struct Part {
    // Killed when dropped.
    _child: Child,
    orders: ChildStdin,
    words: Lines<BufReader<ChildStdout>>,
    progress: Arc<Mutex<Progress>>,
}

impl Part {
    /// The next word other than how it stands.
    async fn word(&mut self) -> anyhow::Result<Word> {
        loop {
            match hear(&mut self.words).await? {
                Word::Progress(now) => *self.progress.lock().unwrap_or_else(PoisonError::into_inner) = now,
                word => return Ok(word),
            }
        }
    }
}

impl Children {
    /// Starts them, and waits until all connections are open.
    pub(crate) async fn open(plan: &Plan, run: &str, of: usize) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("where is this program?")?;
        let mut parts = Vec::new();
        for index in 0..of {
            let mut child = Command::new(&program)
                .arg(PART)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .kill_on_drop(true)
                .spawn()
                .context("starting another process")?;
            let mut orders = child.stdin.take().context("no standard input")?;
            let words = child.stdout.take().context("no standard output")?;
            let order = Order::Open {
                plan: Box::new(plan.clone()),
                run: run.to_owned(),
                share: Share { index, of },
            };
            say(&mut orders, &order).await?;
            parts.push(Part {
                _child: child,
                orders,
                words: BufReader::new(words).lines(),
                progress: Arc::default(),
            });
        }
        for part in &mut parts {
            let Word::Opened = part.word().await? else {
                bail!("another process does not say that it is open");
            };
        }
        Ok(Self { parts })
    }

    pub(crate) fn watch(&self) -> impl Fn() -> Progress + Send + use<> {
        let parts: Vec<_> = self.parts.iter().map(|part| Arc::clone(&part.progress)).collect();
        move || {
            let mut all = Progress::default();
            for part in &parts {
                all.add(*part.lock().unwrap_or_else(PoisonError::into_inner));
            }
            all
        }
    }

    pub(crate) async fn load(&mut self, begin: Instant) -> anyhow::Result<Acknowledged> {
        let left = begin.saturating_duration_since(Instant::now()).as_micros();
        let begin_us = now_us() + u64::try_from(left)?;
        for part in &mut self.parts {
            say(&mut part.orders, &Order::Load { begin_us }).await?;
        }
        let loading = self.parts.iter_mut().map(|part| async {
            match part.word().await? {
                Word::Loaded(acknowledged) => anyhow::Ok(acknowledged),
                _ => bail!("another process does not say what was acknowledged"),
            }
        });
        let mut all = Acknowledged::new();
        for acknowledged in futures_util::future::try_join_all(loading).await? {
            for (room, senders) in acknowledged {
                all.entry(room).or_default().extend(senders);
            }
        }
        Ok(all)
    }

    pub(crate) async fn settle(mut self, all: Acknowledged) -> anyhow::Result<Seen> {
        let order = Order::Settle(all);
        for part in &mut self.parts {
            say(&mut part.orders, &order).await?;
        }
        let mut seen = Seen::default();
        for part in &mut self.parts {
            match part.word().await? {
                Word::Settled(its) => seen.add(*its),
                _ => bail!("another process does not say what it saw"),
            }
        }
        Ok(seen)
    }
}
