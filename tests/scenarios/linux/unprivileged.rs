//! What users with fewer privileges can do, and what they are told.

use gatewatch_tests::{Answer, Backend, Gatewatch, Part, unused_port};
use nix::errno::Errno;
use serde_json::Value;

use crate::clean::assert_cleaned;

scenario!(another_users_owner_is_unknown_and_not_nobody, needs(Root), || {
    let gateway = Part::gateway().on_port(unused_port()).start();
    let answer = Gatewatch::on(Backend::Poll, &["clean"], gateway.port()).as_nobody().run();
    assert_eq!((answer.status, answer.outcome().as_str()), (5, "unknown"), "{answer:?}");
    assert_eq!(answer.json()["owners"][0]["uid"], 0);
    let owners = Gatewatch::on(Backend::Poll, &["owners"], gateway.port()).as_nobody().run().json();
    assert_eq!(owners["owners"].as_array().unwrap().len(), 1);
    let text = Gatewatch::plain(&["owners", "-p", &gateway.port().to_string()]);
    assert!(text.out.contains("held by one process"));
    assert!(gateway.is_alive());
});

scenario!(the_sockets_of_an_unseen_process_are_not_counted_as_processes, needs(Root), || {
    let port = unused_port();
    let second = ([127, 0, 0, 2], port).into();
    let owner = Part::other().on_port(port).on(second).start();
    let ask = |format: &str| {
        Gatewatch::new(&["owners", "--format", format, "-p", &port.to_string()]).as_nobody().run()
    };
    let text = ask("text");
    assert!(text.out.contains("is held by 2 sockets whose processes can't be seen"), "{text:?}");
    for unseen in ask("json").json()["owners"].as_array().unwrap() {
        assert_eq!(unseen["pid"], Value::Null);
    }
    let seen = Gatewatch::on(Backend::Poll, &["owners"], port).run();
    assert_eq!(seen.owner(owner.pid())["stopped"], false, "{seen:?}");
});

/// An owner that may not be looked into is not said to be none, nor to be elsewhere: the answers say what is lacking.
fn assert_unseen_for_want_of(lacks: &str, ask: impl Fn(&[&str]) -> Gatewatch) {
    for command in [&["owners"][..], &["clean", "--any"], &["wait", "free", "--timeout", "100ms"]] {
        let answer = ask(&[command, &["--format", "json"]].concat()).run();
        let json = answer.json();
        assert_eq!(json.get("reason").filter(|reason| !reason.is_null()), None, "{answer:?}");
        let owner = json.get("owner").unwrap_or_else(|| &json["owners"][0]);
        assert_eq!((&owner["pid"], &owner["identity"]), (&Value::Null, &"unclassified".into()), "{answer:?}");
        assert!(owner["why"].as_str().unwrap().contains(lacks), "{answer:?}");
        let text = ask(command).run();
        assert!(text.out.contains(lacks), "{text:?}");
        for falsehood in ["no process holds", "on its way", "that no process has", "by a process outside"] {
            assert!(!text.out.contains(falsehood), "{text:?}");
        }
    }
    let answer = ask(&["clean", "--any", "--format", "json"]).run();
    assert_eq!((answer.status, answer.outcome().as_str()), (5, "unknown"), "{answer:?}");
}

/// Without these root lists the folder of another user's descriptors, and may not see where they lead.
const NO_TRACING: &str = "sys_ptrace,-bpf,-perfmon,-sys_admin";

scenario!(an_owner_that_root_may_not_look_into_is_not_called_nobody, needs(Root), || {
    let owner = Part::gateway().on_port(unused_port()).as_nobody().start();
    let port = owner.port().to_string();
    let ask = |words: &[&str]| Gatewatch::new(words).with(&["-p", &port]);
    assert_unseen_for_want_of("CAP_SYS_PTRACE", |words| ask(words).without_capability(NO_TRACING));
    assert_unseen_for_want_of("CAP_SYS_PTRACE", |words| {
        ask(words).with(&["--backend", "poll"]).without_capability("sys_ptrace")
    });
    let own = Part::gateway().on_port(unused_port()).start();
    let port = own.port().to_string();
    assert_unseen_for_want_of("root of a user namespace", |words| {
        Gatewatch::new(words).with(&["-p", &port]).in_own_user_namespace()
    });
    assert!(owner.is_alive() && own.is_alive());
});

scenario!(an_owner_inside_that_root_may_not_look_into_is_not_said_to_be_outside, needs(Root), || {
    // given a container's root with what runtimes leave it, and a server of another user's beside it
    let owner = Part::gateway().on_port(unused_port()).start_as_init_of_nobody();
    let port = owner.port().to_string();
    assert_unseen_for_want_of("CAP_SYS_PTRACE", |words| {
        Gatewatch::new(words).with(&["-p", &port]).without_capability(NO_TRACING).inside(owner.pid())
    });
    assert!(owner.is_alive());
});

scenario!(an_owner_that_may_not_be_signalled_is_not_permitted, needs(Bpf), || {
    let gateway = Part::gateway().on_port(unused_port()).as_nobody().start();
    for backend in [Backend::Ebpf, Backend::Poll] {
        let answer = Gatewatch::on(backend, &["clean"], gateway.port()).without_capability("kill").run();
        assert_eq!((answer.status, answer.outcome().as_str()), (6, "not_permitted"), "{answer:?}");
        assert_eq!(answer.owner(gateway.pid())["action"], "not_permitted");
        assert!(gateway.is_alive());
    }
});

