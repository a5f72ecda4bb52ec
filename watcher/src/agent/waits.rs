//! Waits that were asked for: they wait on the loop, and look at processes off it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use super::api::unobserved;
use super::state::Agent;
use super::view::NamespaceObserver;
use crate::model::{Outcome, Port};
use crate::platform::Host;
use crate::platform::contract::{POLL_INTERVAL, Platform as _};
use crate::steps::identify::Rules;
use crate::steps::observe;
use crate::steps::prove::Plain;
use crate::wait::{self, Deadline, Looked, Looks, Until, Waited, Wanted};
use crate::wire::problem::Problem;

/// A wait, and who asked for it.
pub(super) struct Wait {
    pub(super) agent: Arc<Agent>,
    pub(super) uid: u32,
    /// The system as the caller sees it.
    pub(super) host: Host,
    pub(super) port: Port,
    /// What owners are judged by.
    pub(super) rules: Rules,
    pub(super) timeout: Duration,
}

impl Wait {
    pub(super) async fn until(self, until: Until) -> Result<Waited, Problem> {
        let observer = NamespaceObserver::new(Arc::clone(&self.agent), self.host.netns()).on_loop();
        match until {
            Until::Free => self.free(observer).await,
            Until::Listening => self.listening(observer).await,
        }
    }

    async fn free(self, mut observer: NamespaceObserver) -> Result<Waited, Problem> {
        let Self { agent, uid, host, port, rules, timeout: limit } = self;
        let (begun, host) = (Instant::now(), Arc::new(host));
        let deadline = Deadline { timeout: Some(limit), longest_pause: POLL_INTERVAL };
        let mut looks = Looks::new(port, &[], Plain::Leave, POLL_INTERVAL);
        loop {
            let of = Arc::clone(&host);
            let look = move || {
                let looked = looks.look(&*of, &mut observer);
                (looks, observer, looked)
            };
            let looked;
            (looks, observer, looked) = agent.off_loop.run(uid, look).await?;
            let longest = match looked.map_err(unobserved)? {
                Looked::Free => {
                    return Ok(Waited::told(Outcome::Free, &observer, port, begun));
                }
                Looked::Held { longest } => longest,
            };
            let Some(pause) = deadline.next_pause(begun, longest) else { break };
            observe::change(&mut observer, pause).await.map_err(unobserved)?;
        }
        let held = move || wait::still_held(&*host, &mut observer, port, &looks.seen, &rules, begun);
        agent.off_loop.run(uid, held).await?.map_err(unobserved)
    }

    async fn listening(self, mut observer: NamespaceObserver) -> Result<Waited, Problem> {
        let Self { agent, uid, host, port, rules, timeout: limit } = self;
        let (begun, host, wanted) = (Instant::now(), Arc::new(host), Arc::new(Wanted::any(rules)));
        let at_once = Deadline { timeout: Some(Duration::ZERO), longest_pause: POLL_INTERVAL };
        loop {
            // Taken before the look: what is left after it is never less.
            let left = limit.saturating_sub(begun.elapsed());
            let (host, wanted) = (Arc::clone(&host), Arc::clone(&wanted));
            let look = move || {
                let looked = wait::listening(&*host, &mut observer, port, &wanted, at_once);
                let looked = Handle::current().block_on(looked);
                (observer, looked)
            };
            let (back, looked) = agent.off_loop.run(uid, look).await?;
            observer = back;
            let looked = looked.map_err(unobserved)?;
            if looked.outcome == Outcome::Listening || left.is_zero() {
                return Ok(Waited { elapsed: begun.elapsed(), ..looked });
            }
            let left = limit.saturating_sub(begun.elapsed());
            observe::change(&mut observer, left).await.map_err(unobserved)?;
        }
    }
}
