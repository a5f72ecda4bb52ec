//! The offsets of the running kernel's fields that the kernel program reads.

use std::io;

use watcher_common::{Offsets, TraceOffsets};

use super::btf::{Btf, BtfError};
use super::hooks::{DESTROY_EVENT, Part, STATE_EVENT};
use super::tracefs::Tracefs;

/// The structs that [`find`] looks up.
pub(super) const STRUCTS: &[&str] = &[
    "sock_common",
    "sock",
    "inet_sock",
    "mptcp_sock",
    "net",
    "ns_common",
    "socket",
    "file",
    "inode",
    "super_block",
    "task_struct",
    "signal_struct",
    "mm_struct",
    "pid",
    "pid_namespace",
    "files_struct",
    "fdtable",
    "pt_regs",
    "netns_ipv4",
    "inet_timewait_death_row",
    "inet_hashinfo",
    "inet_bind_hashbucket",
    "inet_bind_bucket",
    "inet_bind2_bucket",
];

/// Finds the offsets in BTF.
pub(super) fn find(btf: &Btf<'_>) -> Result<Offsets, BtfError> {
    let inum = btf.offset("ns_common", "inum")?;
    // x86-64 keeps the arguments; arm64 overwrites the first with the result, but keeps a copy of it.
    let regs_first = btf.offset("pt_regs", "di").or_else(|_| btf.offset("pt_regs", "orig_x0"))?;
    let regs_second =
        btf.offset("pt_regs", "si").or_else(|_| btf.offset("pt_regs", "regs").map(|regs| regs + 8))?;
    Ok(Offsets {
        sock_dport: btf.offset("sock_common", "skc_dport")?,
        sock_family: btf.offset("sock_common", "skc_family")?,
        sock_state: btf.offset("sock_common", "skc_state")?,
        sock_num: btf.offset("sock_common", "skc_num")?,
        sock_reuse: btf.offset("sock_common", "skc_reuse")?,
        sock_bound_dev_if: btf.offset("sock_common", "skc_bound_dev_if")?,
        sock_net: btf.offset("sock_common", "skc_net")?,
        sock_rcv_saddr: btf.offset("sock_common", "skc_rcv_saddr")?,
        sock_v6_rcv_saddr: btf.offset("sock_common", "skc_v6_rcv_saddr")?,
        sock_cookie: btf.offset("sock_common", "skc_cookie")?,
        sock_mark: btf.offset("sock", "sk_mark")?,
        sock_protocol: btf.offset("sock", "sk_protocol")?,
        sock_uid: btf.offset("sock", "sk_uid")?,
        inet_sport: btf.offset("inet_sock", "inet_sport")?,
        net_inum: btf.offset("net", "ns")? + inum,
        // A kernel without multipath TCP has no such sockets either.
        mptcp_first: btf.offset("mptcp_sock", "first").unwrap_or(0),
        socket_sk: btf.offset("socket", "sk")?,
        socket_file: btf.offset("socket", "file")?,
        file_private_data: btf.offset("file", "private_data")?,
        file_inode: btf.offset("file", "f_inode")?,
        file_op: btf.offset("file", "f_op")?,
        inode_ino: btf.offset("inode", "i_ino")?,
        inode_mode: btf.offset("inode", "i_mode")?,
        inode_sb: btf.offset("inode", "i_sb")?,
        super_dev: btf.offset("super_block", "s_dev")?,
        task_tgid: btf.offset("task_struct", "tgid")?,
        task_pid: btf.offset("task_struct", "pid")?,
        task_files: btf.offset("task_struct", "files")?,
        task_group_leader: btf.offset("task_struct", "group_leader")?,
        task_real_parent: btf.offset("task_struct", "real_parent")?,
        task_signal: btf.offset("task_struct", "signal")?,
        task_thread_pid: btf.offset("task_struct", "thread_pid")?,
        task_mm: btf.offset("task_struct", "mm")?,
        mm_exe_file: btf.offset("mm_struct", "exe_file")?,
        signal_live: btf.offset("signal_struct", "live")?,
        signal_pids: btf.offset("signal_struct", "pids")?,
        pid_level: btf.offset("pid", "level")?,
        pid_numbers: btf.offset("pid", "numbers")?,
        pidns_inum: btf.offset("pid_namespace", "ns")? + inum,
        files_fdt: btf.offset("files_struct", "fdt")?,
        fdtable_fd: btf.offset("fdtable", "fd")?,
        fdtable_max_fds: btf.offset("fdtable", "max_fds")?,
        fdtable_open_fds: btf.offset("fdtable", "open_fds")?,
        regs_first,
        regs_second,
        task_cred: btf.offset("task_struct", "cred")?,
        files_count: btf.offset("files_struct", "count")?,
        ..buckets(btf).unwrap_or_default()
    })
}

