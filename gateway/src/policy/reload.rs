//! What is allowed changes more often than a gateway should be restarted: each restart disconnects everybody. So the
//! sections `[channels]` and `[namespaces.NAME]` are read again from the file while the gateway runs.
//!
//! What must hold, each with a test:
//! * A file that is no good changes nothing, and the log names every fault.
//! * A file that is being written is not taken for what it will be: the clock believes what it has seen twice. Who
//!   sends SIGHUP says that the file is whole.
//! * No session keeps what it may not have any more (`session`), and none is touched where nothing of its changed.

use std::sync::Arc;
use std::time::Duration;

use switchboard_service_kit::config::{Fault, Faults, Origin};
use tokio::io::AsyncReadExt as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{Bounds, Policy};
use crate::gateway::Gateway;
use crate::metrics::Reload;

/// The sections that may change.
const SECTIONS: [&str; 2] = ["channels", "namespaces"];

/// What a configuration file holds, at most.
const MAX_FILE: u64 = 4 * 1024 * 1024;

/// Keys that one log line names.
const NAMED: usize = 32;

/// What clients are told.
const TOLD: &str = "what is allowed in channels has changed";

/// What the file holds; the error in words, where it cannot be read.
type Content = Result<String, String>;

/// The file as it was seen, and what of it is in force.
struct Watched {
    origin: Origin,
    bounds: Bounds,
    /// What was judged last.
    judged: Content,
    /// What the clock saw since, once.
    once: Option<Content>,
    /// The text whose policy is in force.
    in_force: String,
}

/// A text that was judged.
enum Verdict {
    /// What is allowed stays as it was.
    Same,
    /// It is different, by these keys.
    Changed(Box<Policy>, Vec<String>),
}

/// Looks at the file until `stop`.
pub(crate) async fn watch(gateway: Arc<Gateway>, origin: Origin, stop: CancellationToken) {
    let mut hang_up = match signal(SignalKind::hangup()) {
        Ok(hang_up) => Some(hang_up),
        Err(error) => {
            tracing::warn!(%error, "SIGHUP is not listened to; the policy is reloaded by the clock alone");
            None
        }
    };
    let interval = gateway.config.reload_interval;
    let mut watched = Watched::new(origin, gateway.config.bounds());
    loop {
        let is_asked = tokio::select! {
            () = tick(interval) => false,
            () = hung_up(&mut hang_up) => true,
            () = stop.cancelled() => return,
        };
        let content = read(&watched.origin).await;
        match watched.look(content, is_asked) {
            None if is_asked => tracing::info!("SIGHUP: the configuration file has not changed"),
            None => {}
            Some(Ok(Verdict::Same)) => {
                tracing::info!("the configuration file has changed; what is allowed in channels has not");
            }
            Some(Ok(Verdict::Changed(policy, keys))) => {
                let sessions = gateway.take_policy(*policy);
                gateway.metrics.policy_reload(Reload::Done);
                tracing::info!(changed = named(&keys), sessions, "policy reloaded");
            }
            Some(Err(faults)) => {
                gateway.metrics.policy_reload(Reload::Failed);
                for fault in faults.iter().take(NAMED) {
                    tracing::warn!(%fault, "new configuration is not used, the policy before stays in force");
                }
            }
        }
    }
}

async fn tick(interval: Option<Duration>) {
    match interval {
        Some(interval) => tokio::time::sleep(interval).await,
        None => std::future::pending().await,
    }
}

