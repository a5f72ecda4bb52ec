//! The section of the export to NATS.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use serde::de::Deserializer;
use strum::{IntoStaticStr, VariantArray};

use super::{keep, size};
use crate::model::Record;

/// Where the history's records are sent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExportConfig {
    /// A NATS server; without the section, nowhere.
    pub(crate) nats: Option<NatsConfig>,
}

/// The NATS server that the history's records are sent to.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NatsConfig {
    /// The server, or several of one cluster.
    #[serde(deserialize_with = "urls")]
    pub(crate) url: Vec<String>,
    /// What the records are filed under.
    #[serde(default)]
    pub(crate) subject: Subject,
    /// This host's name in subjects and records; the system's own unless said.
    #[serde(default, deserialize_with = "host")]
    pub(crate) host: Option<String>,
    /// The file with the user's token and key, as `nsc` writes it.
    pub(crate) credentials: Option<PathBuf>,
    /// The certificates that the server's is checked against; the system's own unless said.
    pub(crate) ca: Option<PathBuf>,
    /// So many records wait at most while the server is away.
    #[serde(default = "spool_events", deserialize_with = "spool")]
    pub(crate) spool_events: u64,
    /// Whether command lines are sent as well.
    #[serde(default)]
    pub(crate) command_lines: bool,
    /// The stream to create if the server has none of its name; without it, one must be there.
    pub(crate) create_stream: Option<NewStream>,
}

/// A stream to create.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct NewStream {
    /// Its name.
    #[serde(deserialize_with = "stream")]
    pub(crate) name: String,
    /// How long it keeps a record.
    #[serde(deserialize_with = "keep")]
    pub(crate) max_age: Duration,
    /// How large it becomes before the oldest records go.
    #[serde(deserialize_with = "limit")]
    pub(crate) max_size: Option<u64>,
    /// On how many servers of a cluster it lies.
    pub(crate) replicas: usize,
}

impl Default for NewStream {
    fn default() -> Self {
        let max_age = Duration::from_secs(30 * 24 * 3600);
        Self { name: "gatewatch".to_owned(), max_age, max_size: None, replicas: 1 }
    }
}

fn spool_events() -> u64 {
    1_000_000
}

fn spool<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let number = i64::deserialize(deserializer)?;
    u64::try_from(number).ok().filter(|&number| number > 0).ok_or_else(|| {
        serde::de::Error::custom(format!("spool_events = {number}: at least one event must be able to wait"))
    })
}

fn limit<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    size(deserializer).map(Some)
}

fn stream<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let name = String::deserialize(deserializer)?;
    let is_fit = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_');
    if name.is_empty() || !name.chars().all(is_fit) {
        let text = format!("{name:?} is not a stream's name: it has letters, digits, - and _");
        return Err(serde::de::Error::custom(text));
    }
    Ok(name)
}

fn host<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let name = String::deserialize(deserializer)?;
    if name.is_empty() {
        return Err(serde::de::Error::custom("an empty name tells no host from another: leave `host` out"));
    }
    Ok(Some(name))
}

fn urls<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        One(String),
        Several(Vec<String>),
    }
    let urls = match Written::deserialize(deserializer)? {
        Written::One(url) => vec![url],
        Written::Several(urls) => urls,
    };
    if urls.is_empty() {
        return Err(serde::de::Error::custom("no server is named: write \"nats://192.0.2.1:4222\""));
    }
    for url in &urls {
        let rest = url.strip_prefix("nats://").or_else(|| url.strip_prefix("tls://"));
        let wrong = match rest {
            // The configuration and the status are no place for a password. It is not repeated in the message either.
            Some(rest) if rest.contains('@') => {
                "a url with a user or a password in it can be read by too many: name a file by `credentials`"
                    .to_owned()
            }
            None | Some("") => format!("{url:?} is not a server: write nats://192.0.2.1:4222, or tls://"),
            Some(_) => continue,
        };
        return Err(serde::de::Error::custom(wrong));
    }
    Ok(urls)
}

/// A part of a subject that is another for each record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
enum Place {
    Host,
    Port,
    Protocol,
    Event,
}

/// The subject of a record, with places for what differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Subject(Vec<Token>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    Place(Place),
}

impl Default for Subject {
    fn default() -> Self {
        let places = [Place::Host, Place::Port, Place::Event].map(Token::Place);
        Self([Token::Word("gatewatch".to_owned())].into_iter().chain(places).collect())
    }
}

