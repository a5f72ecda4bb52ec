//! The JSON that other programs rely on. **Keys may be added, never changed or removed**, and neither are the names of
//! values.
//!
//! Everything else in the program works with its own types. They are converted to JSON and back here, and no key is
//! written or read anywhere else. A property test in [`round_trip`] checks that the two directions agree.

pub(crate) mod agent;
pub(crate) mod answers;
pub(crate) mod doctor;
pub(crate) mod event;
pub(crate) mod export;
#[cfg(all(any(fuzzing, test), target_os = "linux"))]
pub(crate) mod fuzzing;
pub(crate) mod history;
mod names;
pub(crate) mod problem;
pub(crate) mod restart;
#[cfg(test)]
mod round_trip;
mod values;

/// A JSON value that can't be converted.
#[derive(Debug, thiserror::Error)]
#[error("{key}: {value:?} can't be read")]
pub(crate) struct WireError {
    /// The key whose value can't be read.
    key: &'static str,
    value: String,
}

/// An answer as one line of JSON, with its newline.
pub(crate) fn line(answer: &impl serde::Serialize) -> serde_json::Result<String> {
    let mut line = serde_json::to_string(answer)?;
    line.push('\n');
    Ok(line)
}
