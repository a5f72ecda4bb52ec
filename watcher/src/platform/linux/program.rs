//! Whether the kernel would run a file, as far as its first bytes tell: execve(2).
//!
//! The kernel asks its formats in turn: first what is registered with binfmt_misc, then `#!` and ELF. Only what is certain
//! counts: wherever another format could be meant that can't be seen from here, the file is left to the kernel.

use std::ffi::{CString, OsStr};
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::libc;

use crate::platform::contract::Runs;
use crate::platform::unix;

/// How much of a file the kernel's formats are shown (BINPRM_BUF_SIZE).
const SHOWN: usize = 256;
/// The registered formats.
const MISC: &str = "/proc/sys/fs/binfmt_misc";
/// execveat(2): only check whether the file could be executed (Linux 6.14).
const AT_EXECVE_CHECK: libc::c_int = 0x10000;
/// The largest table of program headers that the kernel reads (ELF_MIN_ALIGN is at least as large everywhere).
const MOST_HEADERS: u64 = 65536;

/// As [`Platform::runs`](crate::platform::contract::Platform::runs).
pub(super) fn runs(path: &Path) -> Runs {
    if is_written(path) {
        return Runs::Never(format!("{} is open for writing", path.display()));
    }
    // Who may execute a file need not be able to read it.
    let Ok(file) = File::open(path) else { return Runs::Itself };
    let Ok(length) = file.metadata().map(|about| about.len()) else { return Runs::Itself };
    let mut start = [0; SHOWN];
    // A shorter file is shown with zeros behind it.
    if read(&file, &mut start).is_none() {
        return Runs::Itself;
    }
    let misc = Misc::read(Path::new(MISC), path, &start);
    if misc == Misc::Taken {
        return Runs::Itself;
    }
    if start.starts_with(b"#!") {
        return script(&start);
    }
    if !start.starts_with(b"\x7fELF") {
        let shown = usize::try_from(length).map_or(SHOWN, |length| length.min(SHOWN));
        if misc == Misc::Unseen && start[..shown].contains(&0) {
            // No text. The host of a container may have a format for it that is not seen from here.
            return Runs::Itself;
        }
        return Runs::NoFormat;
    }
    match Elf::read(&file, &start, length) {
        Err(why) => Runs::Never(format!("{} {why}", path.display())),
        Ok(None) => Runs::Itself,
        Ok(Some(elf)) if elf.is_foreign() => match misc {
            // Where it is not mounted, the kernel may still have formats.
            Misc::Unseen | Misc::Taken => Runs::Itself,
            Misc::NotTaken => Runs::Never(format!("{} is for another machine", path.display())),
        },
        Ok(Some(elf)) => elf.loader.as_deref().and_then(why_not_load).map_or(Runs::Itself, Runs::Never),
    }
}

/// Whether somebody has the file open for writing: then execve(2) fails with ETXTBSY. Kernels that do not know AT_EXECVE_CHECK
/// answer EINVAL, and don't tell it before.
fn is_written(path: &Path) -> bool {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else { return false };
    let (words, variables) = ([path.as_ptr(), std::ptr::null()], [std::ptr::null::<libc::c_char>()]);
    // SAFETY: the path and the lists end with a null and outlive the call (execveat(2)), which executes nothing with this flag.
    let result = unsafe {
        libc::syscall(
            libc::SYS_execveat,
            libc::AT_FDCWD,
            path.as_ptr(),
            words.as_ptr(),
            variables.as_ptr(),
            AT_EXECVE_CHECK,
        )
    };
    Errno::result(result) == Err(Errno::ETXTBSY)
}

/// The kernel hands all that follows the interpreter on as one word (binfmt_script), and takes a line without an
/// interpreter for no script.
fn script(start: &[u8]) -> Runs {
    let line = start.get(2..).unwrap_or_default();
    let line = line.split(|&byte| byte == b'\n' || byte == 0).next().unwrap_or_default();
    let Ok(line) = str::from_utf8(line) else { return Runs::Itself };
    let line = line.trim_matches([' ', '\t']);
    // Not split at a carriage return: to the kernel it is part of the name.
    let (interpreter, rest) = line.split_once([' ', '\t']).unwrap_or((line, ""));
    if interpreter.is_empty() {
        return Runs::NoFormat;
    }
    let rest = rest.trim_start_matches([' ', '\t']);
    let arguments = Some(rest.to_owned()).filter(|rest| !rest.is_empty()).into_iter().collect();
    Runs::By { interpreter: interpreter.to_owned(), arguments }
}

