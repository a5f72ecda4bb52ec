//! The agent's Unix socket, seen from both ends.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect as connect_to, socket};
use nix::sys::stat::{Mode, umask};
use tokio::net::{UnixListener, UnixStream};

use super::{folders, own_user};

/// A socket at the path. Every user may connect to it: what a client may do is decided for each request.
///
/// # Errors
/// If it can't be created, another agent lives there, or others could put another file in its place.
pub(in crate::platform) fn listen(path: &Path) -> io::Result<UnixListener> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !folder.exists() {
        folders::refuse_strangers(existing(folder))?;
        std::fs::DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
        // The umask took its part of the mode, and callers of all users must come through here.
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755))?;
    }
    folders::refuse_strangers(folder)?;
    remove_leftover(path)?;
    bind(path)
}

/// The nearest folder above that exists.
fn existing(folder: &Path) -> &Path {
    folder.ancestors().find(|above| above.exists()).unwrap_or(Path::new("."))
}

/// Binds so that the file has its mode from its first moment on: a mode that is set afterwards could reach whatever has
/// been put in the file's place. The kernel gives a socket's file all permissions but those of the umask. No other thread
/// makes files at this time.
fn bind(path: &Path) -> io::Result<UnixListener> {
    let before = umask(Mode::from_bits_truncate(0o111));
    let listener = UnixListener::bind(path);
    umask(before);
    listener
}

/// Removes a dead agent's socket; the socket of an agent that lives is left alone.
fn remove_leftover(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            Err(io::Error::new(io::ErrorKind::AlreadyExists, "the path exists and is not a socket"))
        }
        Ok(_) if is_alive(path)? => {
            Err(io::Error::new(io::ErrorKind::AddrInUse, "another agent answers there"))
        }
        Ok(_) => std::fs::remove_file(path),
    }
}

/// Whether a process listens there. It is not waited for: one that is stopped, and whose queue is full, would never let
/// us in, and lives all the same (EAGAIN).
fn is_alive(path: &Path) -> io::Result<bool> {
    let probe = socket(AddressFamily::Unix, SockType::Stream, SockFlag::empty(), None)?;
    fcntl(&probe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok(match connect_to(probe.as_raw_fd(), &UnixAddr::new(path)?) {
        Ok(()) | Err(Errno::EAGAIN | Errno::EINPROGRESS) => true,
        Err(_) => false,
    })
}

/// Connects to the agent, which has to be root's or this user's own: any other could answer whatever it likes.
///
/// # Errors
/// If no such agent answers there.
pub(in crate::platform) async fn connect(path: &Path) -> io::Result<UnixStream> {
    const AGAIN: Duration = Duration::from_millis(20);
    let stream = loop {
        match UnixStream::connect(path).await {
            // The agent lives, and has more callers waiting than its queue takes.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => tokio::time::sleep(AGAIN).await,
            connected => break connected?,
        }
    };
    // Of a connected socket, the kernel tells who called listen(2).
    let uid = stream.peer_cred()?.uid();
    if uid == 0 || uid == own_user() {
        return Ok(stream);
    }
    let why = format!("user {uid} listens there, who is neither root nor this user");
    Err(io::Error::new(io::ErrorKind::PermissionDenied, why))
}
