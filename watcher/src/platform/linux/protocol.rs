//! The numbers of protocols, as IP has them (ip(7)): in netlink, in the kernel program's records, in the history.

use crate::model::Protocol;

pub(super) fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
    }
}

/// `None` for one that has no ports, or none that are followed.
pub(super) fn from_number(number: u8) -> Option<Protocol> {
    Protocol::ALL.into_iter().find(|&protocol| self::number(protocol) == number)
}
