use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use tempfile::TempDir;

use super::*;
use crate::model::PodName;
use crate::steps::fake::process;

const UID: &str = "0f2e4a1c-1111-2222-3333-444455556666";

/// A host whose runtimes have these files.
struct Host {
    root: TempDir,
    runtimes: Runtimes,
}

impl Host {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let state = State::below(root.path().to_owned(), nix::unistd::geteuid().as_raw());
        Self { root, runtimes: Runtimes::below(state) }
    }

    fn with(path: &str, text: &str) -> Self {
        let host = Self::new();
        host.write(path, text);
        host
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let folders = path.ancestors().skip(1).take_while(|folder| folder.starts_with(self.root.path()));
        for folder in folders {
            fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
        }
        // Runtimes replace their files.
        let new = path.with_extension("new");
        fs::write(&new, text).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(0o644)).unwrap();
        fs::rename(new, path).unwrap();
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    /// The process's names; `uid` is what its control group says.
    fn names(&self, uid: Option<&str>) -> (Option<Naming>, Option<Pod>) {
        let pod = uid.map(|uid| Pod { uid: Some(uid.to_owned()), name: None });
        let mut process = Process { container: Some(id()), pod, ..process(&["web"]) };
        self.runtimes.name(&id(), &mut process);
        (process.naming, process.pod)
    }

    fn why(&self) -> String {
        match self.names(None) {
            (Some(Naming::Unknown(why)), None) => why,
            named => panic!("{named:?}"),
        }
    }
}

fn id() -> String {
    "0123456789abcdef".repeat(4)
}

fn known(runtime: &str, name: Option<&str>) -> Option<Naming> {
    Some(Naming::Known { runtime: runtime.to_owned(), name: name.map(str::to_owned) })
}

fn pod(uid: Option<&str>) -> Option<Pod> {
    let name = PodName { namespace: "shop".to_owned(), name: "cart-7d9".to_owned() };
    Some(Pod { uid: uid.map(str::to_owned), name: Some(name) })
}

fn of_containerd() -> String {
    format!("run/containerd/io.containerd.runtime.v2.task/k8s.io/{}/config.json", id())
}

const BY_CONTAINERD: &str = r#"{"ociVersion":"1.0.2-dev","process":{"args":["web"]},"annotations":{
    "io.kubernetes.cri.container-name":"web","io.kubernetes.cri.container-type":"container",
    "io.kubernetes.cri.sandbox-name":"cart-7d9","io.kubernetes.cri.sandbox-namespace":"shop",
    "io.kubernetes.cri.sandbox-uid":"0f2e4a1c-1111-2222-3333-444455556666"}}"#;

#[test]
fn containerd_names_container_and_pod() {
    for path in [of_containerd(), of_containerd().replace("run/containerd", "run/k3s/containerd")] {
        let host = Host::with(&path, BY_CONTAINERD);
        for uid in [Some(UID), None] {
            assert_eq!(host.names(uid), (known("containerd", Some("web")), pod(Some(UID))));
        }
    }
    // the container that keeps the pod's namespaces, by a containerd that does not note the uid
    let sandbox = r#"{"annotations":{"io.kubernetes.cri.sandbox-name":"cart-7d9",
        "io.kubernetes.cri.sandbox-namespace":"shop"}}"#;
    let host = Host::with(&of_containerd(), sandbox);
    assert_eq!(host.names(Some(UID)), (known("containerd", None), pod(Some(UID))));
    assert_eq!(host.names(None), (known("containerd", None), pod(None)));
}

#[test]
fn nerdctl_names_a_container_in_any_namespace() {
    let text = r#"{"annotations":{"nerdctl/name":"web","nerdctl/namespace":"default"}}"#;
    let host = Host::with(&of_containerd().replace("k8s.io", "default"), text);
    assert_eq!(host.names(None), (known("containerd", Some("web")), None));
}

#[test]
fn cri_o_names_container_and_pod() {
    let path = format!("run/containers/storage/overlay-containers/{}/userdata/config.json", id());
    let text = format!(
        r#"{{"annotations":{{"io.container.manager":"cri-o","io.kubernetes.container.name":"web",
            "io.kubernetes.pod.name":"cart-7d9","io.kubernetes.pod.namespace":"shop",
            "io.kubernetes.pod.uid":"{UID}"}}}}"#
    );
    assert_eq!(Host::with(&path, &text).names(Some(UID)), (known("cri-o", Some("web")), pod(Some(UID))));
}

