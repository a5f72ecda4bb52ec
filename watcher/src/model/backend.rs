//! How a port is observed.

use strum::{EnumString, IntoStaticStr, VariantNames};

/// How a port is observed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr, EnumString, VariantNames)]
#[strum(serialize_all = "lowercase")]
pub enum Backend {
    /// Kernel events and a kernel iterator over all descriptors.
    Ebpf,
    /// The socket table, read repeatedly.
    Poll,
    /// The host agent answered.
    Agent,
}

impl Backend {
    /// The name on the command line and in JSON.
    #[must_use]
    pub(crate) fn name(self) -> &'static str {
        self.into()
    }
}
