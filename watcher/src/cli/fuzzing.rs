//! Rules of the texts for people, whatever an answer contains.

use std::time::Duration;

use super::text::{clean, owners, wait, watch};
use crate::clean::Cleaned;
use crate::model::WatchEvent;
use crate::steps::owner::Owners;
use crate::wait::{Until, Waited};

pub(crate) fn event(event: &WatchEvent) {
    let line = watch::Lines::new(true).next(event);
    is_safe(&line);
    assert_eq!(line.lines().count(), 1);
}

pub(crate) fn owners(answer: &Owners) {
    is_safe(&owners::answer(answer, &answer.port.into(), Duration::from_micros(1), None));
}

pub(crate) fn cleaned(answer: &Cleaned) {
    is_safe(&clean::answer(answer, None));
}

pub(crate) fn waited(answer: &Waited) {
    is_safe(&wait::answer(Until::Listening, answer, None));
}

/// Escape sequences must not reach a terminal, except for our own colours.
fn is_safe(text: &str) {
    const OURS: [&str; 6] = ["\x1b[0m", "\x1b[1m", "\x1b[2m", "\x1b[31m", "\x1b[32m", "\x1b[33m"];
    let text = OURS.iter().fold(text.to_owned(), |text, colour| text.replace(colour, ""));
    assert!(!text.chars().any(|char| char.is_control() && char != '\n'), "{text:?}");
}
