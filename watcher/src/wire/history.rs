//! The lines of `history`: those of `watch`, with more on each process, and those of cleans and gaps.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::WireError;
use super::event::WatchLine;
use super::values::{micros, read_address, read_timestamp, timestamp, unreadable};
use crate::model::{
    Backend, CleanTold, Described, Gap, OwnerTold, Port, Record, Told, WatchEvent, WatchKind,
};

/// One line of `history`. `event` is also `clean`, for what the agent was asked to clean (with who asked), and `gap`, for a
/// span of time of which nothing, or not all, is known. `port` is 0 for a gap and for `lost`, which concern every port.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct HistoryLine {
    #[serde(flatten)]
    line: WatchLine,
    /// The record's number: the order in which things happened, also where the wall clock was set meanwhile. 0 for a gap
    /// that is no record.
    number: u64,
    /// It was not seen when it happened: it was only found at this time, after a gap or after events were lost.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    found: bool,
    /// More of the process; null where nothing more is known.
    process: Option<ProcessJson>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    clean: Option<CleanJson>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    gap: Option<GapJson>,
}

/// What is kept of a process.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = HistoryProcess)]
struct ProcessJson {
    /// When it began, RFC 3339 in UTC.
    start_time: Option<String>,
    /// Its user's name.
    user: Option<String>,
    /// Its arguments, 1 KiB at most.
    argv: Option<Vec<String>>,
    /// Whether they were longer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    argv_cut: bool,
    /// Its executable.
    exe: Option<String>,
    /// Its systemd unit.
    unit: Option<String>,
    /// Its container.
    container: Option<String>,
}

/// A clean; who asked for it are the line's own `pid`, `uid`, `comm` and `process`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = HistoryClean)]
struct CleanJson {
    /// What became of the port.
    outcome: String,
    /// Why, where the outcome does not say.
    reason: Option<String>,
    /// Whether nobody was to be signalled.
    dry_run: bool,
    /// How long it took, in microseconds.
    elapsed_us: u64,
    /// The owners, 16 at most.
    owners: Vec<OwnerJson>,
}

/// An owner in a clean.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = HistoryOwner)]
struct OwnerJson {
    pid: Option<u32>,
    uid: Option<u32>,
    comm: Option<String>,
    /// An address that it held.
    address: Option<String>,
    /// What was done.
    action: String,
    /// By which signal it ended.
    ended_by: Option<String>,
    /// From its first signal until it was gone, in microseconds.
    ended_after_us: Option<u64>,
    /// Why it was judged so.
    why: String,
    process: Option<ProcessJson>,
}

/// A span of time of which not all is known. Its end is the line's `time`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = HistoryGap)]
struct GapJson {
    /// Its beginning, RFC 3339 in UTC; null where the history begins with it.
    from: Option<String>,
    /// `stopped` and `killed`: no agent ran, after one that was told to end or was not; `rebooted`: the host was started
    /// anew; `not_kept`: it is before the history's beginning, or was deleted; `not_written`: the disk was full, say.
    reason: String,
}

impl From<&Record> for HistoryLine {
    fn from(record: &Record) -> Self {
        let empty = |kind, port| WatchEvent::now(kind, port, Backend::Agent);
        let (line, clean, gap) = match &record.told {
            Told::Event(event) => (WatchLine::from(event), None, None),
            Told::Clean(clean) => {
                let event = WatchEvent {
                    time: clean.time,
                    pid: clean.pid,
                    uid: clean.uid,
                    comm: clean.comm.clone(),
                    netns: clean.netns,
                    ..empty(STAND_IN, clean.port)
                };
                let line = WatchLine::from(&event).named(Told::CLEAN);
                (line, Some(CleanJson::from(&**clean)), None)
            }
            Told::Gap(gap) => {
                let event = WatchEvent { time: gap.until, ..empty(STAND_IN, Port::EVERY) };
                let line = WatchLine::from(&event).named(Told::GAP);
                let from = gap.from.map(|from| timestamp(from, 6));
                (line, None, Some(GapJson { from, reason: gap.why.name().to_owned() }))
            }
        };
        let process = ProcessJson::of(&record.process);
        Self { line, number: record.number, found: record.found, process, clean, gap }
    }
}

/// What a line that is no event's is made from.
const STAND_IN: WatchKind = WatchKind::Free;

impl TryFrom<HistoryLine> for Record {
    type Error = WireError;

    fn try_from(line: HistoryLine) -> Result<Self, WireError> {
        let HistoryLine { line, number, found, process, clean, gap } = line;
        let stand_in = |line: WatchLine| WatchEvent::try_from(line.named(STAND_IN.name()));
        let told = match (line.name(), clean, gap) {
            (Told::CLEAN, Some(clean), _) => Told::Clean(Box::new(clean.told(stand_in(line)?)?)),
            (Told::GAP, _, Some(gap)) => {
                let from = gap.from.map(|from| read_timestamp("from", &from)).transpose()?;
                let why = gap.reason.parse().map_err(|_| unreadable("reason", &gap.reason))?;
                Told::Gap(Gap { from, until: stand_in(line)?.time, why })
            }
            _ => Told::Event(line.try_into()?),
        };
        Ok(Self { number, told, process: ProcessJson::described(process)?, found })
    }
}