#[test]
fn docker_names_a_container_and_its_images_labels_name_no_pod() {
    let path = format!("var/lib/docker/containers/{}/config.v2.json", id());
    let with = |labels: &str| {
        let id = id();
        let text = format!(r#"{{"ID":"{id}","Name":"/k8s_web","Config":{{"Image":"x","Labels":{labels}}}}}"#);
        Host::with(&path, &text)
    };
    for labels in ["null", "{}"] {
        assert_eq!(with(labels).names(None), (known("docker", Some("k8s_web")), None));
    }
    let of_kubelet = format!(
        r#"{{"io.kubernetes.container.name":"web","io.kubernetes.pod.name":"cart-7d9",
            "io.kubernetes.pod.namespace":"shop","io.kubernetes.pod.uid":"{UID}"}}"#
    );
    assert_eq!(with(&of_kubelet).names(Some(UID)), (known("docker", Some("web")), pod(Some(UID))));
    // An image that says that it is a pod's.
    assert_eq!(with(&of_kubelet).names(None), (known("docker", Some("k8s_web")), None));
    // A file of another container's is none of this one's.
    let other = Host::with(&path, r#"{"ID":"f","Name":"/web","Config":{}}"#);
    assert_eq!(other.why(), Fault::Missing.to_string());
}

#[test]
fn podman_names_a_container_by_its_newest_name() {
    let list = |name: &str| {
        format!(r#"[{{"id":"f","names":["other"]}},{{"id":"{}","names":["{name}"],"layer":"1"}}]"#, id())
    };
    for driver in PODMAN {
        for file in PODMAN_LISTS {
            let path = format!("var/lib/containers/storage/{driver}-containers/{file}");
            let host = Host::with(&path, &list("web"));
            assert_eq!(host.names(None), (known("podman", Some("web")), None));
            host.write(&path, &list("web2"));
            assert_eq!(host.names(None), (known("podman", Some("web2")), None));
        }
    }
}

#[test]
fn what_is_told_is_told_again_without_reading() {
    let host = Host::with(&of_containerd(), BY_CONTAINERD);
    host.names(None);
    let parse = |_: &[u8], _: Asked<'_>| panic!("the file is not read again");
    let asked = Asked { id: &id(), uid: None };
    let names = host.runtimes.read(Path::new(&of_containerd()), asked, parse).unwrap();
    assert_eq!(names.unwrap().container.as_deref(), Some("web"));
}

#[test]
fn a_name_that_cannot_be_read_has_a_reason() {
    assert_eq!(Host::new().why(), Fault::Missing.to_string());
    for text in ["", "7", "{\"annotations\":7}", "{\"annotations\":{\"a\":1}}"] {
        assert_eq!(Host::with(&of_containerd(), text).why(), Fault::Form.to_string(), "{text}");
    }
    let long = format!("{{\"annotations\":{{\"a\":\"{}\"}}}}", "x".repeat(1024 * 1024));
    assert_eq!(Host::with(&of_containerd(), &long).why(), Fault::NoFile.to_string());
    // Of another pod than the control group's, nothing is told.
    let host = Host::with(&of_containerd(), BY_CONTAINERD);
    let (naming, pod) = host.names(Some("ffffffff-1111-2222-3333-444455556666"));
    assert_eq!(naming, Some(Naming::Unknown(Fault::OtherPod.to_string())));
    assert_eq!(pod.unwrap().name, None);
}

#[test]
fn only_what_root_alone_can_write_is_read_and_no_link_is_followed() {
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    // given a file, or a folder on its way, that others can write
    for part in [of_containerd(), "run/containerd".to_owned()] {
        let host = Host::with(&of_containerd(), BY_CONTAINERD);
        mode(&host.path(&part), 0o777);
        assert_eq!(host.why(), Fault::NotRoots.to_string(), "{part}");
    }
    // given another owner than the one whose files count
    let mut host = Host::with(&of_containerd(), BY_CONTAINERD);
    host.runtimes.state = State::below(host.root.path().to_owned(), nix::unistd::geteuid().as_raw() + 1);
    assert_eq!(host.why(), Fault::NotRoots.to_string());
    // given a link in the file's place, and in a folder's
    let host = Host::with("elsewhere/config.json", BY_CONTAINERD);
    let path = host.path(&of_containerd());
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    symlink(host.path("elsewhere/config.json"), &path).unwrap();
    assert_eq!(host.why(), Fault::NoFile.to_string());
    fs::remove_dir_all(path.parent().unwrap()).unwrap();
    symlink(host.path("elsewhere"), path.parent().unwrap()).unwrap();
    assert_eq!(host.why(), Fault::NoFile.to_string());
    // given a FIFO, which would be waited for
    fs::remove_file(path.parent().unwrap()).unwrap();
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    assert_eq!(host.why(), Fault::NoFile.to_string());
}

#[test]
fn names_are_bounded() {
    let long = "x".repeat(300);
    let text = format!(r#"{{"annotations":{{"nerdctl/name":"{long}"}}}}"#);
    assert_eq!(Host::with(&of_containerd(), &text).names(None), (known("containerd", None), None));
}
