//! Never attached, but run when user space asks: whether any socket at all has a TCP port.
//!
//! The kernel has a bucket for each port that a socket has, whatever state the socket is in, and hangs it into one of its
//! chains by the port's number. sock_diag walks all 65,536 of them to list the sockets that are bound and do not listen;
//! here it is the one chain in which the port's bucket would be.

use watcher_common::{BucketQuestion, bucket as answer};

use crate::descriptors::Descriptors;
use crate::globals::{OFFSETS, constant};
use crate::memory::read;
use crate::sock::Sock;

/// The longest chain that is walked. Most have no bucket at all.
const LONGEST: u32 = 8;

#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tp/bucket")]
pub extern "C" fn bucket(question: *const BucketQuestion) -> u32 {
    // SAFETY: the verifier knows the context.
    let (socket, port) = unsafe { ((*question).socket as u32, (*question).port as u16) };
    let net = Sock::of_file(Descriptors::own_file(socket)).net();
    if net.is_null() {
        return answer::UNKNOWN;
    }
    let tables = read::<u64>(net, constant(&OFFSETS.net_tcp_tables)) as *const u8;
    let chains = read::<u64>(tables, constant(&OFFSETS.tables_bhash)) as *const u8;
    let mask = read::<u32>(tables, constant(&OFFSETS.tables_bhash_size)).wrapping_sub(1);
    // As the kernel's inet_bhashfn().
    let place = |net, port| read::<u32>(net, constant(&OFFSETS.net_hash_mix)).wrapping_add(port) & mask;
    let wanted = place(net, u32::from(port));
    let chain = chains.wrapping_add(wanted as usize * constant(&OFFSETS.chain_size) as usize);
    let mut node: u64 = read(chain, constant(&OFFSETS.chain_first));
    let mut walked = 0;
    while walked < LONGEST {
        if node == 0 {
            return answer::NONE;
        }
        let bucket = (node as *const u8).wrapping_sub(constant(&OFFSETS.bucket_node) as usize);
        // A node begins with the pointer to the next.
        let next = read(node as *const u8, 0);
        let its_net = read::<u64>(bucket, constant(&OFFSETS.bucket_net)) as *const u8;
        let its_port: u16 = read(bucket, constant(&OFFSETS.bucket_port));
        if its_net == net && its_port == port {
            return answer::SOME;
        }
        // No lock is held: a bucket that was given back meanwhile may be in another chain by now, and lead there.
        if its_net.is_null() || place(its_net, u32::from(its_port)) != wanted {
            return answer::UNKNOWN;
        }
        node = next;
        walked += 1;
    }
    answer::UNKNOWN
}
