//! The ports that the kernel program looks at.

use std::collections::BTreeMap;

use aya::maps::{Array, Map, MapData};
use watcher_common::PORT_WORDS;

use super::load::LoadError;
use crate::model::{Port, Protocol};

/// A map of ports, in which the kernel program looks up each port: of those that are watched, or guarded.
pub(super) struct Ports {
    words: Array<MapData, u64>,
    pub(super) watched: Vec<Port>,
    /// Whether the map is kept for another command, which wants ports of its own.
    pub(super) is_kept: bool,
}

impl Ports {
    pub(super) fn new(map: MapData) -> Result<Self, LoadError> {
        Ok(Self {
            words: Map::Array(map).try_into().map_err(|error| Self::refused(&error))?,
            watched: Vec::new(),
            is_kept: false,
        })
    }

    pub(super) fn set(&mut self, ports: &[Port]) -> Result<(), LoadError> {
        let mut words: BTreeMap<u32, u64> = self.watched.iter().map(|&port| (Self::word(port), 0)).collect();
        for &port in ports {
            *words.entry(Self::word(port)).or_default() |= 1 << (port.number & 63);
        }
        for (word, bits) in words {
            self.words.set(word, bits, 0).map_err(|error| Self::refused(&error))?;
        }
        ports.clone_into(&mut self.watched);
        Ok(())
    }

    /// The map's word with a port's bit: first come those of TCP, then those of UDP.
    fn word(port: Port) -> u32 {
        let word = u32::from(port.number >> 6);
        match port.protocol {
            Protocol::Tcp => word,
            Protocol::Udp => PORT_WORDS + word,
        }
    }

    fn refused(error: &aya::maps::MapError) -> LoadError {
        LoadError::Map { name: "PORTS".to_owned(), error: error.to_string(), refusal: None }
    }
}

impl Drop for Ports {
    fn drop(&mut self) {
        if self.is_kept {
            let _ = self.set(&[]);
        }
    }
}
