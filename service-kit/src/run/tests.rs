use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

fn free_port() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

fn node_config() -> NodeConfig {
    let read = |_: &mut Document| ();
    configure(
        None,
        [("SWITCHBOARD__SHUTDOWN__BUDGET".to_owned(), "10s".to_owned())],
        free_port(),
        read,
    )
    .unwrap()
    .0
}

struct Node {
    context: Context,
    aside: Tasks,
    signal: mpsc::Sender<&'static str>,
    signals: Option<mpsc::Receiver<&'static str>>,
}

impl Node {
    fn new() -> Self {
        let context = Context::new();
        let (signal, signals) = mpsc::channel(2);
        Self {
            aside: context.tasks.separate(),
            context,
            signal,
            signals: Some(signals),
        }
    }

    async fn live<T, F>(&mut self, start: impl FnOnce(Context) -> F) -> Outcome
    where
        F: Future<Output = Result<T, StartFailure>>,
    {
        let signals = self.signals.take().unwrap();
        live("test", &node_config(), &self.context, &self.aside, signals, start).await
    }
}

#[derive(Debug, thiserror::Error)]
#[error("cannot wind the clock")]
struct Outer(#[source] Inner);

#[derive(Debug, thiserror::Error)]
#[error("spring is broken")]
struct Inner;

#[tokio::test]
async fn a_signal_stops_tasks_before_what_was_started_is_dropped() {
    struct Connection(Arc<AtomicBool>);
    impl Drop for Connection {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let mut node = Node::new();
    let signal = node.signal.clone();
    let dropped = Arc::new(AtomicBool::new(false));
    let running = Connection(Arc::clone(&dropped));
    let health = node.context.health.clone();
    let outcome = node
        .live(async |context| {
            let stop = context.tasks.stop_token();
            let dropped = Arc::clone(&dropped);
            context.tasks.spawn("worker", TaskKind::Essential, async move {
                stop.cancelled().await;
                assert!(!dropped.load(Ordering::SeqCst), "closed while a task was working");
                assert!(health.report().stopping);
            });
            signal.send("SIGTERM").await.unwrap();
            Ok(running)
        })
        .await;
    assert!(matches!(outcome, Outcome::Stopped), "{outcome:?}");
    assert!(dropped.load(Ordering::SeqCst));
    assert!(
        !node.context.metrics.encode().contains("panics_total{"),
        "the worker's assertions hold"
    );
}

#[tokio::test]
async fn the_failure_of_an_essential_task_stops_the_node() {
    let mut node = Node::new();
    let outcome = node
        .live(async |context| {
            context
                .tasks
                .spawn("worker", TaskKind::Essential, async { panic!("injected") });
            Ok(())
        })
        .await;
    assert!(matches!(outcome, Outcome::TaskFailed), "{outcome:?}");
}

#[tokio::test]
async fn a_start_that_fails_stops_what_it_had_spawned() {
    let mut node = Node::new();
    let outcome = node
        .live(async |context| {
            let stop = context.tasks.stop_token();
            context.tasks.spawn(
                "worker",
                TaskKind::Essential,
                async move { stop.cancelled().await },
            );
            Err::<(), _>(Outer(Inner).into())
        })
        .await;
    let Outcome::StartFailed(error) = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!(chain(&*error), "cannot wind the clock: spring is broken");
    assert!(node.context.tasks.tracker().is_empty());
}

#[tokio::test]
async fn a_signal_during_the_start_ends_it() {
    let mut node = Node::new();
    let signal = node.signal.clone();
    let outcome = node
        .live(async |_| {
            signal.send("SIGINT").await.unwrap();
            std::future::pending::<Result<(), StartFailure>>().await
        })
        .await;
    assert!(matches!(outcome, Outcome::Stopped), "{outcome:?}");
}

#[tokio::test(start_paused = true)]
async fn a_stop_over_budget_is_forced() {
    let mut node = Node::new();
    let signal = node.signal.clone();
    let outcome = node
        .live(async |context| {
            context
                .tasks
                .spawn("stubborn", TaskKind::Essential, std::future::pending());
            signal.send("SIGTERM").await.unwrap();
            Ok(())
        })
        .await;
    assert!(matches!(outcome, Outcome::Forced), "{outcome:?}");
}

#[tokio::test]
async fn a_second_signal_ends_at_once() {
    let mut node = Node::new();
    let signal = node.signal.clone();
    let outcome = node
        .live(async |context| {
            context
                .tasks
                .spawn("stubborn", TaskKind::Essential, std::future::pending());
            signal.send("SIGTERM").await.unwrap();
            signal.send("SIGTERM").await.unwrap();
            Ok(())
        })
        .await;
    assert!(matches!(outcome, Outcome::Interrupted), "{outcome:?}");
}

#[test]
fn arguments() {
    let parse = |arguments: &[&str]| Arguments::parse(arguments.iter().map(OsString::from));
    let with = |path: &str| {
        Ok(Arguments::Run {
            config: Some(path.into()),
        })
    };
    assert_eq!(parse(&[]), Ok(Arguments::Run { config: None }));
    assert_eq!(parse(&["--config", "a.toml"]), with("a.toml"));
    assert_eq!(parse(&["--config=a.toml"]), with("a.toml"));
    assert_eq!(parse(&["--help"]), Ok(Arguments::Help));
    assert_eq!(parse(&["--version"]), Ok(Arguments::Version));
    assert!(parse(&["--config"]).unwrap_err().contains("needs the path"));
    assert!(parse(&["--verbose"]).unwrap_err().contains("--verbose"));
}

#[test]
fn a_chain_says_nothing_twice() {
    #[derive(Debug, thiserror::Error)]
    #[error("start: {0}")]
    struct Repeats(#[source] Outer);
    assert_eq!(
        chain(&Repeats(Outer(Inner))),
        "start: cannot wind the clock: spring is broken"
    );
}

#[test]
fn faults_of_the_node_and_the_service_come_together() {
    let environment = [
        ("SWITCHBOARD__LOG__FILTER", "loud=very"),
        ("SWITCHBOARD__CLOCK__TICK", "fast"),
    ];
    let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let faults = configure(None, environment, free_port(), |document| {
        document.section("clock").integer("tick", 1, 1..=9, "How fast.")
    })
    .unwrap_err();
    let keys: Vec<&str> = faults.iter().map(|fault| fault.key.as_str()).collect();
    assert_eq!(keys, ["log.filter", "clock.tick"]);
}
