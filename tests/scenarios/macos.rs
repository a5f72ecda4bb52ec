//! Rules of macOS.

use crate::{OnceRule, Rule, elsewhere};

pub(crate) const RULES: &[(&str, &[Rule])] = &[("elsewhere", elsewhere::RULES)];

pub(crate) const ONCE_RULES: &[(&str, &[OnceRule])] = &[("elsewhere", elsewhere::ONCE_RULES)];
