//! A value that is written as JSON, read and written again gives the same JSON: nothing is lost on the way.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

use proptest::option::of;
use proptest::prelude::*;
use proptest::sample::select;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::answers::{CleanAnswer, OwnersAnswer, WaitAnswer};
use super::event::WatchLine;
use crate::clean::{Cleaned, EndedBefore, LeftOut};
use crate::model::{
    Action, Backend, Descriptor, Exclusion, Fd, NamedProcess, Naming, Outcome, Pod, PodName, Port, Process,
    ProcessState, ProofKind, Protocol, Reason, Socket, SocketState, StartTime, Verdict, WatchEvent,
    WatchKind,
};
use crate::platform::clock;
use crate::steps::elsewhere::GatewayElsewhere;
use crate::steps::end::OwnerOutcome;
use crate::steps::owner::{Holding, Owner, Owners};
use crate::steps::prove::Proof;
use crate::wait::Waited;

/// Every variant of an enum, from its list of names, so that a new variant is tested without a line here.
fn named<T>() -> impl Strategy<Value = T>
where
    T: strum::VariantNames + std::str::FromStr<Err: std::fmt::Debug> + std::fmt::Debug,
{
    select(T::VARIANTS).prop_map(|name| name.parse().unwrap())
}

fn port() -> impl Strategy<Value = Port> {
    (named::<Protocol>(), 1u16..).prop_map(|(protocol, number)| Port { protocol, number })
}

fn address() -> impl Strategy<Value = SocketAddr> {
    (any::<IpAddr>(), any::<u16>()).prop_map(SocketAddr::from)
}

fn wall() -> impl Strategy<Value = SystemTime> {
    (0u64..4_000_000_000_000_000).prop_map(|us| SystemTime::UNIX_EPOCH + Duration::from_micros(us))
}

fn span() -> impl Strategy<Value = Duration> {
    (0u64..1 << 50).prop_map(Duration::from_nanos)
}

fn socket() -> impl Strategy<Value = Socket> {
    (named::<Protocol>(), address(), named::<SocketState>(), of(any::<u64>()), of(any::<u32>())).prop_map(
        |(protocol, address, state, cookie, netns)| Socket {
            cookie,
            netns,
            ..Socket::new(protocol, address, state)
        },
    )
}

prop_compose! {
    fn pod()(uid in of("[0-9a-f-]{36}"), name in of(("[a-z-]{1,9}", "[a-z0-9-]{1,9}"))) -> Pod {
        Pod { uid, name: name.map(|(namespace, name)| PodName { namespace, name }) }
    }
}

fn naming() -> impl Strategy<Value = Naming> {
    prop_oneof![
        ("[a-z-]{1,9}", of(".{1,9}")).prop_map(|(runtime, name)| Naming::Known { runtime, name }),
        ".{0,20}".prop_map(Naming::Unknown),
    ]
}

prop_compose! {
    fn process()(
        pid in 1u32..,
        wall in wall(),
        uid in of(any::<u32>()),
        comm in ".{0,15}",
        argv in of(prop::collection::vec(".{0,9}", 1..4)),
        argv_cut in any::<bool>(),
        exe in of("/[a-z/]{0,20}"),
        unit in of("[a-z]{1,9}\\.service"),
        container in of("[0-9a-f]{64}"),
        pod in of(pod()),
        naming in of(naming()),
    ) -> Process {
        let start_time = StartTime { raw: 1, wall };
        Process {
            pid, start_time, parent: None, session: None, uid, effective_uid: None, user: None,
            state: ProcessState::Running, comm, argv, argv_cut, exe: exe.map(Into::into),
            exe_owner: None, cwd: None, root: None, unit,
            container, pod, naming,
        }
    }
}

prop_compose! {
    fn owner()(
        process in of(process()),
        pid in of(1u32..),
        uid in of(any::<u32>()),
        sockets in prop::collection::vec((socket(), of(any::<u32>())), 0..4),
        verdict in named::<Verdict>(),
        why in ".{0,40}",
        exclusion in of(named::<Exclusion>()),
        other_ports in of(prop::collection::vec(1u16.., 0..4)),
    ) -> Owner {
        let pid = process.as_ref().map(|process| process.pid).or(pid);
        let descriptor = |number: Option<u32>| {
            pid.map(|pid| Descriptor { pid, fd: number.map(|number| Fd { thread: pid, number }) })
        };
        let holding = |(socket, number)| Holding { socket, descriptor: descriptor(number) };
        let holdings = sockets.into_iter().map(holding).collect();
        Owner {
            process, age: None, pid, uid, holdings, other_ports, verdict, why, exclusion, spared_for: None,
            inherits: false,
        }
    }
}