impl ProcessJson {
    fn of(process: &Described) -> Option<Self> {
        (*process != Described::default()).then(|| Self {
            start_time: process.start_time.map(|time| timestamp(time, 3)),
            user: process.user.clone(),
            argv: process.argv.clone(),
            argv_cut: process.argv_cut,
            exe: process.exe.clone(),
            unit: process.unit.clone(),
            container: process.container.clone(),
        })
    }

    fn described(json: Option<Self>) -> Result<Described, WireError> {
        let Some(json) = json else { return Ok(Described::default()) };
        Ok(Described {
            start_time: json.start_time.map(|text| read_timestamp("start_time", &text)).transpose()?,
            user: json.user,
            argv: json.argv,
            argv_cut: json.argv_cut,
            exe: json.exe,
            unit: json.unit,
            container: json.container,
        })
    }
}

impl From<&CleanTold> for CleanJson {
    fn from(clean: &CleanTold) -> Self {
        let reason: Option<&'static str> = clean.reason.map(Into::into);
        Self {
            outcome: clean.outcome.name().to_owned(),
            reason: reason.map(str::to_owned),
            dry_run: clean.dry_run,
            elapsed_us: micros(clean.elapsed),
            owners: clean.owners.iter().map(OwnerJson::from).collect(),
        }
    }
}

impl CleanJson {
    /// The clean, with who asked for it.
    fn told(self, asked: WatchEvent) -> Result<CleanTold, WireError> {
        let reason = self.reason.map(|name| name.parse().map_err(|_| unreadable("reason", &name)));
        let owners = self.owners.into_iter().map(OwnerTold::try_from);
        Ok(CleanTold {
            time: asked.time,
            port: asked.port,
            netns: asked.netns,
            pid: asked.pid,
            uid: asked.uid,
            comm: asked.comm,
            dry_run: self.dry_run,
            outcome: self.outcome.parse().map_err(|_| unreadable("outcome", &self.outcome))?,
            reason: reason.transpose()?,
            elapsed: std::time::Duration::from_micros(self.elapsed_us),
            owners: owners.collect::<Result<_, _>>()?,
        })
    }
}

impl From<&OwnerTold> for OwnerJson {
    fn from(owner: &OwnerTold) -> Self {
        Self {
            pid: owner.pid,
            uid: owner.uid,
            comm: owner.comm.clone(),
            address: owner.address.map(|address| address.to_string()),
            action: owner.action.name().to_owned(),
            ended_by: owner.ended_by.clone(),
            ended_after_us: owner.ended_after.map(micros),
            why: owner.why.clone(),
            process: ProcessJson::of(&owner.process),
        }
    }
}

impl TryFrom<OwnerJson> for OwnerTold {
    type Error = WireError;

    fn try_from(json: OwnerJson) -> Result<Self, WireError> {
        Ok(Self {
            pid: json.pid,
            uid: json.uid,
            comm: json.comm,
            address: json.address.map(|text| read_address("address", &text)).transpose()?,
            action: json.action.parse().map_err(|_| unreadable("action", &json.action))?,
            ended_by: json.ended_by,
            ended_after: json.ended_after_us.map(std::time::Duration::from_micros),
            why: json.why,
            process: ProcessJson::described(json.process)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::model::{Action, GapReason, Outcome, Reason};

    #[test]
    fn a_line_is_read_as_it_was_written() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let process = Described {
            start_time: Some(time),
            argv: Some(vec!["a\n".to_owned()]),
            argv_cut: true,
            ..Described::default()
        };
        let event = WatchEvent { time, ..WatchEvent::now(WatchKind::Listen, Port::tcp(80), Backend::Poll) };
        let owner = OwnerTold {
            pid: Some(1),
            uid: None,
            comm: Some("x".to_owned()),
            address: Some(([127, 0, 0, 1], 80).into()),
            action: Action::Survived,
            ended_by: None,
            ended_after: Some(Duration::from_micros(5)),
            why: "why".to_owned(),
            process: process.clone(),
        };
        let clean = CleanTold {
            time,
            port: Port::tcp(80),
            netns: Some(4),
            pid: Some(2),
            uid: Some(3),
            comm: None,
            dry_run: true,
            outcome: Outcome::HeldByOther,
            reason: Some(Reason::TooYoung),
            elapsed: Duration::from_micros(7),
            owners: vec![owner],
        };
        let gap = Gap { from: None, until: time, why: GapReason::NotKept };
        let all = [Told::Event(event), Told::Clean(Box::new(clean)), Told::Gap(gap)];
        for (number, told) in (0..).zip(all) {
            let record = Record { number, told, process: process.clone(), found: number == 1 };
            let text = serde_json::to_string(&HistoryLine::from(&record)).unwrap();
            let line: HistoryLine = serde_json::from_str(&text).unwrap();
            assert_eq!(Record::try_from(line).unwrap(), record, "{text}");
        }
    }
}
