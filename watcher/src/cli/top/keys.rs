//! What a key does.

use std::time::SystemTime;

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::order::Order;
use super::question::{Dialog, Plan};
use super::state::State;
use crate::model::Port;

/// A page of lines.
const PAGE: isize = 10;

/// The keys, and what they do.
pub(super) const HELP: [(&str, &str); 9] = [
    ("↑ ↓ j k", "another port; PgUp, PgDn, Home, End"),
    ("Enter", "all about the port, and its timeline"),
    ("/", "filter: type a port, name, user, unit or command"),
    ("Esc", "back; in the list, no filter"),
    ("s S", "sort by the next column, or the one before"),
    ("r", "the other way round"),
    ("c", "clean the port: shows a dry run, then asks"),
    ("?", "this help"),
    ("q", "quit"),
];

/// What is to be done besides.
#[derive(Debug)]
pub(super) enum Action {
    Quit,
    /// Find out, without a signal, who would be ended.
    DryRun(Port),
    /// End those whom the dry run has shown, because a person said so.
    Clean(Plan),
    /// Give up what goes on.
    GiveUp,
}

impl State {
    /// Does what a key means.
    pub(super) fn press(&mut self, key: KeyEvent, now: SystemTime) -> Option<Action> {
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        if control && matches!(key.code, KeyCode::Char('c' | 'd')) {
            return Some(Action::Quit);
        }
        if control || key.modifiers.contains(KeyModifiers::ALT) {
            return None;
        }
        if let Some(dialog) = self.dialog.take() {
            return self.answer(dialog, key.code);
        }
        if self.is_typing {
            self.type_filter(key.code);
            return None;
        }
        if let Some(scrolled) = self.detail {
            return self.press_in_detail(scrolled, key.code, now);
        }
        self.press_in_list(key.code, now)
    }

    /// Only a `y` at the very question confirms it: any other key is a no.
    fn answer(&mut self, dialog: Dialog, key: KeyCode) -> Option<Action> {
        match dialog {
            Dialog::Ask(plan) if matches!(key, KeyCode::Char('y' | 'Y')) => {
                self.dialog = Some(Dialog::Cleaning(plan.port));
                return Some(Action::Clean(plan));
            }
            Dialog::Ask(plan) => {
                self.note = Some(format!("port {} was left alone", plan.port));
            }
            Dialog::Looking(_) if matches!(key, KeyCode::Esc | KeyCode::Char('q' | 'n')) => {
                return Some(Action::GiveUp);
            }
            // What goes on is not confirmed, nor stopped half way, by a key that was meant for something else.
            Dialog::Looking(_) | Dialog::Cleaning(_) => self.dialog = Some(dialog),
            Dialog::Answer { .. } | Dialog::Help => {}
        }
        None
    }

    fn type_filter(&mut self, key: KeyCode) {
        match key {
            KeyCode::Char(sign) => self.filter.push(sign),
            KeyCode::Backspace => _ = self.filter.pop(),
            KeyCode::Enter | KeyCode::Down | KeyCode::Up | KeyCode::Tab => self.is_typing = false,
            KeyCode::Esc => {
                self.filter.clear();
                self.is_typing = false;
            }
            _ => {}
        }
    }

    fn press_in_list(&mut self, key: KeyCode, now: SystemTime) -> Option<Action> {
        match key {
            KeyCode::Char('q') => return Some(Action::Quit),
            KeyCode::Down | KeyCode::Char('j') => self.go(1, now),
            KeyCode::Up | KeyCode::Char('k') => self.go(-1, now),
            KeyCode::PageDown => self.go(PAGE, now),
            KeyCode::PageUp => self.go(-PAGE, now),
            KeyCode::Home => self.go(isize::MIN, now),
            KeyCode::End => self.go(isize::MAX, now),
            KeyCode::Enter => {
                self.hold(now);
                self.detail = self.chosen(now).map(|_| 0);
            }
            KeyCode::Char('/') => self.is_typing = true,
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Char(key @ ('s' | 'S')) => self.sort(self.order.next(key == 'S'), now),
            KeyCode::Char('r') => {
                self.sort(Order { reversed: !self.order.reversed, ..self.order }, now);
            }
            KeyCode::Char('c') => return self.ask_to_clean(now),
            KeyCode::Char('?') => self.dialog = Some(Dialog::Help),
            _ => {}
        }
        None
    }

    fn press_in_detail(&mut self, scrolled: usize, key: KeyCode, now: SystemTime) -> Option<Action> {
        match key {
            KeyCode::Char('c') => return self.ask_to_clean(now),
            KeyCode::Char('?') => self.dialog = Some(Dialog::Help),
            KeyCode::Char('q') | KeyCode::Esc | KeyCode::Enter | KeyCode::Backspace => self.detail = None,
            KeyCode::Down | KeyCode::Char('j') => self.detail = Some(scrolled.saturating_add(1)),
            KeyCode::Up | KeyCode::Char('k') => self.detail = Some(scrolled.saturating_sub(1)),
            KeyCode::PageDown => self.detail = Some(scrolled.saturating_add(PAGE.unsigned_abs())),
            KeyCode::PageUp => self.detail = Some(scrolled.saturating_sub(PAGE.unsigned_abs())),
            KeyCode::Home => self.detail = Some(0),
            _ => {}
        }
        None
    }

    fn sort(&mut self, order: Order, now: SystemTime) {
        self.hold(now);
        self.order = order;
    }

    fn ask_to_clean(&mut self, now: SystemTime) -> Option<Action> {
        self.hold(now);
        let port = self.chosen(now)?;
        self.dialog = Some(Dialog::Looking(port));
        Some(Action::DryRun(port))
    }
}
