//! A journal of systemd, as an agent sees it: a socket that takes entries.

use std::collections::BTreeMap;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;

use crate::PATIENCE;

/// The journal.
pub struct Journal(UnixDatagram);

/// An entry's fields.
pub type Entry = BTreeMap<String, String>;

impl Journal {
    /// One whose socket lies in this folder.
    pub(crate) fn beside(folder: &Path) -> Self {
        let socket = UnixDatagram::bind(folder.join("journal")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(socket)
    }

    /// A command that sees it where systemd's would be.
    pub(crate) fn seen_by(folder: &Path) -> Command {
        let script = "mount -t tmpfs none /run && mkdir -p /run/systemd/journal && touch /run/systemd/journal/socket && mount \
                      --bind \"$0/journal\" /run/systemd/journal/socket && exec \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", script]).arg(folder);
        command
    }

    /// The next entry whose message contains this.
    ///
    /// # Panics
    /// When none comes.
    pub fn entry(&self, text: &str) -> Entry {
        loop {
            let mut datagram = vec![0; 1 << 16];
            let length = self.0.recv(&mut datagram).unwrap();
            let entry = parse(&datagram[..length]);
            if entry.get("MESSAGE").is_some_and(|message| message.contains(text)) {
                return entry;
            }
        }
    }
}

/// Fields are `NAME=value` lines, or, where a value has lines itself, a name, its length in eight bytes, and it.
fn parse(mut bytes: &[u8]) -> Entry {
    let mut entry = Entry::new();
    while let Some(end) = bytes.iter().position(|&byte| byte == b'\n') {
        let line = String::from_utf8_lossy(&bytes[..end]).into_owned();
        bytes = &bytes[end + 1..];
        if let Some((name, value)) = line.split_once('=') {
            entry.insert(name.to_owned(), value.to_owned());
            continue;
        }
        let (length, rest) = bytes.split_first_chunk().unwrap();
        let length = usize::try_from(u64::from_le_bytes(*length)).unwrap();
        entry.insert(line, String::from_utf8_lossy(&rest[..length]).into_owned());
        bytes = &rest[length + 1..];
    }
    entry
}
