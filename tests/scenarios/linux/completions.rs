//! Completions, as the real shells ask for them.

use std::path::Path;
use std::process::Command;

use gatewatch_tests::{Actor, Gatewatch, Part, program, unused_port};

/// What a shell says, gatewatch being the one that is tested.
fn said(shell: &str, arguments: &[&str]) -> String {
    let gatewatch = program("gatewatch");
    let folder = gatewatch.parent().and_then(Path::to_str).unwrap();
    let path = format!("{folder}:{}", std::env::var("PATH").unwrap_or_default());
    let output = Command::new(shell).args(arguments).env("PATH", path).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// What bash offers for the last word of a line. Its own function is called as bash calls it at a Tab.
fn bash(line: &[&str]) -> Vec<String> {
    const ASK: &str = r#"
        source <(gatewatch completions bash)
        ask=$(complete -p gatewatch); ask=${ask##*-F }; ask=${ask%% *}
        COMP_WORDS=(gatewatch "$@"); COMP_CWORD=$#; COMP_TYPE=9
        $ask gatewatch "${!#}" "" 2>/dev/null
        printf '%s\n' "${COMPREPLY[@]}""#;
    let words: Vec<&str> = ["--norc", "-c", ASK, "bash"].into_iter().chain(line.iter().copied()).collect();
    said("bash", &words).lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect()
}

fn owner() -> (Actor, String) {
    let owner = Part::other().on_port(unused_port()).start();
    let port = owner.port().to_string();
    (owner, port)
}

scenario!(bash_completes_ports_that_are_held, needs(Bash), || {
    let (_owner, port) = owner();
    let free = unused_port().to_string();
    for line in
        [&["clean"][..], &[], &["owners"], &["wait", "free"], &["watch", "-p"], &["restart"], &["top"]]
    {
        let offered = bash(&[line, &[&port[..3]]].concat());
        assert!(offered.contains(&port), "{line:?}: {offered:?}");
        assert!(!offered.contains(&free), "{line:?}: {offered:?}");
    }
    // and after a comma, the next one
    assert!(bash(&["clean", &format!("1,{}", &port[..3])]).contains(&format!("1,{port}")));
});

scenario!(bash_completes_commands_and_no_hidden_one, needs(Bash), || {
    let offered = bash(&[""]);
    for command in ["clean", "list", "top", "restart"] {
        assert!(offered.iter().any(|word| word == command), "{command}: {offered:?}");
    }
    assert!(offered.iter().all(|word| word != "demo-gateway"), "{offered:?}");
    assert_eq!(bash(&["demo-"]), [""; 0]);
    // what is run is the shell's to complete
    assert_eq!(bash(&["restart", "3000", "--", ""]), [""; 0]);
});

scenario!(bash_completes_identities_and_units, needs(Bash), || {
    assert_eq!(bash(&["clean", "--identity", ""])[..2], ["openclaw-gateway", "any"]);
    let (owner, port) = owner();
    let known = Gatewatch::plain(&["owners", &port, "--format", "json"]).owner(owner.pid());
    // Where the tests themselves run in no unit, the owner has none.
    if let Some(unit) = known["unit"].as_str() {
        assert!(bash(&["clean", "--match-unit", ""]).iter().any(|word| word == unit));
    }
});

scenario!(fish_completes_ports_with_their_owners, needs(Fish), || {
    let (owner, port) = owner();
    let ask = format!(
        "gatewatch completions fish | source; complete --do-complete 'gatewatch clean {}'",
        &port[..3]
    );
    let offered = said("fish", &["--no-config", "-c", &ask]);
    let line = offered.lines().find(|line| line.starts_with(&format!("{port}\t"))).unwrap_or_default();
    assert!(line.contains(&format!("(pid {})", owner.pid())), "{offered}");
});

scenario!(zsh_completes_ports_with_their_owners, needs(Zsh), || {
    let (owner, port) = owner();
    // zsh's own part needs its line editor, so what it would be told is read in its place
    let ask = format!(
        "_describe() {{ print -l -- ${{(P)3}} }}; compdef() {{ }}; words=(gatewatch clean {}); CURRENT=3\n\
         source <(gatewatch completions zsh); _clap_dynamic_completer_gatewatch",
        &port[..3]
    );
    let offered = said("zsh", &["-f", "-c", &ask]);
    let line = offered.lines().find(|line| line.starts_with(&format!("{port}:"))).unwrap_or_default();
    assert!(line.contains(&format!("(pid {})", owner.pid())), "{offered}");
});
