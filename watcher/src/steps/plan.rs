//! Plan: nothing is signalled in vain. All is decided before the first signal.
//!
//! A match is ended only if that gives back at least one of its sockets. Where a process that won't be ended holds the
//! very same socket, because it inherited it or was passed it, ending the match would cost a service and free nothing.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use super::exclude::Exclusions;
use super::first_look::FirstLook;
use super::identify::{is_systemd, stands_in};
use super::owner::Owner;
use crate::model::{Reason, SocketId, Verdict};

/// What the caller wants spared, or ended as well.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sparing {
    /// Spare an owner that began less than this ago.
    pub(crate) min_age: Option<Duration>,
    /// End those that hold the very socket of a match as well, whatever they are.
    pub(crate) inherited: bool,
}

impl Sparing {
    /// Marks the owners that are spared although they match, and those that are ended although they don't.
    pub(crate) fn decide(&self, owners: &mut [Owner], first_look: &FirstLook, exclusions: &Exclusions) {
        if let Some(min_age) = self.min_age {
            spare_young(owners, min_age);
        }
        if self.inherited {
            add_heirs(owners, first_look, exclusions);
        }
        spare_vain(owners, first_look);
        spare_partly_seen(owners);
    }
}

/// Spares those whose socket may have more holders than are kept account of: who they are decides whether to end one.
fn spare_partly_seen(owners: &mut [Owner]) {
    let left_out = owners.iter().filter(|owner| owner.unheld() == Some(Reason::TooMany));
    let places: Vec<SocketAddr> =
        left_out.flat_map(|owner| &owner.holdings).map(|holding| holding.socket.address).collect();
    // One on all addresses may stand for sockets on any.
    let concerns = |address| places.iter().any(|place| *place == address || place.ip().is_unspecified());
    for owner in owners.iter_mut().filter(|owner| owner.verdict == Verdict::Match || owner.inherits) {
        if owner.holdings.iter().any(|holding| concerns(holding.socket.address)) {
            owner.spared_for = Some(Reason::TooMany);
            "its socket has more holders, or there are more like it, than are kept account of"
                .clone_into(&mut owner.why);
        }
    }
}

fn spare_young(owners: &mut [Owner], min_age: Duration) {
    for owner in owners {
        let Some(process) = &owner.process else { continue };
        // A clock that was set back makes a process of the future: it counts as new.
        let age = SystemTime::now().duration_since(process.start_time.wall).unwrap_or_default();
        if owner.verdict == Verdict::Match && age < min_age {
            owner.spared_for = Some(Reason::TooYoung);
            owner.why =
                format!("it began {} s ago, less than the {} s asked for", age.as_secs(), min_age.as_secs());
        }
    }
}

/// The sockets of an owner that are stale.
fn stale<'a>(owner: &'a Owner, first_look: &'a FirstLook) -> impl Iterator<Item = SocketId> + 'a {
    owner.holdings.iter().map(|holding| holding.socket.id()).filter(|id| first_look.sockets().contains(id))
}

/// Those that hold a stale socket of a target, whatever they are; but none that could be an ancestor of the caller's, or whose
/// identity could not be established, and no systemd: a user's own is to his processes what PID 1 is to all.
fn add_heirs(owners: &mut [Owner], first_look: &FirstLook, exclusions: &Exclusions) {
    let targets = owners.iter().filter(|owner| owner.is_target(first_look));
    let sockets: Vec<(SocketId, String)> =
        targets.flat_map(|owner| stale(owner, first_look).map(|id| (id, name(owner)))).collect();
    let may_be_ancestor = |owner: &Owner| {
        owner.process.as_ref().is_none_or(|process| exclusions.may_be_ancestor(process).is_some())
    };
    for owner in owners.iter_mut().filter(|owner| !may_be_ancestor(owner)) {
        if let Some((_, of)) = sockets.iter().find(|(id, _)| owner.holds(*id))
            && owner.verdict == Verdict::Other
            && owner.exclusion.is_none()
            && !owner.process.as_ref().is_some_and(is_systemd)
        {
            owner.inherits = true;
            owner.why = format!("it holds the socket of {of}");
        }
    }
}

/// Whether to advise that it be ended with the match whose socket it holds: it is identified as something else, and not as one
/// that holds ports for others, which would all go with it. Who asks for that all the same gets it.
pub(crate) fn may_be_advised(owner: &Owner) -> bool {
    owner.verdict == Verdict::Other && owner.process.as_ref().is_some_and(|process| !stands_in(process))
}

/// Spares each target that would free none of its sockets; to spare one can make another's end vain as well.
fn spare_vain(owners: &mut [Owner], first_look: &FirstLook) {
    loop {
        let ends = |owner: &Owner| owner.is_target(first_look) || owner.is_leaving();
        let keeper = |id: SocketId| owners.iter().find(|owner| owner.holds(id) && !ends(owner));
        let vain = owners.iter().enumerate().find_map(|(at, owner)| {
            if !owner.is_target(first_look) {
                return None;
            }
            let mut keepers = stale(owner, first_look).map(keeper);
            let first = keepers.next()??;
            keepers.all(|keeper| keeper.is_some()).then(|| (at, name(first), may_be_advised(first)))
        });
        let Some((at, keeper, is_advised)) = vain else { return };
        let owner = &mut owners[at];
        owner.spared_for = Some(Reason::Inherited);
        let advice = if is_advised { "; --inherited ends it too" } else { "" };
        owner.why =
            format!("{keeper} holds the socket of {}, so ending it frees nothing{advice}", name(owner));
    }
}

fn name(owner: &Owner) -> String {
    match (&owner.process, owner.pid) {
        (Some(process), _) => format!("{} (pid {})", process.comm, process.pid),
        (None, Some(pid)) => format!("an unreadable process (pid {pid})"),
        (None, None) => "an unseen process".to_owned(),
    }
}