async fn hung_up(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

async fn read(origin: &Origin) -> Content {
    let reading = async {
        let file = tokio::fs::File::open(origin.file()).await?;
        let mut text = String::new();
        file.take(MAX_FILE).read_to_string(&mut text).await?;
        if text.len() as u64 == MAX_FILE {
            return Err(std::io::Error::other("larger than 4 MiB"));
        }
        Ok(text)
    };
    reading.await.map_err(|error| error.to_string())
}

/// The keys for a log line.
fn named(keys: &[String]) -> String {
    let mut text = keys.get(..NAMED).unwrap_or(keys).join(", ");
    if keys.len() > NAMED {
        text.push_str(&format!(" and {} more", keys.len() - NAMED));
    }
    text
}

impl Watched {
    fn new(origin: Origin, bounds: Bounds) -> Self {
        let text = origin.text().to_owned();
        Self {
            origin,
            bounds,
            judged: Ok(text.clone()),
            once: None,
            in_force: text,
        }
    }

    /// Judges what the file holds now, if that is new and, unless somebody asks, was there at the last look already.
    fn look(&mut self, content: Content, is_asked: bool) -> Option<Result<Verdict, Faults>> {
        if content == self.judged {
            self.once = None;
            return None;
        }
        if !is_asked && self.once.as_ref() != Some(&content) {
            self.once = Some(content);
            return None;
        }
        self.once = None;
        // Also where it is no good: that is said once.
        self.judged = content.clone();
        let verdict = content
            .map_err(|error| self.unreadable(error))
            .and_then(|text| self.judge(text));
        Some(verdict)
    }

    fn judge(&mut self, text: String) -> Result<Verdict, Faults> {
        let mut document = self.origin.read_again(&text, &SECTIONS)?;
        let policy = Policy::read(&mut document, self.bounds);
        document.finish()?;
        let is_ours = |key: &String| SECTIONS.contains(&key.split('.').next().unwrap_or_default());
        let since_start = self.origin.changed_keys(self.origin.text(), &text)?;
        let (_, others): (Vec<_>, Vec<_>) = since_start.into_iter().partition(is_ours);
        if !others.is_empty() {
            tracing::warn!(
                keys = named(&others),
                "changed since the start, and in force only after a restart"
            );
        }
        let mut keys = self.origin.changed_keys(&self.in_force, &text)?;
        keys.retain(is_ours);
        self.in_force = text;
        Ok(match keys.is_empty() {
            true => Verdict::Same,
            false => Verdict::Changed(Box::new(policy), keys),
        })
    }

    fn unreadable(&self, error: String) -> Faults {
        Faults::from(Fault {
            key: self.origin.file().display().to_string(),
            problem: format!("the configuration file cannot be read: {error}"),
            remedy: "put it back".to_owned(),
            source: None,
        })
    }
}

impl Gateway {
    /// Decides by `policy` from now on, tells every client, and has every session look at what it holds. How many
    /// sessions that are. Does not wait.
    pub(crate) fn take_policy(&self, policy: Policy) -> usize {
        // A session that is not found below enters behind this, and is decided on by the new one.
        self.config.policy.replace(policy);
        self.policy_changed(TOLD.to_owned());
        let sessions = self.sessions.all();
        for session in &sessions {
            session.look_at_policy();
        }
        // Channels may have members now that had none.
        self.memberships.look_again();
        sessions.len()
    }
}

#[cfg(test)]
mod tests {
    use switchboard_service_kit::config::Document;

    use super::*;

    const START: &str = "[gateway]\nlisten = \"127.0.0.1:0\"\n[namespaces.room]\n";

    fn watched() -> Watched {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("switchboard.toml");
        std::fs::write(&file, START).unwrap();
        let origin = Document::load(Some(&file), []).unwrap().origin().unwrap();
        let bounds = Bounds {
            insecure: false,
            publish_size: 1024,
            name_length: 255,
        };
        Watched::new(origin, bounds)
    }

    fn ok(text: &str) -> Content {
        Ok(text.to_owned())
    }

    fn changed(verdict: Option<Result<Verdict, Faults>>) -> Vec<String> {
        match verdict {
            Some(Ok(Verdict::Changed(_, keys))) => keys,
            Some(Ok(Verdict::Same)) => Vec::new(),
            Some(Err(faults)) => panic!("{faults}"),
            None => panic!("not judged"),
        }
    }

    #[test]
    fn the_clock_believes_what_it_has_seen_twice_and_an_operator_at_once() {
        let mut watched = watched();
        assert!(watched.look(ok(START), false).is_none());
        assert!(watched.look(ok(START), true).is_none(), "nothing is new");
        let new = format!("{START}allow_publish_for_client = true\n");
        assert!(watched.look(ok(""), false).is_none(), "half written");
        assert!(watched.look(ok(&new), false).is_none());
        let verdict = watched.look(ok(&new), false);
        assert_eq!(changed(verdict), ["namespaces.room.allow_publish_for_client"]);
        assert!(watched.look(ok(&new), false).is_none(), "judged once");
        assert_eq!(
            changed(watched.look(ok(START), true)),
            ["namespaces.room.allow_publish_for_client"]
        );
    }

    #[test]
    fn what_was_only_there_for_a_moment_was_never_there() {
        let mut watched = watched();
        assert!(watched.look(ok(""), false).is_none());
        assert!(watched.look(ok(START), false).is_none());
        assert!(watched.look(ok(""), false).is_none());
        assert!(watched.look(ok(START), false).is_none());
    }

    #[test]
    fn what_is_no_good_is_told_once_and_what_is_put_back_is_in_force_still() {
        let mut watched = watched();
        let faulty = format!("{START}nonsense = 1\n[namespaces.hall]\npublish_size = \"1MiB\"");
        let Some(Err(faults)) = watched.look(ok(&faulty), true) else {
            panic!("it is faulty");
        };
        let faults = faults.to_string();
        for key in ["namespaces.room.nonsense", "namespaces.hall.publish_size"] {
            assert!(faults.contains(key), "{key} is missing in: {faults}");
        }
        assert!(watched.look(ok(&faulty), false).is_none());
        let gone = Err("no such file".to_owned());
        assert!(matches!(watched.look(gone, true), Some(Err(_))));
        assert!(changed(watched.look(ok(START), true)).is_empty());
    }

    #[test]
    fn what_another_section_says_is_not_taken() {
        let mut watched = watched();
        let other = START.replace("listen", "insecure = true\nlisten");
        assert!(changed(watched.look(ok(&other), true)).is_empty());
        // Whether it is good is for the next start to say.
        let other = format!("{START}durable = false\n[nobodys]\nkey = 1");
        assert_eq!(
            changed(watched.look(ok(&other), true)),
            ["namespaces.room.durable"]
        );
    }

    #[test]
    fn a_line_names_no_more_keys_than_it_should() {
        let keys: Vec<String> = (0..NAMED + 2).map(|key| format!("k{key}")).collect();
        assert!(named(&keys).ends_with("k31 and 2 more"));
        assert_eq!(named(&keys[..2]), "k0, k1");
    }
}
