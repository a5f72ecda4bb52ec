//! Ports as people write them: `3000`, `:3000`, `3000,3001`, `3000-3005`, `127.0.0.1:3000`, `[::1]:3000`,
//! `localhost:3000`, `3000/tcp`, `53/udp`.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use clap::{ArgMatches, Args, Command, FromArgMatches};

use crate::model::{Port, Protocol};

/// The ports of a command line, as they were written.
#[derive(Debug, Clone, Default)]
pub(super) struct Ports(Vec<Word>);

// As words and as flags. (A comment, because a doc comment would become the command's help.)
#[derive(Debug, Clone, Default, Args)]
struct Written {
    /// Ports: 3000, :3000, 3000,3001, 3000-3005, 127.0.0.1:3000, [::1]:3000, localhost:3000, 53/udp
    /// [default: OPENCLAW_GATEWAY_PORT, then the configuration, then OPENCLAW_PROFILE, then 18789]
    #[arg(value_name = "PORT", value_delimiter = ',')]
    words: Vec<Word>,
    /// The same as a flag; repeatable
    #[arg(short = 'p', long = "port", value_name = "PORT", value_delimiter = ',')]
    flags: Vec<Word>,
}

impl Args for Ports {
    fn augment_args(command: Command) -> Command {
        Written::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Written::augment_args_for_update(command)
    }
}

impl FromArgMatches for Ports {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let Written { words, flags } = Written::from_arg_matches(matches)?;
        let places = |name| matches.indices_of(name).into_iter().flatten();
        let words = places("words").zip(words);
        // Each value has its place on the command line, also those between commas.
        let mut all: Vec<(usize, Word)> = words.chain(places("flags").zip(flags)).collect();
        all.sort_by_key(|(place, _)| *place);
        Ok(Self(all.into_iter().map(|(_, word)| word).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Ports {
    /// Each port once, in the order asked; empty if none was named.
    pub(super) fn asked(&self) -> Vec<Asked> {
        let mut all: Vec<Asked> = Vec::new();
        let mut places: HashMap<Port, usize> = HashMap::new();
        for word in &self.0 {
            for number in word.first..=word.last {
                let port = Port { protocol: word.protocol, number };
                let place = *places.entry(port).or_insert(all.len());
                let Some(asked) = all.get_mut(place) else {
                    all.push(Asked { port, at: word.at.clone() });
                    continue;
                };
                if asked.at.is_empty() || word.at.is_empty() {
                    // Without an address, the port is meant wherever it is held.
                    asked.at.clear();
                    continue;
                }
                for ip in &word.at {
                    if !asked.at.contains(ip) {
                        asked.at.push(*ip);
                    }
                }
            }
        }
        all
    }
}

/// A port that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) port: Port,
    /// The addresses that the command is limited to; empty for all.
    pub(super) at: Vec<IpAddr>,
}

/// Whether a word is meant as a port, though it may be a wrong one.
pub(super) fn looks_like_one(word: &str) -> bool {
    word.starts_with(|first: char| first.is_ascii_digit() || "[:*".contains(first))
        || word.starts_with("localhost:")
}

/// Why the agent can't be asked about these ports, if so.
pub(super) fn not_for_agent(asked: &[Asked]) -> Option<&'static str> {
    asked.iter().any(|asked| !asked.at.is_empty()).then_some("it looks at a port on all addresses")
}

/// As people write it: each address with the port.
impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.at.is_empty() {
            return self.port.fmt(f);
        }
        let suffix = match self.port.protocol {
            Protocol::Tcp => "",
            Protocol::Udp => "/udp",
        };
        let written = self.at.iter().map(|ip| format!("{}{suffix}", SocketAddr::new(*ip, self.port.number)));
        f.write_str(&written.collect::<Vec<_>>().join(","))
    }
}

impl From<Port> for Asked {
    fn from(port: Port) -> Self {
        Self { port, at: Vec::new() }
    }
}

/// One word: a port or a range of ports, perhaps of one address.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Word {
    protocol: Protocol,
    first: u16,
    last: u16,
    at: Vec<IpAddr>,
}

/// Why a word is not a port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum WordError {
    #[error("a port is a number from 1 to 65535, as in 3000, 127.0.0.1:3000 or 3000-3005")]
    Number,
    #[error("a range goes up, as in 3000-3005")]
    Range,
    #[error("an address is localhost or a number, as in 127.0.0.1:3000 or [::1]:3000")]
    Address,
    #[error("an IPv6 address goes in brackets, as in [::1]:3000")]
    BareIpv6,
    #[error("a port belongs to tcp or udp, as in 3000/tcp or 53/udp")]
    Protocol,
}

