//! The way of the history's records to a server elsewhere.

use crate::config::NatsConfig;

/// The way of the history's records to a server elsewhere.
pub(crate) trait ExportSystem {
    /// A connection to the server.
    type Exporter: Exporter;

    /// This host's name.
    fn host_name() -> String;

    /// Whether records can be exported so, as far as that can be told without a server.
    ///
    /// # Errors
    /// Why not, as a sentence.
    fn check_export(config: &NatsConfig) -> Result<(), String>;

    /// Connects to the server.
    ///
    /// # Errors
    /// Why that can't be done, as a sentence.
    fn connect_export(config: &NatsConfig) -> impl Future<Output = Result<Self::Exporter, String>>;
}

/// A record on its way.
#[derive(Debug)]
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "only Linux exports"))]
pub(crate) struct Outgoing {
    /// Its number.
    pub(crate) number: u64,
    /// What the server files it under.
    pub(crate) subject: String,
    /// By what the server knows a repeat.
    pub(crate) id: String,
    /// The record itself.
    pub(crate) payload: String,
}

/// What became of records that were to be exported.
#[derive(Debug, Default)]
pub(crate) struct Delivery {
    /// So many, from the first on, are done with.
    pub(crate) done: usize,
    /// So many of these the server had already.
    pub(crate) repeats: u64,
    /// So many of these the server refuses, and always will.
    pub(crate) refused: u64,
    /// Why the others are not done with, if there are any.
    pub(crate) failure: Option<String>,
}

/// A connection to the server that takes the records.
pub(crate) trait Exporter {
    /// Sends the records in order, and waits until the server has confirmed that it keeps them.
    fn deliver(&self, records: &[Outgoing]) -> impl Future<Output = Delivery>;

    /// Ready once the connection is lost, with why.
    fn lost(&self) -> impl Future<Output = String>;
}
