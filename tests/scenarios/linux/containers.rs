//! Owners in containers, whom their runtime gives a name: with real runtimes, each in namespaces of its own, so that nothing
//! of them is left on the machine, nor anything there seen by them.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use gatewatch_tests::{Answer, Gatewatch, Part, Unit, install, program, servers, until, unused_port};
use serde_json::Value;
use tempfile::TempDir;

use super::field::libraries;

const UID: &str = "0f2e4a1c-1111-2222-3333-444455556666";

/// A runtime with a container that listens on a port. It ends, with all that it has started, when this is dropped.
struct Runtime {
    outer: Child,
    folder: TempDir,
    group: String,
    port: u16,
}

impl Runtime {
    /// Runs a script that ends with a container of the actor, whose command line is `$ACTOR`: its root is `$ROOT`, its control
    /// group `$GROUP/$ID` or below `$GROUP`. What is written in `$FOLDER`, `/run` and `/var/lib` is gone afterwards.
    fn start(script: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = unused_port();
        let group = format!("/gatewatch-tests-{port}");
        let root = folder.path().join("root");
        root_with_actor(&root);
        let begin = "exec > \"$FOLDER/log\" 2>&1; mount -t tmpfs -o mode=755 none /run; mount -t tmpfs -o mode=755 none /var/lib;";
        let mut outer = Command::new("unshare");
        outer.args(["--pid", "--mount", "--fork", "--mount-proc", "--kill-child", "sh", "-ec"]);
        outer.arg(format!("{begin} {script}")).stdin(Stdio::null());
        find_runtimes(&mut outer);
        outer.env("ROOT", &root).env("FOLDER", folder.path()).env("GROUP", &group).env("ID", id());
        outer.env("ACTOR", format!("/actor --on 127.0.0.1:{port}"));
        let runtime = Self { outer: outer.spawn().unwrap(), folder, group, port };
        until("the container listens", || {
            let listens = runtime.init().is_some() && !runtime.owners().is_empty();
            assert!(listens || runtime.is_alive(), "{}", runtime.log());
            listens
        });
        runtime
    }

    /// The first process of its pid namespace.
    fn init(&self) -> Option<u32> {
        let outer = self.outer.id();
        let children = fs::read_to_string(format!("/proc/{outer}/task/{outer}/children")).unwrap_or_default();
        children.trim().parse().ok()
    }

