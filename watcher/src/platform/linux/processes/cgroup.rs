//! Control groups: which systemd unit or container a process belongs to, as far as the group's path shows it, and whether
//! the group is frozen.

use std::path::{Path, PathBuf};

use super::file;

/// Unit and container, from `/proc/PID/cgroup` (cgroups(7)): lines of `number:controllers:path`. The line of version 2
/// has number 0; on hosts with version 1, systemd's own hierarchy is named `name=systemd`.
pub(super) fn place(text: &str) -> (Option<String>, Option<String>) {
    let paths: Vec<&str> = lines(text)
        .filter(|(number, controllers, _)| *number == "0" || *controllers == "name=systemd")
        .map(|(_, _, path)| path)
        .collect();
    let find =
        |what: fn(&str) -> Option<String>| paths.iter().find_map(|path| path.rsplit('/').find_map(what));
    (find(unit), find(container))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_and_containers_are_read_off_the_path() {
        let id = "0123456789abcdef".repeat(4);
        let of = |path: &str| place(&format!("1:cpu:/else.service\n0::{path}\n"));
        assert_eq!(
            of("/system.slice/openclaw-gateway.service").0.as_deref(),
            Some("openclaw-gateway.service")
        );
        let user = of("/user.slice/user-1000.slice/user@1000.service/app.slice/gateway.service/sub");
        assert_eq!(user.0.as_deref(), Some("gateway.service"));
        assert_eq!(of(&format!("/system.slice/docker-{id}.scope")), (None, Some(id.clone())));
        assert_eq!(of(&format!("/docker/{id}")).1, Some(id.clone()));
        assert_eq!(of("/user.slice/session-3.scope"), (None, None));
        assert_eq!(place("4:name=systemd:/system.slice/a.service\n").0.as_deref(), Some("a.service"));
        assert_eq!(place(""), (None, None));
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
