//! The guard of a port: who may bind it.

use std::fmt;
use std::path::PathBuf;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, Visitor};

/// Whether a port is guarded, and who may bind it then.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) enum GuardConfig {
    /// It is not.
    #[default]
    Off,
    /// The users who run what has the port and matches its identity.
    Matches,
    /// Those who are named.
    Named(Named),
}

/// Who may bind a port: these users, if any are named, by these programs, if any are.
#[derive(Debug, Default, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Named {
    /// Users, by name or number.
    pub(crate) users: Vec<String>,
    /// The paths of programs.
    pub(crate) programs: Vec<PathBuf>,
}

impl<'de> Deserialize<'de> for GuardConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = GuardConfig;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("true, false, or those who may bind the port: { users = [\"openclaw\"] }")
            }

            fn visit_bool<E: Error>(self, is_on: bool) -> Result<GuardConfig, E> {
                Ok(if is_on { GuardConfig::Matches } else { GuardConfig::Off })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<GuardConfig, A::Error> {
                let named = Named::deserialize(MapAccessDeserializer::new(map))?;
                if named.users.is_empty() && named.programs.is_empty() {
                    return Err(A::Error::custom(
                        "a guard lets in somebody: name `users`, `programs`, or both",
                    ));
                }
                if let Some(program) = named.programs.iter().find(|program| !program.is_absolute()) {
                    let program = program.display();
                    return Err(A::Error::custom(format!(
                        "the program {program} needs its whole path: /usr/bin/{program}"
                    )));
                }
                Ok(GuardConfig::Named(named))
            }
        }

        deserializer.deserialize_any(Either)
    }
}
