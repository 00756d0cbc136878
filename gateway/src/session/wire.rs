//! The writing side of a connection, shared by the session's task and by whoever delivers to it.
//!
//! A delivery that only woke the session's task would cost a turn of that task for each receiver, more than the bytes it sends. So a
//! link writes what it has queued itself ([`Wire::write_out`]) as long as the socket takes it; what is left, and all that
//! needs waiting, is the task's. Behind TLS, whose state is the task's own, everything is.
//!
//! What must hold:
//! * Frames leave in the order of the queue, each whole: whoever takes from the queue writes while it holds the lock.
//! * Nothing is forgotten: what is not written is in `rest`, or in the queue with the task told of it.
//! * `rest` is bounded: by a turn's bytes (less than two of [`A_TURN`], or one frame), and what WebSocket itself answers.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use super::SessionHandle;
use super::encoding::Frame;
use super::outgoing::Outgoing;
use super::task::A_TURN;

/// What may wait in `rest` before WebSocket's own answers wait, too.
const MOST_REST: usize = 2 * A_TURN;

/// Bytes and frames that were handed to the socket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) frames: u64,
    pub(crate) bytes: u64,
}

/// How far a turn of writing came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// The queue is empty.
    All,
    /// It is not; the socket may take more.
    Turn,
    /// The socket takes no more now: what was begun is in `rest`.
    Blocked,
}

/// See the module.
#[derive(Default)]
pub(super) struct Wire(Mutex<Writing>);

#[derive(Default)]
struct Writing {
    /// `None`: only the session's task writes, by other means.
    socket: Option<OwnedWriteHalf>,
    /// Of what was begun; sent before all else.
    rest: BytesMut,
}

thread_local! {
    /// Where frames are put together. Never much larger than a turn for long.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Wire {
    /// From here on writing needs no task.
    fn open(&self, socket: OwnedWriteHalf) {
        self.0.lock().socket = Some(socket);
    }

    /// Nobody writes any more.
    fn close(&self) {
        *self.0.lock() = Writing::default();
    }

    /// Whether writing needs no task.
    pub(super) fn is_open(&self) -> bool {
        self.0.lock().socket.is_some()
    }

    /// Writes what is queued, about [`A_TURN`] bytes at most. What goes wrong with the socket shows where `rest` is written.
    pub(super) fn write(&self, queue: &Outgoing) -> (Progress, Written) {
        self.0.lock().write(queue)
    }

    /// As [`Wire::write`], for others than the session's task, which is told of what is left.
    pub(super) fn write_out(&self, queue: &Outgoing) -> Written {
        // Whoever has the lock may have looked at the queue already.
        let Some(mut writing) = self.0.try_lock() else {
            queue.come_back();
            return Written::default();
        };
        if writing.socket.is_none() {
            queue.come_back();
            return Written::default();
        }
        let (progress, written) = writing.write(queue);
        drop(writing);
        if progress != Progress::All {
            queue.come_back();
        }
        written
    }
}

impl Writing {
    fn write(&mut self, queue: &Outgoing) -> (Progress, Written) {
        let mut written = Written::default();
        let Self {
            socket: Some(socket),
            rest,
        } = self
        else {
            return (Progress::Blocked, written);
        };
        if !rest.is_empty() {
            return (Progress::Blocked, written);
        }
        let progress = SCRATCH.with_borrow_mut(|scratch| {
            scratch.clear();
            let progress = loop {
                let Some(frame) = queue.take(A_TURN) else {
                    break Progress::All;
                };
                put(&frame, scratch);
                written.frames += 1;
                if scratch.len() >= A_TURN {
                    break Progress::Turn;
                }
            };
            written.bytes = scratch.len() as u64;
            let sent = send(socket, scratch);
            let left = scratch.get(sent..).unwrap_or_default();
            rest.extend_from_slice(left);
            if scratch.capacity() > 4 * A_TURN {
                *scratch = Vec::new();
            }
            progress
        });
        match rest.is_empty() {
            true => (progress, written),
            false => (Progress::Blocked, written),
        }
    }

