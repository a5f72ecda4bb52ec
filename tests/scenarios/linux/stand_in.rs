//! Owners that stand in for others are left alone, whatever may be ended: with one of them, services would go that nobody
//! asked about.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use gatewatch_tests::{Backend, Gatewatch, Part, install, program, send, servers, until, unused_port};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::field::libraries;
use crate::clean::{assert_cleaned, clean};
use crate::identity::assert_left_alone;
use crate::restart::listens;

/// The only owner of the port, which is left alone with all its ports.
fn left_alone(backend: Backend, port: u16, others: &[u16]) -> Value {
    // What a super-server forks for a connection holds its sockets until it runs the service's own program.
    let pids = || Gatewatch::in_text(backend, &["owners", "--pids"], port).run().out;
    until("one process holds the port", || pids().lines().count() == 1);
    let answer = clean(backend, port, &["--any"]);
    assert_eq!((answer.status, answer.outcome().as_str()), (3, "held_by_other"), "{answer:?}");
    let owners = answer.json()["owners"].as_array().unwrap().clone();
    assert_eq!(owners.len(), 1, "{answer:?}");
    let [owner] = owners.try_into().unwrap();
    assert_eq!((&owner["identity"], &owner["action"]), (&"other".into(), &"spared".into()));
    assert_eq!(owner["other_ports"], json!(others), "{answer:?}");
    assert!(listens(port) && others.iter().all(|&port| listens(port)));
    let text = Gatewatch::in_text(backend, &["clean", "--any"], port).run().out;
    for other in others {
        assert!(text.contains(&format!("also listens on {other}")), "{text}");
    }
    owner
}

fn why(owner: &Value) -> &str {
    owner["why"].as_str().unwrap()
}

/// A process that ends with its test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

