//! The packaged DaemonSet: that Kubernetes takes it, and that its capabilities are those that the agent needs.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::process::Command;

use gatewatch_tests::{Actor, Agent, Answer, Part, checkout, config, node_package, servers, unused_port};
use serde_json::Value;

use crate::identity::node;

const NOBODY: u32 = 65_534;
const PLACE: &str = "packaging/kubernetes/daemonset.yaml";

scenario!(the_packaged_daemon_set_is_valid, needs(Servers, Checkout), || {
    // given the oldest version that knows all that is in it, and the newest one
    for version in ["1.30", "1.37"] {
        let mut validate = Command::new(servers().join("python/bin/kubernetes-validate"));
        validate.args(["--strict", "--kubernetes-version", version]);
        let output = validate.arg(checkout().join(PLACE)).output().unwrap();
        let said =
            [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        assert!(output.status.success(), "{said}");
        for kind in ["namespace", "serviceaccount", "configmap", "daemonset"] {
            assert!(said.contains(&format!("passed for resource {kind}/gatewatch")), "{said}");
        }
    }
});

/// The capabilities that it adds.
fn granted() -> Vec<String> {
    let text = fs::read_to_string(checkout().join(PLACE)).unwrap();
    let (_, rest) = text.split_once("add:\n").unwrap();
    let lines = rest.lines().map_while(|line| line.trim().strip_prefix("- "));
    let granted: Vec<String> = lines.map(str::to_owned).collect();
    assert!(granted.len() > 3, "{granted:?}");
    granted
}

/// An agent with the capabilities, and what it can do with them.
struct Granted(Agent);

impl Granted {
    fn all() -> Self {
        Self::these(&granted())
    }

    fn without(capability: &str) -> Self {
        let mut rest = granted();
        let count = rest.len();
        rest.retain(|granted| granted != capability);
        assert_eq!(rest.len(), count - 1, "{capability} is not granted");
        Self::these(&rest)
    }

    fn these(capabilities: &[String]) -> Self {
        Self(Agent::with_capabilities(capabilities, &config(&[(unused_port(), "")])))
    }

    fn status(&self) -> Value {
        self.0.get("/v1/status").json()
    }

    /// What is lost, in sentences.
    fn degraded(&self) -> String {
        self.status()["degraded"].to_string()
    }

    /// The outcome of a clean of the port, whose owners may be ended, for a caller in the network namespace of a process.
    fn clean(&self, port: u16, inside: Option<&Actor>) -> String {
        self.answer(port, inside).outcome()
    }

    fn answer(&self, port: u16, inside: Option<&Actor>) -> Answer {
        self.watch(port);
        let ask = self.0.ask(&["clean"], port);
        match inside {
            Some(actor) => ask.in_network_of(actor.pid()).run(),
            None => ask.run(),
        }
    }

    fn refuses_to_clean(&self, port: u16, inside: Option<&Actor>, why: &str) -> bool {
        let answer = self.answer(port, inside);
        answer.status == 6 && answer.err.contains(why)
    }

    fn watch(&self, port: u16) {
        self.0.reconfigure(&config(&[(port, "")]));
        gatewatch_tests::until("the port may be cleaned", || {
            self.status()["ports"].as_array().is_some_and(|ports| ports.contains(&port.into()))
        });
    }

    fn cleans_another_users_gateway(&self) -> String {
        let gateway = Part::gateway().as_nobody().on_port(unused_port()).start();
        self.clean(gateway.port(), None)
    }

    fn cleans_another_users_gateway_in_a_closed_folder(&self) -> String {
        let folder = tempfile::tempdir().unwrap();
        node_package("openclaw", folder.path());
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
        chown(folder.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        let mut command = node(folder.path(), "dist/index.js", unused_port());
        command.arg("gateway");
        let gateway = Part::program(command).as_nobody().start();
        self.clean(gateway.port(), None)
    }

    /// How many binds of its own the agent takes for somebody's, of those by which it proves a port free.
    fn own_binds(&self) -> u64 {
        let gateway = Part::gateway().on_port(unused_port()).start();
        let series = format!("gatewatch_events_total{{event=\"bind\",port=\"{}\"}} ", gateway.port());
        let binds = || {
            let metrics = self.0.get("/metrics").body;
            let count = metrics.lines().find_map(|line| line.strip_prefix(&series));
            count.map_or(0, |count| count.parse::<u64>().unwrap())
        };
        self.watch(gateway.port());
        let before = binds();
        assert_eq!(self.clean(gateway.port(), None), "cleaned");
        binds() - before
    }

    /// Whether it proves a port free by a bind for which it takes root's right.
    fn binds_a_port_of_roots(&self) -> bool {
        let is_unused = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
        let port = (600..1000).rev().find(is_unused).unwrap();
        let gateway = Part::gateway().on_port(port).start();
        let answer = self.answer(gateway.port(), None);
        assert_eq!(answer.outcome(), "cleaned", "{answer:?}");
        answer.json()["released"]["plain_bind"] == true
    }

    fn cleans_in_another_namespace(&self) -> String {
        let gateway = Part::gateway().on_port(unused_port()).in_own_network().start();
        self.clean(gateway.port(), Some(&gateway))
    }
}

scenario!(the_daemon_sets_capabilities_are_enough, needs(Bpf, Node, Checkout), || {
    let agent = Granted::all();
    assert_eq!(agent.degraded(), "[]");
    assert_eq!(agent.cleans_another_users_gateway(), "cleaned");
    assert_eq!(agent.cleans_another_users_gateway_in_a_closed_folder(), "cleaned");
    assert!(agent.binds_a_port_of_roots());
    assert_eq!(agent.cleans_in_another_namespace(), "cleaned");
    assert_eq!(agent.own_binds(), 0);
    // and it holds no others
    let status = agent.status();
    let held = status["capabilities"].as_array().unwrap();
    assert_eq!(held.len(), granted().len(), "{status}");
});

scenario!(without_one_of_the_daemon_sets_capabilities_something_is_lost, needs(Bpf, Node, Checkout), || {
    for capability in granted() {
        let agent = Granted::without(&capability);
        let lost = match capability.as_str() {
            "SYS_ADMIN" => agent.degraded().contains("root has no CAP_BPF"),
            "NET_ADMIN" => agent.own_binds() > 0,
            "KILL" => agent.cleans_another_users_gateway() == "not_permitted",
            // It does not even know a caller that may do more than itself.
            "SYS_PTRACE" => agent.refuses_to_clean(unused_port(), None, "can't be identified"),
            "DAC_READ_SEARCH" => agent.cleans_another_users_gateway_in_a_closed_folder() == "unknown",
            "NET_BIND_SERVICE" => !agent.binds_a_port_of_roots(),
            _ => false,
        };
        assert!(lost, "{capability}: {}", agent.degraded());
    }
});

scenario!(bpf_and_perfmon_stand_in_for_sys_admin_except_in_other_namespaces, needs(Bpf, Checkout), || {
    let mut capabilities = granted();
    capabilities.retain(|capability| capability != "SYS_ADMIN");
    capabilities.extend(["BPF", "PERFMON"].map(str::to_owned));
    let agent = Granted::these(&capabilities);
    // and where tracefs is not mounted
    let status = agent.status();
    for lost in status["degraded"].as_array().unwrap() {
        assert!(lost.as_str().unwrap().starts_with("no conflict events: "), "{status}");
    }
    assert_eq!(agent.cleans_another_users_gateway(), "cleaned");
    let gateway = Part::gateway().on_port(unused_port()).in_own_network().start();
    assert!(agent.refuses_to_clean(gateway.port(), Some(&gateway), "CAP_SYS_ADMIN"));
    assert!(gateway.is_alive());
});