/// Why the kernel can't load a program by this loader, if that is certain.
fn why_not_load(loader: &Path) -> Option<String> {
    let name = loader.display();
    if !loader.exists() {
        return Some(format!("its loader {name} is missing"));
    }
    if !unix::is_executable(loader) {
        return Some(format!("its loader {name} may not be executed"));
    }
    let mut start = [0; 4];
    read(&File::open(loader).ok()?, &mut start)?;
    // ELIBBAD
    (start != *b"\x7fELF").then(|| format!("its loader {name} is not a program"))
}

/// Fills the buffer from the file's beginning as far as that reaches; `None` if it can't be read.
fn read(file: &File, buffer: &mut [u8]) -> Option<()> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, u64::try_from(filled).ok()?) {
            Ok(0) => return Some(()),
            Ok(count) => filled += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
    Some(())
}

/// What an ELF file says of how it is run.
struct Elf {
    machine: u16,
    loader: Option<PathBuf>,
}

/// The fields of the file's header and of a program header that matter here, for 32 and 64 bits: where each begins.
struct Layout {
    header: usize,
    word: usize,
    headers_at: usize,
    header_size: usize,
    count: usize,
    entry: usize,
    offset: usize,
    length: usize,
}

const BITS_32: Layout = Layout {
    header: 52,
    word: 4,
    headers_at: 28,
    header_size: 42,
    count: 44,
    entry: 32,
    offset: 4,
    length: 16,
};
const BITS_64: Layout = Layout {
    header: 64,
    word: 8,
    headers_at: 32,
    header_size: 54,
    count: 56,
    entry: 56,
    offset: 8,
    length: 32,
};

impl Elf {
    /// Reads it; `None` where it can't be read, or has a form that is not known here.
    ///
    /// # Errors
    /// Why the kernel refuses it (ENOEXEC, EIO), or can't map all of it.
    fn read(file: &File, start: &[u8; SHOWN], length: u64) -> Result<Option<Self>, &'static str> {
        const CUT: &str = "is cut short";
        let layout = match start[4] {
            1 => &BITS_32,
            2 => &BITS_64,
            _ => return Ok(None),
        };
        // The byte order of another machine.
        if start[5] != if cfg!(target_endian = "little") { 1 } else { 2 } {
            return Ok(None);
        }
        if length < layout.header as u64 {
            return Err(CUT);
        }
        let short = |at| u16_at(start, at).unwrap_or_default();
        if !matches!(short(16), libc::ET_EXEC | libc::ET_DYN) {
            return Err("is no program, but a part of one");
        }
        let (count, size) = (u64::from(short(layout.count)), usize::from(short(layout.header_size)));
        let Some(at) = word_at(start, layout.headers_at, layout.word) else { return Ok(None) };
        let total = count * layout.entry as u64;
        if size != layout.entry || count == 0 || total > MOST_HEADERS {
            return Err("has no table of what to load");
        }
        if at.checked_add(total).is_none_or(|end| end > length) {
            return Err(CUT);
        }
        let mut headers = vec![0; usize::try_from(total).unwrap_or_default()];
        if file.read_exact_at(&mut headers, at).is_err() {
            return Ok(None);
        }
        // The rest of the last page reads as zeros; what is mapped behind that can't be used: SIGBUS (mmap(2)).
        let mapped = length.next_multiple_of(4096);
        let mut loader = None;
        for header in headers.chunks_exact(layout.entry) {
            let kind = header.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes));
            let is_loader = kind == Some(libc::PT_INTERP);
            if !is_loader && kind != Some(libc::PT_LOAD) {
                continue;
            }
            let place = word_at(header, layout.offset, layout.word);
            let Some((from, bytes)) = place.zip(word_at(header, layout.length, layout.word)) else {
                continue;
            };
            if bytes > 0 && from.checked_add(bytes).is_none_or(|end| end > mapped) {
                return Err(CUT);
            }
            if is_loader && loader.is_none() {
                loader = Some(loader_at(file, from, bytes)?);
            }
        }
        Ok(Some(Self { machine: short(18), loader }))
    }

    /// Whether it is certainly for another machine than this one. Where a kernel of 64 bits runs programs of 32 as well,
    /// both are its own.
    fn is_foreign(&self) -> bool {
        let own: &[u16] = if cfg!(any(target_arch = "x86_64", target_arch = "x86")) {
            &[libc::EM_X86_64, libc::EM_386]
        } else if cfg!(any(target_arch = "aarch64", target_arch = "arm")) {
            &[libc::EM_AARCH64, libc::EM_ARM]
        } else {
            return false;
        };
        !own.contains(&self.machine)
    }
}

