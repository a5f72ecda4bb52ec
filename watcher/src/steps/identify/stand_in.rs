//! Owners that stand in for others: forwarders, super-servers and process managers. They hold ports for other processes,
//! so ending one would end services that nobody asked about.

use std::ffi::OsStr;
use std::path::Path;

use super::proc_files;
use crate::model::Process;

/// Why a process is one that stands in for others, if it is, and how its service is ended instead.
pub(super) fn why(process: &Process) -> Option<String> {
    if is_pm2(process) {
        return Some(
            "pm2's daemon holds the ports of the services that it manages: `pm2 ls` names them, and \
             `pm2 stop NAME` ends one"
                .to_owned(),
        );
    }
    if let Some((name, control)) = manager(process) {
        return Some(format!(
            "{name} holds the ports of the programs that it manages: `{control} status` names them, and \
             `{control} stop NAME` ends one"
        ));
    }
    let name = program(process).unwrap_or(&process.comm);
    let what = role(name, process)?;
    is_trusted(process).then(|| format!("{name} {what}"))
}

/// Whether it is systemd: the system's manager of services, or a user's own.
pub(super) fn is_systemd(process: &Process) -> bool {
    program(process).unwrap_or(&process.comm) == "systemd" && is_trusted(process)
}

fn program(process: &Process) -> Option<&str> {
    process.exe.as_deref()?.file_name()?.to_str()
}

/// Anybody can give a program such a name. One that can't be read at all, like a user's own service manager, is given the
/// benefit of the doubt.
fn is_trusted(process: &Process) -> bool {
    program(process).is_none() || proc_files::runs_systems_file(process)
}

fn role(name: &str, process: &Process) -> Option<String> {
    let what = match name {
        "docker-proxy" => return Some(docker_proxy(process)),
        "rootlesskit" | "rootlessport" | "slirp4netns" | "pasta" | "passt" | "conmon" | "gvproxy"
        | "com.docker.backend" => {
            "forwards the port of a container: `podman ps` or `docker ps` names it, and `podman stop NAME` or \
             `docker stop NAME` ends it"
        }
        "systemd" => {
            "holds the port for a socket unit: `systemctl list-sockets` names it, and `systemctl stop NAME.socket` \
             gives the port back"
        }
        "dockerd" => {
            "holds the ports of its services besides its own: `docker service ls` names them, and \
             `docker service rm NAME` ends one"
        }
        "wslrelay.exe" | "wslhost.exe" => "forwards the port of a Linux system: stop the service there",
        "xinetd" => {
            let reload = reload(process);
            return Some(format!(
                "holds the ports of other services: set `disable = yes` for this one below /etc/xinetd.d, then {reload}"
            ));
        }
        "inetd" | "openbsd-inetd" | "inetutils-inetd" => {
            let reload = reload(process);
            return Some(format!(
                "holds the ports of other services: take this one's line out of /etc/inetd.conf, then {reload}"
            ));
        }
        _ if is_s6(name) => return Some(s6(process)),
        _ => return None,
    };
    Some(what.to_owned())
}

fn reload(process: &Process) -> String {
    format!("`kill -HUP {}`", process.pid)
}

/// s6-networking's servers (`s6-tcpserver`, `s6-tcpserver4d`, `s6-tcpserver-socketbinder`…) and s6's own for local
/// sockets (`s6-ipcserver`, `s6-ipcserverd`…), which also serve a listener that they were given.
fn is_s6(name: &str) -> bool {
    ["s6-tcpserver", "s6-tlsserver", "s6-ipcserver"].iter().any(|server| name.starts_with(server))
}

/// A service of s6 runs in its own folder, by which `s6-svc` knows it.
fn s6(process: &Process) -> String {
    let folder = process.cwd.as_deref().map_or_else(|| "FOLDER".to_owned(), |cwd| cwd.display().to_string());
    format!("accepts connections for a service of s6: `s6-svc -d {folder}` brings that down")
}

/// Docker starts one for each published port, with `-host-port 8080 -container-ip 172.17.0.2 -container-port 80`.
fn docker_proxy(process: &Process) -> String {
    let argument = |name: &str| {
        let argv = process.argv.as_deref().unwrap_or_default();
        let at = argv.iter().position(|word| word == name)?;
        argv.get(at + 1).map(String::as_str)
    };
    let container = match (argument("-container-ip"), argument("-container-port")) {
        (Some(ip), Some(port)) if ip.contains(':') => format!("the container at [{ip}]:{port}"),
        (Some(ip), Some(port)) => format!("the container at {ip}:{port}"),
        _ => "a container".to_owned(),
    };
    let published = argument("-host-port").unwrap_or("PORT");
    format!(
        "forwards the port to {container}: `docker ps --filter publish={published}` names it, and `docker stop NAME` \
         ends it"
    )
}