prop_compose! {
    fn dealt()(
        owner in owner(),
        action in named::<Action>(),
        asked_by in of("SIG[A-Z]{3,4}"),
        ended_by in of("SIG[A-Z]{3,4}"),
        ended_after in of(span()),
        signalled in of(span()),
        forced in of(span()),
        left in prop::collection::vec(1u32.., 0..3),
    ) -> OwnerOutcome {
        let now = std::time::Instant::now();
        OwnerOutcome {
            owner, action, asked_by: asked_by.map(Into::into), ended_by: ended_by.map(Into::into), ended_after,
            signalled_at: signalled.map(|span| now + span), forced_at: forced.map(|span| now + span), left,
            starter: None,
        }
    }
}

prop_compose! {
    fn cleaned()(
        port in port(),
        outcome in named::<Outcome>(),
        backend in named::<Backend>(),
        owners in prop::collection::vec(dealt(), 0..3),
        // of those that the agent does not describe, some were ended
        left_out in prop::collection::vec(1u32.., 0..3),
        proof in of((named::<ProofKind>(), span(), of(any::<bool>()))),
        elapsed in span(),
        reason in of(named::<Reason>()),
        free_in in of(span()),
        before in of((any::<usize>(), span(), any::<usize>())),
        elsewhere in prop::collection::vec((1u32.., prop::collection::vec(1u16.., 1..4)), 0..3),
    ) -> Cleaned {
        let proof = proof.map(|(kind, after, plain_bind)| Proof { kind, after, plain_bind });
        let ended_before = before.map(|(count, within, callers)| EndedBefore { count, within, callers });
        let elsewhere = elsewhere.into_iter().map(|(pid, ports)| GatewayElsewhere { pid, ports });
        let left_out = LeftOut { count: left_out.len(), killed: left_out.into_iter().skip(1).collect() };
        Cleaned { port, outcome, reason, free_in, backend, owners, left_out, ended_before, gateways_elsewhere: elsewhere.collect(), proof, elapsed }
    }
}

fn kind() -> impl Strategy<Value = WatchKind> {
    let holder = (of(1u32..), of(".{0,15}"), of(address())).prop_map(|(pid, comm, address)| NamedProcess {
        pid,
        comm,
        address,
    });
    (named::<WatchKind>(), prop::collection::vec(holder, 0..3), of(span()), of(any::<u64>()), any::<usize>())
        .prop_map(|(mut kind, processes, span, number, count)| {
            match &mut kind {
                WatchKind::Ready { resolution } => *resolution = span,
                WatchKind::Conflict { holders, total } => (*holders, *total) = (processes, count),
                WatchKind::Lost { count, .. } => *count = number,
                WatchKind::Held
                | WatchKind::Bind
                | WatchKind::Refused
                | WatchKind::Listen
                | WatchKind::Release
                | WatchKind::Free => {}
            }
            kind
        })
}

prop_compose! {
    fn event()(
        kind in kind(),
        port in port(),
        time in wall(),
        (monotonic_ns, cookie) in (of(any::<u64>()), of(any::<u64>())),
        (pid, uid, netns) in (of(1u32..), of(any::<u32>()), of(any::<u32>())),
        (comm, thread) in (of(".{0,15}"), of(".{0,15}")),
        address in of(address()),
        backend in named::<Backend>(),
        delay in of(span()),
    ) -> WatchEvent {
        WatchEvent {
            kind, port, time, monotonic_ns, pid, uid, comm, thread, address, netns, cookie, backend, delay
        }
    }
}

/// Writes a value as JSON, reads that back into a value, and writes it again.
fn twice<D, J>(value: &D) -> (String, String)
where
    J: for<'a> From<&'a D> + Serialize + DeserializeOwned + TryInto<D, Error: std::fmt::Debug>,
{
    let first = super::line(&J::from(value)).unwrap();
    let read: J = serde_json::from_str(&first).unwrap();
    let again = super::line(&J::from(&read.try_into().unwrap())).unwrap();
    (first, again)
}

proptest! {
    #[test]
    fn owners_survive(
        port in port(),
        owners in prop::collection::vec(owner(), 0..3),
        left_out in 0usize..3,
        backend in named(),
    ) {
        let owners = Owners { owners, left_out, ..Owners::nobody(port, backend) };
        let (first, again) = twice::<_, OwnersAnswer>(&owners);
        prop_assert_eq!(first, again);
    }

    #[test]
    fn a_clean_survives(cleaned in cleaned()) {
        let (first, again) = twice::<_, CleanAnswer>(&cleaned);
        prop_assert_eq!(first, again);
    }

    #[test]
    fn a_wait_survives(
        port in port(),
        outcome in named(),
        reason in of(named()),
        backend in named(),
        elapsed in span(),
        owner in of(owner()),
    ) {
        let waited = Waited { port, outcome, reason, backend, elapsed, owner };
        let (first, again) = twice::<_, WaitAnswer>(&waited);
        prop_assert_eq!(first, again);
    }

    #[test]
    fn an_event_survives(event in event()) {
        let (first, again) = twice::<_, WatchLine>(&event);
        prop_assert_eq!(first, again);
    }

    #[test]
    fn a_moment_survives(span in span()) {
        let moment = std::time::Instant::now() + span;
        prop_assert_eq!(clock::at(clock::monotonic_ns(moment)), Some(moment));
    }
}
