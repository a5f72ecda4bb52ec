//! The lines that are sent elsewhere: those of `history`, with the host that they are from.

use serde::Serialize;

use super::history::HistoryLine;
use crate::model::{Described, Record, Told};

/// One line.
#[derive(Debug, Serialize)]
struct ExportLine<'a> {
    /// The host's name.
    host: &'a str,
    #[serde(flatten)]
    line: HistoryLine,
}

/// A record of this host as JSON, with command lines only if these are to be sent.
pub(crate) fn line(host: &str, mut record: Record, command_lines: bool) -> serde_json::Result<String> {
    if !command_lines {
        let owners = match &mut record.told {
            Told::Clean(clean) => clean.owners.as_mut_slice(),
            Told::Event(_) | Told::Gap(_) => &mut [],
        };
        let described = owners.iter_mut().map(|owner| &mut owner.process);
        described.chain([&mut record.process]).for_each(leave_out_command_line);
    }
    serde_json::to_string(&ExportLine { host, line: HistoryLine::from(&record) })
}

fn leave_out_command_line(process: &mut Described) {
    process.argv = None;
    process.argv_cut = false;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Backend, Port, WatchEvent, WatchKind};

    #[test]
    fn a_command_line_is_sent_only_where_that_is_wanted() {
        let event = WatchEvent::now(WatchKind::Listen, Port::tcp(80), Backend::Ebpf);
        let argv = Some(vec!["server".to_owned(), "--password=x".to_owned()]);
        let process = Described { argv, argv_cut: true, user: Some("me".to_owned()), ..Described::default() };
        let record = Record { number: 3, told: Told::Event(event), process, found: false };
        let json = |command_lines| -> serde_json::Value {
            serde_json::from_str(&line("h", record.clone(), command_lines).unwrap()).unwrap()
        };
        let without = json(false);
        assert_eq!(
            (&without["host"], &without["number"], &without["event"]),
            (&"h".into(), &3.into(), &"listen".into())
        );
        assert_eq!(without["process"]["user"], "me");
        assert!(!without.to_string().contains("password"), "{without}");
        assert!(without["process"]["argv"].is_null() && without["process"]["argv_cut"].is_null());
        assert_eq!(json(true)["process"]["argv"][1], "--password=x");
    }
}
