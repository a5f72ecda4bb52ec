//! The host agent.

use anyhow::Result;

use super::Programs;

pub(super) fn run(_programs: &Programs) -> Result<()> {
    Ok(())
}