    fn is_alive(&self) -> bool {
        let status = fs::read_to_string(format!("/proc/{}/stat", self.outer.id())).unwrap_or_default();
        !status.contains(") Z ")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn command(&self, format: &str) -> Gatewatch {
        Gatewatch::new(&["owners", "--backend", "poll", "--format", format, "-p", &self.port.to_string()])
    }

    fn ask(&self, format: &str) -> Answer {
        self.command(format).inside(self.init().unwrap()).run()
    }

    fn owners(&self) -> Vec<Value> {
        let answer = self.ask("json");
        serde_json::from_str::<Value>(&answer.out)
            .ok()
            .and_then(|answer| answer["owners"].as_array().cloned())
            .unwrap_or_default()
    }

    /// The container's process.
    fn owner(&self) -> Value {
        let owners = self.owners();
        assert_eq!(owners.len(), 1, "{owners:?}\n{}", self.log());
        owners.into_iter().next().unwrap()
    }

    /// Runs a command of the runtime's.
    fn run(&self, script: &str) {
        let mut inside = Command::new("nsenter");
        inside.args(["--pid", "--mount", "--target", &self.init().unwrap().to_string(), "sh", "-ec", script]);
        find_runtimes(&mut inside);
        let output = inside.env("FOLDER", self.folder.path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        let _ = self.outer.kill();
        let _ = self.outer.wait();
        // The groups are on the host. Those whose processes are still about to end can't be removed yet.
        let script = "for i in $(seq 100); do find /sys/fs/cgroup -depth -type d -path \"*$0*\" -exec rmdir {} + 2> /dev/null; \
                      [ -z \"$(find /sys/fs/cgroup -type d -path \"*$0*\" -print -quit)\" ] && exit; sleep 0.05; done";
        let _ = Command::new("sh").args(["-c", script, &self.group]).status();
    }
}

/// Lets a command find the runtimes and their libraries.
fn find_runtimes(command: &mut Command) {
    let bin = |name: &str| servers().join("debian/usr").join(name).to_str().unwrap().to_owned();
    let path = std::env::var("PATH").unwrap();
    command.env("PATH", format!("{}:{}:{path}", bin("bin"), bin("sbin"))).env("LD_LIBRARY_PATH", libraries());
}

/// An id as runtimes make them.
fn id() -> String {
    "0123456789abcdef".repeat(4)
}

/// A root folder with the actor, its libraries and nothing else.
fn root_with_actor(root: &Path) {
    let place = |from: &Path, to: &Path| {
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        install(from, to);
    };
    let actor = program("actor");
    place(&actor, &root.join("actor"));
    let listed = Command::new("ldd").arg(&actor).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    for library in listed.split_whitespace().filter(|word| word.starts_with('/')).map(Path::new) {
        place(library, &root.join(library.strip_prefix("/").unwrap()));
    }
}

/// The actor ends with its standard input. containerd is told what the kubelet tells it.
const CONTAINERD: &str = r#"
    printf 'version = 2\nroot = "/run/root"\nstate = "/run/containerd"\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]
        [grpc]\naddress = "/run/c.sock"\n' > "$FOLDER/containerd.toml"
    containerd --config "$FOLDER/containerd.toml" &
    until ctr --address /run/c.sock version > /dev/null; do sleep 0.05; done
    sleep infinity | ctr --address /run/c.sock --namespace k8s.io run --net-host --cgroup "$GROUP/pod$UID_OF_POD/$ID" \
        --annotation io.kubernetes.cri.container-name=web --annotation io.kubernetes.cri.sandbox-name=cart-7d9 \
        --annotation io.kubernetes.cri.sandbox-namespace=shop --rootfs "$ROOT" "$ID" $ACTOR
"#;

const PODMAN: &str = r#"
    cat > "$FOLDER/podman" << END
exec podman --root /var/lib/containers/storage --runroot /run/containers/storage --storage-driver vfs \
    --cgroup-manager cgroupfs --runtime "$(command -v runc)" --conmon "$(command -v conmon)" --events-backend none \
    --network-config-dir /run/networks "\$@"
END
    sleep infinity | sh "$FOLDER/podman" run --interactive --ulimit host --security-opt seccomp=unconfined --network host \
        --cgroup-parent "$GROUP" --name web --rootfs "$ROOT" $ACTOR
"#;

scenario!(containerd_names_an_owners_container_and_pod, needs(Root, Servers), || {
    let runtime = Runtime::start(&CONTAINERD.replace("$UID_OF_POD", UID));
    let owner = runtime.owner();
    assert_eq!(owner["container"], id(), "{owner:?}");
    assert_eq!(
        (&owner["container_name"], &owner["container_runtime"]),
        (&"web".into(), &"containerd".into())
    );
    let pod = serde_json::json!({"name": "cart-7d9", "namespace": "shop", "uid": UID});
    assert_eq!(owner["pod"], pod, "{owner:?}");
    assert!(owner.get("container_unnamed").is_none(), "{owner:?}");
    // and so does one that has other files than the host, as in a container that shares the host's processes
    let elsewhere = runtime.command("json").inside_with_other_files(runtime.init().unwrap()).run();
    assert_eq!(elsewhere.json()["owners"][0]["container_name"], "web", "{elsewhere:?}");
    let text = runtime.ask("text").out;
    assert!(text.contains("container web of pod shop/cart-7d9 (containerd, 0123456789ab)"), "{text}");
});

scenario!(podman_names_an_owners_container_also_once_it_is_renamed, needs(Root, Servers), || {
    let runtime = Runtime::start(PODMAN);
    let owner = runtime.owner();
    assert_eq!((&owner["container_name"], &owner["container_runtime"]), (&"web".into(), &"podman".into()));
    assert_eq!(owner["pod"], Value::Null, "{owner:?}");
    runtime.run("sh \"$FOLDER/podman\" rename web shop");
    assert_eq!(runtime.owner()["container_name"], "shop");
    let id = owner["container"].as_str().unwrap();
    let text = runtime.ask("text").out;
    assert!(text.contains(&format!("container shop (podman, {})", &id[..12])), "{text}");
});

scenario!(a_container_without_a_readable_name_says_why, needs(Root), |backend| {
    // given a process in the control group of a container that no runtime knows
    let port = unused_port();
    let id = format!("{port:064x}");
    let group = Unit::new(&format!("docker-{id}.scope"));
    let owner = Part::other().on_port(port).start();
    group.add(owner.pid());
    let told = Gatewatch::on(backend, &["owners"], port).run().owner(owner.pid());
    assert_eq!((&told["container"], &told["container_name"]), (&id.as_str().into(), &Value::Null));
    let why = told["container_unnamed"].as_str().unwrap();
    assert!(why.contains("no runtime"), "{told:?}");
    let text = Gatewatch::in_text(backend, &["owners"], port).run().out;
    assert!(text.contains(&format!("container {} (its name can't be read: {why})", &id[..12])), "{text}");
    // and an owner outside of containers has nothing of it
    let outside = Part::other().on_port(unused_port()).start();
    let told = Gatewatch::on(backend, &["owners"], outside.port()).run().owner(outside.pid());
    for key in ["container", "container_name", "container_runtime", "pod"] {
        assert_eq!(told[key], Value::Null, "{told:?}");
    }
    assert!(told.get("container_unnamed").is_none(), "{told:?}");
});
