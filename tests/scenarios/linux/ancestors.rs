//! Ancestors that /proc hides, and ancestors that change while they are looked for.

use gatewatch_tests::{Actor, Answer, Backend, Gatewatch, Part, below_setuid_hop, unused_port};

use crate::exclusion::assert_spared_as;

/// The rounds of a line of ancestors that ends while gatewatch walks it.
const ROUNDS: usize = 100;

/// The answer of gatewatch run by an ordinary user below its gateway, with a hop in between that runs as root.
fn cleaned_below_setuid_hop(hidepid: &str, outer: &[&str]) -> (Actor, Vec<String>) {
    let port = unused_port();
    let mut clean: Vec<String> = outer.iter().map(|&word| word.to_owned()).collect();
    clean.extend(Gatewatch::on(Backend::Poll, &["clean"], port).words());
    let mut gateway =
        Part::gateway().on_port(port).running(&below_setuid_hop(clean)).start_where_proc_hides(hidepid);
    let lines = vec![gateway.line(), gateway.line()];
    (gateway, lines)
}

scenario!(an_ancestor_behind_a_hidden_hop_is_never_ended, needs(Root), || {
    for hidepid in ["1", "2"] {
        let (gateway, lines) = cleaned_below_setuid_hop(hidepid, &[]);
        assert_spared_as(&lines, gateway.pid(), "ancestor");
        assert!(gateway.is_alive());
    }
});

scenario!(an_owner_that_could_be_a_hidden_ancestor_is_unknown, needs(Root), || {
    // given a kernel that does not tell a hidden hop's parent
    let (gateway, lines) = cleaned_below_setuid_hop("2", &["env", "GATEWATCH_WITHOUT=pidfd-info"]);
    let answer = Answer { status: 5, out: lines[0].clone(), err: String::new() };
    assert_eq!(answer.outcome(), "unknown", "{answer:?}");
    let owner = answer.owner(gateway.pid());
    assert_eq!((&owner["identity"], &owner["action"]), (&"unclassified".into(), &"spared".into()));
    assert!(owner["why"].as_str().unwrap().contains("may be an ancestor of gatewatch"), "{answer:?}");
    assert_eq!(lines[1], "status 5");
    assert!(gateway.is_alive());
});

scenario!(an_ancestor_is_never_ended_though_those_between_end_meanwhile, |backend| {
    // given a gateway that is a subreaper, and a line of processes below it that end one after another once gatewatch has
    // opened its configuration
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    std::fs::write(&file, "").unwrap();
    let file = file.to_str().unwrap();
    let port = unused_port();
    let clean = Gatewatch::on(backend, &["clean", "--dry-run"], port).with(&["--config", file]).words();
    let mut gateway = Part::gateway()
        .on_port(port)
        .with(&["--vanishing", file, "--rounds", &ROUNDS.to_string()])
        .running(&clean)
        .start();
    // when it is asked to end the gateway
    for round in 0..ROUNDS {
        let answer = Answer { status: 4, out: gateway.line(), err: String::new() };
        // then it never does
        let owner = answer.owner(gateway.pid());
        assert_eq!(owner["action"], "spared", "round {round}: {answer:?}");
    }
    assert!(gateway.is_alive());
});
