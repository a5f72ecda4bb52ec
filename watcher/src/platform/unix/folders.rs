//! Who could change a file, or put another one in its place.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::own_user;

/// How many links are followed to a folder, as by the kernel (path_resolution(7)).
const LINKS: u32 = 40;
/// What a mode has if the group, or all others, can write.
const OTHERS_WRITE: u32 = 0o022;
const STICKY: u32 = 0o1000;

/// Refuses a folder in which a user other than root and this one could replace a file: the folder itself, each one above
/// it, and each one with a link on the way. In a sticky folder nobody replaces another's file.
///
/// # Errors
/// The folder that others can write, and the mend.
pub(in crate::platform) fn refuse_strangers(folder: &Path) -> io::Result<()> {
    let mut left = LINKS;
    refuse_on_the_way(&std::path::absolute(folder)?, &mut left)
}

fn refuse_on_the_way(path: &Path, left: &mut u32) -> io::Result<()> {
    let mut way = PathBuf::new();
    for part in path.components() {
        way.push(part);
        let metadata = fs::symlink_metadata(&way)?;
        if metadata.is_symlink() {
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

/// Who, besides root, can change a file that root obeys; `None` for nobody, and where this user isn't root.
pub(in crate::platform) fn who_else_commands_root(file: &File) -> io::Result<Option<String>> {
    Ok(if own_user() == 0 { others(&file.metadata()?) } else { None })
}