scenario!(xinetd_is_left_alone_with_all_its_services, needs(Root, Servers), |backend| {
    let folder = tempfile::tempdir().unwrap();
    let [port, other] = [unused_port(), unused_port()];
    let service = |name: &str, port: u16| {
        format!(
            "service {name}\n{{\ntype = UNLISTED\nport = {port}\nbind = 127.0.0.1\nsocket_type = stream\n\
             protocol = tcp\nwait = no\nuser = root\nserver = /bin/cat\n}}\n"
        )
    };
    let config = folder.path().join("xinetd.conf");
    fs::write(&config, format!("defaults\n{{\n}}\n{}{}", service("a", port), service("b", other))).unwrap();
    let file = |path: &str| servers().join("debian").join(path);
    let mut command = Command::new(file("usr/sbin/xinetd"));
    command.arg("-dontfork").arg("-f").arg(&config);
    command.arg("-pidfile").arg(folder.path().join("pid")).arg("-filelog").arg(folder.path().join("log"));
    command.env("LD_LIBRARY_PATH", libraries());
    let xinetd = Server(command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    until("both services listen", || listens(port) && listens(other));
    let owner = left_alone(backend, port, &[other]);
    assert_eq!(owner["pid"], xinetd.0.id());
    assert!(why(&owner).contains(&format!("`kill -HUP {}`", xinetd.0.id())), "{owner}");
});

/// pm2 with a home of its own. Its daemon ends with the test.
struct Pm2(tempfile::TempDir);

impl Pm2 {
    fn run(&self, arguments: &[&str]) -> bool {
        let mut pm2 = Command::new(servers().join("npm/node_modules/.bin/pm2"));
        pm2.args(arguments).current_dir(self.0.path()).env("PM2_HOME", self.0.path().join("pm2"));
        pm2.stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    }
}

impl Drop for Pm2 {
    fn drop(&mut self) {
        self.run(&["kill"]);
    }
}

scenario!(the_daemon_of_pm2_is_left_alone_with_all_its_services, needs(Root, Node, Servers), |backend| {
    let pm2 = Pm2(tempfile::tempdir().unwrap());
    let [port, other] = [unused_port(), unused_port()];
    let script = "require('http').createServer().listen(process.env.PORT, '127.0.0.1')";
    fs::write(pm2.0.path().join("server.js"), script).unwrap();
    let service = |name: &str, port: u16| {
        let environment = json!({"PORT": port.to_string()});
        json!({"name": name, "script": "server.js", "exec_mode": "cluster", "instances": 1, "env": environment})
    };
    let services = json!({"apps": [service("a", port), service("b", other)]});
    fs::write(pm2.0.path().join("services.json"), services.to_string()).unwrap();
    assert!(pm2.run(&["start", "services.json"]));
    until("both services listen", || listens(port) && listens(other));
    let owner = left_alone(backend, port, &[other]);
    assert!(why(&owner).contains("`pm2 stop NAME`"), "{owner}");
    // what the answer advises gives the port back, and it alone
    assert!(pm2.run(&["stop", "a"]));
    let answer = clean(backend, port, &["--any"]);
    assert_eq!((answer.status, answer.outcome().as_str()), (0, "free"), "{answer:?}");
    assert!(listens(other));
});

scenario!(supervisord_is_left_alone_with_all_its_programs, needs(Root, Servers), |backend| {
    // given one that has a socket which its program shares, a page of its own, and another program
    let folder = tempfile::tempdir().unwrap();
    let [port, page, other] = [unused_port(), unused_port(), unused_port()];
    let (place, actor) = (folder.path().display(), program("actor").display().to_string());
    let text = format!(
        "[supervisord]\nnodaemon=true\nuser=root\nlogfile=/dev/null\nlogfile_maxbytes=0\npidfile={place}/pid\n\
         childlogdir={place}\n[inet_http_server]\nport=127.0.0.1:{page}\n\
         [fcgi-program:a]\nsocket=tcp://127.0.0.1:{port}\ncommand=sleep 60\n\
         [program:b]\ncommand={actor} --on 127.0.0.1:{other} --stay --live-for 60000\n"
    );
    let config = folder.path().join("supervisord.conf");
    fs::write(&config, text).unwrap();
    let mut command = Command::new(servers().join("python/bin/supervisord"));
    command.arg("-c").arg(&config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let supervisord = Managed(command.spawn().unwrap());
    until("all listen", || [port, page, other].into_iter().all(listens));
    let owner = left_alone(backend, page, &[port]);
    assert_eq!(owner["pid"], supervisord.0.id());
    assert!(why(&owner).contains("`supervisorctl stop NAME`"), "{owner}");
    // then what shares its socket is not ended in vain either, and nobody is advised to end the manager
    for arguments in [&["--any"][..], &["--match-comm", "sleep"]] {
        let answer = clean(backend, port, arguments);
        assert_eq!((answer.status, answer.outcome().as_str()), (3, "held_by_other"), "{answer:?}");
        assert_eq!((answer.killed().len(), &answer.json()["reason"]), (0, &"inherited".into()), "{answer:?}");
        assert!(!answer.out.contains("--inherited ends it"), "{answer:?}");
    }
    assert!(listens(port) && listens(other));
    // but who asks for whatever holds the socket gets it
    let answer = clean(backend, port, &["--match-comm", "sleep", "--inherited"]);
    assert_eq!((answer.status, answer.outcome().as_str()), (0, "cleaned"), "{answer:?}");
    assert!(answer.killed().contains(&supervisord.0.id().into()), "{answer:?}");
});

/// A process manager that ends its programs before it ends with its test.
struct Managed(Child);

impl Drop for Managed {
    fn drop(&mut self) {
        send(self.0.id(), Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

/// The actor as a program of this name.
fn called(name: &str, folder: &Path) -> PathBuf {
    let path = folder.join(name);
    install(&program("actor"), &path);
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

scenario!(a_program_that_only_has_the_name_of_one_is_ended, needs(Root), |backend| {
    for name in ["systemd", "xinetd", "s6-tcpserver", "docker-proxy"] {
        let folder = tempfile::tempdir().unwrap();
        let path = called(name, folder.path());
        // given a file that is root's
        let owner = Part::program(Command::new(&path)).on_port(unused_port()).start();
        assert_left_alone(backend, &owner, &["--any"]);
        drop(owner);
        // when it is another user's
        chown(&path, Some(65_534), None).unwrap();
        let owner = Part::program(Command::new(&path)).on_port(unused_port()).start();
        assert_cleaned(&clean(backend, owner.port(), &["--any"]), &owner);
    }
});

scenario!(a_proxy_of_dockers_names_its_container, needs(Root), |backend| {
    // given an actor with a proxy's arguments, which belong to a command that it runs
    let folder = tempfile::tempdir().unwrap();
    let command = ["/bin/true", "-host-port", "8080", "-container-ip", "172.17.0.2", "-container-port", "80"];
    let proxy = Part::program(Command::new(called("docker-proxy", folder.path())));
    let owner = proxy.on_port(unused_port()).running(&command.map(str::to_owned)).start();
    let answer = clean(backend, owner.port(), &["--any"]);
    assert_eq!((answer.status, answer.outcome().as_str()), (3, "held_by_other"), "{answer:?}");
    let described = answer.owner(owner.pid());
    for part in ["172.17.0.2:80", "`docker ps --filter publish=8080`", "`docker stop NAME`"] {
        assert!(why(&described).contains(part), "{answer:?}");
    }
    assert!(owner.is_alive());
});
