//! Asks a person whether to end the process that is in the way.

use std::io::{self, BufRead, IsTerminal, Write};

use super::args::{AgentChoice, CleanArgs, Format};
use super::next;
use super::text::style;
use crate::clean::Cleaned;
use crate::model::Process;
use crate::steps::owner::Owner;

/// The processes that match no rule and are to be ended all the same, because they keep the port and a person wants that.
/// Only those are meant that the person was shown.
pub(super) fn chosen(args: &CleanArgs, format: Format, cleaned: &Cleaned) -> Option<Vec<Process>> {
    if args.matching.any || args.observing.asking.agent == AgentChoice::Only {
        return None;
    }
    let owners = next::endable(cleaned)?;
    let is_meant = args.confirming.yes || (can_ask(args, format) && ask(cleaned, &owners));
    is_meant.then(|| owners.iter().filter_map(|owner| owner.process.clone()).collect())
}

fn can_ask(args: &CleanArgs, format: Format) -> bool {
    format == Format::Text
        && !args.confirming.no_input
        && io::stdin().is_terminal()
        && io::stderr().is_terminal()
}

fn ask(cleaned: &Cleaned, owners: &[&Owner]) -> bool {
    let names: Vec<String> = owners.iter().map(|owner| describe(owner)).collect();
    let (verb, them) = if owners.len() == 1 { ("holds", "it") } else { ("hold", "them") };
    let question = format!("{} {verb} port {}. End {them}? [y/N] ", names.join(", "), cleaned.port);
    let mut err = io::stderr().lock();
    if err.write_all(question.as_bytes()).and_then(|()| err.flush()).is_err() {
        return false;
    }
    let mut answer = String::new();
    let read = io::stdin().lock().read_line(&mut answer);
    if matches!(read, Ok(0)) {
        let _ = writeln!(err);
    }
    read.is_ok() && matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}

/// What a person knows a process by: its name and pid, where it runs, since when, and by whom it was started.
fn describe(owner: &Owner) -> String {
    let process = owner.process.as_ref();
    let mut known = vec![format!("pid {}", owner.pid.unwrap_or_default())];
    known.extend(process.and_then(|process| process.cwd.as_deref()).map(style::folder));
    if let Some(age) = owner.age {
        let parent = process.and_then(|process| process.parent.as_ref()?.comm.as_deref());
        let by = parent.map(|parent| format!(" by {}", style::printable(parent))).unwrap_or_default();
        known.push(format!("started {} ago{by}", style::age(age)));
    }
    let name = process.map_or("a process", |process| process.comm.as_str());
    format!("{} ({})", style::printable(name), known.join(", "))
}
