//! A port, and how people write one.

use std::fmt;
use std::str::FromStr;

use strum::{EnumString, IntoStaticStr, VariantNames};

/// The protocol that a port belongs to.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, IntoStaticStr, EnumString, VariantNames,
)]
#[strum(serialize_all = "lowercase")]
pub enum Protocol {
    /// TCP, including multipath TCP: both take their ports from the same table.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// All of them.
    pub(crate) const ALL: [Self; 2] = [Self::Tcp, Self::Udp];

    /// The name in JSON and in subjects.
    pub(crate) fn name(self) -> &'static str {
        self.into()
    }
}

/// A port: the same number is a different port in each protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Port {
    /// The protocol.
    pub protocol: Protocol,
    /// The number. A parsed number is 1 to 65535.
    pub number: u16,
}

impl Port {
    /// The port of OpenClaw's gateway.
    pub const GATEWAY: Self = Self::tcp(18789);
    /// In a line that concerns every port, and none of them alone: no socket can have it.
    pub const EVERY: Self = Self::tcp(0);
    /// The environment variable that sets the port.
    pub(crate) const VARIABLE: &'static str = "OPENCLAW_GATEWAY_PORT";

    /// A TCP port.
    #[must_use]
    pub const fn tcp(number: u16) -> Self {
        Self { protocol: Protocol::Tcp, number }
    }

    /// A UDP port.
    #[must_use]
    pub const fn udp(number: u16) -> Self {
        Self { protocol: Protocol::Udp, number }
    }

    /// Every port of this protocol that a socket can have.
    pub(crate) fn all(protocol: Protocol) -> impl Iterator<Item = Self> {
        (1..=u16::MAX).map(move |number| Self { protocol, number })
    }

    /// Every port that a socket can have.
    pub(crate) fn every() -> impl Iterator<Item = Self> {
        Protocol::ALL.into_iter().flat_map(Self::all)
    }

    /// The port of a named profile of OpenClaw: 20000 and a hash of the name (FNV-1a, 32 bits), modulo 40000. `None` for
    /// the default profile, and for what is not a profile's name.
    #[must_use]
    pub(crate) fn of_profile(name: &str) -> Option<Self> {
        const LONGEST: usize = 64;
        let valid = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        let name = name.trim();
        if name.is_empty() || name.len() > LONGEST || !name.bytes().all(valid) {
            return None;
        }
        if name.eq_ignore_ascii_case("default") {
            return None;
        }
        let hash = name
            .bytes()
            .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        u16::try_from(20_000 + hash % 40_000).ok().map(Self::tcp)
    }

    /// Parses a port with its protocol, as it is displayed: `53`, `53/tcp` or `53/udp`.
    ///
    /// # Errors
    /// [`PortError`], a sentence that says what is wrong.
    pub(crate) fn with_protocol(text: &str) -> Result<Self, PortError> {
        let (number, protocol) = match text.split_once('/') {
            None => (text, Protocol::Tcp),
            Some((number, protocol)) => (number, protocol.parse().map_err(|_| PortError::Protocol)?),
        };
        Ok(Self { protocol, ..number.parse()? })
    }

    /// Parses the value of [`Self::VARIABLE`]: digits, `host:port` with one colon, or `[v6]:port`.
    ///
    /// # Errors
    /// [`PortError`], a sentence that says what is wrong.
    pub(crate) fn from_variable(text: &str) -> Result<Self, PortError> {
        let text = text.trim();
        if let Some(rest) = text.strip_prefix('[') {
            let (host, port) = rest.split_once("]:").ok_or(PortError::Bracket)?;
            return if host.is_empty() { Err(PortError::Host) } else { port.parse() };
        }
        match text.split_once(':') {
            None => text.parse(),
            Some(("", _)) => Err(PortError::Host),
            Some((_, port)) if !port.contains(':') => port.parse(),
            Some(_) => Err(PortError::BareIpv6),
        }
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.protocol {
            Protocol::Tcp => write!(f, "{}", self.number),
            Protocol::Udp => write!(f, "{}/udp", self.number),
        }
    }
}

/// Why a text is not a valid port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// It is not a number from 1 to 65535 in digits.
    #[error("a port is a number from 1 to 65535")]
    Number,
    /// What follows the slash is no protocol.
    #[error("a port belongs to tcp or udp, as in 3000/tcp or 53/udp")]
    Protocol,
    /// The bracket of an address is not closed, or no port follows it.
    #[error("a bracket needs its `]:` and a port")]
    Bracket,
    /// Nothing stands before the colon, or in the brackets.
    #[error("a host is missing before the port")]
    Host,
    /// An IPv6 address without brackets.
    #[error("an IPv6 address goes in brackets: [::1]:18789")]
    BareIpv6,
}

impl FromStr for Port {
    type Err = PortError;

    /// A TCP port from 1 to 65535, in digits.
    fn from_str(text: &str) -> Result<Self, PortError> {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = if digits { text.parse().ok().filter(|&number: &u16| number != 0) } else { None };
        number.map(Self::tcp).ok_or(PortError::Number)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_form_of_the_variable_is_read() {
        for (text, port) in [("18789", 18789), ("localhost:1", 1), ("[::1]:65535", 65535), (" 80 ", 80)] {
            assert_eq!(Port::from_variable(text), Ok(Port::tcp(port)), "{text:?}");
        }
        for text in [
            "", "0", "65536", "-1", "+1", "1.5", "::1:80", "[::1]", "[::1]80", "host:", "x", "1e3", ":80",
            "[]:80",
        ] {
            assert!(Port::from_variable(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_named_profile_has_a_port_of_its_own() {
        assert_eq!(Port::of_profile("work"), Some(Port::tcp(41984)));
        for name in ["", "default", "DEFAULT", "a b", "é"] {
            assert_eq!(Port::of_profile(name), None, "{name:?}");
        }
    }

    proptest! {
        #[test]
        fn every_port_is_read_in_every_form(port in 1u16..) {
            for text in [port.to_string(), format!("h:{port}"), format!("[::]:{port}")] {
                prop_assert_eq!(Port::from_variable(&text), Ok(Port::tcp(port)));
            }
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".{0,30}") {
            if let Ok(port) = Port::from_variable(&text) {
                prop_assert!(port.number > 0 && text.contains(&port.to_string()));
            }
        }
    }
}
