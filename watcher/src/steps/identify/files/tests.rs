//! The rules of reading files that another user chose.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::mpsc::channel;
use std::time::Duration;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::steps::fake::process;

/// A user that owns nothing here.
const NOBODY: u32 = 65534;

/// A process's root folder, and beside it what its `/proc` folder would have.
fn world() -> TempDir {
    let world = tempfile::tempdir().unwrap();
    fs::create_dir(world.path().join("root")).unwrap();
    world
}

fn files(world: &TempDir, uid: Option<u32>) -> Files {
    let mut process = process(&["x"]);
    process.root = Some(world.path().join("root"));
    process.uid = uid;
    Files::of(&process).unwrap()
}

fn own() -> Option<u32> {
    Some(nix::unistd::geteuid().as_raw())
}

fn write(world: &TempDir, path: &str, text: &str, mode: u32) {
    let path = world.path().join("root").join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn read(files: &Files, path: &str) -> Result<Vec<u8>, Fault> {
    files.read(Path::new(path))
}

#[test]
fn a_regular_file_of_the_processs_user_is_read() {
    let world = world();
    write(&world, "a/f", "text", 0o600);
    assert_eq!(read(&files(&world, own()), "/a/f"), Ok(b"text".to_vec()));
    assert_eq!(read(&files(&world, own()), "/a/g"), Err(Fault::Missing));
    assert_eq!(read(&files(&world, own()), "/a/f/g"), Err(Fault::Missing));
}

#[test]
fn a_file_that_the_processs_user_could_not_read_is_not_read() {
    let world = world();
    write(&world, "secret", "text", 0o600);
    write(&world, "open", "text", 0o644);
    let files = files(&world, Some(NOBODY));
    assert_eq!(read(&files, "/secret"), Err(Fault::Hidden));
    // One of another user proves nothing; one of root's does.
    let expected = if own() == Some(0) { Ok(b"text".to_vec()) } else { Err(Fault::Hidden) };
    assert_eq!(read(&files, "/open"), expected);
}

#[test]
fn a_file_that_the_processs_group_may_read_is_read() {
    if own() != Some(0) {
        return;
    }
    let world = world();
    write(&world, "shared", "text", 0o640);
    std::os::unix::fs::chown(world.path().join("root/shared"), Some(0), Some(4711)).unwrap();
    assert_eq!(read(&files(&world, Some(NOBODY)), "/shared"), Err(Fault::Hidden));
    fs::write(world.path().join("status"), "Name:\tx\nGid:\t1\t1\t1\t1\nGroups:\t5 4711 \n").unwrap();
    assert_eq!(read(&files(&world, Some(NOBODY)), "/shared"), Ok(b"text".to_vec()));
}

#[test]
fn root_of_the_processs_user_namespace_counts_as_root() {
    if own() != Some(0) {
        return;
    }
    let world = world();
    write(&world, "f", "text", 0o644);
    std::os::unix::fs::chown(world.path().join("root/f"), Some(100_000), None).unwrap();
    assert_eq!(read(&files(&world, Some(100_999)), "/f"), Err(Fault::Hidden));
    fs::write(world.path().join("uid_map"), "         0     100000      65536\n").unwrap();
    assert_eq!(read(&files(&world, Some(100_999)), "/f"), Ok(b"text".to_vec()));
}

#[test]
fn what_lies_behind_a_closed_folder_looks_as_if_it_could_not_be_read() {
    let world = world();
    write(&world, "closed/there", "text", 0o644);
    fs::set_permissions(world.path().join("root/closed"), fs::Permissions::from_mode(0o700)).unwrap();
    symlink("/closed/there", world.path().join("root/link")).unwrap();
    symlink("/closed/not-there", world.path().join("root/dangling")).unwrap();
    let files = files(&world, Some(NOBODY));
    for path in ["/closed/there", "/closed/not-there", "/link", "/dangling"] {
        assert_eq!(files.resolve(Path::new(path)), Err(Fault::Hidden), "{path}");
    }
}

#[test]
fn what_is_not_a_regular_file_with_a_text_is_refused_at_once() {
    let world = world();
    let root = world.path().join("root");
    write(&world, "target", "text", 0o644);
    symlink("target", root.join("link")).unwrap();
    fs::create_dir(root.join("folder")).unwrap();
    write(&world, "empty", "", 0o644);
    write(&world, "large", &" ".repeat(usize::try_from(LARGEST).unwrap() + 1), 0o644);
    nix::unistd::mkfifo(&root.join("fifo"), nix::sys::stat::Mode::S_IRUSR).unwrap();
    let (done, is_done) = channel();
    std::thread::spawn(move || {
        let files = files(&world, own());
        for path in ["/link", "/folder", "/empty", "/large", "/fifo"] {
            assert_eq!(read(&files, path), Err(Fault::Unfit), "{path}");
        }
        done.send(()).unwrap();
    });
    is_done.recv_timeout(Duration::from_secs(10)).expect("it must not wait for a file");
}

#[cfg(target_os = "linux")]
#[test]
fn the_kernels_own_files_are_not_read() {
    let mut ourselves = process(&["x"]);
    ourselves.uid = Some(0);
    let files = Files::of(&ourselves).unwrap();
    assert_eq!(read(&files, "/proc/kmsg"), Err(Fault::Unfit));
}

#[test]
fn links_stay_inside_the_root() {
    let world = world();
    let root = world.path().join("root");
    write(&world, "etc/passwd", "", 0o644);
    symlink("/etc", root.join("absolute")).unwrap();
    symlink("../../../../../../../../etc", root.join("up")).unwrap();
    symlink("loop", root.join("loop")).unwrap();
    let files = files(&world, own());
    for path in ["/absolute/passwd", "/up/passwd", "/../etc//./passwd", "/absolute/../etc/passwd"] {
        assert_eq!(files.resolve(Path::new(path)), Ok("/etc/passwd".into()), "{path}");
    }
    assert_eq!(files.resolve(Path::new("/loop")), Err(Fault::Hidden));
}

#[test]
fn a_tangle_of_links_is_given_up() {
    let world = world();
    let root = world.path().join("root");
    fs::create_dir(root.join("d")).unwrap();
    for number in 0..30 {
        let next = format!("{}l{}", "d/../".repeat(100), number + 1);
        symlink(next, root.join(format!("l{number}"))).unwrap();
    }
    assert_eq!(files(&world, own()).resolve(Path::new("/l0")), Err(Fault::Hidden));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever links there are, a path leads where the kernel would lead a process with that root.
    #[test]
    fn paths_lead_where_the_kernel_leads(
        targets in proptest::collection::vec("(/|)((a|b|\\.\\.|\\.)/){0,3}(a|b|c0|c1|c2)", 3),
        path in "/((a|b|c0|c1|c2|\\.\\.)/){0,4}(a|b|c0|c1|c2)",
    ) {
        let world = world();
        let root = world.path().join("root");
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::create_dir_all(root.join("b/a")).unwrap();
        for (number, target) in targets.iter().enumerate() {
            symlink(target, root.join(format!("c{number}"))).unwrap();
        }
        let resolved = files(&world, own()).resolve(Path::new(&path));
        if let Ok(resolved) = &resolved {
            // There are no links left in it, and it is below the root.
            let seen = root.join(resolved.strip_prefix("/").unwrap());
            prop_assert_eq!(seen.canonicalize().unwrap(), root.canonicalize().unwrap().join(resolved.strip_prefix("/").unwrap()));
        }
        #[cfg(target_os = "linux")]
        {
            use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
            let folder = fs::File::open(&root).unwrap();
            let how = OpenHow::new().flags(OFlag::O_PATH).resolve(ResolveFlag::RESOLVE_IN_ROOT);
            let by_kernel = openat2(&folder, path.as_str(), how);
            // A kernel without the call says nothing.
            if !matches!(by_kernel, Err(nix::errno::Errno::ENOSYS)) {
                prop_assert_eq!(by_kernel.is_ok(), resolved.is_ok(), "{:?} {:?}", by_kernel, resolved);
            }
        }
    }
}