/// The path of the loader: it ends with a zero, or the kernel refuses the file.
fn loader_at(file: &File, from: u64, bytes: u64) -> Result<PathBuf, &'static str> {
    const WRONG: &str = "names no loader";
    let length = usize::try_from(bytes).ok().filter(|length| (2..=libc::PATH_MAX as usize).contains(length));
    let mut name = vec![0; length.ok_or(WRONG)?];
    file.read_exact_at(&mut name, from).map_err(|_| WRONG)?;
    if name.last() != Some(&0) {
        return Err(WRONG);
    }
    let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
    Ok(Path::new(OsStr::from_bytes(name)).to_owned())
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|bytes| u16::from_ne_bytes(*bytes))
}

/// An offset, which has 4 bytes or 8.
fn word_at(bytes: &[u8], at: usize, size: usize) -> Option<u64> {
    let bytes = bytes.get(at..)?;
    if size == 4 {
        bytes.first_chunk().map(|bytes| u64::from(u32::from_ne_bytes(*bytes)))
    } else {
        bytes.first_chunk().map(|bytes| u64::from_ne_bytes(*bytes))
    }
}

/// What the registered formats say of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Misc {
    /// They can't be seen from here.
    Unseen,
    /// One takes it, or may.
    Taken,
    NotTaken,
}

impl Misc {
    fn read(folder: &Path, path: &Path, start: &[u8; SHOWN]) -> Self {
        let Ok(status) = fs::read_to_string(folder.join("status")) else { return Self::Unseen };
        if status.trim() == "disabled" {
            return Self::NotTaken;
        }
        let Ok(entries) = fs::read_dir(folder) else { return Self::Unseen };
        let mut entries = entries.flatten().filter(|entry| {
            let name = entry.file_name();
            name != "status" && name != "register"
        });
        let takes = |entry: fs::DirEntry| {
            fs::read_to_string(entry.path()).is_ok_and(|text| !takes_not(&text, path, start))
        };
        if entries.any(takes) { Self::Taken } else { Self::NotTaken }
    }
}

