//! How single values are written: moments, durations, cookies, addresses.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use super::WireError;
use crate::model::Protocol;

/// A moment, RFC 3339 in UTC with `digits` of a second's fraction.
pub(super) fn timestamp(time: SystemTime, digits: usize) -> String {
    jiff::Timestamp::try_from(time).map_or_else(|_| String::new(), |time| format!("{time:.digits$}"))
}

pub(super) fn read_timestamp(key: &'static str, text: &str) -> Result<SystemTime, WireError> {
    text.parse().map(|time: jiff::Timestamp| time.into()).map_err(|_| unreadable(key, text))
}

/// A duration in whole microseconds.
pub(super) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// A duration in whole milliseconds.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Whether the protocol is the one that need not be said.
pub(super) fn is_tcp(protocol: &Protocol) -> bool {
    *protocol == Protocol::Tcp
}

/// A socket's cookie, in hexadecimal.
pub(super) fn cookie(cookie: u64) -> String {
    format!("{cookie:#x}")
}

pub(super) fn read_cookie(key: &'static str, text: &str) -> Result<u64, WireError> {
    let digits = text.strip_prefix("0x").ok_or_else(|| unreadable(key, text))?;
    u64::from_str_radix(digits, 16).map_err(|_| unreadable(key, text))
}

pub(super) fn read_address(key: &'static str, text: &str) -> Result<SocketAddr, WireError> {
    text.parse().map_err(|_| unreadable(key, text))
}

pub(super) fn unreadable(key: &'static str, value: &str) -> WireError {
    WireError { key, value: value.to_owned() }
}
