//! Reading a kernel socket, at the offsets that user space found in the kernel's BTF.

use core::ffi::c_void;

use aya_ebpf::helpers::bpf_get_current_task;
use aya_ebpf::programs::TracePointContext;
use watcher_common::{AF_INET, AF_INET6, OWN_MARK};

use crate::current;
use crate::globals::{OFFSETS, SETTINGS, constant};
use crate::memory::{field, read};

/// A `struct sock` of the running kernel.
#[derive(Clone, Copy)]
pub struct Sock(*const u8);

impl Sock {
    #[inline(always)]
    pub fn new(sock: *const u8) -> Self {
        Self(sock)
    }

    /// The one behind a socket's file.
    #[inline(always)]
    pub fn of_file(file: *const u8) -> Self {
        let socket: u64 = read(file, constant(&OFFSETS.file_private_data));
        let sock: u64 = read(socket as *const u8, constant(&OFFSETS.socket_sk));
        Self(sock as *const u8)
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

    /// The local port; 0 once it has none.
    #[inline(always)]
    pub fn num(self) -> u16 {
        read(self.0, constant(&OFFSETS.sock_num))
    }

    /// Its `struct socket`; null if no file leads to it.
    #[inline(always)]
    pub fn socket(self) -> *const u8 {
        read::<u64>(self.0, constant(&OFFSETS.sock_socket)) as *const u8
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
        if constant(&SETTINGS.has_offsets) == 0 {
            return 0;
        }
        read(self.0, constant(&OFFSETS.sock_bound_dev_if))
    }

    /// The cookie if it was ever asked for, else 0.
    pub fn stored_cookie(self) -> u64 {
        read(self.0, constant(&OFFSETS.sock_cookie))
    }

    /// The user who created it, in the initial user namespace.
    pub fn uid(self) -> u32 {
        read(self.0, constant(&OFFSETS.sock_uid))
    }

    /// Whether it is one of gatewatch's own sockets, which are never reported, if the process that runs now holds it.
    #[inline(always)]
    pub fn is_own(self) -> bool {
        // SAFETY: the helper takes nothing and always returns the current task.
        self.is_own_in(unsafe { bpf_get_current_task() } as *const u8)
    }

    /// The same, if this task holds it.
    #[inline(always)]
    pub fn is_own_in(self, task: *const u8) -> bool {
        if constant(&SETTINGS.has_offsets) == 0 || constant(&SETTINGS.own_file) == 0 {
            return false;
        }
        // Nothing of it differs. Asked for one after the other, each would be two ways for the verifier.
        let mark = u64::from(read::<u32>(self.0, constant(&OFFSETS.sock_mark)) ^ OWN_MARK);
        mark | distrust(self.uid()) | u64::from(current::file_number(task) ^ constant(&SETTINGS.own_file))
            == 0
    }

    /// The inode number of the socket's network namespace; 0 where offsets are unknown.
    pub fn netns(self) -> u32 {
        if constant(&SETTINGS.has_offsets) == 0 {
            return 0;
        }
        read(self.net(), constant(&OFFSETS.net_inum))
    }

    /// The kernel's `struct net` of that namespace.
    #[inline(always)]
    pub fn net(self) -> *const u8 {
        read::<u64>(self.0, constant(&OFFSETS.sock_net)) as *const u8
    }

    /// For a multipath socket, the TCP socket in it that holds the port.
    pub fn first_subflow(self) -> Self {
        Self(read::<u64>(self.0, constant(&OFFSETS.mptcp_first)) as *const u8)
    }

    /// Bits of [`watcher_common::option`].
    pub fn options(self) -> u16 {
        u16::from(read::<u8>(self.0, constant(&OFFSETS.sock_reuse)))
    }

    pub fn address(self, family: u16) -> Address {
        if family == AF_INET6 { Address(self.v6()) } else { Address::v4(self.v4()) }
    }

    pub fn v4(self) -> u32 {
        read(self.0, constant(&OFFSETS.sock_rcv_saddr))
    }

    pub fn v6(self) -> [u64; 2] {
        let at = constant(&OFFSETS.sock_v6_rcv_saddr);
        [read(self.0, at), read(self.0, at + 8)]
    }
}

/// Zero for a user whom gatewatch believes that a socket is gatewatch's: any other user could have it run code of its own, by
/// a preloaded library for one.
#[inline(always)]
fn distrust(uid: u32) -> u64 {
    u64::from(uid) * u64::from(uid ^ constant(&SETTINGS.own_uid))
}

/// The family of the socket in a plain tracepoint's record. Some kernels' records have no such field (offset 0), but their
/// IPv6 address is of the form `::ffff:127.0.0.1` if the socket is an IPv4 one.
#[inline(always)]
pub fn family_in_record(ctx: &TracePointContext, family: u32, v6: u32) -> Option<u16> {
    if family != 0 {
        return field(ctx, family);
    }
    let (high, low): (u64, u32) = (field(ctx, v6)?, field(ctx, v6 + 8)?);
    Some(if high == 0 && low == u32::to_be(0xffff) { AF_INET } else { AF_INET6 })
}

/// A local address, as it lies in a record: IPv4 in the first four bytes.
///
/// Two words rather than sixteen bytes, because the verifier refuses a memmove out of a context. Not an enum of the two
/// families either: the compiler would copy the half that IPv4 leaves unset, and the verifier refuses that as well.
#[derive(Clone, Copy)]
pub struct Address(pub [u64; 2]);

impl Address {
    #[inline(always)]
    pub fn v4(ip: u32) -> Self {
        Self([u64::from(ip), 0])
    }

    /// An IPv6 address in a context, of which the verifier lets one word be read at a time.
    ///
    /// # Safety
    /// Its four words may be read.
    #[inline(always)]
    pub unsafe fn v6_by_words(word: *const u32) -> Self {
        // SAFETY: as the caller says.
        let words = unsafe { [0, 1, 2, 3].map(|at| u64::from(word.add(at).read_volatile())) };
        Self([words[0] | words[1] << 32, words[2] | words[3] << 32])
    }

    /// Reads the address in a plain tracepoint's record, whose fields for IPv4 and IPv6 are at these offsets.
    #[inline(always)]
    pub fn in_record(ctx: &TracePointContext, family: u16, v4: u32, v6: u32) -> Option<Self> {
        if family == AF_INET6 {
            Some(Self([field(ctx, v6)?, field(ctx, v6 + 8)?]))
        } else {
            Some(Self::v4(field(ctx, v4)?))
        }
    }
}
