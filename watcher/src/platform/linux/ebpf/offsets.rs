//! Where the running kernel keeps what the kernel program reads.

use std::fs;
use std::io;

use watcher_common::{Offsets, TraceOffsets};

use super::btf::{Btf, BtfError, Kind};

/// The types that [`find`] and the programs' targets are looked up in.
pub(super) const WANTED: &[(Kind, &str)] = &[
    (Kind::Struct, "sock_common"),
    (Kind::Struct, "sock"),
    (Kind::Struct, "inet_sock"),
    (Kind::Struct, "mptcp_sock"),
    (Kind::Struct, "net"),
    (Kind::Struct, "ns_common"),
    (Kind::Struct, "socket"),
    (Kind::Struct, "file"),
    (Kind::Struct, "inode"),
    (Kind::Struct, "task_struct"),
    (Kind::Struct, "signal_struct"),
    (Kind::Struct, "pid"),
    (Kind::Struct, "pid_namespace"),
    (Kind::Struct, "files_struct"),
    (Kind::Struct, "fdtable"),
    (Kind::Struct, "pt_regs"),
    (Kind::Typedef, "btf_trace_inet_sock_set_state"),
    (Kind::Typedef, "btf_trace_tcp_destroy_sock"),
    (Kind::Func, "bpf_iter_task_file"),
];

/// The offsets, from BTF.
pub(super) fn find(btf: &Btf<'_>) -> Result<Offsets, BtfError> {
    let inum = btf.offset("ns_common", "inum")?;
    // x86-64 keeps the arguments as they were; arm64 overwrites the first with the result, and keeps a copy.
    let regs_first = btf.offset("pt_regs", "di").or_else(|_| btf.offset("pt_regs", "orig_x0"))?;
    let regs_second =
        btf.offset("pt_regs", "si").or_else(|_| btf.offset("pt_regs", "regs").map(|regs| regs + 8))?;
    Ok(Offsets {
        sock_dport: btf.offset("sock_common", "skc_dport")?,
        sock_family: btf.offset("sock_common", "skc_family")?,
        sock_state: btf.offset("sock_common", "skc_state")?,
        sock_reuse: btf.offset("sock_common", "skc_reuse")?,
        sock_bound_dev_if: btf.offset("sock_common", "skc_bound_dev_if")?,
        sock_net: btf.offset("sock_common", "skc_net")?,
        sock_rcv_saddr: btf.offset("sock_common", "skc_rcv_saddr")?,
        sock_v6_rcv_saddr: btf.offset("sock_common", "skc_v6_rcv_saddr")?,
        sock_cookie: btf.offset("sock_common", "skc_cookie")?,
        sock_mark: btf.offset("sock", "sk_mark")?,
        sock_protocol: btf.offset("sock", "sk_protocol")?,
        inet_sport: btf.offset("inet_sock", "inet_sport")?,
        net_inum: btf.offset("net", "ns")? + inum,
        // A kernel without multipath TCP has no such sockets either.
        mptcp_first: btf.offset("mptcp_sock", "first").unwrap_or(0),
        socket_sk: btf.offset("socket", "sk")?,
        file_private_data: btf.offset("file", "private_data")?,
        file_inode: btf.offset("file", "f_inode")?,
        inode_ino: btf.offset("inode", "i_ino")?,
        task_tgid: btf.offset("task_struct", "tgid")?,
        task_pid: btf.offset("task_struct", "pid")?,
        task_files: btf.offset("task_struct", "files")?,
        task_signal: btf.offset("task_struct", "signal")?,
        task_thread_pid: btf.offset("task_struct", "thread_pid")?,
        signal_pids: btf.offset("signal_struct", "pids")?,
        pid_level: btf.offset("pid", "level")?,
        pid_numbers: btf.offset("pid", "numbers")?,
        pidns_inum: btf.offset("pid_namespace", "ns")? + inum,
        files_fdt: btf.offset("files_struct", "fdt")?,
        fdtable_fd: btf.offset("fdtable", "fd")?,
        fdtable_max_fds: btf.offset("fdtable", "max_fds")?,
        regs_first,
        regs_second,
    })
}

/// The offsets of the plain tracepoints' fields, from tracefs under `events`.
pub(super) fn find_plain(events: &std::path::Path) -> io::Result<TraceOffsets> {
    let state = fs::read_to_string(events.join("sock/inet_sock_set_state/format"))?;
    let destroy = fs::read_to_string(events.join("tcp/tcp_destroy_sock/format"))?;
    Ok(TraceOffsets {
        state_oldstate: field(&state, "oldstate")?,
        state_newstate: field(&state, "newstate")?,
        state_sport: field(&state, "sport")?,
        state_family: field(&state, "family")?,
        state_protocol: field(&state, "protocol")?,
        state_saddr: field(&state, "saddr")?,
        state_saddr_v6: field(&state, "saddr_v6")?,
        destroy_sport: field(&destroy, "sport")?,
        destroy_dport: field(&destroy, "dport")?,
        destroy_family: field(&destroy, "family")?,
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
