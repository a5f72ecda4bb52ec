//! The product's names: OpenClaw, and what it was called before.

use std::path::Path;

/// The product's names, in lower case: its command, its package, and the folder that a package manager puts it in.
const NAMES: [&str; 3] = ["openclaw", "clawdbot", "moltbot"];
/// What a gateway's title has after the name.
const TITLE_END: &str = "-gateway";
/// Where the kernel cuts a process's name (`TASK_COMM_LEN` less the NUL, proc_pid_comm(5)).
const COMM_LENGTH: usize = 15;
/// What a gateway's script ends in, below the package's folder.
const ENTRIES: [&str; 7] = [
    "dist/index.js",
    "dist/index.mjs",
    "dist/entry.js",
    "dist/entry.mjs",
    "scripts/run-node.mjs",
    "src/entry.ts",
    "src/index.ts",
];

/// Whether this is the product's command or package, by one of its names.
pub(super) fn is_name(word: &str) -> bool {
    NAMES.contains(&word)
}

/// Whether this is a gateway's title.
pub(super) fn is_title(word: &str) -> bool {
    word.strip_suffix(TITLE_END).is_some_and(is_name)
}

/// Whether this is a gateway's title that was cut. A title gets no more room than the arguments had at the start, and
/// the process's name is cut to 15 bytes. The name alone would also be that of `openclaw-gatewatch`, so what is left of
/// the title must be the beginning of it.
pub(super) fn is_cut_title(word: &str, comm: &str) -> bool {
    comm.len() == COMM_LENGTH
        && NAMES.iter().any(|name| {
            let title = format!("{name}{TITLE_END}");
            title.starts_with(word) && title.starts_with(comm)
        })
}

/// Whether a script of this path, with slashes and in lower case, is one that a gateway is started by.
pub(super) fn is_entry(path: &str) -> bool {
    package_folder(path).is_some()
}

/// Whether a path says by itself that it is a gateway's script: an entry right below a folder of the product's name,
/// as `/usr/lib/node_modules/openclaw/dist/index.js`. Any folder further up says nothing: it may be the home of a user
/// who has that name.
pub(super) fn is_entry_below_its_name(path: &str) -> bool {
    package_folder(path).is_some_and(|folder| folder.rsplit('/').next().is_some_and(is_name))
}

/// Whether a script of this name, which can't be found, may have been an entry, or a link to one: people's links have
/// no ending, and a path that is relative to an unknown folder may lack the entry's beginning.
pub(super) fn may_be_entry(path: &str) -> bool {
    let path = path.trim_start_matches("./");
    let name = path.rsplit('/').next().unwrap_or(path);
    let has_ending = Path::new(name).extension().is_some();
    let is_end_of_one = |entry: &str| entry.strip_suffix(path).is_some_and(|before| before.ends_with('/'));
    is_entry(path) || !has_ending || ENTRIES.into_iter().any(is_end_of_one)
}

/// The package's folder, which is the part of an entry's path before the entry.
fn package_folder(path: &str) -> Option<&str> {
    let launchers = NAMES.iter().filter_map(|name| path.strip_suffix(".mjs")?.strip_suffix(name));
    let entries = ENTRIES.iter().filter_map(|entry| path.strip_suffix(entry));
    let folder = launchers.chain(entries).find(|before| before.is_empty() || before.ends_with('/'))?;
    Some(folder.trim_end_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_a_whole_part_of_the_path() {
        for entry in
            ["dist/index.js", "/a/dist/entry.mjs", "/a/openclaw.mjs", "clawdbot.mjs", "/x/src/entry.ts"]
        {
            assert!(is_entry(entry), "{entry}");
        }
        for other in ["mydist/index.js", "/a/notopenclaw.mjs", "index.js", "/a/dist/index.cjs", ".mjs"] {
            assert!(!is_entry(other), "{other}");
        }
    }

    #[test]
    fn only_the_folder_right_above_an_entry_says_whose_it_is() {
        for path in [
            "/usr/lib/node_modules/openclaw/dist/index.js",
            "/home/me/clawdbot/dist/entry.js",
            "/srv/openclaw/openclaw.mjs",
        ] {
            assert!(is_entry_below_its_name(path), "{path}");
        }
        for path in
            ["/home/openclaw/app/dist/index.js", "/srv/my-openclaw/dist/index.js", "/srv/openclaw/server.js"]
        {
            assert!(!is_entry_below_its_name(path), "{path}");
        }
    }

    #[test]
    fn what_may_have_been_an_entry_is_told_from_what_can_not() {
        for path in ["index.js", "entry.ts", "oc", "/usr/bin/oc", "dist/index.js", "openclaw.mjs"] {
            assert!(may_be_entry(path), "{path}");
        }
        for path in ["custom.js", "/x/mydist/index.js", "server.mjs", "x.js"] {
            assert!(!may_be_entry(path), "{path}");
        }
    }
}
