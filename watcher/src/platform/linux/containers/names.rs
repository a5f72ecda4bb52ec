//! What the runtimes' files say. Each form was read off a real runtime's file, or off its source where that is said.

use std::collections::HashMap;

use serde::Deserialize;

use super::state::Fault;
use crate::model::PodName;

/// The container whose names are asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) id: &'a str,
    /// Its pod's uid, by its control group.
    pub(super) uid: Option<&'a str>,
}

/// What a runtime says of one of its containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Names {
    pub(super) runtime: &'static str,
    pub(super) container: Option<String>,
    pub(super) pod: Option<PodName>,
    pub(super) pod_uid: Option<String>,
}

/// Longer than any name in a cluster can be (RFC 1123).
const LONGEST: usize = 253;

/// The keys of a container's name, and its pod's name, namespace and uid: those that containerd notes, and the kubelet's
/// own, which it gives to every runtime.
const BY_CONTAINERD: [&str; 4] = [
    "io.kubernetes.cri.container-name",
    "io.kubernetes.cri.sandbox-name",
    "io.kubernetes.cri.sandbox-namespace",
    "io.kubernetes.cri.sandbox-uid",
];
const BY_KUBELET: [&str; 4] = [
    "io.kubernetes.container.name",
    "io.kubernetes.pod.name",
    "io.kubernetes.pod.namespace",
    "io.kubernetes.pod.uid",
];
/// nerdctl hands its labels on as annotations.
const BY_NERDCTL: &str = "nerdctl/name";

impl Names {
    fn of(runtime: &'static str, container: Option<String>) -> Self {
        Self { runtime, container: container.filter(fits), pod: None, pod_uid: None }
    }

    fn of_pods(runtime: &'static str, words: &HashMap<String, String>, keys: [&str; 4]) -> Option<Self> {
        let [container, pod, namespace, uid] = keys.map(|key| words.get(key).cloned().filter(fits));
        let pod = pod.zip(namespace).map(|(name, namespace)| PodName { namespace, name });
        pod.is_some().then_some(Self { runtime, container, pod, pod_uid: uid })
    }

    /// The same, if that is of the pod that the control group shows.
    pub(super) fn of_pod(self, uid: Option<&str>) -> Result<Self, Fault> {
        match (uid, self.pod_uid.as_deref()) {
            (Some(group), Some(told)) if !group.eq_ignore_ascii_case(told) => Err(Fault::OtherPod),
            _ => Ok(self),
        }
    }
}

#[expect(clippy::ptr_arg, reason = "Option::filter gives a reference to what it holds")]
fn fits(name: &String) -> bool {
    !name.is_empty() && name.len() <= LONGEST
}

/// The `config.json` by which a container is run (the runtime specification of the Open Container Initiative).
#[derive(Deserialize)]
struct Spec {
    #[serde(default)]
    annotations: HashMap<String, String>,
}

/// containerd's, and CRI-O's. Docker's containers have one with containerd that names nobody, and Podman's too.
pub(super) fn of_spec(bytes: &[u8], _: Asked<'_>) -> Result<Option<Names>, Fault> {
    let Spec { annotations } = parse(bytes)?;
    let by_nerdctl = || Some(Names::of("containerd", Some(annotations.get(BY_NERDCTL)?.clone())));
    Ok(Names::of_pods("containerd", &annotations, BY_CONTAINERD)
        .or_else(|| Names::of_pods("cri-o", &annotations, BY_KUBELET))
        .or_else(by_nerdctl))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct OfDocker {
    #[serde(rename = "ID")]
    id: String,
    name: String,
    config: Option<ConfigOfDocker>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ConfigOfDocker {
    labels: Option<HashMap<String, String>>,
}

/// Docker's `config.v2.json`. The name begins with a slash. An image brings labels of its own, so those of the kubelet count
/// only with the uid of the pod in whose control group the container is.
pub(super) fn of_docker(bytes: &[u8], asked: Asked<'_>) -> Result<Option<Names>, Fault> {
    let OfDocker { id, name, config } = parse(bytes)?;
    if id != asked.id {
        return Ok(None);
    }
    let labels = config.and_then(|config| config.labels).unwrap_or_default();
    let of_pod = Names::of_pods("docker", &labels, BY_KUBELET)
        .filter(|names| asked.uid.is_some() && names.pod_uid.as_deref() == asked.uid);
    let name = name.strip_prefix('/').map(str::to_owned).unwrap_or(name);
    Ok(Some(of_pod.unwrap_or_else(|| Names::of("docker", Some(name)))))
}

/// One of Podman's list of containers.
#[derive(Deserialize)]
struct Stored {
    id: String,
    names: Option<Vec<String>>,
}

/// Podman's list of containers. CRI-O has the same; its `config.json` comes before.
pub(super) fn of_storage(bytes: &[u8], asked: Asked<'_>) -> Result<Option<Names>, Fault> {
    let all: Vec<Stored> = parse(bytes)?;
    let named = |stored: Stored| stored.names.and_then(|names| names.into_iter().next());
    Ok(all.into_iter().find(|stored| stored.id == asked.id).map(|stored| Names::of("podman", named(stored))))
}

fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Fault> {
    // The parser's words would quote the file.
    serde_json::from_slice(bytes).map_err(|_| Fault::Form)
}
