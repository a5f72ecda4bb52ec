//! Capabilities, which are Linux's.

/// Nothing to give up.
pub(crate) fn keep_needed() {}

/// None.
pub(crate) fn held() -> Vec<(String, &'static str)> {
    Vec::new()
}

/// That is Linux's.
pub(crate) fn no_new_privileges() -> bool {
    false
}
