//! The five steps of the jobs: [observe] which sockets hold a port, [identify] the processes behind
//! them, [exclude] those that are never ended, [end] the rest, and [prove] that the port can be bound.
//!
//! The steps pass an [`owner`] from one to the next; the [`first_look`] decides which owners are stale, and the [`plan`] that
//! none of them is ended in vain. Where the port must not stop listening, [`keep`] takes their sockets over.

pub(crate) mod elsewhere;
pub(crate) mod end;
pub(crate) mod exclude;
pub(crate) mod first_look;
pub(crate) mod identify;
pub(crate) mod interrupt;
pub(crate) mod keep;
pub(crate) mod makers;
pub(crate) mod observe;
pub(crate) mod owner;
pub(crate) mod plan;
pub(crate) mod prove;
pub(crate) mod waiting;

#[cfg(test)]
pub(crate) mod fake;
