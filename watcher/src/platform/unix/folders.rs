//! Who could change a file, or put another one in its place.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

use super::own_user;
use crate::platform::contract::NotObeyed;

/// How many links are followed to a folder, as by the kernel (path_resolution(7)).
const LINKS: u32 = 40;
/// What a mode has if the group, or all others, can write.
const OTHERS_WRITE: u32 = 0o022;
const STICKY: u32 = 0o1000;

/// Refuses a path at which a user other than root and this one could put something else: each folder on the way, the last
/// part as well, each link, and each folder with a link on the way. In a sticky folder nobody replaces another's file.
///
/// # Errors
/// The folder that others can write, and the mend.
pub(in crate::platform) fn refuse_strangers(path: &Path) -> io::Result<()> {
    let mut left = LINKS;
    refuse_on_the_way(&std::path::absolute(path)?, &mut left)
}

fn refuse_on_the_way(path: &Path, left: &mut u32) -> io::Result<()> {
    let mut way = PathBuf::new();
    for part in path.components() {
        way.push(part);
        let metadata = fs::symlink_metadata(&way)?;
        if metadata.is_symlink() {
            if !is_own(&metadata) {
                let text = format!(
                    "user {} can let the link {} lead elsewhere; `chown -h root` it, or name another path",
                    metadata.uid(),
                    way.display()
                );
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
            }
            *left = left.checked_sub(1).ok_or_else(|| io::Error::other("too many links"))?;
            // A link's target counts from the folder that the link is in.
            let target = way.parent().unwrap_or(Path::new("/")).join(fs::read_link(&way)?);
            refuse_on_the_way(&target, left)?;
            way = fs::canonicalize(&way)?;
        } else if let Some(who) = others(&metadata).filter(|_| !is_sticky(&metadata)) {
            let text = format!(
                "{who} can write to the folder {way}, and so put another file in the place of one there; \
                 `chown root {way} && chmod go-w {way}`, or name another folder",
                way = way.display()
            );
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
        }
    }
    Ok(())
}

/// The owner of a sticky folder can replace its files all the same.
fn is_sticky(metadata: &Metadata) -> bool {
    metadata.mode() & STICKY != 0 && is_own(metadata)
}

fn is_own(metadata: &Metadata) -> bool {
    metadata.uid() == 0 || metadata.uid() == own_user() || !is_mapped(metadata.uid())
}

/// Whether the number means a user here. In a user namespace (user_namespaces(7)), the files of the host's root belong to
/// a number that means nobody. No user in here can change those.
fn is_mapped(uid: u32) -> bool {
    let Ok(map) = fs::read_to_string("/proc/self/uid_map") else { return true };
    map.lines().any(|line| {
        let mut numbers = line.split_whitespace().map_while(|number| number.parse::<u64>().ok());
        let (first, _, count) = (numbers.next(), numbers.next(), numbers.next());
        first.zip(count).is_none_or(|(first, count)| (first..first + count).contains(&uid.into()))
    })
}

/// Who can write there, besides root and this user.
fn others(metadata: &Metadata) -> Option<String> {
    if !is_own(metadata) {
        return Some(format!("user {}", metadata.uid()));
    }
    (metadata.mode() & OTHERS_WRITE != 0).then(|| "another user".to_owned())
}

/// Opens a file by which this program is told what to do. The open file is judged, so that it can't be exchanged between
/// the look and the reading; the folders on the way say whether it will be the same one the next time.
///
/// # Errors
/// [`NotObeyed`].
pub(in crate::platform) fn open_to_obey(path: &Path) -> Result<File, NotObeyed> {
    // A named pipe or a terminal would be waited for (open(2)).
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = File::options().read(true).custom_flags(flags.bits()).open(path)?;
    let metadata = file.metadata()?;
    if own_user() == 0 {
        if let Some(who) = others(&metadata).filter(|_| metadata.is_file()) {
            return Err(NotObeyed::Strangers(who));
        }
        refuse_strangers(path)?;
    }
    // Whoever wants to obey nothing may say so.
    if metadata.is_file() || path == Path::new("/dev/null") {
        Ok(file)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no plain file").into())
    }
}