scenario!(an_ordinary_user_cleans_its_own_gateway, needs(Root), || {
    let gateway = Part::gateway().on_port(unused_port()).as_nobody().start();
    let answer = Gatewatch::on(Backend::Poll, &["clean"], gateway.port()).as_nobody().run();
    assert_cleaned(&answer, &gateway);
});

scenario!(an_ordinary_user_is_told_what_polling_loses_where_it_changes_the_answer, needs(Root), || {
    let by_nobody = |words: &[&str]| Gatewatch::new(words).as_nobody().run();
    let owner = Part::other().on_port(unused_port()).start();
    let (held, free) = (owner.port().to_string(), unused_port().to_string());
    // given answers that are the same by kernel events, then nothing is said
    for words in [&["owners", &free][..], &["clean", &free], &["wait", "free", &free]] {
        let words = [words, &["--format", "json"]].concat();
        let answer = by_nobody(&words);
        assert_eq!((answer.status, answer.err.as_str()), (0, ""), "{words:?}: {answer:?}");
        assert_eq!(answer.json()["backend"], "poll");
    }
    // but one short line where an owner is not seen, or events are missed
    for words in [&["owners", &held][..], &["clean", &held], &["list"], &["watch", &free, "--for", "1ms"]] {
        let err = by_nobody(words).err;
        assert_eq!(err.lines().count(), 1, "{words:?}: {err}");
        assert!(err.contains("ports are polled, so") && err.contains("run as root"), "{words:?}: {err}");
        assert!(err.chars().count() <= 120, "{words:?}: {err}");
        // and the details, or nothing, for those who ask for that
        let verbose = by_nobody(&[words, &["-v"]].concat()).err;
        assert_eq!(verbose.matches("polling sees no bind or conflict").count(), 1, "{words:?}: {verbose}");
        assert!(verbose.contains("CAP_BPF"), "{words:?}: {verbose}");
        assert_eq!(by_nobody(&[words, &["-q"]].concat()).err, "", "{words:?}");
    }
});

scenario!(the_kernel_backend_without_privileges_is_status_6, needs(Root), || {
    let answer = Gatewatch::on(Backend::Ebpf, &["clean"], unused_port()).as_nobody().run();
    assert_eq!((answer.status, answer.out.as_str()), (6, ""), "{answer:?}");
    assert!(answer.err.contains("CAP_BPF"), "{answer:?}");
});

scenario!(root_is_told_what_it_really_lacks, needs(Bpf), || {
    let on = |command: &str| Gatewatch::on(Backend::Ebpf, &[command], unused_port());
    type Restricted = fn(Gatewatch) -> Gatewatch;
    let all: [(Restricted, &str); 4] = [
        (|it| it.without_capability("bpf,-sys_admin"), "root has no CAP_BPF here"),
        (|it| it.without_capability("perfmon,-bpf,-sys_admin"), "no CAP_BPF and no CAP_PERFMON"),
        (|it| it.filtered(Errno::EPERM), "seccomp"),
        (|it| it.filtered(Errno::ENOSYS), "seccomp"),
    ];
    for (restricted, why) in all {
        let answer = restricted(on("owners")).run();
        assert_eq!((answer.status, answer.out.as_str()), (6, ""), "{answer:?}");
        assert!(answer.err.contains(why) && !answer.err.contains("run as root"), "{why}: {answer:?}");
        let doctor = restricted(Gatewatch::new(&["doctor"])).run();
        assert!(doctor.out.contains(why) && !doctor.out.contains("run as root"), "{why}: {doctor:?}");
    }
    // and root of a user namespace, that there it is none to the kernel
    let answer = on("owners").in_own_user_namespace().run();
    assert_eq!(answer.status, 6, "{answer:?}");
    assert!(answer.err.contains("user namespace"), "{answer:?}");
});

scenario!(a_hook_that_lacks_a_capability_says_which, needs(Bpf), || {
    let answer = Gatewatch::new(&["doctor"]).without_capability("net_admin,-sys_admin").run();
    assert!(answer.out.contains("root has no CAP_NET_ADMIN here"), "{answer:?}");
});

scenario!(root_without_bpf_falls_back_to_polling, needs(Root), || {
    let gateway = Part::gateway().on_port(unused_port()).start();
    let port = gateway.port().to_string();
    let drop = "--bounding-set=-bpf,-sys_admin,-perfmon";
    let mut words = Gatewatch::new(&["clean", "--format", "json", "-p", &port]).words();
    words.splice(0..0, ["setpriv", drop, "--inh-caps=-bpf,-sys_admin,-perfmon", "--"].map(str::to_owned));
    let run = std::process::Command::new(&words[0]).args(&words[1..]).output().unwrap();
    let answer = Answer {
        status: run.status.code().unwrap(),
        out: String::from_utf8(run.stdout).unwrap(),
        err: String::from_utf8(run.stderr).unwrap(),
    };
    assert_cleaned(&answer, &gateway);
    assert_eq!(answer.json()["backend"], "poll");
});
