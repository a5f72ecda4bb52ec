//! The agent's socket, which is not to be had here.

use std::convert::Infallible;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// No connection: there is none of this type.
pub(crate) struct Stream(Infallible);

/// No socket: there is none of this type.
pub(crate) struct Listener(Infallible);

fn unsupported() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "the agent is for Linux and macOS")
}

/// # Errors
/// Always.
pub(crate) async fn connect(_path: &Path) -> io::Result<Stream> {
    Err(unsupported())
}

/// # Errors
/// Always.
pub(crate) async fn accept(listener: &Listener) -> io::Result<Stream> {
    match listener.0 {}
}

/// # Errors
/// Always.
pub(crate) fn listen(_path: &Path) -> io::Result<Listener> {
    Err(unsupported())
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.0 {}
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        match self.0 {}
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.0 {}
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.0 {}
    }
}