/// Whether a registered format certainly doesn't take the file. Its file tells what the kernel compares.
fn takes_not(text: &str, path: &Path, start: &[u8; SHOWN]) -> bool {
    let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    if text.lines().next() == Some("disabled") {
        return true;
    }
    if let Some(suffix) = value("extension .") {
        let own = path.as_os_str().as_bytes().rsplit(|&byte| byte == b'.').next().unwrap_or_default();
        return own != suffix.as_bytes();
    }
    let bytes = |text: &str| -> Option<Vec<u8>> {
        let digits = |at| text.get(at..at + 2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        (0..text.len()).step_by(2).map(digits).collect()
    };
    let known = value("offset ").and_then(|it| it.parse::<usize>().ok()).zip(value("magic ").and_then(bytes));
    let Some((offset, magic)) = known else { return false };
    let mask = match value("mask ").map(bytes) {
        None => vec![0xff; magic.len()],
        Some(Some(mask)) if mask.len() == magic.len() => mask,
        Some(_) => return false,
    };
    let Some(shown) = start.get(offset..offset.saturating_add(magic.len())) else { return false };
    shown.iter().zip(&magic).zip(&mask).any(|((shown, magic), mask)| (shown ^ magic) & mask != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(bytes: &[u8]) -> Runs {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), bytes).unwrap();
        let (_, path) = file.keep().unwrap();
        let runs = runs(&path);
        fs::remove_file(path).unwrap();
        runs
    }

    /// A small program of this machine's.
    const PROGRAM: &str = "/bin/sh";

    fn program() -> Vec<u8> {
        fs::read(PROGRAM).unwrap()
    }

    #[test]
    fn what_the_kernel_runs_is_left_to_it() {
        assert_eq!(of(&program()), Runs::Itself);
        assert_eq!(runs(Path::new("/proc/self/exe")), Runs::Itself);
        assert_eq!(runs(Path::new("/no/such/file")), Runs::Itself);
    }

    #[test]
    fn a_program_that_is_cut_short_anywhere_is_refused() {
        let whole = program();
        for length in [7, 20, 63, 64, 100, 64 * 1024] {
            let runs = of(&whole[..length]);
            assert!(matches!(runs, Runs::Never(_)), "{length}: {runs:?}");
        }
    }

    #[test]
    fn a_text_without_an_interpreter_is_no_program() {
        for text in ["", "echo hi\n", "#!\n", "#! \t\n", "# !/bin/sh\n"] {
            assert_eq!(of(text.as_bytes()), Runs::NoFormat, "{text:?}");
        }
    }

    #[test]
    fn what_follows_the_interpreter_is_one_word() {
        let by = |interpreter: &str, arguments: &[&str]| Runs::By {
            interpreter: interpreter.to_owned(),
            arguments: arguments.iter().map(|&word| word.to_owned()).collect(),
        };
        assert_eq!(of(b"#!/bin/sh"), by("/bin/sh", &[]));
        assert_eq!(of(b"#! /bin/sh -e \nx"), by("/bin/sh", &["-e"]));
        assert_eq!(of(b"#!/usr/bin/env -S  a b\n"), by("/usr/bin/env", &["-S  a b"]));
        assert_eq!(of(b"#!/bin/sh\r\n"), by("/bin/sh\r", &[]));
    }

    #[test]
    fn a_missing_loader_is_named() {
        let mut program = program();
        let Ok(Some(Elf { loader: Some(loader), .. })) = ({
            let file = File::open(PROGRAM).unwrap();
            let mut start = [0; SHOWN];
            read(&file, &mut start).unwrap();
            Elf::read(&file, &start, program.len() as u64)
        }) else {
            // A static program has none.
            return;
        };
        let name = loader.as_os_str().as_bytes();
        let at = program.windows(name.len()).position(|part| part == name).unwrap();
        program[at + 1] = b'_';
        let Runs::Never(why) = of(&program) else { panic!("it would be run") };
        assert!(why.starts_with("its loader /_") && why.ends_with("is missing"), "{why}");
    }

    #[test]
    fn a_program_for_another_machine_is_refused_only_where_the_formats_are_seen() {
        let mut program = program();
        program[18..20].copy_from_slice(&libc::EM_SPARC.to_ne_bytes());
        let runs = of(&program);
        let is_seen = Path::new(MISC).join("status").exists();
        assert_eq!(matches!(runs, Runs::Never(_)), is_seen, "{runs:?}");
    }

    #[test]
    fn a_registered_format_takes_what_it_names() {
        let mut start = [0; SHOWN];
        start[..6].copy_from_slice(b"MZ\x01\x02\x03\x04");
        let not = |text: &str, path: &str| takes_not(text, Path::new(path), &start);
        assert!(!not("enabled\ninterpreter /usr/bin/wine\nflags: \nextension .exe\n", "/x/a.exe"));
        assert!(not("enabled\ninterpreter /usr/bin/wine\nflags: \nextension .exe\n", "/x/a"));
        assert!(!not("enabled\ninterpreter /x\nflags: \noffset 0\nmagic 4d5a\n", "/x/a"));
        assert!(not("disabled\ninterpreter /x\nflags: \noffset 0\nmagic 4d5a\n", "/x/a"));
        assert!(not("enabled\ninterpreter /x\nflags: \noffset 0\nmagic 4d5b\n", "/x/a"));
        assert!(!not("enabled\ninterpreter /x\nflags: \noffset 1\nmagic 5bff\nmask fe00\n", "/x/a"));
        // one that is not understood may take it
        assert!(!not("enabled\ninterpreter /x\n", "/x/a"));
        assert!(!not("enabled\noffset 0\nmagic 4d5\n", "/x/a"));
    }

    #[test]
    fn formats_that_can_not_be_seen_may_take_anything_foreign() {
        let folder = tempfile::tempdir().unwrap();
        let start = [0; SHOWN];
        let read = || Misc::read(folder.path(), Path::new("/x/a.jar"), &start);
        assert_eq!(read(), Misc::Unseen);
        fs::write(folder.path().join("status"), "enabled\n").unwrap();
        assert_eq!(read(), Misc::NotTaken);
        fs::write(folder.path().join("jar"), "enabled\ninterpreter /x\nflags: \nextension .jar\n").unwrap();
        assert_eq!(read(), Misc::Taken);
        fs::write(folder.path().join("status"), "disabled\n").unwrap();
        assert_eq!(read(), Misc::NotTaken);
    }
}
