//! Addresses, from the parts in which the kernel gives them.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// An address with its port. The interface becomes the scope of a link-local IPv6 address.
pub(super) fn socket_address(ip: IpAddr, port: u16, interface: u32) -> SocketAddr {
    match ip {
        IpAddr::V6(v6) if is_link_local(v6) => SocketAddrV6::new(v6, port, 0, interface).into(),
        _ => SocketAddr::new(ip, port),
    }
}

fn is_link_local(ip: Ipv6Addr) -> bool {
    ip.segments()[0] & 0xffc0 == 0xfe80
}

/// Whether it is an IPv4 address in IPv6's form, `::ffff:127.0.0.1`.
pub(super) fn is_mapped(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(_) => false,
        IpAddr::V6(v6) => v6.to_ipv4_mapped().is_some(),
    }
}
