//! Control groups: which systemd unit or container a process belongs to, as far as the group's path tells.

/// Unit and container, from `/proc/PID/cgroup` (cgroups(7)): lines of `number:controllers:path`. The line of version 2
/// has number 0; on hosts with version 1, systemd's own hierarchy is named `name=systemd`.
pub(super) fn place(text: &str) -> (Option<String>, Option<String>) {
    let lines: Vec<(&str, &str)> = text
        .lines()
        .filter_map(|line| {
            let (number, rest) = line.split_once(':')?;
            let (controllers, path) = rest.split_once(':')?;
            (number == "0" || controllers == "name=systemd").then_some((number, path))
        })
        .collect();
    let find =
        |what: fn(&str) -> Option<String>| lines.iter().find_map(|(_, path)| path.rsplit('/').find_map(what));
    (find(unit), find(container))
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
}
