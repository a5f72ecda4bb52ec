//! What the host agent needs of Linux: the credentials of its clients, capabilities, and systemd.

mod journal;
mod peer;
mod privileges;
mod resources;
mod service;

use std::net::SocketAddr;
use std::time::Duration;

pub(in crate::platform) use self::peer::LinuxPeer as OwnPeer;
pub(in crate::platform) use self::service::given_socket;
use super::{Linux, seeing};
use crate::platform::contract::{BoxedLayer, Resources, ServiceState, ServiceSystem};

impl ServiceSystem for Linux {
    fn keep_needed_privileges() {
        privileges::keep_needed();
    }

    fn privileges() -> Vec<(String, &'static str)> {
        privileges::held()
    }

    fn no_new_privileges() -> bool {
        privileges::no_new_privileges()
    }

    fn notify(state: ServiceState<'_>) {
        service::notify(state);
    }

    fn journal() -> Option<BoxedLayer> {
        journal::layer()
    }

    fn own_resources() -> Option<Resources> {
        resources::own()
    }

    fn user_at(here: SocketAddr, there: SocketAddr) -> Option<u32> {
        seeing::user_at(here, there)
    }

    fn alive_every() -> Option<Duration> {
        service::alive_every()
    }
}
