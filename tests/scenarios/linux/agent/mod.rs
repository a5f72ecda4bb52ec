//! The host agent.

pub(super) mod events;
pub(super) mod life;
pub(super) mod serving;

use gatewatch_tests::Needs;

const ROOT: &[Needs] = &[Needs::Bpf];
