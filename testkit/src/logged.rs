//! What a test's own thread logs, so that the test can say what an operator reads.
//!
//! `tracing` keeps, for each place that logs, whether anybody wants it, and with a subscriber of one
//! thread alone it may learn that from another thread, which wants nothing: the place is then silent
//! for all. So one subscriber serves the whole process, and each thread's lines go where they belong.

use std::cell::RefCell;
use std::io::Write;
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::Once;

thread_local! {
    static LINES: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}

static SUBSCRIBER: Once = Once::new();

/// The lines logged on this thread, at level INFO and above, from its creation to its drop.
#[derive(Debug)]
pub struct Logged {
    // Lines belong to a thread, so this does as well.
    _thread: PhantomData<Rc<()>>,
}

impl Logged {
    /// Begins to keep what this thread logs. A test whose runtime has one thread sees all that its
    /// tasks log.
    ///
    /// # Panics
    /// If the process has another subscriber for all threads already, or this thread's lines are kept
    /// already.
    #[must_use]
    pub fn on_this_thread() -> Self {
        SUBSCRIBER.call_once(|| {
            tracing_subscriber::fmt()
                .with_ansi(false)
                .with_writer(|| ThisThread)
                .init();
        });
        LINES.with_borrow_mut(|lines| {
            assert!(lines.is_none(), "this thread's lines are kept already");
            *lines = Some(Vec::new());
        });
        Self { _thread: PhantomData }
    }

    /// All that was logged so far.
    #[must_use]
    pub fn text(&self) -> String {
        LINES.with_borrow(|lines| String::from_utf8_lossy(lines.as_deref().unwrap_or_default()).into_owned())
    }
}

impl Drop for Logged {
    fn drop(&mut self) {
        LINES.with_borrow_mut(|lines| *lines = None);
    }
}

/// Keeps what is written where the thread keeps its lines, and drops it elsewhere.
struct ThisThread;

impl Write for ThisThread {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        LINES.with_borrow_mut(|lines| {
            if let Some(lines) = lines {
                lines.extend_from_slice(bytes);
            }
        });
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn say(word: &str) {
        tracing::info!(word, "said");
    }

    #[test]
    fn a_place_first_reached_by_a_thread_that_keeps_nothing_is_not_silent() {
        let logged = Logged::on_this_thread();
        std::thread::spawn(|| say("elsewhere")).join().unwrap();
        say("here");
        let text = logged.text();
        assert!(text.contains("said word=\"here\""), "{text}");
        assert!(!text.contains("elsewhere"), "{text}");
    }
}
