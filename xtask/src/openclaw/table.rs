//! The table of what was seen.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::ways::Place;

/// The head of the table.
pub(super) const HEAD: &str = "\
    | release | started by | argv | verdict | restart | ended by | ms | clean | ended by | ms |\n\
    | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |";

/// One line of the table.
pub(super) struct Row {
    pub(super) release: &'static str,
    pub(super) way: &'static str,
    pub(super) seen: Seen,
}

/// What became of one gateway, and of the one that was started in its place.
pub(super) struct Seen {
    pub(super) argv: String,
    pub(super) verdict: String,
    pub(super) restart: Ending,
    pub(super) clean: Ending,
    pub(super) right: bool,
}

/// How an owner was ended.
pub(super) struct Ending {
    pub(super) outcome: String,
    pub(super) ended_by: String,
    pub(super) took: Option<Duration>,
}

impl Row {
    pub(super) fn line(&self) -> String {
        let Self { release, way, seen } = self;
        let Seen { argv, verdict, restart, clean, right } = seen;
        let mark = if *right { "" } else { " **wrong**" };
        let (restart, clean) = (restart.cells(), clean.cells());
        format!("| {release} | {way}{mark} | `{argv}` | {verdict} | {restart} | {clean} |")
    }
}

impl Seen {
    /// What is shown of a way that could not be tried.
    pub(super) fn nothing() -> Self {
        let clean = Ending { outcome: "not tried".to_owned(), ..Ending::none() };
        Self { argv: nothing(), verdict: nothing(), restart: Ending::none(), clean, right: false }
    }
}

impl Ending {
    /// What the answer to a `restart` or a `clean` says.
    pub(super) fn of(answer: &Value, took: Duration) -> Self {
        let (outcome, ended_by) = (text(&answer["outcome"]), text(&answer["owners"][0]["ended_by"]));
        Self { outcome, ended_by, took: Some(took) }
    }

    /// What was not asked for.
    pub(super) fn none() -> Self {
        Self { outcome: nothing(), ended_by: nothing(), took: None }
    }

    fn cells(&self) -> String {
        let Self { outcome, ended_by, took } = self;
        let took = took.map_or_else(nothing, |took| took.as_millis().to_string());
        format!("{outcome} | {ended_by} | {took}")
    }
}

fn nothing() -> String {
    "-".to_owned()
}

pub(super) fn text(value: &Value) -> String {
    value.as_str().map_or_else(nothing, str::to_owned)
}

/// The command line, with the folders of this machine cut out.
pub(super) fn argv(owner: &Value, place: &Place) -> String {
    let words = owner["argv"].as_array().map(Vec::as_slice).unwrap_or_default();
    let words: Vec<&str> = words.iter().filter_map(Value::as_str).filter(|word| !word.is_empty()).collect();
    let mut line = words.join(" ");
    let folders: [(&Path, &str); 5] = [
        (&place.scratch, "$TMP"),
        (&place.package, "$OPENCLAW"),
        (place.node.parent().unwrap_or(&place.node), "$NODE"),
        (&place.tools, "$TOOLS"),
        (&place.release, "$RELEASE"),
    ];
    for (folder, short) in folders {
        line = line.replace(&folder.display().to_string(), short);
    }
    line.replace(&place.port.to_string(), "N")
}
