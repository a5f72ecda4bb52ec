//! Reads the small files of /proc.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// More than the kernel writes to any file of /proc that is read here. A command line may be longer: a process says by
/// itself where it lies (prctl(2), `PR_SET_MM_MAP`), and can make it as long as its memory.
pub(super) const MOST: usize = 64 * 1024;

thread_local! {
    /// Where files are read to. Most are far shorter, so what is to be large for one read is filled with zeros once, and not
    /// for each of the hundreds of files that a look can take.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A file's content, by a single read(2): the kernel then gives all of it as it was at one moment. It is cut at 64 KiB.
pub(super) fn read_once(path: &Path) -> io::Result<Vec<u8>> {
    read_up_to(path, MOST)
}

/// Like [`read_once`], with another limit.
pub(super) fn read_up_to(path: &Path, most: usize) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    BUFFER.with_borrow_mut(|buffer| {
        if buffer.len() < most {
            buffer.resize(most, 0);
        }
        loop {
            match file.read(&mut buffer[..most]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break Ok(buffer[..read?].to_vec()),
            }
        }
    })
}

/// Like [`read_once`], as text. Bytes that are not UTF-8 are replaced.
pub(super) fn text(path: &Path) -> io::Result<String> {
    read_once(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_cut_at_64_kib_and_a_missing_one_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, vec![b'x'; MOST + 10]).unwrap();
        assert_eq!(read_once(&path).unwrap().len(), MOST);
        std::fs::write(&path, "short\n").unwrap();
        assert_eq!(text(&path).unwrap(), "short\n");
        assert!(read_once(&folder.path().join("none")).is_err());
    }
}
