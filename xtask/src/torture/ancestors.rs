//! Ancestors that end and are given other parents while they are looked for: none of them is ever ended.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use gatewatch_tests::{Answer, Backend, Gatewatch, Part, unused_port};

use super::{Busy, Rounds};

/// How many answers one gateway gets.
const ANSWERS: u64 = 10;

pub(super) fn run(rounds: &mut Rounds) -> Result<()> {
    let folder = std::env::temp_dir().join(format!("gatewatch-torture-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let file = folder.join("config.toml");
    std::fs::write(&file, "")?;
    let _busy = Busy::begin();
    let mut answers = 0;
    while rounds.go_on() {
        rounds.round(|random| {
            let backend = *random.of(&[Backend::Ebpf, Backend::Poll]);
            answers += ANSWERS;
            below_a_vanishing_line(backend, &file).with_context(|| format!("by {backend:?}"))
        });
    }
    rounds.count("answers", answers);
    let _ = std::fs::remove_dir_all(&folder);
    Ok(())
}

/// A gateway holds the port and is an ancestor of `clean`; the processes between them end one after another while
/// `clean`, which has just opened its configuration, walks over them.
fn below_a_vanishing_line(backend: Backend, file: &Path) -> Result<String> {
    let port = unused_port();
    let file = file.to_str().context("a path that is text")?;
    let clean = Gatewatch::on(backend, &["clean"], port).with(&["--config", file]).words();
    let mut gateway = Part::gateway()
        .on_port(port)
        .with(&["--vanishing", file, "--rounds", &ANSWERS.to_string()])
        .running(&clean)
        .start();
    for at in 0..ANSWERS {
        let answer = Answer { status: -1, out: gateway.line(), err: String::new() };
        ensure!(gateway.is_alive(), "the ancestor was ended, answer {at}: {answer:?}");
        let owner = answer.owner(gateway.pid());
        ensure!(owner["action"] == "spared", "answer {at}: {answer:?}");
        ensure!(answer.killed().is_empty(), "answer {at}: {answer:?}");
    }
    Ok("gateways that lived".to_owned())
}