/// Where the kernel keeps which ports have sockets. Another kernel may keep it elsewhere: then that is not asked.
fn buckets(btf: &Btf<'_>) -> Result<Offsets, BtfError> {
    let tables = btf.offset("net", "ipv4")? + btf.offset("netns_ipv4", "tcp_death_row")?;
    Ok(Offsets {
        net_hash_mix: btf.offset("net", "hash_mix")?,
        net_tcp_tables: tables + btf.offset("inet_timewait_death_row", "hashinfo")?,
        tables_bhash: btf.offset("inet_hashinfo", "bhash")?,
        tables_bhash_size: btf.offset("inet_hashinfo", "bhash_size")?,
        chain_first: btf.offset("inet_bind_hashbucket", "chain")?,
        chain_size: btf.size("inet_bind_hashbucket")?,
        bucket_net: btf.offset("inet_bind_bucket", "ib_net")?,
        bucket_port: btf.offset("inet_bind_bucket", "port")?,
        bucket_node: btf.offset("inet_bind_bucket", "node")?,
        ..owners_of_buckets(btf).unwrap_or_default()
    })
}

/// Where the kernel keeps which sockets have a port.
fn owners_of_buckets(btf: &Btf<'_>) -> Result<Offsets, BtfError> {
    // Since Linux 6.13 the count is one less.
    let (file_count, file_first_count) = match btf.offset("file", "f_ref") {
        Ok(at) => (at, 1),
        Err(_) => (btf.offset("file", "f_count")?, 0),
    };
    let sockets = Offsets {
        file_cred: btf.offset("file", "f_cred")?,
        file_count,
        file_first_count,
        sock_bind_node: btf.offset("sock_common", "skc_bind_node")?,
        sock_socket: btf.offset("sock", "sk_socket")?,
        ..Offsets::default()
    };
    if let Ok(bucket_owners) = btf.offset("inet_bind_bucket", "owners") {
        return Ok(Offsets { bucket_owners, ..sockets });
    }
    Ok(Offsets {
        bucket_parts: btf.offset("inet_bind_bucket", "bhash2")?,
        part_node: btf.offset("inet_bind2_bucket", "bhash_node")?,
        part_owners: btf.offset("inet_bind2_bucket", "owners")?,
        ..sockets
    })
}

/// The offsets of the plain tracepoints' fields, from tracefs.
///
/// # Errors
/// If they can't be read: without them the programs there would report nothing, and nobody would know.
pub(super) fn find_plain() -> io::Result<TraceOffsets> {
    let tracefs = Tracefs::open()?;
    // The records of kernels before the later 5.15 have no family, which the address then tells.
    let family =
        |format: &str| if Part::Family.is_switched_off() { 0 } else { field(format, "family").unwrap_or(0) };
    let state = tracefs.format(STATE_EVENT)?;
    let destroy = tracefs.format(DESTROY_EVENT)?;
    Ok(TraceOffsets {
        state_oldstate: field(&state, "oldstate")?,
        state_newstate: field(&state, "newstate")?,
        state_sport: field(&state, "sport")?,
        state_family: family(&state),
        state_protocol: field(&state, "protocol")?,
        state_saddr: field(&state, "saddr")?,
        state_saddr_v6: field(&state, "saddr_v6")?,
        destroy_sport: field(&destroy, "sport")?,
        destroy_dport: field(&destroy, "dport")?,
        destroy_family: family(&destroy),
        destroy_saddr: field(&destroy, "saddr")?,
        destroy_saddr_v6: field(&destroy, "saddr_v6")?,
        destroy_cookie: field(&destroy, "sock_cookie")?,
    })
}

/// One field of a tracepoint's format: `field:__u16 sport;  offset:24;  size:2;  signed:0;`.
fn field(format: &str, name: &str) -> io::Result<u32> {
    let offset = format.lines().find_map(|line| {
        let (declaration, rest) = line.trim().strip_prefix("field:")?.split_once(';')?;
        let word = declaration.rsplit(' ').next()?;
        let named = word.split('[').next()? == name;
        let offset = rest.trim().strip_prefix("offset:")?.split(';').next()?;
        named.then(|| offset.parse().ok()).flatten()
    });
    offset.ok_or_else(|| io::Error::other(format!("the tracepoint has no field {name}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let format = "format:\n\tfield:const void * skaddr;\toffset:8;\tsize:8;\tsigned:0;\n\
                      \tfield:__u8 saddr[4];\toffset:28;\tsize:4;\tsigned:0;\n\
                      \tfield:__u8 saddr_v6[16];\toffset:36;\tsize:16;\tsigned:0;\n";
        assert_eq!(field(format, "skaddr").unwrap(), 8);
        assert_eq!(field(format, "saddr").unwrap(), 28);
        assert_eq!(field(format, "saddr_v6").unwrap(), 36);
        assert!(field(format, "addr").is_err());
    }
}
