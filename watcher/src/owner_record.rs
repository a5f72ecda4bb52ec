//! OpenClaw's own record of its live gateway: a row in a database of its state folder, which names a process by pid and
//! start time. It only ever spares a process: a row whose process has ended, or whose pid belongs to another by now, says
//! nothing.
//!
//! The file belongs to a user who may be hostile. So it is copied before it is opened, never waited for, and judged by
//! what was opened; none of its text, and no parser's word on it, is printed.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;
use tracing::{debug, warn};

use crate::model::{RECORD_LIMIT, RecordFault, RecordFile};
use crate::platform::Host;
use crate::platform::contract::{AgentSystem, Platform as _, System};

/// Where the database is, below the state folder.
const BELOW_STATE: &str = "state/openclaw.sqlite";
/// The environment variable that names the state folder.
const STATE_VARIABLE: &str = "OPENCLAW_STATE_DIR";
/// No file is waited for longer: it may be on a file system that does not answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Which record to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum OwnerRecord {
    /// That of `OPENCLAW_STATE_DIR`, else those in the home folders of the port's users, else that of the caller's.
    Auto,
    /// This file.
    File(PathBuf),
}

impl From<PathBuf> for OwnerRecord {
    fn from(path: PathBuf) -> Self {
        if path.as_os_str() == "auto" { Self::Auto } else { Self::File(path) }
    }
}

/// A record that exists, or was named, and can't be read.
#[derive(Debug, thiserror::Error)]
#[error("--owner-record: {path} can't be read: {fault}", path = .path.display())]
pub(crate) struct RecordError {
    path: PathBuf,
    fault: RecordFault,
}

impl fmt::Display for RecordFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("there is no such file"),
            Self::Denied => f.write_str("this user may not read it"),
            Self::Link => f.write_str("it is a link; name the file itself"),
            Self::NotAFile => f.write_str("it is not a regular file"),
            Self::Stranger(uid) => {
                write!(
                    f,
                    "it belongs to user {uid}, who is neither root, nor the caller, nor the port's user"
                )
            }
            Self::TooLarge => write!(f, "it is larger than {} MiB", RECORD_LIMIT >> 20),
            Self::Changing => f.write_str("it changes too often to be copied; try again"),
            Self::Slow => write!(f, "that took longer than {} s", PATIENCE.as_secs()),
            Self::NotADatabase => f.write_str("it is not a sound SQLite database"),
            Self::NoCopy(number) => {
                write!(f, "no temporary copy can be made: {}", std::io::Error::from_raw_os_error(*number))
            }
            Self::System(number) => std::io::Error::from_raw_os_error(*number).fmt(f),
            Self::NeedsLinux => {
                f.write_str("it needs Linux, because elsewhere OpenClaw's start times can't be compared")
            }
        }
    }
}

/// The pids of the living processes that the record names. `users` are those who hold the port.
///
/// # Errors
/// When a file was named that can't be read, or one exists that can't be.
pub(crate) async fn live(
    record: &OwnerRecord,
    users: &[u32],
    system: &dyn System,
) -> Result<Vec<u32>, RecordError> {
    let mut pids = Vec::new();
    for candidate in candidates(record, users, std::env::var_os(STATE_VARIABLE).map(PathBuf::from)) {
        let path = candidate.path.clone();
        match read(candidate).await {
            Ok(row) => pids.extend(row.and_then(|row| living(&row, &path, system))),
            Err(RecordFault::Missing) if *record == OwnerRecord::Auto => {
                debug!("there is no owner record at {}", path.display());
            }
            Err(fault) => return Err(RecordError { path, fault }),
        }
    }
    Ok(pids)
}

fn candidates(record: &OwnerRecord, users: &[u32], state: Option<PathBuf>) -> Vec<RecordFile> {
    let own = Host::own_user();
    let trusted: Vec<u32> = users.iter().copied().chain([0, own]).collect();
    let named = |path: PathBuf| vec![RecordFile { path, users: trusted.clone(), named: true }];
    match (record, state.filter(|state| !state.as_os_str().is_empty())) {
        (OwnerRecord::File(path), _) => return named(path.clone()),
        (OwnerRecord::Auto, Some(state)) => return named(within_home(state).join(BELOW_STATE)),
        (OwnerRecord::Auto, None) => {}
    }
    let mut folders = Vec::new();
    if users.is_empty() || users.contains(&own) {
        folders.extend(std::env::home_dir().map(|home| (own, home)));
    }
    folders.extend(users.iter().filter_map(|&user| Some((user, Host::home(user)?))));
    let mut candidates: Vec<RecordFile> = Vec::new();
    for (user, home) in folders {
        let path = home.join(".openclaw").join(BELOW_STATE);
        if candidates.iter().all(|candidate| candidate.path != path) {
            candidates.push(RecordFile { path, users: vec![0, user], named: false });
        }
    }
    candidates
}

