//! Whether anything is asked on a connection.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use hyper::body::{Bytes, Frame, SizeHint};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::Times;

/// Bytes by which HTTP/1.1 and HTTP/2 are told apart: the preface of the latter. Who sends fewer may be waited for without end.
const PREFACE: usize = 24;

#[derive(Debug, Default)]
pub(super) struct Activity(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Bytes that came.
    heard: usize,
    /// Requests whose answers are not told to their end.
    open: usize,
    /// Since when there is none; `None`: there was none yet.
    quiet: Option<Instant>,
}

impl Activity {
    /// Since when nothing is asked on a connection that began then; `None`: something is.
    fn quiet_since(&self, begun: Instant) -> Option<Instant> {
        let state = self.0.lock();
        (state.open == 0).then(|| state.quiet.unwrap_or(begun))
    }

    fn has_spoken(&self) -> bool {
        let state = self.0.lock();
        state.heard >= PREFACE || state.open > 0 || state.quiet.is_some()
    }

    /// Returns when the connection is to give its place back.
    pub(super) async fn until_silent(&self, times: Times) {
        let begun = Instant::now();
        tokio::time::sleep(times.handshake).await;
        if !self.has_spoken() {
            return;
        }
        loop {
            let now = Instant::now();
            // What is asked now may end just now.
            let until = self.quiet_since(begun).unwrap_or(now) + times.idle;
            if until <= now {
                return;
            }
            tokio::time::sleep_until(until).await;
        }
    }
}

/// A request, until its answer is told.
pub(super) struct Asked(Arc<Activity>);

impl Asked {
    pub(super) fn on(activity: &Arc<Activity>) -> Self {
        activity.0.lock().open += 1;
        Self(Arc::clone(activity))
    }

    pub(super) fn until_told(self, body: Body) -> Body {
        Body::new(Told { body, _asked: self })
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        let mut state = self.0.0.lock();
        state.open = state.open.saturating_sub(1);
        state.quiet = Some(Instant::now());
    }
}

/// An answer's body.
struct Told {
    body: Body,
    _asked: Asked,
}

impl hyper::body::Body for Told {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A stream whose bytes are counted as they come.
pub(super) struct Heard<S> {
    stream: S,
    activity: Arc<Activity>,
}

impl<S> Heard<S> {
    pub(super) fn new(stream: S, activity: Arc<Activity>) -> Self {
        Self { stream, activity }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Heard<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = into.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, into);
        let more = into.filled().len().saturating_sub(before);
        if more > 0 {
            let mut state = self.activity.0.lock();
            state.heard = state.heard.saturating_add(more);
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Heard<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