/// A daemon of Node's, which is known by the title that it sets; in its cluster mode it holds its services' listeners.
fn is_pm2(process: &Process) -> bool {
    let title = process.argv.as_ref().and_then(|argv| argv.first());
    title.is_some_and(|title| title.starts_with("PM2 v") && title.contains("God Daemon"))
}

/// Python's process managers, which bind the sockets that their programs share, and the command that controls each. They
/// are scripts, so that their program's file is the interpreter's.
fn manager(process: &Process) -> Option<(&'static str, &'static str)> {
    const MANAGERS: [(&str, &str); 2] = [("supervisord", "supervisorctl"), ("circusd", "circusctl")];
    let argv = process.argv.as_deref()?;
    let is_script =
        |name| argv.iter().take(2).any(|word| Path::new(word).file_name() == Some(OsStr::new(name)));
    let is_module =
        |name| argv.windows(2).any(|pair| pair[0] == "-m" && pair[1].split('.').any(|it| it == name));
    MANAGERS.into_iter().find(|&(name, _)| is_script(name) || is_module(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::steps::fake::process;

    fn running(exe: &str, argv: &[&str]) -> Process {
        Process { exe: Some(exe.into()), exe_owner: Some(0), ..process(argv) }
    }

    #[test]
    fn each_is_known_by_the_name_of_its_program() {
        for name in [
            "docker-proxy",
            "conmon",
            "systemd",
            "xinetd",
            "openbsd-inetd",
            "s6-tcpserver4d",
            "s6-tcpserver-socketbinder",
            "s6-ipcserverd",
            "gvproxy",
            "dockerd",
        ] {
            let why = why(&running(&format!("/usr/sbin/{name}"), &["x"]));
            assert!(why.is_some_and(|why| why.starts_with(name)), "{name}");
        }
        for name in ["nginx", "systemd-resolved", "s6-svscan", "s6-log"] {
            assert_eq!(why(&running(&format!("/usr/sbin/{name}"), &["x"])), None, "{name}");
        }
    }

    #[test]
    fn a_program_that_only_has_the_name_is_none() {
        let mut pretender = running("/home/me/systemd", &["systemd"]);
        pretender.exe_owner = Some(1000);
        assert!(why(&pretender).is_none() && !is_systemd(&pretender));
        // One that can't be read is given the benefit of the doubt.
        let mut hidden = process(&["systemd"]);
        (hidden.exe, hidden.comm) = (None, "systemd".to_owned());
        assert!(why(&hidden).is_some() && is_systemd(&hidden));
    }

    #[test]
    fn the_daemon_of_pm2_is_known_by_its_title() {
        assert!(why(&process(&["PM2 v5.4.3: God Daemon (/root/.pm2)"])).is_some());
        assert_eq!(why(&process(&["node", "PM2 v5.4.3: God Daemon (/root/.pm2)"])), None);
    }

    #[test]
    fn a_process_manager_is_known_by_its_script() {
        for argv in [
            &["python3", "/usr/bin/supervisord", "-n"][..],
            &["/usr/bin/supervisord"],
            &["python3", "-m", "supervisor.supervisord", "-n"],
            &["python3", "/usr/bin/circusd", "circus.ini"],
        ] {
            assert!(why(&process(argv)).is_some_and(|why| why.contains(" stop NAME`")), "{argv:?}");
        }
        for argv in [&["python3", "app.py", "supervisord"][..], &["python3", "/usr/bin/supervisorctl"]] {
            assert_eq!(why(&process(argv)), None, "{argv:?}");
        }
    }

    #[test]
    fn a_proxy_of_dockers_names_its_container() {
        let words = "docker-proxy -proto tcp -host-ip 0.0.0.0 -host-port 8080 -container-ip 172.17.0.2 -container-port 80";
        let argv: Vec<&str> = words.split(' ').collect();
        let why = why(&running("/usr/bin/docker-proxy", &argv)).unwrap();
        for part in ["172.17.0.2:80", "`docker ps --filter publish=8080`", "`docker stop NAME`"] {
            assert!(why.contains(part), "{why}");
        }
    }
}
