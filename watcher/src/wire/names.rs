//! Enums are written in JSON by their names, which are defined beside their variants in [`crate::model`].

use std::borrow::Cow;

use serde::de::{Deserialize, Deserializer, Error, Unexpected};
use serde::{Serialize, Serializer};
use strum::VariantNames;
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::model::{
    Action, Backend, Exclusion, Outcome, ProofKind, Protocol, Reason, SocketState, Step, Verdict, WatchKind,
};

/// Describes an enum in the agent's interface, under the name `$schema`, by the names of its variants.
macro_rules! described_by_name {
    ($($enum:ty, $schema:literal, $description:literal;)*) => {$(
        impl PartialSchema for $enum {
            fn schema() -> RefOr<Schema> {
                let names = Some(<$enum>::VARIANTS.iter().copied());
                let object = ObjectBuilder::new().schema_type(Type::String).description(Some($description));
                object.enum_values(names).into()
            }
        }

        impl ToSchema for $enum {
            fn name() -> Cow<'static, str> {
                $schema.into()
            }
        }
    )*};
}

/// Implements an enum's JSON form and its description.
macro_rules! by_name {
    ($($enum:ty, $schema:literal, $description:literal;)*) => {$(
        impl Serialize for $enum {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.into())
            }
        }

        impl<'de> Deserialize<'de> for $enum {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let name = Cow::<str>::deserialize(deserializer)?;
                name.parse().map_err(|_| {
                    D::Error::invalid_value(Unexpected::Str(&name), &concat!("the name of a ", $schema))
                })
            }
        }

        described_by_name! { $enum, $schema, $description; }
    )*};
}

by_name! {
    Action, "Action", "What was done with an owner.";
    Backend, "Backend", "How a port is observed.";
    Exclusion, "Relation", "Why a process is never ended.";
    Outcome, "Outcome", "How a port was at the end.";
    ProofKind, "Means", "How the release is known.";
    Protocol, "Protocol", "What a port is a port of.";
    Reason, "Reason", "Why an outcome is what it is, where it says more than the outcome.";
    SocketState, "SocketState", "What a socket does with its port.";
    Step, "Step", "A step of a restart.";
    Verdict, "Identity", "The verdict on an owner: is it one that the caller asked to end?";
}

described_by_name! {
    WatchKind, "What", "The events of `watch`.";
}
