//! One argument of a command line, as it was given and as it is compared.

/// An argument, and its form for comparison: backslashes turned, trimmed, in lower case.
pub(super) struct Argument<'a> {
    pub(super) raw: &'a str,
    pub(super) normal: String,
}

impl<'a> Argument<'a> {
    /// `None` for an empty one.
    pub(super) fn new(raw: &'a str) -> Option<Self> {
        let raw = raw.trim();
        (!raw.is_empty()).then(|| Self { raw, normal: normal(raw) })
    }

    /// The program that argument 0 names: its last part, without Windows' endings.
    pub(super) fn program(&self) -> &str {
        program(&self.normal)
    }

    /// Whether it begins with a hyphen, and is more than that.
    pub(super) fn is_option(&self) -> bool {
        self.raw.starts_with('-') && self.raw.len() > 1
    }
}

/// A path or word as it is compared.
pub(super) fn normal(text: &str) -> String {
    text.replace('\\', "/").trim().to_lowercase()
}

/// The program that a path names, which is in its form for comparison.
pub(super) fn program(path: &str) -> &str {
    let name = path.rsplit('/').next().unwrap_or_default();
    [".exe", ".cmd", ".bat"].into_iter().find_map(|ending| name.strip_suffix(ending)).unwrap_or(name)
}
