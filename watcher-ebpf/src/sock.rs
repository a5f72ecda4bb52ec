//! Reading a kernel socket at the offsets that user space found in the kernel's BTF.

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::bpf_probe_read_kernel;
use core::ffi::c_void;
use watcher_common::{AF_INET6, OWN_MARK, flag};

use crate::emit::{Address, Seen, emit};
use crate::globals::{OFFSETS, SCOPE, constant};

/// Reads kernel memory at an address plus an offset; zero where it can't be read.
#[inline(always)]
pub fn read<T: Copy + Default>(base: *const u8, offset: u32) -> T {
    // SAFETY: the helper checks the memory and fails on a bad address.
    unsafe { bpf_probe_read_kernel(base.wrapping_add(offset as usize).cast::<T>()) }.unwrap_or_default()
}

/// A `struct sock` of the running kernel.
#[derive(Clone, Copy)]
pub struct Sock(*const u8);

impl Sock {
    #[inline(always)]
    pub fn new(sock: *const u8) -> Self {
        Self(sock)
    }

    #[inline(always)]
    pub fn as_ptr(self) -> *mut c_void {
        self.0.cast_mut().cast()
    }

    /// The local port. Not `skc_num`: that is 0 already when a listener that the kernel chose a port for closes.
    #[inline(always)]
    pub fn port(self) -> u16 {
        u16::from_be(read(self.0, constant(&OFFSETS.inet_sport)))
    }

    #[inline(always)]
    pub fn remote_port(self) -> u16 {
        read(self.0, constant(&OFFSETS.sock_dport))
    }

    pub fn protocol(self) -> u16 {
        read(self.0, constant(&OFFSETS.sock_protocol))
    }

    pub fn state(self) -> u16 {
        u16::from(read::<u8>(self.0, constant(&OFFSETS.sock_state)))
    }

    pub fn family(self) -> u16 {
        read(self.0, constant(&OFFSETS.sock_family))
    }

    pub fn interface(self) -> u32 {
        if constant(&SCOPE.has_offsets) == 0 {
            return 0;
        }
        read(self.0, constant(&OFFSETS.sock_bound_dev_if))
    }

    /// The cookie if it was ever asked for, else 0.
    pub fn stored_cookie(self) -> u64 {
        read(self.0, constant(&OFFSETS.sock_cookie))
    }

    /// Whether it is one of gatewatch's own sockets, which are left out.
    pub fn is_own(self) -> bool {
        constant(&SCOPE.has_offsets) != 0 && read::<u32>(self.0, constant(&OFFSETS.sock_mark)) == OWN_MARK
    }

    /// The inode number of the socket's network namespace; 0 where offsets are not known.
    pub fn netns(self) -> u32 {
        if constant(&SCOPE.has_offsets) == 0 {
            return 0;
        }
        let net: u64 = read(self.0, constant(&OFFSETS.sock_net));
        read(net as *const u8, constant(&OFFSETS.net_inum))
    }

    /// For a multipath socket, the TCP socket in it that holds the port.
    pub fn first_subflow(self) -> Self {
        Self(read::<u64>(self.0, constant(&OFFSETS.mptcp_first)) as *const u8)
    }

    /// The option bits of [`flag`]: bit fields of one byte, in this order since Linux 3.13.
    pub fn flags(self) -> u16 {
        let byte: u8 = read(self.0, constant(&OFFSETS.sock_reuse));
        let mut flags = 0;
        if byte & 0x0f != 0 {
            flags |= flag::REUSEADDR;
        }
        if byte & 0x10 != 0 {
            flags |= flag::REUSEPORT;
        }
        if byte & 0x20 != 0 {
            flags |= flag::V6ONLY;
        }
        flags
    }

    pub fn address(self, family: u16) -> Address {
        if family == AF_INET6 {
            let at = constant(&OFFSETS.sock_v6_rcv_saddr);
            Address::V6([read(self.0, at), read(self.0, at + 8)])
        } else {
            Address::V4(read(self.0, constant(&OFFSETS.sock_rcv_saddr)))
        }
    }

    /// Sends an event about this socket, unless it is one of gatewatch's own.
    #[inline(always)]
    pub fn report<C: EbpfContext>(self, ctx: &C, kind: u16, port: u16, cookie: u64) {
        if self.is_own() {
            return;
        }
        let family = self.family();
        let seen = Seen {
            kind,
            port,
            family,
            cookie,
            netns: self.netns(),
            interface: self.interface(),
            address: self.address(family),
        };
        emit(ctx, &seen);
    }
}
