//! The agent's Unix socket.

use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::path::Path;

pub(crate) use tokio::net::{UnixListener as Listener, UnixStream as Stream};

use crate::platform::host::service;

/// Connects to the agent at the path.
///
/// # Errors
/// When nobody answers there.
pub(crate) async fn connect(path: &Path) -> io::Result<Stream> {
    Stream::connect(path).await
}

/// The next client.
///
/// # Errors
/// When it can't be taken, as when descriptors have run out.
pub(crate) async fn accept(listener: &Listener) -> io::Result<Stream> {
    listener.accept().await.map(|(stream, _)| stream)
}

/// The service manager's socket, or one of our own at the path. Anybody may connect to it: who may do what is decided
/// for each request, by who made it.
///
/// # Errors
/// When it can't be made, or another agent answers there.
pub(crate) fn listen(path: &Path) -> io::Result<Listener> {
    if let Some(given) = service::given_socket()? {
        return Listener::from_std(given);
    }
    if let Some(folder) = path.parent().filter(|folder| !folder.exists()) {
        std::fs::DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
    }
    remove_leftover(path)?;
    let listener = Listener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))?;
    Ok(listener)
}

/// Removes the socket of an agent that is no more; that of one that answers is left alone.
fn remove_leftover(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is something else of that name"))
        }
        Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => {
            Err(io::Error::new(io::ErrorKind::AddrInUse, "another agent answers there"))
        }
        Ok(_) => std::fs::remove_file(path),
    }
}
