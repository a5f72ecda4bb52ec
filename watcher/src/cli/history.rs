//! `gatewatch history`.

use std::collections::HashMap;
use std::fs::File;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::args::{Format, HistoryArgs, Observing};
use super::context::Context;
use super::exit::{CliError, Exit};
use super::picture::Picture;
use super::picture::history::Owners;
use super::text;
use crate::agent::client::{ClientError, Records};
use crate::history::{Page, first_page, gap, moment, next_page};
use crate::model::{Gap, Port, Record, Span, Told, WatchKind};
use crate::platform::Host;
use crate::platform::contract::{HistoryReader, HistorySystem as _, Platform as _};
use crate::steps::observe::limited::meets;
use crate::wire;
use crate::wire::history::HistoryLine;

/// Of more ports than this, the records are sifted here.
pub(super) const MOST_ASKED: usize = 256;

pub(super) async fn run(args: &HistoryArgs) -> Result<Exit, CliError> {
    let context = Context::new(&args.observing)?;
    let asked = args.ports.asked();
    let now = SystemTime::now();
    let read = |flag, text: &str| {
        let wrong = |why| format!("{flag} {text}: {why}, as in 2026-11-23T03:12:00Z, 90m or 2d");
        moment(text, now).map_err(|why| CliError::Usage(wrong(why)))
    };
    let since = read("--since", &args.since)?;
    let until = args.until.as_deref().map_or(Ok(now), |text| read("--until", text))?;
    if since > until {
        return Err(CliError::Usage("--since is after --until: exchange the two".to_owned()));
    }
    let netns = args.observing.netns.is_some().then(|| context.host.netns());
    let mut span = Span { ports: asked.iter().map(|asked| asked.port).collect(), netns, since, until };
    if span.ports.len() > MOST_ASKED {
        span.ports.clear();
    }
    let at: HashMap<Port, Vec<IpAddr>> = asked.into_iter().map(|asked| (asked.port, asked.at)).collect();
    // The namespace is a matter of what is asked, and not of who is asked.
    let asking = Observing { netns: None, ..args.observing.clone() };
    let picture = args.svg.as_deref().map(Picture::open).transpose()?;
    let drawing = picture.is_some().then(|| Owners::new(since, until, args.utc));
    let mut out = Output { format: context.format, lines: text::history::Lines::new(args.utc), drawing, at };
    let records = match context.agent_within(None, &asking, None).await? {
        Some(agent) => match agent.history(&span).await {
            // Without the agent, there is the file, for those who can read it.
            Err(error @ ClientError::Untold(_)) if !may_read(&path(&context))? => {
                return Err(CliError::Agent(error));
            }
            answer => context.answered(&asking, answer)?,
        },
        None => None,
    };
    match records {
        Some(mut records) => out.of_agent(&mut records).await?,
        None => out.of_file(&context, &span)?,
    }
    if let (Some(picture), Some(drawing)) = (picture, &out.drawing) {
        let failed = |error| CliError::Io { what: "the picture can't be written", error };
        picture.write(&drawing.drawn()).map_err(failed)?;
    } else if context.format == Format::Text {
        super::print(&out.lines.end())?;
    }
    Ok(Exit::Done)
}

/// Where an agent with this configuration keeps the history.
fn path(context: &Context) -> PathBuf {
    context.config.history.clone().unwrap_or_default().path
}

/// Whether this user may read the file; false where there is none.
fn may_read(path: &Path) -> Result<bool, CliError> {
    match File::open(path).map_err(|error| (error.kind(), error)) {
        Ok(_) => Ok(true),
        Err((ErrorKind::NotFound, _)) => Ok(false),
        Err((ErrorKind::PermissionDenied, _)) => Err(CliError::NotReadersHistory { path: path.to_owned() }),
        Err((_, error)) => Err(CliError::History { path: path.to_owned(), why: error.to_string() }),
    }
}

struct Output {
    format: Format,
    lines: text::history::Lines,
    /// Where a picture is asked for, records are drawn and not printed.
    drawing: Option<Owners>,
    /// The ports that are asked for, each with the addresses that it is limited to; without any, all.
    at: HashMap<Port, Vec<IpAddr>>,
}

impl Output {
    async fn of_agent(&mut self, records: &mut Records) -> Result<(), CliError> {
        while let Some(record) = records.next().await? {
            if !self.tell(&record)? {
                break;
            }
        }
        Ok(())
    }

    /// Without an agent, the file itself is read, by who may: root.
    fn of_file(&mut self, context: &Context, span: &Span) -> Result<(), CliError> {
        let path = path(context);
        let failed = |why: String| CliError::History { path: path.clone(), why };
        if !may_read(&path)? {
            return Err(failed("no agent with a [history] has run yet".to_owned()));
        }
        let mut reader = Host::read_history(&path).map_err(|error| failed(error.to_string()))?;
        let reader: &mut dyn HistoryReader = &mut *reader;
        let mut page = first_page(reader, span, None).map_err(|error| failed(error.to_string()))?;
        loop {
            let Page { records, more_after } = page;
            for record in &records {
                if !self.tell(record)? {
                    return Ok(());
                }
            }
            let Some(after) = more_after else { break };
            page = next_page(reader, span, after, None).map_err(|error| failed(error.to_string()))?;
        }
        let reach = reader.reach().map_err(|error| failed(error.to_string()))?;
        if let Some(why) = reach.silent(span.until) {
            self.tell(&gap(Gap { from: Some(reach.alive), until: span.until, why }))?;
        }
        Ok(())
    }

    /// Prints a record; false once nobody reads on.
    fn tell(&mut self, record: &Record) -> Result<bool, CliError> {
        if !self.is_asked_for(record) {
            return Ok(true);
        }
        if let Some(drawing) = &mut self.drawing {
            drawing.add(record);
            return Ok(true);
        }
        match self.format {
            Format::Json => {
                let line = wire::line(&HistoryLine::from(record));
                super::is_read_raw(&line.map_err(|error| CliError::Output(error.into()))?)
            }
            Format::Text => super::is_read(&self.lines.next(record)),
        }
    }

    fn is_asked_for(&self, record: &Record) -> bool {
        let (port, address) = match &record.told {
            Told::Event(event) if matches!(event.kind, WatchKind::Lost { .. }) => return true,
            Told::Event(event) => (event.port, event.address),
            Told::Clean(clean) => (clean.port, None),
            Told::Gap(_) => return true,
        };
        match (self.at.get(&port), address) {
            (None, _) => self.at.is_empty(),
            (Some(at), Some(address)) => at.is_empty() || at.iter().any(|&ip| meets(address.ip(), None, ip)),
            (Some(_), None) => true,
        }
    }
}
