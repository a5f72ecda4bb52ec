//! Rules of the JSON for any input: what could be read is written as something that is read as the same.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::answers::{CleanAnswer, OwnersAnswer, WaitAnswer};
use super::event::WatchLine;
use crate::clean::Cleaned;
use crate::model::WatchEvent;
use crate::steps::owner::Owners;
use crate::wait::Waited;

pub(crate) fn owners(json: &[u8]) -> Option<Owners> {
    read::<OwnersAnswer, _>(json)
}

pub(crate) fn cleaned(json: &[u8]) -> Option<Cleaned> {
    read::<CleanAnswer, _>(json)
}

pub(crate) fn waited(json: &[u8]) -> Option<Waited> {
    read::<WaitAnswer, _>(json)
}

/// An event, or several, one a line.
pub(crate) fn line(json: &[u8]) -> Vec<WatchEvent> {
    json.split_inclusive(|&byte| byte == b'\n').filter_map(read::<WatchLine, _>).collect()
}

fn read<J, D>(json: &[u8]) -> Option<D>
where
    J: for<'a> From<&'a D> + Serialize + DeserializeOwned + TryInto<D>,
{
    let value: D = serde_json::from_slice::<J>(json).ok()?.try_into().ok()?;
    let written = write::<J, D>(&value);
    let again: J = serde_json::from_str(&written).expect("what was written can be read");
    let Ok(again) = again.try_into() else { unreachable!("what was written can't be converted: {written}") };
    assert_eq!(written, write::<J, D>(&again));
    Some(value)
}

fn write<J: for<'a> From<&'a D> + Serialize, D>(value: &D) -> String {
    let line = super::line(&J::from(value)).expect("every value can be written");
    assert_eq!(line.find('\n'), Some(line.len() - 1), "one line");
    line
}
