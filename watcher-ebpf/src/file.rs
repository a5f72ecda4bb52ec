//! Never attached, but run when user space asks: by which numbers the kernel knows a file. What stat(2) says of it can be
//! others: btrfs and overlayfs have their own.

use watcher_common::{FileQuestion, file as part};

use crate::current;
use crate::descriptors::Descriptors;

#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tp/file_number")]
pub extern "C" fn file_number(question: *const FileQuestion) -> u32 {
    // SAFETY: the verifier knows the context.
    let (descriptor, wanted) = unsafe { ((*question).descriptor as u32, (*question).part as u32) };
    let (device, inode) = current::numbers(Descriptors::own_file(descriptor));
    match wanted {
        part::DEVICE => device,
        part::INODE_LOW => inode as u32,
        _ => (inode >> 32) as u32,
    }
}