impl<'de> Deserialize<'de> for Subject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

impl Subject {
    fn parse(text: &str) -> Result<Self, String> {
        let token = |part: &str| {
            let name = part.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
            let place = Place::VARIANTS.iter().find(|&&place| name == Some(<&'static str>::from(place)));
            let is_plain =
                |letter: char| letter.is_ascii_graphic() && !matches!(letter, '*' | '>' | '{' | '}' | '$');
            match place {
                Some(&place) => Ok(Token::Place(place)),
                None if !part.is_empty() && part.chars().all(is_plain) => Ok(Token::Word(part.to_owned())),
                None => Err(format!(
                    "{text:?} is not a subject: between its dots are words, or one of {{host}}, {{port}}, {{protocol}}, \
                     {{event}}"
                )),
            }
        };
        let tokens = text.split('.').map(token).collect::<Result<Vec<_>, _>>()?;
        // Otherwise a stream that takes these subjects could take all that the server has.
        if !matches!(tokens.first(), Some(Token::Word(_))) {
            return Err(format!("the subject {text:?} must begin with a word of its own, such as gatewatch"));
        }
        Ok(Self(tokens))
    }

    /// The subject of a record of this host.
    pub(crate) fn of(&self, host: &str, record: &Record) -> String {
        let port = record.told.port();
        let token = |token: &Token| match token {
            Token::Word(word) => word.clone(),
            Token::Place(Place::Host) => safe(host),
            Token::Place(Place::Port) => port.map_or(0, |port| port.number).to_string(),
            Token::Place(Place::Protocol) => port.map_or("any", |port| port.protocol.name()).to_owned(),
            Token::Place(Place::Event) => record.told.name().to_owned(),
        };
        self.0.iter().map(token).collect::<Vec<_>>().join(".")
    }

    /// What takes all subjects that this makes.
    #[cfg(any(test, all(target_os = "linux", feature = "nats")))]
    pub(crate) fn wildcard(&self) -> String {
        let tokens = self.0.iter().map(|token| match token {
            Token::Word(word) => word.as_str(),
            Token::Place(_) => "*",
        });
        tokens.collect::<Vec<_>>().join(".")
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, token) in self.0.iter().enumerate() {
            let dot = if number == 0 { "" } else { "." };
            match token {
                Token::Word(word) => write!(f, "{dot}{word}")?,
                Token::Place(place) => write!(f, "{dot}{{{}}}", <&'static str>::from(place))?,
            }
        }
        Ok(())
    }
}

/// A name as one part of a subject: a dot would make two of it.
fn safe(name: &str) -> String {
    let letter = |letter: char| {
        if letter.is_ascii_graphic() && !matches!(letter, '.' | '*' | '>') { letter } else { '_' }
    };
    name.chars().map(letter).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Backend, Described, LostIn, Port, Told, WatchEvent, WatchKind};

    fn record() -> Record {
        let event = WatchEvent::now(WatchKind::Listen, Port::tcp(80), Backend::Ebpf);
        Record { number: 1, told: Told::Event(event), process: Described::default(), found: false }
    }

    #[test]
    fn a_subject_is_made_of_words_and_places() {
        let subject = Subject::parse("fleet.{host}.{protocol}.{port}.{event}").unwrap();
        assert_eq!(subject.of("a.example.org", &record()), "fleet.a_example_org.tcp.80.listen");
        assert_eq!(subject.of("a > *", &record()), "fleet.a____.tcp.80.listen");
        let kind = WatchKind::Lost { count: Some(1), lost_in: LostIn::Anywhere };
        let lost = Told::Event(WatchEvent::now(kind, Port::EVERY, Backend::Agent));
        assert_eq!(subject.of("a", &Record { told: lost, ..record() }), "fleet.a.any.0.lost");
        assert_eq!(subject.wildcard(), "fleet.*.*.*.*");
        assert_eq!(subject.to_string(), "fleet.{host}.{protocol}.{port}.{event}");
        assert_eq!(Subject::parse("gatewatch.{host}.{port}.{event}").unwrap(), Subject::default());
    }

    #[test]
    fn a_subject_that_no_stream_could_take_is_refused() {
        for text in
            ["", ".", "a..b", "a.", "a b", "a.*", "a.>", "a.{who}", "a.x{host}", "$JS.API.{host}", "{host}.a"]
        {
            assert!(Subject::parse(text).is_err(), "{text:?}");
        }
    }
}