    /// Sends `rest`.
    fn poll_rest(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(socket) = &self.socket else {
            return Poll::Ready(Ok(()));
        };
        while !self.rest.is_empty() {
            ready!(socket.as_ref().poll_write_ready(context))?;
            match socket.try_write(&self.rest) {
                Ok(sent) => self.rest.advance(sent),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        // A burst's memory is not kept by a connection that is quiet afterwards.
        self.rest = BytesMut::new();
        Poll::Ready(Ok(()))
    }
}

/// How much of it the socket takes at once. An error shows when the rest is sent.
fn send(socket: &OwnedWriteHalf, bytes: &[u8]) -> usize {
    if bytes.is_empty() {
        return 0;
    }
    socket.try_write(bytes).unwrap_or(0)
}

/// A frame of a server, as RFC 6455 has it (5.2): final, unmasked.
fn put(frame: &Frame, into: &mut Vec<u8>) {
    let (opcode, payload) = match frame {
        Frame::Text(text) => (0x81, text.as_bytes()),
        Frame::Binary(bytes) => (0x82, bytes.as_ref()),
    };
    into.push(opcode);
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(short @ ..126), _) => into.push(short),
        (_, Ok(length)) => {
            into.push(126);
            into.extend_from_slice(&length.to_be_bytes());
        }
        _ => {
            into.push(127);
            into.extend_from_slice(&(payload.len() as u64).to_be_bytes());
        }
    }
    into.extend_from_slice(payload);
}

/// What a session's WebSocket runs on.
pub(crate) enum ClientStream {
    /// TCP: written to through the session's [`Wire`].
    Plain {
        /// What came with the HTTP request.
        before: Bytes,
        read: OwnedReadHalf,
        session: Arc<SessionHandle>,
    },
    /// TLS.
    Other(TokioIo<Upgraded>),
}

impl ClientStream {
    /// Takes a connection over from HTTP, for `session`.
    pub(crate) fn new(upgraded: Upgraded, session: &Arc<SessionHandle>) -> Self {
        match upgraded.downcast::<TokioIo<TcpStream>>() {
            Ok(parts) => {
                let (read, write) = parts.io.into_inner().into_split();
                session.wire.open(write);
                Self::Plain {
                    before: parts.read_buf,
                    read,
                    session: Arc::clone(session),
                }
            }
            Err(upgraded) => Self::Other(TokioIo::new(upgraded)),
        }
    }
}

impl Drop for ClientStream {
    fn drop(&mut self) {
        // Others may hold the session for longer than its socket should be open.
        if let Self::Plain { session, .. } = self {
            session.wire.close();
        }
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain { before, .. } if !before.is_empty() => {
                let length = before.len().min(into.remaining());
                into.put_slice(&before.split_to(length));
                Poll::Ready(Ok(()))
            }
            Self::Plain { read, .. } => Pin::new(read).poll_read(context, into),
            Self::Other(stream) => Pin::new(stream).poll_read(context, into),
        }
    }
}

/// What comes here are whole frames: WebSocket's answers to pings, close frames, and all that the task writes by itself.
impl AsyncWrite for ClientStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let session = match self.get_mut() {
            Self::Plain { session, .. } => session,
            Self::Other(stream) => return Pin::new(stream).poll_write(context, bytes),
        };
        let mut writing = session.wire.0.lock();
        if writing.rest.len() >= MOST_REST {
            ready!(writing.poll_rest(context))?;
        }
        let sent = match &writing.socket {
            None => return Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
            Some(socket) if writing.rest.is_empty() => send(socket, bytes),
            Some(_) => 0,
        };
        // All of it is taken, so that nobody's frame comes between two parts of another.
        writing
            .rest
            .extend_from_slice(bytes.get(sent..).unwrap_or_default());
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain { session, .. } => session.wire.0.lock().poll_rest(context),
            Self::Other(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain { session, .. } => {
                let mut writing = session.wire.0.lock();
                ready!(writing.poll_rest(context))?;
                match &mut writing.socket {
                    Some(socket) => Pin::new(socket).poll_shutdown(context),
                    None => Poll::Ready(Ok(())),
                }
            }
            Self::Other(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

#[cfg(test)]
mod tests;