impl FromStr for Word {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        let text = text.trim();
        let (text, protocol) = match text.rsplit_once('/') {
            None => (text, Protocol::Tcp),
            Some((rest, protocol)) => {
                (rest, protocol.to_ascii_lowercase().parse().map_err(|_| WordError::Protocol)?)
            }
        };
        let (host, numbers) = match text.rsplit_once(':') {
            None => ("", text),
            Some((host, _)) if host.contains(':') && !host.starts_with('[') => {
                return Err(WordError::BareIpv6);
            }
            Some(split) => split,
        };
        let number = |text: &str| text.parse::<Port>().map(|port| port.number).map_err(|_| WordError::Number);
        let (first, last) = match numbers.split_once('-') {
            None => (number(numbers)?, number(numbers)?),
            Some((first, last)) => (number(first)?, number(last)?),
        };
        if first > last {
            return Err(WordError::Range);
        }
        Ok(Self { protocol, first, last, at: addresses(host)? })
    }
}

/// The addresses that a host means; none for all.
fn addresses(host: &str) -> Result<Vec<IpAddr>, WordError> {
    match host {
        "" | "*" => Ok(Vec::new()),
        // Where there is no ::1, nobody holds it.
        "localhost" => Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]),
        _ => {
            let bare = match host.strip_prefix('[') {
                Some(rest) => rest.strip_suffix(']').filter(|rest| rest.contains(':')),
                None => Some(host),
            };
            let address = bare.and_then(|bare| bare.parse::<IpAddr>().ok()).ok_or(WordError::Address)?;
            Ok(vec![address.to_canonical()])
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn asked(words: &[&str]) -> Result<Vec<(u16, Vec<String>)>, WordError> {
        let words = words.iter().map(|word| word.parse()).collect::<Result<_, _>>()?;
        let all = Ports(words).asked();
        let texts = |asked: &Asked| asked.at.iter().map(ToString::to_string).collect();
        Ok(all.iter().map(|asked| (asked.port.number, texts(asked))).collect())
    }

    fn at(addresses: &[&str]) -> Vec<String> {
        addresses.iter().map(|&address| address.to_owned()).collect()
    }

    #[test]
    fn each_form_is_read() {
        for (text, expected) in [
            ("3000", (3000, at(&[]))),
            (":3000", (3000, at(&[]))),
            ("*:3000", (3000, at(&[]))),
            (" 3000 ", (3000, at(&[]))),
            ("3000/tcp", (3000, at(&[]))),
            ("127.0.0.1:3000", (3000, at(&["127.0.0.1"]))),
            ("127.0.0.1:3000/TCP", (3000, at(&["127.0.0.1"]))),
            ("[::1]:3000", (3000, at(&["::1"]))),
            ("[::ffff:127.0.0.1]:3000", (3000, at(&["127.0.0.1"]))),
            ("localhost:3000", (3000, at(&["127.0.0.1", "::1"]))),
        ] {
            assert_eq!(asked(&[text]), Ok(vec![expected]), "{text:?}");
        }
        assert_eq!(asked(&["3000-3002"]).unwrap().len(), 3);
        assert_eq!(asked(&["1-65535"]).unwrap().len(), 65_535);
    }

    #[test]
    fn what_is_not_a_port_says_why() {
        for (text, why) in [
            ("", WordError::Number),
            ("0", WordError::Number),
            ("65536", WordError::Number),
            ("-1", WordError::Number),
            ("3000-", WordError::Number),
            ("http", WordError::Number),
            ("127.0.0.1:", WordError::Number),
            ("3005-3000", WordError::Range),
            ("example.org:80", WordError::Address),
            ("[127.0.0.1]:80", WordError::Address),
            ("[::1:80", WordError::Address),
            ("::1:80", WordError::BareIpv6),
            ("53/sctp", WordError::Protocol),
        ] {
            assert_eq!(asked(&[text]), Err(why), "{text:?}");
        }
    }

    #[test]
    fn each_port_is_asked_once() {
        assert_eq!(asked(&["2", "1", "2"]).unwrap(), [(2, at(&[])), (1, at(&[]))]);
        let both = ["127.0.0.1:1", "[::1]:1", "127.0.0.1:1"];
        assert_eq!(asked(&both).unwrap(), [(1, at(&["127.0.0.1", "::1"]))]);
        assert_eq!(asked(&["127.0.0.1:1", "1"]).unwrap(), [(1, at(&[]))]);
    }

    #[test]
    fn the_same_number_is_another_port_in_each_protocol() {
        let words = ["53", "53/udp", "127.0.0.1:54/UDP", "53/tcp", "55-56/udp"];
        let words = words.iter().map(|word| word.parse().unwrap()).collect();
        let all = Ports(words).asked();
        let written: Vec<String> = all.iter().map(ToString::to_string).collect();
        assert_eq!(written, ["53", "53/udp", "127.0.0.1:54/udp", "55/udp", "56/udp"]);
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".{0,30}") {
            if let Ok(word) = text.parse::<Word>() {
                prop_assert!(word.first > 0 && word.first <= word.last);
            }
        }
    }
}
