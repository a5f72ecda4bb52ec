//! What a container's runtime calls it, and its pod, from the state that the runtime keeps on disk. The names are for
//! people: whoever made the container chose them, and nothing is decided by them.

mod names;
mod state;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use self::names::{Asked, Names, of_docker, of_spec, of_storage};
use self::state::{Fault, State, Version};
use crate::model::{Naming, Pod, Process};

/// Where containerd has a folder for each of its namespaces, and in it one for each running container; k3s and RKE2 bring
/// a containerd of their own.
const CONTAINERD: [&str; 2] =
    ["run/containerd/io.containerd.runtime.v2.task", "run/k3s/containerd/io.containerd.runtime.v2.task"];
const DOCKER: &str = "var/lib/docker/containers";
const CRI_O: &str = "run/containers/storage/overlay-containers";
/// Podman's folders are named after the driver that stores its images; it lists those apart that go when they end
/// (`--rm`).
const PODMAN: [&str; 3] = ["overlay", "vfs", "btrfs"];
const PODMAN_LISTS: [&str; 2] = ["containers.json", "volatile-containers.json"];

/// How many of containerd's namespaces are looked into.
const MOST_NAMESPACES: usize = 16;
/// How many answers are remembered.
const MOST_KNOWN: usize = 512;

/// Names the process's container and its pod, or says why that can't be done.
pub(super) fn name(process: &mut Process) {
    static RUNTIMES: LazyLock<Runtimes> = LazyLock::new(|| Runtimes::below(State::of_host()));
    if let Some(id) = process.container.clone() {
        RUNTIMES.name(&id, process);
    }
}

/// The runtimes of a host, and what they have told.
struct Runtimes {
    state: State,
    /// By the container and the version of the file that told it, which a new name changes.
    known: Mutex<HashMap<(String, Version), Names>>,
}

/// What a runtime's file says of a container; nothing if it does not name it.
type Parse = fn(&[u8], Asked<'_>) -> Result<Option<Names>, Fault>;

impl Runtimes {
    fn below(state: State) -> Self {
        Self { state, known: Mutex::default() }
    }

    fn name(&self, id: &str, process: &mut Process) {
        let uid = process.pod.as_ref().and_then(|pod| pod.uid.clone());
        let naming = match self.look(Asked { id, uid: uid.as_deref() }) {
            Ok(Names { runtime, container, pod, pod_uid }) => {
                let uid = uid.or(pod_uid);
                process.pod = (uid.is_some() || pod.is_some()).then_some(Pod { uid, name: pod });
                Naming::Known { runtime: runtime.to_owned(), name: container }
            }
            Err(fault) => Naming::Unknown(fault.to_string()),
        };
        process.naming = Some(naming);
    }

    /// The names by the first runtime that knows the container.
    fn look(&self, asked: Asked<'_>) -> Result<Names, Fault> {
        let mut why = Fault::Missing;
        for place in self.places(asked.id) {
            match place.and_then(|(path, parse)| self.read(&path, asked, parse)) {
                Ok(Some(names)) => return names.of_pod(asked.uid),
                Ok(None) | Err(Fault::Missing) => {}
                // Another runtime may know it.
                Err(fault) => why = fault,
            }
        }
        Err(why)
    }

    /// The files that may have it.
    fn places(&self, id: &str) -> Vec<Result<(PathBuf, Parse), Fault>> {
        let mut places: Vec<Result<(PathBuf, Parse), Fault>> = Vec::new();
        for folder in CONTAINERD.map(Path::new) {
            match self.state.names(folder, MOST_NAMESPACES) {
                Ok(names) => places.extend(names.into_iter().map(|namespace| {
                    Ok((folder.join(namespace).join(id).join("config.json"), of_spec as Parse))
                })),
                Err(fault) => places.push(Err(fault)),
            }
        }
        places.push(Ok((Path::new(CRI_O).join(id).join("userdata/config.json"), of_spec)));
        places.push(Ok((Path::new(DOCKER).join(id).join("config.v2.json"), of_docker)));
        for driver in PODMAN {
            let folder = PathBuf::from(format!("var/lib/containers/storage/{driver}-containers"));
            places.extend(PODMAN_LISTS.map(|list| Ok((folder.join(list), of_storage as Parse))));
        }
        places
    }

    fn read(&self, path: &Path, asked: Asked<'_>, parse: Parse) -> Result<Option<Names>, Fault> {
        let file = self.state.find(path)?;
        let key = (asked.id.to_owned(), file.version());
        // It is not kept locked while a file is read: a disk can be slow.
        if let Some(names) = self.known().get(&key) {
            return Ok(Some(names.clone()));
        }
        let Some(names) = parse(&file.read()?, asked)? else { return Ok(None) };
        let mut known = self.known();
        if known.len() >= MOST_KNOWN {
            known.clear();
        }
        known.insert(key, names.clone());
        Ok(Some(names))
    }

    fn known(&self) -> MutexGuard<'_, HashMap<(String, Version), Names>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
