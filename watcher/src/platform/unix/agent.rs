//! The host agent on a system with Unix sockets.

use std::io;
use std::path::Path;

use tokio::net::{UnixListener, UnixStream};

use super::{agent_socket, descriptors, users};
use crate::platform::contract::AgentSystem;
use crate::platform::{Host, own};

impl AgentSystem for Host {
    type Listener = UnixListener;
    type Stream = UnixStream;
    type Peer = own::OwnPeer;

    async fn connect(path: &Path) -> io::Result<UnixStream> {
        agent_socket::connect(path).await
    }

    fn listen(path: &Path) -> io::Result<UnixListener> {
        match own::given_socket()? {
            Some(given) => UnixListener::from_std(given),
            None => agent_socket::listen(path),
        }
    }

    async fn accept(listener: &UnixListener) -> io::Result<UnixStream> {
        listener.accept().await.map(|(stream, _)| stream)
    }

    fn peer(stream: &UnixStream) -> io::Result<own::OwnPeer> {
        own::OwnPeer::of(stream)
    }

    fn raise_limits() {
        descriptors::raise_limit();
    }

    fn has_room_beside(stream: &UnixStream, left: u32) -> bool {
        descriptors::has_room_beside(stream, left)
    }

    fn own_user() -> u32 {
        users::own_user()
    }

    fn user(name: &str) -> Option<u32> {
        users::user(name)
    }

    fn group(name: &str) -> Option<u32> {
        users::group(name)
    }
}
