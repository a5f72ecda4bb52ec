//! The package that a script belongs to: the nearest package.json above it.

use std::path::Path;

use serde_json::{Map, Value};

use super::files::{Fault, Files};
use super::product;

/// The package of a script. Its name is not told: who chose the file is not always who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Package {
    /// The product's.
    Own,
    /// Another one's.
    Other,
    /// No folder above the script has a package.json.
    None,
    /// There is one that can't be read.
    Hidden,
    /// There is one that is not a package's description.
    Unfit,
}

/// The package of a resolved script.
pub(super) fn nearest(files: &Files, script: &Path) -> Package {
    for folder in script.ancestors().skip(1) {
        match files.read(&folder.join("package.json")) {
            Ok(text) => return judge(&text),
            Err(Fault::Missing) => {}
            Err(Fault::Hidden) => return Package::Hidden,
            Err(Fault::Unfit) => return Package::Unfit,
        }
    }
    Package::None
}

/// By its key: where a struct is asked for, serde takes a list of its fields as well. Of several names the last one counts, as
/// for Node.
pub(super) fn judge(text: &[u8]) -> Package {
    let Ok(manifest) = serde_json::from_slice::<Map<String, Value>>(text) else { return Package::Unfit };
    match manifest.get("name") {
        Some(Value::String(name)) if product::is_name(name) => Package::Own,
        Some(Value::String(_)) | None => Package::Other,
        Some(_) => Package::Unfit,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_is_named_by_a_key_of_an_object() {
        for (text, package) in [
            (r#"{"name":"openclaw"}"#, Package::Own),
            (r#"{"name":"openclaw","name":"other"}"#, Package::Other),
            (r#"{"a":{"name":"openclaw"}}"#, Package::Other),
            ("{}", Package::Other),
            (r#"["openclaw"]"#, Package::Unfit),
            (r#"{"name":["openclaw"]}"#, Package::Unfit),
            (r#"{"name":null}"#, Package::Unfit),
            (r#""openclaw""#, Package::Unfit),
        ] {
            assert_eq!(judge(text.as_bytes()), package, "{text}");
        }
    }
}
