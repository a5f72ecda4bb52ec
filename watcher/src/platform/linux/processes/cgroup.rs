//! Control groups: which systemd unit, container or pod a process belongs to, as far as the group's path shows it, and
//! whether the group is frozen.

use std::path::{Path, PathBuf};

use super::file;

/// What a process belongs to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// The systemd unit.
    pub(super) unit: Option<String>,
    /// The container's id.
    pub(super) container: Option<String>,
    /// The pod's uid.
    pub(super) pod: Option<String>,
}

/// The place of a process, from `/proc/PID/cgroup` (cgroups(7)): lines of `number:controllers:path`. The line of version 2
/// has number 0; on hosts with version 1, systemd's own hierarchy is named `name=systemd`.
pub(super) fn place(text: &str) -> Place {
    let paths: Vec<&str> = lines(text)
        .filter(|(number, controllers, _)| *number == "0" || *controllers == "name=systemd")
        .map(|(_, _, path)| path)
        .collect();
    let find =
        |what: fn(&str) -> Option<String>| paths.iter().find_map(|path| path.rsplit('/').find_map(what));
    Place { unit: find(unit), container: find(container), pod: find(pod) }
}

/// Number, controllers and path of each line.
fn lines(text: &str) -> impl Iterator<Item = (&str, &str, &str)> {
    text.lines().filter_map(|line| {
        let (number, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        Some((number, controllers, path))
    })
}

/// Whether the process's group, or one above it, is frozen; from `/proc/PID/cgroup`.
pub(super) fn is_frozen(text: &str) -> bool {
    is_frozen_under(Path::new("/sys/fs/cgroup"), text)
}

/// Version 2 says `frozen 1` in `cgroup.events`, version 1 `FROZEN` in `freezer.state`; both say it of the groups below a
/// frozen one as well. Hosts that use both have version 2 in the folder `unified`.
pub(super) fn is_frozen_under(mount: &Path, text: &str) -> bool {
    let says = |path: PathBuf, word: &str| {
        file::text(&path).is_ok_and(|text| text.lines().any(|line| line.trim_end() == word))
    };
    lines(text).any(|(number, controllers, path)| {
        // A group outside of our cgroup namespace is shown as a path from its root (`/../x`), which leads nowhere here.
        let path = path.trim_start_matches('/');
        if path.split('/').any(|part| part == "..") {
            false
        } else if number == "0" {
            let events = |mount: &Path| mount.join(path).join("cgroup.events");
            says(events(mount), "frozen 1") || says(events(&mount.join("unified")), "frozen 1")
        } else if controllers.split(',').any(|controller| controller == "freezer") {
            says(mount.join("freezer").join(path).join("freezer.state"), "FROZEN")
        } else {
            false
        }
    })
}

fn unit(part: &str) -> Option<String> {
    part.ends_with(".service").then(|| part.to_owned())
}

/// `docker-ID.scope`, `libpod-ID.scope`, `cri-containerd-ID.scope`, `crio-ID.scope`, or the bare id of 64 hexadecimal
/// digits that docker uses without systemd.
fn container(part: &str) -> Option<String> {
    let name = part.strip_suffix(".scope").unwrap_or(part);
    let id = name.rsplit('-').next()?;
    (id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| id.to_owned())
}

/// The uid of a pod, for which the kubelet makes a group: `podUID`, or by systemd `kubepods-burstable-podUID.slice`, where a
/// hyphen would mean a slice inside of another, so that those of the uid are underscores. A pod that the kubelet has from a
/// file has a uid without hyphens.
fn pod(part: &str) -> Option<String> {
    let uid = match part.strip_suffix(".slice") {
        Some(slice) => slice.rsplit_once("-pod")?.1.replace('_', "-"),
        None => part.strip_prefix("pod")?.to_owned(),
    };
    let is_uid = match uid.len() {
        32 => uid.bytes().all(|byte| byte.is_ascii_hexdigit()),
        36 => uid.split('-').map(str::len).eq([8, 4, 4, 4, 12]),
        _ => false,
    };
    (is_uid && uid.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')).then_some(uid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_and_containers_are_read_off_the_path() {
        let id = "0123456789abcdef".repeat(4);
        let of = |path: &str| place(&format!("1:cpu:/else.service\n0::{path}\n"));
        assert_eq!(
            of("/system.slice/openclaw-gateway.service").unit.as_deref(),
            Some("openclaw-gateway.service")
        );
        let user = of("/user.slice/user-1000.slice/user@1000.service/app.slice/gateway.service/sub");
        assert_eq!(user.unit.as_deref(), Some("gateway.service"));
        let docker = of(&format!("/system.slice/docker-{id}.scope"));
        assert_eq!(docker, Place { container: Some(id.clone()), ..Place::default() });
        assert_eq!(of(&format!("/docker/{id}")).container, Some(id.clone()));
        assert_eq!(of("/user.slice/session-3.scope"), Place::default());
        assert_eq!(place("4:name=systemd:/system.slice/a.service\n").unit.as_deref(), Some("a.service"));
        assert_eq!(place(""), Place::default());
    }

    #[test]
    fn a_pods_uid_is_read_off_the_path_of_both_drivers() {
        let id = "0123456789abcdef".repeat(4);
        let uid = "0f2e4a1c-1111-2222-3333-444455556666";
        let mirrored = "0123456789abcdef0123456789abcdef";
        let of = |path: &str| place(&format!("0::{path}/{id}\n"));
        for (path, expected) in [
            ("/kubepods/besteffort/pod0f2e4a1c-1111-2222-3333-444455556666", uid),
            ("/kubepods/pod0123456789abcdef0123456789abcdef", mirrored),
            (
                "/kubepods.slice/kubepods-burstable.slice/\
                 kubepods-burstable-pod0f2e4a1c_1111_2222_3333_444455556666.slice",
                uid,
            ),
            // a kubelet with a group of its own
            (
                "/kubelet.slice/kubelet-kubepods.slice/\
                 kubelet-kubepods-pod0f2e4a1c_1111_2222_3333_444455556666.slice",
                uid,
            ),
            // seen from a container with a control group namespace of its own
            ("/../../kubepods-burstable-pod0f2e4a1c_1111_2222_3333_444455556666.slice", uid),
            ("/../../pod0f2e4a1c-1111-2222-3333-444455556666", uid),
        ] {
            assert_eq!(of(path).pod.as_deref(), Some(expected), "{path}");
            assert_eq!(of(path).container.as_ref(), Some(&id), "{path}");
        }
        for path in
            ["/podman", "/machine.slice/pod-x.slice", "/kubepods/burstable", "/pod0123", "/a-pod.slice"]
        {
            assert_eq!(of(path).pod, None, "{path}");
        }
        // Wherever a hyphen stands, and what is none of its digits.
        let crooked = ["0f2e4a1c1-111-2222-3333-444455556666", "0f2e4a1c-1111-2222-3333-44445555666g"];
        assert!(crooked.iter().all(|uid| of(&format!("/pod{uid}")).pod.is_none()));
    }

    #[test]
    fn a_frozen_group_is_known_by_both_versions() {
        let mount = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = mount.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("a.slice/b.service/cgroup.events", "populated 1\nfrozen 1\n");
        write("unified/a/cgroup.events", "populated 1\nfrozen 1\n");
        write("warm/cgroup.events", "populated 1\nfrozen 0\n");
        write("freezer/c/freezer.state", "FROZEN\n");
        write("freezer/d/freezer.state", "THAWED\n");
        let frozen = |text: &str| is_frozen_under(mount.path(), text);
        assert!(frozen("0::/a.slice/b.service\n"));
        assert!(frozen("4:memory:/x\n0::/a\n"));
        assert!(!frozen("0::/warm\n"));
        assert!(frozen("5:cpu,freezer:/c\n0::/warm\n"));
        assert!(!frozen("5:freezer:/d\n0::/none\n"));
        assert!(!frozen("0::/../a\n"));
        assert!(!frozen(""));
    }
}