/// The path, with a leading `~` replaced as OpenClaw does it: no shell has, where a service's unit sets the variable.
fn within_home(path: PathBuf) -> PathBuf {
    match (path.strip_prefix("~"), std::env::home_dir()) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => path,
    }
}

/// Reads in a thread of its own, which is left behind if it does not come to an end.
async fn read(candidate: RecordFile) -> Result<Option<String>, RecordFault> {
    let (tell, told) = oneshot::channel();
    std::thread::spawn(move || {
        let _ = tell.send(Host::owner_record(&candidate));
    });
    timeout(PATIENCE, told).await.map_or(Err(RecordFault::Slow), |row| row.unwrap_or(Err(RecordFault::Slow)))
}

/// What a row names: see the field `owner` of its JSON.
#[derive(Debug, PartialEq, Eq)]
struct Named {
    pid: u32,
    /// [`StartTime::raw`](crate::model::StartTime) on Linux: its key is `startedAt`.
    started_at: u64,
}

fn parse(row: &str) -> Option<Named> {
    // By its keys: where a struct is asked for, serde takes a list of its fields as well.
    let row: serde_json::Map<String, serde_json::Value> = serde_json::from_str(row).ok()?;
    let owner = row.get("owner")?.as_object()?;
    let number = |key: &str| owner.get(key)?.as_u64();
    Some(Named { pid: number("pid")?.try_into().ok()?, started_at: number("startedAt")? })
}

/// Rules of a row for any bytes: what it names is in it, as JSON sees it.
#[cfg(all(any(fuzzing, test), target_os = "linux"))]
pub(crate) fn fuzz(bytes: &[u8]) {
    let row = String::from_utf8_lossy(bytes);
    let Some(named) = parse(&row) else { return };
    let value: serde_json::Value = serde_json::from_str(&row).expect("it was parsed as JSON");
    assert_eq!(value["owner"]["pid"], named.pid);
    assert_eq!(value["owner"]["startedAt"], named.started_at);
}

/// The pid of the process that the row names, if it lives.
fn living(row: &str, path: &Path, system: &dyn System) -> Option<u32> {
    let path = path.display();
    let Some(Named { pid, started_at }) = parse(row) else {
        warn!("the owner record in {path} is malformed and protects nobody");
        return None;
    };
    let lives = system.process(pid).is_ok_and(|process| process.start_time.raw == started_at);
    debug!(pid, lives, "the owner record in {path}");
    lives.then_some(pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_names_a_pid_and_a_start_time() {
        let row = r#"{"owner":{"pid":42,"host":"here","startedAt":8675309},"port":18789,"mode":"local"}"#;
        assert_eq!(parse(row), Some(Named { pid: 42, started_at: 8_675_309 }));
    }

    #[test]
    fn a_malformed_row_is_no_row() {
        for row in [
            "",
            "null",
            "[]",
            "{}",
            r#"{"owner":null}"#,
            r#"{"owner":{"pid":42}}"#,
            r#"{"owner":{"pid":-1,"startedAt":1}}"#,
            r#"{"owner":{"pid":4294967296,"startedAt":1}}"#,
            r#"{"owner":{"pid":42,"startedAt":"1"}}"#,
            r#"{"owner":{"pid":42,"startedAt":1.5}}"#,
            r#"{"owner":{"pid":42,"startedAt":1}"#,
            r#"{"owner":[42,1]}"#,
            "[[42,1]]",
        ] {
            assert_eq!(parse(row), None, "{row}");
        }
    }

    #[test]
    fn auto_is_not_a_path_unless_it_is_written_as_one() {
        assert_eq!(OwnerRecord::from(PathBuf::from("auto")), OwnerRecord::Auto);
        let path = PathBuf::from("./auto");
        assert_eq!(OwnerRecord::from(path.clone()), OwnerRecord::File(path));
    }

    #[test]
    fn the_state_folder_goes_before_home_folders() {
        let state = Some(PathBuf::from("/srv/claw"));
        let found = candidates(&OwnerRecord::Auto, &[0], state);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].path, Path::new("/srv/claw").join(BELOW_STATE));
        let homes = candidates(&OwnerRecord::Auto, &[], Some(PathBuf::new()));
        assert!(
            homes.iter().all(|home| !home.named && home.path.ends_with(".openclaw/state/openclaw.sqlite"))
        );
    }
}
